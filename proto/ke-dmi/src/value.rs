//! Pure: a device's free configuration values, from JSON to the wire's `Any` and back.
//!
//! The edge side calls [`to_data`] for every `configData`, the mapper side [`from_data`]. No integer that fits 64 bits
//! is changed on the way, and Go mappers understand everything that is sent. No error shows a value: it may be a
//! password.

use base64::Engine;
use prost::{Message, Name};
use prost_types::Any;
use serde_json::{Map, Number, Value};

use crate::v1beta1::CustomizedValue;

/// Why a value cannot pass. `key` is the one in the device's configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The wire knows single values only.
    #[error("{key}: {kind} cannot be sent to a mapper, only text, a number, true or false; write it as text")]
    NotSingle { key: String, kind: &'static str },
    /// Only 32-bit floats carry fractions and huge numbers, and Go mappers cannot read any other kind.
    #[error("{key}: the number is too large for a mapper")]
    TooLarge { key: String },
    /// A type that is no wrapper of a single value.
    #[error("{key}: a value of type {type_url:?} is none that a mapper can use")]
    UnknownType { key: String, type_url: String },
    #[error("{key}: the bytes of the value do not fit its type {type_url:?}")]
    Damaged { key: String, type_url: String },
    /// Infinity or "not a number".
    #[error("{key}: the number is not finite")]
    NotFinite { key: String },
}

/// All of a `configData`. The first value that cannot pass fails the whole, as a device with half its configuration
/// would read something else than was asked for.
pub fn to_data(config: &Map<String, Value>) -> Result<CustomizedValue, ValueError> {
    let data = config.iter().map(|(key, value)| Ok((key.clone(), to_any(key, value)?)));
    Ok(CustomizedValue { data: data.collect::<Result<_, ValueError>>()? })
}

/// All of a received `configData`.
pub fn from_data(config: &CustomizedValue) -> Result<Map<String, Value>, ValueError> {
    config.data.iter().map(|(key, any)| Ok((key.clone(), from_any(key, any)?))).collect()
}

/// One value, as Go mappers can read it: text is a StringValue, true and false a BoolValue. A number that a 32-bit
/// float holds exactly is a FloatValue (what Go edges send for all), any other integer an Int64Value, any other number
/// the nearest FloatValue.
pub fn to_any(key: &str, value: &Value) -> Result<Any, ValueError> {
    let not_single = |kind| Err(ValueError::NotSingle { key: key.to_owned(), kind });
    match value {
        Value::String(text) => Ok(wrap(text)),
        Value::Bool(flag) => Ok(wrap(flag)),
        Value::Number(number) => number_to_any(number).ok_or(ValueError::TooLarge { key: key.to_owned() }),
        Value::Null => not_single("null"),
        Value::Array(_) => not_single("a list"),
        Value::Object(_) => not_single("an object"),
    }
}

/// One received value of any wrapper type. A number without fraction becomes an integer, so that a driver's integer
/// fields take it. A FloatValue goes through its shortest decimal form: what was 0.1 in the manifest is 0.1 here, not
/// 0.10000000149. Bytes become base64 text, as JSON forms of protobuf have them.
pub fn from_any(key: &str, any: &Any) -> Result<Value, ValueError> {
    let type_url = || any.type_url.clone();
    let damaged = |_| ValueError::Damaged { key: key.to_owned(), type_url: type_url() };
    let finite = |number: Option<Value>| number.ok_or(ValueError::NotFinite { key: key.to_owned() });
    let bytes = any.value.as_slice();
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "google.protobuf.StringValue" => String::decode(bytes).map(Value::String).map_err(damaged),
        "google.protobuf.BoolValue" => bool::decode(bytes).map(Value::Bool).map_err(damaged),
        "google.protobuf.FloatValue" => finite(float_to_json(f32::decode(bytes).map_err(damaged)?)),
        "google.protobuf.DoubleValue" => finite(double_to_json(f64::decode(bytes).map_err(damaged)?)),
        "google.protobuf.Int32Value" => i32::decode(bytes).map(Value::from).map_err(damaged),
        "google.protobuf.Int64Value" => i64::decode(bytes).map(Value::from).map_err(damaged),
        "google.protobuf.UInt32Value" => u32::decode(bytes).map(Value::from).map_err(damaged),
        "google.protobuf.UInt64Value" => u64::decode(bytes).map(Value::from).map_err(damaged),
        "google.protobuf.BytesValue" => {
            let held = Vec::<u8>::decode(bytes).map_err(damaged)?;
            Ok(Value::String(base64::engine::general_purpose::STANDARD.encode(held)))
        }
        _ => Err(ValueError::UnknownType { key: key.to_owned(), type_url: type_url() }),
    }
}

fn wrap<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn number_to_any(number: &Number) -> Option<Any> {
    if let Some(integer) = number.as_i128().or_else(|| number.as_f64().and_then(whole)) {
        return Some(integer_to_any(integer));
    }
    let narrow = number.as_f64()? as f32;
    narrow.is_finite().then(|| wrap(&narrow))
}

fn integer_to_any(integer: i128) -> Any {
    let narrow = integer as f32;
    match i64::try_from(integer) {
        Ok(wide) if narrow as i128 != integer => wrap(&wide),
        // Exact, or between 2^63 and 2^64, where Go mappers know no integer type.
        _ => wrap(&narrow),
    }
}

fn float_to_json(number: f32) -> Option<Value> {
    if let Some(integer) = whole(f64::from(number)) {
        return integer_to_json(integer);
    }
    let shortest: f64 = number.to_string().parse().ok()?;
    Number::from_f64(shortest).map(Value::Number)
}

fn double_to_json(number: f64) -> Option<Value> {
    match whole(number) {
        Some(integer) => integer_to_json(integer),
        None => Number::from_f64(number).map(Value::Number),
    }
}

fn integer_to_json(integer: i128) -> Option<Value> {
    match i64::try_from(integer) {
        Ok(small) => Some(small.into()),
        Err(_) => u64::try_from(integer).ok().map(Value::from),
    }
}

/// The integer that this number is, if it is one that JSON readers take as such: from -2^63 to below 2^64.
fn whole(number: f64) -> Option<i128> {
    const LOWEST: f64 = -9_223_372_036_854_775_808.0;
    const END: f64 = 18_446_744_073_709_551_616.0;
    (number.fract() == 0.0 && (LOWEST..END).contains(&number)).then_some(number as i128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn wire(kind: &str, value: &[u8]) -> Any {
        Any { type_url: format!("type.googleapis.com/google.protobuf.{kind}"), value: value.to_vec() }
    }

    fn float(number: f32) -> Vec<u8> {
        number.encode_to_vec()
    }

    #[test]
    fn json_goes_to_the_wire_as_go_mappers_read_it() {
        fn check(value: Value, expected: Any) {
            assert_eq!(to_any("key", &value), Ok(expected), "{value}");
        }
        check(json!("tcp"), wire("StringValue", b"\x0a\x03tcp"));
        check(json!(""), wire("StringValue", b""));
        check(json!("\u{e9}\""), wire("StringValue", b"\x0a\x03\xc3\xa9\""));
        check(json!(true), wire("BoolValue", b"\x08\x01"));
        check(json!(false), wire("BoolValue", b""));
        check(json!(0), wire("FloatValue", b""));
        check(json!(-0.0), wire("FloatValue", b""));
        check(json!(502), wire("FloatValue", &float(502.0)));
        check(json!(1), wire("FloatValue", b"\x0d\x00\x00\x80\x3f"));
        check(json!(0.1), wire("FloatValue", &float(0.1)));
        check(json!(-2.5), wire("FloatValue", &float(-2.5)));
        check(json!(16_777_216), wire("FloatValue", &float(16_777_216.0)));
        check(json!(16_777_217), wire("Int64Value", b"\x08\x81\x80\x80\x08"));
        check(json!(16_777_217.0), wire("Int64Value", b"\x08\x81\x80\x80\x08"));
        check(json!(-16_777_217), wire("Int64Value", &(-16_777_217_i64).encode_to_vec()));
        check(json!(i64::MIN), wire("FloatValue", &float(i64::MIN as f32)));
        check(json!(i64::MAX), wire("Int64Value", &i64::MAX.encode_to_vec()));
        check(json!(1_u64 << 63), wire("FloatValue", &float(9_223_372_036_854_775_808.0)));
        check(json!(u64::MAX), wire("FloatValue", &float(u64::MAX as f32)));
        check(json!(1e30), wire("FloatValue", &float(1e30)));
        check(json!(1e-60), wire("FloatValue", b""));
    }

    #[test]
    fn what_cannot_be_sent_is_named() {
        fn check(value: Value, expected: &str) {
            assert_eq!(to_any("the.key", &value).unwrap_err().to_string(), expected);
        }
        let rest = "cannot be sent to a mapper, only text, a number, true or false; write it as text";
        check(json!(null), &format!("the.key: null {rest}"));
        check(json!([1]), &format!("the.key: a list {rest}"));
        check(json!({"password": "hidden"}), &format!("the.key: an object {rest}"));
        check(json!(1e39), "the.key: the number is too large for a mapper");
        check(json!(-1e300), "the.key: the number is too large for a mapper");
    }

    #[test]
    fn every_wrapper_is_understood() {
        fn check(sent: Any, expected: Value) {
            let found = from_any("key", &sent).unwrap();
            // As text too: 5 and 5.0 are the same number to `==`, but not to a driver's integer field.
            assert_eq!((found.to_string(), &found), (expected.to_string(), &expected), "{sent:?}");
        }
        check(wire("StringValue", b"\x0a\x03tcp"), json!("tcp"));
        check(wire("StringValue", b""), json!(""));
        check(wire("BoolValue", b"\x08\x01"), json!(true));
        check(wire("BoolValue", b""), json!(false));
        check(wire("FloatValue", b""), json!(0));
        check(wire("FloatValue", &float(0.1)), json!(0.1));
        check(wire("FloatValue", &float(21.53)), json!(21.53));
        check(wire("FloatValue", &float(502.0)), json!(502));
        check(wire("FloatValue", &float(-7.0)), json!(-7));
        check(wire("FloatValue", &float(123_456_792.0)), json!(123_456_792));
        check(wire("FloatValue", &float(u64::MAX as f32 / 2.0)), json!(1_u64 << 63));
        check(wire("FloatValue", &float(1e30)), json!(1e30));
        check(wire("FloatValue", &float(1e-40)), json!(1e-40));
        check(wire("DoubleValue", &0.1_f64.encode_to_vec()), json!(0.1));
        check(wire("DoubleValue", &3.0_f64.encode_to_vec()), json!(3));
        check(wire("Int32Value", &(-5_i32).encode_to_vec()), json!(-5));
        check(wire("Int64Value", &i64::MIN.encode_to_vec()), json!(i64::MIN));
        check(wire("UInt32Value", &u32::MAX.encode_to_vec()), json!(u32::MAX));
        check(wire("UInt64Value", &u64::MAX.encode_to_vec()), json!(u64::MAX));
        check(wire("BytesValue", &vec![1_u8, 2, 3].encode_to_vec()), json!("AQID"));
        // The part before the last slash is a host that nobody asks.
        let elsewhere = Any { type_url: "example.org/x/google.protobuf.BoolValue".into(), value: vec![] };
        check(elsewhere, json!(false));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        fn check(sent: Any, expected: &str) {
            let error = from_any("the.key", &sent).unwrap_err().to_string();
            assert!(error.starts_with("the.key: ") && error.contains(expected), "{error}");
        }
        check(wire("Struct", b""), "\"type.googleapis.com/google.protobuf.Struct\" is none");
        check(Any::default(), "\"\" is none");
        check(wire("StringValue", b"\x0a\x03tc"), "do not fit its type");
        check(wire("StringValue", b"\x0a\x01\xff"), "do not fit its type");
        check(wire("FloatValue", b"\x08\x01"), "do not fit its type");
        check(wire("FloatValue", &float(f32::NAN)), "not finite");
        check(wire("FloatValue", &float(f32::INFINITY)), "not finite");
        check(wire("DoubleValue", &f64::NEG_INFINITY.encode_to_vec()), "not finite");
    }

    #[test]
    fn a_whole_configuration_passes_or_none() {
        let config = json!({"ip": "10.0.0.7", "port": 502, "swap": false, "scale": 0.1});
        let sent = to_data(config.as_object().unwrap()).unwrap();
        assert_eq!(from_data(&sent).map(Value::Object), Ok(config));
        // What `{:?}` prints may go to a log.
        assert!(format!("{sent:?}").contains("port") && !format!("{sent:?}").contains("0.7"));
        let bad = json!({"ip": "10.0.0.7", "tags": ["a"]});
        assert!(to_data(bad.as_object().unwrap()).unwrap_err().to_string().starts_with("tags: a list"));
        assert_eq!(to_data(&Map::new()), Ok(CustomizedValue::default()));
    }

    fn there_and_back(value: &Value) -> Value {
        from_any("key", &to_any("key", value).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn text_survives(text in any::<String>()) {
            prop_assert_eq!(there_and_back(&json!(text)), json!(text));
        }

        #[test]
        fn integers_survive(integer in prop_oneof![any::<i64>(), -40_000_000_i64..40_000_000]) {
            prop_assert_eq!(there_and_back(&json!(integer)), json!(integer));
        }

        /// Six digits are what a 32-bit float always keeps: the values people write.
        #[test]
        fn short_decimals_survive(digits in -999_999_i64..1_000_000, places in 0_u32..7) {
            let written = format!("{}e-{places}", digits).parse::<f64>().unwrap();
            let found = there_and_back(&json!(written));
            prop_assert_eq!(found.as_f64(), Some(written));
        }

        #[test]
        fn other_numbers_come_as_near_as_a_float(number in prop_oneof![-3e38_f64..3e38, -1e6_f64..1e6]) {
            let found = there_and_back(&json!(number)).as_f64().unwrap();
            prop_assert_eq!(found as f32, number as f32);
        }

        #[test]
        fn no_bytes_panic(
            kind in prop_oneof![
                Just("StringValue"), Just("FloatValue"), Just("DoubleValue"), Just("BoolValue"),
                Just("Int32Value"), Just("UInt64Value"), Just("BytesValue"), Just("Struct"),
            ],
            value in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let _ = from_any("key", &Any { type_url: format!("x/google.protobuf.{kind}"), value });
        }
    }
}
