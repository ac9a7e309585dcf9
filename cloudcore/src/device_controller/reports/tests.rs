//! When a device is written, and whose report is confirmed after that.

use ke_wire::{Trouble, Version};
use serde_json::json;

use super::super::conditions::What;
use super::super::turns::LONG;
use super::entry::MAX_WAITING;
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const UNIX: i64 = 1_767_323_045_000;

struct Bench {
    statuses: Statuses,
    now: Instant,
}

fn id() -> DeviceId {
    DeviceId { namespace: "plant".parse().unwrap(), name: "oven".parse().unwrap() }
}

fn device(uid: &str, version: u64, status: Value) -> SeenDevice {
    SeenDevice::new(json!({
        "metadata": {"name": "oven", "namespace": "plant", "uid": uid, "resourceVersion": version.to_string()},
        "spec": {"nodeName": "e1", "properties": [{"name": "heat"}, {"name": "limit", "desired": {"value": "20"}}]},
        "status": status,
    }))
    .unwrap()
}

fn says(value: &str) -> Found {
    let status = json!({"twins": [{"propertyName": "heat", "observedDesired": {"value": ""},
        "reported": {"value": value, "metadata": {"timestamp": UNIX.to_string(), "type": "string"}}}]});
    Found {
        facts: Facts::from_status(serde_json::from_value(status.clone()).unwrap()),
        said: Said::new(status.as_object().unwrap()),
        owner: "u".to_owned(),
    }
}

impl Bench {
    /// A device whose DeviceStatus is there and empty, and whose own status is up to date.
    fn new() -> Self {
        let mut bench = Self { statuses: Statuses::default(), now: Instant::now() };
        let found = Found { owner: "u".to_owned(), said: Said::new(&Map::new()), ..Found::default() };
        bench.statuses.found(id(), found);
        bench.see(device("u", 1, json!({"twins": [{"propertyName": "limit", "desired": {"value": "20"}}]})));
        assert_eq!(bench.poll(), None);
        bench
    }

    fn see(&mut self, device: SeenDevice) {
        self.statuses.device(self.now, &device, Vec::new());
    }

    fn report(&mut self, report: &str, value: &str, after: i64) {
        let who = Confirmation { node: "e1".parse().unwrap(), report: report.parse().unwrap() };
        let twins =
            json!({"twin": {"heat": {"actual": {"value": value, "metadata": {"timestamp": UNIX + after}}}}});
        let report = serde_json::from_value(twins).unwrap();
        self.statuses.twins(self.now, UNIX, &id(), &report, who).unwrap();
    }

    fn poll(&mut self) -> Option<Write> {
        self.statuses.poll(self.now, "T")
    }

    /// The value that the next write carries in both places.
    fn value(&mut self) -> String {
        let write = self.poll().expect("a write is due");
        let (StatusWrite::Create(status) | StatusWrite::Patch(status) | StatusWrite::TakeOver(status)) =
            write.status.unwrap();
        let value = |status: &Map<String, Value>| status["twins"][0]["reported"]["value"].clone();
        assert_eq!(value(&status), value(&write.device.unwrap()));
        value(&status).as_str().unwrap().to_owned()
    }

    fn written(&mut self, status: Wrote, device: Wrote) {
        self.statuses.written(
            self.now,
            UNIX,
            Written { id: id(), uid: "u".parse().unwrap(), status, device },
        );
    }

    fn done(&mut self, version: u64) {
        self.written(Wrote::Done(Version::new(version)), Wrote::Done(Version::new(version)));
    }

    fn confirmed(&mut self) -> Vec<String> {
        self.statuses.take_confirmed().into_iter().map(|who| who.report.to_string()).collect()
    }
}

#[test]
fn many_reports_cost_one_write_and_are_confirmed_after_it() {
    let mut bench = Bench::new();
    bench.report("1", "25", 1);
    bench.report("2", "26", 2);
    // The first goes at once; what comes meanwhile waits for the pause.
    assert_eq!(bench.confirmed(), ["1"], "its node still has what overtook it");
    assert_eq!(bench.value(), "26");
    bench.report("3", "27", 3);
    assert_eq!(bench.confirmed(), [""; 0]);
    assert_eq!(bench.poll(), None, "one write at a time");
    bench.done(2);
    assert_eq!(bench.confirmed(), ["2"]);
    assert_eq!(bench.poll(), None, "a pause between two");
    bench.now = bench.statuses.poll_timeout().unwrap();
    assert_eq!(bench.value(), "27");
    bench.done(3);
    assert_eq!(bench.confirmed(), ["3"]);
    bench.now += PAUSE;
    assert_eq!((bench.poll(), bench.statuses.poll_timeout()), (None, None));
}

#[test]
fn an_overtaken_report_is_confirmed_with_what_overtook_it() {
    let mut bench = Bench::new();
    bench.report("new", "27", 3);
    bench.value();
    bench.done(2);
    bench.report("old", "25", 1);
    assert_eq!(bench.confirmed(), ["new"]);
    bench.now = bench.statuses.poll_timeout().unwrap();
    assert_eq!(bench.poll(), None, "nothing to write");
    assert_eq!(bench.confirmed(), ["old"]);
}

#[test]
fn nothing_is_confirmed_while_the_api_server_is_away() {
    let mut bench = Bench::new();
    bench.report("1", "25", 1);
    let mut last = bench.now;
    for _ in 0..5 {
        assert_eq!(bench.value(), "25");
        bench.written(Wrote::Away, Wrote::Away);
        bench.now = bench.statuses.poll_timeout().unwrap();
        assert!(bench.now - last >= Duration::from_millis(500), "growing pauses");
        last = bench.now;
    }
    bench.report("2", "26", 2);
    assert_eq!(bench.confirmed(), [""; 0], "though it is overtaken");
    assert_eq!(bench.value(), "26");
    // One half is enough of a failure.
    bench.written(Wrote::Done(Version::new(5)), Wrote::Away);
    assert_eq!(bench.confirmed(), [""; 0]);
    bench.now = bench.statuses.poll_timeout().unwrap();
    let write = bench.poll().unwrap();
    assert_eq!(write.status, None, "that half is there");
    bench.written(Wrote::Nothing, Wrote::Done(Version::new(6)));
    assert_eq!(bench.confirmed(), ["1", "2"]);
}

#[test]
fn a_report_waits_for_its_own_values() {
    let mut bench = Bench::new();
    let mut say = |report: &str, twin: Value| {
        let who = Confirmation { node: "e1".parse().unwrap(), report: report.parse().unwrap() };
        let twins = serde_json::from_value(json!({"timestamp": UNIX, "twin": twin})).unwrap();
        bench.statuses.twins(bench.now, UNIX, &id(), &twins, who).unwrap();
        bench.statuses.take_confirmed().len()
    };
    assert_eq!(say("1", json!({"heat": {"actual": {"value": "25"}}})), 0);
    assert_eq!(say("2", json!({"heat": {"expected": {"value": "30"}}})), 0, "another half");
    assert_eq!(say("3", json!({"limit": {"actual": {"value": "20"}}})), 0, "another property");
    let older = json!({"value": "24", "metadata": {"timestamp": UNIX - 1}});
    assert_eq!(say("0", json!({"heat": {"actual": older}})), 0, "it overtakes nothing");
    assert_eq!(say("4", json!({"heat": {"actual": {"value": "26"}}})), 2, "both of its kind");
    assert_eq!(bench.value(), "26");
    bench.done(2);
    assert_eq!(bench.confirmed(), ["2", "3", "4"]);
}

#[test]
fn what_the_api_server_cannot_take_is_the_devices_own_values_first() {
    let name =
        |n: usize| DeviceId { namespace: "plant".parse().unwrap(), name: format!("d{n}").parse().unwrap() };
    let named = |n: usize, status: Value| {
        let mut device = device("u", 1, status);
        device.stored.id = name(n);
        device
    };
    let (mut statuses, mut now) = (Statuses::default(), Instant::now());
    let mut version = 1;
    let mut settle = |statuses: &mut Statuses, now: Instant, write: &Write| {
        version += 1;
        let done = |has: bool| if has { Wrote::Done(Version::new(version)) } else { Wrote::Nothing };
        let (status, device) = (done(write.status.is_some()), done(write.device.is_some()));
        let written = Written { id: write.id.clone(), uid: write.uid.clone(), status, device };
        statuses.written(now, UNIX, written);
    };
    let report = |statuses: &mut Statuses, now: Instant, n: usize, at: i64| {
        let who = Confirmation { node: "e1".parse().unwrap(), report: format!("{n}-{at}").parse().unwrap() };
        let heat = json!({"actual": {"value": at.to_string(), "metadata": {"timestamp": UNIX + at}}});
        let twins = serde_json::from_value(json!({"twin": {"heat": heat}})).unwrap();
        statuses.twins(now, UNIX, &name(n), &twins, who).unwrap();
    };
    for n in 0..3 {
        statuses.device(now, &named(n, json!({})), Vec::new());
    }
    // The DeviceStatus, then what is wanted beside it.
    for _ in 0..2 {
        while let Some(write) = statuses.poll(now, "T") {
            settle(&mut statuses, now, &write);
        }
        now += PAUSE;
    }
    assert_eq!((statuses.poll(now, "T"), statuses.poll_timeout()), (None, None));

    // Nobody had time for them.
    (0..3).for_each(|n| report(&mut statuses, now, n, 1));
    now += SECOND;
    for n in 0..3 {
        let write = statuses.poll(now, "T").unwrap();
        assert_eq!((&write.id, write.status.is_some(), &write.device), (&name(n), true, &None));
        settle(&mut statuses, now, &write);
        let confirmed = statuses.take_confirmed();
        assert_eq!(confirmed.len(), 1, "it is stored in one place, and goes to the other");
    }
    // What is new goes first; then there is time for what is behind.
    now += PAUSE;
    report(&mut statuses, now, 1, 2);
    let write = statuses.poll(now, "T").unwrap();
    assert_eq!((&write.id, write.status.is_some(), &write.device), (&name(1), true, &None));
    settle(&mut statuses, now, &write);
    assert_eq!(statuses.n_behind(), 3);
    for n in 0..3 {
        let write = statuses.poll(now, "T").unwrap();
        assert_eq!((&write.id, write.status.is_some(), write.device.is_some()), (&name(n), false, true));
        settle(&mut statuses, now, &write);
    }
    assert_eq!((statuses.poll(now, "T"), statuses.n_behind()), (None, 0));

    // What is more than a value does not wait.
    now += PAUSE;
    let problem = Problem { what: What::NoVisitors, message: "a".to_owned() };
    report(&mut statuses, now, 0, 3);
    statuses.device(now, &named(2, json!({})), vec![problem]);
    now += SECOND;
    let write = statuses.poll(now, "T").unwrap();
    assert_eq!((&write.id, write.device), (&name(0), None));
    let write = statuses.poll(now, "T").unwrap();
    assert_eq!(write.id, name(2));
    assert!(write.device.is_some_and(|patch| patch.contains_key("conditions")));
}

#[test]
fn no_device_is_behind_for_ever() {
    let mut bench = Bench::new();
    bench.report("1", "1", 1);
    bench.value();
    bench.done(2);
    let mut value = 1;
    let start = bench.now;
    // It reports faster than its turn comes.
    loop {
        value += 1;
        bench.now += PAUSE;
        bench.report(&value.to_string(), &value.to_string(), value);
        bench.now += SECOND;
        let write = bench.poll().unwrap();
        if write.device.is_some() {
            break;
        }
        bench.written(Wrote::Done(Version::new(2)), Wrote::Nothing);
        assert!(bench.now - start < LONG * 2);
    }
    assert!(bench.now - start >= LONG);
    // It failed: its time does not begin anew.
    bench.written(Wrote::Nothing, Wrote::Away);
    assert_eq!(bench.statuses.n_behind(), 1);
    bench.now = bench.statuses.poll_timeout().unwrap() + SECOND;
    assert!(bench.poll().unwrap().device.is_some());
    bench.done(9);
    assert_eq!(bench.statuses.n_behind(), 0);
}

#[test]
fn what_was_left_for_later_and_then_refused_is_not_stored() {
    let mut bench = Bench::new();
    bench.report("1", "25", 1);
    bench.now += SECOND;
    assert_eq!(bench.poll().unwrap().device, None, "the API server does not keep up");
    bench.written(Wrote::Refused, Wrote::Nothing);
    assert_eq!(bench.confirmed(), [""; 0]);
    bench.now += PAUSE;
    let write = bench.poll().unwrap();
    assert_eq!((write.status, &write.device.unwrap()["twins"][0]["reported"]["value"]), (None, &json!("25")));
    bench.written(Wrote::Nothing, Wrote::Done(Version::new(2)));
    assert_eq!(bench.confirmed(), ["1"]);
    // Tried again, and until it comes through not alone, however late.
    bench.now += REFUSED + SECOND;
    bench.report("2", "26", 2);
    bench.now += SECOND;
    assert_eq!(bench.value(), "26", "in both");
}

#[test]
fn a_half_that_was_refused_is_tried_again_though_nothing_new_is_said() {
    let mut bench = Bench::new();
    bench.report("1", "25", 1);
    bench.value();
    bench.written(Wrote::Refused, Wrote::Done(Version::new(2)));
    bench.now += PAUSE;
    assert_eq!(bench.poll(), None);
    bench.now = bench.statuses.poll_timeout().unwrap();
    let write = bench.poll().unwrap();
    assert!(write.status.is_some() && write.device.is_none(), "{write:?}");
}

#[test]
fn a_right_that_is_missing_keeps_no_value_from_the_other_place() {
    let mut bench = Bench::new();
    bench.report("1", "25", 1);
    bench.value();
    bench.written(Wrote::Refused, Wrote::Done(Version::new(2)));
    assert_eq!(bench.confirmed(), ["1"]);
    bench.now += PAUSE;
    bench.report("2", "26", 2);
    assert_eq!(bench.poll().unwrap().status, None, "not tried again at once");
    bench.written(Wrote::Nothing, Wrote::Refused);
    assert_eq!(bench.confirmed(), [""; 0], "stored nowhere");
    bench.now += PAUSE;
    assert_eq!(bench.poll(), None);
    bench.now = bench.statuses.poll_timeout().unwrap();
    assert!(bench.poll().unwrap().status.is_some(), "tried again after a minute");
    bench.written(Wrote::Done(Version::new(3)), Wrote::Nothing);
    assert_eq!(bench.confirmed(), ["2"]);
}

#[test]
fn the_status_object_is_made_and_made_anew_and_taken_over() {
    let mut bench = Bench { statuses: Statuses::default(), now: Instant::now() };
    bench.see(device("u", 1, json!({})));
    let made = bench.poll().unwrap();
    assert_eq!(made.status, Some(StatusWrite::Create(Map::from_iter([("twins".to_owned(), json!([]))]))));
    assert_eq!(made.device, None, "it may show values of an earlier run");
    // Another cloudcore was quicker: what it knows is kept.
    bench.written(Wrote::Exists(Box::new(says("24"))), Wrote::Nothing);
    bench.now += PAUSE;
    let write = bench.poll().unwrap();
    assert_eq!(write.status, None);
    let twins = &write.device.unwrap()["twins"];
    assert_eq!(
        (&twins[0]["reported"]["value"], &twins[1]["desired"]),
        (&json!("24"), &json!({"value": "20"}))
    );
    bench.written(Wrote::Nothing, Wrote::Done(Version::new(3)));
    // Somebody deletes it.
    bench.now += PAUSE;
    bench.report("1", "25", 1);
    assert_eq!(bench.value(), "25");
    bench.written(Wrote::Missing, Wrote::Done(Version::new(4)));
    assert_eq!(bench.confirmed(), [""; 0]);
    bench.now += PAUSE;
    assert!(matches!(bench.poll().unwrap().status, Some(StatusWrite::Create(_))));
    bench.written(Wrote::Done(Version::new(5)), Wrote::Nothing);
    assert_eq!(bench.confirmed(), ["1"]);
    // One that was left by an earlier device of this name.
    let mut bench = Bench { statuses: Statuses::default(), now: Instant::now() };
    bench.statuses.found(id(), Found { owner: "before".to_owned(), ..says("24") });
    bench.see(device("u", 1, json!({})));
    let write = bench.poll().unwrap();
    let Some(StatusWrite::TakeOver(status)) = write.status else { panic!("{write:?}") };
    assert_eq!(status["twins"], json!([]));
    // One that somebody made by hand keeps what it says.
    let mut bench = Bench { statuses: Statuses::default(), now: Instant::now() };
    bench.statuses.found(id(), Found { owner: String::new(), ..says("24") });
    bench.see(device("u", 1, json!({})));
    assert_eq!(bench.value(), "24");
}

#[test]
fn a_restart_writes_nothing_that_is_there() {
    let mut bench = Bench { statuses: Statuses::default(), now: Instant::now() };
    bench.statuses.found(id(), says("24"));
    let live = says("24").facts.live_status(&device("u", 1, json!({})).says.properties);
    bench.see(device("u", 1, Value::Object(live)));
    assert_eq!(bench.poll(), None);
    assert!(bench.statuses.is_heard(&id()));
}

#[test]
fn what_others_write_over_the_twins_is_put_right() {
    let mut bench = Bench::new();
    bench.report("1", "25", 1);
    bench.value();
    bench.done(5);
    bench.now += PAUSE;
    // `kubectl apply` of a manifest with twins replaces the list.
    bench.see(device("u", 6, json!({"twins": [{"propertyName": "heat"}]})));
    let write = bench.poll().unwrap();
    assert_eq!((write.status, &write.device.unwrap()["twins"][0]["reported"]["value"]), (None, &json!("25")));
    bench.written(Wrote::Nothing, Wrote::Done(Version::new(7)));
    bench.now += PAUSE;
    // The watch shows older states late.
    bench.see(device("u", 6, json!({"twins": [{"propertyName": "heat"}]})));
    assert_eq!(bench.poll(), None);
}

#[test]
fn the_end_of_a_device_confirms_everybody() {
    let mut bench = Bench::new();
    bench.report("1", "25", 1);
    bench.value();
    bench.report("2", "26", 2);
    bench.statuses.ended(&id());
    assert_eq!(bench.confirmed(), ["2", "1"]);
    // It is made anew while the write of the old one is under way.
    bench.see(device("u2", 9, json!({})));
    assert_eq!(bench.poll(), None);
    bench.done(8);
    assert_eq!(bench.poll().unwrap().uid.as_str(), "u2");
}

#[test]
fn too_many_that_wait_are_counted_and_their_values_kept() {
    let mut bench = Bench::new();
    bench.report("0", "0", 0);
    bench.value();
    // Each about another property.
    for n in 1..=300 {
        let who = Confirmation { node: "e1".parse().unwrap(), report: n.to_string().parse().unwrap() };
        let value = json!({"actual": {"value": n.to_string(), "metadata": {"timestamp": UNIX + n}}});
        let mut twins = Map::from_iter([("heat".to_owned(), value.clone())]);
        twins.insert(format!("more-{n}"), value);
        let report = serde_json::from_value(json!({"twin": twins})).unwrap();
        for _ in 0..2 {
            bench.statuses.twins(bench.now, UNIX, &id(), &report, who.clone()).unwrap();
        }
    }
    assert_eq!(bench.statuses.take_unconfirmed(), 300 - MAX_WAITING as u64);
    bench.written(Wrote::Away, Wrote::Away);
    assert_eq!(bench.statuses.take_unconfirmed(), 1, "the one that was being written");
    bench.now = bench.statuses.poll_timeout().unwrap();
    assert_eq!(bench.value(), "300");
}

#[test]
fn events_go_with_the_conditions_that_are_new() {
    let mut bench = Bench::new();
    let problem = |message: &str| Problem { what: What::NoVisitors, message: message.to_owned() };
    let seen = device("u", 1, json!({"twins": [{"propertyName": "limit", "desired": {"value": "20"}}]}));
    bench.statuses.device(bench.now, &seen, vec![problem("a")]);
    let write = bench.poll().unwrap();
    assert_eq!(write.events, [problem("a")]);
    assert_eq!(write.device.unwrap()["conditions"][0]["message"], "a");
    bench.written(Wrote::Nothing, Wrote::Done(Version::new(2)));
    bench.now += PAUSE;
    bench.statuses.device(bench.now, &seen, vec![problem("a")]);
    assert_eq!(bench.poll(), None, "told once");
    bench.statuses.device(bench.now, &seen, Vec::new());
    let write = bench.poll().unwrap();
    assert_eq!((write.events.len(), &write.device.unwrap()["conditions"]), (0, &json!([])));
}

#[test]
fn what_a_node_says_is_wrong_outlives_a_restart_and_ends_with_the_node() {
    let mut bench = Bench::new();
    let state =
        json!({"timestamp": UNIX, "device": {"state": "unknown", "reason": "NoMapper", "message": "none"}});
    let who = Confirmation { node: "e1".parse().unwrap(), report: "1".parse().unwrap() };
    let report = serde_json::from_value(state).unwrap();
    bench.statuses.state(bench.now, UNIX, &id(), &report, who).unwrap();
    assert!(!bench.statuses.is_heard(&id()), "no mapper said that");
    let write = bench.poll().unwrap();
    assert_eq!(write.events, [Problem { what: What::Told(Trouble::NoMapper), message: "none".into() }]);
    let shown = write.device.unwrap();
    assert_eq!(shown["conditions"][0]["message"], "none");

    // All that a restart finds.
    let mut status = json!({"twins": [{"propertyName": "limit", "desired": {"value": "20"}}]});
    status.as_object_mut().unwrap().extend(shown);
    let mut again = Bench::new();
    again.statuses = Statuses::default();
    let said = status.as_object().unwrap().clone();
    let facts = Facts::from_status(serde_json::from_value(json!({"state": "unknown"})).unwrap());
    let held = Map::from_iter([("state".to_owned(), said["state"].clone())]);
    again.statuses.found(id(), Found { owner: "u".to_owned(), facts, said: Said::new(&held) });
    again.see(device("u", 2, status.clone()));
    assert_eq!(again.poll(), None, "it still stands");
    let mut moved = device("u", 3, status);
    moved.says.node = "e2".to_owned();
    again.see(moved);
    let write = again.poll().unwrap();
    assert_eq!(write.device.unwrap()["conditions"], json!([]));
}
