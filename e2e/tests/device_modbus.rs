//! A Modbus thermometer that nobody here wrote is read and written with kubectl, and keeps its values over every restart.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use anyhow::{Result, ensure};
use e2e::devices::{HEAT, LIMIT, Mapper, ModbusDevice, oven, oven_model, twin};
use e2e::site::{NODE, Site, Wishes};
use serde_json::{Value, json};

/// A pump on a serial line, one property of each kind of register.
fn pump(line: &str) -> Value {
    let property = |name: &str, register: &str, offset: u16, desired: Option<&str>| {
        let mut property = json!({"name": name, "collectCycle": 200, "reportToCloud": true,
            "visitors": {"protocolName": "modbus", "configData": {"register": register, "offset": offset, "limit": 1}}});
        if let Some(desired) = desired {
            property["desired"] = json!({"value": desired});
        }
        property
    };
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "pump-1", "namespace": "plant"},
        "spec": {
            "deviceModelRef": {"name": "pump"},
            "nodeName": NODE,
            "protocol": {"protocolName": "modbus", "configData": {"serialPort": line, "baudRate": "19200", "slaveID": 1}},
            "properties": [
                property("running", "CoilRegister", 3, Some("true")),
                property("closed", "DiscreteInputRegister", 4, None),
                property("flow", "InputRegister", 5, None),
                property("speed", "HoldingRegister", 6, Some("1500")),
            ],
        },
    })
}

fn pump_model() -> Value {
    let property =
        |name: &str, kind: &str, access: &str| json!({"name": name, "type": kind, "accessMode": access});
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "pump", "namespace": "plant"},
        "spec": {"protocol": "modbus", "properties": [
            property("running", "BOOLEAN", "ReadWrite"), property("closed", "BOOLEAN", "ReadOnly"),
            property("flow", "INT", "ReadOnly"), property("speed", "INT", "ReadWrite"),
        ]},
    })
}

#[test]
fn a_thermometer_is_read_and_written_with_kubectl() -> Result<()> {
    let mut site = Site::start("device_modbus", &Wishes::default())?;
    let mut plc = ModbusDevice::start()?;
    plc.set(HEAT, 253)?;
    let port = plc.address().port();
    let mut mapper = Mapper::start("mapper-modbus", "modbus", &site.edge)?;

    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    site.cluster.apply(&oven_model())?;
    site.cluster.apply(&oven(port, "20"))?;
    site.wait_reported("oven-1", "heat", "25.3")?;
    site.wait_reported("oven-1", "limit", "20")?;
    ensure!(plc.get(LIMIT)? == 20, "the desired value is in the register");
    plc.set(HEAT, 301)?;
    site.wait_reported("oven-1", "heat", "30.1")?;

    // States come apart from values.
    site.wait_device("oven-1", "to be online", |device| {
        (device["status"]["state"] == "online").then_some(())
    })?;

    // What the documents' reader types.
    let table = site.cluster.kubectl_ok(&["get", "devices", "--namespace=plant"])?;
    let head: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(head == ["NAME", "NODE", "PROTOCOL", "STATE", "LASTONLINE", "AGE"], "{table}");
    ensure!(table.contains("online"), "{table}");
    let status = site.cluster.kubectl_json(&["get", "devicestatus", "oven-1", "--namespace=plant"])?;
    ensure!(twin(&status, "heat").is_some() && status["status"]["state"] == "online", "{status}");

    // A desired value reaches the register and comes back.
    site.cluster.apply(&oven(port, "22"))?;
    site.wait_reported("oven-1", "limit", "22")?;
    ensure!(plc.get(LIMIT)? == 22, "written");
    let now = site.device("oven-1")?;
    ensure!(twin(&now, "limit").is_some_and(|twin| twin["observedDesired"]["value"] == "22"), "{now}");

    // Another one on a serial line, every kind of register.
    plc.set_on_line("discrete", 4, 1)?;
    plc.set_on_line("input", 5, 777)?;
    site.cluster.apply(&pump_model().to_string())?;
    site.cluster.apply(&pump(&plc.line()?).to_string())?;
    for (property, value) in [("running", "true"), ("closed", "true"), ("flow", "777"), ("speed", "1500")] {
        site.wait_reported("pump-1", property, value)?;
    }
    ensure!(plc.get_on_line("coil", 3)? == 1 && plc.get_on_line("holding", 6)? == 1500, "written");
    plc.set_on_line("input", 5, 42)?;
    site.wait_reported("pump-1", "flow", "42")?;
    site.cluster.kubectl_ok(&["delete", "device", "pump-1", "--namespace=plant"])?;

    // Unplugged it is told offline and keeps its values; plugged in it goes on.
    plc.unplug()?;
    site.wait_device("oven-1", "to be offline", |device| {
        (device["status"]["state"] == "offline").then_some(())
    })?;
    site.wait_reported("oven-1", "heat", "30.1")?;
    plc.plug_in()?;
    plc.set(HEAT, 199)?;
    site.wait_reported("oven-1", "heat", "19.9")?;
    site.wait_device("oven-1", "to be online", |device| {
        (device["status"]["state"] == "online").then_some(())
    })?;

    // The mapper dies and comes back; then edgecore.
    mapper.process.kill9()?;
    plc.set(HEAT, 205)?;
    mapper.process.start()?;
    site.wait_reported("oven-1", "heat", "20.5")?;
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    plc.set(HEAT, 207)?;
    site.wait_reported("oven-1", "heat", "20.7")?;

    site.cluster.kubectl_ok(&["delete", "device", "oven-1", "--namespace=plant"])?;
    Ok(())
}
