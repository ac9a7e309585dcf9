//! Pure: the text of one file to the Pod in it, or the sentence that says why there is none.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use ke_wire::{Namespace, NodeName, ObjectName};
use serde_json::Value;

use super::references::first_reference;
use super::{FROM_FILE, HASH, MIRROR, SEEN, SOURCE, defaults};
use crate::quantity::amount_in;
use crate::resource_name::is_extended_resource;

/// A Pod of a file.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) pod: Pod,
    /// Fields that no Pod has: most likely misspelt.
    pub(super) unknown: Vec<String>,
}

/// The Pod in this text, as this node runs it. `seen`: when the file was written.
pub(super) fn read(text: &[u8], node: &NodeName, seen: &str) -> Result<Read, String> {
    let mut value: Value = serde_saphyr::from_slice(text).map_err(|error| {
        format!("it is neither YAML nor JSON with one Pod in it: {}", first_line(&error.to_string()))
    })?;
    amounts_as_text(&mut value);
    let word = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    if (word("apiVersion"), word("kind")) != ("v1", "Pod") {
        return Err(format!(
            "it holds apiVersion {:?}, kind {:?}; a static pod has apiVersion \"v1\", kind \"Pod\"",
            word("apiVersion"),
            word("kind")
        ));
    }
    let mut pod: Pod = serde_json::from_value(value.clone())
        .map_err(|error| format!("it is no Pod: {}", first_line(&error.to_string())))?;
    let mut unknown = Vec::new();
    compare(&value, &serde_json::to_value(&pod).unwrap_or_default(), "", &mut unknown);
    unknown.sort();
    // What the file says, not how: comments, blanks and the order of keys change nothing.
    let uid = digest(format!("{node} {}", in_order(&value)).as_bytes());
    pod.metadata = metadata(&pod.metadata, node, &uid, seen)?;
    pod.status = None;
    let spec = pod.spec.as_mut().ok_or("it has no spec")?;
    check(spec)?;
    if let Some(named) = first_reference(spec) {
        return Err(format!(
            "{named}: a static pod runs without the cluster's API and may name nothing in it; take a file, an emptyDir or a hostPath instead"
        ));
    }
    spec.node_name = Some(node.to_string());
    defaults::fill(spec);
    Ok(Read { pod, unknown })
}

fn metadata(given: &ObjectMeta, node: &NodeName, uid: &str, seen: &str) -> Result<ObjectMeta, String> {
    let name = given.name.as_deref().unwrap_or_default();
    if name.is_empty() {
        return Err("metadata.name is missing".into());
    }
    let name = format!("{name}-{node}");
    let namespace = given.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    let bad = |field: &str, why: String| format!("metadata.{field}: {why}");
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(bad(
            "name",
            format!("{name:?}: expected a-z, 0-9, '-' and '.', at most 253 with the node's name"),
        ));
    }
    name.parse::<ObjectName>().map_err(|error| bad("name", error.to_string()))?;
    namespace.parse::<Namespace>().map_err(|error| bad("namespace", error.to_string()))?;
    let mut annotations = given.annotations.clone().unwrap_or_default();
    annotations.remove(MIRROR);
    for (key, value) in [(SOURCE, FROM_FILE), (HASH, uid), (SEEN, seen)] {
        annotations.insert(key.to_owned(), value.to_owned());
    }
    // Everything else in it is the API server's to say.
    Ok(ObjectMeta {
        name: Some(name),
        namespace: Some(namespace.to_owned()),
        uid: Some(uid.to_owned()),
        labels: given.labels.clone(),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    })
}

/// What nothing else here would find out, and the API server would refuse the mirror for.
fn check(spec: &PodSpec) -> Result<(), String> {
    if spec.containers.is_empty() {
        return Err("spec.containers is empty".into());
    }
    if spec.ephemeral_containers.is_some() {
        return Err("spec.ephemeralContainers: a static pod cannot be debugged that way".into());
    }
    match spec.restart_policy.as_deref() {
        None | Some("Always" | "OnFailure" | "Never") => {}
        Some(other) => {
            return Err(format!("spec.restartPolicy: found {other:?}, expected Always, OnFailure or Never"));
        }
    }
    let volumes: BTreeSet<&str> = spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    let mut names = BTreeSet::new();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let name = container.name.as_str();
        if !is_label(name) {
            return Err(format!(
                "container name {name:?}: expected at most 63 of a-z, 0-9 and '-', with no '-' at an end"
            ));
        }
        if !names.insert(name) {
            return Err(format!("two containers are named {name}"));
        }
        check_container(container, &volumes)?;
    }
    Ok(())
}

fn check_container(container: &Container, volumes: &BTreeSet<&str>) -> Result<(), String> {
    let name = &container.name;
    if container.image.as_deref().unwrap_or_default().trim().is_empty() {
        return Err(format!("container {name} has no image"));
    }
    for mount in container.volume_mounts.iter().flatten() {
        if !volumes.contains(mount.name.as_str()) {
            return Err(format!(
                "container {name} mounts volume {:?}, which spec.volumes does not have",
                mount.name
            ));
        }
    }
    let resources = container.resources.as_ref();
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    // Devices are handed out by the limit.
    let is_other = |resource: &&String| {
        is_extended_resource(resource) && amount_in(requests, resource) != amount_in(limits, resource)
    };
    if let Some(resource) = requests.into_iter().flat_map(|list| list.keys()).find(is_other) {
        return Err(format!(
            "container {name}: resources.requests asks for {resource}, and resources.limits does not for as much: write the \
             amount into limits"
        ));
    }
    Ok(())
}

fn is_label(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Fields of `given` that `kept`, the same Pod read and written again, does not have. Empty ones may be left out.
fn compare(given: &Value, kept: &Value, path: &str, unknown: &mut Vec<String>) {
    let is_empty = |value: &Value| match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (field, value) in given.iter().filter(|(_, value)| !is_empty(value)) {
                let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
                match kept.get(field) {
                    Some(kept) => compare(value, kept, &path, unknown),
                    None => unknown.push(path),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                compare(given, kept, &format!("{path}[{index}]"), unknown);
            }
        }
        _ => {}
    }
}

/// Amounts may be written as bare numbers.
fn amounts_as_text(value: &mut Value) {
    let number_as_text = |value: &mut Value| {
        if value.is_number() {
            *value = Value::String(value.to_string());
        }
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                match (name.as_str(), &mut *value) {
                    ("limits" | "requests" | "overhead", Value::Object(amounts)) => {
                        amounts.values_mut().for_each(number_as_text);
                    }
                    ("sizeLimit" | "divisor", amount) => number_as_text(amount),
                    (_, other) => amounts_as_text(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(amounts_as_text),
        _ => {}
    }
}

/// The value as text, keys in the order of the alphabet: which order the parser keeps is not ours to say.
fn in_order(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            let fields = fields.iter().map(|(key, value)| format!("{key:?}:{}", in_order(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(in_order).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// 32 hexadecimal digits, as long as what a kubelet makes: they stand in names of folders and cgroups.
fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// A parser may quote the file; one line is enough to find the place.
fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// For tests of others: the Pods of some files.
#[cfg(test)]
pub(super) fn pods(
    texts: &[&str],
    node: &str,
) -> std::collections::BTreeMap<ke_wire::ObjectKey, std::sync::Arc<Pod>> {
    let node: NodeName = node.parse().unwrap();
    let pods = texts.iter().map(|text| read(text.as_bytes(), &node, "0").unwrap().pod);
    pods.map(|pod| (super::key_of(&pod).unwrap(), std::sync::Arc::new(pod))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec:\n  containers:\n  - name: app\n    image: i:1\n";

    fn read_text(text: &str) -> Result<Read, String> {
        read(text.as_bytes(), &"edge-1".parse().unwrap(), "2026-01-31T12:00:00Z")
    }

    #[test]
    fn a_pod_of_a_file() {
        let Read { pod, unknown } = read_text(WEB).unwrap();
        assert!(unknown.is_empty(), "{unknown:?}");
        let uid = pod.metadata.uid.clone().unwrap();
        assert_eq!(uid.len(), 32);
        assert_eq!(pod.metadata.name.as_deref(), Some("web-edge-1"));
        assert_eq!(pod.metadata.namespace.as_deref(), Some("default"));
        let annotations = pod.metadata.annotations.clone().unwrap();
        assert_eq!((annotations[SOURCE].as_str(), annotations[HASH].as_str()), ("file", uid.as_str()));
        assert!(super::super::is_static(&pod) && !super::super::is_mirror(&pod));
        let spec = pod.spec.unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("edge-1"));
        assert_eq!(spec.restart_policy.as_deref(), Some("Always"));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("IfNotPresent"));
        assert!(spec.tolerations.unwrap().iter().any(|t| t.effect.as_deref() == Some("NoExecute")));
        // JSON is YAML, and how it is written does not matter; what it says does, and on which node.
        let json = r#"{"kind": "Pod", "apiVersion": "v1", "spec": {"containers": [{"image": "i:1", "name": "app"}]},
            "metadata": {"name": "web"}}"#;
        assert_eq!(read_text(json).unwrap().pod.metadata.uid, Some(uid.clone()));
        assert_eq!(read_text(&format!("# a comment\n{WEB}")).unwrap().pod.metadata.uid, Some(uid.clone()));
        assert_ne!(read_text(&WEB.replace("i:1", "i:2")).unwrap().pod.metadata.uid, Some(uid.clone()));
        let elsewhere = read(WEB.as_bytes(), &"edge-2".parse().unwrap(), "0").unwrap();
        assert_ne!(elsewhere.pod.metadata.uid, Some(uid));
    }

    #[test]
    fn limits_and_the_machines_network() {
        let text = WEB.replace("spec:\n", "spec:\n  hostNetwork: true\n")
            + "    ports: [{containerPort: 80}]\n    resources: {limits: {cpu: 1, memory: 64Mi}}\n    livenessProbe: {httpGet: {port: 80}}\n";
        let spec = read_text(&text).unwrap().pod.spec.unwrap();
        let container = &spec.containers[0];
        assert_eq!(container.ports.as_ref().unwrap()[0].host_port, Some(80));
        let requests = container.resources.as_ref().unwrap().requests.as_ref().unwrap();
        assert_eq!((requests["cpu"].0.as_str(), requests["memory"].0.as_str()), ("1", "64Mi"));
        assert_eq!(container.liveness_probe.as_ref().unwrap().period_seconds, Some(10));
    }

    #[test]
    fn what_is_no_pod_is_said() {
        let check = |text: &str, expected: &str| match read_text(text) {
            Err(why) => assert!(why.contains(expected), "{text}: {why}"),
            Ok(read) => panic!("{text} is taken: {read:?}"),
        };
        check("", "");
        check("a: [", "neither YAML nor JSON");
        check("just words", "a static pod has");
        check("apiVersion: v1\nkind: Service\n", "kind \"Service\"");
        check("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\n", "no spec");
        check(&format!("{WEB}---\n{WEB}"), "one Pod");
        check(&WEB.replace("name: web", "name: ''"), "metadata.name is missing");
        check(&WEB.replace("{name: web}", "{name: Web_1}"), "metadata.name");
        check(&WEB.replace("image: i:1", "image: ''"), "container app has no image");
        check(&WEB.replace("name: app", "name: App"), "container name \"App\"");
        check(&format!("{WEB}  - name: app\n    image: i:2\n"), "two containers are named app");
        check(&format!("{WEB}    volumeMounts: [{{name: d, mountPath: /d}}]\n"), "mounts volume \"d\"");
        let asks = "    resources: {requests: {example.com/gpu: 1, cpu: 1}, limits: {cpu: 2}}\n";
        check(&format!("{WEB}{asks}"), "asks for example.com/gpu");
        check(&WEB.replace("spec:\n", "spec:\n  restartPolicy: Sometimes\n"), "restartPolicy");
        check(&WEB.replace("spec:\n", "spec:\n  serviceAccountName: robot\n"), "may name nothing in it");
        check(&WEB.replace("containers:\n  - name: app", "containers:\n  - name: [app]"), "no Pod");
    }

    #[test]
    fn misspelt_fields_are_named() {
        let text = WEB.replace("spec:\n", "spec:\n  hostNetwrk: true\n") + "    comand: [x]\n    args: []\n";
        assert_eq!(read_text(&text).unwrap().unknown, ["spec.containers[0].comand", "spec.hostNetwrk"]);
    }
}
