//! What published manifests say, in all their spellings, and what is said about those that cannot work.

use serde_json::{Value as Json, json};

use super::*;

fn settings(json: Json) -> Settings {
    let Json::Object(entries) = json else { panic!("{json} is no object") };
    Settings::new(entries)
}

fn property(kind: Kind, json: Json) -> Property {
    Property {
        name: "heat".to_owned(),
        kind,
        is_writable: true,
        minimum: Some(-20.0),
        maximum: Some(400.0),
        settings: settings(json),
        collect_cycle: Duration::from_secs(1),
        report_cycle: Duration::from_secs(1),
        report_to_cloud: true,
        desired: None,
    }
}

fn tcp(host: &str, port: u16) -> Way {
    Way::Tcp { host: host.to_owned(), port }
}

#[test]
fn ways_to_a_device() {
    let check = |json: Json, way: Way, unit: u8, millis: u64| {
        let expected = Protocol { way, unit, timeout: Duration::from_millis(millis) };
        assert_eq!(protocol(&settings(json.clone())), Ok(expected), "{json}");
    };
    let line = Line {
        path: "/dev/ttyS0".to_owned(),
        baud_rate: 9600,
        data_bits: 8,
        parity: Parity::None,
        stop_bits: 1,
    };
    check(json!({"ip": "10.0.0.5"}), tcp("10.0.0.5", 502), 1, 5000);
    check(
        json!({"IP": "oven", "Port": "1502", "slaveID": 0, "timeout": 3, "communicateMode": "tcp"}),
        tcp("oven", 1502),
        0,
        3000,
    );
    check(
        json!({"host": "::1", "port": 502.0, "unitID": "255", "timeout": "250"}),
        tcp("::1", 502),
        255,
        250,
    );
    check(json!({"ip": "a", "timeout": 0.2, "serialPort": "/dev/ttyS0"}), tcp("a", 502), 1, 200);
    check(json!({"serialPort": "/dev/ttyS0"}), Way::Rtu(line.clone()), 1, 5000);
    check(
        json!({"mode": "RTU", "ip": "a", "serialName": "/dev/ttyS0", "baudRate": 115_200, "dataBits": "7",
            "parity": "E", "stopBits": 2, "rs485Enabled": true}),
        Way::Rtu(Line {
            baud_rate: 115_200,
            data_bits: 7,
            parity: Parity::Even,
            stop_bits: 2,
            ..line.clone()
        }),
        1,
        5000,
    );
    check(
        json!({"commType": "rtu", "serialPort": "/dev/ttyS0", "parity": "Odd"}),
        Way::Rtu(Line { parity: Parity::Odd, ..line }),
        1,
        5000,
    );
}

#[test]
fn what_cannot_be_reached_names_its_key() {
    let check = |json: Json, expected: &str| {
        let error = protocol(&settings(json)).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
    };
    check(json!({}), "ip is missing");
    check(json!({"mode": "TCP", "serialPort": "/dev/ttyS0"}), "ip is missing");
    check(json!({"mode": "RTU", "ip": "a"}), "serialPort is missing");
    check(json!({"mode": "ASCII"}), "mode must be TCP or RTU");
    check(json!({"ip": "a", "port": 0}), "port must be 1 to 65535");
    check(json!({"ip": "a", "unitID": 256}), "unitID must be 0 to 255");
    check(json!({"serialPort": "a", "slaveID": 0}), "slaveID must be 1 to 255");
    check(json!({"serialPort": "a", "parity": "mark"}), "parity must be");
    check(json!({"serialPort": "a", "baudRate": "fast"}), "baudRate must be");
    check(json!({"ip": "a", "timeout": 0}), "timeout must be");
    check(json!({"ip": "a", "timeout": -1}), "timeout must be");
    check(json!({"ip": "a", "timeout": 1e12}), "timeout must be");
}

#[test]
fn places_and_encodings() {
    let check = |kind, json: Json, register, address, count, encoding| {
        let visitor = visitor(&property(kind, json.clone()));
        let found = visitor.map(|visitor| (visitor.span, visitor.encoding));
        assert_eq!(found, Ok((Span { register, address, count }, encoding)), "{kind} {json}");
    };
    use Encoding::{Float, Raw, Signed, Unsigned};
    use Register::{Coil, DiscreteInput, Holding, Input};
    check(Kind::Int, json!({}), Holding, 0, 1, Unsigned);
    check(
        Kind::Int,
        json!({"Register": "InputRegister", "Offset": "2", "limit": 2.0}),
        Input,
        2,
        2,
        Unsigned,
    );
    check(Kind::Int, json!({"register": "holding", "signed": "true", "limit": 4}), Holding, 0, 4, Signed);
    check(Kind::Bool, json!({"register": "coil", "offset": 65535}), Coil, 65535, 1, Unsigned);
    check(
        Kind::Int,
        json!({"register": "DISCRETEINPUTREGISTER", "limit": 64}),
        DiscreteInput,
        0,
        64,
        Unsigned,
    );
    check(Kind::Float, json!({}), Holding, 0, 1, Unsigned);
    check(Kind::Float, json!({"limit": 2}), Holding, 0, 2, Float);
    check(Kind::Double, json!({"limit": 4}), Holding, 0, 4, Float);
    check(Kind::Float, json!({"limit": 2, "dataType": "int"}), Holding, 0, 2, Unsigned);
    check(Kind::Text, json!({"limit": 2, "dataType": "float"}), Holding, 0, 2, Float);
    check(Kind::Text, json!({"limit": 125}), Holding, 0, 125, Raw);
    check(Kind::Bytes, json!({"register": "coil", "limit": 2000}), Coil, 0, 2000, Raw);
}

#[test]
fn numbers_and_ranges() {
    let json = json!({"scale": 0, "isSwap": true, "isRegisterSwap": "true", "mask": "0xFf00", "shift": 8,
        "add": -40, "min": 0, "max": 1000});
    let found = visitor(&property(Kind::Int, json)).unwrap();
    assert_eq!((found.swaps_bytes, found.swaps_registers), (true, true));
    assert_eq!((found.mask, found.shift, found.scale, found.add), (Some(0xff00), 8, 1.0, -40.0));
    assert_eq!((found.minimum, found.maximum), (Some(0.0), Some(400.0)));
    let found =
        visitor(&property(Kind::Int, json!({"mask": 15.0, "register": "coil", "isSwap": true}))).unwrap();
    assert_eq!((found.mask, found.swaps_bytes), (Some(15), false));
}

#[test]
fn what_is_no_property_names_its_key() {
    let check = |kind, json: Json, expected: &str| {
        let error = visitor(&property(kind, json)).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error:?} does not start with {expected:?}");
    };
    check(Kind::Int, json!({"register": "40001"}), "register must be CoilRegister");
    check(Kind::Int, json!({"register": 3}), "register must be CoilRegister");
    check(Kind::Int, json!({"offset": 65536}), "offset must be 0 to 65535");
    check(Kind::Int, json!({"limit": 0}), "limit must be 1 to 125 registers");
    check(Kind::Text, json!({"limit": 126}), "limit must be 1 to 125 registers");
    check(Kind::Bytes, json!({"limit": 2001, "register": "coil"}), "limit must be 1 to 2000 coils");
    check(Kind::Int, json!({"limit": 2, "offset": 65535}), "limit must be less");
    check(Kind::Int, json!({"limit": 5}), "limit must be 1 to 4");
    check(Kind::Int, json!({"limit": 65, "register": "coil"}), "limit must be 1 to 64");
    check(Kind::Float, json!({"limit": 3}), "limit must be 2 or 4");
    check(Kind::Int, json!({"dataType": "word"}), "dataType must be");
    check(Kind::Int, json!({"dataType": "string"}), "dataType must be");
    check(Kind::Bytes, json!({"dataType": "int"}), "dataType must be");
    check(Kind::Float, json!({"limit": 2, "mask": 1}), "mask must be left out");
    check(Kind::Text, json!({"shift": 1}), "shift must be left out");
    check(Kind::Int, json!({"mask": "0xg"}), "mask must be");
    check(Kind::Int, json!({"mask": "0x0"}), "mask must be");
    check(Kind::Int, json!({"mask": -1}), "mask must be");
    check(Kind::Int, json!({"scale": "NaN"}), "scale must be a number");
    check(Kind::Int, json!({"max": "hot"}), "max must be a number");
}
