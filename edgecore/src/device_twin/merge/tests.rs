//! Requests and what becomes of them, as texts.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn request(value: Value) -> Told {
    serde_json::from_value(value).unwrap()
}

/// `limit: int 20v1/18v2` for a property of type int with expected 20 (edge version 1) and actual 18 (2); `?` where it is
/// optional no more, `-` where a half is missing.
fn text(twin: &Twin) -> String {
    let half = |half: &Option<Half>| {
        half.as_ref().map_or("-".to_owned(), |half| format!("{}v{}", half.value, half.version.edge))
    };
    let lines = twin.iter().map(|(name, property)| {
        let must = if property.optional { "" } else { "!" };
        format!("{name}{must}: {} {}/{}", property.kind, half(&property.expected), half(&property.actual))
    });
    lines.collect::<Vec<_>>().join(", ")
}

fn twin(requests: &[Value]) -> Twin {
    let mut twin = Twin::new();
    for one in requests {
        update(&mut twin, &request(one.clone()), Alphabet::KubeEdge, 7).unwrap();
    }
    twin
}

#[test]
fn halves_types_and_tombstones() {
    let check = |requests: &[Value], expected: &str| assert_eq!(text(&twin(requests)), expected);
    let actual = |value: &str| json!({"p": {"actual": {"value": value}}});
    check(&[actual("1")], "p: string -/1v1");
    check(&[actual("1"), actual("1")], "p: string -/1v2");
    check(
        &[json!({"p": {"expected": {"value": "20"}, "metadata": {"type": "int"}}}), actual("18")],
        "p: int 20v1/18v1",
    );
    // The type stays as it was first told.
    check(
        &[actual("a"), json!({"p": {"actual": {"value": "b"}, "metadata": {"type": "int"}}})],
        "p: string -/bv2",
    );
    // A half without a value is none, and a null for something unknown is passed over.
    check(&[json!({"p": {"actual": {}, "expected": {"value": "1"}}, "q": null})], "p: string 1v1/-");
    check(&[actual("1"), json!({"p": null})], "p: deleted -/v2");
    check(&[actual("1"), json!({"p": null}), actual("2")], "p: string -/2v3");
    // What a device must have cannot be deleted, and never becomes optional again.
    let must = json!({"p": {"actual": {"value": "1"}, "optional": false}});
    check(&[must.clone(), json!({"p": null})], "p!: string -/1v1");
    check(&[must, json!({"p": {"optional": true, "actual": {"value": "2"}}})], "p!: string -/2v2");
}

#[test]
fn what_is_refused_changes_nothing() {
    let check = |request_: Value, alphabet: Alphabet, expected: &str| {
        let start = twin(&[json!({"n": {"actual": {"value": "1"}, "metadata": {"type": "int"}}})]);
        let mut after = start.clone();
        let refused = update(&mut after, &request(request_), alphabet, 9).unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused}");
        assert_eq!(after, start);
    };
    let value = |value: &str| json!({"n": {"actual": {"value": value}}});
    check(value("x"), Alphabet::Open, "not int");
    check(
        json!({"a": {"actual": {"value": "fine"}}, "n": {"actual": {"value": "a b"}}}),
        Alphabet::KubeEdge,
        "characters",
    );
    check(json!({"spaced name": null}), Alphabet::KubeEdge, "property name");
    check(
        json!({"m": {"actual": {"value": "1"}, "metadata": {"type": "deleted"}}}),
        Alphabet::KubeEdge,
        "not allowed",
    );
    check(json!({"line\nbreak": {"actual": {"value": "1"}}}), Alphabet::Open, "control characters");
    check(value(&"1".repeat(513)), Alphabet::KubeEdge, "512");
    check(value(&"1".repeat(70_000)), Alphabet::Open, "65536");
    check(
        json!({"f": {"actual": {"value": "x"}, "metadata": {"type": "float"}}}),
        Alphabet::Open,
        "not float",
    );
    check(
        json!({"b": {"actual": {"value": "True"}, "metadata": {"type": "boolean"}}}),
        Alphabet::Open,
        "true or false",
    );
    check(
        json!({"b": {"actual": {"value": "1"}, "metadata": {"type": "double"}}}),
        Alphabet::Open,
        "not allowed",
    );
}

#[test]
fn of_a_mapper_only_what_is_wrong_is_left_out() {
    let mut twin = twin(&[json!({"n": {"actual": {"value": "1"}, "metadata": {"type": "int"}}})]);
    let said = json!({
        "oil temp": {"actual": {"value": "80 °C"}},
        "big": {"actual": {"value": "1".repeat(70_000)}},
        "n": {"actual": {"value": "full"}, "metadata": {"type": "string"}},
    });
    let merged = update(&mut twin, &request(said), Alphabet::Open, 9).unwrap();
    let left_out: Vec<String> = merged.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(left_out, ["the value of big must be at most 65536 bytes"]);
    assert_eq!(merged.report.keys().collect::<Vec<_>>(), ["n", "oil temp"]);
    assert_eq!(text(&twin), "n: string -/fullv2, oil temp: string -/80 °Cv1");
}

#[test]
fn properties_are_not_without_end() {
    let mut twin = Twin::new();
    let many: Told = (0..MAX_PROPERTIES).map(|n| (format!("p{n}"), Some(TwinProperty::default()))).collect();
    update(&mut twin, &many, Alphabet::KubeEdge, 1).unwrap();
    let more = request(json!({"one more": {"actual": {"value": "1"}}}));
    assert!(matches!(update(&mut twin, &more, Alphabet::Open, 1), Err(Refused::TooMany(_))));
    update(&mut twin, &request(json!({"p7": {"actual": {"value": "1"}}})), Alphabet::KubeEdge, 1).unwrap();
}

#[test]
fn what_is_told_to_whom() {
    let mut twin = twin(&[json!({"limit": {"expected": {"value": "20"}, "metadata": {"type": "int"}}})]);
    let merged =
        update(&mut twin, &request(json!({"limit": {"actual": {"value": "18"}}})), Alphabet::Open, 5)
            .unwrap();
    let json = |value: &Told| serde_json::to_value(value).unwrap();
    assert_eq!(
        json(&merged.result),
        json!({"limit": {"actual": {"value": "18", "metadata": {"timestamp": 5}}, "optional": true,
            "metadata": {"type": "int"}}})
    );
    assert_eq!(
        json(&merged.report),
        json!({"limit": {"actual": {"value": "18", "metadata": {"timestamp": 5}}, "optional": true,
            "metadata": {"type": "int"}, "actual_version": {"cloud": 0, "edge": 1}}})
    );
    let step = &merged.document["limit"];
    assert!(step.last.as_ref().unwrap().actual.is_none());
    assert_eq!(step.current.as_ref().unwrap().expected.as_ref().unwrap().value.as_deref(), Some("20"));
    assert_eq!(delta(&twin), BTreeMap::from([("limit".to_owned(), "20".to_owned())]));
    update(&mut twin, &request(json!({"limit": {"actual": {"value": "20"}}})), Alphabet::Open, 6).unwrap();
    assert!(delta(&twin).is_empty());
    let merged = update(&mut twin, &request(json!({"limit": null})), Alphabet::Open, 7).unwrap();
    assert_eq!(json(&merged.result), json!({"limit": null}));
    assert!(all(&twin).is_empty() && twin.contains_key("limit"));
}

proptest! {
    /// Versions never go back, untouched properties stay, and nothing ever panics.
    #[test]
    fn versions_only_grow(requests in proptest::collection::vec(
        proptest::collection::btree_map("[a-c]", proptest::option::of((
            proptest::option::of("[0-9a-z ]{0,4}"), proptest::option::of("[0-9a-z]{0,4}"),
            proptest::option::of(prop_oneof![Just("int"), Just("string"), Just("deleted"), Just("odd")]))), 0..3), 0..12))
    {
        let mut twin = Twin::new();
        for (now, asked) in requests.into_iter().enumerate() {
            let asked: Told = asked.into_iter().map(|(name, property)| {
                let value = |value: Option<String>| value.map(|value| TwinValue { value: Some(value), metadata: None });
                (name, property.map(|(expected, actual, kind)| TwinProperty {
                    expected: value(expected), actual: value(actual),
                    metadata: kind.map(|name| TwinType { name: name.to_owned() }), ..TwinProperty::default()
                }))
            }).collect();
            let before = twin.clone();
            let outcome = update(&mut twin, &asked, Alphabet::KubeEdge, i64::try_from(now).unwrap());
            if outcome.is_err() {
                prop_assert_eq!(&twin, &before);
            }
            for (name, property) in &before {
                let after = &twin[name];
                let edge = |half: &Option<Half>| half.as_ref().map_or(0, |half| half.version.edge);
                prop_assert!(edge(&after.expected) >= edge(&property.expected));
                prop_assert!(edge(&after.actual) >= edge(&property.actual));
                if !asked.contains_key(name) {
                    prop_assert_eq!(after, property);
                }
            }
        }
    }
}
