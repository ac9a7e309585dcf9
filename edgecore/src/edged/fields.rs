//! What a pod may know about itself and its node: `fieldRef` and `resourceFieldRef` as text. Pure.
//!
//! One place for environment variables and downward API files, so that both show the same text.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::{Amount, amount_in};

/// What is not in the Pod object but may be asked for by it.
#[derive(Clone, Debug, Default)]
pub struct PodFacts {
    /// This machine as a Node.
    pub node_name: String,
    /// The node's addresses, the main one first.
    pub host_ips: Vec<IpAddr>,
    /// The pod's addresses, the main one first; the node's on its network; empty before there is a sandbox.
    pub pod_ips: Vec<IpAddr>,
    /// Domain of the cluster's services, for pods with a subdomain.
    pub cluster_domain: String,
    /// What the node can give to pods: stands in for limits that a container does not set.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Variables that Kubernetes adds for services; the container's own win over them.
    pub service_env: Vec<(String, String)>,
}

/// The pod asks for something that cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FieldError(pub String);

/// The value of a `fieldRef` path. A label or annotation that is not there is the empty text.
pub fn field(pod: &Pod, facts: &PodFacts, path: &str) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => meta.labels.as_ref(),
            "metadata.annotations" => meta.annotations.as_ref(),
            _ => return Err(FieldError(format!("fieldPath {path:?} does not support subscript"))),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => pairs(meta.labels.as_ref()),
        "metadata.annotations" => pairs(meta.annotations.as_ref()),
        "spec.nodeName" => match spec.and_then(|spec| spec.node_name.clone()) {
            Some(name) if !name.is_empty() => name,
            _ => facts.node_name.clone(),
        },
        "spec.serviceAccountName" => {
            spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default()
        }
        "status.podIP" => first(&facts.pod_ips),
        "status.podIPs" => all(&facts.pod_ips),
        "status.hostIP" => first(&facts.host_ips),
        "status.hostIPs" => all(&facts.host_ips),
        _ => return Err(FieldError(format!("unsupported fieldPath: {path}"))),
    })
}

/// The value of a `resourceFieldRef`; `container` is the one that asks, for when it names none.
pub fn resource_field(
    pod: &Pod,
    facts: &PodFacts,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, FieldError> {
    let asked = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match asked {
        Some(name) => containers(pod).find(|container| container.name == name),
        None => container,
    }
    .ok_or_else(|| FieldError(format!("container {} not found", asked.unwrap_or_default())))?;
    let unsupported = || FieldError(format!("unsupported container resource : {}", selector.resource));
    let (side, resource) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    if !matches!(resource, "cpu" | "memory" | "ephemeral-storage") && !resource.starts_with("hugepages-") {
        return Err(unsupported());
    }
    let resources = container.resources.as_ref();
    let limit =
        resources.and_then(|r| amount_in(r.limits.as_ref(), resource)).filter(|limit| !limit.is_zero());
    let amount = match side {
        "limits" if resource.starts_with("hugepages-") => limit,
        "limits" => limit.or_else(|| amount_in(Some(&facts.allocatable), resource)),
        "requests" => resources.and_then(|r| amount_in(r.requests.as_ref(), resource)),
        _ => return Err(unsupported()),
    };
    let divisor = match &selector.divisor {
        Some(divisor) => Amount::parse(&divisor.0).map_err(|error| FieldError(error.to_string()))?,
        None => Amount::ZERO,
    };
    Ok(amount.unwrap_or(Amount::ZERO).in_units_of(divisor).to_string())
}

/// `metadata.labels['key']` as its parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
}

fn first(addresses: &[IpAddr]) -> String {
    addresses.first().map(ToString::to_string).unwrap_or_default()
}

fn all(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// One `key="value"` a line, sorted, without a last line end.
fn pairs(map: Option<&BTreeMap<String, String>>) -> String {
    let lines = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A text in quotes with escapes as Go's `%q` writes them: applications parse these files with Go's rules.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\'' => out.push(c),
            c if printable(c) => out.push(c),
            c if u32::from(c) < 0x80 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// The standard library's own notion, which escapes what has no shape of its own. A combining mark has one after a
/// letter, hence the letter in front.
fn printable(c: char) -> bool {
    !format!("a{c}").escape_debug().skip(1).any(|c| c == '\\')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "web", "namespace": "shop", "uid": "u-1",
                "labels": {"b": "two", "a": "o\"n\\e"},
                "annotations": {"note": "l1\nl2\tx\u{1}", "é": "ü\u{200b}\u{301}'\u{1F600}"}
            },
            "spec": {
                "serviceAccountName": "robot",
                "containers": [
                    {"name": "app", "resources": {
                        "limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "250m"}}},
                    {"name": "bare"}
                ],
                "initContainers": [{"name": "init", "resources": {"limits": {"cpu": "3"}}}]
            }
        }))
        .unwrap()
    }

    fn facts() -> PodFacts {
        let quantity = |text: &str| Quantity(text.to_owned());
        PodFacts {
            node_name: "edge-1".into(),
            host_ips: vec!["10.0.0.9".parse().unwrap()],
            pod_ips: vec!["10.1.0.4".parse().unwrap(), "fd00::4".parse().unwrap()],
            allocatable: [("cpu", "4"), ("memory", "2Gi"), ("ephemeral-storage", "10G")]
                .map(|(key, value)| (key.to_owned(), quantity(value)))
                .into(),
            ..PodFacts::default()
        }
    }

    #[test]
    fn fields() {
        let check = |path: &str, expected: Result<&str, &str>| {
            let value = field(&pod(), &facts(), path).map_err(|error| error.to_string());
            assert_eq!(value.as_deref().map_err(String::as_str), expected, "{path}");
        };
        check("metadata.name", Ok("web"));
        check("metadata.namespace", Ok("shop"));
        check("metadata.uid", Ok("u-1"));
        check("metadata.labels", Ok("a=\"o\\\"n\\\\e\"\nb=\"two\""));
        check("metadata.annotations", Ok("note=\"l1\\nl2\\tx\\x01\"\né=\"ü\\u200b\u{301}'\u{1F600}\""));
        check("metadata.labels['b']", Ok("two"));
        check("metadata.labels['none']", Ok(""));
        check("metadata.annotations['note']", Ok("l1\nl2\tx\u{1}"));
        check("spec.nodeName", Ok("edge-1"));
        check("spec.serviceAccountName", Ok("robot"));
        check("status.podIP", Ok("10.1.0.4"));
        check("status.podIPs", Ok("10.1.0.4,fd00::4"));
        check("status.hostIP", Ok("10.0.0.9"));
        check("status.hostIPs", Ok("10.0.0.9"));
        check("spec.schedulerName", Err("unsupported fieldPath: spec.schedulerName"));
        check("metadata.name['x']", Err("fieldPath \"metadata.name['x']\" does not support subscript"));
    }

    #[test]
    fn resources() {
        let check = |selector: Value, expected: Result<&str, &str>| {
            let pod = pod();
            let asking = pod.spec.as_ref().unwrap().containers.first();
            let parsed = serde_json::from_value(selector.clone()).unwrap();
            let value = resource_field(&pod, &facts(), asking, &parsed).map_err(|error| error.to_string());
            assert_eq!(value.as_deref().map_err(String::as_str), expected, "{selector}");
        };
        check(json!({"resource": "limits.cpu"}), Ok("2"));
        check(json!({"resource": "limits.cpu", "divisor": "1m"}), Ok("1500"));
        check(json!({"resource": "limits.cpu", "divisor": "0"}), Ok("2"));
        check(json!({"resource": "requests.cpu", "divisor": "1m"}), Ok("250"));
        check(json!({"resource": "limits.memory", "divisor": "1Mi"}), Ok("64"));
        check(json!({"resource": "requests.memory"}), Ok("0"));
        check(json!({"resource": "limits.ephemeral-storage"}), Ok("10000000000"));
        check(json!({"resource": "limits.hugepages-2Mi"}), Ok("0"));
        check(json!({"containerName": "bare", "resource": "limits.cpu"}), Ok("4"));
        check(json!({"containerName": "init", "resource": "limits.cpu"}), Ok("3"));
        check(json!({"containerName": "gone", "resource": "limits.cpu"}), Err("container gone not found"));
        check(json!({"resource": "limits.gpu"}), Err("unsupported container resource : limits.gpu"));
        check(json!({"resource": "cpu"}), Err("unsupported container resource : cpu"));
    }
}
