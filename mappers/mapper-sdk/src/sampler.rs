//! Pure: which property is due now.
//!
//! Reads no clock; called by each device's task. Properties of one cycle are due together, so that a driver can read
//! them in one request. What was missed while a device was slow is not made up for.

use std::time::Duration;

/// A cycle of a manifest, with how it was understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cycle {
    /// As KubeEdge v1.23 means it.
    Milliseconds(Duration),
    /// So long that only older manifests' unit makes sense.
    Nanoseconds(Duration),
}

/// From here on a number is nanoseconds: as milliseconds it would be more than a day.
const LEAST_NANOSECONDS: i64 = 100_000_000;
/// KubeEdge's, for a cycle that is not set.
const DEFAULT: Duration = Duration::from_secs(1);

/// What a manifest's cycle means: milliseconds; 0 and less the default of one second; very large ones nanoseconds.
#[must_use]
pub(crate) fn cycle(number: i64) -> Cycle {
    match u64::try_from(number) {
        Ok(1..) if number >= LEAST_NANOSECONDS => {
            Cycle::Nanoseconds(Duration::from_nanos(number.unsigned_abs()))
        }
        Ok(millis @ 1..) => Cycle::Milliseconds(Duration::from_millis(millis)),
        _ => Cycle::Milliseconds(DEFAULT),
    }
}

/// Knows when each of a device's properties was last due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sampler {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    index: usize,
    cycle: Duration,
    next: Duration,
}

impl Sampler {
    /// `cycles`: of each property by its index; all are due at `now`, which counts from any fixed moment.
    #[must_use]
    pub(crate) fn new(cycles: impl IntoIterator<Item = (usize, Duration)>, now: Duration) -> Self {
        let least = Duration::from_millis(1);
        let entry = |(index, cycle): (usize, Duration)| Entry { index, cycle: cycle.max(least), next: now };
        Self { entries: cycles.into_iter().map(entry).collect() }
    }

    /// The indexes that are due, and due again one cycle later.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<usize> {
        let mut due = Vec::new();
        for entry in self.entries.iter_mut().filter(|entry| entry.next <= now) {
            due.push(entry.index);
            // On the grid of its cycle, whatever time was lost.
            let cycle = entry.cycle.as_nanos();
            let missed = (now - entry.next).as_nanos() / cycle;
            let step = u64::try_from((missed + 1).saturating_mul(cycle)).unwrap_or(u64::MAX);
            entry.next = entry.next.saturating_add(Duration::from_nanos(step));
        }
        due
    }

    /// When something is due next. `None`: never.
    #[must_use]
    pub(crate) fn next(&self) -> Option<Duration> {
        self.entries.iter().map(|entry| entry.next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles() {
        let check = |number: i64, expected: Cycle| assert_eq!(cycle(number), expected, "{number}");
        check(500, Cycle::Milliseconds(Duration::from_millis(500)));
        check(99_999_999, Cycle::Milliseconds(Duration::from_millis(99_999_999)));
        check(100_000_000, Cycle::Nanoseconds(Duration::from_millis(100)));
        check(10_000_000_000, Cycle::Nanoseconds(Duration::from_secs(10)));
        for unset in [0, -1, i64::MIN] {
            check(unset, Cycle::Milliseconds(DEFAULT));
        }
        check(i64::MAX, Cycle::Nanoseconds(Duration::from_nanos(i64::MAX.unsigned_abs())));
    }

    #[test]
    fn due_together_and_never_in_a_burst() {
        let millis = Duration::from_millis;
        let mut sampler = Sampler::new([(0, millis(100)), (1, millis(200)), (2, millis(100))], millis(5));
        let mut check = |now: u64, expected: &[usize], next: u64| {
            assert_eq!(sampler.due(millis(now)), expected, "at {now}");
            assert_eq!(sampler.next(), Some(millis(next)), "at {now}");
        };
        check(5, &[0, 1, 2], 105);
        check(50, &[], 105);
        check(105, &[0, 2], 205);
        check(210, &[0, 1, 2], 305);
        check(1000, &[0, 1, 2], 1005);
        assert_eq!(Sampler::default().next(), None);
    }
}
