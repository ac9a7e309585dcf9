//! The cloud is away, edgecore is killed meanwhile: every value that edgecore acknowledged still reaches the cloud, in order, and
//! what somebody wished for in the cloud reaches the device.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use e2e::devices::{Mapper, reported};
use e2e::site::{NODE, PATIENCE, Site, Wishes};
use e2e::tap::Tap;
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

const MODEL: &str = r#"{
    "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
    "metadata": {"name": "machine", "namespace": "plant"},
    "spec": {"protocol": "virtual", "properties": [
        {"name": "pieces", "type": "INT", "accessMode": "ReadOnly"},
        {"name": "speed", "type": "INT", "accessMode": "ReadWrite"}
    ]}
}"#;

fn device(speed: &str) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "press", "namespace": "plant"},
        "spec": {
            "deviceModelRef": {"name": "machine"},
            "nodeName": NODE,
            "protocol": {"protocolName": "virtual", "configData": {}},
            "properties": [
                {"name": "pieces", "collectCycle": 100, "reportToCloud": true,
                 "visitors": {"protocolName": "virtual", "configData": {"signal": "counter"}}},
                {"name": "speed", "collectCycle": 500, "reportToCloud": true, "desired": {"value": speed},
                 "visitors": {"protocolName": "virtual", "configData": {"signal": "setpoint"}}},
            ],
        },
    })
}

#[test]
fn values_of_a_cut_arrive_in_order() -> Result<()> {
    let mut site = Site::prepare("device_offline", &Wishes::default())?;
    let file = |name: &str| site.edge.run_dir().join(name);
    let tap = Tap::new(
        &site.cluster,
        site.cloud.websocket(),
        &file("certs/server.crt"),
        &file("certs/server.key"),
    )?;
    site.link.retarget(tap.address());
    site.edge.process.start()?;
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    let mapper = Mapper::start("mapper-virtual", "virtual", &site.edge)?;
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    site.cluster.apply(MODEL)?;
    site.cluster.apply(&device("5").to_string())?;
    site.wait_reported("press", "speed", "5")?;

    let before = pieces(&tap)?.last().copied().context("pieces were reported")?;
    site.cut();
    wait_kept(&site, 40)?;
    site.edge.process.kill9()?;
    site.cluster.apply(&device("9").to_string())?;
    site.edge.process.start()?;
    wait_kept(&site, 80)?;
    ensure!(reported(&site.device("press")?, "speed").as_deref() == Some("5"), "the cloud is away");
    site.heal();

    // What was wished for meanwhile.
    site.wait_reported("press", "speed", "9")?;
    let all = eventually(PATIENCE, "the values of the cut", || {
        let all = pieces(&tap)?;
        let last = all.last().copied().unwrap_or_default();
        Ok(if last > before + 75 { Seen::Yes(all) } else { Seen::NotYet(format!("{before}, now {last}")) })
    })
    .with_context(|| format!("the mapper's last lines:\n{}", mapper.process.log_end(20)))?;
    // Some may have gone twice: what was under way when the link broke. What edgecore slept through, the mapper kept.
    let mut expected = *all.first().context("values")?;
    let mut gaps = Vec::new();
    for value in all {
        if value > expected {
            gaps.push((expected, value));
        }
        expected = expected.max(value + 1);
    }
    ensure!(gaps.is_empty(), "values are lost or out of order: {gaps:?}");
    let newest = site.wait_device("press", "to be told the newest", |device| {
        reported(device, "pieces")?.parse::<u64>().ok().filter(|value| *value >= expected)
    })?;
    eprintln!("{expected} values without a gap, the newest in the cluster is {newest}");
    Ok(())
}

/// Waits until edgecore keeps so many reports for the cloud.
fn wait_kept(site: &Site, n_reports: u64) -> Result<()> {
    eventually(PATIENCE, &format!("edgecore to keep {n_reports} reports"), || {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let store = rusqlite::Connection::open_with_flags(site.edge.store(), flags)?;
        let count: i64 = store.query_row("SELECT count(*) FROM device_report", [], |row| row.get(0))?;
        let n_kept = u64::try_from(count)?;
        Ok(if n_kept >= n_reports { Seen::Yes(()) } else { Seen::NotYet(format!("{n_kept} are kept")) })
    })
}

fn pieces(tap: &Tap) -> Result<Vec<u64>> {
    let values = tap.values();
    let pieces = values.iter().filter(|value| value.device == "plant/press" && value.property == "pieces");
    pieces.map(|value| value.value.parse().with_context(|| format!("{value:?}"))).collect()
}
