//! What follows from what is said, as KubeEdge tells it.

use serde_json::{Value, json};

use super::*;

fn id(name: &str) -> DeviceId {
    DeviceId { namespace: "plant".parse().unwrap(), name: name.parse().unwrap() }
}

fn at(now_ms: i64) -> Moment {
    Moment { now_ms, now_text: "2026-01-02T03:04:05Z".into(), event_id: "own".into() }
}

fn twins() -> Twins {
    let mut twins = Twins::new("edge-1".parse().unwrap(), Alphabet::KubeEdge, BTreeMap::new());
    twins.add(&id("oven"), "hall-3", &at(1));
    twins.keep();
    twins
}

fn told(json: Value) -> Told {
    serde_json::from_value(json).unwrap()
}

fn published(effects: &Effects) -> Vec<(String, Value)> {
    let one = |(topic, body): &(Topic, Bytes)| (topic.to_string(), serde_json::from_slice(body).unwrap());
    effects.published.iter().map(one).collect()
}

#[test]
fn a_mappers_report_as_kubeedge_tells_it() {
    let mut twins = twins();
    let first = twins
        .reported(
            &id("oven"),
            &told(json!({"heat": {"expected": {"value": ""}, "actual": {"value": "25.3"}}})),
            &at(7),
        )
        .unwrap();
    let value = json!({"value": "25.3", "metadata": {"timestamp": 7}});
    let heat = json!({"actual": value, "optional": true, "metadata": {"type": "string"}});
    let topic = |tail: &str| format!("$hw/events/device/plant/oven/twin/update/{tail}");
    assert_eq!(
        published(&first),
        [
            (topic("result"), json!({"event_id": "", "timestamp": 7, "twin": {"heat": heat}})),
            (
                topic("document"),
                json!({"event_id": "", "timestamp": 7, "twin": {"heat": {"last": null, "current": heat}}})
            ),
        ]
    );
    let Some(DeviceReport::Twin(_, report)) = &first.report else { panic!("{:?}", first.report) };
    assert_eq!(report.twin["heat"].as_ref().unwrap().actual_version.unwrap().edge, 1);
    // A property that lags.
    let lags = twins
        .reported(
            &id("oven"),
            &told(json!({"limit": {"expected": {"value": "20"}, "actual": {"value": "18"}}})),
            &at(8),
        )
        .unwrap();
    let (topic_of_delta, delta) = published(&lags).pop().unwrap();
    assert_eq!(topic_of_delta, topic("delta"));
    assert_eq!(delta["delta"], json!({"limit": "20"}));
    assert_eq!(delta["twin"].as_object().unwrap().len(), 1, "only what something is wanted of");
}

#[test]
fn what_mqtt_clients_hear() {
    let check = |tail: &str, body: &str, expected: Value| {
        let topic: Topic = format!("$hw/events/{tail}").parse().unwrap();
        let effects = twins().heard(&topic, body.as_bytes(), &at(7));
        let (topics, bodies): (Vec<String>, Vec<Value>) = published(&effects).into_iter().unzip();
        // Refused or not, who asked hears it where an answer is expected.
        let asked = format!("$hw/events/{}/", tail.replace("/any/", "/edge-1/"));
        assert!(topics.iter().all(|topic| topic.starts_with(&asked)), "{topics:?}");
        assert_eq!(Value::from(bodies), expected, "{tail} {body}");
    };
    let refused = |event: &str, code: u16, reason: &str| json!([{"event_id": event, "timestamp": 7, "code": code, "reason": reason}]);
    check(
        "device/plant/oven/twin/update",
        "no json",
        refused("", 400, "Unmarshal update request body failed, please check the request"),
    );
    check(
        "device/plant/oven/twin/update",
        r#"{"event_id":"e"}"#,
        refused("e", 400, "Update twin error, key:twin does not exist"),
    );
    check(
        "device/plant/none/twin/update",
        r#"{"event_id":"e","twin":{}}"#,
        refused("e", 404, "update rejected due to the device is not existed"),
    );
    check(
        "device/plant/none/twin/get",
        r#"{"event_id":"e"}"#,
        refused("e", 404, "Device plant/none not found while getting twin"),
    );
    check(
        "device/plant/oven/twin/get",
        r#"{"event_id":"e"}"#,
        json!([{"event_id": "e", "timestamp": 7, "twin": {}}]),
    );
    check(
        "device/plant/oven/twin/update",
        r#"{"event_id":"e","twin":{"p":{"actual":{}}, "gone": null}}"#,
        json!([
            {"event_id": "e", "timestamp": 7, "twin": {"p": {"optional": true, "metadata": {"type": "string"}}}},
            {"event_id": "e", "timestamp": 7,
             "twin": {"p": {"last": null, "current": {"optional": true, "metadata": {"type": "string"}}}}},
        ]),
    );
    check("device/plant/oven/state/update", r#"{"state":"sleeping"}"#, json!([]));
    check(
        "device/plant/oven/state/update",
        r#"{"event_id":"e","state":"disconnected"}"#,
        json!([{"event_id": "e", "timestamp": 7, "device": {"name": "oven", "state": "offline"}}]),
    );
    check(
        "device/plant/oven/state/update",
        r#"{"event_id":"e","state":"Online"}"#,
        json!([{"event_id": "e", "timestamp": 7,
            "device": {"name": "oven", "state": "Online", "lastOnlineTime": "2026-01-02T03:04:05Z"}}]),
    );
    check(
        "node/any/membership/get",
        r#"{"event_id":"e"}"#,
        json!([{"event_id": "e", "timestamp": 7,
            "devices": [{"id": "plant/oven", "name": "oven", "description": "hall-3"}]}]),
    );
}

#[test]
fn a_batch_that_is_not_on_disk_never_was() {
    let mut twins = twins();
    let value = |value: &str| told(json!({"heat": {"actual": {"value": value}}}));
    twins.reported(&id("oven"), &value("1"), &at(2)).unwrap();
    twins.keep();
    twins.reported(&id("oven"), &value("2"), &at(3)).unwrap();
    twins.reported(&id("oven"), &value("3"), &at(4)).unwrap();
    twins.add(&id("new"), "", &at(5));
    twins.undo();
    assert!(!twins.ids().contains(&id("new")));
    let effects = twins.heard(
        &"$hw/events/device/plant/oven/twin/get".parse().unwrap(),
        b"{\"event_id\":\"e\"}",
        &at(6),
    );
    assert_eq!(published(&effects)[0].1["twin"]["heat"]["actual"]["value"], "1");
}

#[test]
fn members_come_once_and_go_once() {
    let mut twins = twins();
    assert_eq!(twins.add(&id("oven"), "hall-3", &at(2)), Effects::default());
    let renamed = twins.add(&id("oven"), "hall-4", &at(2));
    assert!(renamed.published.is_empty() && renamed.rows.len() == 1);
    let gone = twins.remove(&id("oven"), &at(3));
    let (topic, body) = &published(&gone)[0];
    assert_eq!(topic, "$hw/events/node/edge-1/membership/updated");
    assert_eq!(
        *body,
        json!({"event_id": "own", "timestamp": 3, "added_devices": null,
            "removed_devices": [{"id": "plant/oven", "name": "oven", "description": "hall-4"}]})
    );
    assert_eq!(twins.remove(&id("oven"), &at(4)), Effects::default());
}

#[test]
fn a_mapper_without_namespaces_means_the_only_one() {
    let mut twins = twins();
    assert_eq!(twins.named("oven"), Some(id("oven")));
    let other = DeviceId { namespace: "default".parse().unwrap(), name: "oven".parse().unwrap() };
    twins.add(&other, "", &at(2));
    assert_eq!(twins.named("oven"), Some(other));
}

#[test]
fn who_is_served_by_nobody_is_unknown_until_somebody_does() {
    let mut twins = twins();
    let state = |effects: &Effects| {
        let Some(DeviceReport::State(_, report)) = &effects.report else { panic!("{:?}", effects.report) };
        let DeviceState { state, reason, message, .. } = &report.device;
        format!("{state} {reason} {message}").trim().to_owned()
    };
    let away = |message: &str| Unserved { trouble: Trouble::MapperAway, message: message.into() };
    // Nothing was said yet.
    let told = twins.unserved(&id("oven"), Some(&away("x")), &at(2)).unwrap();
    assert_eq!(state(&told), "unknown MapperAway x");
    let told = twins.unserved(&id("oven"), None, &at(3)).unwrap();
    assert_eq!(state(&told), "unknown");
    assert_eq!(twins.unserved(&id("oven"), None, &at(4)), None, "as before");
    // What the mapper said stands again, however often its absence was told.
    let told = twins.state(&id("oven"), "", &"unhealthy".parse().unwrap(), "limit: no", &at(5)).unwrap();
    assert_eq!(state(&told), "unhealthy DeviceTrouble limit: no");
    twins.unserved(&id("oven"), Some(&away("y")), &at(6)).unwrap();
    twins.unserved(&id("oven"), Some(&away("z")), &at(7)).unwrap();
    assert!(twins.is_unserved(&id("oven")));
    let told = twins.unserved(&id("oven"), None, &at(8)).unwrap();
    assert_eq!(state(&told), "unhealthy");
    // Its own word ends it, too; a device that is well has no reason not to be.
    twins.unserved(&id("oven"), Some(&away("y")), &at(9)).unwrap();
    let told = twins.state(&id("oven"), "", &"online".parse().unwrap(), "limit: no", &at(10)).unwrap();
    assert_eq!(state(&told), "online");
    assert!(!twins.is_unserved(&id("oven")));
    assert_eq!(twins.unserved(&id("none"), Some(&away("x")), &at(11)), None);
}

#[test]
fn properties_that_went_are_forgotten() {
    let mut twins = twins();
    let said = json!({"limit": {"expected": {"value": "20"}, "actual": {"value": "18"}}, "heat": {"actual": {"value": "1"}}});
    twins.reported(&id("oven"), &told(said), &at(1)).unwrap();
    let gone = twins.forget(&id("oven"), ["limit".to_owned(), "never".to_owned()].into());
    assert_eq!(gone.rows, [Row::Forget(id("oven"), vec!["limit".to_owned()])]);
    let heat =
        twins.reported(&id("oven"), &told(json!({"heat": {"actual": {"value": "2"}}})), &at(2)).unwrap();
    let topics: Vec<String> = published(&heat).into_iter().map(|(topic, _)| topic).collect();
    assert!(topics.iter().all(|topic| !topic.ends_with("delta")), "{topics:?}");
    assert_eq!(twins.forget(&id("oven"), BTreeSet::new()), Effects::default());
    assert_eq!(twins.forget(&id("lamp"), ["x".to_owned()].into()), Effects::default());
}
