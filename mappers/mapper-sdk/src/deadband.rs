//! Pure: whether a sample is worth telling.
//!
//! A noisy signal costs as much on a radio link as a changing one; this tells the changes and a sign of life.

use std::time::Duration;

use crate::settings::{SettingError, Settings};
use crate::value::Value;

/// When a sample is told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deadband {
    /// A number that moved by less since it was last told is not told. 0: every change is.
    pub threshold: f64,
    /// An unchanged value is told again after this long. `None`: never.
    pub heartbeat: Option<Duration>,
}

impl Deadband {
    /// What a property's settings ask for: `deadband` (a number), `heartbeatSecs`, `reportOnChange`, of which each leaves out
    /// what did not change. With none of them every sample is told, as people take that for the sign of life.
    pub fn of(settings: &Settings) -> Result<Option<Self>, SettingError> {
        let threshold = settings.number(&["deadband"], "a number, 0 or more")?;
        if threshold.is_some_and(|threshold| threshold < 0.0) {
            return Err(SettingError::Wrong { key: "deadband", expected: "a number, 0 or more" });
        }
        let expected = "a number of seconds from 1 to 86400";
        let heartbeat = settings.integer(&["heartbeatSecs"], 1, 86_400, expected)?;
        let is_on_change = settings.truth(&["reportOnChange"])?.unwrap_or_default();
        let is_asked = threshold.is_some() || heartbeat.is_some() || is_on_change;
        let heartbeat = heartbeat.map(Duration::from_secs);
        Ok(is_asked.then(|| Self { threshold: threshold.unwrap_or_default(), heartbeat }))
    }
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

    /// When an unchanged value is to be told again.
    #[must_use]
    pub fn next_heartbeat(&self, deadband: Deadband) -> Option<Duration> {
        Some(self.0.as_ref()?.1 + deadband.heartbeat?)
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
            let last_told = (0..).zip(expected).filter(|(_, is_told)| **is_told).map(|(secs, _)| secs).last();
            let heartbeat = heartbeat_secs.and_then(|heartbeat| Some(last_told? + heartbeat));
            assert_eq!(last.next_heartbeat(deadband), heartbeat.map(Duration::from_secs));
        };
        check(0.0, None, &[1.0, 1.0, 1.1], &[true, false, true]);
        check(0.5, None, &[1.0, 1.4, 1.5, 1.1], &[true, false, true, false]);
        check(0.5, Some(2), &[1.0, 1.0, 1.0, 1.0, 1.0], &[true, false, true, false, true]);
        check(0.5, Some(2), &[], &[]);
    }

    #[test]
    fn settings() {
        let check = |key: &str,
                     value: serde_json::Value,
                     expected: Result<Option<(f64, Option<u64>)>, &str>| {
            let found = Deadband::of(&Settings::new([(key.to_owned(), value)]));
            let found = found
                .map(|found| found.map(|band| (band.threshold, band.heartbeat.map(|beat| beat.as_secs()))));
            assert_eq!(found.map_err(|error| error.to_string()), expected.map_err(str::to_owned), "{key}");
        };
        check("register", 1.into(), Ok(None));
        check("deadband", "0.5".into(), Ok(Some((0.5, None))));
        check("DeadBand", (-1).into(), Err("deadband must be a number, 0 or more"));
        check("heartbeatsecs", 60.into(), Ok(Some((0.0, Some(60)))));
        check("heartbeatsecs", 0.into(), Err("heartbeatSecs must be a number of seconds from 1 to 86400"));
        check("reportOnChange", true.into(), Ok(Some((0.0, None))));
        check("reportOnChange", false.into(), Ok(None));
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
