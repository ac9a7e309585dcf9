//! Pure: which desired values have still to be written to a device.
//!
//! Only what changed is written: a new cycle, a renamed method or a restart of the node writes nothing. No desired value
//! writes nothing. Called by the device's task.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::settings::{Access, DeviceSettings, PropertyName, Settings};

#[derive(Debug, Default)]
pub(crate) struct Wishes(BTreeMap<PropertyName, Wish>);

#[derive(Debug)]
struct Wish {
    text: String,
    /// Another place on the device is another wish.
    visitor: Settings,
    stage: Stage,
    /// The last wish that was fulfilled.
    observed: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open {
        attempt: u32,
        not_before: Duration,
    },
    Written,
    /// It can never be written as it stands.
    Refused,
}

impl Wishes {
    /// Takes over what the cloud wants now.
    pub(crate) fn update(&mut self, settings: &DeviceSettings) {
        let open = Stage::Open { attempt: 0, not_before: Duration::ZERO };
        let mut before = std::mem::take(&mut self.0);
        for property in settings.properties.iter().filter(|property| property.access == Access::ReadWrite) {
            let Some(text) = property.desired.clone() else { continue };
            let visitor = property.visitor.clone();
            let wish = match before.remove(&property.name) {
                // A refusal is looked at anew: the model's range may be another one.
                Some(known)
                    if known.text == text && known.visitor == visitor && known.stage != Stage::Refused =>
                {
                    known
                }
                Some(known) => Wish { text, visitor, stage: open, observed: known.observed },
                None => Wish { text, visitor, stage: open, observed: String::new() },
            };
            self.0.insert(property.name.clone(), wish);
        }
    }

    /// What is to be written now.
    pub(crate) fn due(&self, now: Duration) -> Vec<(PropertyName, String)> {
        let is_due = |wish: &Wish| matches!(wish.stage, Stage::Open { not_before, .. } if not_before <= now);
        let due = self.0.iter().filter(|(_, wish)| is_due(wish));
        due.map(|(name, wish)| (name.clone(), wish.text.clone())).collect()
    }

    /// When something is to be tried next. `None`: all is written or refused.
    pub(crate) fn next(&self) -> Option<Duration> {
        let open = self.0.values().filter_map(|wish| match wish.stage {
            Stage::Open { not_before, .. } => Some(not_before),
            Stage::Written | Stage::Refused => None,
        });
        open.min()
    }

    pub(crate) fn on_written(&mut self, name: &PropertyName) {
        if let Some(wish) = self.0.get_mut(name) {
            (wish.stage, wish.observed) = (Stage::Written, wish.text.clone());
        }
    }

    pub(crate) fn on_refused(&mut self, name: &PropertyName) {
        if let Some(wish) = self.0.get_mut(name) {
            wish.stage = Stage::Refused;
        }
    }

    /// The device said no: later again. `delay` knows how long after so many failures.
    pub(crate) fn on_failed(
        &mut self,
        name: &PropertyName,
        now: Duration,
        delay: impl FnOnce(u32) -> Duration,
    ) {
        if let Some(wish) = self.0.get_mut(name)
            && let Stage::Open { attempt, .. } = wish.stage
        {
            wish.stage = Stage::Open { attempt: attempt.saturating_add(1), not_before: now + delay(attempt) };
        }
    }

    /// The desired value that the device has; empty when there is none.
    pub(crate) fn observed(&self, name: &PropertyName) -> &str {
        self.0.get(name).map_or("", |wish| &wish.observed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::settings::join;
    use crate::testing::{desired, device, model, property};

    #[test]
    fn only_what_changed_is_written() {
        let model = model("n", "m", &[("w", "INT", "ReadWrite"), ("r", "INT", "ReadOnly")]);
        let settings = |wanted: &str, at: u32| {
            let properties = vec![
                desired(property("w", json!({"at": at})), wanted),
                desired(property("r", json!({})), "7"),
            ];
            join(&device("n", "d", "m", json!({}), properties), &model).unwrap()
        };
        let mut wishes = Wishes::default();
        let w = PropertyName::from("w");
        let now = Duration::from_secs(10);
        let due = |wishes: &Wishes| wishes.due(now).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        wishes.update(&settings("20", 1));
        assert_eq!(due(&wishes), ["20"]);
        assert_eq!(wishes.observed(&w), "");
        wishes.on_failed(&w, now, |_| Duration::from_secs(1));
        assert_eq!((due(&wishes).len(), wishes.next()), (0, Some(Duration::from_secs(11))));
        wishes.on_written(&w);
        assert_eq!((wishes.observed(&w), wishes.next()), ("20", None));
        wishes.update(&settings("20", 1));
        assert!(due(&wishes).is_empty());
        wishes.update(&settings("20", 2));
        assert_eq!(due(&wishes), ["20"]);
        wishes.update(&settings("999", 2));
        wishes.on_refused(&w);
        assert_eq!((wishes.observed(&w), wishes.next()), ("20", None));
        wishes.update(&settings("", 2));
        assert_eq!((due(&wishes).len(), wishes.observed(&w)), (0, ""));
    }
}
