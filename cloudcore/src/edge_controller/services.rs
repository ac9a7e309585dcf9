//! The Services of a namespace, cut to what environments of Pods show of them.
//!
//! Nodes ask when a container starts. Where a whole fleet starts at once, the API server is asked about once a second for each
//! namespace. Called by `answers.rs`, after CloudHub has seen that the node has Pods there.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use hyper::Method;
use ke_wire::{Namespace, Refusal};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant};

use crate::api_server::{ApiServer, Call};

/// How long an answer serves all who ask.
const LIFE: Duration = Duration::from_secs(1);
/// Namespaces that are remembered; with more, all are forgotten and asked for again.
const MAX_HELD: usize = 1024;
/// Where the API server is a Service of its own, which every Pod sees.
const MASTER: (&str, &str) = ("default", "kubernetes");

/// Answers of the last second.
#[derive(Default)]
pub(super) struct Services(Mutex<HashMap<Namespace, (Instant, Bytes)>>);

impl Services {
    /// A `ServiceList`: those of the namespace, and the API server's.
    pub(super) async fn of(&self, api: &ApiServer, namespace: &Namespace) -> Result<Bytes, Refusal> {
        if let Some((at, held)) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(namespace)
            && at.elapsed() < LIFE
        {
            return Ok(held.clone());
        }
        let asked = Instant::now();
        let mut items = listed(api, namespace.as_str()).await?;
        if namespace.as_str() != MASTER.0 {
            items.extend(listed(api, MASTER.0).await?.into_iter().filter(|one| name(one) == MASTER.1));
        }
        // The node keeps it for times without a link. It has no version: what comes last holds.
        let list = json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {}, "items": items});
        let body = Bytes::from(list.to_string());
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MAX_HELD {
            held.clear();
        }
        held.insert(namespace.clone(), (asked, body.clone()));
        Ok(body)
    }
}

async fn listed(api: &ApiServer, namespace: &str) -> Result<Vec<Value>, Refusal> {
    let body = api.call(Call::new(Method::GET, format!("/api/v1/namespaces/{namespace}/services"))).await?;
    let list: Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(list.get("items").and_then(Value::as_array).into_iter().flatten().filter_map(cut).collect())
}

/// `None`: environments do not show it, since it has no address of its own.
fn cut(service: &Value) -> Option<Value> {
    let address = service.pointer("/spec/clusterIP").and_then(Value::as_str)?;
    if address.is_empty() || address == "None" {
        return None;
    }
    let namespace = service.pointer("/metadata/namespace").and_then(Value::as_str)?;
    let ports = service.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let ports: Vec<Value> = ports
        .map(|port| {
            let field = |name: &str| port.get(name).cloned().unwrap_or_default();
            json!({"name": field("name"), "port": field("port"), "protocol": field("protocol")})
        })
        .collect();
    Some(json!({
        "metadata": {"name": name(service), "namespace": namespace},
        "spec": {"clusterIP": address, "ports": ports},
    }))
}

fn name(service: &Value) -> &str {
    service.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_environments_show_goes_to_a_node() {
        let check = |spec: Value, expected: Option<Value>| {
            let service =
                json!({"metadata": {"name": "db", "namespace": "shop", "uid": "u"}, "spec": spec.clone()});
            let metadata = json!({"name": "db", "namespace": "shop"});
            let expected = expected.map(|spec| json!({"metadata": metadata, "spec": spec}));
            assert_eq!(cut(&service), expected, "{spec}");
        };
        check(
            json!({"clusterIP": "10.0.0.7", "selector": {"a": "b"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}),
            Some(json!({"clusterIP": "10.0.0.7", "ports": [{"name": null, "port": 80, "protocol": "TCP"}]})),
        );
        check(json!({"clusterIP": "10.0.0.7"}), Some(json!({"clusterIP": "10.0.0.7", "ports": []})));
        check(json!({"clusterIP": "None", "ports": []}), None);
        check(json!({"type": "ExternalName", "externalName": "example.com"}), None);
    }
}
