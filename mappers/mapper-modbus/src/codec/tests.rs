//! Registers to values and back, as published manifests mean them.

use std::time::Duration;

use mapper_sdk::Settings;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn codec(kind: Kind, json: Json) -> Codec {
    let Json::Object(entries) = json else { panic!("{json} is no object") };
    Codec::of(&Property {
        name: "heat".to_owned(),
        kind,
        is_writable: true,
        minimum: None,
        maximum: None,
        settings: Settings::new(entries),
        collect_cycle: Duration::from_secs(1),
        report_cycle: Duration::from_secs(1),
        report_to_cloud: true,
        desired: None,
    })
    .unwrap()
}

fn words(words: &[u16]) -> Data {
    Data::Words(words.to_vec())
}

/// As text: `1011`, the first coil first.
fn bits(text: &str) -> Data {
    Data::Bits(text.chars().map(|bit| bit == '1').collect())
}

#[test]
fn both_ways() {
    let check = |kind: Kind, json: Json, data: Data, text: &str| {
        let codec = codec(kind, json.clone());
        let value = codec.read(&data);
        assert_eq!(value.as_ref().map(ToString::to_string).as_deref(), Ok(text), "{kind} {json}");
        assert_eq!(codec.write(&value.unwrap(), &Data::zeros(codec.span)), Ok(data), "{kind} {json}");
    };
    check(Kind::Int, json!({}), words(&[0xffff]), "65535");
    check(Kind::Int, json!({"signed": true}), words(&[0xffff]), "-1");
    check(Kind::Int, json!({"limit": 2}), words(&[1, 2]), "65538");
    check(Kind::Int, json!({"limit": 2, "isRegisterSwap": true}), words(&[2, 1]), "65538");
    check(Kind::Int, json!({"isSwap": true}), words(&[0x0201]), "258");
    check(Kind::Int, json!({"limit": 4, "signed": true}), words(&[0xffff, 0xffff, 0xffff, 0xfffe]), "-2");
    check(Kind::Float, json!({"scale": 0.1}), words(&[253]), "25.3");
    check(Kind::Double, json!({"scale": 0.5, "add": -40}), words(&[253]), "86.5");
    check(Kind::Float, json!({"limit": 2}), words(&[0x41ca, 0x6666]), "25.3");
    check(Kind::Double, json!({"limit": 2}), words(&[0x41ca, 0x6666]), "25.3");
    check(Kind::Double, json!({"limit": 4}), words(&[0x4039, 0x4ccc, 0xcccc, 0xcccd]), "25.3");
    check(Kind::Float, json!({"limit": 2, "dataType": "int"}), words(&[1, 0]), "65536");
    check(Kind::Bool, json!({}), words(&[1]), "true");
    check(Kind::Int, json!({"mask": "0xff00", "shift": 8}), words(&[0x0500]), "5");
    check(Kind::Text, json!({"limit": 2}), words(&[0x6f76, 0x656e]), "oven");
    check(Kind::Text, json!({"limit": 2, "isSwap": true}), words(&[0x766f, 0x0065]), "ove");
    check(Kind::Bytes, json!({}), words(&[0x6869]), "hi");
    check(Kind::Bool, json!({"register": "coil"}), bits("1"), "true");
    check(Kind::Bool, json!({"register": "coil"}), bits("0"), "false");
    check(Kind::Int, json!({"register": "coil", "limit": 4}), bits("0101"), "10");
    check(Kind::Int, json!({"register": "coil", "limit": 10}), bits("1000000001"), "513");
    check(Kind::Bytes, json!({"register": "coil", "limit": 8}), bits("00010110"), "h");
}

#[test]
fn masked_bits_leave_the_others() {
    let codec = codec(Kind::Int, json!({"mask": "0x00f0", "shift": 4}));
    assert!(codec.reads_first());
    assert_eq!(codec.write(&Value::Int(5), &words(&[0xabcd])), Ok(words(&[0xab5d])));
    assert!(codec.write(&Value::Int(16), &words(&[0xabcd])).is_err());
}

#[test]
fn what_does_not_fit_is_refused() {
    let check = |kind: Kind, json: Json, value: Value, expected: &str| {
        let codec = codec(kind, json);
        assert_eq!(codec.write(&value, &Data::zeros(codec.span)).unwrap_err().to_string(), expected);
    };
    check(Kind::Int, json!({}), Value::Int(65536), "65536 is outside of 0 to 65535");
    check(Kind::Int, json!({"max": 40}), Value::Int(41), "41 is outside of -inf to 40");
    check(Kind::Float, json!({"scale": 0.5}), Value::Float(-0.5), "-0.5 is outside of 0 to 32767.5");
    check(Kind::Int, json!({"register": "coil", "limit": 3}), Value::Int(8), "8 is outside of 0 to 7");
    let long = Value::Text("oven".to_owned());
    check(
        Kind::Text,
        json!({}),
        long,
        "4 bytes are no Raw number: it has no more than the device has room for",
    );
    let codec = codec(Kind::Float, json!({"limit": 2}));
    assert_eq!(codec.read(&words(&[0x7fc0, 0])).unwrap_err().to_string(), "the device gave no number");
}

#[test]
fn only_some_registers_can_be_written() {
    let check = |json: Json, expected: Option<&str>| {
        let codec = codec(Kind::Bytes, json);
        let found = codec.check_writable().err().map(|error| error.to_string());
        assert_eq!(found.as_deref().map(|text| text.split(' ').next().unwrap()), expected);
    };
    check(json!({"limit": 123}), None);
    check(json!({"limit": 124}), Some("limit"));
    check(json!({"register": "coil", "limit": 1968}), None);
    check(json!({"register": "coil", "limit": 1969}), Some("limit"));
    check(json!({"register": "input"}), Some("register"));
    check(json!({"register": "discreteinput"}), Some("register"));
}

#[test]
fn a_part_of_an_answer() {
    let span = |address, count| Span { register: Register::Input, address, count };
    let data = words(&[1, 2, 3]);
    assert_eq!(data.part(span(10, 3), span(11, 2)), Some(words(&[2, 3])));
    assert_eq!(data.part(span(10, 3), span(12, 2)), None);
    assert_eq!(data.part(span(10, 3), span(9, 1)), None);
}

proptest! {
    /// What was read writes the same registers again, whatever the order and the size.
    #[test]
    fn whole_numbers_come_back(
        held in proptest::collection::vec(any::<u16>(), 1..=3),
        swaps in any::<bool>(),
        reverses in any::<bool>(),
        is_signed in any::<bool>(),
    ) {
        let json = json!({"limit": held.len(), "isSwap": swaps, "isRegisterSwap": reverses, "signed": is_signed});
        let codec = codec(Kind::Int, json);
        let data = Data::Words(held);
        let value = codec.read(&data).unwrap();
        prop_assert_eq!(codec.write(&value, &Data::zeros(codec.span)), Ok(data));
    }

    #[test]
    fn coils_come_back(held in proptest::collection::vec(any::<bool>(), 1..=63)) {
        let codec = codec(Kind::Int, json!({"register": "coil", "limit": held.len()}));
        let data = Data::Bits(held);
        let value = codec.read(&data).unwrap();
        prop_assert_eq!(codec.write(&value, &Data::zeros(codec.span)), Ok(data));
    }
}
