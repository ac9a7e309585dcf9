//! Pure: whose turn it is to be written.
//!
//! First come, first served. An API server that does not keep up shows by writes that wait long for their turn: from then on
//! Devices fall behind their DeviceStatus, and wait until nothing else is due, the oldest first; who has waited too long gets
//! every fourth turn. Driven by `reports.rs`, which decides what is written.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use ke_wire::DeviceId;

/// A write that waits for its turn longer than this shows that the API server does not keep up. With 32 writes at once, 16 ms
/// each, it takes a thousand devices that report in one moment.
const LATE: Duration = Duration::from_millis(500);
/// A Device that is behind for this long gets a turn among the others: people who look at Devices during such a time should
/// see that they change.
pub(super) const LONG: Duration = Duration::from_secs(120);
/// So many turns of others between two of theirs. A quarter for them makes the others a third slower.
const OTHERS: usize = 3;

/// How the API server keeps up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    /// Everything may be written.
    None,
    /// What can wait should.
    High,
}

/// Turns of all devices. One whose turn it is has no other until it wants one.
#[derive(Debug, Default)]
pub(super) struct Turns {
    due: BTreeSet<(Instant, DeviceId)>,
    /// By the time since when their Device has not shown its newest values.
    behind: BTreeSet<(Instant, DeviceId)>,
    times: HashMap<DeviceId, Times>,
    /// Turns of others since the last of one that is behind.
    n_others: usize,
    n_behind: usize,
}

#[derive(Debug, Default)]
struct Times {
    due: Option<Instant>,
    behind: Option<Instant>,
}

impl Turns {
    /// The device wants a turn at this time, or at an earlier one that it has.
    pub(super) fn want(&mut self, id: &DeviceId, at: Instant) {
        let times = self.times.entry(id.clone()).or_default();
        self.behind.extend(times.behind.map(|since| (since, id.clone())));
        match times.due {
            Some(before) if before <= at => return,
            Some(before) => drop(self.due.remove(&(before, id.clone()))),
            None => {}
        }
        times.due = Some(at);
        self.due.insert((at, id.clone()));
    }

    /// Who is written now.
    pub(super) fn next(&mut self, now: Instant) -> Option<(DeviceId, Pressure)> {
        let due = self.due.first().map(|(due, _)| *due).filter(|due| *due <= now);
        let is_long = self.behind.first().is_some_and(|(since, _)| *since + LONG <= now);
        let is_of_behind = due.is_none() || (is_long && self.n_others >= OTHERS);
        if is_of_behind && let Some((_, id)) = self.behind.pop_first() {
            self.n_others = 0;
            if let Some(due) = self.times.get_mut(&id).and_then(|times| times.due.take()) {
                self.due.remove(&(due, id.clone()));
            }
            return Some((id, Pressure::None));
        }
        let is_late = now.saturating_duration_since(due?) > LATE;
        let is_high = is_late || !self.behind.is_empty();
        let (_, id) = self.due.pop_first()?;
        self.n_others = self.n_others.saturating_add(1);
        match self.times.get_mut(&id) {
            Some(Times { due, behind: Some(since) }) => {
                *due = None;
                self.behind.remove(&(*since, id.clone()));
            }
            _ => drop(self.times.remove(&id)),
        }
        Some((id, if is_high { Pressure::High } else { Pressure::None }))
    }

    /// Its Device is left for later. `is_written`: something else of it is, and it will want a turn after that.
    pub(super) fn falls_behind(&mut self, id: &DeviceId, now: Instant, is_written: bool) {
        let times = self.times.entry(id.clone()).or_default();
        if times.behind.is_none() {
            self.n_behind = self.n_behind.saturating_add(1);
        }
        let since = *times.behind.get_or_insert(now);
        if !is_written {
            self.behind.insert((since, id.clone()));
        }
    }

    /// Its Device shows its newest values.
    pub(super) fn catches_up(&mut self, id: &DeviceId) {
        let Some(times) = self.times.get_mut(id) else { return };
        if let Some(since) = times.behind.take() {
            self.behind.remove(&(since, id.clone()));
            self.n_behind = self.n_behind.saturating_sub(1);
        }
        if times.due.is_none() {
            self.times.remove(id);
        }
    }

    /// There is nothing to write of it any more.
    pub(super) fn forget(&mut self, id: &DeviceId) {
        self.catches_up(id);
        if let Some(Times { due: Some(due), .. }) = self.times.remove(id) {
            self.due.remove(&(due, id.clone()));
        }
    }

    /// When `next` wants to be called next.
    pub(super) fn timeout(&self) -> Option<Instant> {
        // One that is behind goes as soon as nothing else does.
        self.behind.first().or_else(|| self.due.first()).map(|(at, _)| *at)
    }

    /// Devices that do not show their newest values.
    pub(super) fn n_behind(&self) -> usize {
        self.n_behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id(name: &str) -> DeviceId {
        DeviceId { namespace: "plant".parse().unwrap(), name: name.parse().unwrap() }
    }

    fn next(turns: &mut Turns, now: Instant) -> Option<(String, Pressure)> {
        turns.next(now).map(|(id, pressure)| (id.name.to_string(), pressure))
    }

    fn told(name: &str, pressure: Pressure) -> Option<(String, Pressure)> {
        Some((name.to_owned(), pressure))
    }

    #[test]
    fn first_come_first_served() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.want(&id("b"), now + SECOND);
        turns.want(&id("a"), now + SECOND * 2);
        turns.want(&id("a"), now);
        turns.want(&id("a"), now + SECOND * 3);
        assert_eq!(next(&mut turns, now), told("a", Pressure::None));
        assert_eq!(next(&mut turns, now), None);
        assert_eq!(turns.timeout(), Some(now + SECOND));
        assert_eq!(next(&mut turns, now + SECOND), told("b", Pressure::None));
        assert_eq!((turns.timeout(), turns.n_behind()), (None, 0));
    }

    #[test]
    fn who_is_behind_waits_until_nothing_else_is_due() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        ["a", "b", "c"].iter().for_each(|name| turns.want(&id(name), start));
        let now = start + SECOND;
        for name in ["a", "b"] {
            assert_eq!(next(&mut turns, now), told(name, Pressure::High), "it has waited for long");
            turns.falls_behind(&id(name), now, true);
        }
        assert_eq!(next(&mut turns, now), told("c", Pressure::High));
        assert_eq!(next(&mut turns, now), None, "the others are being written");
        // Their writes are done, and something new of one is there.
        turns.want(&id("a"), now);
        turns.want(&id("b"), now + SECOND);
        assert_eq!(next(&mut turns, now), told("a", Pressure::High), "others are behind");
        turns.falls_behind(&id("a"), now + SECOND, false);
        assert_eq!(turns.n_behind(), 2);
        assert_eq!(next(&mut turns, now), told("a", Pressure::None), "behind since before b, by its name");
        turns.catches_up(&id("a"));
        assert_eq!(
            next(&mut turns, now),
            told("b", Pressure::None),
            "it need not wait for what it wanted later"
        );
        turns.catches_up(&id("b"));
        assert_eq!((next(&mut turns, now + SECOND), turns.timeout(), turns.n_behind()), (None, None, 0));
        assert!(turns.times.is_empty(), "nothing is kept of those that want nothing");
    }

    #[test]
    fn who_is_behind_for_long_gets_every_fourth_turn() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        for name in ["a", "b", "u"] {
            turns.falls_behind(&id(name), start, false);
        }
        let now = start + LONG;
        for name in ["p", "q", "r", "s", "t", "u", "v"] {
            turns.want(&id(name), now);
        }
        let order: Vec<_> = std::iter::from_fn(|| next(&mut turns, now)).collect();
        let names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
        // Of those that are due, too, the Device waits for its turn.
        assert_eq!(names, ["p", "q", "r", "a", "s", "t", "u", "b", "v"]);
        let high = order.iter().filter(|(_, pressure)| *pressure == Pressure::High).count();
        assert_eq!(high, 6, "all but those of a and b, and that of v, when nobody waits any more: {order:?}");
    }

    #[test]
    fn who_is_gone_leaves_nothing() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.falls_behind(&id("a"), now, false);
        turns.want(&id("a"), now);
        turns.falls_behind(&id("b"), now, false);
        turns.forget(&id("a"));
        turns.forget(&id("b"));
        turns.forget(&id("c"));
        assert_eq!((next(&mut turns, now), turns.timeout(), turns.n_behind()), (None, None, 0));
        assert!(turns.times.is_empty());
    }
}
