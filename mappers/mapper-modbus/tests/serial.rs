//! The driver on a serial line: two units on one pair of wires, which is a pseudo terminal here.

// All of this file is a test; the lints know only functions marked as one.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use mapper_modbus::Modbus;
use mapper_modbus::driver::ModbusConnection;
use mapper_sdk::testing::FakeEdge;
use mapper_sdk::value::{Kind, Value};
use mapper_sdk::{Connection, Device, DeviceName, Driver, DriverError, Property, Settings};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value as Json, json};

/// Of Modbus over Serial Line V1.02, appendix B.
fn crc(frame: &[u8]) -> [u8; 2] {
    let bit = |crc: u16| if crc & 1 == 1 { (crc >> 1) ^ 0xa001 } else { crc >> 1 };
    frame
        .iter()
        .fold(0xffff, |crc, byte| (0..8).fold(crc ^ u16::from(*byte), |crc, _| bit(crc)))
        .to_le_bytes()
}

/// Units 1 and 2, whose input registers hold unit x 1000 + address. Others, and requests that are garbled, get no answer.
/// Gives the name of the other end.
fn units() -> String {
    let end = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&end).unwrap();
    unlockpt(&end).unwrap();
    let path = ptsname(&end, Vec::new()).unwrap().into_string().unwrap();
    let mut end = File::from(end);
    std::thread::spawn(move || {
        let mut request = [0_u8; 8];
        // It ends when the other end was closed.
        while end.read_exact(&mut request).is_ok() {
            let [unit, function, _, address, _, _, sum @ ..] = request;
            if sum == crc(&request[..6]) && matches!(unit, 1 | 2) && function == 4 {
                let [high, low] = (u16::from(unit) * 1000 + u16::from(address)).to_be_bytes();
                let mut answer = vec![unit, 4, 2, high, low];
                answer.extend(crc(&answer));
                end.write_all(&answer).unwrap();
            }
        }
    });
    path
}

fn settings(json: Json) -> Settings {
    let Json::Object(entries) = json else { panic!("{json} is no object") };
    Settings::new(entries)
}

async fn connect(driver: &Modbus, path: &str, unit: u8) -> Result<ModbusConnection, DriverError> {
    let device = Device {
        name: DeviceName { namespace: "plant".to_owned(), name: format!("oven-{unit}") },
        settings: settings(
            json!({"serialPort": path, "baudRate": 115_200, "slaveID": unit, "parity": "even"}),
        ),
        properties: Vec::new(),
        methods: Vec::new(),
        state_cycle: None,
    };
    driver.connect(&device).await
}

fn input(address: u8) -> Property {
    Property {
        name: format!("input-{address}"),
        kind: Kind::Int,
        is_writable: false,
        minimum: None,
        maximum: None,
        settings: settings(json!({"register": "input", "offset": address})),
        collect_cycle: Duration::from_secs(1),
        report_cycle: Duration::from_secs(1),
        report_to_cloud: true,
        desired: None,
    }
}

#[tokio::test]
async fn units_on_one_line_take_turns() {
    let path = units();
    let driver = Modbus::default();
    let mut one = connect(&driver, &path, 1).await.unwrap();
    let mut two = connect(&driver, &path, 2).await.unwrap();
    for address in 0..20 {
        let property = input(address);
        let properties = [&property];
        let (one, two) = tokio::join!(one.read(&properties), two.read(&properties));
        assert_eq!(one.unwrap(), [Ok(Value::Int(1000 + i64::from(address)))]);
        assert_eq!(two.unwrap(), [Ok(Value::Int(2000 + i64::from(address)))]);
    }

    // A unit that is silent costs the others its timeout, and nothing else.
    let mut absent = connect(&driver, &path, 3).await.unwrap();
    tokio::time::pause();
    let lost = absent.read(&[&input(0)]).await.unwrap_err();
    assert!(lost.to_string().contains("unit 3, did not answer"), "{lost}");
    tokio::time::resume();
    assert_eq!(one.read(&[&input(7)]).await.unwrap(), [Ok(Value::Int(1007))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_units_do_not_take_the_others_down() {
    let path = units();
    let edge = FakeEdge::start();
    let input = |name, address| {
        json!({"name": name, "type": "INT", "accessMode": "ReadOnly",
            "visitors": {"configData": {"register": "input", "offset": address}}})
    };
    edge.put_model(&json!({"metadata": {"name": "oven", "namespace": "plant"},
        "spec": {"properties": [input("heat", 7), input("draft", 200)]}}));
    // Unit 1 lives. It is asked twice for all it has, and each time the others may be asked first: that is longer than the
    // SDK gives other drivers here.
    let read = |name| json!({"name": name, "collectCycle": 20, "reportToCloud": true});
    for unit in [1, 3, 4, 5] {
        let line =
            json!({"serialPort": path, "baudRate": 115_200, "parity": "even", "slaveID": unit, "timeout": 2});
        let metadata = json!({"name": format!("oven-{unit}"), "namespace": "plant"});
        edge.put_device(&json!({"metadata": metadata, "spec": {
            "deviceModelRef": {"name": "oven"},
            "protocol": {"protocolName": "modbus", "configData": line},
            "properties": [read("heat"), read("draft")],
        }}))
        .await;
    }
    let _mapper = edge.run(Modbus::default());
    for silent in ["oven-3", "oven-4", "oven-5"] {
        edge.wait_state(silent, "offline").await;
    }
    let n_before = edge.reported().len();
    edge.wait("the other to be read on", || edge.reported().len() > n_before).await;
    edge.wait("its state", || !edge.states("oven-1").is_empty()).await;
    assert_eq!(edge.states("oven-1"), ["online"]);
}

#[tokio::test]
async fn what_is_no_line_is_told() {
    let driver = Modbus::default();
    for path in ["/dev/null", "/dev/there-is-no-such-line"] {
        let error = connect(&driver, path, 1).await.err().unwrap();
        assert!(matches!(error, DriverError::Lost(_)), "{error}");
        assert!(error.to_string().starts_with(&format!("open serialPort {path}: ")), "{error}");
    }
}
