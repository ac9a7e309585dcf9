//! Pure: which question a method and a path are.

/// Namespaces are `None` where all are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Pods(Option<&'a str>),
    Pod(&'a str, &'a str),
    Log(&'a str, &'a str),
    Exec(&'a str, &'a str),
    Restart(&'a str, &'a str),
    /// The pod is in the body.
    UnholdPod,
    UnholdNode,
    /// Those that the cloud does not have yet.
    Events(&'a str),
    Devices(Option<&'a str>),
    Device(&'a str, &'a str),
}

pub(super) fn route<'a>(method: &str, path: &'a str) -> Option<Route<'a>> {
    let words: Vec<&str> = path.split('/').skip(1).collect();
    let is_get = method == "GET";
    match (method, words.as_slice()) {
        ("GET" | "POST", ["api", "v1", words @ ..]) => match words {
            ["pods"] if is_get => Some(Route::Pods(None)),
            ["namespaces", namespace, "pods"] if is_get => Some(Route::Pods(Some(namespace))),
            ["namespaces", namespace, "pods", name] if is_get => Some(Route::Pod(namespace, name)),
            ["namespaces", namespace, "pods", name, "log"] if is_get => Some(Route::Log(namespace, name)),
            ["namespaces", namespace, "pods", name, "exec"] if !is_get => Some(Route::Exec(namespace, name)),
            ["namespaces", namespace, "pods", name, "restart"] if !is_get => {
                Some(Route::Restart(namespace, name))
            }
            ["pods", "unhold-upgrade"] if !is_get => Some(Route::UnholdPod),
            ["nodes", "unhold-upgrade"] if !is_get => Some(Route::UnholdNode),
            ["namespaces", namespace, "events"] if is_get => Some(Route::Events(namespace)),
            _ => None,
        },
        ("GET", ["apis", "devices.kubeedge.io", "v1beta1", words @ ..]) => match words {
            ["devices"] => Some(Route::Devices(None)),
            ["namespaces", namespace, "devices"] => Some(Route::Devices(Some(namespace))),
            ["namespaces", namespace, "devices", name] => Some(Route::Device(namespace, name)),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_kubernetes() {
        let check = |method: &str, path: &str, expected: Option<Route>| {
            assert_eq!(route(method, path), expected, "{method} {path}");
        };
        check("GET", "/api/v1/pods", Some(Route::Pods(None)));
        check("GET", "/api/v1/namespaces/shop/pods", Some(Route::Pods(Some("shop"))));
        check("GET", "/api/v1/namespaces/shop/pods/web", Some(Route::Pod("shop", "web")));
        check("GET", "/api/v1/namespaces/shop/pods/web/log", Some(Route::Log("shop", "web")));
        check("GET", "/api/v1/namespaces/shop/events", Some(Route::Events("shop")));
        check("POST", "/api/v1/namespaces/shop/pods/web/exec", Some(Route::Exec("shop", "web")));
        check("POST", "/api/v1/namespaces/shop/pods/web/restart", Some(Route::Restart("shop", "web")));
        check("POST", "/api/v1/pods/unhold-upgrade", Some(Route::UnholdPod));
        check("POST", "/api/v1/nodes/unhold-upgrade", Some(Route::UnholdNode));
        check("GET", "/api/v1/nodes/unhold-upgrade", None);
        let devices = "/apis/devices.kubeedge.io/v1beta1";
        check("GET", &format!("{devices}/devices"), Some(Route::Devices(None)));
        check("GET", &format!("{devices}/namespaces/plant/devices/a"), Some(Route::Device("plant", "a")));
        check("GET", "/api/v1/namespaces/shop/pods/web/exec", None);
        check("POST", "/api/v1/pods", None);
        check("DELETE", "/api/v1/namespaces/shop/pods/web", None);
        check("GET", "/api/v1/namespaces/shop/secrets/web", None);
        check("GET", "/", None);
        check("GET", "", None);
    }
}
