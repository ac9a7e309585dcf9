//! Pure: what a request's path is about, what its sender must be allowed, and which node it goes to.
//!
//! A path that names a pod goes to the pod's node, one that does not to the node of the port it came in by. Called by
//! `connection.rs`.

use ke_wire::{Namespace, NodeName, ObjectName};

use crate::kubelet_endpoints::Entrance;

/// What a path is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A pod, by name.
    Pod(Namespace, ObjectName),
    /// The node itself.
    Node,
}

/// A path that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// What it is about.
    pub asked: Asked,
    /// The subresources of `nodes`, one of which its sender must be allowed: the kubelet's own rules.
    pub rights: &'static [&'static str],
    /// Whether a kubelet goes on in another protocol there.
    pub may_upgrade: bool,
}

/// Why a request is not for any node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotHere {
    /// The path could be read in two ways.
    #[error("the path is not in its plain form: no empty, \".\" or \"..\" parts, and no %2F")]
    Path,
    /// Too short.
    #[error("the path must name namespace and pod")]
    NoPod,
    /// Not on any edge node.
    #[error("no pod {0} in namespace {1} is on an edge node")]
    Unknown(ObjectName, Namespace),
    /// Another node's.
    #[error("pod {0} in namespace {1} is on node {2}, not on {3}")]
    Elsewhere(ObjectName, Namespace, NodeName, NodeName),
    /// Node-level, by the shared port.
    #[error(
        "this port is shared by several nodes and serves paths that name a pod; a node gets a port of its own while there \
         are free ones in modules.cloudStream.kubeletPorts"
    )]
    WhichNode,
}

/// Reads a path.
pub(super) fn route(path: &str) -> Result<Route, NotHere> {
    let mut parts = path.strip_prefix('/').ok_or(NotHere::Path)?.split('/').peekable();
    let first = parts.next().unwrap_or_default();
    let mut names = Vec::new();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        if !is_plain(part, is_last) {
            return Err(NotHere::Path);
        }
        names.push(part);
    }
    // Which rights it takes hangs on this one.
    if first.contains('%') || matches!(first, "." | "..") || (first.is_empty() && !names.is_empty()) {
        return Err(NotHere::Path);
    }
    let is_about_pod =
        matches!(first, "containerLogs" | "exec" | "attach" | "run" | "portForward" | "checkpoint");
    let asked = if is_about_pod {
        let (Some(namespace), Some(pod)) = (names.first(), names.get(1)) else { return Err(NotHere::NoPod) };
        let (Ok(namespace), Ok(pod)) = (namespace.parse(), pod.parse()) else { return Err(NotHere::NoPod) };
        Asked::Pod(namespace, pod)
    } else {
        Asked::Node
    };
    let may_upgrade = matches!(first, "exec" | "attach" | "portForward");
    Ok(Route { asked, rights: rights(first), may_upgrade })
}

fn rights(first: &str) -> &'static [&'static str] {
    match first {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "statusz" => &["statusz"],
        "flagz" => &["configz"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

/// The verb of the Kubernetes API that a method stands for; the kubelet's own rules.
pub(super) fn verb(method: &str) -> &'static str {
    match method {
        "GET" => "get",
        "POST" => "create",
        "PUT" => "update",
        "PATCH" => "patch",
        "DELETE" => "delete",
        _ => "",
    }
}

/// Which node it is for. `node_of`: where a pod is, if on an edge node.
pub(super) fn node(
    entrance: &Entrance,
    asked: &Asked,
    node_of: impl FnOnce(&Namespace, &ObjectName) -> Option<NodeName>,
) -> Result<NodeName, NotHere> {
    match (asked, entrance) {
        (Asked::Node, Entrance::Of(node)) => Ok(node.clone()),
        (Asked::Node, Entrance::Shared) => Err(NotHere::WhichNode),
        (Asked::Pod(namespace, pod), entrance) => {
            let (namespace, pod) = (namespace.clone(), pod.clone());
            match (node_of(&namespace, &pod), entrance) {
                (None, _) => Err(NotHere::Unknown(pod, namespace)),
                (Some(node), Entrance::Of(other)) if node != *other => {
                    Err(NotHere::Elsewhere(pod, namespace, node, other.clone()))
                }
                (Some(node), _) => Ok(node),
            }
        }
    }
}

/// Whether every program reads this part of a path alike.
fn is_plain(part: &str, is_last: bool) -> bool {
    let mut decoded = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else { return false };
        decoded.push(u8::try_from(high.saturating_mul(16).saturating_add(low)).unwrap_or_default());
    }
    let is_odd = |byte: &u8| matches!(byte, b'/' | b'\\' | b'%') || byte.is_ascii_control();
    (is_last || !decoded.is_empty()) && decoded != b"." && decoded != b".." && !decoded.iter().any(is_odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_path_is_about() {
        let check = |path: &str, expected: Result<(&str, &[&str]), NotHere>| {
            let got = route(path).map(|route| {
                let about = match &route.asked {
                    Asked::Pod(namespace, pod) => format!("{namespace}/{pod}"),
                    Asked::Node => String::new(),
                };
                (about, route.rights)
            });
            assert_eq!(got, expected.map(|(about, rights)| (about.to_owned(), rights)), "{path}");
        };
        check("/containerLogs/shop/web-1/main", Ok(("shop/web-1", &["proxy"])));
        check("/exec/shop/web/main", Ok(("shop/web", &["proxy"])));
        check("/exec/shop/web/c7a5-uid/main", Ok(("shop/web", &["proxy"])));
        check("/attach/shop/web/main", Ok(("shop/web", &["proxy"])));
        check("/run/shop/web/main", Ok(("shop/web", &["proxy"])));
        check("/portForward/shop/web", Ok(("shop/web", &["proxy"])));
        check("/checkpoint/shop/web/main", Ok(("shop/web", &["checkpoint"])));
        check("/stats/summary", Ok(("", &["stats"])));
        check("/metrics", Ok(("", &["metrics"])));
        check("/metrics/resource", Ok(("", &["metrics"])));
        check("/logs/kube%20proxy.log", Ok(("", &["log"])));
        check("/logs/", Ok(("", &["log"])));
        check("/pods", Ok(("", &["pods", "proxy"])));
        check("/runningpods/", Ok(("", &["pods", "proxy"])));
        check("/healthz", Ok(("", &["healthz", "proxy"])));
        check("/configz", Ok(("", &["configz", "proxy"])));
        check("/", Ok(("", &["proxy"])));
        // Not those, however much they look so.
        check("/metricsx", Ok(("", &["proxy"])));
        check("/Stats/summary", Ok(("", &["proxy"])));
        for short in ["/exec", "/exec/shop", "/exec/shop/", "/exec/Shop/web/c", "/portForward/shop/a%20b"] {
            check(short, Err(NotHere::NoPod));
        }
        for double in [
            "",
            "stats",
            "//stats",
            "/stats/../exec/shop/web/c",
            "/stats/%2e%2E/exec/shop/web/c",
            "/stats/.",
            "/stats//summary",
            "/st%61ts/summary",
            "/..",
            "/stats/a%2Fb",
            "/stats/a%5cb",
            "/stats/a%252e",
            "/stats/a%0a",
            "/stats/%2",
        ] {
            check(double, Err(NotHere::Path));
        }
    }

    #[test]
    fn which_node() {
        let on = |node: &str| Entrance::Of(node.parse().unwrap());
        let pods = [("web", "edge-1"), ("db", "edge-2")];
        let check = |entrance: &Entrance, path: &str, expected: Result<&str, &str>| {
            let got = node(entrance, &route(path).unwrap().asked, |namespace, pod| {
                let found =
                    pods.iter().find(|(name, _)| *name == pod.as_str() && namespace.as_str() == "shop");
                found.map(|(_, node)| node.parse().unwrap())
            });
            let got = got.map(|node| node.to_string()).map_err(|why| why.to_string());
            match expected {
                Ok(node) => assert_eq!(got.as_deref(), Ok(node), "{path}"),
                Err(part) => assert!(got.as_ref().is_err_and(|why| why.contains(part)), "{path}: {got:?}"),
            }
        };
        check(&on("edge-1"), "/exec/shop/web/c", Ok("edge-1"));
        check(&Entrance::Shared, "/exec/shop/db/c", Ok("edge-2"));
        check(
            &on("edge-1"),
            "/exec/shop/db/c",
            Err("pod db in namespace shop is on node edge-2, not on edge-1"),
        );
        check(&on("edge-1"), "/exec/other/web/c", Err("no pod web in namespace other"));
        check(&Entrance::Shared, "/containerLogs/shop/none/c", Err("no pod none in namespace shop"));
        check(&on("edge-2"), "/stats/summary", Ok("edge-2"));
        check(&Entrance::Shared, "/stats/summary", Err("modules.cloudStream.kubeletPorts"));
    }
}
