//! What would go with the namespace `kubeedge`, and is not keadm's.

use anyhow::Result;
use serde_json::{Value, json};

use super::{DEVICES, named};
use crate::cluster::{Cluster, shown};
use crate::objects::NAMESPACE;

/// What people put into a namespace.
const OTHERS: [(&str, &str); 15] = [
    ("apps/v1", "Deployment"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "StatefulSet"),
    ("batch/v1", "Job"),
    ("batch/v1", "CronJob"),
    ("v1", "Pod"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "ServiceAccount"),
    ("v1", "PersistentVolumeClaim"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("networking.k8s.io/v1", "Ingress"),
    (DEVICES, "Device"),
    (DEVICES, "DeviceModel"),
];

/// What would go with the namespace, and is not ours.
pub(super) fn in_namespace(cluster: &Cluster, with_devices: bool, go: &[Value]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (version, kind) in OTHERS {
        if version == DEVICES && with_devices {
            continue;
        }
        let like = json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": NAMESPACE}});
        let all = cluster.list(&like, "")?;
        let others = all.iter().filter(|object| is_of_somebody(object));
        names.extend(others.map(|object| shown(&named(version, kind, object))));
    }
    let ours: Vec<String> = go.iter().map(shown).collect();
    names.retain(|name| !ours.contains(name));
    Ok(names)
}

/// Not of a controller, which made it of something else, or of Kubernetes, which puts it into every namespace.
fn is_of_somebody(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let is_of_another = metadata["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty());
    let is_kubernetes = ["kube-root-ca.crt", "default"].iter().any(|name| metadata["name"] == *name)
        || object["type"] == "kubernetes.io/service-account-token";
    !is_of_another && !is_kubernetes
}

pub(super) fn some_of(names: &[String]) -> String {
    match names.get(..5).filter(|_| names.len() > 5) {
        Some(first) => format!("{} and {} more", first.join(", "), names.len().saturating_sub(5)),
        None => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_put_into_the_namespace_is_known() {
        let check = |object: Value, expected: bool| assert_eq!(is_of_somebody(&object), expected, "{object}");
        check(json!({"metadata": {"name": "mine"}}), true);
        check(json!({"metadata": {"name": "kube-root-ca.crt"}}), false);
        check(json!({"metadata": {"name": "default"}}), false);
        check(json!({"metadata": {"name": "x"}, "type": "kubernetes.io/service-account-token"}), false);
        check(json!({"metadata": {"name": "x", "ownerReferences": [{"kind": "ReplicaSet"}]}}), false);
        let names: Vec<String> = ('a'..='g').map(String::from).collect();
        assert_eq!(some_of(&names[..5]), "a, b, c, d, e");
        assert_eq!(some_of(&names), "a, b, c, d, e and 2 more");
    }
}
