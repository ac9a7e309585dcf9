//! Pure: all devices of this node. One thing said about a device in, everything that follows from it out.
//!
//! What is said in one batch takes effect in order. The caller stores the rows of a batch in one transaction; when that
//! fails it takes the batch back ([`Twins::undo`]), so that memory never knows more than the disk. It reads no clock.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ke_wire::{
    DeviceCondition, DeviceId, DeviceState, NodeName, StateReport, ToldCondition, Trouble, TwinReport,
    UnknownCondition,
};

use super::merge::{self, Alphabet, Merged, Refused, Told, Twin};
use super::payload::{self, Base};
use super::presence::Unserved;
use super::record::{Known, Row};
use crate::event_bus::{DeviceTopic, NodeTopic, Topic};
use crate::report_queue::DeviceReport;

/// What follows from one thing said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    pub(super) rows: Vec<Row>,
    pub(super) report: Option<DeviceReport>,
    pub(super) published: Vec<(Topic, Bytes)>,
}

/// Why nothing follows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TwinError {
    #[error("update rejected due to the device is not existed")]
    Unknown,
    #[error("Device {0} not found while getting twin")]
    UnknownToGet(DeviceId),
    #[error("Unmarshal update request body failed, please check the request")]
    NotJson,
    #[error("Update twin error, key:twin does not exist")]
    NoTwin,
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    State(#[from] UnknownCondition),
}

impl TwinError {
    fn code(&self) -> u16 {
        match self {
            Self::Unknown | Self::UnknownToGet(_) => 404,
            Self::NotJson | Self::NoTwin | Self::Refused(_) | Self::State(_) => 400,
        }
    }
}

/// When something is said, and the name of an event that it causes.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    /// Edge clock, Unix milliseconds.
    pub(super) now_ms: i64,
    /// The same as RFC 3339, UTC.
    pub(super) now_text: String,
    /// A fresh id.
    pub(super) event_id: String,
}

impl Moment {
    fn base(&self, event_id: &str) -> Base {
        Base { event_id: event_id.to_owned(), timestamp: self.now_ms }
    }

    fn own(&self) -> Base {
        self.base(&self.event_id)
    }
}

type Device = (Known, Twin);

/// The devices.
#[derive(Debug)]
pub(super) struct Twins {
    node: NodeName,
    mqtt_alphabet: Alphabet,
    devices: BTreeMap<DeviceId, Device>,
    /// What was there before the batch; `None` for a device that was not.
    before: BTreeMap<DeviceId, Option<Device>>,
}

impl Twins {
    pub(super) fn new(node: NodeName, mqtt_alphabet: Alphabet, devices: BTreeMap<DeviceId, Device>) -> Self {
        Self { node, mqtt_alphabet, devices, before: BTreeMap::new() }
    }

    /// The batch is on disk.
    pub(super) fn keep(&mut self) {
        self.before.clear();
    }

    /// The batch is not on disk: as if it had not been.
    pub(super) fn undo(&mut self) {
        for (id, device) in std::mem::take(&mut self.before) {
            match device {
                Some(device) => drop(self.devices.insert(id, device)),
                None => drop(self.devices.remove(&id)),
            }
        }
    }

    /// Whether there is such a device.
    pub(super) fn has(&self, id: &DeviceId) -> bool {
        self.devices.contains_key(id)
    }

    /// Whether its state is not its mapper's word.
    pub(super) fn is_unserved(&self, id: &DeviceId) -> bool {
        self.devices.get(id).is_some_and(|(known, _)| !known.before.is_empty())
    }

    /// Ids of all devices.
    pub(super) fn ids(&self) -> BTreeSet<DeviceId> {
        self.devices.keys().cloned().collect()
    }

    /// The device that a mapper without namespaces means: the only one of that name, else the one in `default`.
    pub(super) fn named(&self, name: &str) -> Option<DeviceId> {
        let mut found = self.devices.keys().filter(|id| id.name.as_str() == name);
        match (found.next(), found.next()) {
            (Some(only), None) => Some(only.clone()),
            _ => format!("default/{name}").split_once('/').and_then(|(namespace, name)| {
                Some(DeviceId { namespace: namespace.parse().ok()?, name: name.parse().ok()? })
            }),
        }
    }

    /// A device came, or its description changed. Its twin stays.
    pub(super) fn add(&mut self, id: &DeviceId, description: &str, at: &Moment) -> Effects {
        let known = self.devices.get(id).map(|(known, _)| known);
        if known.is_some_and(|known| known.description == description) {
            return Effects::default();
        }
        let is_new = known.is_none();
        self.remember(id);
        let (known, _) = self.devices.entry(id.clone()).or_default();
        description.clone_into(&mut known.description);
        let mut effects =
            Effects { rows: vec![Row::Add(id.clone(), description.to_owned())], ..Effects::default() };
        if is_new {
            let listed = payload::listed(id, known);
            effects.published.push((
                self.node_topic(NodeTopic::MembershipUpdated),
                payload::member(&at.own(), Some(&listed), None),
            ));
        }
        effects
    }

    /// A device is no longer this node's.
    pub(super) fn remove(&mut self, id: &DeviceId, at: &Moment) -> Effects {
        if !self.devices.contains_key(id) {
            return Effects::default();
        }
        self.remember(id);
        let (known, _) = self.devices.remove(id).unwrap_or_default();
        let listed = payload::listed(id, &Known { description: known.description, ..Known::default() });
        let told = payload::member(&at.own(), None, Some(&listed));
        Effects {
            rows: vec![Row::Remove(id.clone())],
            report: None,
            published: vec![(self.node_topic(NodeTopic::MembershipUpdated), told)],
        }
    }

    /// These are no longer properties of the device.
    pub(super) fn forget(&mut self, id: &DeviceId, names: BTreeSet<String>) -> Effects {
        self.remember(id);
        let Some((_, twin)) = self.devices.get_mut(id) else { return Effects::default() };
        let names: Vec<String> = names.into_iter().filter(|name| twin.remove(name).is_some()).collect();
        let rows = if names.is_empty() { Vec::new() } else { vec![Row::Forget(id.clone(), names)] };
        Effects { rows, ..Effects::default() }
    }

    /// A mapper reports values: `twin` by property.
    pub(super) fn reported(&mut self, id: &DeviceId, twin: &Told, at: &Moment) -> Result<Effects, TwinError> {
        let mut twin = twin.clone();
        // A mapper without a desired value says so with an empty text: nothing to keep where nothing was wanted before.
        let is_wanted = |name: &str| {
            let held = self.devices.get(id).and_then(|(_, held)| held.get(name));
            held.is_some_and(|held| held.expected.is_some())
        };
        for (name, property) in &mut twin {
            if let Some(property) = property.as_mut().filter(|_| !is_wanted(name)) {
                property.expected.take_if(|half| half.value.as_deref() == Some(""));
            }
        }
        self.update(id, "", &twin, Alphabet::Open, at)
    }

    /// A mapper, or an MQTT client, says how a device is, and `why` it is no better.
    pub(super) fn state(
        &mut self,
        id: &DeviceId,
        event_id: &str,
        state: &ToldCondition,
        why: &str,
        at: &Moment,
    ) -> Result<Effects, TwinError> {
        if !self.devices.contains_key(id) {
            return Err(TwinError::Unknown);
        }
        Ok(self.set_state(id, event_id, state, "", (Trouble::DeviceTrouble, why), at))
    }

    /// Nobody serves a device, or (`None`) somebody does again: then it is as its mapper said last.
    pub(super) fn unserved(
        &mut self,
        id: &DeviceId,
        unserved: Option<&Unserved>,
        at: &Moment,
    ) -> Option<Effects> {
        let (known, _) = self.devices.get(id)?;
        let said = if known.before.is_empty() { &known.state } else { &known.before };
        let unknown = ToldCondition::from(DeviceCondition::Unknown);
        // Nobody has said anything yet.
        let said = said.parse().unwrap_or_else(|_| unknown.clone());
        match unserved {
            Some(Unserved { trouble, message }) => {
                Some(self.set_state(id, &at.event_id, &unknown, said.as_str(), (*trouble, message), at))
            }
            None if known.before.is_empty() => None,
            None => Some(self.set_state(id, &at.event_id, &said, "", (Trouble::DeviceTrouble, ""), at)),
        }
    }

    fn set_state(
        &mut self,
        id: &DeviceId,
        event_id: &str,
        state: &ToldCondition,
        before: &str,
        (trouble, message): (Trouble, &str),
        at: &Moment,
    ) -> Effects {
        self.remember(id);
        let (known, _) = self.devices.entry(id.clone()).or_default();
        let is_there = state.condition.is_there();
        before.clone_into(&mut known.before);
        state.as_str().clone_into(&mut known.state);
        if is_there {
            known.last_online.clone_from(&at.now_text);
        }
        let device = DeviceState {
            name: id.name.to_string(),
            state: known.state.clone(),
            last_online_time: if is_there { known.last_online.clone() } else { String::new() },
            reason: if is_there || message.is_empty() { "" } else { trouble.word() }.to_owned(),
            message: if is_there { "" } else { message }.to_owned(),
        };
        let report = StateReport { event_id: at.event_id.clone(), timestamp: at.now_ms, device };
        let told = payload::state(&at.base(event_id), id, known, is_there);
        Effects {
            rows: vec![Row::State(id.clone(), known.clone())],
            report: Some(DeviceReport::State(id.clone(), report)),
            published: vec![(device_topic(id, DeviceTopic::StateUpdateResult), told)],
        }
    }

    /// An MQTT client says something on a topic that this node listens to. What is wrong with it is published too.
    pub(super) fn heard(&mut self, topic: &Topic, body: &[u8], at: &Moment) -> Effects {
        match topic {
            Topic::Device(id, DeviceTopic::TwinUpdate) => {
                let (event_id, done) = match serde_json::from_slice::<payload::Update>(body) {
                    Ok(payload::Update { base, twin: Some(twin) }) => {
                        let done = self.update(id, &base.event_id, &twin, self.mqtt_alphabet, at);
                        (base.event_id, done)
                    }
                    Ok(payload::Update { base, twin: None }) => (base.event_id, Err(TwinError::NoTwin)),
                    Err(_) => (String::new(), Err(TwinError::NotJson)),
                };
                done.unwrap_or_else(|error| {
                    refused(id, DeviceTopic::TwinUpdateResult, &at.base(&event_id), &error)
                })
            }
            Topic::Device(id, DeviceTopic::TwinGet) => self.get(id, body, at),
            Topic::Device(id, DeviceTopic::StateUpdate) => {
                let said = serde_json::from_slice::<payload::State>(body).map_err(|_| TwinError::NotJson);
                let done =
                    said.and_then(|said| self.state(id, &said.base.event_id, &said.condition()?, "", at));
                done.unwrap_or_else(|error| {
                    // Nothing is published, as on Go edges: no document of this topic can hold an error.
                    tracing::warn!(device = %id, %error, "a device state was not taken");
                    Effects::default()
                })
            }
            // No cloud sends it, and its sender would need another copy of this twin.
            Topic::Device(id, DeviceTopic::TwinCloudUpdated) => {
                tracing::warn!(device = %id, "twin/cloud_updated is not supported; use twin/update");
                Effects::default()
            }
            Topic::Node(_, NodeTopic::MembershipGet) => {
                let topic = self.node_topic(NodeTopic::MembershipGetResult);
                let told = match serde_json::from_slice::<Base>(body) {
                    Ok(base) => {
                        let listed: Vec<_> =
                            self.devices.iter().map(|(id, (known, _))| payload::listed(id, known)).collect();
                        payload::members(&at.base(&base.event_id), &listed)
                    }
                    Err(_) => payload::error(&at.base(""), 400, &TwinError::NotJson.to_string()),
                };
                Effects { published: vec![(topic, told)], ..Effects::default() }
            }
            Topic::Node(_, NodeTopic::MembershipGetResult | NodeTopic::MembershipUpdated)
            | Topic::Device(
                _,
                DeviceTopic::TwinUpdateResult
                | DeviceTopic::TwinUpdateDocument
                | DeviceTopic::TwinUpdateDelta
                | DeviceTopic::TwinGetResult
                | DeviceTopic::StateUpdateResult
                | DeviceTopic::Updated,
            ) => Effects::default(),
        }
    }

    fn get(&self, id: &DeviceId, body: &[u8], at: &Moment) -> Effects {
        let topic = DeviceTopic::TwinGetResult;
        match (serde_json::from_slice::<Base>(body), self.devices.get(id)) {
            (Err(_), _) => refused(id, topic, &at.base(""), &TwinError::NotJson),
            (Ok(base), None) => {
                refused(id, topic, &at.base(&base.event_id), &TwinError::UnknownToGet(id.clone()))
            }
            (Ok(base), Some((_, twin))) => {
                let told = payload::twin(&at.base(&base.event_id), &merge::all(twin));
                Effects { published: vec![(device_topic(id, topic), told)], ..Effects::default() }
            }
        }
    }

    fn update(
        &mut self,
        id: &DeviceId,
        event_id: &str,
        asked: &Told,
        alphabet: Alphabet,
        at: &Moment,
    ) -> Result<Effects, TwinError> {
        if !self.devices.contains_key(id) {
            return Err(TwinError::Unknown);
        }
        self.remember(id);
        let (_, twin) = self.devices.entry(id.clone()).or_default();
        let Merged { rows, result, document, report, left_out } =
            merge::update(twin, asked, alphabet, at.now_ms)?;
        for reason in left_out {
            tracing::warn!(device = %id, %reason, "a mapper's report was not taken as a whole");
        }
        let base = at.base(event_id);
        let mut published =
            vec![(device_topic(id, DeviceTopic::TwinUpdateResult), payload::twin(&base, &result))];
        if !document.is_empty() {
            published
                .push((device_topic(id, DeviceTopic::TwinUpdateDocument), payload::steps(&base, &document)));
        }
        let delta = merge::delta(twin);
        if !delta.is_empty() {
            let mut wanted = merge::all(twin);
            wanted.retain(|_, property| {
                let expected = property.as_ref().and_then(|property| property.expected.as_ref());
                expected.is_some_and(|half| half.value.as_deref().is_some_and(|value| !value.is_empty()))
            });
            let told = payload::delta(&at.own(), &wanted, &delta);
            published.push((device_topic(id, DeviceTopic::TwinUpdateDelta), told));
        }
        let report = (!report.is_empty()).then(|| {
            let report = TwinReport { event_id: at.event_id.clone(), timestamp: at.now_ms, twin: report };
            DeviceReport::Twin(id.clone(), report)
        });
        let rows = if rows.is_empty() { Vec::new() } else { vec![Row::Twin(id.clone(), rows)] };
        Ok(Effects { rows, report, published })
    }

    fn remember(&mut self, id: &DeviceId) {
        if !self.before.contains_key(id) {
            self.before.insert(id.clone(), self.devices.get(id).cloned());
        }
    }

    fn node_topic(&self, topic: NodeTopic) -> Topic {
        Topic::Node(self.node.clone(), topic)
    }
}

fn device_topic(id: &DeviceId, topic: DeviceTopic) -> Topic {
    Topic::Device(id.clone(), topic)
}

fn refused(id: &DeviceId, topic: DeviceTopic, base: &Base, error: &TwinError) -> Effects {
    let told = payload::error(base, error.code(), &error.to_string());
    Effects { published: vec![(device_topic(id, topic), told)], ..Effects::default() }
}

#[cfg(test)]
mod tests;
