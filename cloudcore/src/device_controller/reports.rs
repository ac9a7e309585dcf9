//! Pure: what of a device's status is to be written, and which reports may be confirmed after it.
//!
//! A report is folded into what is known of its device at once, so that any number of them costs one write. It is confirmed
//! when that write, or a later one, has succeeded, or when a newer report of the same values came while writes succeed: its
//! node keeps that one. One write of a device at a time, a pause between two, growing pauses while the API server refuses.
//! Nothing that was accepted is dropped; what is bounded is the list of those who wait for a confirmation, and whoever falls
//! off it says it again.
//!
//! Whose turn it is decides `turns.rs`; an API server that does not keep up gets the DeviceStatus first. Driven by `running.rs`,
//! carried out by `write.rs`.

mod entry;
mod writes;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use ke_run::backoff::Backoff;
use ke_wire::{DeviceId, MessageId, NodeName, StateReport, TwinReport};
use serde_json::{Map, Value};

use self::entry::{Entry, Held, Planned, Waiting};
use super::conditions::Problem;
use super::object::SeenDevice;
use super::translate::{Facts, Taken};
use super::turns::Turns;

pub(super) use self::writes::{Found, Said, StatusWrite, Write, Written, Wrote};

/// Between the beginnings of two writes of one device: three a second at most, and no value waits longer for it.
const PAUSE: Duration = Duration::from_millis(300);
/// While the API server is away. A device that it refuses for good is tried again now and then: somebody may grant the
/// right that was missing.
const AWAY: Backoff =
    Backoff { first: Duration::from_millis(500), factor: 2.0, max: Duration::from_secs(15), jitter: 0.0 };
const REFUSED: Duration = Duration::from_secs(60);

/// Who waits to hear that a report is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confirmation {
    pub(super) node: NodeName,
    pub(super) report: MessageId,
}

#[derive(Debug)]
struct UnderWay {
    confirming: VecDeque<Waiting>,
    said: Option<Said>,
    shown: Map<String, Value>,
    /// The Device itself was left for later: what is not in the DeviceStatus is nowhere.
    is_behind: bool,
}

/// The statuses of all devices.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    entries: HashMap<DeviceId, Entry>,
    turns: Turns,
    under_way: HashMap<DeviceId, UnderWay>,
    /// DeviceStatuses that were found at the start, until their Device is seen.
    found: HashMap<DeviceId, Found>,
    /// Confirmations that are due now.
    confirmed: Vec<Confirmation>,
    n_unconfirmed: u64,
}

impl Statuses {
    /// A DeviceStatus that is there at the start.
    pub(super) fn found(&mut self, id: DeviceId, found: Found) {
        self.found.insert(id, found);
    }

    /// No Device will be seen any more that was there at the start.
    pub(super) fn all_found(&mut self) {
        self.found = HashMap::new();
    }

    /// A Device as it is now, and what is wrong with it.
    pub(super) fn device(&mut self, now: Instant, seen: &SeenDevice, problems: Vec<Problem>) {
        let id = &seen.stored.id;
        if self.entries.get(id).is_some_and(|entry| entry.uid != seen.stored.uid) {
            self.ended(id);
        }
        let found = &mut self.found;
        let entry = self.entries.entry(id.clone()).or_insert_with(|| {
            let (mut facts, held) = match found.remove(id) {
                Some(found) if found.owner == seen.stored.uid.as_str() => {
                    (found.facts, Held::Says(found.said))
                }
                // Somebody made it by hand.
                Some(found) if found.owner.is_empty() => (found.facts, Held::Foreign),
                Some(_) => (Facts::default(), Held::Foreign),
                None => (Facts::default(), Held::Missing),
            };
            facts.set_trouble(seen.shown.trouble());
            Entry {
                uid: seen.stored.uid.clone(),
                node: seen.says.node.clone(),
                properties: Vec::new(),
                facts,
                held,
                shown: seen.shown.clone(),
                problems: Vec::new(),
                waiting: VecDeque::new(),
                not_before: None,
                n_failed: 0,
                status_refused: None,
                device_refused: None,
            }
        });
        if seen.shown.version.is_newer_than(entry.shown.version) {
            entry.shown = seen.shown.clone();
        }
        if entry.node != seen.says.node {
            entry.node.clone_from(&seen.says.node);
            entry.facts.set_trouble(None);
        }
        if entry.properties != seen.says.properties {
            entry.properties.clone_from(&seen.says.properties);
            entry.facts.keep_only(&entry.properties);
        }
        entry.problems = problems;
        self.schedule(now, id);
    }

    /// The Device is gone; nobody needs to say anything about it again.
    pub(super) fn ended(&mut self, id: &DeviceId) {
        let Some(entry) = self.entries.remove(id) else { return };
        self.turns.forget(id);
        self.confirmed.extend(entry.waiting.into_iter().map(|waiting| waiting.who));
        if let Some(under_way) = self.under_way.get_mut(id) {
            self.confirmed.extend(under_way.confirming.drain(..).map(|waiting| waiting.who));
        }
    }

    /// Takes in a report about one of the devices; `None` when there is no such device.
    pub(super) fn twins(
        &mut self,
        now: Instant,
        unix_now: i64,
        id: &DeviceId,
        report: &TwinReport,
        who: Confirmation,
    ) -> Option<Taken> {
        let entry = self.entries.get_mut(id)?;
        let taken = entry.facts.report(report, &entry.properties, unix_now);
        self.note(now, id, taken, Waiting { who, about: about(report) });
        Some(taken)
    }

    /// The same for a state.
    pub(super) fn state(
        &mut self,
        now: Instant,
        unix_now: i64,
        id: &DeviceId,
        report: &StateReport,
        who: Confirmation,
    ) -> Option<Taken> {
        let entry = self.entries.get_mut(id)?;
        let taken = entry.facts.state(report, unix_now);
        self.note(
            now,
            id,
            taken,
            Waiting { who, about: u64::from(report.device.last_online_time.is_empty()) },
        );
        Some(taken)
    }

    /// Whether anything was ever reported of the device.
    pub(super) fn is_heard(&self, id: &DeviceId) -> bool {
        let facts = self.entries.get(id).map(|entry| &entry.facts);
        facts.or_else(|| Some(&self.found.get(id)?.facts)).is_some_and(Facts::is_heard)
    }

    /// Keeps who is to hear that this report is stored.
    fn note(&mut self, now: Instant, id: &DeviceId, taken: Taken, report: Waiting) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        // A node repeats what it has not heard of.
        if !entry.waiting.iter().any(|waiting| waiting.who == report.who) {
            // While nothing can be stored nobody hears a word: nodes give a report up when they hear of later ones only.
            if taken.older == 0 && entry.takes_writes() {
                let mut waiting = VecDeque::with_capacity(entry.waiting.len());
                for other in entry.waiting.drain(..) {
                    if other.about == report.about {
                        self.confirmed.push(other.who);
                    } else {
                        waiting.push_back(other);
                    }
                }
                entry.waiting = waiting;
            }
            entry.waiting.push_back(report);
            self.n_unconfirmed = self.n_unconfirmed.saturating_add(entry.drop_waiting());
        }
        self.schedule(now, id);
    }

    /// The next write, if one is due. `stamp` is now as RFC 3339.
    pub(super) fn poll(&mut self, now: Instant, stamp: &str) -> Option<Write> {
        loop {
            let (id, pressure) = self.turns.next(now)?;
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let planned = entry.plan(now, stamp, pressure);
            let is_written = planned.status.is_some() || planned.device.is_some();
            if planned.is_behind {
                self.turns.falls_behind(&id, now, is_written);
            } else if planned.device.is_none() {
                self.turns.catches_up(&id);
            }
            if is_written {
                entry.not_before = Some(now + PAUSE);
                let confirming = std::mem::take(&mut entry.waiting);
                let Planned { status, said, device, events, is_behind } = planned;
                let shown = device.clone().unwrap_or_default();
                let write = Write { id: id.clone(), uid: entry.uid.clone(), status, device, events };
                self.under_way.insert(id, UnderWay { confirming, said, shown, is_behind });
                return Some(write);
            }
            if !entry.is_refused(now) {
                // What is known is what is stored, or was overtaken by it.
                let stored = std::mem::take(&mut entry.waiting);
                self.confirmed.extend(stored.into_iter().map(|waiting| waiting.who));
            }
            if let Some(until) = entry.next_try(now) {
                self.turns.want(&id, until.max(now + PAUSE));
            }
        }
    }

    /// Devices that do not show yet what their DeviceStatus says.
    pub(super) fn n_behind(&self) -> usize {
        self.turns.n_behind()
    }

    /// When `poll` wants to be called next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.turns.timeout()
    }

    /// What came of a write. `unix_now` in milliseconds.
    pub(super) fn written(&mut self, now: Instant, unix_now: i64, written: Written) {
        let Written { id, uid, status, device } = written;
        let Some(UnderWay { mut confirming, said, shown, is_behind }) = self.under_way.remove(&id) else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.uid == uid) else {
            // The Device went meanwhile; one that was made anew waits for this write.
            self.confirmed.extend(confirming.into_iter().map(|waiting| waiting.who));
            self.schedule(now, &id);
            return;
        };
        let (mut is_away, mut is_open) = (false, false);
        match status {
            Wrote::Nothing => {}
            Wrote::Done(_) => {
                entry.status_refused = None;
                entry.held = said.map_or(Held::Missing, Held::Says);
            }
            Wrote::Missing => (entry.held, is_open) = (Held::Missing, true),
            Wrote::Exists(found) if found.owner.is_empty() || found.owner == uid.as_str() => {
                entry.facts.merge(&found.facts, unix_now);
                entry.facts.keep_only(&entry.properties);
                entry.held = if found.owner.is_empty() { Held::Foreign } else { Held::Says(found.said) };
                is_open = true;
            }
            Wrote::Exists(_) => (entry.held, is_open) = (Held::Foreign, true),
            Wrote::Away => is_away = true,
            Wrote::Refused => entry.status_refused = Some(now + REFUSED),
        }
        match device {
            Wrote::Nothing => {}
            Wrote::Done(version) => {
                entry.device_refused = None;
                if version.is_newer_than(entry.shown.version) {
                    entry.shown.wrote(version, &shown);
                }
                self.turns.catches_up(&id);
            }
            // Deleted or made anew: the watch will tell.
            Wrote::Missing | Wrote::Exists(..) => {}
            Wrote::Away => is_away = true,
            Wrote::Refused => entry.device_refused = Some(now + REFUSED),
        }
        // In the API server in one place, where the other is refused for good, is stored.
        let is_refused = entry.status_refused.is_some() && (entry.device_refused.is_some() || is_behind);
        let is_stored = !is_away && !is_open && !is_refused;
        if is_stored {
            self.confirmed.extend(confirming.into_iter().map(|waiting| waiting.who));
        } else {
            confirming.append(&mut entry.waiting);
            entry.waiting = confirming;
            self.n_unconfirmed = self.n_unconfirmed.saturating_add(entry.drop_waiting());
        }
        if is_away {
            entry.not_before = Some(now + AWAY.delay(entry.n_failed, 0.0));
            entry.n_failed = entry.n_failed.saturating_add(1);
        } else {
            entry.n_failed = 0;
        }
        self.schedule(now, &id);
    }

    /// A report of which nothing is to be stored.
    pub(super) fn confirm(&mut self, who: Confirmation) {
        self.confirmed.push(who);
    }

    /// Reports whose values are stored, or overtaken by stored ones.
    pub(super) fn take_confirmed(&mut self) -> Vec<Confirmation> {
        std::mem::take(&mut self.confirmed)
    }

    /// How many reports left the list of those that wait for a confirmation since the last call.
    pub(super) fn take_unconfirmed(&mut self) -> u64 {
        std::mem::take(&mut self.n_unconfirmed)
    }

    /// Sees to it that the device is looked at when it may be written next.
    fn schedule(&mut self, now: Instant, id: &DeviceId) {
        if self.under_way.contains_key(id) {
            return;
        }
        let Some(entry) = self.entries.get(id) else { return };
        let at = entry.not_before.map_or(now, |not_before| not_before.max(now));
        self.turns.want(id, at);
    }
}

/// What a report is about: the halves of properties that it has values of.
fn about(report: &TwinReport) -> u64 {
    let has = |half: &Option<ke_wire::TwinValue>| half.as_ref().is_some_and(|half| half.value.is_some());
    let halves = report.twin.iter().filter_map(|(name, twin)| {
        let twin = twin.as_ref()?;
        Some((name, has(&twin.actual), has(&twin.expected)))
    });
    let mut hasher = DefaultHasher::new();
    halves.for_each(|half| half.hash(&mut hasher));
    hasher.finish()
}

#[cfg(test)]
mod tests;
