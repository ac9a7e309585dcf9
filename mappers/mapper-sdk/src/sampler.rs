//! Pure: which properties are due now.
//!
//! Properties of one cycle stay together, so that a driver can fetch them with one request. Rounds that were missed, as the
//! device was slow, are not caught up with. Called by `device.rs`.

use std::time::Duration;

/// When each property is read next. Times are since any fixed moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sampler {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq)]
struct Entry {
    /// Its place among the device's properties.
    index: usize,
    cycle: Duration,
    next: Duration,
}

impl Sampler {
    /// Of pairs of a property's place and its cycle; all are due at once.
    pub(crate) fn new(cycles: impl IntoIterator<Item = (usize, Duration)>, now: Duration) -> Self {
        let entries = cycles.into_iter().map(|(index, cycle)| Entry {
            index,
            // Nothing can be read without end.
            cycle: cycle.max(Duration::from_millis(1)),
            next: now,
        });
        Self { entries: entries.collect() }
    }

    /// The places of those that are due; they are due again one cycle after they were to be.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<usize> {
        let mut due = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.next <= now) {
            due.push(entry.index);
            entry.next += entry.cycle;
            if entry.next <= now {
                // At the next multiple, so that those of one cycle stay together.
                let late = now.saturating_sub(entry.next).as_nanos();
                let rest = late % entry.cycle.as_nanos().max(1);
                let rest = Duration::from_nanos(u64::try_from(rest).unwrap_or_default());
                entry.next = now + entry.cycle.saturating_sub(rest);
            }
        }
        due
    }

    /// Reads this property at the next round already: it was just written.
    pub(crate) fn hurry(&mut self, index: usize, now: Duration) {
        for entry in self.entries.iter_mut().filter(|entry| entry.index == index) {
            entry.next = entry.next.min(now);
        }
    }

    /// When something is due next.
    #[must_use]
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.entries.iter().map(|entry| entry.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn rounds() {
        let check = |cycles: &[u64], at: &[u64], expected: &[&[usize]]| {
            let cycles = cycles.iter().enumerate().map(|(index, cycle)| (index, ms(*cycle)));
            let mut sampler = Sampler::new(cycles, ms(0));
            let due: Vec<Vec<usize>> = at.iter().map(|at| sampler.take_due(ms(*at))).collect();
            assert_eq!(due, expected, "at {at:?}");
        };
        check(&[100, 300], &[0, 50, 100, 200, 300, 301], &[&[0, 1], &[], &[0], &[0], &[0, 1], &[]]);
        // A slow device: no round is caught up with, and both come together again.
        check(&[100, 100], &[0, 350, 399, 400, 500], &[&[0, 1], &[0, 1], &[], &[0, 1], &[0, 1]]);
        // A little late: the rhythm stays.
        check(&[100], &[3, 101, 200, 299, 300], &[&[0], &[0], &[0], &[], &[0]]);
        check(&[], &[0], &[&[]]);
    }

    #[test]
    fn what_was_written_is_read_early() {
        let mut sampler = Sampler::new([(4, ms(1000)), (5, ms(1000))], ms(0));
        sampler.take_due(ms(0));
        sampler.hurry(5, ms(10));
        assert_eq!(sampler.next_due(), Some(ms(10)));
        assert_eq!(sampler.take_due(ms(10)), [5]);
        assert_eq!(sampler.next_due(), Some(ms(1000)));
    }
}
