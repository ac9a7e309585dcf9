//! A device that speaks MQTT to somebody else's broker is read and written with kubectl, and is offline while the broker is.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use anyhow::{Result, ensure};
use e2e::devices::{Mapper, MqttBroker, twin};
use e2e::site::{NODE, PATIENCE, Site, Wishes};
use serde_json::{Value, json};

const STATE: &str = "hall/3/oven/state";
const COMMAND: &str = "hall/3/oven/command";

fn model() -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "mqtt-oven", "namespace": "plant"},
        "spec": {"protocol": "mqtt", "properties": [
            {"name": "heat", "type": "FLOAT", "accessMode": "ReadOnly", "unit": "Celsius"},
            {"name": "door", "type": "BOOLEAN", "accessMode": "ReadOnly"},
            {"name": "limit", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "400"},
            {"name": "label", "type": "STRING", "accessMode": "ReadWrite"},
        ]},
    })
}

fn device(port: u16, limit: &str, label: &str) -> Value {
    let property = |name: &str, config: Value| {
        json!({"name": name, "collectCycle": 200, "reportToCloud": true,
               "visitors": {"protocolName": "mqtt", "configData": config}})
    };
    let wished = |name: &str, value: &str, template: &str| {
        let config = json!({"topic": STATE, "path": format!("$.settings.{name}"), "outputTopic": COMMAND,
                            "template": template});
        let mut property = property(name, config);
        property["desired"] = json!({"value": value});
        property
    };
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "mqtt-oven-1", "namespace": "plant"},
        "spec": {
            "deviceModelRef": {"name": "mqtt-oven"},
            "nodeName": NODE,
            "protocol": {"protocolName": "mqtt",
                "configData": {"brokerURL": format!("tcp://127.0.0.1:{port}"), "keepAlive": "10"}},
            "stateReport": {"reportToCloud": true, "reportCycle": 1000},
            "properties": [
                property("heat", json!({"topic": STATE, "path": "$.sensors[0].temp"})),
                property("door", json!({"topic": "hall/+/oven/door"})),
                wished("limit", limit, r#"{"cmd":"limit","value":${value}}"#),
                wished("label", label, r#"{"cmd":"label","value":"${value}"}"#),
            ],
        },
    })
}

fn state(heat: f64, limit: i64, label: &str) -> String {
    json!({"sensors": [{"temp": heat}], "settings": {"limit": limit, "label": label}}).to_string()
}

#[test]
fn a_device_of_another_broker_is_read_and_written_with_kubectl() -> Result<()> {
    let mut site = Site::start("device_mqtt", &Wishes::default())?;
    let mut broker = MqttBroker::start()?;
    let mut oven = broker.listener(COMMAND)?;
    let port = broker.address().port();
    // Told before anybody asked: the broker keeps it.
    broker.tell(STATE, &state(25.3, 10, "old"))?;
    let mut mapper = Mapper::start("mapper-mqtt", "mqtt", &site.edge)?;

    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    site.cluster.apply(&model().to_string())?;
    let label = "as \"it\" is ü";
    site.cluster.apply(&device(port, "20", label).to_string())?;
    site.wait_reported("mqtt-oven-1", "heat", "25.3")?;

    // What is desired arrives as the device's own messages, and nothing breaks out of them.
    oven.wait_for_log(PATIENCE, r#"{"cmd":"limit","value":20}"#)?;
    oven.wait_for_log(PATIENCE, r#"{"cmd":"label","value":"as \"it\" is ü"}"#)?;
    broker.tell(STATE, &state(25.3, 20, label))?;
    site.wait_reported("mqtt-oven-1", "limit", "20")?;
    site.wait_reported("mqtt-oven-1", "label", label)?;
    site.cluster.apply(&device(port, "22", label).to_string())?;
    oven.wait_for_log(PATIENCE, r#"{"cmd":"limit","value":22}"#)?;
    broker.tell(STATE, &state(25.3, 22, label))?;
    site.wait_reported("mqtt-oven-1", "limit", "22")?;
    let now = site.device("mqtt-oven-1")?;
    ensure!(twin(&now, "limit").is_some_and(|twin| twin["observedDesired"]["value"] == "22"), "{now}");

    // Messages of all sorts: another topic of a wildcard, nonsense, and then a value.
    broker.tell("hall/7/oven/door", "ON")?;
    site.wait_reported("mqtt-oven-1", "door", "true")?;
    broker.tell(STATE, "nonsense")?;
    broker.tell(STATE, &state(26.5, 22, label))?;
    site.wait_reported("mqtt-oven-1", "heat", "26.5")?;
    // The nonsense may have made it unhealthy for a moment; states come apart from values.
    site.wait_device("mqtt-oven-1", "to be online", |device| {
        (device["status"]["state"] == "online").then_some(())
    })?;
    let table = site.cluster.kubectl_ok(&["get", "devices", "--namespace=plant"])?;
    ensure!(table.contains("mqtt-oven-1") && table.contains("online"), "{table}");

    // Without its broker the device is offline and keeps its values.
    broker.process.stop()?;
    site.wait_device("mqtt-oven-1", "to be offline", |device| {
        (device["status"]["state"] == "offline").then_some(())
    })?;
    site.wait_reported("mqtt-oven-1", "heat", "26.5")?;
    broker.start_again()?;
    broker.tell(STATE, &state(19.9, 22, label))?;
    site.wait_reported("mqtt-oven-1", "heat", "19.9")?;
    site.wait_device("mqtt-oven-1", "to be online", |device| {
        (device["status"]["state"] == "online").then_some(())
    })?;

    // What was told while the mapper was dead is there when it is back.
    mapper.process.kill9()?;
    broker.tell(STATE, &state(20.5, 22, label))?;
    mapper.process.start()?;
    site.wait_reported("mqtt-oven-1", "heat", "20.5")?;

    site.cluster.kubectl_ok(&["delete", "device", "mqtt-oven-1", "--namespace=plant"])?;
    Ok(())
}
