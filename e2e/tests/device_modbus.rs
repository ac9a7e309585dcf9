//! A Modbus thermometer that nobody here wrote is read and written with kubectl, and keeps its values over every restart.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use anyhow::{Result, ensure};
use e2e::devices::{Mapper, ModbusDevice, twin};
use e2e::site::{NODE, Site, Wishes};
use serde_json::{Value, json};

/// Tenths of a degree.
const HEAT: u16 = 4;
const LIMIT: u16 = 7;

fn model() -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "oven", "namespace": "plant"},
        "spec": {"protocol": "modbus", "properties": [
            {"name": "heat", "type": "FLOAT", "accessMode": "ReadOnly", "unit": "Celsius",
             "visitors": {"protocolName": "modbus", "configData": {"register": "InputRegister", "limit": 1, "scale": 0.1}}},
            {"name": "limit", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "400"},
        ]},
    })
}

fn device(port: u16, limit: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "oven-1", "namespace": "plant", "labels": {"description": "hall-3"}},
        "spec": {
            "deviceModelRef": {"name": "oven"},
            "nodeName": NODE,
            "protocol": {"protocolName": "modbus", "configData": {"ip": "127.0.0.1", "port": port, "slaveID": 1}},
            "stateReport": {"reportToCloud": true, "reportCycle": 1000},
            "properties": [
                {"name": "heat", "collectCycle": 200, "reportToCloud": true,
                 "visitors": {"protocolName": "modbus", "configData": {"offset": HEAT}}},
                {"name": "limit", "collectCycle": 200, "reportToCloud": true, "desired": {"value": limit},
                 "visitors": {"protocolName": "modbus",
                    "configData": {"register": "HoldingRegister", "offset": LIMIT, "limit": 1}}},
            ],
        },
    })
}

#[test]
fn a_thermometer_is_read_and_written_with_kubectl() -> Result<()> {
    let mut site = Site::start("device_modbus", &Wishes::default())?;
    let mut oven = ModbusDevice::start()?;
    oven.set(HEAT, 253)?;
    let port = oven.address().port();
    let mut mapper = Mapper::start("mapper-modbus", "modbus", &site.edge)?;

    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    site.cluster.apply(&model().to_string())?;
    site.cluster.apply(&device(port, "20").to_string())?;
    site.wait_reported("oven-1", "heat", "25.3")?;
    site.wait_reported("oven-1", "limit", "20")?;
    ensure!(oven.get(LIMIT)? == 20, "the desired value is in the register");
    oven.set(HEAT, 301)?;
    site.wait_reported("oven-1", "heat", "30.1")?;

    // What the documents' reader types.
    let table = site.cluster.kubectl_ok(&["get", "devices", "--namespace=plant"])?;
    let head: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
    ensure!(head == ["NAME", "NODE", "PROTOCOL", "STATE", "LASTONLINE", "AGE"], "{table}");
    ensure!(table.contains("online"), "{table}");
    let status = site.cluster.kubectl_json(&["get", "devicestatus", "oven-1", "--namespace=plant"])?;
    ensure!(twin(&status, "heat").is_some() && status["status"]["state"] == "online", "{status}");

    // A desired value reaches the register and comes back.
    site.cluster.apply(&device(port, "22").to_string())?;
    site.wait_reported("oven-1", "limit", "22")?;
    ensure!(oven.get(LIMIT)? == 22, "written");
    let now = site.device("oven-1")?;
    ensure!(twin(&now, "limit").is_some_and(|twin| twin["observedDesired"]["value"] == "22"), "{now}");

    // Unplugged it is told offline and keeps its values; plugged in it goes on.
    oven.unplug()?;
    site.wait_device("oven-1", "to be offline", |device| {
        (device["status"]["state"] == "offline").then_some(())
    })?;
    site.wait_reported("oven-1", "heat", "30.1")?;
    oven.plug_in()?;
    oven.set(HEAT, 199)?;
    site.wait_reported("oven-1", "heat", "19.9")?;
    site.wait_device("oven-1", "to be online", |device| {
        (device["status"]["state"] == "online").then_some(())
    })?;

    // The mapper dies and comes back; then edgecore.
    mapper.process.kill9()?;
    oven.set(HEAT, 205)?;
    mapper.process.start()?;
    site.wait_reported("oven-1", "heat", "20.5")?;
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    oven.set(HEAT, 207)?;
    site.wait_reported("oven-1", "heat", "20.7")?;

    site.cluster.kubectl_ok(&["delete", "device", "oven-1", "--namespace=plant"])?;
    Ok(())
}
