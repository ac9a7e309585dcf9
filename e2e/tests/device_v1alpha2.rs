//! Manifests of v1alpha2 work: they are converted both ways, what is missing in them is said, and cloudcore's absence harms
//! nobody who uses v1beta1.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::need;
use e2e::node::CloudCore;
use e2e::wait::{Seen, eventually, until};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);

/// As published: the device says nothing of how its properties are reached.
const MODEL: &str = r#"
apiVersion: devices.kubeedge.io/v1alpha2
kind: DeviceModel
metadata:
  name: temperature-sensor-model
  namespace: default
spec:
  properties:
  - name: temperature
    description: "Temperature in Celsius"
    type:
      int:
        accessMode: ReadOnly
        minimum: -50
        maximum: 100
        unit: "Celsius"
  - name: humidity
    description: "Humidity percentage"
    type:
      int:
        accessMode: ReadOnly
        minimum: 0
        maximum: 100
        unit: "percent"
"#;
const DEVICE: &str = r#"
apiVersion: devices.kubeedge.io/v1alpha2
kind: Device
metadata:
  name: sensor-01
  namespace: default
spec:
  deviceModelRef:
    name: temperature-sensor-model
  nodeSelector:
    nodeSelectorTerms:
    - matchExpressions:
      - key: kubernetes.io/hostname
        operator: In
        values:
        - edge-node-1
  protocol:
    modbus:
      slaveID: 1
    common:
      com:
        serialPort: "/dev/ttyUSB0"
        baudRate: 9600
        dataBits: 8
        parity: "none"
        stopBits: 1
"#;
/// With a value that somebody wants, where v1alpha2 has it.
const VALVE: &str = r#"
apiVersion: devices.kubeedge.io/v1alpha2
kind: DeviceModel
metadata: {name: valve, namespace: default}
spec:
  properties:
  - name: opening
    type: {int: {accessMode: ReadWrite, minimum: 0, maximum: 100}}
---
apiVersion: devices.kubeedge.io/v1alpha2
kind: Device
metadata: {name: valve-1, namespace: default}
spec:
  deviceModelRef: {name: valve}
  nodeSelector:
    nodeSelectorTerms:
    - matchExpressions: [{key: "", operator: In, values: [edge-node-1]}]
  protocol: {modbus: {slaveID: 1}, common: {tcp: {ip: 127.0.0.1, port: 502}}}
  propertyVisitors:
  - propertyName: opening
    modbus: {register: HoldingRegister, offset: 2, limit: 1}
    collectCycle: 1000000000
status:
  twins:
  - propertyName: opening
    desired: {metadata: {type: int}, value: "20"}
"#;

const OLD: &str = "devices.v1alpha2.devices.kubeedge.io";
const NEW: &str = "devices.v1beta1.devices.kubeedge.io";

fn is_converting(cluster: &Cluster) -> Result<()> {
    for name in ["devices", "devicemodels"] {
        eventually(PATIENCE, &format!("{name} to be converted"), || {
            let definition = cluster.kubectl_json(&["get", "crd", &format!("{name}.devices.kubeedge.io")])?;
            let strategy = definition["spec"]["conversion"]["strategy"].clone();
            Ok(if strategy == "Webhook" { Seen::Yes(()) } else { Seen::NotYet(strategy.to_string()) })
        })?;
    }
    Ok(())
}

fn condition(device: &Value, what: &str) -> Option<String> {
    let conditions = device["status"]["conditions"].as_array()?;
    let found =
        conditions.iter().find(|condition| condition["type"] == what && condition["status"] == "True")?;
    Some(found["message"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn manifests_of_the_old_version_work() -> Result<()> {
    need::for_cluster()?;
    let cluster = Cluster::start(&Options::default())?;
    let mut cloud = CloudCore::start(&cluster, &Value::Null)?;
    cloud.token(&cluster)?;
    is_converting(&cluster)?;
    // The API server takes a moment to learn of it; before that it would empty the objects.
    until(PATIENCE, "a model of the old version to be stored whole", || {
        cluster.apply(MODEL)?;
        let model = cluster.kubectl_json(&["get", "devicemodel", "temperature-sensor-model"])?;
        Ok(model["spec"]["properties"][0]["type"] == "INT"
            && model["spec"]["properties"][0]["minimum"] == "-50")
    })?;
    cluster.apply(DEVICE)?;

    let told = eventually(PATIENCE, "the condition of a device without visitors", || {
        let device = cluster.kubectl_json(&["get", NEW, "sensor-01"])?;
        Ok(condition(&device, "NoVisitors").map_or_else(|| Seen::NotYet(device.to_string()), Seen::Yes))
    })?;
    ensure!(told.contains("no visitors") && told.contains("\"temperature\", \"humidity\""), "{told}");
    ensure!(told.contains("spec.propertyVisitors"), "{told}");
    let device = cluster.kubectl_json(&["get", NEW, "sensor-01"])?;
    ensure!(device["spec"]["nodeName"] == "edge-node-1", "{device}");
    ensure!(device["spec"]["protocol"]["protocolName"] == "modbus", "{device}");
    ensure!(device["spec"]["protocol"]["configData"]["serialPort"] == "/dev/ttyUSB0", "{device}");
    ensure!(condition(&device, "NodeUnknown").is_some(), "{device}");
    let events = eventually(PATIENCE, "the event", || {
        let events = cluster.kubectl_json(&["get", "events", "--field-selector=reason=NoVisitors"])?;
        let n_events = events["items"].as_array().map_or(0, Vec::len);
        Ok(if n_events > 0 { Seen::Yes(n_events) } else { Seen::NotYet(events.to_string()) })
    })?;
    ensure!(events == 1, "{events} events of one problem");
    let described = cluster.kubectl_ok(&["describe", "device", "sensor-01"])?;
    ensure!(described.contains("no visitors"), "{described}");
    let listed = cluster.kubectl_ok(&["get", "devices"])?;
    ensure!(
        listed.contains("NODE") && listed.contains("edge-node-1") && listed.contains("modbus"),
        "{listed}"
    );

    // Its DeviceStatus is there and belongs to it.
    let status = cluster.kubectl_json(&["get", "devicestatus", "sensor-01"])?;
    ensure!(status["metadata"]["ownerReferences"][0]["uid"] == device["metadata"]["uid"], "{status}");

    // The old version shows what was written.
    let old = cluster.kubectl_json(&["get", OLD, "sensor-01"])?;
    ensure!(old["spec"]["protocol"]["common"]["com"]["baudRate"] == 9600, "{old}");
    ensure!(old["spec"]["protocol"]["modbus"]["slaveID"] == 1, "{old}");

    // A wanted value is honoured at first and when it is edited, in either version.
    cluster.apply(VALVE)?;
    let desired = || -> Result<Value> {
        let valve = cluster.kubectl_json(&["get", NEW, "valve-1"])?;
        Ok(valve["spec"]["properties"][0].clone())
    };
    let property = desired()?;
    ensure!(property["desired"]["value"] == "20" && property["collectCycle"] == 1000, "{property}");
    cluster.apply(&VALVE.replace("\"20\"", "\"30\""))?;
    ensure!(desired()?["desired"]["value"] == "30", "{}", desired()?);
    until(PATIENCE, "the twins to show what is wanted", || {
        let twins = cluster.kubectl_ok(&["get", "device", "valve-1", "--output=jsonpath={.status.twins}"])?;
        Ok(twins.contains("\"desired\":{\"metadata\":{\"type\":\"int\"},\"value\":\"30\"}"))
    })?;
    let patch = json!([{"op": "replace", "path": "/spec/properties/0/desired/value", "value": "101"}]);
    cluster.kubectl_ok(&["patch", NEW, "valve-1", "--type=json", &format!("--patch={patch}")])?;
    let told = eventually(PATIENCE, "the condition of a value outside its range", || {
        let device = cluster.kubectl_json(&["get", NEW, "valve-1"])?;
        Ok(condition(&device, "DesiredInvalid").map_or_else(|| Seen::NotYet(device.to_string()), Seen::Yes))
    })?;
    ensure!(told.contains("\"opening\"") && told.contains("maximum 100"), "{told}");
    let old = cluster.kubectl_json(&["get", OLD, "valve-1"])?;
    ensure!(old["status"]["twins"][0]["desired"]["value"] == "101", "{old}");

    // Without cloudcore the new version goes on, and the old one says why it does not.
    cloud.process.stop()?;
    cluster.kubectl_ok(&["get", NEW])?;
    let patch = json!([{"op": "replace", "path": "/spec/properties/0/desired/value", "value": "40"}]);
    cluster.kubectl_ok(&["patch", NEW, "valve-1", "--type=json", &format!("--patch={patch}")])?;
    ensure!(!cluster.kubectl(&["get", OLD])?.status.success(), "nobody converts now");
    cloud.process.start()?;
    until(PATIENCE, "the old version to be served again", || {
        Ok(cluster.kubectl(&["get", OLD, "valve-1"])?.status.success())
    })?;
    until(PATIENCE, "the condition to go away", || {
        Ok(condition(&cluster.kubectl_json(&["get", NEW, "valve-1"])?, "DesiredInvalid").is_none())
    })?;

    // The status goes with its device.
    cluster.kubectl_ok(&["delete", "device", "sensor-01"])?;
    until(PATIENCE, "the DeviceStatus to go", || {
        Ok(!cluster.kubectl(&["get", "devicestatus", "sensor-01"])?.status.success())
    })?;
    Ok(())
}
