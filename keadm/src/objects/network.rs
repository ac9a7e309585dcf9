//! Pure: how edges and the cluster reach cloudcore: the chart's `service.yaml`, `service_internal.yaml`, `networkpolicy.yaml`.

use serde_json::{Value, json};

use super::values::{ServiceType, TrafficPolicy, Values};
use super::{INTERNAL, NAME, NAMESPACE, filled, named, selector};

pub(super) fn objects(values: &Values) -> Vec<Value> {
    let mut objects = vec![internal(values)];
    if values.cloud_core.service.enable.is_on() {
        objects.push(service(values));
    }
    if values.network_policy.enable.is_on() {
        objects.push(network_policy(values));
    }
    objects
}

/// For edges.
fn service(values: &Values) -> Value {
    let service = &values.cloud_core.service;
    let mut metadata = named(values, NAME, NAMESPACE);
    if let (Some(metadata), false) = (metadata.as_object_mut(), service.annotations.is_empty()) {
        metadata.insert("annotations".to_owned(), json!(service.annotations));
    }
    let port = |name: &str, number: u16, node_port: i64| {
        let node_port = (service.kind == ServiceType::NodePort).then_some(node_port);
        filled(json!({
            "name": name, "port": number, "protocol": "TCP", "targetPort": name, "nodePort": node_port,
        }))
    };
    let policy = match service.external_traffic_policy {
        TrafficPolicy::Usual => None,
        TrafficPolicy::Cluster => Some("Cluster"),
        TrafficPolicy::Local => Some("Local"),
    };
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": metadata,
        "spec": filled(json!({
            "type": service.kind,
            "externalTrafficPolicy": policy,
            "selector": selector(),
            "ports": [
                port("cloudhub", 10000, service.cloudhub_node_port.get()),
                port("cloudhub-https", 10002, service.cloudhub_https_node_port.get()),
            ],
        })),
    })
}

/// For the API server (devices of v1alpha2) and Prometheus; nothing of it is reached from outside the cluster.
fn internal(values: &Values) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": named(values, INTERNAL, NAMESPACE),
        "spec": {
            "type": "ClusterIP",
            "selector": selector(),
            "ports": [
                {"name": "conversion", "port": 443, "protocol": "TCP", "targetPort": "conversion"},
                {"name": "monitor", "port": 9091, "protocol": "TCP", "targetPort": "monitor"},
            ],
        },
    })
}

/// Edges come from anywhere, and nothing tells the API server from others.
fn network_policy(values: &Values) -> Value {
    let port = |name: &str| json!({"port": name, "protocol": "TCP"});
    let mut open = ["cloudhub", "cloudhub-https", "conversion", "stream"].map(port).to_vec();
    for (first, last) in values.cloud_core.modules.cloud_stream.kubelet_ports.ranges() {
        open.push(filled(json!({"port": first, "endPort": last, "protocol": "TCP"})));
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": named(values, NAME, NAMESPACE),
        "spec": {
            "podSelector": {"matchLabels": selector()},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": open},
                filled(json!({"ports": [port("monitor")], "from": values.network_policy.monitor_from})),
            ],
        },
    })
}
