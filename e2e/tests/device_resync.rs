//! Devices and models come, change and go in the cloud while the node is away, and cloudcore restarts: the node and its mapper
//! end up with what the cluster says.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::devices::{Mapper, reported};
use e2e::site::{NODE, PATIENCE, Site, Wishes, http_get};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

fn model(maximum: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "machine", "namespace": "plant"},
        "spec": {"protocol": "virtual", "properties": [
            {"name": "speed", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": maximum},
        ]},
    })
}

fn device(name: &str, speed: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": name, "namespace": "plant"},
        "spec": {
            "deviceModelRef": {"name": "machine"},
            "nodeName": NODE,
            "protocol": {"protocolName": "virtual", "configData": {}},
            "stateReport": {"reportToCloud": true, "reportCycle": 1000},
            "properties": [
                {"name": "speed", "collectCycle": 300, "reportToCloud": true, "desired": {"value": speed},
                 "visitors": {"protocolName": "virtual", "configData": {"signal": "setpoint"}}},
            ],
        },
    })
}

#[test]
fn what_changed_during_a_cut_is_carried_out() -> Result<()> {
    let mut site = Site::start("device_resync", &Wishes::default())?;
    let mapper = Mapper::start("mapper-virtual", "virtual", &site.edge)?;
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    for object in [model("100"), device("stays", "5"), device("goes", "6"), device("moves", "7")] {
        site.cluster.apply(&object.to_string())?;
    }
    for (name, speed) in [("stays", "5"), ("goes", "6"), ("moves", "7")] {
        site.wait_reported(name, "speed", speed)?;
    }

    site.cut();
    site.cluster.kubectl_ok(&["delete", "device", "goes", "--namespace=plant"])?;
    site.cluster.apply(&device("comes", "8").to_string())?;
    // Beyond what the model allows, until the model changes too.
    site.cluster.apply(&device("stays", "150").to_string())?;
    site.cluster.apply(&model("200").to_string())?;
    let mut moved = device("moves", "7");
    moved["spec"]["nodeName"] = "another".into();
    site.cluster.apply(&moved.to_string())?;
    site.heal();

    site.wait_reported("comes", "speed", "8")?;
    site.wait_reported("stays", "speed", "150")?;
    let rest = mapper.rest();
    let known = |name: &str| -> Result<bool> {
        let path = format!("/api/v1/device/plant/{name}/speed");
        let answer = http_get(&rest.ip().to_string(), rest.port(), &path);
        Ok(answer.is_ok_and(|body| body.contains("\"speed\"")))
    };
    ensure!(known("comes")? && known("stays")?, "the mapper serves what came and what stays");
    for name in ["goes", "moves"] {
        eventually(PATIENCE, &format!("the mapper to let {name} go"), || {
            Ok(if known(name)? { Seen::NotYet(mapper.process.log_end(5)) } else { Seen::Yes(()) })
        })?;
    }
    ensure!(
        devices_on_the_node(&site)? == ["plant/comes", "plant/stays"],
        "{:?}",
        devices_on_the_node(&site)?
    );

    // cloudcore comes back to a node that went on, and to a change that nobody watched.
    site.cloud.process.kill9()?;
    site.cluster.apply(&device("comes", "9").to_string())?;
    site.cloud.process.start()?;
    site.wait_reported("comes", "speed", "9")?;

    // Nobody told the node of the end of its devices but their absence.
    site.cloud.process.kill9()?;
    site.cluster.kubectl_ok(&["delete", "device", "comes", "--namespace=plant"])?;
    site.cloud.process.start()?;
    eventually(PATIENCE, "the node to let the device go", || {
        let held = devices_on_the_node(&site)?;
        Ok(if held == ["plant/stays"] { Seen::Yes(()) } else { Seen::NotYet(held.join(" ")) })
    })?;
    let still = site.device("stays")?;
    ensure!(reported(&still, "speed").as_deref() == Some("150"), "{still}");
    Ok(())
}

/// As its store has them.
fn devices_on_the_node(site: &Site) -> Result<Vec<String>> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = rusqlite::Connection::open_with_flags(site.edge.store(), flags).context("open the store")?;
    store.busy_timeout(Duration::from_secs(5))?;
    let mut statement = store.prepare("SELECT namespace || '/' || name FROM device ORDER BY 1")?;
    let names = statement.query_map([], |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}
