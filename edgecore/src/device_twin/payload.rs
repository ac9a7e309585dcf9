//! Pure: the JSON documents of the device topics, from bytes to what is asked and from what happened to bytes.
//!
//! Every value is a text, whatever its type; times are Unix milliseconds of the edge's clock. Topics are `topic.rs`'s.

use std::collections::BTreeMap;

use bytes::Bytes;
use ke_wire::{DeviceId, ToldCondition, UnknownCondition};
use serde::{Deserialize, Serialize};

use super::merge::{Step, Told};
use super::record::Known;

/// What every document begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Base {
    /// The request's own id; an answer repeats it.
    pub(super) event_id: String,
    pub(super) timestamp: i64,
}

/// `twin/update`: `None` for a property that is to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Update {
    #[serde(flatten)]
    pub(super) base: Base,
    pub(super) twin: Option<Told>,
}

/// `state/update`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct State {
    #[serde(flatten)]
    pub(super) base: Base,
    #[serde(default)]
    state: String,
}

impl State {
    /// What it says of the device.
    pub(super) fn condition(&self) -> Result<ToldCondition, UnknownCondition> {
        self.state.parse()
    }
}

#[derive(Serialize)]
struct With<'a, T: Serialize> {
    #[serde(flatten)]
    base: &'a Base,
    #[serde(flatten)]
    rest: T,
}

/// Serializing these shapes cannot fail: every key is a text.
fn document(base: &Base, rest: impl Serialize) -> Bytes {
    serde_json::to_vec(&With { base, rest }).unwrap_or_default().into()
}

/// `twin/update/result` and `twin/get/result` of a request that was carried out.
pub(super) fn twin(base: &Base, twin: &Told) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        twin: &'a Told,
    }
    document(base, Rest { twin })
}

/// `twin/update/document`: before and after of what changed.
pub(super) fn steps(base: &Base, steps: &BTreeMap<String, Step>) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        twin: &'a BTreeMap<String, Step>,
    }
    document(base, Rest { twin: steps })
}

/// `twin/update/delta`: all properties that something is wanted of, and what is wanted where it is not so yet.
pub(super) fn delta(base: &Base, twin: &Told, delta: &BTreeMap<String, String>) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        twin: &'a Told,
        delta: &'a BTreeMap<String, String>,
    }
    document(base, Rest { twin, delta })
}

/// `state/update/result`.
pub(super) fn state(base: &Base, id: &DeviceId, known: &Known, is_there: bool) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        device: Device<'a>,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Device<'a> {
        name: &'a str,
        state: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        last_online_time: &'a str,
    }
    let last_online_time = if is_there { known.last_online.as_str() } else { "" };
    document(base, Rest { device: Device { name: id.name.as_str(), state: &known.state, last_online_time } })
}

/// A device as `membership` documents list it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Listed {
    id: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    last_online: String,
}

/// A device and what is known of it.
pub(super) fn listed(id: &DeviceId, known: &Known) -> Listed {
    Listed {
        id: id.to_string(),
        name: id.name.to_string(),
        description: known.description.clone(),
        state: known.state.clone(),
        last_online: known.last_online.clone(),
    }
}

/// `membership/get/result`.
pub(super) fn members(base: &Base, devices: &[Listed]) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        devices: &'a [Listed],
    }
    document(base, Rest { devices })
}

/// `membership/updated`: one device that came or went.
pub(super) fn member(base: &Base, came: Option<&Listed>, went: Option<&Listed>) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        added_devices: Option<[&'a Listed; 1]>,
        removed_devices: Option<[&'a Listed; 1]>,
    }
    document(
        base,
        Rest { added_devices: came.map(|device| [device]), removed_devices: went.map(|device| [device]) },
    )
}

/// A request that was not carried out.
pub(super) fn error(base: &Base, code: u16, reason: &str) -> Bytes {
    #[derive(Serialize)]
    struct Rest<'a> {
        code: u16,
        reason: &'a str,
    }
    document(base, Rest { code, reason })
}
