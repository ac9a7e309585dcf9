//! Memory: of cloudcore alone, per idle link and per idle whole node, and of edgecore with one pod.
//!
//! Nodes are simulated by `edgemark`. A whole node is its link, Node object, lease, one pod and one ConfigMap.

#![expect(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null")]

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use e2e::bench::Row;
use e2e::cluster::{Cluster, Options};
use e2e::images::APP;
use e2e::node::{CloudCore, binary};
use e2e::process::Process;
use e2e::site::{Site, Wishes, shell_pod};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

use crate::usage::{QUIET, memory};

const FEW: u32 = 100;
const MANY: u32 = 1000;
const MOST: u32 = 3000;
const PATIENCE: Duration = Duration::from_secs(180);
/// Longer than any measurement; whoever is left behind ends by itself.
const LIFE_SECS: u32 = 900;
/// A quarter of it passes between renewals: 37 a second at 3,000 nodes, which leaves two cores time to be quiet.
const LEASE_SECS: u32 = 320;

/// Control plane and cloudcore, with the CA that simulated nodes sign with.
struct Cloud {
    core: CloudCore,
    cluster: Cluster,
}

impl Cloud {
    fn start() -> Result<Self> {
        // Nobody is held for lost: that would be work for everybody.
        let cluster = Cluster::start(&Options { node_monitor_grace_secs: 3600, ..Options::default() })?;
        let mut core = CloudCore::start(&cluster, &json!({"modules": {"cloudHub": {"nodeLimit": 20_000}}}))?;
        core.token(&cluster)?;
        for (key, file) in [("cadata", "mark-ca.der"), ("cakeydata", "mark-ca-key.der")] {
            let path = format!("--output=jsonpath={{.data.{key}}}");
            let text = cluster.kubectl_ok(&["get", "secret", "casecret", "--namespace=kubeedge", &path])?;
            core.run_dir().write(file, STANDARD.decode(text.trim()).context("decode the CA")?)?;
        }
        Ok(Self { core, cluster })
    }

    fn memory(&mut self, field: &str) -> Result<f64> {
        self.core.process.must_run()?;
        memory(self.core.process.pid().context("cloudcore has no process")?, field)
    }

    /// Simulated nodes `first..first + count`, as soon as all are connected.
    fn nodes(&self, first: u32, count: u32, more: &[&str]) -> Result<Process> {
        let folder = self.core.run_dir();
        let mut arguments = vec![
            format!("--server={}", self.core.websocket()),
            format!("--ca={}", folder.join("mark-ca.der").display()),
            format!("--ca-key={}", folder.join("mark-ca-key.der").display()),
            format!("--first={first}"),
            format!("--count={count}"),
            format!("--seconds={LIFE_SECS}"),
        ];
        arguments.extend(more.iter().map(|&one| one.into()));
        let program = binary("edgemark", "ISTHMUS_EDGEMARK")?;
        let mut nodes = Process::new(folder.path(), &format!("edgemark-{first}"), &program, arguments);
        nodes.start()?;
        wait(&mut nodes, "connected", count)?;
        Ok(nodes)
    }
}

/// Waits until edgemark counts this many.
fn wait(nodes: &mut Process, what: &str, wanted: u32) -> Result<()> {
    eventually(PATIENCE, &format!("{wanted} {what} of {}", nodes.name()), || {
        nodes.must_run()?;
        let last = last_line(nodes);
        let count = last[what].as_u64().unwrap_or(0);
        Ok(if count >= u64::from(wanted) { Seen::Yes(()) } else { Seen::NotYet(last.to_string()) })
    })
    .with_context(|| format!("end of its log:\n{}", nodes.log_end(12)))
}

fn last_line(nodes: &Process) -> Value {
    let log = nodes.log();
    log.lines().rev().find_map(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

/// All nodes are still there, and nothing failed on the way.
fn must_be_whole(nodes: &[&Process]) -> Result<()> {
    for nodes in nodes {
        let last = last_line(nodes);
        ensure!(last["connected"] == last["count"], "{}: links were lost: {last}", nodes.name());
        if last["errors"] != 0 {
            eprintln!("{}: something failed on the way: {last}", nodes.name());
        }
    }
    Ok(())
}

/// Bytes of a link that does nothing but keep alive.
pub(crate) fn links() -> Result<Vec<Row>> {
    let mut cloud = Cloud::start()?;
    sleep(QUIET);
    let idle = cloud.memory("VmRSS")?;
    let many = cloud.nodes(0, MANY, &[])?;
    sleep(QUIET);
    let at_many = cloud.memory("RssAnon")?;
    let most = cloud.nodes(MANY, MOST - MANY, &[])?;
    sleep(QUIET);
    let at_most = cloud.memory("RssAnon")?;
    must_be_whole(&[&many, &most])?;
    let per_link = (at_most - at_many) / f64::from(MOST - MANY);
    Ok(vec![
        Row::new("cloudcore_rss_idle", "MB", Some(idle / 1e6), None, 1),
        Row::new("cloudcore_bytes_per_link_ws", "bytes", Some(per_link), None, MOST),
    ])
}

/// Bytes of a whole node.
pub(crate) fn nodes() -> Result<Vec<Row>> {
    let mut cloud = Cloud::start()?;
    let lease = format!("--lease-secs={LEASE_SECS}");
    let mut whole = |first: u32, count: u32| -> Result<(Process, f64, f64)> {
        let mut nodes = cloud.nodes(first, count, &["--register", &lease])?;
        wait(&mut nodes, "leased", count)?;
        cloud.cluster_objects(first, count)?;
        // Node, pod and ConfigMap.
        wait(&mut nodes, "acked", 3 * count)?;
        sleep(QUIET);
        Ok((nodes, cloud.memory("RssAnon")?, cloud.memory("VmRSS")?))
    };
    let (few, _, rss_few) = whole(0, FEW)?;
    let (many, anon_many, rss_many) = whole(FEW, MANY - FEW)?;
    let (most, anon_most, rss_most) = whole(MANY, MOST - MANY)?;
    must_be_whole(&[&few, &many, &most])?;
    let per_node = (anon_most - anon_many) / f64::from(MOST - MANY);
    Ok(vec![
        Row::new("cloudcore_bytes_per_node_ws", "bytes", Some(per_node), None, MOST),
        Row::new("cloudcore_rss_100nodes", "MB", Some(rss_few / 1e6), None, FEW),
        Row::new("cloudcore_rss_1000nodes", "MB", Some(rss_many / 1e6), None, MANY),
        Row::new("cloudcore_rss_3000nodes", "MB", Some(rss_most / 1e6), None, MOST),
    ])
}

impl Cloud {
    /// A pod and its ConfigMap for each node.
    fn cluster_objects(&self, first: u32, count: u32) -> Result<()> {
        let numbers: Vec<u32> = (first..first + count).collect();
        // kubectl limits itself to 50 requests a second.
        let mut running = Vec::new();
        for (part, numbers) in numbers.chunks(250).enumerate() {
            let objects: Vec<Value> = numbers.iter().flat_map(|number| objects(*number)).collect();
            let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
            let path =
                self.cluster.run_dir().write(&format!("objects-{first}-{part}.json"), list.to_string())?;
            let mut kubectl = self.cluster.kubectl_command(&["create", "--output=name", "--filename"]);
            kubectl.arg(path).stdout(std::process::Stdio::null());
            running.push(kubectl.spawn().context("start kubectl")?);
        }
        for mut kubectl in running {
            ensure!(kubectl.wait()?.success(), "kubectl could not create the nodes' objects");
        }
        Ok(())
    }
}

fn objects(number: u32) -> [Value; 2] {
    let name = format!("mark-{number:05}");
    [
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
               "data": {"settings": "rate=10\nmode=auto\n"}}),
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "mark"}}, "spec": {
            "nodeName": name,
            "automountServiceAccountToken": false,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": APP, "volumeMounts": [{"name": "settings", "mountPath": "/settings"}]}],
            "volumes": [{"name": "settings", "configMap": {"name": name}}],
        }}),
    ]
}

/// edgecore with one running pod.
pub(crate) fn edgecore() -> Result<Vec<Row>> {
    let mut site = Site::start("bench-memory", &Wishes::default())?;
    site.cluster.apply(&shell_pod("one", "exec sleep 100000", &Value::Null))?;
    site.wait_running("one")?;
    sleep(QUIET);
    site.edge.process.must_run()?;
    let rss = memory(site.edge.process.pid().context("edgecore has no process")?, "VmRSS")?;
    Ok(vec![Row::new("edgecore_rss_1pod", "MB", Some(rss / 1e6), None, 1)])
}
