//! What devices send and users wish, as bytes and texts.

use proptest::prelude::*;

use super::*;

fn plain(encoding: Encoding, kind: Kind) -> Pipeline {
    Pipeline::plain(encoding, kind)
}

#[test]
fn bytes_to_values() {
    let check = |pipeline: &Pipeline, raw: &[u8], expected: &str| {
        let read = pipeline.read(raw).map_or_else(|error| error.to_string(), |value| value.to_string());
        assert_eq!(read, expected, "{pipeline:?} {raw:?}");
    };
    let unsigned = plain(Encoding::Unsigned, Kind::Int);
    check(&unsigned, &[0xff, 0xfe], "65534");
    check(&plain(Encoding::Signed, Kind::Int), &[0xff, 0xfe], "-2");
    check(
        &unsigned,
        &[0xff; 8],
        "18446744073709551615 is more than INT holds: 64 bits with a sign; use DOUBLE or a scale",
    );
    check(&unsigned, &[], "0 bytes are no Unsigned number: it has 1 to 8");
    // A thermometer: 253 tenths of a degree.
    let heat = Pipeline { scale: 0.1, ..plain(Encoding::Signed, Kind::Float) };
    check(&heat, &[0x00, 0xfd], "25.3");
    check(&heat, &[0xff, 0xff], "-0.1");
    check(&Pipeline { maximum: Some(20.0), ..heat.clone() }, &[0x00, 0xfd], "25.3 is outside of -inf to 20");
    let fahrenheit = Pipeline { scale: 1.8, offset: 32.0, ..plain(Encoding::Signed, Kind::Int) };
    check(&fahrenheit, &[0, 100], "212");
    let bits = Pipeline { mask: Some(0x0ff0), shift: 4, ..unsigned.clone() };
    check(&bits, &[0xab, 0xcd], "188");
    check(&Pipeline { mask: Some(2), ..plain(Encoding::Unsigned, Kind::Bool) }, &[0, 2], "true");
    let float = plain(Encoding::Float, Kind::Float);
    check(&float, &25.3_f32.to_be_bytes(), "25.3");
    check(&float, &f32::NAN.to_be_bytes(), "the device gave no number");
    check(&float, &[0, 0], "2 bytes are no Float number: it has 4 or 8");
    // 25.3 with the registers, and with the bytes in them, the other way round.
    let [a, b, c, d] = 25.3_f32.to_be_bytes();
    check(&Pipeline { swaps_registers: true, ..float.clone() }, &[c, d, a, b], "25.3");
    check(&Pipeline { swaps_bytes: true, ..float.clone() }, &[b, a, d, c], "25.3");
    check(&Pipeline { swaps_bytes: true, swaps_registers: true, ..float }, &[d, c, b, a], "25.3");
    check(&plain(Encoding::Raw, Kind::Text), b"PLC-7\0\0\0", "PLC-7");
}

#[test]
fn values_to_bytes() {
    let check = |pipeline: &Pipeline, value: Value, current: &[u8], expected: Result<&[u8], &str>| {
        let wrote = pipeline.write(&value, current).map_err(|error| error.to_string());
        assert_eq!(wrote, expected.map(<[u8]>::to_vec).map_err(str::to_owned), "{pipeline:?} {value}");
    };
    let (lowest, highest) = (f64::from(f32::MIN), f64::from(f32::MAX));
    let too_much = format!("{} is outside of {lowest} to {highest}", Value::Double(1e300));
    let unsigned = plain(Encoding::Unsigned, Kind::Int);
    check(&unsigned, Value::Int(20), &[0, 0], Ok(&[0, 20]));
    check(&unsigned, Value::Int(-1), &[0, 0], Err("-1 is outside of 0 to 65535"));
    check(&plain(Encoding::Signed, Kind::Int), Value::Int(-2), &[0, 0], Ok(&[0xff, 0xfe]));
    check(
        &plain(Encoding::Signed, Kind::Int),
        Value::Int(40_000),
        &[0, 0],
        Err("40000 is outside of -32768 to 32767"),
    );
    let heat = Pipeline { scale: 0.1, ..plain(Encoding::Signed, Kind::Float) };
    check(&heat, Value::Float(25.3), &[0, 0], Ok(&[0x00, 0xfd]));
    check(&heat, Value::Text("warm".into()), &[0, 0], Err("warm cannot be written to this property"));
    let bounded = Pipeline { minimum: Some(0.0), maximum: Some(30.0), ..heat };
    check(&bounded, Value::Float(30.5), &[0, 0], Err("30.5 is outside of 0 to 30"));
    // Four bits in the middle; the others stay.
    let bits = Pipeline { mask: Some(0x0ff0), shift: 4, ..unsigned };
    check(&bits, Value::Int(0xbc), &[0xa1, 0x2d], Ok(&[0xab, 0xcd]));
    check(&bits, Value::Int(0x1bc), &[0xa1, 0x2d], Err("444 is outside of 0 to 255"));
    check(&plain(Encoding::Float, Kind::Double), Value::Double(1e300), &[0; 4], Err(&too_much));
    check(&plain(Encoding::Raw, Kind::Text), Value::Text("PLC".into()), &[9; 4], Ok(b"PLC\0"));
    check(
        &plain(Encoding::Raw, Kind::Text),
        Value::Text("PLC-7".into()),
        &[9; 4],
        Err("5 bytes are no Raw number: it has no more than the device has room for"),
    );
}

proptest! {
    /// What is written reads back, whatever the order of bytes, up to the step that the scale allows.
    #[test]
    fn writing_is_the_inverse_of_reading(
        number in -30_000_i64..30_000, n_registers in 1_usize..=4,
        swaps_bytes: bool, swaps_registers: bool,
        scale in prop_oneof![Just(1.0), Just(0.1), Just(-2.5), 0.001_f64..1000.0],
        offset in prop_oneof![Just(0.0), -100.0_f64..100.0],
    ) {
        let pipeline = Pipeline { swaps_bytes, swaps_registers, scale, offset, ..plain(Encoding::Signed, Kind::Double) };
        let current = vec![0; 2 * n_registers];
        let value = Value::Double(number as f64 * scale + offset);
        let raw = pipeline.write(&value, &current).unwrap();
        prop_assert_eq!(raw.len(), current.len());
        let back = pipeline.read(&raw).unwrap().number().unwrap();
        prop_assert!((back - value.number().unwrap()).abs() <= scale.abs() * 1e-6 + 1e-9, "{} {}", back, value);
    }

    /// Bits outside of the mask stay, bits inside are the value's.
    #[test]
    fn masks_leave_the_rest_alone(mask in 1_u16.., current: u16, value: u16) {
        let shift = mask.trailing_zeros();
        let wanted = (value & mask) >> shift;
        let pipeline = Pipeline { mask: Some(mask.into()), shift, ..plain(Encoding::Unsigned, Kind::Int) };
        let raw = pipeline.write(&Value::Int(wanted.into()), &current.to_be_bytes()).unwrap();
        let now = u16::from_be_bytes(raw.clone().try_into().unwrap());
        prop_assert_eq!(now & !mask, current & !mask);
        prop_assert_eq!(pipeline.read(&raw).unwrap(), Value::Int(wanted.into()));
    }

    /// Nothing that a device can send or a user can wish makes it panic.
    #[test]
    fn nothing_panics(raw in proptest::collection::vec(any::<u8>(), 0..12), mask: Option<u64>, shift: u32,
        scale: f64, offset: f64, value: f64, int: i64)
    {
        for encoding in [Encoding::Unsigned, Encoding::Signed, Encoding::Float, Encoding::Raw] {
            for kind in [Kind::Int, Kind::Float, Kind::Double, Kind::Text, Kind::Bool, Kind::Bytes] {
                let pipeline = Pipeline { mask, shift, scale, offset, ..plain(encoding, kind) };
                let _ = pipeline.read(&raw);
                for value in [Value::Double(value), Value::Int(int), Value::Bool(true), Value::Text("x".into())] {
                    let _ = pipeline.write(&value, &raw);
                }
            }
        }
    }
}
