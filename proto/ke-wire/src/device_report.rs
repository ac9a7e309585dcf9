//! What an edge reports about a device. Values are texts, whatever their type; times are Unix milliseconds.

use std::collections::BTreeMap;
use std::str::FromStr;

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
    /// As its mapper wrote it; [`DeviceCondition::of`] knows what it means, if it is a word that anybody knows.
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

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceCondition {
    /// It answers.
    Online,
    /// It answers, in the words of mapper-framework.
    Ok,
    /// It does not answer.
    Offline,
    /// It answers, but something is wrong with it.
    Unhealthy,
    /// Nobody can say.
    Unknown,
}

impl DeviceCondition {
    const ALL: [Self; 5] = [Self::Online, Self::Offline, Self::Ok, Self::Unknown, Self::Unhealthy];

    /// Its text form.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Ok => "ok",
            Self::Offline => "offline",
            Self::Unhealthy => "unhealthy",
            Self::Unknown => "unknown",
        }
    }

    /// Of its text form, in any case. `None`: a foreign word.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|condition| condition.word().eq_ignore_ascii_case(text))
    }

    /// Whether the device is there and well.
    #[must_use]
    pub fn is_there(self) -> bool {
        matches!(self, Self::Online | Self::Ok)
    }
}

/// A condition as a mapper wrote it: who writes `Online` reads `Online` again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToldCondition {
    /// What it means.
    pub condition: DeviceCondition,
    text: String,
}

/// Nobody knows this word for the state of a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state {0:?} is none of online, offline, ok, unknown, unhealthy")]
pub struct UnknownCondition(String);

impl ToldCondition {
    /// What is shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<DeviceCondition> for ToldCondition {
    fn from(condition: DeviceCondition) -> Self {
        Self { condition, text: condition.word().to_owned() }
    }
}

impl FromStr for ToldCondition {
    type Err = UnknownCondition;
    fn from_str(text: &str) -> Result<Self, UnknownCondition> {
        // mapper-framework has a word of its own.
        if text.eq_ignore_ascii_case("disconnected") {
            return Ok(DeviceCondition::Offline.into());
        }
        let condition = DeviceCondition::of(text).ok_or_else(|| UnknownCondition(text.to_owned()))?;
        Ok(Self { condition, text: text.to_owned() })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_known_in_any_case_and_stay_as_they_were_written() {
        let check = |text: &str, expected: Option<(DeviceCondition, &str)>| {
            let told = text.parse::<ToldCondition>().ok();
            let found = told.as_ref().map(|told| (told.condition, told.as_str()));
            assert_eq!(found, expected, "{text:?}");
        };
        check("online", Some((DeviceCondition::Online, "online")));
        check("Online", Some((DeviceCondition::Online, "Online")));
        check("OK", Some((DeviceCondition::Ok, "OK")));
        check("DISCONNECTED", Some((DeviceCondition::Offline, "offline")));
        check("sleeping", None);
        check("", None);
        for condition in DeviceCondition::ALL {
            assert_eq!(DeviceCondition::of(condition.word()), Some(condition));
        }
    }
}
