//! An OPC-UA server that is plugged in becomes a Device by a rule; it and servers that were described by hand, with and without
//! security, are read and written with kubectl.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::devices::{Mapper, OpcUaDevice, twin};
use e2e::site::{NODE, Site, Wishes};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

/// From the plug to values in the cluster.
const PROMISED: Duration = Duration::from_secs(30);

fn model() -> Value {
    let node =
        |name: &str| json!({"protocolName": "opcua", "configData": {"nodeID": format!("ns=2;s={name}")}});
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "press", "namespace": "plant",
            "annotations": {"discover.isthmus.io/applicationName": "^Isthmus test device$"}},
        "spec": {"protocol": "opcua", "properties": [
            {"name": "temperature", "type": "DOUBLE", "accessMode": "ReadOnly", "visitors": node("Temperature")},
            {"name": "setpoint", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "90",
             "visitors": node("Setpoint")},
            {"name": "label", "type": "STRING", "accessMode": "ReadWrite", "visitors": node("Label")},
            {"name": "running", "type": "BOOLEAN", "accessMode": "ReadOnly", "visitors": node("Running")},
        ]},
    })
}

/// Described by hand, reached with these settings.
fn device(name: &str, url: &str, more: &Value) -> Value {
    let mut config = json!({"url": url});
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": name, "namespace": "plant"},
        "spec": {
            "deviceModelRef": {"name": "press"},
            "nodeName": NODE,
            "protocol": {"protocolName": "opcua", "configData": config},
            "properties": [{"name": "temperature", "collectCycle": 200, "reportToCloud": true}],
        },
    })
}

#[test]
fn a_server_that_is_plugged_in_is_a_device() -> Result<()> {
    let mut site = Site::start("device_opcua", &Wishes::default())?;
    let mut server = OpcUaDevice::new()?;
    let place = format!("opc.tcp://{}", server.address());
    let environment = [("MAPPER_OPCUA_STATE", "{run}/state"), ("MAPPER_OPCUA_DISCOVER", place.as_str())];
    let _mapper = Mapper::start_as("mapper-opcua", "mapper-opcua", "opcua", &site.edge, &environment)?;
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    site.cluster.apply(&model().to_string())?;

    // Plugged in: nobody describes it.
    server.plug_in()?;
    let plugged = Instant::now();
    let name = format!("press-opcua-127-0-0-1-{}", server.address().port());
    eventually(e2e::site::PATIENCE, "a Device of the server", || {
        let list = site.cluster.kubectl_ok(&["get", "devices", "--namespace=plant", "--output=name"])?;
        Ok(if list.contains(&name) { Seen::Yes(()) } else { Seen::NotYet(list) })
    })?;
    site.wait_reported(&name, "temperature", "21.5")?;
    let after = plugged.elapsed();
    eprintln!("a Device with values {:.1} s after it was plugged in", after.as_secs_f64());
    ensure!(after < PROMISED, "a Device with values only after {after:?}");
    site.wait_reported(&name, "label", "press 1")?;
    site.wait_reported(&name, "running", "true")?;
    let found = site.device(&name)?;
    let uid = found["metadata"]["uid"].clone();
    ensure!(found["metadata"]["labels"]["isthmus.io/discovered"] == "true", "{found}");
    ensure!(found["spec"]["nodeName"] == NODE, "{found}");

    // The server tells by itself, and takes what is wished for.
    server.set("Temperature", "48.25")?;
    site.wait_reported(&name, "temperature", "48.25")?;
    let place_of_setpoint = found["spec"]["properties"].as_array().into_iter().flatten();
    let place_of_setpoint = place_of_setpoint.take_while(|property| property["name"] != "setpoint").count();
    let patch = json!([{"op": "add", "path": format!("/spec/properties/{place_of_setpoint}/desired"),
        "value": {"value": "33"}}]);
    let patch = format!("--patch={patch}");
    site.cluster.kubectl_ok(&["patch", "device", &name, "--namespace=plant", "--type=json", &patch])?;
    site.wait_reported(&name, "setpoint", "33")?;
    ensure!(server.get("Setpoint")? == "33", "written");

    // Described by hand, as people secure their servers.
    let secured = [
        ("plain", json!({"securityPolicy": "None"})),
        (
            "basic",
            json!({"securityPolicy": "Basic256Sha256", "securityMode": "Sign", "userName": "operator", "password": "secret"}),
        ),
        ("pss", json!({"securityPolicy": "Aes256Sha256RsaPss", "securityMode": "SignAndEncrypt"})),
    ];
    let with_certificate_of = |who: &str| {
        let file = |ending: &str| server.file(&format!("{who}.{ending}"));
        json!({"securityPolicy": "Basic256Sha256", "authentication": "certificate", "certificate": file("der"),
            "privateKey": file("pem")})
    };
    for (name, settings) in secured.iter().chain([&("certificate", with_certificate_of("operator"))]) {
        site.cluster.apply(&device(name, &server.url(), settings).to_string())?;
    }
    let wrong = [
        (
            "wrong-password",
            json!({"securityPolicy": "Basic256Sha256", "userName": "operator", "password": "guessed"}),
        ),
        ("wrong-certificate", with_certificate_of("stranger")),
    ];
    for (name, settings) in &wrong {
        site.cluster.apply(&device(name, &server.url(), settings).to_string())?;
    }
    for name in secured.iter().map(|(name, _)| *name).chain(["certificate"]) {
        site.wait_reported(name, "temperature", "48.25")?;
    }
    ensure!(server.n_certificate_logins()? >= 1, "a login with the certificate");
    for (name, _) in &wrong {
        let refused = site.wait_device(name, "to be told offline or unhealthy", |device| {
            let state = device["status"]["state"].as_str()?;
            (state != "online").then(|| device.clone())
        })?;
        ensure!(twin(&refused, "temperature").is_none_or(|twin| twin["reported"].is_null()), "{refused}");
    }

    // Unplugged: offline and kept. Plugged in: the same Device goes on.
    server.unplug()?;
    site.wait_device(&name, "to be offline", |device| {
        (device["status"]["state"] == "offline").then_some(())
    })?;
    site.wait_reported(&name, "temperature", "48.25")?;
    server.plug_in()?;
    server.set("Temperature", "19")?;
    site.wait_reported(&name, "temperature", "19")?;
    site.wait_device(&name, "to be online", |device| (device["status"]["state"] == "online").then_some(()))?;
    ensure!(site.device(&name)?["metadata"]["uid"] == uid, "another Device");
    ensure!(server.n_sessions()? >= 1, "a session is open");
    Ok(())
}
