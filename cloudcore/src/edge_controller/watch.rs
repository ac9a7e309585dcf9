//! Kubernetes watches become `WatchEvent`s. Decides nothing and keeps nothing.
//!
//! Nodes are listed before Pods and Pods before what they name, so that `placement.rs` knows while the last two pass by
//! which of them are needed. Called by `mod.rs`.

use futures_util::{StreamExt, pin_mut};
use ke_api::object::api_type;
use ke_run::shutdown::Shutdown;
use ke_wire::Kind;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

pub(crate) use ke_api::node::EDGE_LABEL;

use super::observed::{Observed, Unusable, WATCHED, WatchEvent};
use crate::chain::chain;

/// Watches until asked to stop. `events` full: the API server buffers, and starts the watch anew if it lasts.
pub(super) async fn run(client: kube::Client, events: mpsc::Sender<WatchEvent>, stop: Shutdown) {
    let mut watches = JoinSet::new();
    for kind in WATCHED {
        let (listed, is_listed) = oneshot::channel();
        watches.spawn(watch(client.clone(), kind, events.clone(), listed));
        tokio::select! {
            () = stop.wait() => return,
            // The sender is gone only when nobody takes events any more.
            _ = is_listed => {}
        }
    }
    tokio::select! {
        () = stop.wait() => {}
        _ = watches.join_next() => {}
    }
}

/// One kind. Ends when nobody takes the events any more.
async fn watch(
    client: kube::Client,
    kind: Kind,
    events: mpsc::Sender<WatchEvent>,
    listed: oneshot::Sender<()>,
) {
    let Some(api) = api_type(&kind) else { return };
    let (group, version) = api.api_version.split_once('/').unwrap_or(("", api.api_version));
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, api.kind), api.plural);
    let config = match kind {
        Kind::Node => watcher::Config::default().labels(EDGE_LABEL),
        Kind::Pod => watcher::Config::default().fields("spec.nodeName!="),
        _ => watcher::Config::default(),
    };
    let stream = watcher(Api::<DynamicObject>::all_with(client, &resource), config).default_backoff();
    pin_mut!(stream);
    let mut listed = Some(listed);
    let mut is_broken = false;
    while let Some(next) = stream.next().await {
        let event = match next {
            Ok(watcher::Event::Init) => Ok(WatchEvent::ListStarted(kind.clone())),
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                observed(&kind, object).map(WatchEvent::Applied)
            }
            Ok(watcher::Event::Delete(object)) => observed(&kind, object).map(WatchEvent::Removed),
            Ok(watcher::Event::InitDone) => Ok(WatchEvent::ListDone(kind.clone())),
            Err(cause) => {
                // Once an outage is enough; the tries go on with growing pauses.
                if is_broken {
                    tracing::debug!(kind = kind.as_str(), "watch still broken: {}", chain(&cause));
                } else {
                    tracing::warn!(kind = kind.as_str(), "watch broken, trying again: {}", chain(&cause));
                }
                is_broken = true;
                continue;
            }
        };
        let event = match event {
            Ok(event) => event,
            Err(unusable) => {
                tracing::warn!("an object is not delivered: {unusable}");
                continue;
            }
        };
        if std::mem::take(&mut is_broken) {
            tracing::info!(kind = kind.as_str(), "watch works again");
        }
        let is_done = matches!(event, WatchEvent::ListDone(_));
        if events.send(event).await.is_err() {
            return;
        }
        if let Some(listed) = listed.take_if(|_| is_done) {
            let _ = listed.send(());
        }
    }
}

fn observed(kind: &Kind, object: DynamicObject) -> Result<Observed, Unusable> {
    let mut json = match object.data {
        Value::Object(data) => data,
        _ => serde_json::Map::new(),
    };
    let mut metadata = object.metadata;
    metadata.managed_fields = None;
    // Cannot fail: the metadata came from JSON. An empty one is refused by name below.
    json.insert("metadata".to_owned(), serde_json::to_value(metadata).unwrap_or_default());
    Observed::new(kind, Value::Object(json))
}
