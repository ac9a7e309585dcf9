//! Messages as devices send them, paths as people write them, and anything else.

use proptest::prelude::*;

use super::*;

fn value(payload: &[u8], path: Option<&Path>, kind: Kind) -> Result<Value, PayloadError> {
    Message::new(payload).value(path, kind)
}

/// `!` and the error's text where there is no value.
fn check(payload: &str, path: Option<&str>, kind: Kind, expected: &str) {
    let path = path.map(|text| Path::parse(text).unwrap());
    let got = match value(payload.as_bytes(), path.as_ref(), kind) {
        Ok(value) => value.to_string(),
        Err(error) => format!("!{error}"),
    };
    assert_eq!(got, expected, "{payload} at {path:?} as {kind}");
}

#[test]
fn whole_messages() {
    check("25.3", None, Kind::Float, "25.3");
    check(" 25.3\n", None, Kind::Double, "25.3");
    check("\"25.3\"", None, Kind::Double, "25.3");
    check("21", None, Kind::Int, "21");
    check("21.0", None, Kind::Int, "21");
    check("true", None, Kind::Int, "1");
    check("ON", None, Kind::Bool, "true");
    check("off", None, Kind::Bool, "false");
    check("1", None, Kind::Bool, "true");
    check("0.0", None, Kind::Bool, "false");
    check("grün", None, Kind::Text, "grün");
    check("{\"a\":1}", None, Kind::Text, "{\"a\":1}");
    check("", None, Kind::Text, "");
    check("", None, Kind::Int, "!\"\" is no INT; an example: -12; 64 bits at most");
    check("21.5", None, Kind::Int, "!\"21.5\" is no INT; an example: -12; 64 bits at most");
    check("warm", None, Kind::Float, "!\"warm\" is no FLOAT; an example: 25.3");
    check("NaN", None, Kind::Double, "!\"NaN\" is no DOUBLE; an example: 25.3");
    check("2", None, Kind::Bool, "!\"2\" is no BOOLEAN; write true or false");
    check("null", None, Kind::Int, "!the message says null");
    check(
        "{\"temp\":1}",
        None,
        Kind::Float,
        "!there is a JSON object, no FLOAT; set path to where in it the value is, such as $.temperature",
    );
    check(&"x".repeat(81), None, Kind::Float, "!a text of 81 bytes is no FLOAT");
    assert_eq!(value(&[0xff], None, Kind::Text), Err(PayloadError::NotText));
    assert_eq!(value(&[0xff, 0], None, Kind::Bytes), Ok(Value::Bytes(vec![0xff, 0])));
}

#[test]
fn values_in_json() {
    let message = r#"{"sensors":[{"temp":25.3,"ok":true,"n":"7"},{"temp":1e2}],"odd.name":"x","list":[1,2,3],"no":null,"big":18446744073709551615}"#;
    let at = |path: &str, kind: Kind, expected: &str| check(message, Some(path), kind, expected);
    at("$.sensors[0].temp", Kind::Float, "25.3");
    at("sensors.0.temp", Kind::Double, "25.3");
    at("sensors[1].temp", Kind::Int, "100");
    at("$['sensors'][0][\"ok\"]", Kind::Bool, "true");
    at("$.sensors[0].n", Kind::Int, "7");
    at("$['odd.name']", Kind::Text, "x");
    at("$.list[-1]", Kind::Int, "3");
    at("$.list", Kind::Text, "[1,2,3]");
    at(
        "$.list",
        Kind::Int,
        "!there is a JSON list, no INT; set path to where in it the value is, such as $.list[0]",
    );
    at("$.list[3]", Kind::Int, "!the message has nothing at $.list[3]");
    at("$.list[-4]", Kind::Int, "!the message has nothing at $.list[-4]");
    at("$.list[-9223372036854775808]", Kind::Int, "!the message has nothing at $.list[-9223372036854775808]");
    at("$.sensors.temp", Kind::Int, "!the message has nothing at $.sensors.temp");
    at("$.no", Kind::Int, "!the message says null");
    at("$.big", Kind::Int, "!\"18446744073709551615\" is no INT; an example: -12; 64 bits at most");
    at("$.big", Kind::Double, "18446744073709552000");
    check("25.3", Some("$"), Kind::Float, "25.3");
    check(
        "25,3",
        Some("$"),
        Kind::Float,
        "!the message is no JSON (trailing characters at line 1 column 3); without path it is taken whole",
    );
}

#[test]
fn paths_as_people_write_them() {
    let check = |text: &str, expected: Option<&str>| {
        assert_eq!(Path::parse(text).map(|path| path.to_string()).as_deref(), expected, "{text:?}");
    };
    check("$", Some("$"));
    check(" temp ", Some("$.temp"));
    check("$.a.b[0]['c d'].2", Some("$.a.b[0]['c d'].2"));
    check("[0].a", Some("$[0].a"));
    check("$[\"it's\"]", Some("$[\"it's\"]"));
    check("$id", Some("$.$id"));
    check("", None);
    check("$.", None);
    check("$..temp", None);
    check("$.sensors[*].temp", None);
    check("$.*", None);
    check("$.a[?(@.b)]", None);
    check("$.a[0", None);
    check("$.a[0]b", None);
    check("$['a", None);
    check("a.", None);
}

fn kinds() -> impl Strategy<Value = Kind> {
    proptest::sample::select(vec![Kind::Int, Kind::Float, Kind::Double, Kind::Text, Kind::Bool, Kind::Bytes])
}

proptest! {
    #[test]
    fn any_bytes_are_answered(payload: Vec<u8>, path in "[$.a0'\"\\[\\]-]{0,8}", kind in kinds()) {
        let _ = value(&payload, Path::parse(&path).as_ref(), kind);
    }

    #[test]
    fn any_json_is_answered(number: f64, text in "\\PC{0,12}", index: i64, kind in kinds()) {
        let message = serde_json::json!({"a": [number, text, {"b": index}]}).to_string();
        for path in ["$.a[0]", "a.1", "$.a[2].b", "$"] {
            if let Err(error) = value(message.as_bytes(), Path::parse(path).as_ref(), kind) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }

    #[test]
    fn paths_read_back_the_same(text in "\\PC{0,16}") {
        if let Some(path) = Path::parse(&text) {
            prop_assert_eq!(Path::parse(&path.to_string()), Some(path));
        }
    }

    #[test]
    fn whole_numbers_are_exact(number: i64) {
        let message = serde_json::json!({"n": number}).to_string();
        prop_assert_eq!(value(message.as_bytes(), Path::parse("n").as_ref(), Kind::Int), Ok(Value::Int(number)));
    }
}
