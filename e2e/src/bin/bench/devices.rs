//! Device reports: how many a node takes in a second with a kill in the middle, and how long one value takes to a local MQTT
//! subscriber and to the API server.

#![expect(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null")]

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::bench::Row;
use e2e::node::binary;
use e2e::site::{NODE, PATIENCE, Site, Wishes};
use e2e::wait::{Seen, eventually};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::delays::{Delays, Shows};
use crate::usage::percentile;

const N_DEVICES: u32 = 100;
const N_PROPERTIES: u32 = 10;
const FLOOD_SECS: u64 = 10;
const PACED_SECS: u64 = 40;
/// Two writes each (DeviceStatus and Device) that the API server of this machine can take beside everything else.
const PACE_SECS: u64 = 5;

pub(crate) fn reports() -> Result<Vec<Row>> {
    let mut site = Site::start("bench-devices", &Wishes::default())?;
    site.cluster.kubectl_ok(&["create", "namespace", "mark"])?;
    site.cluster.apply(&manifests())?;
    wait_devices(&site)?;

    // As fast as they are taken, with a kill in the middle.
    let flood = dmimark(&site, &["--seconds", &FLOOD_SECS.to_string()])?;
    sleep(Duration::from_secs(FLOOD_SECS / 2));
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    let told = finish(flood)?;
    let values = told["values"].as_f64().context("values")?;
    let n_reports = told["reports"].as_u64().context("reports")?;
    let n_lost = lost(&site, &told)?;
    ensure!(n_lost == 0, "{n_lost} acknowledged values are not in the store: {told}");
    let rate = values / told["seconds"].as_f64().context("seconds")?;

    // A report of each device now and then: what a value needs.
    wait_drained(&site)?;
    let shows = [Shows::Device, Shows::DeviceStatus];
    let n_devices = usize::try_from(N_DEVICES)?;
    let [to_device, to_status] = shows.map(|of| Delays::watch(&site.cluster, of, n_devices));
    let (to_device, to_status) = (to_device?, to_status?);
    let mqtt = site.edge.mqtt().to_string();
    let pace = (PACE_SECS * 1000).to_string();
    let paced = ["--seconds", &PACED_SECS.to_string(), "--pace", &pace, "--mqtt", &mqtt];
    let told = finish(dmimark(&site, &paced)?)?;
    let to_mqtt: Vec<f64> =
        told["mqtt_ms"].as_array().context("latencies")?.iter().filter_map(Value::as_f64).collect();
    // The last values are on their way.
    sleep(Duration::from_secs(3));
    let (to_device, to_status) = (to_device.stop()?, to_status.stop()?);
    ensure!(
        [&to_mqtt, &to_device, &to_status].iter().all(|seen| seen.len() > 500),
        "{}, {} and {} values were seen",
        to_mqtt.len(),
        to_device.len(),
        to_status.len()
    );
    let n = |list: &[f64]| u32::try_from(list.len()).unwrap_or(u32::MAX);
    Ok(vec![
        Row::new("dmi_reports_per_s", "values/s", Some(rate), None, u32::try_from(n_reports)?),
        Row::new("dmi_reports_lost", "values", Some(n_lost as f64), None, u32::try_from(n_reports)?),
        Row::new("twin_to_mqtt_p50", "ms", percentile(&to_mqtt, 50.0), None, n(&to_mqtt)),
        Row::new("twin_to_mqtt_p99", "ms", percentile(&to_mqtt, 99.0), None, n(&to_mqtt)),
        Row::new("twin_to_api_p50", "ms", percentile(&to_device, 50.0), None, n(&to_device)),
        Row::new("twin_to_api_p99", "ms", percentile(&to_device, 99.0), None, n(&to_device)),
        Row::new("twin_to_devicestatus_p50", "ms", percentile(&to_status, 50.0), None, n(&to_status)),
        Row::new("twin_to_devicestatus_p99", "ms", percentile(&to_status, 99.0), None, n(&to_status)),
    ])
}

fn manifests() -> String {
    let properties: Vec<Value> = (0..N_PROPERTIES)
        .map(|n| {
            json!({"name": format!("p{n}"), "type": "INT", "accessMode": "ReadOnly",
            "visitors": {"protocolName": "mark", "configData": {"n": n}}})
        })
        .collect();
    let named: Vec<Value> =
        (0..N_PROPERTIES).map(|n| json!({"name": format!("p{n}"), "reportToCloud": true})).collect();
    let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "mark", "namespace": "mark"}, "spec": {"protocol": "mark", "properties": properties}});
    let device = |n: u32| {
        json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": {"name": format!("mark-{n:03}"), "namespace": "mark"},
            "spec": {"deviceModelRef": {"name": "mark"}, "nodeName": NODE, "protocol": {"protocolName": "mark"},
                "properties": named}})
    };
    let items: Vec<Value> = std::iter::once(model).chain((0..N_DEVICES).map(device)).collect();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

fn store(site: &Site) -> Result<Connection> {
    Ok(Connection::open_with_flags(site.edge.store(), OpenFlags::SQLITE_OPEN_READ_ONLY)?)
}

fn wait_devices(site: &Site) -> Result<()> {
    eventually(PATIENCE, "all devices to be on the node", || {
        let count: u32 = store(site)?.query_row("SELECT count(*) FROM device", [], |row| row.get(0))?;
        Ok(if count == N_DEVICES { Seen::Yes(()) } else { Seen::NotYet(format!("{count} are")) })
    })
}

/// What was kept for the cloud has gone there, and every Device shows it.
fn wait_drained(site: &Site) -> Result<()> {
    eventually(Duration::from_secs(120), "kept reports to reach the cloud", || {
        let count: u32 =
            store(site)?.query_row("SELECT count(*) FROM device_report", [], |row| row.get(0))?;
        Ok(if count == 0 { Seen::Yes(()) } else { Seen::NotYet(format!("{count} wait")) })
    })?;
    eventually(Duration::from_secs(120), "every Device to show what its DeviceStatus says", || {
        let n_behind = site.cloud.metric("device_controller_devices_behind")?;
        Ok(if n_behind == 0.0 { Seen::Yes(()) } else { Seen::NotYet(format!("{n_behind} do not")) })
    })
}

/// Acknowledged values that the store does not hold, or only older ones.
fn lost(site: &Site, told: &Value) -> Result<u64> {
    let store = store(site)?;
    let mut statement =
        store.prepare("SELECT name, CAST(actual AS INTEGER) FROM device_twin WHERE namespace = 'mark'")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
    let mut n_lost = 0;
    let mut n_seen = 0;
    for row in rows {
        let (device, held) = row?;
        n_seen += 1;
        let acknowledged = told["acknowledged"][&device].as_i64().unwrap_or_default();
        n_lost += u64::try_from(acknowledged - held).unwrap_or_default();
    }
    ensure!(n_seen == N_DEVICES * N_PROPERTIES, "{n_seen} properties are in the store");
    Ok(n_lost)
}

fn dmimark(site: &Site, more: &[&str]) -> Result<std::process::Child> {
    let program = binary("dmimark", "ISTHMUS_DMIMARK")?;
    Command::new(program)
        .arg("--socket")
        .arg(site.edge.dmi_socket())
        .args(["--devices", &N_DEVICES.to_string(), "--properties", &N_PROPERTIES.to_string()])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start dmimark")
}

fn finish(child: std::process::Child) -> Result<Value> {
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "dmimark ended with {}", output.status);
    serde_json::from_slice(&output.stdout).context("dmimark's last word")
}
