//! Carries out what `reports.rs` wants written: DeviceStatus, Device.status, Kubernetes events. One try; it decides nothing.

use hyper::Method;
use ke_api::object::api_type;
use ke_wire::{DeviceId, Kind, NodeName, Reason, Refusal, Version};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::discovery::Step;
use super::reports::{Found, StatusWrite, Write, Written, Wrote};
use crate::api_server::{ApiServer, Call, Content, object_path};

const API_VERSION: &str = "devices.kubeedge.io/v1beta1";
const STATUSES: &str = "devicestatuses";
const DEVICES: &str = "devices";
/// By which others see in `managedFields` who wrote.
const MANAGER: &str = "?fieldManager=cloudcore";

/// Tries it once. `stamp` is now as RFC 3339.
pub(super) async fn carry_out(api: &ApiServer, write: Write, stamp: &str) -> Written {
    let Write { id, uid, status, device, events } = write;
    let patch_device = async {
        let Some(patch) = device else { return Wrote::Nothing };
        // The uid makes it a conflict if the Device was made anew.
        let patch = json!({"metadata": {"uid": uid.as_str()}, "status": patch});
        let wrote = patched(&id, "Device", patch_object(api, DEVICES, &id, patch).await);
        if matches!(wrote, Wrote::Done(_)) {
            for problem in &events {
                tell(api, (&Kind::Device, &id, uid.as_str()), problem.what.word(), &problem.message, stamp)
                    .await;
            }
        }
        wrote
    };
    let (status, device) = tokio::join!(write_status(api, &id, uid.as_str(), status), patch_device);
    Written { id, uid, status, device }
}

async fn write_status(api: &ApiServer, id: &DeviceId, uid: &str, write: Option<StatusWrite>) -> Wrote {
    let owner = || {
        json!([{"apiVersion": API_VERSION, "kind": "Device", "name": id.name.as_str(), "uid": uid,
            "controller": true, "blockOwnerDeletion": true}])
    };
    match write {
        None => Wrote::Nothing,
        Some(StatusWrite::Patch(status)) => {
            patched(id, "DeviceStatus", patch_object(api, STATUSES, id, json!({"status": status})).await)
        }
        Some(StatusWrite::TakeOver(status)) => {
            // What the Device before was must not show. `extensions` is others' to clear.
            let mut whole =
                Map::from_iter(["state", "lastOnlineTime"].map(|name| (name.to_owned(), Value::Null)));
            whole.extend(status);
            let patch = json!({"metadata": {"ownerReferences": owner()}, "status": whole});
            patched(id, "DeviceStatus", patch_object(api, STATUSES, id, patch).await)
        }
        Some(StatusWrite::Create(status)) => {
            let object = json!({"apiVersion": API_VERSION, "kind": "DeviceStatus",
                "metadata": {"name": id.name.as_str(), "namespace": id.namespace.as_str(), "ownerReferences": owner()},
                "spec": {}, "status": status});
            let call =
                Call::new(Method::POST, folder(STATUSES, id)).with(Content::Json, object.to_string().into());
            match api.call(call).await {
                Ok(body) => Wrote::Done(version(&body)),
                Err(refused) if refused.reason == Reason::AlreadyExists => read_status(api, id).await,
                // The namespace, or the definition itself, is not there: both may come to be.
                Err(refused) if refused.reason == Reason::NotFound => Wrote::Away,
                Err(refused) => not_written(id, "DeviceStatus", &refused),
            }
        }
    }
}

async fn read_status(api: &ApiServer, id: &DeviceId) -> Wrote {
    match api.call(Call::new(Method::GET, path(STATUSES, id))).await {
        Ok(body) => match serde_json::from_slice::<Value>(&body) {
            Ok(object) => Wrote::Exists(Box::new(Found::of(&object))),
            Err(_) => Wrote::Away,
        },
        Err(refused) if refused.reason == Reason::NotFound => Wrote::Missing,
        Err(refused) => not_written(id, "DeviceStatus", &refused),
    }
}

/// Makes a Device, or changes how one is reached, by what a node found. What fails is tried when it is found again.
pub(super) async fn discovered(api: &ApiServer, node: &NodeName, step: Step) {
    let (id, what, outcome) = match step {
        Step::Create(id, object) => {
            let call = Call::new(Method::POST, folder(DEVICES, &id) + MANAGER)
                .with(Content::Json, object.to_string().into());
            (id, "a device was found and a Device made of it", api.call(call).await)
        }
        Step::Reach(id, uid, config_data) => {
            let patch =
                json!({"metadata": {"uid": uid.as_str()}, "spec": {"protocol": {"configData": config_data}}});
            let call = Call::new(Method::PATCH, path(DEVICES, &id) + MANAGER)
                .with(Content::MergePatch, patch.to_string().into());
            (id, "a device is reached in another way now", api.call(call).await)
        }
    };
    match outcome {
        Ok(_) => tracing::info!(%node, device = %id, "{what}"),
        // The watch has not told of it yet.
        Err(refused) if refused.reason == Reason::AlreadyExists => {}
        Err(refused) => tracing::warn!(
            %node,
            device = %id,
            "a device was found but its Device not written, trying again when it is found again: {refused}; does \
             cloudcore's ClusterRole have create and patch for devices of devices.kubeedge.io?"
        ),
    }
}

async fn patch_object(
    api: &ApiServer,
    plural: &str,
    id: &DeviceId,
    patch: Value,
) -> Result<Version, Box<Refusal>> {
    let call = Call::new(Method::PATCH, path(plural, id) + MANAGER)
        .with(Content::MergePatch, patch.to_string().into());
    api.call(call).await.map(|body| version(&body)).map_err(Box::new)
}

fn patched(id: &DeviceId, kind: &'static str, outcome: Result<Version, Box<Refusal>>) -> Wrote {
    match outcome {
        Ok(version) => Wrote::Done(version),
        Err(refused) if refused.reason == Reason::NotFound => Wrote::Missing,
        // A conflict is another Device by now (only the uid is compared), which the watch will tell, or many writers.
        Err(refused) => not_written(id, kind, &refused),
    }
}

fn not_written(id: &DeviceId, kind: &'static str, refused: &Refusal) -> Wrote {
    let is_final = matches!(refused.reason, Reason::Forbidden | Reason::Invalid | Reason::BadRequest);
    if is_final {
        tracing::warn!(
            device = %id,
            "the {kind} is not written, trying again in a minute: {refused}; does cloudcore's ClusterRole have patch and \
             create for devices and devicestatuses of devices.kubeedge.io?"
        );
        Wrote::Refused
    } else {
        tracing::debug!(device = %id, "the {kind} is not written, trying again: {refused}");
        Wrote::Away
    }
}

/// A Kubernetes event about an object: kind, name, uid. Best effort: a condition or the log says the same.
pub(super) async fn tell(
    api: &ApiServer,
    (kind, id, uid): (&Kind, &DeviceId, &str),
    what: &str,
    message: &str,
    stamp: &str,
) {
    let name = format!("{}.{}", id.name, uuid::Uuid::new_v4().simple());
    let kind = api_type(kind).map_or("Device", |api| api.kind);
    // The API server takes no longer ones.
    let message: String = message.chars().take(1000).collect();
    let event = json!({"apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": id.namespace.as_str()},
        "involvedObject": {"apiVersion": API_VERSION, "kind": kind, "namespace": id.namespace.as_str(),
            "name": id.name.as_str(), "uid": uid},
        "type": "Warning", "reason": what, "message": message, "count": 1,
        "source": {"component": "cloudcore"}, "firstTimestamp": stamp, "lastTimestamp": stamp});
    let path = format!("/api/v1/namespaces/{}/events", id.namespace);
    let call = Call::new(Method::POST, path).with(Content::Json, event.to_string().into());
    if let Err(refused) = api.call(call).await {
        tracing::warn!(%id, "tell {what} in an event: {refused}");
    }
}

fn folder(plural: &str, id: &DeviceId) -> String {
    format!("/apis/{API_VERSION}/namespaces/{}/{plural}", id.namespace)
}

/// Names of devices are checked by the API server; escaped all the same, by the one function that does.
fn path(plural: &str, id: &DeviceId) -> String {
    let escaped = object_path(&id.key(Kind::Device), "").unwrap_or_default();
    let name = escaped.rsplit('/').next().unwrap_or_default();
    format!("{}/{name}", folder(plural, id))
}

fn version(body: &[u8]) -> Version {
    #[derive(Deserialize)]
    struct Object {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        resource_version: String,
    }
    let object = serde_json::from_slice::<Object>(body).ok();
    object.and_then(|object| object.metadata.resource_version.parse().ok()).unwrap_or(Version::NONE)
}
