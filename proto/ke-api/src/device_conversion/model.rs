//! DeviceModel: the type of a property is an object of one member in v1alpha2, and a word with fields beside it in
//! v1beta1. Pure.

use serde_json::{Number, Value, json};

use super::faithful::{Direction, Shapes};
use super::parts::{
    Entries, Object, WrongField, entries, kept_object, member, object, put, put_members, restored, without,
};

/// Member of v1alpha2's `type`, word of v1beta1. The first that is there counts.
const TYPES: &[(&str, &str)] = &[
    ("int", "INT"),
    ("double", "DOUBLE"),
    ("float", "FLOAT"),
    ("string", "STRING"),
    ("boolean", "BOOLEAN"),
    ("bytes", "BYTES"),
];
/// Types with a range and a unit.
const NUMBERS: [&str; 3] = ["int", "double", "float"];
/// What v1beta1 has instead of the one object.
const TYPE_FIELDS: [&str; 5] = ["type", "accessMode", "minimum", "maximum", "unit"];

pub(super) struct DeviceModel;

impl Shapes for DeviceModel {
    fn build(&self, to: Direction, given: &Object, kept: &Object) -> Result<Object, WrongField> {
        let spec = object(Some(given), "", "spec")?;
        let properties = properties(spec)?;
        let mut built_spec = kept_object(kept, "spec", &["properties", "protocol"]);
        put(&mut built_spec, "protocol", member(spec, "protocol"));
        if let Some(properties) = properties {
            let built = properties.list.iter().map(|property| {
                let own: &[&str] = if to == Direction::ToBeta { &TYPE_FIELDS } else { &["type"] };
                let mut built = kept_object(kept, &format!("property/{}", property.key), own);
                put(&mut built, "name", member(Some(property.members), "name"));
                put(&mut built, "description", member(Some(property.members), "description"));
                let kept_type = kept.get(&format!("type/{}", property.key));
                match to {
                    Direction::ToBeta => {
                        built.extend(type_to_beta(&member(Some(property.members), "type"), kept_type));
                    }
                    Direction::ToAlpha => {
                        put(&mut built, "type", type_to_alpha(&type_fields(property.members), kept_type));
                    }
                }
                Value::Object(built)
            });
            built_spec.insert("properties".to_owned(), built.collect());
        }
        let mut built = kept_object(kept, "top", &["spec"]);
        if spec.is_some() || !built_spec.is_empty() {
            built.insert("spec".to_owned(), Value::Object(built_spec));
        }
        Ok(built)
    }

    fn parts(&self, to: Direction, given: &Object) -> Result<Object, WrongField> {
        let spec = object(Some(given), "", "spec")?;
        let mut parts = Object::new();
        put_members(&mut parts, "top", without(Some(given), &["spec"]));
        put_members(&mut parts, "spec", without(spec, &["properties", "protocol"]));
        for property in properties(spec)?.unwrap_or_default().list {
            let mut rest = without(Some(property.members), &["name", "description", "type"]);
            let part = match to {
                Direction::ToBeta => member(Some(property.members), "type"),
                Direction::ToAlpha => {
                    rest = without(Some(&rest), &TYPE_FIELDS);
                    type_fields(property.members)
                }
            };
            put(&mut parts, &format!("type/{}", property.key), part);
            put_members(&mut parts, &format!("property/{}", property.key), rest);
        }
        Ok(parts)
    }
}

fn properties(spec: Option<&Object>) -> Result<Option<Entries<'_>>, WrongField> {
    entries(spec, "spec.", "properties", "name")
}

/// Those fields of a v1beta1 property that are `type` in v1alpha2.
fn type_fields(property: &Object) -> Value {
    let mut fields = property.clone();
    fields.retain(|name, _| TYPE_FIELDS.contains(&name.as_str()));
    Value::Object(fields)
}

fn type_to_beta(alpha: &Value, kept: Option<&Value>) -> Object {
    let built = restored(kept, Value::is_object, alpha, plain_type_to_alpha, plain_type_to_beta);
    let Value::Object(mut fields) = built else { return Object::new() };
    // A stream is shown as bytes to v1alpha2 and stays one when something else of it is edited there.
    let was_stream = kept.is_some_and(|kept| kept.get("type") == Some(&json!("STREAM")));
    if was_stream && fields.get("type") == Some(&json!("BYTES")) {
        fields.insert("type".to_owned(), "STREAM".into());
    }
    fields
}

fn type_to_alpha(fields: &Value, kept: Option<&Value>) -> Value {
    let mut built = restored(kept, Value::is_object, fields, plain_type_to_beta, plain_type_to_alpha);
    // The default has no counterpart, so an edit of something else cannot mean it.
    for (name, _) in TYPES {
        let default = kept.and_then(|kept| kept.get(name)).and_then(|kept| kept.get("defaultValue"));
        if let (Some(default), Some(Value::Object(members))) = (default, built.get_mut(name)) {
            members.insert("defaultValue".to_owned(), default.clone());
        }
    }
    built
}

/// Always an object: the fields beside each other.
fn plain_type_to_beta(alpha: &Value) -> Value {
    let mut fields = Object::new();
    let first = TYPES.iter().find_map(|(name, word)| Some((*word, alpha.get(name)?.as_object()?)));
    if let Some((word, members)) = first {
        fields.insert("type".to_owned(), word.into());
        for name in ["accessMode", "unit"] {
            put(&mut fields, name, member(Some(members), name));
        }
        for name in ["minimum", "maximum"] {
            if let Some(Value::Number(limit)) = members.get(name) {
                fields.insert(name.to_owned(), decimal(limit).into());
            }
        }
    }
    Value::Object(fields)
}

fn plain_type_to_alpha(fields: &Value) -> Value {
    let word = fields.get("type").and_then(Value::as_str).unwrap_or_default();
    let word = if word == "STREAM" { "BYTES" } else { word };
    let Some((name, _)) = TYPES.iter().find(|(_, known)| *known == word) else { return Value::Null };
    let fields = fields.as_object();
    let mut members = Object::new();
    put(&mut members, "accessMode", member(fields, "accessMode"));
    if NUMBERS.contains(name) {
        put(&mut members, "unit", member(fields, "unit"));
        for limit in ["minimum", "maximum"] {
            let text = fields.and_then(|fields| fields.get(limit)).and_then(Value::as_str);
            put(&mut members, limit, text.and_then(|text| number(text, *name == "int")).unwrap_or_default());
        }
    }
    let mut alpha = Object::new();
    alpha.insert((*name).to_owned(), Value::Object(members));
    Value::Object(alpha)
}

/// Digits without an exponent, as people and mappers write limits.
fn decimal(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => float.to_string(),
        _ => number.to_string(),
    }
}

fn number(text: &str, whole: bool) -> Option<Value> {
    let text = text.trim();
    if let Ok(integer) = text.parse::<i64>() {
        return Some(integer.into());
    }
    let float = text.parse::<f64>().ok().filter(|float| float.is_finite() && !whole)?;
    Some(float.into())
}
