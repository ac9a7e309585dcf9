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
                port("tunnelport", 10004, service.tunnel_node_port.get()),
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
    let mut open = ["cloudhub", "cloudhub-https", "conversion", "stream", "tunnelport"].map(port).to_vec();
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

#[cfg(test)]
mod tests {
    use super::super::deployment::deployment;
    use super::*;

    fn values(sets: &str) -> Values {
        Values::from_layers(&[], &[sets.to_owned()]).unwrap().0
    }

    #[test]
    fn edges_come_in_by_these_ports() {
        let check = |sets: &str, expected: [(&str, i64, Option<i64>); 3]| {
            let service = service(&values(sets));
            let ports = service["spec"]["ports"].as_array().unwrap();
            let found: Vec<(&str, i64, Option<i64>)> = ports
                .iter()
                .map(|port| {
                    assert_eq!(port["targetPort"], port["name"]);
                    let number = port["port"].as_i64().unwrap();
                    (port["name"].as_str().unwrap(), number, port["nodePort"].as_i64())
                })
                .collect();
            assert_eq!(found, expected, "{sets}");
        };
        let of = |hub, https, tunnel| {
            [("cloudhub", 10000, hub), ("cloudhub-https", 10002, https), ("tunnelport", 10004, tunnel)]
        };
        check("cloudCore.replicaCount=1", of(Some(30000), Some(30002), Some(30004)));
        check("cloudCore.service.tunnelNodePort=30104", of(Some(30000), Some(30002), Some(30104)));
        check("cloudCore.service.type=LoadBalancer", of(None, None, None));
    }

    #[test]
    fn what_is_open_is_a_port_of_the_pod() {
        let values = values("cloudCore.modules.cloudStream.tunnelPort=20004");
        let deployment = deployment(&values);
        let there = deployment["spec"]["template"]["spec"]["containers"][0]["ports"].as_array().unwrap();
        let number = |name: &str| there.iter().find(|port| port["name"] == name)?["containerPort"].as_i64();
        assert_eq!(number("tunnelport"), Some(20004));
        let policy = network_policy(&values);
        let open = policy["spec"]["ingress"][0]["ports"].as_array().unwrap();
        let names: Vec<&str> = open.iter().filter_map(|port| port["port"].as_str()).collect();
        assert_eq!(names, ["cloudhub", "cloudhub-https", "conversion", "stream", "tunnelport"]);
        assert!(names.iter().all(|name| number(name).is_some()), "{names:?} {there:?}");
    }
}
