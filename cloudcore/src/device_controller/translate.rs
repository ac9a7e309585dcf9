//! Pure: what a node reports becomes facts about a device, and facts become what DeviceStatus and Device.status say.
//!
//! Values are texts and stay what they are. The edge's clock is the only order between reports. Called by `reports.rs`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use ke_api::device::TwinValue;
use ke_api::device_status::{DeviceStatusStatus, Twin};
use ke_wire::{DeviceCondition, StateReport, TwinReport, Version};
use serde_json::{Map, Value, json};

use super::conditions::{self, Problem};
use super::says::PropertySays;

/// Edges whose clock stands before 2020 have none that counts. Unix milliseconds.
const NO_CLOCK_BEFORE: i64 = 1_577_836_800_000;
/// A value from further ahead than this was stamped by a clock that was wrong; it must not shut out the right ones for
/// ever. Milliseconds.
const AHEAD: i64 = 300_000;

/// What was reported of one device.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    twins: BTreeMap<String, Twin>,
    state: String,
    /// Unix milliseconds; 0 when it is not known.
    state_at: i64,
    last_online: String,
    /// What its node says is wrong with it.
    trouble: Option<Problem>,
}

/// What came of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Values that are newer than what was known.
    pub(super) newer: usize,
    /// Values that were overtaken by what was known.
    pub(super) older: usize,
    /// Values of properties that the device does not have.
    pub(super) unknown: usize,
}

impl Facts {
    /// What a DeviceStatus says.
    pub(super) fn from_status(status: DeviceStatusStatus) -> Self {
        let twins = status.twins.into_iter().map(|twin| (twin.property_name.clone(), twin)).collect();
        Self { twins, state: status.state, state_at: 0, last_online: status.last_online_time, trouble: None }
    }

    /// Whether a mapper, or whoever stands for one, has said anything.
    pub(super) fn is_heard(&self) -> bool {
        let is_unknown = DeviceCondition::of(&self.state) == Some(DeviceCondition::Unknown);
        let has_state = !self.state.is_empty() && !is_unknown;
        !self.twins.is_empty() || has_state
    }

    /// Whether any value was ever reported.
    pub(super) fn has_values(&self) -> bool {
        !self.twins.is_empty()
    }

    /// What its node says is wrong with it.
    pub(super) fn trouble(&self) -> Option<&Problem> {
        self.trouble.as_ref()
    }

    /// What a restart finds, or nothing for a device that is on another node now.
    pub(super) fn set_trouble(&mut self, trouble: Option<Problem>) {
        self.trouble = trouble;
    }

    /// Takes in what is newer, of the properties that the device has. `now` in Unix milliseconds.
    pub(super) fn report(&mut self, report: &TwinReport, properties: &[PropertySays], now: i64) -> Taken {
        let mut taken = Taken::default();
        for (name, reported) in &report.twin {
            // A property that the edge no longer has: what was known of it stays until the Device drops it too.
            let Some(reported) = reported else { continue };
            if !properties.iter().any(|property| property.name == *name) {
                taken.unknown = taken.unknown.saturating_add(1);
                continue;
            }
            let data_type = reported.metadata.as_ref().map_or("", |metadata| &metadata.name);
            let value = |half: &Option<ke_wire::TwinValue>| {
                let half = half.as_ref()?;
                let at = half.metadata.map_or(0, |metadata| metadata.timestamp);
                let at = if at == 0 { report.timestamp } else { at };
                Some(stamped(half.value.clone()?, if at < NO_CLOCK_BEFORE { now } else { at }, data_type))
            };
            let twin = self.twins.entry(name.clone()).or_insert_with(|| Twin {
                property_name: name.clone(),
                reported: None,
                observed_desired: None,
            });
            for (held, new) in [
                (&mut twin.reported, value(&reported.actual)),
                (&mut twin.observed_desired, value(&reported.expected)),
            ] {
                let Some(new) = new else { continue };
                if held.as_ref().is_some_and(|held| is_older(at(&new), at(held), now)) {
                    taken.older = taken.older.saturating_add(1);
                } else {
                    taken.newer = taken.newer.saturating_add(1);
                    *held = Some(new);
                }
            }
        }
        taken
    }

    /// Takes in a state, unless a newer one is known.
    pub(super) fn state(&mut self, report: &StateReport, now: i64) -> Taken {
        let at = if report.timestamp < NO_CLOCK_BEFORE { now } else { report.timestamp };
        if report.device.state.is_empty() || is_older(at, self.state_at, now) {
            return Taken { older: 1, ..Taken::default() };
        }
        self.state_at = at;
        self.state.clone_from(&report.device.state);
        self.trouble = conditions::told_by_node(&report.device);
        if !report.device.last_online_time.is_empty() {
            self.last_online.clone_from(&report.device.last_online_time);
        }
        Taken { newer: 1, ..Taken::default() }
    }

    /// Takes over what somebody else has written, where nothing newer is known here.
    pub(super) fn merge(&mut self, stored: &Self, now: i64) {
        for (name, theirs) in &stored.twins {
            let ours = self.twins.entry(name.clone()).or_insert_with(|| theirs.clone());
            for (ours, theirs) in [
                (&mut ours.reported, &theirs.reported),
                (&mut ours.observed_desired, &theirs.observed_desired),
            ] {
                if let Some(theirs) = theirs
                    && ours.as_ref().is_none_or(|ours| is_older(at(ours), at(theirs), now))
                {
                    *ours = Some(theirs.clone());
                }
            }
        }
        if self.state.is_empty() {
            self.state.clone_from(&stored.state);
        }
        if self.last_online.is_empty() {
            self.last_online.clone_from(&stored.last_online);
        }
    }

    /// Forgets properties that the device no longer has.
    pub(super) fn keep_only(&mut self, properties: &[PropertySays]) {
        self.twins.retain(|name, _| properties.iter().any(|property| property.name == *name));
    }

    /// `status` of the DeviceStatus, always whole: a merge patch replaces a list. Never `extensions`, which is others'.
    pub(super) fn device_status(&self, properties: &[PropertySays]) -> Map<String, Value> {
        let twins = properties.iter().filter_map(|property| self.twins.get(&property.name)).map(|twin| {
            // Readers expect both halves.
            let half = |half: &Option<TwinValue>| json!(half.clone().unwrap_or_default());
            json!({"propertyName": twin.property_name, "reported": half(&twin.reported),
                "observedDesired": half(&twin.observed_desired)})
        });
        let mut status = Map::from_iter([("twins".to_owned(), Value::Array(twins.collect()))]);
        self.put_state(&mut status);
        status
    }

    /// The members of the Device's own status, as its readers know them from v1alpha2: what is wanted beside what is.
    pub(super) fn live_status(&self, properties: &[PropertySays]) -> Map<String, Value> {
        let twins = properties.iter().filter_map(|property| {
            let desired = property.desired.as_ref().filter(|desired| **desired != TwinValue::default());
            let twin = self.twins.get(&property.name);
            if desired.is_none() && twin.is_none() {
                return None;
            }
            let mut shown = Map::from_iter([("propertyName".to_owned(), property.name.clone().into())]);
            for (name, value) in [
                ("desired", desired),
                ("observedDesired", twin.and_then(|twin| twin.observed_desired.as_ref())),
                ("reported", twin.and_then(|twin| twin.reported.as_ref())),
            ] {
                if let Some(value) = value {
                    shown.insert(name.to_owned(), json!(value));
                }
            }
            Some(Value::Object(shown))
        });
        let mut status = Map::from_iter([("twins".to_owned(), Value::Array(twins.collect()))]);
        self.put_state(&mut status);
        status
    }

    fn put_state(&self, status: &mut Map<String, Value>) {
        // An empty one leaves what is there: a device that goes offline keeps the time when it was online last.
        for (name, value) in [("state", &self.state), ("lastOnlineTime", &self.last_online)] {
            if !value.is_empty() {
                status.insert(name.to_owned(), value.clone().into());
            }
        }
    }
}

fn stamped(value: String, at: i64, data_type: &str) -> TwinValue {
    let data_type = if data_type.is_empty() { "string" } else { data_type };
    let metadata = [("timestamp".to_owned(), at.to_string()), ("type".to_owned(), data_type.to_owned())];
    TwinValue { value, metadata: metadata.into() }
}

fn at(value: &TwinValue) -> i64 {
    value.metadata.get("timestamp").and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether something of `new` was overtaken by something of `held`.
fn is_older(new: i64, held: i64, now: i64) -> bool {
    new < held && held <= now.saturating_add(AHEAD)
}

/// What a Device's status says, as far as it is ours.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    /// Of the Device.
    pub(super) version: Version,
    twins: u64,
    state: String,
    last_online: String,
    conditions: Vec<Value>,
}

impl Shown {
    /// From the status of a Device at `version`. A member of another shape is as good as none: it is written over.
    pub(super) fn read(version: Version, status: &Map<String, Value>) -> Self {
        let text = |name: &str| status.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        Self {
            version,
            twins: digest(status.get("twins")),
            state: text("state"),
            last_online: text("lastOnlineTime"),
            conditions: status.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default(),
        }
    }

    /// What a node had said before.
    pub(super) fn trouble(&self) -> Option<Problem> {
        conditions::told_before(&self.conditions)
    }

    /// What must be patched so that the status says `wanted` and `problems`. `now` as RFC 3339.
    pub(super) fn patch(
        &self,
        mut wanted: Map<String, Value>,
        problems: &[Problem],
        now: &str,
    ) -> Map<String, Value> {
        if digest(wanted.get("twins")) == self.twins {
            wanted.remove("twins");
        }
        for (name, shown) in [("state", &self.state), ("lastOnlineTime", &self.last_online)] {
            if wanted.get(name).and_then(Value::as_str) == Some(shown) {
                wanted.remove(name);
            }
        }
        let conditions = conditions::merged(&self.conditions, problems, now);
        if conditions != self.conditions {
            wanted.insert("conditions".to_owned(), Value::Array(conditions));
        }
        wanted
    }

    /// Our patch was stored as `version`.
    pub(super) fn wrote(&mut self, version: Version, patch: &Map<String, Value>) {
        self.version = version;
        if let Some(twins) = patch.get("twins") {
            self.twins = digest(Some(twins));
        }
        for (name, shown) in [("state", &mut self.state), ("lastOnlineTime", &mut self.last_online)] {
            if let Some(text) = patch.get(name).and_then(Value::as_str) {
                text.clone_into(shown);
            }
        }
        if let Some(conditions) = patch.get("conditions").and_then(Value::as_array) {
            self.conditions.clone_from(conditions);
        }
    }

    /// Problems that are not told yet.
    pub(super) fn untold(&self, problems: &[Problem]) -> Vec<Problem> {
        problems.iter().filter(|problem| !conditions::is_told(&self.conditions, problem)).cloned().collect()
    }
}

/// Two lists with one digest say the same. None is as good as an empty one.
pub(super) fn digest(twins: Option<&Value>) -> u64 {
    let twins = twins.filter(|twins| twins.as_array().is_none_or(|twins| !twins.is_empty()));
    let mut hasher = DefaultHasher::new();
    twins.filter(|twins| !twins.is_null()).map(Value::to_string).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_323_045_000;

    fn properties() -> Vec<PropertySays> {
        let property = |name: &str, desired: Option<&str>| PropertySays {
            name: name.to_owned(),
            desired: desired.map(|value| TwinValue { value: value.to_owned(), ..TwinValue::default() }),
            has_visitors: true,
        };
        vec![property("heat", None), property("limit", Some("20"))]
    }

    fn report(json: Value) -> TwinReport {
        serde_json::from_value(json).unwrap()
    }

    fn heat(value: &str, at: i64) -> TwinReport {
        report(json!({"twin": {"heat": {"actual": {"value": value, "metadata": {"timestamp": at}}}}}))
    }

    fn value(facts: &Facts) -> Value {
        facts.device_status(&properties())["twins"][0]["reported"]["value"].clone()
    }

    #[test]
    fn the_first_report_shows_its_value() {
        let mut facts = Facts::default();
        let first = report(json!({"timestamp": NOW, "twin": {
            "heat": {"actual": {"value": "25.3", "metadata": {"timestamp": NOW}}, "metadata": {"type": "float"}},
            "limit": {"expected": {"value": "20"}, "actual": {"value": "18"}},
            "gone": null, "stranger": {"actual": {"value": "1"}}}}));
        assert_eq!(facts.report(&first, &properties(), NOW), Taken { newer: 3, older: 0, unknown: 1 });
        let at = NOW.to_string();
        assert_eq!(
            Value::Object(facts.device_status(&properties())),
            json!({"twins": [
                {"propertyName": "heat", "observedDesired": {"value": ""},
                 "reported": {"value": "25.3", "metadata": {"timestamp": at, "type": "float"}}},
                {"propertyName": "limit", "observedDesired": {"value": "20", "metadata": {"timestamp": at, "type": "string"}},
                 "reported": {"value": "18", "metadata": {"timestamp": at, "type": "string"}}},
            ]})
        );
        let live = facts.live_status(&properties());
        assert_eq!(live["twins"][0].get("desired"), None);
        assert_eq!(live["twins"][1]["desired"], json!({"value": "20"}));
        assert_eq!(live["twins"][1]["reported"]["value"], "18");
    }

    #[test]
    fn the_newest_value_stays() {
        let check = |held: i64, new: i64, now: i64, expected: &str| {
            let mut facts = Facts::default();
            facts.report(&heat("held", held), &properties(), now);
            facts.report(&heat("new", new), &properties(), now);
            assert_eq!(value(&facts), expected, "{held} {new} {now}");
        };
        check(NOW, NOW + 1, NOW, "new");
        check(NOW, NOW, NOW, "new");
        check(NOW, NOW - 1, NOW, "held");
        // An edge without a clock is heard, and so is one whose clock was wrong and is right again.
        check(NOW - 1000, 12, NOW, "new");
        check(NOW + 10_000_000, NOW, NOW, "new");
    }

    #[test]
    fn values_without_a_value_change_nothing() {
        let mut facts = Facts::default();
        facts.report(&heat("25", NOW), &properties(), NOW);
        let empty =
            report(json!({"twin": {"heat": {"actual": {}, "expected": {"metadata": {"timestamp": NOW}}}}}));
        assert_eq!(facts.report(&empty, &properties(), NOW), Taken::default());
        assert_eq!(value(&facts), "25");
        let quotes = "\"it's\" 25 °C\n";
        facts.report(&heat(quotes, NOW), &properties(), NOW);
        assert_eq!(value(&facts), quotes);
    }

    #[test]
    fn states_are_ordered_and_keep_the_last_time() {
        let state = |state: &str, at: i64, last: &str| -> StateReport {
            serde_json::from_value(
                json!({"timestamp": at, "device": {"state": state, "lastOnlineTime": last}}),
            )
            .unwrap()
        };
        let mut facts = Facts::default();
        assert_eq!(facts.state(&state("online", NOW, "T1"), NOW).newer, 1);
        assert_eq!(facts.state(&state("offline", NOW + 5, ""), NOW).newer, 1);
        assert_eq!(facts.state(&state("online", NOW + 1, "T0"), NOW).newer, 0);
        assert_eq!(
            Value::Object(facts.device_status(&properties())),
            json!({"twins": [], "state": "offline", "lastOnlineTime": "T1"})
        );
    }

    #[test]
    fn what_a_restart_finds_is_kept_where_nothing_newer_is_known() {
        let mut stored = Facts::default();
        stored.report(&heat("old", NOW), &properties(), NOW);
        stored.report(
            &report(json!({"timestamp": NOW, "twin": {"limit": {"actual": {"value": "7"}}}})),
            &properties(),
            NOW,
        );
        let mut facts = Facts::default();
        facts.report(&heat("new", NOW + 1), &properties(), NOW);
        facts.merge(&stored, NOW);
        let twins = facts.device_status(&properties())["twins"].clone();
        assert_eq!(
            (&twins[0]["reported"]["value"], &twins[1]["reported"]["value"]),
            (&json!("new"), &json!("7"))
        );
        facts.keep_only(&properties()[1..]);
        assert_eq!(facts.device_status(&properties())["twins"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn only_what_differs_is_patched() {
        let mut facts = Facts::default();
        facts.report(&heat("25", NOW), &properties(), NOW);
        let live = facts.live_status(&properties());
        let shown = Shown::read(Version::new(1), &live);
        assert_eq!(shown.patch(live.clone(), &[], "now"), Map::new());
        assert_eq!(Shown::read(Version::NONE, &Map::new()).patch(live.clone(), &[], "now"), live);
        let broken =
            Shown::read(Version::new(1), json!({"twins": "x", "conditions": 7}).as_object().unwrap());
        assert_eq!(broken.patch(live.clone(), &[], "now"), live);
        let nothing = Facts::default().live_status(&[]);
        assert_eq!(
            Shown::read(Version::NONE, &Map::new()).patch(nothing, &[], "now"),
            Map::new(),
            "no list is an empty list"
        );
    }
}
