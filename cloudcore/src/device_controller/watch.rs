//! The DeviceStatuses there are, then the watches of DeviceModels and Devices, become `WatchEvent`s. Decides nothing.
//!
//! Objects come as JSON and are read one by one: a bad one is told as such and stops no other. Called by `mod.rs`.

use futures_util::{StreamExt, pin_mut};
use ke_api::object::api_type;
use ke_run::shutdown::Shutdown;
use ke_wire::{DeviceId, Kind};
use kube::api::{Api, ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use serde_json::Value;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::object::{SeenDevice, SeenModel, Unusable, id_of};
use super::reports::Found;
use crate::chain::chain;

const PAGE: u32 = 500;
const RETRY: Duration = Duration::from_secs(2);
/// After this many tries the watches begin all the same: the DeviceStatuses are then read one by one, when written.
const TRIES: u32 = 15;

/// What is seen of the API server.
#[derive(Debug)]
pub(super) enum WatchEvent {
    /// A DeviceStatus that is there. All of them come before anything else.
    Status(DeviceId, Box<Found>),
    /// All objects of this kind follow.
    ListStarted(Kind),
    Device(Box<SeenDevice>),
    DeviceRemoved(DeviceId),
    Model(Box<SeenModel>),
    ModelRemoved(DeviceId),
    /// There, but cannot be read: kind, name and uid, as far as they can.
    Unusable(Kind, Option<DeviceId>, String, Unusable),
    /// What was not in the list does not exist.
    ListDone(Kind),
}

/// Watches until asked to stop. `events` full: the API server buffers, and starts the watch anew if it lasts.
pub(super) async fn run(client: kube::Client, events: mpsc::Sender<WatchEvent>, stop: Shutdown) {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        read_statuses(&client, &events).await;
        let watch = |kind| watch(client.clone(), kind, events.clone());
        tokio::join!(watch(Kind::DeviceModel), watch(Kind::Device));
    });
    tokio::select! {
        () = stop.wait() => {}
        _ = tasks.join_next() => {}
    }
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("devices.kubeedge.io", "v1beta1", kind), plural)
}

async fn read_statuses(client: &kube::Client, events: &mpsc::Sender<WatchEvent>) {
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource("DeviceStatus", "devicestatuses"));
    for attempt in 1..=TRIES {
        let mut page = ListParams::default().limit(PAGE);
        let cause = loop {
            match api.list(&page).await {
                Ok(list) => {
                    for status in list.items {
                        let object = json(status);
                        if let Some(id) = id_of(&object) {
                            let found = Box::new(Found::of(&object));
                            let _ = events.send(WatchEvent::Status(id, found)).await;
                        }
                    }
                    match list.metadata.continue_.filter(|token| !token.is_empty()) {
                        Some(token) => page = page.continue_token(&token),
                        None => return,
                    }
                }
                Err(cause) => break cause,
            }
        };
        tracing::warn!("list devicestatuses, try {attempt} of {TRIES}: {}", chain(&cause));
        if matches!(&cause, kube::Error::Api(status) if matches!(status.code, 403 | 404)) {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One kind. Ends when nobody takes the events any more.
async fn watch(client: kube::Client, kind: Kind, events: mpsc::Sender<WatchEvent>) {
    let Some(api) = api_type(&kind) else { return };
    let api = Api::<DynamicObject>::all_with(client, &resource(api.kind, api.plural));
    // In pages: ten thousand devices are tens of megabytes.
    let stream = watcher(api, watcher::Config::default().page_size(PAGE)).default_backoff();
    pin_mut!(stream);
    let mut is_broken = false;
    while let Some(next) = stream.next().await {
        let event = match next {
            Ok(watcher::Event::Init) => WatchEvent::ListStarted(kind.clone()),
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                seen(&kind, json(object))
            }
            Ok(watcher::Event::Delete(object)) => match (id_of(&json(object)), &kind) {
                (Some(id), Kind::Device) => WatchEvent::DeviceRemoved(id),
                (Some(id), _) => WatchEvent::ModelRemoved(id),
                (None, _) => continue,
            },
            Ok(watcher::Event::InitDone) => WatchEvent::ListDone(kind.clone()),
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
        if std::mem::take(&mut is_broken) {
            tracing::info!(kind = kind.as_str(), "watch works again");
        }
        if events.send(event).await.is_err() {
            return;
        }
    }
}

fn seen(kind: &Kind, object: Value) -> WatchEvent {
    let id = id_of(&object);
    let uid = object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default().to_owned();
    let read = if *kind == Kind::Device {
        SeenDevice::new(object).map(|device| WatchEvent::Device(Box::new(device)))
    } else {
        SeenModel::new(object).map(|model| WatchEvent::Model(Box::new(model)))
    };
    read.unwrap_or_else(|unusable| WatchEvent::Unusable(kind.clone(), id, uid, unusable))
}

fn json(object: DynamicObject) -> Value {
    let mut json = match object.data {
        Value::Object(data) => data,
        _ => serde_json::Map::new(),
    };
    let mut metadata = object.metadata;
    metadata.managed_fields = None;
    // Cannot fail: the metadata came from JSON. An empty one is refused by name.
    json.insert("metadata".to_owned(), serde_json::to_value(metadata).unwrap_or_default());
    Value::Object(json)
}
