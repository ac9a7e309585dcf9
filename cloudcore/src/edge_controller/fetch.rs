//! Reads that the watches do not bring: data named for the first time, Pods of a node that came late.
//! They go on until there is an answer, since a node waits for it. Called by `placer.rs`.

use std::time::Duration;

use hyper::Method;
use ke_run::backoff::Backoff;
use ke_wire::{Kind, NodeName, ObjectKey, Reason, Refusal};
use serde_json::Value;

use super::observed::Observed;
use crate::api_server::{ApiServer, Call, object_path};

/// One object; `None` when there is none, or none that can be delivered.
pub(super) async fn object(api: &ApiServer, key: &ObjectKey) -> Option<Observed> {
    let path = object_path(key, "").ok()?;
    let object = until_answered(api, &key.to_string(), &path, is_final).await?;
    Observed::new(&key.kind, object).inspect_err(|unusable| tracing::warn!("not delivered: {unusable}")).ok()
}

/// The Pods bound to a node.
pub(super) async fn pods(api: &ApiServer, node: &NodeName) -> Vec<Observed> {
    let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
    // Only a list counts: taking a refusal for "no pods" would end all of the node's.
    let list = until_answered(api, &format!("the pods of {node}"), &path, |_| false).await;
    let items = list.and_then(|mut list| list.get_mut("items").map(Value::take));
    let items = if let Some(Value::Array(items)) = items { items } else { Vec::new() };
    items.into_iter().filter_map(|pod| Observed::new(&Kind::Pod, pod).ok()).collect()
}

/// Whether asking again is in vain until somebody changes the object or cloudcore's rights.
fn is_final(refused: &Refusal) -> bool {
    matches!(refused.reason, Reason::NotFound | Reason::Forbidden | Reason::Invalid | Reason::BadRequest)
}

/// The answer; `None` for a refusal that is final.
async fn until_answered(
    api: &ApiServer,
    what: &str,
    path: &str,
    is_final: fn(&Refusal) -> bool,
) -> Option<Value> {
    let backoff =
        Backoff { first: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(30), jitter: 0.0 };
    for attempt in 0.. {
        match api.call(Call::new(Method::GET, path.to_owned())).await {
            Ok(body) => match serde_json::from_slice(&body) {
                Ok(value) => return Some(value),
                Err(_) => tracing::warn!("the API server's answer about {what} is no JSON, trying again"),
            },
            Err(refused) if is_final(&refused) => {
                if refused.reason != Reason::NotFound {
                    tracing::error!("cannot read {what}, its nodes go without it: {refused}");
                }
                return None;
            }
            Err(refused) => tracing::warn!("cannot read {what}, trying again: {refused}"),
        }
        tokio::time::sleep(backoff.delay(attempt, 0.0)).await;
    }
    None
}
