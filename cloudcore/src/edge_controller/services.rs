//! The Services of a namespace, cut to what environments of Pods show of them.
//!
//! Nodes ask when a container starts. Where a whole fleet starts at once, the API server is asked by one at a time for each
//! namespace, about once a second; the others get that one's answer. Called by `answers.rs`, after CloudHub has seen that the node has Pods there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

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

/// The last answer for one namespace, refusals included. Whoever holds the lock asks; the others wait for what it is told.
type Held = Arc<tokio::sync::Mutex<Option<(Instant, Result<Bytes, Refusal>)>>>;

/// Answers of the last second.
#[derive(Default)]
pub(super) struct Services(Mutex<HashMap<Namespace, Held>>);

impl Services {
    /// A `ServiceList`: those of the namespace, and the API server's.
    pub(super) async fn of(&self, api: &ApiServer, namespace: &Namespace) -> Result<Bytes, Refusal> {
        let held = self.held(namespace);
        // Held while the API server is asked: that is what makes the others wait. Its calls have a time limit.
        let mut last = held.lock().await;
        if let Some((at, answer)) = &*last
            && at.elapsed() < LIFE
        {
            return answer.clone();
        }
        let answer = ask(api, namespace).await;
        // From now on: an answer that took longer than its life would serve nobody who waited.
        *last = Some((Instant::now(), answer.clone()));
        answer
    }

    fn held(&self, namespace: &Namespace) -> Held {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MAX_HELD && !all.contains_key(namespace) {
            all.clear();
        }
        Arc::clone(all.entry(namespace.clone()).or_default())
    }
}

async fn ask(api: &ApiServer, namespace: &Namespace) -> Result<Bytes, Refusal> {
    let mut items = listed(api, namespace.as_str()).await?;
    if namespace.as_str() != MASTER.0 {
        items.extend(listed(api, MASTER.0).await?.into_iter().filter(|one| name(one) == MASTER.1));
    }
    // The node keeps it for times without a link. It has no version: what comes last holds.
    let list = json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {}, "items": items});
    Ok(Bytes::from(list.to_string()))
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
    use hyper::{Request, Response};
    use kube::client::Body;

    use super::*;

    /// An API server that takes longer for an answer than that serves others.
    #[tokio::test(start_paused = true)]
    async fn a_fleet_that_starts_at_once_asks_once() {
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&calls);
        let service = tower::service_fn(move |request: Request<Body>| {
            seen.lock().unwrap().push(request.uri().path().to_owned());
            async {
                tokio::time::sleep(3 * LIFE).await;
                let list = json!({"items": [{"metadata": {"name": "db", "namespace": "default"}, "spec": {"clusterIP": "10.0.0.7"}}]});
                Ok::<_, tower::BoxError>(Response::new(Body::from(list.to_string().into_bytes())))
            }
        });
        let api = ApiServer::new(kube::Client::new(service, "default"));
        let (services, namespace) = (Services::default(), "default".parse().unwrap());
        let asks = (0..50).map(|_| services.of(&api, &namespace));
        let answers = futures_util::future::join_all(asks).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|body| body.starts_with(b"{"))));
        assert_eq!(*calls.lock().unwrap(), ["/api/v1/namespaces/default/services"]);
        tokio::time::sleep(LIFE).await;
        services.of(&api, &namespace).await.unwrap();
        assert_eq!(calls.lock().unwrap().len(), 2, "what is older than that is asked for again");
    }

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
