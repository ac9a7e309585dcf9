//! Pure: whether a sample is worth telling.
//!
//! A noisy signal costs as much on a radio link as a changing one; this tells the changes and a sign of life.

use std::time::Duration;

use crate::value::Value;

/// When a sample is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deadband {
    /// A number that moved by less since it was last told is not told. 0: every change is.
    pub threshold: f64,
    /// An unchanged value is told again after this long. `None`: never.
    pub heartbeat: Option<Duration>,
}

/// What was told last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastTold(Option<(Value, Duration)>);

impl LastTold {
    /// Whether to tell `value` now; if so it counts as told. `now`: time since any fixed moment.
    pub fn is_due(&mut self, deadband: Deadband, value: &Value, now: Duration) -> bool {
        let is_due = match &self.0 {
            None => true,
            Some((told, at)) => {
                let moved = match (told.number(), value.number()) {
                    (Some(told), Some(now)) if deadband.threshold > 0.0 => {
                        (now - told).abs() >= deadband.threshold
                    }
                    _ => told != value,
                };
                let waited = now.saturating_sub(*at);
                moved || deadband.heartbeat.is_some_and(|heartbeat| waited >= heartbeat)
            }
        };
        if is_due {
            self.0 = Some((value.clone(), now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn changes_and_signs_of_life() {
        let check = |threshold: f64, heartbeat_secs: Option<u64>, samples: &[f64], expected: &[bool]| {
            let deadband = Deadband { threshold, heartbeat: heartbeat_secs.map(Duration::from_secs) };
            let mut last = LastTold::default();
            let told: Vec<bool> = (0..)
                .zip(samples)
                .map(|(secs, sample)| {
                    last.is_due(deadband, &Value::Double(*sample), Duration::from_secs(secs))
                })
                .collect();
            assert_eq!(told, expected);
        };
        check(0.0, None, &[1.0, 1.0, 1.1], &[true, false, true]);
        check(0.5, None, &[1.0, 1.4, 1.5, 1.1], &[true, false, true, false]);
        check(0.5, Some(2), &[1.0, 1.0, 1.0, 1.0, 1.0], &[true, false, true, false, true]);
    }

    proptest! {
        /// Whoever listens is never wrong by the threshold or more.
        #[test]
        fn the_told_value_is_near(threshold in 0.01_f64..10.0, samples in proptest::collection::vec(-100.0_f64..100.0, 1..50)) {
            let deadband = Deadband { threshold, heartbeat: None };
            let (mut last, mut told) = (LastTold::default(), f64::NAN);
            for sample in samples {
                if last.is_due(deadband, &Value::Double(sample), Duration::ZERO) {
                    told = sample;
                }
                prop_assert!((sample - told).abs() < threshold);
            }
        }
    }
}
