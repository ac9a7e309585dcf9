//! Pure: one device, what is known of it, and what of that is to be written now.

use std::collections::VecDeque;
use std::time::Instant;

use ke_wire::Uid;
use serde_json::{Map, Value};

use super::super::conditions::Problem;
use super::super::says::PropertySays;
use super::super::translate::{Facts, Shown};
use super::super::turns::Pressure;
use super::Confirmation;
use super::writes::{Said, StatusWrite};

/// Reports of one device that wait for their confirmation: a mapper that tells its properties one by one has as many as
/// properties, more only while the API server is away.
pub(super) const MAX_WAITING: usize = 256;

/// What a DeviceStatus says, as far as it is known.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Held {
    Missing,
    Says(Said),
    /// It is of a Device that is no more, or somebody made it by hand.
    Foreign,
}

/// A report whose confirmation waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) who: Confirmation,
    /// Digest of what it was about: a newer report about the same overtakes it.
    pub(super) about: u64,
}

/// One device: what is known of it, and what is stored.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) uid: Uid,
    pub(super) node: String,
    pub(super) properties: Vec<PropertySays>,
    pub(super) facts: Facts,
    pub(super) held: Held,
    pub(super) shown: Shown,
    pub(super) problems: Vec<Problem>,
    pub(super) waiting: VecDeque<Waiting>,
    /// The next write does not begin before this.
    pub(super) not_before: Option<Instant>,
    pub(super) n_failed: u32,
    /// The last refusal of either half: not tried again before its time.
    pub(super) status_refused: Option<Instant>,
    pub(super) device_refused: Option<Instant>,
}

/// What there is to write of a device.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) status: Option<StatusWrite>,
    pub(super) said: Option<Said>,
    pub(super) device: Option<Map<String, Value>>,
    pub(super) events: Vec<Problem>,
    /// The Device itself is left for later.
    pub(super) is_behind: bool,
}

impl Entry {
    /// Whether there is no place now that takes what is known.
    pub(super) fn is_refused(&self, now: Instant) -> bool {
        let is = |refused: Option<Instant>| refused.is_some_and(|until| until > now);
        is(self.status_refused) && is(self.device_refused)
    }

    /// When a half that was refused is to be tried again.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        let refused = self.status_refused.into_iter().chain(self.device_refused);
        refused.filter(|until| *until > now).min()
    }

    /// Whether the last write came through, as far as is known.
    pub(super) fn takes_writes(&self) -> bool {
        self.n_failed == 0 && self.status_refused.is_none() && self.device_refused.is_none()
    }

    /// Keeps the list within its bound, and says how many fell off.
    pub(super) fn drop_waiting(&mut self) -> u64 {
        let n_over = self.waiting.len().saturating_sub(MAX_WAITING);
        self.waiting.drain(..n_over);
        n_over as u64
    }

    /// What there is to write now.
    pub(super) fn plan(&self, now: Instant, stamp: &str, pressure: Pressure) -> Planned {
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
        let mut patch =
            if may(self.device_refused) { self.shown.patch(live, &problems, stamp) } else { Map::new() };
        if matches!(self.held, Held::Missing) && !self.facts.has_values() {
            // Nothing is known yet, which is no reason to take away what an earlier run wrote.
            patch.remove("twins");
        }
        // Where there is no other place for a value, or it is no mere value, it does not wait.
        let has_place = may_status && self.status_refused.is_none();
        let may_wait = has_place && !patch.contains_key("conditions") && !patch.contains_key("state");
        let is_behind = pressure == Pressure::High && may_wait && !patch.is_empty();
        let device = (!patch.is_empty() && !is_behind).then_some(patch);
        let tells = device.as_ref().is_some_and(|patch| patch.contains_key("conditions"));
        let events = if tells { self.shown.untold(&problems) } else { Vec::new() };
        Planned { status, said, device, events, is_behind }
    }
}
