//! Every mapper runs as a pod of `mappers/daemonset.yaml`, in the image that ships, and serves its devices.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use e2e::devices::{ModbusDevice, condition, oven_model, program};
use e2e::images;
use e2e::run_dir::RunDir;
use e2e::site::{NODE, Site, Wishes};
use serde_json::{Value, json};

const MAPPERS: [&str; 4] = ["mapper-virtual", "mapper-modbus", "mapper-opcua", "mapper-mqtt"];

#[test]
fn mappers_are_pods() -> Result<()> {
    let shared = RunDir::new("mapper-pods")?;
    let (sockets, state) = (shared.folder("kubeedge")?, shared.folder("state")?);
    let wishes = Wishes {
        edgecore: json!({"modules": {"deviceTwin": {"dmiSockPath": sockets.join("dmi.sock")}}}),
        ..Wishes::default()
    };
    let mut site = Site::start("mapper_pods", &wishes)?;
    let mappers = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no checkout")?.join("mappers");
    let daemonset = fs::read_to_string(mappers.join("daemonset.yaml"))?
        // The folder in which edgecore and mappers meet has the same path for both.
        .replace("/etc/kubeedge", &sockets.to_string_lossy())
        .replace(" path: /var/lib/isthmus", &format!(" path: {}", state.display()))
        // For the simulator, which is at 127.0.0.1; all of them, so that their REST APIs must not meet either.
        .replace("# hostNetwork", "hostNetwork");
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    for (number, mapper) in MAPPERS.into_iter().enumerate() {
        let (image, tag) = images::shipped(&shared.folder(mapper)?, mapper, program)?;
        site.runtime.import_image(&image)?;
        let port = 7777 + number;
        let manifest = daemonset
            .replace("registry.example/mapper-modbus:1", &tag)
            .replace("mapper-modbus", mapper)
            .replace("http_address: 127.0.0.1", &format!("http_address: 127.0.0.1\n      http_port: {port}"));
        site.cluster.apply(&manifest)?;
    }
    for mapper in MAPPERS {
        site.cluster.kubectl_ok(&["rollout", "status", "daemonset", mapper, "--timeout=90s"])?;
    }

    // Values through two of them, both ways through one.
    let plc = ModbusDevice::start()?;
    plc.set(e2e::devices::HEAT, 301)?;
    site.cluster.apply(&oven_model())?;
    site.cluster.apply(&e2e::devices::oven(plc.address().port(), "42"))?;
    site.wait_reported("oven-1", "heat", "30.1")?;
    site.wait_reported("oven-1", "limit", "42")?;
    ensure!(plc.get(e2e::devices::LIMIT)? == 42, "the desired limit is in the register");
    for manifest in [model("virtual", json!({"signal": "setpoint"})), device("virtual", json!({}))] {
        site.cluster.apply(&manifest.to_string())?;
    }
    site.wait_reported("virtual-1", "level", "7")?;

    // The others say in their own words why nobody answers.
    let nobody = RunDir::new("mapper-pods-nobody")?.port()?;
    for (protocol, settings, reach) in [
        ("opcua", json!({"nodeID": "ns=2;i=1"}), json!({"url": format!("opc.tcp://127.0.0.1:{nobody}")})),
        ("mqtt", json!({"topic": "hall/level"}), json!({"brokerURL": format!("tcp://127.0.0.1:{nobody}")})),
    ] {
        site.cluster.apply(&model(protocol, settings).to_string())?;
        site.cluster.apply(&device(protocol, reach).to_string())?;
        let told = site.wait_device(&format!("{protocol}-1"), "to say what its mapper says", |device| {
            condition(device, "DeviceTrouble")
        })?;
        ensure!(told.contains("refused"), "{protocol}: {told}");
    }
    Ok(())
}

fn model(protocol: &str, settings: Value) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": protocol, "namespace": "plant"},
        "spec": {"protocol": protocol, "properties": [
            {"name": "level", "type": "INT", "accessMode": "ReadWrite",
             "visitors": {"protocolName": protocol, "configData": settings}},
        ]},
    })
}

fn device(protocol: &str, reach: Value) -> Value {
    let desired = (protocol == "virtual").then(|| json!({"value": "7"}));
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": format!("{protocol}-1"), "namespace": "plant"},
        "spec": {"deviceModelRef": {"name": protocol}, "nodeName": NODE,
            "protocol": {"protocolName": protocol, "configData": reach},
            "stateReport": {"reportToCloud": true, "reportCycle": 1000},
            "properties": [{"name": "level", "collectCycle": 200, "reportToCloud": true, "desired": desired}]},
    })
}
