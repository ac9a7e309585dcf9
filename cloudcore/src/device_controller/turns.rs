//! Pure: whose turn it is to be written.
//!
//! First come, first served. An API server that does not keep up shows by writes that wait long for their turn: from then on
//! Devices fall behind their DeviceStatus, and wait until nothing else is due, the oldest first; who has waited too long gets
//! every fourth turn. Driven by `reports.rs`, which decides what is written.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::object::Id;

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

/// Turns of all devices.
#[derive(Debug, Default)]
pub(super) struct Turns {
    due: BTreeSet<(Instant, Id)>,
    /// Of those that are behind the ones of which nothing is due.
    idle: BTreeSet<(Instant, Id)>,
    times: HashMap<Id, Times>,
    /// Turns of others since the last of one that is behind.
    n_others: usize,
    n_behind: usize,
}

#[derive(Debug, Default)]
struct Times {
    due: Option<Instant>,
    /// Since when its Device has not shown its newest values.
    behind: Option<Instant>,
}

impl Turns {
    /// The device wants a turn at this time, or at an earlier one that it has.
    pub(super) fn want(&mut self, id: &Id, at: Instant) {
        let times = self.times.entry(id.clone()).or_default();
        match times.due {
            Some(before) if before <= at => return,
            Some(before) => drop(self.due.remove(&(before, id.clone()))),
            None => {}
        }
        times.due = Some(at);
        self.due.insert((at, id.clone()));
        if let Some(since) = times.behind {
            self.idle.remove(&(since, id.clone()));
        }
    }

    /// Who is written now.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Id, Pressure)> {
        let due = self.due.first().map(|(due, _)| *due).filter(|due| *due <= now);
        let is_long = self.idle.first().is_some_and(|(since, _)| *since + LONG <= now);
        if !self.idle.is_empty() && (due.is_none() || (is_long && self.n_others >= OTHERS)) {
            self.n_others = 0;
            let (_, id) = self.idle.pop_first()?;
            return Some((id, Pressure::None));
        }
        self.n_others = self.n_others.saturating_add(1);
        let is_late = now.saturating_duration_since(due?) > LATE;
        let is_high = is_late || !self.idle.is_empty();
        let (_, id) = self.due.pop_first()?;
        let behind = self.times.remove(&id).and_then(|times| times.behind);
        if behind.is_some() {
            self.times.insert(id.clone(), Times { due: None, behind });
        }
        let is_long = behind.is_some_and(|since| since + LONG <= now);
        Some((id, if is_high && !is_long { Pressure::High } else { Pressure::None }))
    }

    /// Its Device is left for later. `is_written`: something else of it is, and a turn follows.
    pub(super) fn falls_behind(&mut self, id: &Id, now: Instant, is_written: bool) {
        let times = self.times.entry(id.clone()).or_default();
        if times.behind.is_none() {
            times.behind = Some(now);
            self.n_behind = self.n_behind.saturating_add(1);
        }
        if let Some(since) = times.behind
            && times.due.is_none()
            && !is_written
        {
            self.idle.insert((since, id.clone()));
        }
    }

    /// Its Device shows its newest values.
    pub(super) fn catches_up(&mut self, id: &Id) {
        let Some(times) = self.times.get_mut(id) else { return };
        if let Some(since) = times.behind.take() {
            self.idle.remove(&(since, id.clone()));
            self.n_behind = self.n_behind.saturating_sub(1);
        }
        if times.due.is_none() {
            self.times.remove(id);
        }
    }

    /// There is nothing to write of it any more.
    pub(super) fn forget(&mut self, id: &Id) {
        self.catches_up(id);
        if let Some(Times { due: Some(due), .. }) = self.times.remove(id) {
            self.due.remove(&(due, id.clone()));
        }
    }

    /// When `next` wants to be called next.
    pub(super) fn timeout(&self) -> Option<Instant> {
        // One that is behind goes as soon as nothing else does.
        self.idle.first().or_else(|| self.due.first()).map(|(at, _)| *at)
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

    fn id(name: &str) -> Id {
        Id { namespace: "plant".parse().unwrap(), name: name.parse().unwrap() }
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
            // Its write is done.
            turns.want(&id(name), now + SECOND);
        }
        assert_eq!(next(&mut turns, now), told("c", Pressure::High));
        let now = now + SECOND;
        for name in ["a", "b"] {
            next(&mut turns, now).unwrap();
            turns.falls_behind(&id(name), now, false);
            assert_eq!(turns.n_behind(), 2);
        }
        // Something new of one of them.
        turns.want(&id("a"), now);
        assert_eq!(next(&mut turns, now), told("a", Pressure::High), "others are behind");
        turns.falls_behind(&id("a"), now, false);
        assert_eq!(next(&mut turns, now), told("a", Pressure::None), "behind since before b");
        turns.catches_up(&id("a"));
        assert_eq!(next(&mut turns, now), told("b", Pressure::None));
        turns.catches_up(&id("b"));
        assert_eq!((next(&mut turns, now), turns.timeout(), turns.n_behind()), (None, None, 0));
        assert!(turns.times.is_empty(), "nothing is kept of those that want nothing");
    }

    #[test]
    fn who_is_behind_for_long_gets_every_fourth_turn() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        for name in ["a", "b", "c"] {
            turns.falls_behind(&id(name), start, false);
        }
        let now = start + LONG;
        for name in ["p", "q", "r", "s", "t", "u"] {
            turns.want(&id(name), now);
        }
        // Of those that are due and behind, too: all may be written.
        turns.falls_behind(&id("u"), start, false);
        let order: Vec<_> = std::iter::from_fn(|| next(&mut turns, now)).collect();
        let names: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["p", "q", "r", "a", "s", "t", "u", "b", "c"]);
        assert_eq!((order[5].1, order[6].1), (Pressure::High, Pressure::None));
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
