//! Pure: what one device has to tell while the edge node is away.
//!
//! The newest few hundred reports wait in memory, in order; for an edge node that takes few only the newest values. It
//! decides only what is kept; `carrier.rs` asks, `link.rs` sends.

use std::collections::VecDeque;

use ke_dmi::v1beta1 as dmi;

use crate::terms::Pace;

/// A few minutes of a device that is read every second. Beyond that the oldest values are dropped and counted.
pub(crate) const ROOM: usize = 300;

/// What a mapper tells of a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Report {
    /// Values of one round.
    Values(Vec<dmi::Twin>),
    /// Whether the device is there, and why it is no better.
    State(State, String),
}

/// How a device is. No more of the words that edge nodes take is needed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Online,
    Offline,
    /// It answers, but something of its manifest cannot be done.
    Unhealthy,
}

impl State {
    /// The word that edge nodes take; `link.rs` says it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Waiting reports of one device.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<(u64, Report)>,
    last_number: u64,
    /// What was last asked for.
    pace: Pace,
    n_dropped: u64,
    n_replaced: u64,
}

impl Outbox {
    /// Adds a report. When full, the oldest values go, and it says so; a state that repeats the last waiting one is not added.
    pub(crate) fn push(&mut self, report: Report) -> bool {
        if matches!(report, Report::State(..)) {
            let mut newest =
                self.waiting.iter().rev().filter(|(_, waits)| matches!(waits, Report::State(..)));
            if newest.next().is_some_and(|(_, waits)| *waits == report) {
                return false;
            }
        }
        if self.waiting.len() >= ROOM && self.pace == Pace::Newest {
            self.merge();
        }
        let is_full = self.waiting.len() >= ROOM;
        if is_full {
            let values = self.waiting.iter().position(|(_, waits)| matches!(waits, Report::Values(_)));
            self.waiting.remove(values.unwrap_or_default());
            self.n_dropped = self.n_dropped.saturating_add(1);
        }
        self.add(report);
        is_full
    }

    fn add(&mut self, report: Report) {
        self.last_number = self.last_number.wrapping_add(1);
        self.waiting.push_back((self.last_number, report));
    }

    /// Whether nothing waits.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The report to send next and its number; it stays until [`Outbox::done`].
    #[must_use]
    pub(crate) fn next(&mut self, pace: Pace) -> Option<(u64, Report)> {
        self.pace = pace;
        if pace == Pace::Newest && self.waiting.len() > 1 {
            self.merge();
        }
        self.waiting.front().cloned()
    }

    /// Makes one report of all values and one of all states, the newest of each. Both have new numbers: of one that is under
    /// way only a part may be done.
    fn merge(&mut self) {
        let mut state = None;
        let mut values: Vec<dmi::Twin> = Vec::new();
        let is_state_first = matches!(self.waiting.front(), Some((_, Report::State(..))));
        for (_, report) in std::mem::take(&mut self.waiting) {
            let twins = match report {
                Report::Values(twins) => twins,
                newer @ Report::State(..) => {
                    state = Some(newer);
                    continue;
                }
            };
            for twin in twins {
                match values.iter_mut().find(|older| older.property_name == twin.property_name) {
                    Some(older) => {
                        *older = twin;
                        self.n_replaced = self.n_replaced.saturating_add(1);
                    }
                    None => values.push(twin),
                }
            }
        }
        let values = (!values.is_empty()).then_some(Report::Values(values));
        // What waits longest goes first, so that neither keeps the other waiting.
        let both = if is_state_first { [state, values] } else { [values, state] };
        for report in both.into_iter().flatten() {
            self.add(report);
        }
    }

    /// The edge node has this report, or will never take it.
    pub(crate) fn done(&mut self, number: u64) {
        // It may have been dropped meanwhile.
        self.waiting.retain(|(waits, _)| *waits != number);
    }

    /// How many values newer ones replaced since this was last asked.
    pub(crate) fn take_replaced(&mut self) -> u64 {
        std::mem::take(&mut self.n_replaced)
    }

    /// Values that are to go once more, before those that are newer.
    pub(crate) fn repeat(&mut self, twins: Vec<dmi::Twin>) {
        self.last_number = self.last_number.wrapping_add(1);
        let values = self.waiting.iter().position(|(_, waits)| matches!(waits, Report::Values(_)));
        let place = values.unwrap_or(self.waiting.len());
        self.waiting.insert(place, (self.last_number, Report::Values(twins)));
    }

    /// Takes out the values that the edge node would not take, and says which and why; the others of their rounds stay.
    pub(crate) fn leave_out<E>(&mut self, check: impl Fn(&dmi::Twin) -> Result<(), E>) -> Vec<(String, E)> {
        let mut left_out = Vec::new();
        for (_, report) in &mut self.waiting {
            let Report::Values(twins) = report else { continue };
            twins.retain(|twin| match check(twin) {
                Ok(()) => true,
                Err(why) => {
                    left_out.push((twin.property_name.clone(), why));
                    false
                }
            });
        }
        self.waiting.retain(|(_, report)| !matches!(report, Report::Values(twins) if twins.is_empty()));
        left_out
    }

    /// How many reports were dropped since this was last asked.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.n_dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(name: usize) -> Report {
        Report::Values(vec![dmi::Twin { property_name: name.to_string(), ..Default::default() }])
    }

    fn state(state: State) -> Report {
        Report::State(state, String::new())
    }

    fn drain(outbox: &mut Outbox) -> Vec<Report> {
        std::iter::from_fn(|| {
            let (number, report) = outbox.next(Pace::Every)?;
            outbox.done(number);
            Some(report)
        })
        .collect()
    }

    #[test]
    fn in_order_and_each_until_it_is_done() {
        let mut outbox = Outbox::default();
        for report in
            [state(State::Online), values(1), state(State::Online), state(State::Offline), values(2)]
        {
            outbox.push(report);
        }
        assert_eq!(outbox.next(Pace::Every), outbox.next(Pace::Every));
        assert_eq!(drain(&mut outbox), [state(State::Online), values(1), state(State::Offline), values(2)]);
    }

    /// A round of properties and their values.
    fn round(values: &[(&str, usize)]) -> Report {
        let twin = |(name, value): &(&str, usize)| dmi::Twin {
            property_name: (*name).to_owned(),
            reported: Some(dmi::TwinProperty { value: value.to_string(), ..Default::default() }),
            ..Default::default()
        };
        Report::Values(values.iter().map(twin).collect())
    }

    #[test]
    fn the_newest_of_each() {
        let check = |reports: Vec<Report>, n_replaced: u64, expected: &[Report]| {
            let mut outbox = Outbox::default();
            for report in reports {
                outbox.push(report);
            }
            let next = std::iter::from_fn(|| {
                let (number, report) = outbox.next(Pace::Newest)?;
                outbox.done(number);
                Some(report)
            });
            assert_eq!(next.collect::<Vec<_>>(), expected);
            assert_eq!((outbox.take_replaced(), outbox.take_dropped()), (n_replaced, 0));
        };
        let (old, new) = (round(&[("a", 1), ("b", 1)]), round(&[("b", 2), ("c", 2)]));
        let merged = || round(&[("a", 1), ("b", 2), ("c", 2)]);
        check(vec![], 0, &[]);
        check(vec![old.clone(), new.clone()], 1, &[merged()]);
        let reports = vec![state(State::Online), old.clone(), state(State::Offline), new.clone()];
        check(reports, 1, &[state(State::Offline), merged()]);
        check(
            vec![old, state(State::Online), new, state(State::Offline)],
            1,
            &[merged(), state(State::Offline)],
        );
        check(vec![state(State::Online)], 0, &[state(State::Online)]);
    }

    #[test]
    fn once_more_but_never_after_what_is_newer() {
        let mut outbox = Outbox::default();
        let Report::Values(old) = round(&[("a", 1), ("b", 1)]) else { panic!("values") };
        outbox.push(state(State::Online));
        outbox.push(round(&[("a", 2)]));
        outbox.repeat(old.clone());
        let (number, report) = outbox.next(Pace::Newest).unwrap();
        assert_eq!(report, state(State::Online));
        outbox.done(number);
        let (number, report) = outbox.next(Pace::Newest).unwrap();
        assert_eq!(report, round(&[("a", 2), ("b", 1)]));
        outbox.done(number);
        outbox.repeat(old.clone());
        assert_eq!(drain(&mut outbox), [Report::Values(old)]);
    }

    #[test]
    fn what_is_newer_than_what_is_under_way() {
        let mut outbox = Outbox::default();
        outbox.push(round(&[("a", 1)]));
        let (number, _) = outbox.next(Pace::Newest).unwrap();
        outbox.push(round(&[("a", 2)]));
        // It did not arrive: the newer one goes in its place.
        let (again, report) = outbox.next(Pace::Newest).unwrap();
        assert_eq!(report, round(&[("a", 2)]));
        outbox.done(number);
        assert!(!outbox.is_empty());
        outbox.done(again);
        assert!(outbox.is_empty());
    }

    #[test]
    fn no_property_is_lost_however_long_the_newest_wait() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.next(Pace::Newest), None);
        outbox.push(round(&[("rare", 7)]));
        for value in 0..10 * ROOM {
            outbox.push(round(&[("a", value)]));
            assert!(outbox.waiting.len() <= ROOM);
        }
        let (_, report) = outbox.next(Pace::Newest).unwrap();
        assert_eq!(report, round(&[("rare", 7), ("a", 10 * ROOM - 1)]));
        let n_replaced = u64::try_from(10 * ROOM - 1).unwrap();
        assert_eq!((outbox.take_replaced(), outbox.take_dropped()), (n_replaced, 0));
    }

    #[test]
    fn what_is_not_taken_leaves_its_round() {
        let mut outbox = Outbox::default();
        let twin = |name: &str| dmi::Twin { property_name: name.to_owned(), ..Default::default() };
        outbox.push(state(State::Online));
        outbox.push(Report::Values(vec![twin("a"), twin("bad"), twin("b")]));
        outbox.push(Report::Values(vec![twin("bad")]));
        outbox.push(values(1));
        let check = |twin: &dmi::Twin| if twin.property_name == "bad" { Err("unfit") } else { Ok(()) };
        let bad = || ("bad".to_owned(), "unfit");
        assert_eq!(outbox.leave_out(check), [bad(), bad()]);
        assert_eq!(outbox.leave_out(check), []);
        let rest = Report::Values(vec![twin("a"), twin("b")]);
        assert_eq!(drain(&mut outbox), [state(State::Online), rest, values(1)]);
    }

    #[test]
    fn the_oldest_values_go_and_are_counted() {
        let mut outbox = Outbox::default();
        outbox.push(state(State::Online));
        let went = (0..ROOM + 2).filter(|name| outbox.push(values(*name))).count();
        assert_eq!(went, 3, "each is told when it goes");
        let (number, _) = outbox.next(Pace::Every).unwrap();
        assert_eq!((outbox.take_dropped(), outbox.take_dropped()), (3, 0));
        let kept = drain(&mut outbox);
        assert_eq!((kept.len(), &kept[0], &kept[1]), (ROOM, &state(State::Online), &values(3)));
        // Dropped while it was being sent.
        outbox.push(values(0));
        outbox.done(number);
        assert!(!outbox.is_empty());
    }
}
