//! Pure: what of one device has still to be told to the node; the newest per property, nothing else.
//!
//! Filled by the device's task, emptied by its reporter, so that a node that is slow or away never holds up sampling.
//! It cannot grow beyond the device's properties.

use std::collections::BTreeMap;

use crate::driver::DeviceState;
use crate::settings::PropertyName;

/// What is told about one property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) reported: String,
    /// The desired value that was written to the device; empty when there is none.
    pub(crate) observed: String,
    /// Milliseconds since 1970.
    pub(crate) at: u128,
    /// As the node spells types.
    pub(crate) kind: &'static str,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    twins: BTreeMap<PropertyName, Entry>,
    state: Option<DeviceState>,
    last_state: Option<DeviceState>,
    /// Grows with every value, so that a newer one is told from the one on its way.
    serial: u64,
}

#[derive(Debug)]
struct Entry {
    told: Told,
    serial: u64,
    /// How often it must still be delivered.
    times: u8,
    is_repeat: bool,
}

/// What goes out in one call. It stays in the outbox until it is delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) twins: Vec<(PropertyName, Told)>,
    pub(crate) state: Option<DeviceState>,
    serials: Vec<u64>,
    /// Nothing in it is new.
    pub(crate) is_repeat: bool,
}

/// KubeEdge's cloud shows a property only from its second report on.
const TIMES_AT_START: u8 = 2;

impl Outbox {
    pub(crate) fn tell(&mut self, property: PropertyName, told: Told) {
        self.serial += 1;
        let serial = self.serial;
        match self.twins.get_mut(&property) {
            Some(entry) => {
                entry.times = entry.times.max(1);
                (entry.told, entry.serial, entry.is_repeat) = (told, serial, false);
            }
            None => {
                self.twins.insert(property, Entry { told, serial, times: TIMES_AT_START, is_repeat: false });
            }
        }
    }

    pub(crate) fn tell_state(&mut self, state: DeviceState) {
        (self.state, self.last_state) = (Some(state), Some(state));
    }

    /// Everything once more: the node may have lost it, or be another one.
    pub(crate) fn again(&mut self) {
        for entry in self.twins.values_mut() {
            (entry.times, entry.is_repeat) = (TIMES_AT_START, false);
        }
        self.state = self.last_state;
    }

    /// Forgets properties that the device has no more.
    pub(crate) fn keep(&mut self, is_kept: impl Fn(&PropertyName) -> bool) {
        self.twins.retain(|name, _| is_kept(name));
    }

    /// What should go out now. `None`: nothing.
    pub(crate) fn batch(&self) -> Option<Batch> {
        let due = || self.twins.iter().filter(|(_, entry)| entry.times > 0);
        let batch = Batch {
            twins: due().map(|(name, entry)| (name.clone(), entry.told.clone())).collect(),
            state: self.state,
            serials: due().map(|(_, entry)| entry.serial).collect(),
            is_repeat: self.state.is_none() && due().all(|(_, entry)| entry.is_repeat),
        };
        (batch.state.is_some() || !batch.twins.is_empty()).then_some(batch)
    }

    /// The twins of a batch were taken by the node.
    pub(crate) fn delivered_twins(&mut self, batch: &Batch) {
        for ((name, _), serial) in batch.twins.iter().zip(&batch.serials) {
            if let Some(entry) = self.twins.get_mut(name)
                && entry.serial == *serial
            {
                entry.times = entry.times.saturating_sub(1);
                entry.is_repeat = true;
            }
        }
    }

    /// The state of a batch was taken by the node.
    pub(crate) fn delivered_state(&mut self, batch: &Batch) {
        if self.state == batch.state {
            self.state = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(reported: &str) -> Told {
        Told { reported: reported.to_owned(), observed: String::new(), at: 0, kind: "int" }
    }

    fn values(batch: Option<Batch>) -> Vec<String> {
        batch
            .unwrap_or_default()
            .twins
            .into_iter()
            .map(|(name, told)| format!("{name}={}", told.reported))
            .collect()
    }

    #[test]
    fn twice_at_start_then_once_and_the_newest_only() {
        let mut outbox = Outbox::default();
        outbox.tell("a".into(), told("1"));
        outbox.tell("b".into(), told("5"));
        let first = outbox.batch().unwrap();
        assert!(!first.is_repeat);
        // A newer value comes while the first is on its way.
        outbox.tell("a".into(), told("2"));
        outbox.delivered_twins(&first);
        assert_eq!(values(outbox.batch()), ["a=2", "b=5"]);
        let second = outbox.batch().unwrap();
        outbox.delivered_twins(&second);
        assert_eq!(values(outbox.batch()), ["a=2"]);
        let third = outbox.batch().unwrap();
        assert!(third.is_repeat);
        outbox.delivered_twins(&third);
        assert_eq!(outbox.batch(), None);
        outbox.tell("b".into(), told("6"));
        assert_eq!(values(outbox.batch()), ["b=6"]);
        outbox.again();
        assert_eq!(values(outbox.batch()), ["a=2", "b=6"]);
        outbox.keep(|name| name.as_str() == "a");
        assert_eq!(values(outbox.batch()), ["a=2"]);
    }

    #[test]
    fn states() {
        let mut outbox = Outbox::default();
        outbox.tell_state(DeviceState::Online);
        let batch = outbox.batch().unwrap();
        outbox.tell_state(DeviceState::Offline);
        outbox.delivered_state(&batch);
        assert_eq!(outbox.batch().unwrap().state, Some(DeviceState::Offline));
    }
}
