//! Modbus: how many values a second are read from pymodbus, with neighbours in one request and without; and what a noisy signal
//! costs on the way to the cloud, raw and with a threshold.

#![expect(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::bench::Row;
use e2e::devices::{HEAT, Mapper, ModbusDevice, reported};
use e2e::site::{NODE, PATIENCE, Site, Wishes};
use e2e::tap::Tap;
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

const N_PROPERTIES: u16 = 100;
/// Registers from one property to the next: neighbours, and so far apart that none share a request (`group.rs`: more than 8).
const TOGETHER: u16 = 1;
const APART: u16 = 10;
const READ_SECS: u64 = 10;

/// A temperature in tenths of a degree, ten times a second.
const SIGNAL_SECS: u16 = 60;
const STEP: Duration = Duration::from_millis(100);
/// Degrees by which it must move, and seconds after which it is told all the same.
const DEADBAND: f64 = 0.5;
const HEARTBEAT_SECS: u32 = 30;

/// Values per second, in as many requests as it takes.
pub(crate) fn reads() -> Result<Vec<Row>> {
    let site = Site::start("bench-modbus", &Wishes::default())?;
    let plc = ModbusDevice::start()?;
    let _mapper = Mapper::start("mapper-modbus", "modbus", &site.edge)?;
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    let mut rows = Vec::new();
    for (name, step, values_per_request) in [("grouped", TOGETHER, N_PROPERTIES), ("single", APART, 1)] {
        site.cluster.apply(&registers(plc.address().port(), step))?;
        eventually(PATIENCE, "all registers to be read", || {
            let device = site.device("registers")?;
            let n_read = device["status"]["twins"].as_array().map_or(0, Vec::len);
            let n_read = if reported(&device, "p0").is_some() { n_read } else { 0 };
            let n_all = usize::from(N_PROPERTIES);
            Ok(if n_read == n_all { Seen::Yes(()) } else { Seen::NotYet(format!("{n_read} are")) })
        })?;
        let (begin, before) = (Instant::now(), plc.n_requests()?);
        sleep(Duration::from_secs(READ_SECS));
        let n_requests = plc.n_requests()? - before;
        let requests_per_s = n_requests as f64 / begin.elapsed().as_secs_f64();
        let values = requests_per_s * f64::from(values_per_request);
        let n = u32::try_from(n_requests)?;
        rows.push(Row::new(&format!("modbus_reads_{name}_per_s"), "values/s", Some(values), None, n));
        rows.push(Row::new(
            &format!("modbus_requests_{name}_per_s"),
            "requests/s",
            Some(requests_per_s),
            None,
            n,
        ));
        site.cluster.kubectl_ok(&["delete", "device", "registers", "--namespace=plant"])?;
    }
    Ok(rows)
}

/// Read as fast as it answers; told only when it changes, so that nothing but reading is measured.
fn registers(port: u16, step: u16) -> String {
    let names: Vec<String> = (0..N_PROPERTIES).map(|number| format!("p{number}")).collect();
    let of_model = |name: &String| json!({"name": name, "type": "INT", "accessMode": "ReadOnly"});
    let of_device = |(name, number): (&String, u16)| {
        json!({"name": name, "collectCycle": 1, "reportToCloud": true,
            "visitors": {"protocolName": "modbus", "configData": {
                "register": "HoldingRegister", "offset": number * step, "limit": 1, "reportOnChange": true}}})
    };
    let of_model: Vec<Value> = names.iter().map(of_model).collect();
    let of_device: Vec<Value> = names.iter().zip(0..).map(of_device).collect();
    let items = [
        json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
            "metadata": {"name": "registers", "namespace": "plant"},
            "spec": {"protocol": "modbus", "properties": of_model}}),
        json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": {"name": "registers", "namespace": "plant"},
            "spec": {"deviceModelRef": {"name": "registers"}, "nodeName": NODE, "properties": of_device,
                "protocol": {"protocolName": "modbus", "configData": {"ip": "127.0.0.1", "port": port, "slaveID": 1}}}}),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// Bytes of messages to the cloud about one signal, told by two devices: every sample, and what moved.
pub(crate) fn noisy_signal() -> Result<Vec<Row>> {
    let mut site = Site::prepare("bench-signal", &Wishes::default())?;
    let file = |name: &str| site.edge.run_dir().join(name);
    let (certificate, key) = (file("certs/server.crt"), file("certs/server.key"));
    let tap = Tap::new(&site.cluster, site.cloud.websocket(), &certificate, &key)?;
    site.link.retarget(tap.address());
    site.edge.process.start()?;
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    let plc = ModbusDevice::start()?;
    let _mapper = Mapper::start("mapper-modbus", "modbus", &site.edge)?;
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    let signal = signal();
    plc.set(HEAT, *signal.first().context("a signal")?)?;
    site.cluster.apply(&thermometers(plc.address().port()))?;
    for name in ["raw", "banded"] {
        site.wait_device(name, "to report", |device| reported(device, "heat"))?;
    }
    let before = ["plant/raw", "plant/banded"].map(|device| tap.reported_bytes(device));
    let mut due = Instant::now();
    for value in &signal {
        plc.set(HEAT, *value)?;
        due += STEP;
        sleep(due.saturating_duration_since(Instant::now()));
    }
    let after = ["plant/raw", "plant/banded"].map(|device| tap.reported_bytes(device));
    let ([raw_before, banded_before], [raw, banded]) = (before, after);
    let (raw, banded) = ((raw - raw_before) as f64, (banded - banded_before) as f64);
    ensure!(raw > 0.0 && banded > 0.0, "{raw} and {banded} bytes were sent");
    let saved = (1.0 - banded / raw) * 100.0;
    let n = u32::try_from(signal.len())?;
    Ok(vec![
        Row::new("signal_raw", "bytes", Some(raw), None, n),
        Row::new("signal_deadband", "bytes", Some(banded), None, n),
        Row::new("signal_saved", "%", Some(saved), None, n),
    ])
}

/// An oven that breathes by eight degrees in a minute, and a sensor whose last digits jump. The same each time.
fn signal() -> Vec<u16> {
    let mut state: u32 = 1;
    let one = |step: u16| {
        // Numerical Recipes' generator; the upper bits are good enough for noise.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let noise = f64::from(state >> 16) / 65_536.0 * 6.0 - 3.0;
        let turn = f64::from(step) / f64::from(SIGNAL_SECS * 10) * std::f64::consts::TAU;
        (250.0 + 40.0 * turn.sin() + noise).round() as u16
    };
    (0..SIGNAL_SECS * 10).map(one).collect()
}

fn thermometers(port: u16) -> String {
    let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "thermometer", "namespace": "plant"},
        "spec": {"protocol": "modbus", "properties": [
            {"name": "heat", "type": "FLOAT", "accessMode": "ReadOnly", "unit": "Celsius"}]}});
    let device = |name: &str, more: Value| {
        let mut visitor = json!({"register": "InputRegister", "offset": HEAT, "limit": 1, "scale": 0.1});
        if let (Some(visitor), Some(more)) = (visitor.as_object_mut(), more.as_object()) {
            visitor.extend(more.clone());
        }
        json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": {"name": name, "namespace": "plant"},
            "spec": {"deviceModelRef": {"name": "thermometer"}, "nodeName": NODE,
                "protocol": {"protocolName": "modbus", "configData": {"ip": "127.0.0.1", "port": port, "slaveID": 1}},
                "properties": [{"name": "heat", "collectCycle": 100, "reportToCloud": true,
                    "visitors": {"protocolName": "modbus", "configData": visitor}}]}})
    };
    let items = [
        model,
        device("raw", json!({})),
        device("banded", json!({"deadband": DEADBAND, "heartbeatSecs": HEARTBEAT_SECS})),
    ];
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}
