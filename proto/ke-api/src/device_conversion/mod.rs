//! Devices and models from `devices.kubeedge.io/v1alpha2` to `v1beta1` and back. Pure: JSON in, JSON out.
//!
//! Called for every object in a conversion review. Both ways are faithful: there and back gives the same object. What
//! the other version has no place for travels in an annotation named after the version that has it. An edit in the
//! version at hand always wins over what an annotation remembers. Only labels and annotations of the metadata may
//! differ, the API server refuses every other change; of those only our two annotations do. An empty map of annotations
//! becomes none, as the API server has it.

mod device;
mod device_parts;
mod faithful;
mod model;
mod parts;
mod settings;

#[cfg(test)]
mod tests;

use serde_json::Value;

use faithful::{Direction, Shapes};
use parts::{Object, WrongField};

/// Group of the device resources.
pub const GROUP: &str = "devices.kubeedge.io";
/// What only v1alpha2 has, on an object in the form of v1beta1: JSON.
pub const ALPHA_ANNOTATION: &str = "isthmus.io/v1alpha2";
/// What only v1beta1 has, on an object in the form of v1alpha2: JSON.
pub const BETA_ANNOTATION: &str = "isthmus.io/v1beta1";

/// All annotations of an object may have 256 KiB together; the rest is for others, such as kubectl's copy of the
/// manifest.
const LONGEST_ANNOTATION: usize = 96 * 1024;

/// Why an object cannot be converted: which object, which field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{object}: {field} {problem}")]
pub struct ConversionError {
    /// Kind, namespace and name, as far as the object tells.
    pub object: String,
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// `object` in the form of `desired` (`devices.kubeedge.io/v1beta1` or `.../v1alpha2`). One that has this form already
/// comes back as it is; a DeviceStatus has one shape in both versions, so only its version is rewritten.
/// Errors: an object that is none of ours, or a field whose shape no schema of either version admits.
pub fn convert(object: Value, desired: &str) -> Result<Value, ConversionError> {
    let name = described(&object);
    let refused = |field: &str, problem: &str| ConversionError {
        object: name.clone(),
        field: field.to_owned(),
        problem: problem.to_owned(),
    };
    let Value::Object(mut object) = object else { return Err(refused("it", "is no JSON object")) };
    let (given, wanted) = (version(object.get("apiVersion")), version(Some(&Value::from(desired))));
    let (Some(given), Some(wanted)) = (given, wanted) else {
        return Err(if wanted.is_none() {
            refused("desiredAPIVersion", &format!("{desired:?} is none that is converted to"))
        } else {
            refused("apiVersion", "is none that is converted")
        });
    };
    if given == wanted {
        return Ok(Value::Object(object));
    }
    let id = id(&object);
    let shapes: &dyn Shapes = match object.get("kind").and_then(Value::as_str) {
        Some("Device") => &device::Device { id: &id },
        Some("DeviceModel") => &model::DeviceModel,
        Some("DeviceStatus") => {
            object.insert("apiVersion".to_owned(), desired.into());
            return Ok(Value::Object(object));
        }
        _ => return Err(refused("kind", "is none that is converted")),
    };
    let mut head = Object::new();
    for field in ["apiVersion", "kind", "metadata"] {
        head.extend(object.remove_entry(field));
    }
    let (restores, remembers) = match wanted {
        Direction::ToBeta => (BETA_ANNOTATION, ALPHA_ANNOTATION),
        Direction::ToAlpha => (ALPHA_ANNOTATION, BETA_ANNOTATION),
    };
    let kept = take_annotation(&mut head, restores);
    let (mut converted, lost) = faithful::convert(shapes, wanted, &object, &kept)
        .map_err(|WrongField { field, problem }| refused(&field, problem))?;
    annotate(&mut head, remembers, lost);
    head.insert("apiVersion".to_owned(), desired.into());
    converted.append(&mut head);
    Ok(Value::Object(converted))
}

/// The way to a version; `None` for a version that is not ours.
fn version(api_version: Option<&Value>) -> Option<Direction> {
    match api_version?.as_str()?.split_once('/')? {
        (GROUP, "v1beta1") => Some(Direction::ToBeta),
        (GROUP, "v1alpha2") => Some(Direction::ToAlpha),
        _ => None,
    }
}

/// Namespace and name, as devices are called on a node.
fn id(object: &Object) -> String {
    let metadata = object.get("metadata");
    let text = |field: &str| metadata.and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
    let name = text("name").or_else(|| text("generateName")).unwrap_or_default();
    format!("{}/{name}", text("namespace").unwrap_or("default"))
}

fn described(object: &Value) -> String {
    let Value::Object(object) = object else { return "an object".to_owned() };
    format!("{} {}", object.get("kind").and_then(Value::as_str).unwrap_or("an object of no kind"), id(object))
}

/// What an annotation of ours holds. One that a person broke holds nothing: the object itself is whole without it.
fn take_annotation(head: &mut Object, name: &str) -> Object {
    let annotations = head.get_mut("metadata").and_then(|metadata| metadata.get_mut("annotations"));
    let Some(annotations) = annotations.and_then(Value::as_object_mut) else { return Object::new() };
    let text = annotations.remove(name);
    text.as_ref().and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn annotate(head: &mut Object, name: &str, mut lost: Object) {
    let mut text = Value::Object(lost.clone()).to_string();
    if text.len() > LONGEST_ANNOTATION && lost.remove(faithful::WHOLE).is_some() {
        text = Value::Object(lost.clone()).to_string();
    }
    let metadata = head.entry("metadata").or_insert_with(|| Value::Object(Object::new()));
    let Some(metadata) = metadata.as_object_mut() else { return };
    if lost.is_empty() {
        let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
        if annotations.is_some_and(|annotations| {
            annotations.remove(name);
            annotations.is_empty()
        }) {
            metadata.remove("annotations");
        }
    } else {
        let annotations = metadata.entry("annotations").or_insert(Value::Null);
        if !annotations.is_object() {
            *annotations = Value::Object(Object::new());
        }
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(name.to_owned(), text.into());
        }
    }
}
