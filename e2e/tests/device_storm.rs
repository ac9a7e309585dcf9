//! Three hundred devices come at once, are wanted to be something else at once, and go at once.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use e2e::devices::{Mapper, reported};
use e2e::site::{NODE, PATIENCE, Site, Wishes};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

const N_DEVICES: usize = 300;
/// One kubectl sends five requests a second; so many together are a storm.
const N_KUBECTL: usize = 10;

/// Every tenth device, beginning with `first`.
fn devices(first: usize, speed: usize) -> String {
    let device = |number: usize| {
        json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": {"name": format!("press-{number}"), "namespace": "plant"},
            "spec": {
                "deviceModelRef": {"name": "press"},
                "nodeName": NODE,
                "protocol": {"protocolName": "virtual", "configData": {}},
                // Each its own, so that one that is mixed up with another shows.
                "properties": [
                    {"name": "speed", "collectCycle": 10_000, "reportToCloud": true,
                     "desired": {"value": (number + speed).to_string()},
                     "visitors": {"protocolName": "virtual", "configData": {"of": "no use"}}},
                ],
            },
        })
    };
    let items: Vec<Value> = (first..N_DEVICES).step_by(N_KUBECTL).map(device).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn apply_all(site: &Site, speed: usize) -> Result<()> {
    std::thread::scope(|scope| {
        let one = |first: usize| {
            let path =
                site.cluster.run_dir().write(&format!("devices-{first}.json"), devices(first, speed))?;
            site.cluster.kubectl_ok(&["apply", "--filename", &path.to_string_lossy()])
        };
        let all: Vec<_> = (0..N_KUBECTL).map(|first| scope.spawn(move || one(first))).collect();
        for one in all {
            one.join().map_err(|_| anyhow!("kubectl's thread panicked"))??;
        }
        Ok(())
    })
}

const MODEL: &str = r#"{
    "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
    "metadata": {"name": "press", "namespace": "plant"},
    "spec": {"protocol": "virtual", "properties": [
        {"name": "speed", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "1000000"}
    ]}
}"#;

#[test]
fn three_hundred_devices_come_change_and_go() -> Result<()> {
    let site = Site::start("device_storm", &Wishes::default())?;
    let mapper = Mapper::start("mapper-virtual", "virtual", &site.edge)?;
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    site.cluster.apply(MODEL)?;

    for speed in [1000, 2000] {
        let begin = Instant::now();
        apply_all(&site, speed)?;
        let applied = begin.elapsed();
        wait_speed(&site, speed)?;
        eprintln!(
            "{N_DEVICES} devices at {speed}: kubectl took {:.1} s, the last value came {:.1} s after it",
            applied.as_secs_f64(),
            (begin.elapsed() - applied).as_secs_f64()
        );
    }
    let begin = Instant::now();
    site.cluster
        .kubectl_ok(&["delete", "--raw=/apis/devices.kubeedge.io/v1beta1/namespaces/plant/devices"])?;
    let deleted = begin.elapsed();
    eventually(PATIENCE, "nothing of them to be left on the node", || {
        let left = left_on_the_node(&site)?;
        Ok(if left.is_empty() { Seen::Yes(()) } else { Seen::NotYet(left.join("; ")) })
    })
    .with_context(|| format!("the mapper's last lines:\n{}", mapper.process.log_end(10)))?;
    eprintln!(
        "deleted: kubectl took {:.1} s, the node had let go of all {:.1} s after it",
        deleted.as_secs_f64(),
        (begin.elapsed() - deleted).as_secs_f64()
    );
    eventually(PATIENCE, "the mapper to let them go", || {
        let n_gone = mapper.process.log().matches("no longer driven").count();
        Ok(if n_gone == N_DEVICES { Seen::Yes(()) } else { Seen::NotYet(format!("{n_gone} are gone")) })
    })?;
    eventually(PATIENCE, "their statuses to go with them", || {
        let left =
            site.cluster.kubectl_ok(&["get", "devicestatuses", "--namespace=plant", "--output=name"])?;
        let n_left = left.lines().count();
        Ok(if n_left == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{n_left} are left")) })
    })
}

fn wait_speed(site: &Site, speed: usize) -> Result<()> {
    eventually(PATIENCE, &format!("all devices to report {speed} and their number"), || {
        let all = site.cluster.kubectl_json(&["get", "devices", "--namespace=plant"])?;
        let items = all["items"].as_array().cloned().unwrap_or_default();
        let is_there = |number: &usize| {
            let name = format!("press-{number}");
            let device = items.iter().find(|item| item["metadata"]["name"] == name.as_str());
            device.and_then(|device| reported(device, "speed")) == Some((number + speed).to_string())
        };
        let missing: Vec<usize> = (0..N_DEVICES).filter(|number| !is_there(number)).collect();
        Ok(match missing.first() {
            None => Seen::Yes(()),
            Some(first) => {
                let device =
                    items.iter().find(|item| item["metadata"]["name"] == format!("press-{first}").as_str());
                let status = device.map_or(Value::Null, |device| device["status"].clone());
                Seen::NotYet(format!("{} are not there; the first, {first}, has {status}", missing.len()))
            }
        })
    })
    .with_context(|| {
        let (edge, cloud) = (site.edge.process.log_end(20), site.cloud.process.log_end(20));
        format!("edgecore's last lines:\n{edge}\ncloudcore's last lines:\n{cloud}")
    })
}

/// Tables of edgecore's store in which something of a device is, and how many rows.
fn left_on_the_node(site: &Site) -> Result<Vec<String>> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let store = rusqlite::Connection::open_with_flags(site.edge.store(), flags).context("open the store")?;
    store.busy_timeout(Duration::from_secs(5))?;
    let mut left = Vec::new();
    for (what, from) in [
        ("devices", "device"),
        ("twins", "device_twin"),
        ("reports", "device_report"),
        ("of the mapper", "mapper_holds"),
        ("objects", "object WHERE kind LIKE 'device%'"),
    ] {
        let count: i64 = store.query_row(&format!("SELECT count(*) FROM {from}"), [], |row| row.get(0))?;
        if count > 0 {
            left.push(format!("{count} {what}"));
        }
    }
    Ok(left)
}
