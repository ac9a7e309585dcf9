//! What an edge reports about a device. Values are texts, whatever their type; times are Unix milliseconds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::go_json::null_is_default;

/// Changed properties of one device; only what changed is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TwinReport {
    /// Id of the event that caused it.
    #[serde(default)]
    pub event_id: String,
    /// When it was made.
    #[serde(default)]
    pub timestamp: i64,
    /// By property; nothing where the property was removed.
    #[serde(default, deserialize_with = "null_is_default")]
    pub twin: BTreeMap<String, Option<TwinProperty>>,
}

/// One property as far as it changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TwinProperty {
    /// What it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<TwinValue>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual: Option<TwinValue>,
    /// Whether a device may lack it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
    /// Its type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TwinType>,
    /// Version of `expected`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_version: Option<TwinVersion>,
    /// Version of `actual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actual_version: Option<TwinVersion>,
}

/// A value and its time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TwinValue {
    /// The value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Its time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<TwinTime>,
}

/// When a value was taken, by the edge's clock: the only order between reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TwinTime {
    /// 0 when not known.
    #[serde(skip_serializing_if = "is_zero")]
    pub timestamp: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// `string`, `int`, `float`, `boolean`, `deleted`, ...
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TwinType {
    /// The type's name.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// How often each side wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TwinVersion {
    /// Writes of the cloud; Go peers leave it 0.
    pub cloud: i64,
    /// Writes of the edge.
    pub edge: i64,
}

/// Whether a device is there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    /// Id of the event that caused it.
    #[serde(default)]
    pub event_id: String,
    /// When it was made.
    #[serde(default)]
    pub timestamp: i64,
    /// The state.
    pub device: DeviceState,
}

/// State of one device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceState {
    /// The bare name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `online`, `offline`, `ok`, `unknown`, `unhealthy`, in any case.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// RFC 3339; only when it is there.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_online_time: String,
    /// Why it is no better, in one word of [`Trouble`]. Not in KubeEdge, whose clouds pass over it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same for people. Not in KubeEdge.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// Why a device is no better than its state says, as far as its node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No mapper of its protocol has registered.
    NoMapper,
    /// Its mapper does not answer.
    MapperAway,
    /// Its mapper says what is wrong.
    DeviceTrouble,
}

impl Trouble {
    /// Its text form, which is also the type of a condition.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::NoMapper => "NoMapper",
            Self::MapperAway => "MapperAway",
            Self::DeviceTrouble => "DeviceTrouble",
        }
    }

    /// Of its text form.
    #[must_use]
    pub fn of(word: &str) -> Option<Self> {
        [Self::NoMapper, Self::MapperAway, Self::DeviceTrouble]
            .into_iter()
            .find(|trouble| trouble.word() == word)
    }
}
