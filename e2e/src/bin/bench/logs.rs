//! Two hundred followed logs of one node: whether a byte of them is missing, and whether pods change as soon as without them.
//!
//! The same pods write in both halves; in the second they are followed through the API server, and of that half's second part one
//! follower of a large log does not read.

#![expect(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::api_client::ApiClient;
use e2e::bench::Row;
use e2e::site::{PATIENCE, Site, Wishes, shell_pod};
use e2e::wait::until;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::delays::now_ms;
use crate::followers::{Heard, follow};
use crate::pod::Pods;
use crate::usage::{cpu_seconds, memory, percentile};

const WRITERS: u32 = 20;
const FOLLOWERS: u32 = 200;
/// Of these as many are kubectls, as a person has them.
const KUBECTLS: u32 = 6;
/// All followers together hear a megabyte a second: each writer says five lines of a kilobyte every second.
const LINES_PER_SEC: u32 = 5;
const LINE_BYTES: usize = 1000;
/// How long pods change without followers, and how long with them.
const HALF: Duration = Duration::from_secs(60);
/// Between two changes of a pod; every fourth time another pod is made as well.
const PAUSE: Duration = Duration::from_millis(400);
/// Until the last follower has heard what was written last.
const FAREWELL: Duration = Duration::from_secs(20);
/// What the follower that does not read has in the kernel.
const SMALL_BUFFER: u32 = 4 << 10;

pub(crate) fn followed() -> Result<Vec<Row>> {
    let mut site = Site::start("bench-logs", &Wishes::default())?;
    let say = "x=$(head -c 960 /dev/zero | tr '\\0' x); n=0";
    let script = format!(
        "{say}; while true; do for i in $(seq {LINES_PER_SEC}); do echo $n $x; n=$((n+1)); done; sleep 1; done"
    );
    for number in 0..WRITERS {
        site.cluster.apply(&shell_pod(&format!("writer-{number}"), &script, &Value::Null))?;
    }
    // More than all buffers between it and its reader.
    let large = "head -c 60000000 /dev/zero | tr '\\0' x | fold -w 1000; exec sleep 100000";
    site.cluster.apply(&shell_pod("large", large, &Value::Null))?;
    site.cluster.apply(&changing_pod())?;
    for number in 0..WRITERS {
        site.wait_running(&format!("writer-{number}"))?;
    }
    site.wait_running("large")?;
    let changing = Changing::new(&mut site)?;
    // The large log is written by then, and pages are where they will be.
    sleep(Duration::from_secs(10));

    let quiet = changing.change_for(&mut site, HALF)?;
    let logs = Followed::start(&changing, &site)?;
    let begun = Instant::now();
    let (cpu, first_part) = (logs.cpu(&site)?, HALF / 2);
    let mut loaded = changing.change_for(&mut site, first_part)?;
    let stalled = changing.runtime.block_on(logs.api.follow(&log_path("large", ""), Some(SMALL_BUFFER)))?;
    let stalled_since = Instant::now();
    loaded.extend(changing.change_for(&mut site, HALF.saturating_sub(first_part))?);
    let cpu = (logs.cpu(&site)? - cpu) / begun.elapsed().as_secs_f64() * 100.0;
    let [edge, cloud] = logs.memory(&site)?;
    let seconds = begun.elapsed().as_secs_f64();
    let (heard, n_lost) = logs.stop(&changing.runtime)?;
    drop(stalled);
    rows(&quiet, &loaded, &Logs { heard, n_lost, seconds, stalled_since, cpu, edge, cloud })
}

/// What followers tell in the end.
struct Logs {
    heard: Vec<Heard>,
    n_lost: f64,
    seconds: f64,
    stalled_since: Instant,
    cpu: f64,
    edge: f64,
    cloud: f64,
}

fn rows(quiet: &Times, loaded: &Times, logs: &Logs) -> Result<Vec<Row>> {
    let n_bytes: u64 = logs.heard.iter().map(|heard| heard.n_bytes).sum();
    let of_all = |is_wanted: &dyn Fn(Instant) -> bool| -> Vec<f64> {
        let lags = logs.heard.iter().flat_map(|heard| &heard.lags);
        lags.filter(|(at, _)| is_wanted(*at)).map(|(_, lag)| *lag).collect()
    };
    let (before, after) = (of_all(&|at| at < logs.stalled_since), of_all(&|at| at >= logs.stalled_since));
    ensure!(
        !before.is_empty() && !after.is_empty(),
        "followers heard {} and {} lines",
        before.len(),
        after.len()
    );
    let ms = |name: &str, samples: &[f64], percent: f64| {
        Row::new(name, "ms", percentile(samples, percent), None, samples.len() as u32)
    };
    let ratio = |name: &str, of: &[f64], to: &[f64], percent: f64| {
        let both = percentile(of, percent).zip(percentile(to, percent));
        Row::new(name, "x", both.map(|(of, to)| of / to), None, of.len() as u32)
    };
    Ok(vec![
        Row::new("logs_rate", "MB/s", Some(n_bytes as f64 / 1e6 / logs.seconds), None, FOLLOWERS),
        Row::new("logs_bytes_lost", "bytes", Some(logs.n_lost), None, FOLLOWERS),
        ms("logs_lag_p50", &before, 50.0),
        ms("logs_lag_p99", &before, 99.0),
        ms("logs_lag_one_stalled_p50", &after, 50.0),
        ms("logs_lag_one_stalled_p99", &after, 99.0),
        ms("update_p50", &quiet.updates, 50.0),
        ms("update_p99", &quiet.updates, 99.0),
        ms("update_200logs_p50", &loaded.updates, 50.0),
        ms("update_200logs_p99", &loaded.updates, 99.0),
        ratio("update_200logs_ratio", &loaded.updates, &quiet.updates, 50.0),
        ms("ready_p50", &quiet.starts, 50.0),
        ms("ready_200logs_p50", &loaded.starts, 50.0),
        ratio("ready_200logs_ratio", &loaded.starts, &quiet.starts, 50.0),
        Row::new("edgecore_rss_200logs", "MB", Some(logs.edge / 1e6), None, FOLLOWERS),
        Row::new("cloudcore_rss_200logs", "MB", Some(logs.cloud / 1e6), None, FOLLOWERS),
        Row::new("edgecore_cpu_200logs", "%", Some(logs.cpu), None, FOLLOWERS),
    ])
}

fn log_path(pod: &str, query: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{pod}/log?follow=true{query}")
}

/// A pod with its labels in a file.
fn changing_pod() -> String {
    let more = json!({
        "containers": [{"volumeMounts": [{"name": "info", "mountPath": "/info"}]}],
        "volumes": [{"name": "info", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}],
    });
    shell_pod("changing", "exec sleep 100000", &more)
}

/// How long each change took, in milliseconds.
#[derive(Default)]
struct Times {
    /// Of a label, until it stands in the file that the pod sees.
    updates: Vec<f64>,
    /// From a pod's first event to the one that says Running and ready.
    starts: Vec<f64>,
}

impl Times {
    fn extend(&mut self, more: Self) {
        self.updates.extend(more.updates);
        self.starts.extend(more.starts);
    }
}

/// Changes pods and sees how soon that is so at the edge.
struct Changing {
    runtime: Runtime,
    api: ApiClient,
    pods: Pods,
    /// Of the pod `changing`, on this machine.
    labels: PathBuf,
}

impl Changing {
    fn new(site: &mut Site) -> Result<Self> {
        let pod = site.wait_running("changing")?;
        let uid = pod["metadata"]["uid"].as_str().context("the pod has no uid")?;
        let volume = format!("kubelet/pods/{uid}/volumes/kubernetes.io~downward-api/info/labels");
        let labels = site.edge.run_dir().join(volume);
        ensure!(labels.exists(), "{} is not there", labels.display());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (api, pods) = (ApiClient::new(&site.cluster)?, Pods::watch(&site.cluster)?);
        Ok(Self { runtime, api, pods, labels })
    }

    fn change_for(&self, site: &mut Site, span: Duration) -> Result<Times> {
        let (end, mut times) = (Instant::now() + span, Times::default());
        while Instant::now() < end {
            let mark = format!("m{:.0}", now_ms());
            times.updates.push(self.runtime.block_on(update(&self.api, &self.labels, &mark))?);
            if times.updates.len().is_multiple_of(4) {
                let name = format!("new-{mark}");
                let (created, running) = self.pods.one_start(site, &name)?;
                times.starts.push((running - created).as_seconds_f64() * 1e3);
                site.cluster.kubectl_ok(&["delete", "pod", &name, "--wait=false"])?;
            }
            site.edge.process.must_run()?;
            sleep(PAUSE);
        }
        Ok(times)
    }
}

/// Milliseconds from the request to the file.
async fn update(api: &ApiClient, labels: &Path, mark: &str) -> Result<f64> {
    let patch = json!({"metadata": {"labels": {"mark": mark}}}).to_string();
    let begun = Instant::now();
    let patched = async {
        api.patch("/api/v1/namespaces/default/pods/changing", &patch).await?;
        Ok::<_, anyhow::Error>(())
    };
    let arrived = async {
        while !std::fs::read_to_string(labels).unwrap_or_default().contains(mark) {
            if begun.elapsed() > PATIENCE {
                bail!("label {mark} is not in {} after {} s", labels.display(), PATIENCE.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    };
    let (patched, millis) = tokio::join!(patched, arrived);
    patched?;
    millis
}

/// Everybody who follows.
struct Followed {
    api: ApiClient,
    tasks: Vec<JoinHandle<Result<Heard>>>,
    end: watch::Sender<f64>,
}

impl Followed {
    fn start(changing: &Changing, site: &Site) -> Result<Self> {
        let (end, ending) = watch::channel(0.0);
        let api = changing.api.clone();
        let mut opening = JoinSet::new();
        for number in KUBECTLS..FOLLOWERS {
            let path = log_path(&format!("writer-{}", number % WRITERS), "&tailLines=1&timestamps=true");
            let api = api.clone();
            opening.spawn_on(async move { api.follow(&path, None).await }, changing.runtime.handle());
        }
        let mut tasks = Vec::new();
        for opened in changing.runtime.block_on(opening.join_all()) {
            tasks.push(changing.runtime.spawn(follow(opened?, ending.clone())));
        }
        for number in 0..KUBECTLS {
            let pod = format!("writer-{number}");
            let words = ["logs", "--follow", "--tail=1", "--timestamps", &pod];
            let mut kubectl = tokio::process::Command::from(site.cluster.kubectl_command(&words));
            kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
            let ending = ending.clone();
            tasks.push(changing.runtime.spawn(async move {
                let mut kubectl = kubectl.spawn().context("start kubectl")?;
                follow(kubectl.stdout.take().context("kubectl's output")?, ending).await
            }));
        }
        let wanted = f64::from(FOLLOWERS);
        until(PATIENCE, "all logs to be followed", || {
            Ok(site.cloud.metric("cloud_stream_open_streams")? >= wanted)
        })?;
        Ok(Self { api, tasks, end })
    }

    fn cpu(&self, site: &Site) -> Result<f64> {
        cpu_seconds(site.edge.process.pid().context("edgecore has no process")?)
    }

    /// Of edgecore and cloudcore, bytes.
    fn memory(&self, site: &Site) -> Result<[f64; 2]> {
        let of = |pid: Option<u32>| memory(pid.context("no process")?, "VmRSS");
        Ok([of(site.edge.process.pid())?, of(site.cloud.process.pid())?])
    }

    /// What was heard, and the bytes that were written by now and not heard.
    fn stop(self, runtime: &Runtime) -> Result<(Vec<Heard>, f64)> {
        let end = now_ms();
        self.end.send(end).ok();
        let (mut all, mut n_lost) = (Vec::new(), 0.0);
        let due = Instant::now() + FAREWELL;
        for task in self.tasks {
            let left = due.saturating_duration_since(Instant::now());
            let heard = runtime.block_on(async { tokio::time::timeout(left, task).await });
            let heard = heard.context("a follower hears nothing any more")???;
            n_lost += heard.n_wrong as f64 * LINE_BYTES as f64;
            all.push(heard);
        }
        Ok((all, n_lost))
    }
}
