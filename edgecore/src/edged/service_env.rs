//! Pure: the variables by which a container finds the Services of its namespace and the API server.
//!
//! Kubernetes' names, and those that Docker once gave to links. `worker/starting.rs` hands in the Services as the cloud says them when
//! the container starts, or as it said them last.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, Service};

/// Where the API server is a Service of its own, which every Pod sees.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// In the order of the Services' names. A Service of the Pod's own namespace comes before the API server's of the same name.
#[must_use]
pub(super) fn service_variables(pod: &Pod, services: &[Service]) -> Vec<(String, String)> {
    let own = pod.metadata.namespace.as_deref().unwrap_or("default");
    let shows_links = pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let mut shown: BTreeMap<&str, &Service> = BTreeMap::new();
    for service in services {
        let (Some(name), Some(namespace)) = (&service.metadata.name, &service.metadata.namespace) else {
            continue;
        };
        let is_master = (namespace.as_str(), name.as_str()) == MASTER;
        if namespace == own && (shows_links || is_master) {
            shown.insert(name, service);
        } else if is_master {
            shown.entry(name).or_insert(service);
        }
    }
    shown.into_iter().flat_map(|(name, service)| variables(name, service)).collect()
}

fn variables(name: &str, service: &Service) -> Vec<(String, String)> {
    let spec = service.spec.as_ref();
    let address = spec.and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let Some(first) = ports.first() else { return Vec::new() };
    if address.is_empty() || address == "None" {
        return Vec::new();
    }
    let name = as_variable(name);
    let mut found = vec![
        (format!("{name}_SERVICE_HOST"), address.to_owned()),
        (format!("{name}_SERVICE_PORT"), first.port.to_string()),
    ];
    for port in ports {
        if let Some(word) = port.name.as_deref().filter(|word| !word.is_empty()) {
            found.push((format!("{name}_SERVICE_PORT_{}", as_variable(word)), port.port.to_string()));
        }
    }
    let host = match address.parse() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => address.to_owned(),
    };
    for (index, port) in ports.iter().enumerate() {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let number = port.port;
        let (start, url) = (
            format!("{name}_PORT_{number}_{protocol}"),
            format!("{}://{host}:{number}", protocol.to_lowercase()),
        );
        if index == 0 {
            found.push((format!("{name}_PORT"), url.clone()));
        }
        found.extend([
            (start.clone(), url),
            (format!("{start}_PROTO"), protocol.to_lowercase()),
            (format!("{start}_PORT"), number.to_string()),
            (format!("{start}_ADDR"), address.to_owned()),
        ]);
    }
    found
}

fn as_variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(namespace: &str, name: &str, spec: Value) -> Service {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": namespace}, "spec": spec}))
            .unwrap()
    }

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn a_service_in_all_its_names() {
        let ports =
            json!([{"name": "sql", "port": 5432, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]);
        let service = service("shop", "order-db", json!({"clusterIP": "10.0.0.7", "ports": ports}));
        let got = service_variables(&pod(json!({"containers": []})), &[service]);
        let got: Vec<String> = got.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            got,
            [
                "ORDER_DB_SERVICE_HOST=10.0.0.7",
                "ORDER_DB_SERVICE_PORT=5432",
                "ORDER_DB_SERVICE_PORT_SQL=5432",
                "ORDER_DB_PORT=tcp://10.0.0.7:5432",
                "ORDER_DB_PORT_5432_TCP=tcp://10.0.0.7:5432",
                "ORDER_DB_PORT_5432_TCP_PROTO=tcp",
                "ORDER_DB_PORT_5432_TCP_PORT=5432",
                "ORDER_DB_PORT_5432_TCP_ADDR=10.0.0.7",
                "ORDER_DB_PORT_53_UDP=udp://10.0.0.7:53",
                "ORDER_DB_PORT_53_UDP_PROTO=udp",
                "ORDER_DB_PORT_53_UDP_PORT=53",
                "ORDER_DB_PORT_53_UDP_ADDR=10.0.0.7",
            ]
        );
    }

    #[test]
    fn which_services_a_pod_sees() {
        let one = |namespace, name, address: &str| {
            service(namespace, name, json!({"clusterIP": address, "ports": [{"port": 1}]}))
        };
        let check = |spec: Value, services: &[Service], expected: &[&str]| {
            let got = service_variables(&pod(spec.clone()), services);
            let hosts = got.iter().filter(|(name, _)| name.ends_with("_SERVICE_HOST"));
            let hosts: Vec<String> = hosts.map(|(name, value)| format!("{name}={value}")).collect();
            assert_eq!(hosts, expected, "{spec}");
        };
        let all = [
            one("shop", "b", "10.0.0.2"),
            one("default", "kubernetes", "10.0.0.1"),
            one("shop", "a", "fd00::1"),
            one("other", "c", "10.0.0.3"),
        ];
        let (linked, unlinked) =
            (json!({"containers": []}), json!({"containers": [], "enableServiceLinks": false}));
        check(
            linked.clone(),
            &all,
            &["A_SERVICE_HOST=fd00::1", "B_SERVICE_HOST=10.0.0.2", "KUBERNETES_SERVICE_HOST=10.0.0.1"],
        );
        check(unlinked, &all, &["KUBERNETES_SERVICE_HOST=10.0.0.1"]);
        let own = [one("default", "kubernetes", "10.0.0.1"), one("shop", "kubernetes", "10.0.0.9")];
        check(linked.clone(), &own, &["KUBERNETES_SERVICE_HOST=10.0.0.9"]);
        check(linked.clone(), &[one("shop", "headless", "None")], &[]);
        check(linked.clone(), &[service("shop", "portless", json!({"clusterIP": "10.0.0.2"}))], &[]);
        let v6 = service_variables(&pod(linked), &[one("shop", "a", "fd00::1")]);
        assert!(v6.contains(&("A_PORT".to_owned(), "tcp://[fd00::1]:1".to_owned())), "{v6:?}");
    }
}
