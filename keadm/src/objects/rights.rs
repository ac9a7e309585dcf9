//! Pure: cloudcore's account and what it may do. Why it has each right is said where the chart gives it: `clusterrole.yaml`,
//! `role.yaml`, `role_leases.yaml`.

use serde_json::{Value, json};

use super::values::Values;
use super::{NAME, NAMESPACE, named};

/// Where Kubernetes looks for heartbeats of nodes.
const LEASES: &str = ke_api::node::LEASE_NAMESPACE;

pub(super) fn objects(values: &Values) -> Vec<Value> {
    let own = json!([
        rule("", &["secrets"], &["casecret", "cloudcoresecret", "tokensecret"], &["get", "patch"]),
        rule("", &["secrets"], &["isthmus-jointokens"], &["get"]),
        rule("", &["secrets"], &[], &["create"]),
        rule("", &["namespaces"], &[NAMESPACE], &["get"]),
        rule("coordination.k8s.io", &["leases"], &[], &["get", "create", "delete"]),
    ]);
    let leases = json!([rule("coordination.k8s.io", &["leases"], &[], &["get", "create", "update"])]);
    let everywhere = json!({"name": NAME, "labels": values.cloud_core.labels});
    vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named(values, NAME, NAMESPACE)}),
        role("ClusterRole", &everywhere, &cluster_rules(values)),
        binding("ClusterRole", &everywhere),
        role("Role", &named(values, NAME, NAMESPACE), &own),
        binding("Role", &named(values, NAME, NAMESPACE)),
        role("Role", &named(values, NAME, LEASES), &leases),
        binding("Role", &named(values, NAME, LEASES)),
    ]
}

fn role(kind: &str, metadata: &Value, rules: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": metadata,
        "rules": rules,
    })
}

fn binding(kind: &str, metadata: &Value) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": format!("{kind}Binding"),
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": NAME},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    })
}

fn rule(group: &str, resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    let mut rule = json!({"apiGroups": [group], "resources": resources, "verbs": verbs});
    if let (Some(rule), false) = (rule.as_object_mut(), names.is_empty()) {
        rule.insert("resourceNames".to_owned(), json!(names));
    }
    rule
}

fn cluster_rules(values: &Values) -> Value {
    const DEVICES: &str = "devices.kubeedge.io";
    const SYNCS: &str = "reliablesyncs.kubeedge.io";
    const EXTENSIONS: &str = "apiextensions.k8s.io";
    let definitions = [
        "clusterobjectsyncs.reliablesyncs.kubeedge.io",
        "devicemodels.devices.kubeedge.io",
        "devices.devices.kubeedge.io",
        "devicestatuses.devices.kubeedge.io",
        "objectsyncs.reliablesyncs.kubeedge.io",
    ];
    let device_definitions = [
        "devicemodels.devices.kubeedge.io",
        "devices.devices.kubeedge.io",
        "devicestatuses.devices.kubeedge.io",
    ];
    let mut rules = vec![
        rule("", &["nodes"], &[], &["get", "list", "watch", "create", "patch"]),
        rule("", &["nodes/status"], &[], &["patch"]),
        rule("", &["pods"], &[], &["get", "list", "watch", "create", "patch", "delete"]),
        rule("", &["pods/status"], &[], &["patch"]),
        rule("", &["configmaps", "secrets"], &[], &["get", "list", "watch"]),
        rule("", &["services"], &[], &["list"]),
        rule("node.k8s.io", &["runtimeclasses"], &[], &["get"]),
        rule("", &["persistentvolumeclaims", "persistentvolumes"], &[], &["get"]),
        rule("storage.k8s.io", &["volumeattachments"], &[], &["get"]),
        rule("", &["serviceaccounts/token"], &[], &["create"]),
        rule("", &["events"], &[], &["create", "update", "patch"]),
        rule(DEVICES, &["devices"], &[], &["list", "watch", "create", "patch"]),
        rule(DEVICES, &["devicemodels"], &[], &["list", "watch"]),
        rule(DEVICES, &["devicestatuses"], &[], &["get", "list", "create", "patch"]),
        rule(DEVICES, &["devices/finalizers"], &[], &["update"]),
        rule(SYNCS, &["objectsyncs", "clusterobjectsyncs"], &[], &["list", "create", "delete"]),
        rule(SYNCS, &["objectsyncs/status", "clusterobjectsyncs/status"], &[], &["patch"]),
        rule(EXTENSIONS, &["customresourcedefinitions"], &definitions, &["get"]),
        rule(EXTENSIONS, &["customresourcedefinitions"], &device_definitions, &["patch"]),
    ];
    if values.cloud_core.modules.cloud_stream.enable.is_on() {
        const CERTIFICATES: &str = "certificates.k8s.io";
        rules.push(rule("authentication.k8s.io", &["tokenreviews"], &[], &["create"]));
        rules.push(rule("authorization.k8s.io", &["subjectaccessreviews"], &[], &["create"]));
        rules.push(rule(CERTIFICATES, &["certificatesigningrequests"], &[], &["create", "get"]));
        rules.push(rule(CERTIFICATES, &["certificatesigningrequests/approval"], &[], &["patch"]));
        rules.push(rule(CERTIFICATES, &["signers"], &["kubernetes.io/kubelet-serving"], &["approve"]));
    }
    if values.cloud_core.feature_gates.require_authorization.is_on() {
        rules.push(rule("certificates.k8s.io", &["certificatesigningrequests"], &[], &["get"]));
        rules.push(rule("", &["users"], &[], &["impersonate"]));
        rules.push(rule("", &["groups"], &["system:nodes", "system:authenticated"], &["impersonate"]));
    }
    Value::Array(rules)
}
