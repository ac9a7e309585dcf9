//! Connection and access settings: v1alpha2 has fields per protocol, v1beta1 a name and one flat map of scalars. Pure.
//!
//! Every function takes and gives `null` for what is absent.

use serde_json::Value;

use super::parts::Object;
use crate::device_v1alpha2_protocol::{
    BAUD_RATES, COLLECT_TYPES, DATA_BITS, DataConverter, PARITIES, REGISTERS, STOP_BITS,
};

/// What v1alpha2 admits in a field.
#[derive(Clone, Copy)]
enum Fits {
    Text,
    Integer,
    Number,
    Flag,
    OneWord(&'static [&'static str]),
    OneNumber(&'static [i64]),
    /// An object there, JSON text in v1beta1: nested values cannot cross to a mapper.
    Nested(fn(&Object) -> bool),
}

type Fields = &'static [(&'static str, Fits)];

const PROTOCOLS: &[(&str, Fields)] = &[
    ("modbus", &[("slaveID", Fits::Integer)]),
    (
        "opcua",
        &[
            ("url", Fits::Text),
            ("userName", Fits::Text),
            ("password", Fits::Text),
            ("securityPolicy", Fits::Text),
            ("securityMode", Fits::Text),
            ("certificate", Fits::Text),
            ("privateKey", Fits::Text),
            ("timeout", Fits::Integer),
        ],
    ),
    ("bluetooth", &[("macAddress", Fits::Text)]),
];

const TCP: Fields = &[("ip", Fits::Text), ("port", Fits::Integer)];

const COM: Fields = &[
    ("serialPort", Fits::Text),
    ("baudRate", Fits::OneNumber(BAUD_RATES)),
    ("dataBits", Fits::OneNumber(DATA_BITS)),
    ("parity", Fits::OneWord(PARITIES)),
    ("stopBits", Fits::OneNumber(STOP_BITS)),
];

const COMMON: Fields = &[
    ("commType", Fits::Text),
    ("reconnTimeout", Fits::Integer),
    ("reconnRetryTimes", Fits::Integer),
    ("collectTimeout", Fits::Integer),
    ("collectRetryTimes", Fits::Integer),
    ("collectType", Fits::OneWord(COLLECT_TYPES)),
];

const VISITORS: &[(&str, Fields)] = &[
    (
        "modbus",
        &[
            ("register", Fits::OneWord(REGISTERS)),
            ("offset", Fits::Integer),
            ("limit", Fits::Integer),
            ("scale", Fits::Number),
            ("isSwap", Fits::Flag),
            ("isRegisterSwap", Fits::Flag),
        ],
    ),
    ("opcua", &[("nodeID", Fits::Text), ("browseName", Fits::Text)]),
    (
        "bluetooth",
        &[
            ("characteristicUUID", Fits::Text),
            ("dataWrite", Fits::Nested(all_texts)),
            ("dataConverter", Fits::Nested(is_converter)),
        ],
    ),
];

/// `spec.protocol` of v1alpha2 in the form of v1beta1.
pub(super) fn protocol_to_beta(alpha: &Value) -> Value {
    let Value::Object(alpha) = alpha else { return Value::Null };
    let mut config = Object::new();
    if let Some(Value::Object(common)) = alpha.get("common") {
        if let Some(Value::Object(customized)) = common.get("customizedValues") {
            flatten(&mut config, customized);
        }
        let mut plain = common.clone();
        plain.remove("customizedValues");
        for line in ["com", "tcp"] {
            if let Some(Value::Object(line)) = plain.remove(line) {
                flatten(&mut config, &line);
            }
        }
        flatten(&mut config, &plain);
    }
    named(alpha, PROTOCOLS, config)
}

/// `spec.protocol` of v1beta1 in the form of v1alpha2.
pub(super) fn protocol_to_alpha(beta: &Value) -> Value {
    let Value::Object(beta) = beta else { return Value::Null };
    let mut alpha = Object::new();
    let rest = unnamed(&mut alpha, beta, PROTOCOLS);
    if let Some(mut rest) = rest {
        let tcp = split(&mut rest, TCP);
        let com = split(&mut rest, COM);
        let mut common = split(&mut rest, COMMON);
        for (name, members) in [("tcp", tcp), ("com", com), ("customizedValues", rest)] {
            super::parts::put_members(&mut common, name, members);
        }
        super::parts::put_members(&mut alpha, "common", common);
    }
    Value::Object(alpha)
}

/// A visitor of v1alpha2, without name and cycles, in the form of v1beta1. One that says nothing is none.
pub(super) fn visitor_to_beta(alpha: &Value) -> Value {
    let Value::Object(alpha) = alpha else { return Value::Null };
    let mut config = Object::new();
    if let Some(Value::Object(customized)) = alpha.get("customizedValues") {
        flatten(&mut config, customized);
    }
    match named(alpha, VISITORS, config) {
        Value::Object(nothing) if nothing.is_empty() => Value::Null,
        beta => beta,
    }
}

/// Visitors of a property of v1beta1 in the form of v1alpha2, without name and cycles.
pub(super) fn visitor_to_alpha(beta: &Value) -> Value {
    let Value::Object(beta) = beta else { return Value::Null };
    let mut alpha = Object::new();
    if let Some(rest) = unnamed(&mut alpha, beta, VISITORS) {
        super::parts::put_members(&mut alpha, "customizedValues", rest);
    }
    Value::Object(alpha)
}

/// A cycle of v1alpha2 in milliseconds. So long a cycle would be a day and more if it were milliseconds already.
pub(super) fn cycle_to_beta(alpha: &Value) -> Value {
    match alpha.as_i64() {
        Some(nanoseconds) if nanoseconds >= 100_000_000 => (nanoseconds / 1_000_000).into(),
        _ => alpha.clone(),
    }
}

/// The node that a selector of v1alpha2 means: keys and operators never had an effect.
pub(super) fn node_name(selector: &Value) -> Value {
    let name = selector.pointer("/nodeSelectorTerms/0/matchExpressions/0/values/0");
    name.filter(|name| name.is_string()).cloned().unwrap_or_default()
}

/// A selector that means this node.
pub(super) fn node_selector(name: &Value) -> Value {
    match name.as_str() {
        None | Some("") => Value::Null,
        Some(name) => serde_json::json!({"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "kubernetes.io/hostname", "operator": "In", "values": [name]},
        ]}]}),
    }
}

/// Name and flat settings of the first protocol that `alpha` names, over those in `config`.
fn named(alpha: &Object, protocols: &[(&str, Fields)], mut config: Object) -> Value {
    let mut beta = Object::new();
    let mut must_have_config = false;
    let own = protocols.iter().find_map(|(name, _)| match alpha.get(*name) {
        Some(Value::Object(members)) => Some((*name, members)),
        _ => None,
    });
    if let Some((name, members)) = own {
        beta.insert("protocolName".to_owned(), name.into());
        flatten(&mut config, members);
    } else if let Some(Value::Object(customized)) = alpha.get("customizedProtocol") {
        super::parts::put(&mut beta, "protocolName", super::parts::member(Some(customized), "protocolName"));
        if let Some(Value::Object(members)) = customized.get("configData") {
            must_have_config = true;
            config.extend(members.clone());
        }
    }
    if must_have_config || !config.is_empty() {
        beta.insert("configData".to_owned(), Value::Object(config));
    }
    Value::Object(beta)
}

/// Puts the protocol's own member into `alpha`; gives the settings that have no place in it. A protocol without fields
/// of its own takes them all.
fn unnamed(alpha: &mut Object, beta: &Object, protocols: &[(&str, Fields)]) -> Option<Object> {
    let name = beta.get("protocolName").and_then(Value::as_str).unwrap_or_default();
    let config = beta.get("configData").and_then(Value::as_object);
    let mut rest = config.cloned().unwrap_or_default();
    if let Some((name, fields)) = protocols.iter().find(|(known, _)| *known == name) {
        let own = split(&mut rest, fields);
        alpha.insert((*name).to_owned(), Value::Object(own));
    } else if !name.is_empty() {
        let mut customized = Object::new();
        customized.insert("protocolName".to_owned(), name.into());
        if config.is_some() {
            customized.insert("configData".to_owned(), Value::Object(rest));
        }
        alpha.insert("customizedProtocol".to_owned(), Value::Object(customized));
        return None;
    }
    Some(rest)
}

/// Adds the members; nested ones as JSON text.
fn flatten(into: &mut Object, members: &Object) {
    for (name, value) in members {
        let flat = match value {
            Value::Null => continue,
            Value::Object(_) | Value::Array(_) => Value::from(value.to_string()),
            scalar => scalar.clone(),
        };
        into.insert(name.clone(), flat);
    }
}

/// Takes the settings that have a field and fit into it.
fn split(config: &mut Object, fields: Fields) -> Object {
    let mut found = Object::new();
    for (name, fits) in fields {
        if let Some(value) = config.get(*name).and_then(|value| fits.take(value)) {
            config.remove(*name);
            found.insert((*name).to_owned(), value);
        }
    }
    found
}

impl Fits {
    /// The value in v1alpha2's form. Numbers and flags may be text in v1beta1, many manifests write them so.
    fn take(self, value: &Value) -> Option<Value> {
        match self {
            Self::Text => value.is_string().then(|| value.clone()),
            Self::Integer => integer(value).map(Value::from),
            Self::Number => match value {
                Value::Number(_) => Some(value.clone()),
                Value::String(text) => {
                    text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from)
                }
                _ => None,
            },
            Self::Flag => match value {
                Value::Bool(_) => Some(value.clone()),
                Value::String(text) => text.parse::<bool>().ok().map(Value::from),
                _ => None,
            },
            Self::OneWord(admitted) => value.as_str().filter(|word| admitted.contains(word)).map(Value::from),
            Self::OneNumber(admitted) => {
                integer(value).filter(|number| admitted.contains(number)).map(Value::from)
            }
            Self::Nested(admits) => {
                let nested: Object = serde_json::from_str(value.as_str()?).ok()?;
                admits(&nested).then_some(Value::Object(nested))
            }
        }
    }
}

fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn all_texts(nested: &Object) -> bool {
    nested.values().all(Value::is_string)
}

fn is_converter(nested: &Object) -> bool {
    serde_json::from_value::<DataConverter>(Value::Object(nested.clone())).is_ok()
}
