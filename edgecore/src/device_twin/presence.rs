//! Pure: which protocols are served by a mapper that answers, and what people must read about the others.
//!
//! A mapper that dies says nothing to anybody, and one that nobody started cannot; what is known of their devices would look
//! like the present for ever. Asked by `mod.rs`, which tells; `mapper.rs` finds out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ke_wire::{NodeName, Trouble};

use super::record::Registered;

/// A mapper has this long to register after somebody missed it: it starts together with edgecore, or with its manifest.
pub(super) const GRACE: Duration = Duration::from_secs(10);
/// A mapper is asked this often whether it is there, when nothing else is to be said.
const EVERY: Duration = Duration::from_secs(5);
/// A mapper that answers nothing for this long is away. It may be restarted meanwhile, and nobody minds.
const AWAY_AFTER: Duration = Duration::from_secs(10);

/// What people are told of a device that nobody serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unserved {
    pub(super) trouble: Trouble,
    pub(super) message: String,
}

/// How a protocol is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Served,
    /// Not known before this; without a time: before somebody says more.
    Wait(Option<Instant>),
    Unserved(Unserved),
}

/// Whether a mapper answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// It is known from an earlier run.
    NotKnown,
    Yes,
    /// And why not.
    No(String),
}

#[derive(Clone, Debug)]
struct Mapper {
    name: String,
    address: PathBuf,
    answers: Answers,
}

/// All mappers, and who is missed.
#[derive(Debug)]
pub(super) struct Presence {
    node: NodeName,
    mappers: BTreeMap<String, Mapper>,
    /// When each protocol without a mapper was asked for first.
    missed: BTreeMap<String, Instant>,
}

impl Presence {
    pub(super) fn new(node: NodeName) -> Self {
        Self { node, mappers: BTreeMap::new(), missed: BTreeMap::new() }
    }

    /// A mapper is there, in place of others of its protocol.
    pub(super) fn came(&mut self, registered: &Registered, answers: Answers) {
        self.missed.remove(&registered.protocol);
        let mapper = Mapper { name: registered.name.clone(), address: registered.address.clone(), answers };
        self.mappers.insert(registered.protocol.clone(), mapper);
    }

    /// Nobody serves the protocol any more.
    pub(super) fn went(&mut self, protocol: &str) {
        self.mappers.remove(protocol);
    }

    /// What was found out about the mapper at `address`. Gives back whether it matters.
    pub(super) fn found(&mut self, protocol: &str, address: &PathBuf, answers: Answers) -> bool {
        // Another may have taken its place meanwhile.
        let Some(mapper) = self.mappers.get_mut(protocol).filter(|mapper| mapper.address == *address) else {
            return false;
        };
        std::mem::replace(&mut mapper.answers, answers.clone()) != answers
    }

    /// Only these protocols are asked for.
    pub(super) fn expect(&mut self, protocols: &BTreeSet<&str>) {
        self.missed.retain(|protocol, _| protocols.contains(protocol.as_str()));
    }

    /// How devices of this protocol are served.
    pub(super) fn verdict(&mut self, protocol: &str, now: Instant) -> Verdict {
        let Some(mapper) = self.mappers.get(protocol) else {
            let until = *self.missed.entry(protocol.to_owned()).or_insert(now) + GRACE;
            if now < until {
                return Verdict::Wait(Some(until));
            }
            return Verdict::Unserved(Unserved {
                trouble: Trouble::NoMapper,
                message: self.no_mapper(protocol),
            });
        };
        match &mapper.answers {
            Answers::Yes => Verdict::Served,
            Answers::NotKnown => Verdict::Wait(None),
            Answers::No(why) => {
                let (node, Mapper { name, address, .. }) = (&self.node, mapper);
                let message = format!(
                    "the mapper {name:?} of the protocol {protocol:?} on node {node} does not answer at {}: {why}; the \
                     device is neither read nor written until it is back: start it again",
                    address.display()
                );
                Verdict::Unserved(Unserved { trouble: Trouble::MapperAway, message })
            }
        }
    }

    fn no_mapper(&self, protocol: &str) -> String {
        let there: Vec<String> =
            self.mappers.iter().map(|(protocol, mapper)| format!("{protocol:?} ({})", mapper.name)).collect();
        let there = if there.is_empty() {
            "none has registered at all".to_owned()
        } else {
            format!("those that have serve {}", there.join(", "))
        };
        format!(
            "no mapper of the protocol {protocol:?} has registered on node {}: {there}; start one there, or correct \
             spec.protocol.protocolName",
            self.node
        )
    }
}

/// One mapper's signs of life.
#[derive(Debug)]
pub(super) struct Pulse {
    last: Instant,
    due: Instant,
    told: Option<Answers>,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self { last: now, due: now, told: None }
    }

    /// When it is to be asked next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// It answered. Gives back what is new about that.
    pub(super) fn answered(&mut self, now: Instant) -> Option<Answers> {
        (self.last, self.due) = (now, now + EVERY);
        self.news(Answers::Yes)
    }

    /// It did not.
    pub(super) fn failed(&mut self, now: Instant, why: String) -> Option<Answers> {
        self.due = now + EVERY;
        (now.saturating_duration_since(self.last) >= AWAY_AFTER).then_some(())?;
        self.news(Answers::No(why))
    }

    fn news(&self, answers: Answers) -> Option<Answers> {
        let is_old = match (&self.told, &answers) {
            // The first reason is enough.
            (Some(Answers::No(_)), Answers::No(_)) => true,
            (told, answers) => told.as_ref() == Some(answers),
        };
        (!is_old).then_some(answers)
    }

    /// The news was taken; otherwise it is news again.
    pub(super) fn told(&mut self, answers: Answers) {
        self.told = Some(answers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registered(protocol: &str, name: &str) -> Registered {
        Registered {
            protocol: protocol.into(),
            name: name.into(),
            version: String::new(),
            api_version: String::new(),
            address: format!("/run/{name}.sock").into(),
        }
    }

    fn message(verdict: Verdict) -> String {
        let Verdict::Unserved(Unserved { trouble, message }) = verdict else { panic!("{verdict:?}") };
        format!("{}: {message}", trouble.word())
    }

    #[test]
    fn who_is_missed_has_some_time_and_is_named() {
        let mut presence = Presence::new("e1".parse().unwrap());
        let now = Instant::now();
        assert_eq!(presence.verdict("ble", now), Verdict::Wait(Some(now + GRACE)));
        assert_eq!(presence.verdict("ble", now + GRACE / 2), Verdict::Wait(Some(now + GRACE)));
        assert_eq!(
            message(presence.verdict("ble", now + GRACE)),
            "NoMapper: no mapper of the protocol \"ble\" has registered on node e1: none has registered at all; start \
             one there, or correct spec.protocol.protocolName"
        );
        // Nobody names it any more, then somebody does again.
        presence.expect(&BTreeSet::from(["modbus"]));
        assert_eq!(presence.verdict("ble", now + GRACE), Verdict::Wait(Some(now + 2 * GRACE)));
        presence.missed.insert("ble".into(), now);
        presence.came(&registered("modbus", "m"), Answers::Yes);
        assert!(
            message(presence.verdict("ble", now + GRACE)).contains("those that have serve \"modbus\" (m)")
        );
        presence.came(&registered("ble", "b"), Answers::Yes);
        assert_eq!(presence.verdict("ble", now + GRACE), Verdict::Served);
        presence.went("ble");
        assert_eq!(
            presence.verdict("ble", now + GRACE),
            Verdict::Wait(Some(now + GRACE + GRACE)),
            "missed anew"
        );
    }

    #[test]
    fn who_does_not_answer_is_named() {
        let mut presence = Presence::new("e1".parse().unwrap());
        let now = Instant::now();
        presence.came(&registered("modbus", "m"), Answers::NotKnown);
        assert_eq!(presence.verdict("modbus", now), Verdict::Wait(None));
        let refused = Answers::No("Connection refused".into());
        assert!(!presence.found("modbus", &"/run/old.sock".into(), refused.clone()), "of another");
        assert!(presence.found("modbus", &"/run/m.sock".into(), refused.clone()));
        assert!(!presence.found("modbus", &"/run/m.sock".into(), refused));
        let told = message(presence.verdict("modbus", now));
        assert!(
            told.starts_with("MapperAway: the mapper \"m\" of the protocol \"modbus\" on node e1 does not")
        );
        assert!(told.contains("/run/m.sock: Connection refused"), "{told}");
        assert!(presence.found("modbus", &"/run/m.sock".into(), Answers::Yes));
        assert_eq!(presence.verdict("modbus", now), Verdict::Served);
    }

    #[test]
    fn a_pulse_stops_after_some_silence() {
        let now = Instant::now();
        let mut pulse = Pulse::new(now);
        assert_eq!((pulse.due(), pulse.failed(now, "x".into())), (now, None), "it may be starting");
        assert_eq!(pulse.due(), now + EVERY);
        assert_eq!(pulse.answered(now + EVERY), Some(Answers::Yes), "the first is told");
        pulse.told(Answers::Yes);
        assert_eq!(pulse.answered(now + EVERY), None);
        let later = now + EVERY + AWAY_AFTER;
        assert_eq!(pulse.failed(later - Duration::from_secs(1), "x".into()), None);
        assert_eq!(pulse.failed(later, "x".into()), Some(Answers::No("x".into())));
        assert_eq!(pulse.failed(later, "y".into()), Some(Answers::No("y".into())), "nobody took it");
        pulse.told(Answers::No("y".into()));
        assert_eq!(pulse.failed(later, "z".into()), None);
        assert_eq!(pulse.answered(later), Some(Answers::Yes));
    }
}
