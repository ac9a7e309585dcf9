//! Pure: how long to wait before the next try. Reads no clock and rolls no dice; the caller brings both.
//! Called by everything that dials or retries.

use std::time::Duration;

/// Waiting times that grow with each failed attempt and spread out by chance.
///
/// With `jitter` 1.0 ("full jitter") the wait is anywhere between zero and the ceiling of its attempt: a thousand
/// edges that lost the same cloud come back evenly spread instead of together. With 0.0 it is the ceiling itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// Ceiling of attempt 0.
    pub first: Duration,
    /// What the ceiling is multiplied by from one attempt to the next; below 1 counts as 1.
    pub factor: f64,
    /// The ceiling never exceeds this.
    pub max: Duration,
    /// How much of the wait is left to chance, 0 (nothing) to 1 (all of it).
    pub jitter: f64,
}

impl Backoff {
    /// Doubles from `first` up to `max`, with full jitter.
    #[must_use]
    pub const fn full_jitter(first: Duration, max: Duration) -> Self {
        Self { first, factor: 2.0, max, jitter: 1.0 }
    }

    /// The wait before the try that follows failed attempt number `attempt` (the first is 0).
    /// `random` is uniform in 0..1; anything else is pulled into that range.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let ceiling = self.ceiling(attempt);
        let left_to_chance = unit(self.jitter);
        ceiling.mul_f64((1.0 - left_to_chance) + left_to_chance * unit(random))
    }

    /// The longest wait of this attempt.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let factor = if self.factor >= 1.0 { self.factor } else { 1.0 };
        let exponent = i32::try_from(attempt).unwrap_or(i32::MAX);
        let seconds = self.first.as_secs_f64() * factor.powi(exponent);
        // The power of a large attempt is infinite, which `try_from_secs_f64` refuses: then it is the maximum.
        Duration::try_from_secs_f64(seconds).map_or(self.max, |grown| grown.min(self.max))
    }
}

/// The number pulled into 0..=1; not-a-number is 1, the longer wait.
fn unit(number: f64) -> f64 {
    if number.is_nan() { 1.0 } else { number.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn check(backoff: Backoff, attempt: u32, random: f64, expected_ms: u64) {
        let got = backoff.delay(attempt, random);
        assert_eq!(got.as_millis(), u128::from(expected_ms), "{backoff:?} attempt {attempt} random {random}");
    }

    #[test]
    fn full_jitter_spreads_between_zero_and_a_doubling_ceiling() {
        let backoff = Backoff::full_jitter(SECOND, 30 * SECOND);
        for (attempt, random, expected_ms) in [
            (0, 0.0, 0),
            (0, 0.5, 500),
            (0, 1.0, 1_000),
            (1, 1.0, 2_000),
            (2, 0.25, 1_000),
            (4, 1.0, 16_000),
            (5, 1.0, 30_000),
            (5, 0.5, 15_000),
            (1_000_000, 0.5, 15_000),
            (u32::MAX, 1.0, 30_000),
            (0, -3.0, 0),
            (0, 7.0, 1_000),
            (0, f64::NAN, 1_000),
        ] {
            check(backoff, attempt, random, expected_ms);
        }
    }

    #[test]
    fn jitter_is_the_part_left_to_chance() {
        let none = Backoff { first: SECOND, factor: 3.0, max: 60 * SECOND, jitter: 0.0 };
        check(none, 0, 0.0, 1_000);
        check(none, 2, 0.9, 9_000);
        let half = Backoff { jitter: 0.5, ..none };
        check(half, 1, 0.0, 1_500);
        check(half, 1, 1.0, 3_000);
    }

    #[test]
    fn odd_settings_do_no_harm() {
        check(Backoff { first: SECOND, factor: 0.1, max: 60 * SECOND, jitter: 0.0 }, 9, 0.0, 1_000);
        check(Backoff { first: SECOND, factor: f64::NAN, max: 60 * SECOND, jitter: f64::NAN }, 9, 1.0, 1_000);
        check(Backoff { first: 90 * SECOND, factor: 2.0, max: SECOND, jitter: 0.0 }, 0, 0.0, 1_000);
        check(Backoff { first: Duration::ZERO, factor: 2.0, max: SECOND, jitter: 0.0 }, u32::MAX, 0.0, 1_000);
    }
}
