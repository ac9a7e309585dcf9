//! Pure: which device's status is to be written when, and which reports may be confirmed after it.
//!
//! A report is folded into what is known of its device at once, so that any number of them costs one write; it is
//! confirmed when that write, or a later one, has succeeded, or when a newer report says the same again. One write of a
//! device at a time, a pause between two, growing pauses while the API server refuses. Nothing that was accepted is
//! dropped; what is bounded is the list of those who wait for a confirmation, and whoever falls off it says it again.
//!
//! An API server that cannot take both places of every value gets the DeviceStatus first: values that the Device itself
//! shows follow when nothing else is due, the oldest first. Driven by `mod.rs`, carried out by `write.rs`.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use ke_api::device_status::DeviceStatusStatus;
use ke_run::backoff::Backoff;
use ke_wire::{MessageId, NodeName, StateReport, TwinReport, Uid, Version};
use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::conditions::Problem;
use super::object::{Id, SeenDevice};
use super::says::PropertySays;
use super::translate::{Facts, Shown, Taken, digest};

/// Between the beginnings of two writes of one device: three a second at most, and no value waits longer for it.
const PAUSE: Duration = Duration::from_millis(300);
/// Reports of one device that wait for their confirmation. A mapper with a hundred properties fills it in one pause.
const MAX_WAITING: usize = 256;
/// While the API server is away. A device that it refuses for good is tried again now and then: somebody may grant the
/// right that was missing.
const AWAY: Backoff =
    Backoff { first: Duration::from_millis(500), factor: 2.0, max: Duration::from_secs(15), jitter: 0.0 };
const REFUSED: Duration = Duration::from_secs(60);
/// A write that waits for its turn longer than this shows that the API server does not keep up.
const LATE: Duration = Duration::from_millis(500);
/// What a Device itself shows is at most this much behind its DeviceStatus.
const BEHIND_AT_MOST: Duration = Duration::from_secs(600);

/// Who waits to hear that a report is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confirmation {
    pub(super) node: NodeName,
    pub(super) report: MessageId,
}

/// What to do about the DeviceStatus.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum StatusWrite {
    /// Make it, with this status.
    Create(Map<String, Value>),
    /// Merge this into its status.
    Patch(Map<String, Value>),
    /// It belongs to a Device of this name that is no more: make it this one's.
    TakeOver(Map<String, Value>),
}

/// One device's write.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Write {
    pub(super) id: Id,
    pub(super) uid: Uid,
    pub(super) status: Option<StatusWrite>,
    /// Merged into the status of the Device itself.
    pub(super) device: Option<Map<String, Value>>,
    /// To be told as Kubernetes events once the Device says them.
    pub(super) events: Vec<Problem>,
}

/// What came of one half of a write.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Wrote {
    /// There was nothing to do.
    Nothing,
    /// It is in the API server.
    Done(Version),
    /// The object is not there.
    Missing,
    /// It is there already, and says this.
    Exists(Box<Found>),
    /// Not now: the API server is away, or busy.
    Away,
    /// Not like this: trying again soon is in vain.
    Refused,
}

/// A DeviceStatus that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) facts: Facts,
    pub(super) said: Said,
    /// Uid of the Device that it belongs to; empty when it says none.
    pub(super) owner: String,
}

impl Found {
    /// What a DeviceStatus says. One that says nonsense says nothing, and is written over.
    pub(super) fn of(object: &Value) -> Self {
        let status = object.get("status").unwrap_or(&Value::Null);
        let facts = Option::<DeviceStatusStatus>::deserialize(status).ok().flatten().unwrap_or_default();
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let owner =
            owners.into_iter().flatten().find(|owner| owner.get("kind").is_some_and(|kind| kind == "Device"));
        let owner =
            owner.and_then(|owner| owner.get("uid")).and_then(Value::as_str).unwrap_or_default().to_owned();
        let said = Said::new(status.as_object().unwrap_or(&Map::new()));
        Self { facts: Facts::from_status(facts), said, owner }
    }
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Written {
    pub(super) id: Id,
    pub(super) uid: Uid,
    pub(super) status: Wrote,
    pub(super) device: Wrote,
}

/// What a DeviceStatus says, as far as it is known.
#[derive(Clone, Debug, PartialEq)]
enum Held {
    Missing,
    Says(Said),
    /// It is of a Device that is no more.
    Foreign,
}

/// What is compared of a DeviceStatus.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Said {
    twins: u64,
    state: Option<Value>,
    last_online: Option<Value>,
}

impl Said {
    pub(super) fn new(status: &Map<String, Value>) -> Self {
        Self {
            twins: digest(status.get("twins")),
            state: status.get("state").cloned(),
            last_online: status.get("lastOnlineTime").cloned(),
        }
    }
}

/// A report whose confirmation waits.
#[derive(Debug)]
struct Waiting {
    who: Confirmation,
    /// Digest of what it was about: a newer report about the same overtakes it.
    about: u64,
}

#[derive(Debug)]
struct Entry {
    uid: Uid,
    node: String,
    properties: Vec<PropertySays>,
    facts: Facts,
    held: Held,
    shown: Shown,
    problems: Vec<Problem>,
    waiting: VecDeque<Waiting>,
    due: Option<Instant>,
    /// Since when the Device itself does not show what its DeviceStatus says.
    behind: Option<Instant>,
    /// The next write does not begin before this.
    not_before: Option<Instant>,
    n_failed: u32,
    /// The last refusal of either half: not tried again before its time.
    status_refused: Option<Instant>,
    device_refused: Option<Instant>,
}

#[derive(Debug)]
struct UnderWay {
    confirming: VecDeque<Waiting>,
    said: Option<Said>,
    shown: Map<String, Value>,
}

/// How much may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    All,
    /// The DeviceStatus, and what is more than a value: the API server does not keep up.
    WhatMatters,
}

/// What there is to write of a device.
#[derive(Debug)]
struct Planned {
    status: Option<StatusWrite>,
    said: Option<Said>,
    device: Option<Map<String, Value>>,
    events: Vec<Problem>,
    /// The Device itself is left for later.
    is_behind: bool,
}

impl Planned {
    fn is_empty(&self) -> bool {
        self.status.is_none() && self.device.is_none()
    }
}

/// The statuses of all devices.
#[derive(Debug, Default)]
pub(super) struct Statuses {
    entries: HashMap<Id, Entry>,
    due: BTreeSet<(Instant, Id)>,
    /// Devices of which nothing else is due. None of them is being written.
    behind: BTreeSet<(Instant, Id)>,
    under_way: HashMap<Id, UnderWay>,
    /// DeviceStatuses that were found at the start, until their Device is seen.
    found: HashMap<Id, Found>,
    /// Confirmations that are due now.
    confirmed: Vec<Confirmation>,
    n_unconfirmed: u64,
}

impl Statuses {
    /// A DeviceStatus that is there at the start.
    pub(super) fn found(&mut self, id: Id, found: Found) {
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
                due: None,
                behind: None,
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
    pub(super) fn ended(&mut self, id: &Id) {
        let Some(entry) = self.entries.remove(id) else { return };
        if let Some(due) = entry.due {
            self.due.remove(&(due, id.clone()));
        }
        if let Some(since) = entry.behind {
            self.behind.remove(&(since, id.clone()));
        }
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
        id: &Id,
        report: &TwinReport,
        who: Confirmation,
    ) -> Option<Taken> {
        let entry = self.entries.get_mut(id)?;
        let taken = entry.facts.report(report, &entry.properties, unix_now);
        self.wait(now, id, taken, Waiting { who, about: about(report) });
        Some(taken)
    }

    /// The same for a state.
    pub(super) fn state(
        &mut self,
        now: Instant,
        unix_now: i64,
        id: &Id,
        report: &StateReport,
        who: Confirmation,
    ) -> Option<Taken> {
        let entry = self.entries.get_mut(id)?;
        let taken = entry.facts.state(report, unix_now);
        self.wait(
            now,
            id,
            taken,
            Waiting { who, about: u64::from(report.device.last_online_time.is_empty()) },
        );
        Some(taken)
    }

    /// Whether anything was ever reported of the device.
    pub(super) fn is_heard(&self, id: &Id) -> bool {
        let facts = self.entries.get(id).map(|entry| &entry.facts);
        facts.or_else(|| Some(&self.found.get(id)?.facts)).is_some_and(Facts::is_heard)
    }

    fn wait(&mut self, now: Instant, id: &Id, taken: Taken, report: Waiting) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        // A node repeats what it has not heard of.
        let is_repeated = entry.waiting.iter().any(|waiting| waiting.who == report.who);
        // Its node keeps this one until it is stored: what it overtakes need not be.
        if !is_repeated && taken.older == 0 {
            let all = std::mem::take(&mut entry.waiting);
            let (overtaken, waiting) = all.into_iter().partition(|waiting| waiting.about == report.about);
            entry.waiting = waiting;
            let overtaken: VecDeque<Waiting> = overtaken;
            self.confirmed.extend(overtaken.into_iter().map(|waiting| waiting.who));
        }
        if !is_repeated {
            if entry.waiting.len() >= MAX_WAITING {
                entry.waiting.pop_front();
                self.n_unconfirmed = self.n_unconfirmed.saturating_add(1);
            }
            entry.waiting.push_back(report);
        }
        self.schedule(now, id);
    }

    /// The next write, if one is due. `stamp` is now as RFC 3339.
    pub(super) fn poll(&mut self, now: Instant, stamp: &str) -> Option<Write> {
        loop {
            let (id, takes) = self.turn(now)?;
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let is_long = entry.behind.is_some_and(|since| since + BEHIND_AT_MOST <= now);
            let planned = entry.plan(now, stamp, if is_long { Takes::All } else { takes });
            let confirming = std::mem::take(&mut entry.waiting);
            entry.behind = planned.is_behind.then(|| entry.behind.unwrap_or(now));
            if planned.is_empty() {
                if entry.is_refused(now) {
                    entry.waiting = confirming;
                    let until = entry.status_refused.into_iter().chain(entry.device_refused).min();
                    let retry = until.unwrap_or(now).max(now + PAUSE);
                    entry.due = Some(retry);
                    self.due.insert((retry, id));
                } else {
                    // What is known is what is stored, or was overtaken by it.
                    self.confirmed.extend(confirming.into_iter().map(|waiting| waiting.who));
                    self.behind.extend(entry.behind.map(|since| (since, id)));
                }
                continue;
            }
            entry.not_before = Some(now + PAUSE);
            let Planned { status, said, device, events, .. } = planned;
            let shown = device.clone().unwrap_or_default();
            let write = Write { id: id.clone(), uid: entry.uid.clone(), status, device, events };
            self.under_way.insert(id, UnderWay { confirming, said, shown });
            return Some(write);
        }
    }

    /// Whose turn it is, and how much may be written.
    fn turn(&mut self, now: Instant) -> Option<(Id, Takes)> {
        let due = self.due.first().map(|(due, _)| *due).filter(|due| *due <= now);
        let is_next = |since: Instant| due.is_none() || since + BEHIND_AT_MOST <= now;
        if self.behind.first().is_some_and(|(since, _)| is_next(*since)) {
            let (_, id) = self.behind.pop_first()?;
            if let Some(due) = self.entries.get_mut(&id).and_then(|entry| entry.due.take()) {
                self.due.remove(&(due, id.clone()));
            }
            return Some((id, Takes::All));
        }
        let is_late = now.saturating_duration_since(due?) > LATE;
        let takes = if is_late || !self.behind.is_empty() { Takes::WhatMatters } else { Takes::All };
        let (_, id) = self.due.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.due = None;
            self.behind.remove(&(entry.behind.unwrap_or(now), id.clone()));
        }
        Some((id, takes))
    }

    /// Devices that wait until nothing else is due.
    pub(super) fn n_behind(&self) -> usize {
        self.behind.len()
    }

    /// When `poll` wants to be called next.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        // A Device that is behind goes as soon as nothing else does.
        self.behind.first().or_else(|| self.due.first()).map(|(at, _)| *at)
    }

    /// What came of a write. `unix_now` in milliseconds.
    pub(super) fn written(&mut self, now: Instant, unix_now: i64, written: Written) {
        let Written { id, uid, status, device } = written;
        let Some(UnderWay { confirming, said, shown }) = self.under_way.remove(&id) else { return };
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
            }
            // Deleted or made anew: the watch will tell.
            Wrote::Missing | Wrote::Exists(..) => {}
            Wrote::Away => is_away = true,
            Wrote::Refused => entry.device_refused = Some(now + REFUSED),
        }
        // In the API server in one place, where the other is refused for good, is stored.
        let is_refused = entry.status_refused.is_some() && entry.device_refused.is_some();
        let is_stored = !is_away && !is_open && !is_refused;
        if is_stored {
            self.confirmed.extend(confirming.into_iter().map(|waiting| waiting.who));
        } else {
            let mut confirming = confirming;
            confirming.append(&mut entry.waiting);
            entry.waiting = confirming;
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
    fn schedule(&mut self, now: Instant, id: &Id) {
        if self.under_way.contains_key(id) {
            return;
        }
        let Some(entry) = self.entries.get_mut(id) else { return };
        let due = entry.not_before.map_or(now, |not_before| not_before.max(now));
        match entry.due {
            Some(before) if before <= due => return,
            Some(before) => drop(self.due.remove(&(before, id.clone()))),
            None => {}
        }
        entry.due = Some(due);
        self.due.insert((due, id.clone()));
    }
}

impl Entry {
    /// Whether there is no place now that takes what is known.
    fn is_refused(&self, now: Instant) -> bool {
        let is = |refused: Option<Instant>| refused.is_some_and(|until| until > now);
        is(self.status_refused) && is(self.device_refused)
    }

    /// What there is to write now.
    fn plan(&self, now: Instant, stamp: &str, takes: Takes) -> Planned {
        let wanted = self.facts.device_status(&self.properties);
        let said = Said::new(&wanted);
        let may = |refused: Option<Instant>| refused.is_none_or(|until| until <= now);
        let may_status = may(self.status_refused);
        let status = match &self.held {
            _ if !may_status => None,
            Held::Missing => Some(StatusWrite::Create(wanted)),
            Held::Foreign => Some(StatusWrite::TakeOver(wanted)),
            Held::Says(held) if *held == said => None,
            Held::Says(_) => Some(StatusWrite::Patch(wanted)),
        };
        let said = status.is_some().then_some(said);
        let live = self.facts.live_status(&self.properties);
        let problems: Vec<Problem> = self.problems.iter().chain(self.facts.trouble()).cloned().collect();
        let patch =
            if may(self.device_refused) { self.shown.patch(live, &problems, stamp) } else { Map::new() };
        // Where there is no other place for a value, or it is no mere value, it does not wait.
        let may_wait = may_status && !patch.contains_key("conditions") && !patch.contains_key("state");
        let is_behind = takes == Takes::WhatMatters && may_wait && !patch.is_empty();
        let device = (!patch.is_empty() && !is_behind).then_some(patch);
        let tells = device.as_ref().is_some_and(|patch| patch.contains_key("conditions"));
        let events = if tells { self.shown.untold(&problems) } else { Vec::new() };
        Planned { status, said, device, events, is_behind }
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
