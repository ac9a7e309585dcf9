//! Pure: which of the kubelet's routes a method and a path are, and who may ask them.

/// What is asked for. Names are as they stand in the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Health,
    Pods,
    RunningPods,
    Summary,
    Metrics,
    MetricsResource,
    MetricsCadvisor,
    MetricsProbes,
    Logs(ContainerPath<'a>),
    Exec(ContainerPath<'a>),
    Attach(ContainerPath<'a>),
    Run(ContainerPath<'a>),
    PortForward(PodPath<'a>),
}

/// A pod in a path. Without a uid whichever has the name is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PodPath<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: Option<&'a str>,
}

/// A container in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContainerPath<'a> {
    pub(super) pod: PodPath<'a>,
    pub(super) container: &'a str,
}

/// Why a request is none of the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    Path,
    Method,
}

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entrance {
    /// Over a stream of this process: the cloud has seen who asks.
    Handed,
    /// The same, when there are too many.
    Full,
    /// Over the loopback port: any program of this machine.
    Loopback,
}

impl Route<'_> {
    /// What reads and writes containers is not for whoever can open a port: the loopback entrance asks for no credentials.
    pub(super) fn is_open_at(&self, entrance: Entrance) -> bool {
        match self {
            Self::Logs(_) | Self::Exec(_) | Self::Attach(_) | Self::Run(_) | Self::PortForward(_) => {
                entrance != Entrance::Loopback
            }
            Self::Health
            | Self::Pods
            | Self::RunningPods
            | Self::Summary
            | Self::Metrics
            | Self::MetricsResource
            | Self::MetricsCadvisor
            | Self::MetricsProbes => true,
        }
    }
}

pub(super) fn route<'a>(method: &str, path: &'a str) -> Result<Route<'a>, NoRoute> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let words: Vec<&str> = path.split('/').skip(1).collect();
    let pod = |namespace, name, uid| PodPath { namespace, name, uid };
    let route = match words.as_slice() {
        [_, rest @ ..] if rest.iter().any(|word| word.is_empty()) => return Err(NoRoute::Path),
        ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] => Route::Health,
        ["pods"] => Route::Pods,
        ["runningpods"] => Route::RunningPods,
        ["stats", "summary"] => Route::Summary,
        ["metrics"] => Route::Metrics,
        ["metrics", "resource"] => Route::MetricsResource,
        ["metrics", "cadvisor"] => Route::MetricsCadvisor,
        ["metrics", "probes"] => Route::MetricsProbes,
        ["containerLogs", namespace, name, container] => {
            Route::Logs(ContainerPath { pod: pod(namespace, name, None), container })
        }
        ["portForward", namespace, name] => Route::PortForward(pod(namespace, name, None)),
        ["portForward", namespace, name, uid] => Route::PortForward(pod(namespace, name, Some(uid))),
        [word @ ("exec" | "attach" | "run"), namespace, name, rest @ ..] => {
            let (uid, container) = match rest {
                [container] => (None, container),
                [uid, container] => (Some(*uid), container),
                _ => return Err(NoRoute::Path),
            };
            let target = ContainerPath { pod: pod(namespace, name, uid), container };
            match *word {
                "exec" => Route::Exec(target),
                "attach" => Route::Attach(target),
                _ => Route::Run(target),
            }
        }
        _ => return Err(NoRoute::Path),
    };
    let is_allowed = match route {
        // WebSocket clients can only GET.
        Route::Exec(_) | Route::Attach(_) | Route::PortForward(_) => matches!(method, "GET" | "POST"),
        Route::Run(_) => method == "POST",
        _ => method == "GET",
    };
    if is_allowed { Ok(route) } else { Err(NoRoute::Method) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, expected: Result<Route, NoRoute>) {
        assert_eq!(route(method, path), expected, "{method} {path}");
    }

    #[test]
    fn paths_are_the_kubelets() {
        let pod = PodPath { namespace: "shop", name: "web", uid: None };
        let with_uid = PodPath { uid: Some("u1"), ..pod };
        let app = ContainerPath { pod, container: "app" };
        let app_with_uid = ContainerPath { pod: with_uid, container: "app" };
        check("GET", "/healthz", Ok(Route::Health));
        check("GET", "/healthz/syncloop", Ok(Route::Health));
        check("GET", "/pods", Ok(Route::Pods));
        check("GET", "/pods/", Ok(Route::Pods));
        check("GET", "/runningpods/", Ok(Route::RunningPods));
        check("GET", "/stats/summary", Ok(Route::Summary));
        check("GET", "/metrics", Ok(Route::Metrics));
        check("GET", "/metrics/resource", Ok(Route::MetricsResource));
        check("GET", "/metrics/cadvisor", Ok(Route::MetricsCadvisor));
        check("GET", "/metrics/probes", Ok(Route::MetricsProbes));
        check("GET", "/containerLogs/shop/web/app", Ok(Route::Logs(app)));
        for method in ["GET", "POST"] {
            check(method, "/exec/shop/web/app", Ok(Route::Exec(app)));
            check(method, "/exec/shop/web/u1/app", Ok(Route::Exec(app_with_uid)));
            check(method, "/attach/shop/web/app", Ok(Route::Attach(app)));
            check(method, "/attach/shop/web/u1/app", Ok(Route::Attach(app_with_uid)));
            check(method, "/portForward/shop/web", Ok(Route::PortForward(pod)));
            check(method, "/portForward/shop/web/u1", Ok(Route::PortForward(with_uid)));
        }
        check("POST", "/run/shop/web/app", Ok(Route::Run(app)));
        check("POST", "/run/shop/web/u1/app", Ok(Route::Run(app_with_uid)));
    }

    #[test]
    fn everything_else_is_no_route() {
        for path in [
            "",
            "/",
            "//",
            "/configz",
            "/debug/pprof",
            "/logs/",
            "/stats",
            "/containerLogs/shop/web",
            "/containerLogs/shop/web/app/x",
            "/containerLogs//web/app",
            "/exec/shop/web",
            "/exec/shop/web/u1/app/x",
            "/exec/shop//app",
            "/portForward/shop",
            "/portForward/shop/web/u1/x",
            "/Exec/shop/web/app",
        ] {
            check("GET", path, Err(NoRoute::Path));
        }
        check("POST", "/pods", Err(NoRoute::Method));
        check("PUT", "/exec/shop/web/app", Err(NoRoute::Method));
        check("GET", "/run/shop/web/app", Err(NoRoute::Method));
        check("POST", "/containerLogs/shop/web/app", Err(NoRoute::Method));
    }

    #[test]
    fn containers_are_not_for_the_loopback_door() {
        let check = |method, path, is_open| {
            let route = route(method, path).unwrap();
            assert!(route.is_open_at(Entrance::Handed), "{path}");
            assert_eq!(route.is_open_at(Entrance::Loopback), is_open, "{path}");
        };
        for path in ["/exec/s/w/a", "/attach/s/w/a", "/portForward/s/w", "/containerLogs/s/w/a"] {
            check("GET", path, false);
        }
        check("POST", "/run/s/w/a", false);
        for path in ["/healthz", "/pods", "/runningpods", "/stats/summary", "/metrics", "/metrics/resource"] {
            check("GET", path, true);
        }
    }
}
