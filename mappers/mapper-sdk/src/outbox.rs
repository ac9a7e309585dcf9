//! Pure: what one device has to tell while the edge node is away.
//!
//! The newest few hundred reports wait in memory, in order. It decides only what is kept; `link.rs` sends.

use std::collections::VecDeque;

use ke_dmi::v1beta1 as dmi;

/// A few minutes of a device that is read every second. Beyond that the oldest values are dropped and counted.
pub(crate) const ROOM: usize = 300;

/// What a mapper tells of a device.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Report {
    /// Values of one round.
    Values(Vec<dmi::Twin>),
    /// Whether the device is there, and why it is no better.
    State(&'static str, String),
}

/// Waiting reports of one device.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<(u64, Report)>,
    last_number: u64,
    n_dropped: u64,
}

impl Outbox {
    /// Adds a report. When full, the oldest values go; a state that repeats the last waiting one is not added.
    pub(crate) fn push(&mut self, report: Report) {
        if matches!(report, Report::State(..)) {
            let mut newest =
                self.waiting.iter().rev().filter(|(_, waits)| matches!(waits, Report::State(..)));
            if newest.next().is_some_and(|(_, waits)| *waits == report) {
                return;
            }
        }
        if self.waiting.len() >= ROOM {
            let values = self.waiting.iter().position(|(_, waits)| matches!(waits, Report::Values(_)));
            self.waiting.remove(values.unwrap_or_default());
            self.n_dropped = self.n_dropped.saturating_add(1);
        }
        self.last_number = self.last_number.wrapping_add(1);
        self.waiting.push_back((self.last_number, report));
    }

    /// The oldest report and its number; it stays until [`Outbox::done`].
    #[must_use]
    pub(crate) fn oldest(&self) -> Option<(u64, Report)> {
        self.waiting.front().cloned()
    }

    /// The edge node has this report, or will never take it.
    pub(crate) fn done(&mut self, number: u64) {
        // It may have been dropped meanwhile.
        self.waiting.retain(|(waits, _)| *waits != number);
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

    fn state(word: &'static str) -> Report {
        Report::State(word, String::new())
    }

    fn drain(outbox: &mut Outbox) -> Vec<Report> {
        std::iter::from_fn(|| {
            let (number, report) = outbox.oldest()?;
            outbox.done(number);
            Some(report)
        })
        .collect()
    }

    #[test]
    fn in_order_and_each_until_it_is_done() {
        let mut outbox = Outbox::default();
        for report in [state("online"), values(1), state("online"), state("offline"), values(2)] {
            outbox.push(report);
        }
        assert_eq!(outbox.oldest(), outbox.oldest());
        assert_eq!(drain(&mut outbox), [state("online"), values(1), state("offline"), values(2)]);
    }

    #[test]
    fn what_is_not_taken_leaves_its_round() {
        let mut outbox = Outbox::default();
        let twin = |name: &str| dmi::Twin { property_name: name.to_owned(), ..Default::default() };
        outbox.push(state("online"));
        outbox.push(Report::Values(vec![twin("a"), twin("bad"), twin("b")]));
        outbox.push(Report::Values(vec![twin("bad")]));
        outbox.push(values(1));
        let check = |twin: &dmi::Twin| if twin.property_name == "bad" { Err("unfit") } else { Ok(()) };
        let bad = || ("bad".to_owned(), "unfit");
        assert_eq!(outbox.leave_out(check), [bad(), bad()]);
        assert_eq!(outbox.leave_out(check), []);
        let rest = Report::Values(vec![twin("a"), twin("b")]);
        assert_eq!(drain(&mut outbox), [state("online"), rest, values(1)]);
    }

    #[test]
    fn the_oldest_values_go_and_are_counted() {
        let mut outbox = Outbox::default();
        outbox.push(state("online"));
        for name in 0..ROOM + 2 {
            outbox.push(values(name));
        }
        let (number, _) = outbox.oldest().unwrap();
        assert_eq!((outbox.take_dropped(), outbox.take_dropped()), (3, 0));
        let kept = drain(&mut outbox);
        assert_eq!((kept.len(), &kept[0], &kept[1]), (ROOM, &state("online"), &values(3)));
        // Dropped while it was being sent.
        outbox.push(values(0));
        outbox.done(number);
        assert!(outbox.oldest().is_some());
    }
}
