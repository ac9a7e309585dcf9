//! Who ends when while the machine goes down: groups of pods by their priority, each with its share of the time. Pure.

use std::time::Duration;

use super::evicted::CRITICAL;

/// The pods from this priority up to the next one, and what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// The least priority in it.
    pub priority: i32,
    /// Seconds from the first stop signal to the next group.
    pub secs: i64,
}

/// The groups, lowest priority first. `by_priority` goes before the two others; empty: no pod is ended.
#[must_use]
pub fn periods(all: Duration, critical: Duration, by_priority: &[Period]) -> Vec<Period> {
    let secs = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let mut periods = by_priority.to_vec();
    if periods.is_empty() && !all.is_zero() && critical <= all {
        periods = vec![
            Period { priority: 0, secs: secs(all - critical) },
            Period { priority: CRITICAL, secs: secs(critical) },
        ];
    }
    periods.sort_by_key(|period| period.priority);
    periods
}

/// Which group a Pod of this priority ends with: the highest that begins at or below it, else the lowest.
#[must_use]
pub fn group(periods: &[Period], priority: i32) -> usize {
    periods.iter().rposition(|period| period.priority <= priority).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_by_priority() {
        let secs = Duration::from_secs;
        let period = |priority, secs| Period { priority, secs };
        assert_eq!(periods(secs(0), secs(0), &[]), []);
        assert_eq!(periods(secs(30), secs(10), &[]), [period(0, 20), period(CRITICAL, 10)]);
        assert_eq!(periods(secs(10), secs(30), &[]), [], "the configuration is refused before");
        let own = [period(1000, 5), period(0, 60), period(CRITICAL, 3)];
        let sorted = periods(secs(30), secs(10), &own);
        assert_eq!(sorted, [period(0, 60), period(1000, 5), period(CRITICAL, 3)]);
        let check = |priority, expected| assert_eq!(group(&sorted, priority), expected, "{priority}");
        check(-1, 0);
        check(0, 0);
        check(999, 0);
        check(1000, 1);
        check(1001, 1);
        check(CRITICAL + 1000, 2);
    }
}
