//! Pure: a Device or DeviceModel as the API server showed it, and what of it matters here.
//!
//! It keeps the JSON that goes to the edge as JSON, so that fields newer than our types reach it, and of the typed form
//! only what is judged. Made by `watch.rs`.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use ke_api::device::{AccessMode, DeviceModelSpec, DeviceSpec, Visitors};
use ke_api::device_conversion::ALPHA_ANNOTATION;
use ke_api::object::api_type;
use ke_wire::{Change, DeviceId, DeviceRef, Kind, Origin, Uid, Version};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::says::{DeviceSays, ModelProperty, ModelSays, PropertySays};
use super::translate::Shown;
use crate::node_queue::{Desired, Gone};

/// The members of a Device's status that this module writes. What an edge is sent is the Device without them: our own
/// word must not come back to where it came from.
const OURS: [&str; 4] = ["twins", "state", "lastOnlineTime", "conditions"];
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Why an object is of no use. It stops no other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// A field without which nothing can be delivered.
    #[error("a {kind} ({name:?}) has no usable metadata.{field}")]
    Field { kind: String, name: String, field: &'static str },
    /// The spec is no spec of v1beta1.
    #[error("{kind} {id} cannot be read: {problem}{hint}")]
    Spec { kind: String, id: String, problem: String, hint: &'static str },
}

/// What devices and models have in common.
#[derive(Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) id: DeviceId,
    pub(super) uid: Uid,
    pub(super) version: Version,
    /// As it goes to the edge.
    pub(super) body: Bytes,
    /// A number that changes when something changes that the edge must be told.
    pub(super) shape: u64,
}

// The body may hold a device's password.
impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stored({} {} {})", self.id, self.uid, self.version.number())
    }
}

impl Stored {
    pub(super) fn desired(&self, kind: Kind, change: Change) -> Desired {
        Desired {
            key: self.id.key(kind),
            uid: self.uid.clone(),
            version: self.version,
            change,
            origin: Origin::DeviceController,
            body: self.body.clone(),
        }
    }

    pub(super) fn gone(&self, kind: Kind) -> Gone {
        Gone {
            key: self.id.key(kind),
            uid: self.uid.clone(),
            version: Some(self.version),
            origin: Origin::DeviceController,
            body: self.body.clone(),
        }
    }
}

/// A Device.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeenDevice {
    pub(super) stored: Stored,
    pub(super) says: DeviceSays,
    /// What its status says now.
    pub(super) shown: Shown,
}

/// A DeviceModel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeenModel {
    pub(super) stored: Stored,
    pub(super) says: ModelSays,
}

impl SeenDevice {
    pub(super) fn new(object: Value) -> Result<Self, Unusable> {
        let mut object = as_object(object);
        let status = object.get("status").and_then(Value::as_object).cloned().unwrap_or_default();
        let is_from_alpha = annotation(&object, LAST_APPLIED)
            .is_some_and(|text| text.contains("\"devices.kubeedge.io/v1alpha2\""));
        let description = object
            .get("metadata")
            .and_then(|metadata| metadata.pointer("/labels/description"))
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        // The settings that older manifests have there stay.
        let mut settings = status.clone();
        OURS.iter().for_each(|ours| drop(settings.remove(*ours)));
        object.insert("status".to_owned(), Value::Object(settings.clone()));
        let (stored, spec) = stored::<DeviceSpec>(&Kind::Device, object, &Value::Object(settings))?;
        let properties = spec.properties.into_iter().map(|property| PropertySays {
            has_visitors: says_something(property.visitors.as_ref()),
            name: property.name,
            desired: property.desired,
        });
        let says = DeviceSays {
            node: spec.node_name,
            model: spec.device_model_ref.map(|model| model.name).unwrap_or_default(),
            protocol: spec.protocol.protocol_name,
            properties: properties.collect(),
            description,
            is_from_alpha,
        };
        let shown = Shown::read(stored.version, &status);
        Ok(Self { stored, says, shown })
    }

    pub(super) fn reference(&self) -> DeviceRef {
        DeviceRef {
            id: self.stored.id.clone(),
            name: self.stored.id.name.to_string(),
            description: self.says.description.clone(),
        }
    }
}

impl SeenModel {
    pub(super) fn new(object: Value) -> Result<Self, Unusable> {
        let (stored, spec) = stored::<DeviceModelSpec>(&Kind::DeviceModel, as_object(object), &Value::Null)?;
        let protocol = spec.protocol;
        let properties = spec.properties.into_iter().map(|property| ModelProperty {
            has_visitors: says_something(property.visitors.as_ref()),
            name: property.name,
            data_type: property.data_type,
            is_read_only: property.access_mode == Some(AccessMode::ReadOnly),
            minimum: property.minimum,
            maximum: property.maximum,
        });
        Ok(Self { stored, says: ModelSays { protocol, properties: properties.collect() } })
    }
}

/// Namespace and name, where the object has both.
pub(super) fn id_of(object: &Value) -> Option<DeviceId> {
    let text = |field: &str| object.get("metadata")?.get(field)?.as_str();
    Some(DeviceId { namespace: text("namespace")?.parse().ok()?, name: text("name")?.parse().ok()? })
}

fn as_object(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

fn annotation<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

fn says_something(visitors: Option<&Visitors>) -> bool {
    visitors.is_some_and(|visitors| visitors.config_data.as_ref().is_some_and(|data| !data.is_empty()))
}

fn stored<S: DeserializeOwned + Default>(
    kind: &Kind,
    mut object: Map<String, Value>,
    beside: &Value,
) -> Result<(Stored, S), Unusable> {
    if let Some(api) = api_type(kind) {
        object.insert("apiVersion".to_owned(), api.api_version.into());
        object.insert("kind".to_owned(), api.kind.into());
    }
    let text = |object: &Map<String, Value>, field: &str| {
        let text = object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let name = text(&object, "name");
    let unusable = |field| Unusable::Field { kind: kind.as_str().to_owned(), name: name.clone(), field };
    let id = DeviceId {
        namespace: text(&object, "namespace").parse().map_err(|_| unusable("namespace"))?,
        name: name.parse().map_err(|_| unusable("name"))?,
    };
    let uid = text(&object, "uid").parse().map_err(|_| unusable("uid"))?;
    let version = text(&object, "resourceVersion").parse().map_err(|_| unusable("resourceVersion"))?;
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        // What only the other version has is nothing to an edge, and may be large.
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(ALPHA_ANNOTATION);
        }
    }
    let spec = object.get("spec").cloned().unwrap_or(Value::Null);
    let mut hasher = DefaultHasher::new();
    (spec.to_string(), beside.to_string()).hash(&mut hasher);
    let spec = Option::<S>::deserialize(spec).map_err(|cause| Unusable::Spec {
        kind: kind.as_str().to_owned(),
        id: id.to_string(),
        problem: cause.to_string(),
        hint: "; written as v1alpha2 without a conversion? Then apply its manifest once more",
    })?;
    let body = Value::Object(object).to_string().into_boxed_str().into_boxed_bytes().into();
    Ok((Stored { id, uid, version, body, shape: hasher.finish() }, spec.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn device(spec: Value, status: Value) -> Result<SeenDevice, Unusable> {
        SeenDevice::new(json!({
            "metadata": {"name": "oven-1", "namespace": "plant", "uid": "u", "resourceVersion": "7",
                "managedFields": [{}], "labels": {"description": "hall-3"},
                "annotations": {ALPHA_ANNOTATION: "{}", "keep": "me"}},
            "spec": spec, "status": status,
        }))
    }

    #[test]
    fn what_the_edge_is_sent_has_none_of_our_own_words() {
        let status = json!({"twins": [{"propertyName": "heat"}], "state": "online", "lastOnlineTime": "now",
            "conditions": [], "reportToCloud": true});
        let seen = device(json!({"nodeName": "e1", "newField": {"x": 1}}), status).unwrap();
        let body: Value = serde_json::from_slice(&seen.stored.body).unwrap();
        assert_eq!(body["status"], json!({"reportToCloud": true}));
        assert_eq!(body["spec"]["newField"], json!({"x": 1}));
        assert_eq!(
            (&body["kind"], &body["apiVersion"]),
            (&json!("Device"), &json!("devices.kubeedge.io/v1beta1"))
        );
        assert_eq!(body["metadata"]["annotations"], json!({"keep": "me"}));
        assert!(body["metadata"].get("managedFields").is_none());
        assert_eq!(seen.reference().description, "hall-3");
    }

    #[test]
    fn only_what_the_edge_must_know_changes_the_shape() {
        let shape = |spec: Value, status: Value| device(spec, status).unwrap().stored.shape;
        let base = shape(json!({"nodeName": "e1"}), json!({}));
        assert_eq!(base, shape(json!({"nodeName": "e1"}), json!({"state": "online", "twins": [1]})));
        assert_ne!(base, shape(json!({"nodeName": "e1"}), json!({"reportToCloud": true})));
        assert_ne!(base, shape(json!({"nodeName": "e2"}), json!({})));
    }

    #[test]
    fn bad_objects_say_what_is_wrong() {
        let check = |object: Value, expected: &str| {
            let text = SeenModel::new(object).unwrap_err().to_string();
            assert!(text.starts_with(expected), "{text}");
        };
        check(json!(7), "a devicemodel (\"\") has no usable metadata.namespace");
        let metadata = json!({"name": "m", "namespace": "n", "uid": "u", "resourceVersion": "1"});
        check(
            json!({"metadata": metadata, "spec": {"properties": [{"name": "t", "type": {}}]}}),
            "devicemodel n/m cannot be read: invalid ",
        );
        let bare = SeenModel::new(json!({"metadata": metadata})).unwrap();
        assert!(bare.says.properties.is_empty());
        assert!(device(Value::Null, Value::Null).unwrap().says.node.is_empty());
    }
}
