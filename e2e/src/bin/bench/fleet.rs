//! Ten thousand devices over ten nodes, one report of each a minute: what that costs cloudcore, edgecore and the API server, and
//! how fresh the cluster's values are.

use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::bench::Row;
use e2e::cluster::{Cluster, Options};
use e2e::node::{CloudCore, EdgeCore, EdgeOptions, binary};
use e2e::process::Process;
use e2e::runtime::Runtime;
use e2e::wait::{Seen, eventually};
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use crate::delays::{Delays, Shows, now_ms};
use crate::usage::{memory, percentile};

const N_NODES: u32 = 10;
const PER_NODE: u32 = 1000;
const PACE: Duration = Duration::from_secs(60);
/// What the beginning has left to do is done before anything is counted.
const WARM: Duration = Duration::from_secs(70);
const COUNTED: Duration = Duration::from_secs(120);
/// Ten thousand objects, each with its status.
const PATIENCE: Duration = Duration::from_secs(900);
/// Longer than all; who is left behind ends by itself.
const LIFE_SECS: u32 = 3600;
/// Objects for one kubectl, of which so many run at once: each limits itself.
const PART: usize = 250;
const N_KUBECTL: usize = 20;

pub(crate) fn ten_thousand() -> Result<Vec<Row>> {
    // Nobody is held for lost: that would be work for everybody.
    let cluster = Cluster::start(&Options { node_monitor_grace_secs: 3600, ..Options::default() })?;
    let mut cloud = CloudCore::start(&cluster, &Value::Null)?;
    let runtime = Runtime::start("bench-fleet")?;
    let token = cloud.token(&cluster)?;
    let mut edges = Vec::new();
    for number in 0..N_NODES {
        let options = EdgeOptions::new(&format!("edge-{number}"), &cloud, token.clone());
        // They have no pods, so that one runtime does for all.
        let mut edge = EdgeCore::start(&runtime, &options)?;
        edge.wait_ready(&cluster, PATIENCE)?;
        edges.push(edge);
    }
    let marks = (0..).zip(&edges).map(|(number, edge)| dmimark(number, edge));
    let mut marks: Vec<Process> = marks.collect::<Result<_>>()?;
    let begin = Instant::now();
    create(&cluster)?;
    for edge in &edges {
        eventually(PATIENCE, &format!("the devices of {}", edge.node_name()), || {
            let store = Connection::open_with_flags(edge.store(), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let count: u32 = store.query_row("SELECT count(*) FROM device", [], |row| row.get(0))?;
            Ok(if count == PER_NODE { Seen::Yes(()) } else { Seen::NotYet(format!("{count} are there")) })
        })?;
    }
    let placed = begin.elapsed().as_secs_f64();
    eventually(PATIENCE, "every device to have a value in the cluster", || {
        let n_valued = ages(&cluster, Shows::DeviceStatus)?.len();
        let n_all = usize::try_from(N_NODES * PER_NODE)?;
        Ok(if n_valued == n_all {
            Seen::Yes(())
        } else {
            Seen::NotYet(format!("{n_valued} of {n_all} have"))
        })
    })?;
    eprintln!(
        "{} devices were placed in {placed:.0} s and had values after {:.0} s",
        N_NODES * PER_NODE,
        begin.elapsed().as_secs_f64()
    );

    sleep(WARM);
    let n_devices = usize::try_from(N_NODES * PER_NODE)?;
    let mut to_status = Delays::watch(&cluster, Shows::DeviceStatus, n_devices)?;
    let mut to_device = Delays::watch(&cluster, Shows::Device, n_devices)?;
    to_status.begin()?;
    to_device.begin()?;
    let (start, writes) = (Instant::now(), device_writes(&cluster)?);
    sleep(COUNTED);
    let writes = (device_writes(&cluster)? - writes) / start.elapsed().as_secs_f64();
    let (to_status, to_device) = (to_status.stop()?, to_device.stop()?);
    let (status_ages, device_ages) = (ages(&cluster, Shows::DeviceStatus)?, ages(&cluster, Shows::Device)?);
    cloud.process.must_run()?;
    let of_cloud = memory(cloud.process.pid().context("cloudcore has no process")?, "VmRSS")?;
    let mut of_edges = Vec::new();
    for edge in &mut edges {
        edge.process.must_run()?;
        of_edges.push(memory(edge.process.pid().context("edgecore has no process")?, "VmRSS")?);
    }
    for mark in &mut marks {
        mark.must_run()?;
    }
    let n_all = N_NODES * PER_NODE;
    let n = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Ok(vec![
        Row::new("fleet_cloudcore_rss", "MB", Some(of_cloud / 1e6), None, n_all),
        Row::new(
            "fleet_edgecore_rss_max",
            "MB",
            percentile(&of_edges, 100.0).map(|rss| rss / 1e6),
            None,
            PER_NODE,
        ),
        Row::new("fleet_api_writes_per_s", "writes/s", Some(writes), None, n_all),
        Row::new("fleet_to_devicestatus_p50", "ms", percentile(&to_status, 50.0), None, n(to_status.len())),
        Row::new("fleet_to_devicestatus_p99", "ms", percentile(&to_status, 99.0), None, n(to_status.len())),
        Row::new(
            "devices_10000_freshness_p99",
            "s",
            percentile(&status_ages, 99.0),
            None,
            n(status_ages.len()),
        ),
        Row::new("fleet_to_device_p50", "ms", percentile(&to_device, 50.0), None, n(to_device.len())),
        Row::new("fleet_to_device_p99", "ms", percentile(&to_device, 99.0), None, n(to_device.len())),
        Row::new(
            "fleet_device_freshness_p99",
            "s",
            percentile(&device_ages, 99.0),
            None,
            n(device_ages.len()),
        ),
    ])
}

/// All models and devices; those of a node have a namespace of their own, since `dmimark` names them alike.
fn create(cluster: &Cluster) -> Result<()> {
    let properties = json!([{"name": "p0", "type": "INT", "accessMode": "ReadOnly"}]);
    let mut parts = Vec::new();
    for node in 0..N_NODES {
        let namespace = format!("mark-{node}");
        cluster.kubectl_ok(&["create", "namespace", &namespace])?;
        let model = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
            "metadata": {"name": "mark", "namespace": namespace}, "spec": {"protocol": "mark", "properties": properties}});
        cluster.apply(&model.to_string())?;
        let device = |number: u32| {
            json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
                "metadata": {"name": format!("mark-{number:03}"), "namespace": namespace},
                "spec": {"deviceModelRef": {"name": "mark"}, "nodeName": format!("edge-{node}"),
                    "protocol": {"protocolName": "mark"}, "properties": [{"name": "p0", "reportToCloud": true}]}})
        };
        let devices: Vec<Value> = (0..PER_NODE).map(device).collect();
        parts.extend(
            devices.chunks(PART).map(|part| json!({"apiVersion": "v1", "kind": "List", "items": part})),
        );
    }
    for (round, parts) in parts.chunks(N_KUBECTL).enumerate() {
        let mut running = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            let path = cluster.run_dir().write(&format!("fleet-{round}-{number}.json"), part.to_string())?;
            let mut kubectl =
                cluster.kubectl_command(&["create", "--validate=false", "--output=name", "--filename"]);
            kubectl.arg(path).stdout(Stdio::null());
            running.push(kubectl.spawn().context("start kubectl")?);
        }
        for mut kubectl in running {
            ensure!(kubectl.wait()?.success(), "kubectl could not create the devices");
        }
    }
    Ok(())
}

/// Registered before the devices come, so that none is missing a mapper; it reports on each as soon as it is there.
fn dmimark(number: u32, edge: &EdgeCore) -> Result<Process> {
    let folder = edge.run_dir().path();
    let arguments = [
        format!("--socket={}", edge.dmi_socket().display()),
        format!("--serve={}", folder.join("mark.sock").display()),
        format!("--namespace=mark-{number}"),
        format!("--devices={PER_NODE}"),
        "--properties=1".into(),
        format!("--seconds={LIFE_SECS}"),
        format!("--pace={}", PACE.as_millis()),
    ];
    let mut mark = Process::new(folder, "dmimark", &binary("dmimark", "ISTHMUS_DMIMARK")?, arguments);
    mark.start()?;
    Ok(mark)
}

/// Seconds since each device's value was measured, as the cluster has it; nothing for one that has none.
fn ages(cluster: &Cluster, of: Shows) -> Result<Vec<f64>> {
    let template =
        "--output=jsonpath={range .items[*]}{.status.twins[*].reported.metadata.timestamp}{\"\\n\"}{end}";
    let text = cluster.kubectl_ok(&["get", of.resource(), "--all-namespaces", template])?;
    let now = now_ms();
    Ok(text.lines().filter_map(|line| Some((now - line.trim().parse::<f64>().ok()?) / 1000.0)).collect())
}

/// Writes of Devices and DeviceStatuses that the API server has carried out.
fn device_writes(cluster: &Cluster) -> Result<f64> {
    let text = cluster.kubectl_ok(&["get", "--raw=/metrics"])?;
    let is_write = |line: &&str| {
        line.starts_with("apiserver_request_total{")
            && line.contains("resource=\"device")
            && ["PATCH", "POST", "PUT"].iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")))
    };
    Ok(text.lines().filter(is_write).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}
