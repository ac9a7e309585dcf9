//! Pure: what somebody wants a device's properties to be, and what of it is still to be written.
//!
//! A value that was written is not written again until somebody wants another one, or the property is elsewhere on the
//! device. Nothing wanted means that nothing is written. Called by `device.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use ke_run::backoff::Backoff;

use crate::driver::{Device, Property};
use crate::settings::Settings;
use crate::value::{Kind, NoValue, Value};

/// Between the tries of a write that failed: the device may be busy, or switched to local operation for a day.
const AGAIN: Backoff =
    Backoff { first: Duration::from_secs(2), factor: 2.0, max: Duration::from_secs(120), jitter: 0.0 };

/// Why a desired value cannot be written, in words for people.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum BadWish {
    /// No value of the property's type.
    #[error(transparent)]
    Type(#[from] NoValue),
    /// Outside of what the model allows.
    #[error("{value} is outside of what the model allows: {minimum} to {maximum}")]
    Range {
        /// What is wanted.
        value: String,
        /// The model's, or minus infinity.
        minimum: f64,
        /// The model's, or infinity.
        maximum: f64,
    },
    /// The model does not let it be written.
    #[error("the model has it as ReadOnly")]
    ReadOnly,
}

/// The value that a text means for a property, if it may be written there.
pub(crate) fn value(property: &Property, text: &str) -> Result<Value, BadWish> {
    if !property.is_writable {
        return Err(BadWish::ReadOnly);
    }
    let value = property.kind.parse(text)?;
    let minimum = property.minimum.unwrap_or(f64::NEG_INFINITY);
    let maximum = property.maximum.unwrap_or(f64::INFINITY);
    match value.number() {
        Some(number) if !(minimum..=maximum).contains(&number) => {
            Err(BadWish::Range { value: value.to_string(), minimum, maximum })
        }
        _ => Ok(value),
    }
}

/// All wishes for one device, by property.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wishes(BTreeMap<String, Wish>);

#[derive(Clone, Debug, PartialEq)]
struct Wish {
    text: String,
    place: Place,
    progress: Progress,
    /// The wish that was written last: this one, an earlier one, or none (empty).
    observed: String,
    /// Why it was not written when that was tried last.
    refusal: String,
}

/// Where a wish is written to.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    kind: Kind,
    limits: (Option<f64>, Option<f64>),
    settings: Settings,
}

#[derive(Clone, Debug, PartialEq)]
enum Progress {
    /// To be written. `may_hold`: this process did not see it being written, but an earlier one may have.
    Due {
        value: Value,
        not_before: Duration,
        n_tries: u32,
        may_hold: bool,
    },
    Written,
    /// Nothing but another wish or manifest helps.
    Hopeless,
}

/// One that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DueWish {
    /// The property.
    pub(crate) property: String,
    /// What it should be.
    pub(crate) value: Value,
    /// Whether the device may have it already, so that looking is better than writing.
    pub(crate) may_hold: bool,
}

impl Wishes {
    /// Takes what the device's manifest wants now. Gives back the wishes that cannot be.
    pub(crate) fn update(&mut self, device: &Device, is_first: bool) -> Vec<(String, BadWish)> {
        let mut bad = Vec::new();
        let mut old = std::mem::take(&mut self.0);
        for property in device.properties.iter().filter(|property| property.is_writable) {
            let Some(text) = property.desired.clone() else { continue };
            let place = Place {
                kind: property.kind,
                limits: (property.minimum, property.maximum),
                settings: property.settings.clone(),
            };
            let before = old.remove(&property.name);
            let wish = match before {
                Some(wish) if wish.text == text && wish.place == place => wish,
                before => {
                    let mut refusal = String::new();
                    let progress = match value(property, &text) {
                        Ok(value) => Progress::Due {
                            value,
                            not_before: Duration::ZERO,
                            n_tries: 0,
                            may_hold: is_first,
                        },
                        Err(why) => {
                            refusal = why.to_string();
                            bad.push((property.name.clone(), why));
                            Progress::Hopeless
                        }
                    };
                    let observed = before.map(|wish| wish.observed).unwrap_or_default();
                    Wish { text, place, progress, observed, refusal }
                }
            };
            self.0.insert(property.name.clone(), wish);
        }
        bad
    }

    /// What is to be written now.
    #[must_use]
    pub(crate) fn due(&self, now: Duration) -> Vec<DueWish> {
        let due = self.0.iter().filter_map(|(property, wish)| match &wish.progress {
            Progress::Due { value, not_before, may_hold, .. } if *not_before <= now => {
                Some(DueWish { property: property.clone(), value: value.clone(), may_hold: *may_hold })
            }
            _ => None,
        });
        due.collect()
    }

    /// When something is to be written next.
    #[must_use]
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let due = self.0.values().filter_map(|wish| match wish.progress {
            Progress::Due { not_before, .. } => Some(not_before),
            Progress::Written | Progress::Hopeless => None,
        });
        due.min()
    }

    /// The device has it.
    pub(crate) fn written(&mut self, property: &str) {
        if let Some(wish) = self.0.get_mut(property) {
            wish.progress = Progress::Written;
            wish.observed.clone_from(&wish.text);
        }
    }

    /// The device refused it, or was lost over it; it is tried again, later each time.
    pub(crate) fn failed(&mut self, property: &str, why: &str, now: Duration) {
        let Some(wish) = self.0.get_mut(property) else { return };
        if let Progress::Due { not_before, n_tries, .. } = &mut wish.progress {
            why.clone_into(&mut wish.refusal);
            *not_before = now + AGAIN.ceiling(*n_tries);
            *n_tries = n_tries.saturating_add(1);
        }
    }

    /// It cannot be written before its manifest changes.
    pub(crate) fn give_up(&mut self, property: &str, why: &str) {
        if let Some(wish) = self.0.get_mut(property) {
            why.clone_into(&mut wish.refusal);
            wish.progress = Progress::Hopeless;
        }
    }

    /// Whether some wish was not written when that was tried, or is none that the model allows.
    #[must_use]
    pub(crate) fn has_refused(&self) -> bool {
        self.refusals().next().is_some()
    }

    /// Those, by property, and why.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&str, &str)> {
        let refused = self.0.iter().filter(|(_, wish)| match wish.progress {
            Progress::Hopeless => true,
            Progress::Due { n_tries, .. } => n_tries > 0,
            Progress::Written => false,
        });
        refused.map(|(property, wish)| (property.as_str(), wish.refusal.as_str()))
    }

    /// The wish that the device was last given, empty if none: what `observedDesired` says.
    #[must_use]
    pub(crate) fn observed(&self, property: &str) -> &str {
        self.0.get(property).map_or("", |wish| &wish.observed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::DeviceName;

    const SECOND: Duration = Duration::from_secs(1);

    fn property(name: &str, desired: Option<&str>) -> Property {
        Property {
            name: name.into(),
            kind: Kind::Int,
            is_writable: !name.starts_with("read"),
            minimum: Some(0.0),
            maximum: Some(100.0),
            settings: Settings::default(),
            collect_cycle: SECOND,
            report_cycle: SECOND,
            report_to_cloud: true,
            desired: desired.map(str::to_owned),
        }
    }

    fn device(properties: &[(&str, Option<&str>)]) -> Device {
        let name = DeviceName { namespace: "plant".into(), name: "d".into() };
        let properties = properties.iter().map(|(name, desired)| property(name, *desired)).collect();
        Device { name, settings: Settings::default(), properties, methods: vec![], state_cycle: None }
    }

    fn due(wishes: &Wishes, now: Duration) -> Vec<String> {
        wishes.due(now).iter().map(|due| format!("{}={}", due.property, due.value)).collect()
    }

    #[test]
    fn only_what_changed_is_written() {
        let mut wishes = Wishes::default();
        assert!(
            wishes.update(&device(&[("a", Some("1")), ("b", None), ("read", Some("1"))]), true).is_empty()
        );
        assert_eq!(due(&wishes, Duration::ZERO), ["a=1"]);
        assert!(wishes.due(Duration::ZERO)[0].may_hold);
        assert_eq!(wishes.observed("a"), "");
        wishes.written("a");
        assert_eq!((wishes.observed("a"), wishes.next_due()), ("1", None));
        // Told again: nothing. Another property: that one.
        wishes.update(&device(&[("a", Some("1")), ("b", Some("2"))]), false);
        assert_eq!(due(&wishes, Duration::ZERO), ["b=2"]);
        // Until the new one is written, the old one was.
        wishes.update(&device(&[("a", Some("3"))]), false);
        assert_eq!((due(&wishes, Duration::ZERO), wishes.observed("a")), (vec!["a=3".to_owned()], "1"));
        wishes.update(&device(&[("a", None)]), false);
        assert_eq!((wishes.next_due(), wishes.observed("a")), (None, ""));
        // Moved on the device: there it was never written.
        wishes.update(&device(&[("a", Some("3"))]), false);
        wishes.written("a");
        let mut moved = device(&[("a", Some("3"))]);
        moved.properties[0].settings = Settings::new([("offset".to_owned(), 7.into())]);
        wishes.update(&moved, false);
        assert_eq!(due(&wishes, Duration::ZERO), ["a=3"]);
    }

    #[test]
    fn bad_wishes_are_named_and_stay_unwritten() {
        let check = |desired: &str, expected: &str| {
            let mut wishes = Wishes::default();
            let bad = wishes.update(&device(&[("a", Some(desired))]), true);
            assert_eq!(bad.len(), 1);
            assert_eq!(bad[0].1.to_string(), expected);
            assert!(wishes.has_refused() && wishes.next_due().is_none());
        };
        check("hot", "\"hot\" is no INT; an example: -12; 64 bits at most");
        check("101", "101 is outside of what the model allows: 0 to 100");
        check("-1", "-1 is outside of what the model allows: 0 to 100");
    }

    #[test]
    fn a_refused_write_waits_longer_each_time() {
        let mut wishes = Wishes::default();
        wishes.update(&device(&[("a", Some("1"))]), true);
        wishes.failed("a", "busy", SECOND);
        assert!(wishes.has_refused());
        assert_eq!((due(&wishes, SECOND).len(), wishes.next_due()), (0, Some(3 * SECOND)));
        wishes.failed("a", "local", 3 * SECOND);
        assert_eq!(wishes.refusals().collect::<Vec<_>>(), [("a", "local")]);
        assert_eq!(wishes.next_due(), Some(7 * SECOND));
        wishes.written("a");
        assert!(!wishes.has_refused());
        wishes.give_up("a", "no");
        assert!(wishes.has_refused());
    }
}
