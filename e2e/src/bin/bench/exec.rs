//! A thousand commands in a container through the API server, half of them cut off: what is left of them in edgecore, in cloudcore
//! and at the runtime.

use std::collections::BTreeMap;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use e2e::api_client::ApiClient;
use e2e::bench::Row;
use e2e::process::of_run;
use e2e::site::{PATIENCE, Site, Wishes, http_get, shell_pod};
use e2e::wait::{Seen, eventually};
use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::usage::{QUIET, memory, percentile};

/// After so many sessions all caches are full, and what is held is noted for the first time.
const FEW: u32 = 100;
const ALL: u32 = 1000;
/// Sessions at a time.
const AT_ONCE: usize = 10;
const PODS: u32 = 2;
/// Readings of what is held.
const LOOKS: u32 = 15;

/// One half is asked to say a word and is heard to the end. Of the other half some wait for input, some end by themselves a moment
/// after they are cut off: a command that does neither goes on with every kubelet, since no runtime is told to end it.
const SCRIPTS: [(&str, bool); 4] = [
    ("echo ready", true),
    ("echo ready; cat", false),
    ("echo ready; echo else >&2; sleep 0.2", true),
    ("echo ready; sleep 5; echo gone", false),
];

pub(crate) fn sessions() -> Result<Vec<Row>> {
    let all = std::env::var("BENCH_SESSIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(ALL);
    let mut site = Site::start("bench-exec", &Wishes::default())?;
    for number in 0..PODS {
        site.cluster.apply(&shell_pod(&format!("exec-{number}"), "exec sleep 100000", &Value::Null))?;
    }
    for number in 0..PODS {
        site.wait_running(&format!("exec-{number}"))?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let api = ApiClient::new(&site.cluster)?;
    let mut millis = run(&runtime, &api, 0..FEW)?;
    let after_few = Held::settled(&mut site)?;
    millis.extend(run(&runtime, &api, FEW..all)?);
    let after_all = Held::settled(&mut site)?;
    eprintln!("after {FEW}: {after_few:?}\nafter {all}: {after_all:?}");

    let mut rows = vec![
        Row::new("exec_p50", "ms", percentile(&millis, 50.0), None, millis.len() as u32),
        Row::new("exec_p99", "ms", percentile(&millis, 99.0), None, millis.len() as u32),
    ];
    for (name, few) in &after_few.0 {
        let now = after_all.0.get(name).with_context(|| format!("{name} is not there any more"))?;
        let (unit, value) = if *name == "exec_processes_left" {
            ("processes", now - few)
        } else {
            ("%", (now / few - 1.0) * 100.0)
        };
        rows.push(Row::new(name, unit, Some(value), None, all));
    }
    Ok(rows)
}

/// What is held when nothing moves.
#[derive(Debug)]
struct Held(BTreeMap<&'static str, f64>);

impl Held {
    fn settled(site: &mut Site) -> Result<Self> {
        eventually(PATIENCE, "all streams to have ended", || {
            let n_open = site.cloud.metric("cloud_stream_open_streams")?;
            Ok(if n_open == 0.0 { Seen::Yes(()) } else { Seen::NotYet(format!("{n_open} are open")) })
        })?;
        // Threads for files end when they have had nothing to do for ten seconds.
        sleep(QUIET);
        let mut least = Self::now(site)?.0;
        // Something small is always under way, a lease or this very question: what stays is the least of many looks.
        for _ in 0..LOOKS {
            sleep(Duration::from_secs(1));
            for (name, value) in Self::now(site)?.0 {
                least.entry(name).and_modify(|least| *least = value.min(*least));
            }
        }
        Ok(Self(least))
    }

    fn now(site: &mut Site) -> Result<Self> {
        site.edge.process.must_run()?;
        site.cloud.process.must_run()?;
        let edge = site.edge.process.pid().context("edgecore has no process")?;
        let cloud = site.cloud.process.pid().context("cloudcore has no process")?;
        let kubelet = site.edge.kubelet();
        let numbers = http_get(&kubelet.ip().to_string(), kubelet.port(), "/metrics")?;
        let edge_tasks = metric(&numbers, "edgecore_tasks")?;
        let cloud_tasks = site.cloud.metric("cloudcore_tasks")?;
        Ok(Self(BTreeMap::from([
            ("exec_edgecore_files_growth", n_files(edge)?),
            ("exec_edgecore_threads_growth", n_threads(edge)?),
            ("exec_edgecore_tasks_growth", edge_tasks),
            ("exec_edgecore_anon_growth", memory(edge, "RssAnon")?),
            ("exec_cloudcore_files_growth", n_files(cloud)?),
            ("exec_cloudcore_threads_growth", n_threads(cloud)?),
            ("exec_cloudcore_tasks_growth", cloud_tasks),
            ("exec_cloudcore_anon_growth", memory(cloud, "RssAnon")?),
            ("exec_processes_left", of_run(site.runtime.run_dir().path()).len() as f64),
        ])))
    }
}

fn metric(text: &str, name: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.with_context(|| format!("there is no metric {name}"))?.trim().parse().context("read a metric")
}

fn n_files(pid: u32) -> Result<f64> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("files of process {pid}"))?;
    Ok(files.count() as f64)
}

fn n_threads(pid: u32) -> Result<f64> {
    let threads =
        fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("threads of process {pid}"))?;
    Ok(threads.count() as f64)
}

/// Milliseconds of each session that was heard to its end.
fn run(runtime: &Runtime, api: &ApiClient, numbers: std::ops::Range<u32>) -> Result<Vec<f64>> {
    runtime.block_on(async {
        let (mut going, mut millis) = (JoinSet::new(), Vec::new());
        for number in numbers {
            if going.len() >= AT_ONCE
                && let Some(done) = going.join_next().await
            {
                millis.extend(done??);
            }
            let api = api.clone();
            going.spawn(async move {
                let one = tokio::time::timeout(PATIENCE, session(&api, number)).await;
                one.context("it did not end")?.with_context(|| format!("session {number}"))
            });
        }
        for done in going.join_all().await {
            millis.extend(done?);
        }
        Ok(millis)
    })
}

async fn session(api: &ApiClient, number: u32) -> Result<Option<f64>> {
    let begun = Instant::now();
    let (script, is_heard) = SCRIPTS[number as usize % SCRIPTS.len()];
    let script = script.replace(' ', "+").replace(';', "%3B").replace('>', "%3E").replace('&', "%26");
    let pod = number % PODS;
    let stdin = if is_heard { "" } else { "&stdin=true" };
    let path = format!(
        "/api/v1/namespaces/default/pods/exec-{pod}/exec?stdout=true&stderr=true{stdin}&command=sh&command=-c&command={script}"
    );
    let mut stream = api.upgrade(&path).await?;
    let (mut said, mut status) = (Vec::new(), None);
    while let Some(message) = stream.next().await {
        let bytes = match message {
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Close(_)) => break,
            Ok(_) => continue,
            // All was said; how it hangs up is no matter.
            Err(_) if status.is_some() => break,
            Err(error) => return Err(error).context("the stream broke"),
        };
        match bytes.split_first() {
            Some((1, text)) => said.extend_from_slice(text),
            Some((3, text)) => {
                status = Some(serde_json::from_slice::<Value>(text).context("read the status")?)
            }
            _ => {}
        }
        if !is_heard && said.starts_with(b"ready") {
            // As when a laptop is closed: no word of farewell.
            return Ok(None);
        }
    }
    let status = status.unwrap_or(json!({}));
    if !is_heard {
        bail!("it ended by itself: {status}");
    }
    ensure!(said == b"ready\n" && status.get("status") == Some(&json!("Success")), "{said:?}, {status}");
    Ok(Some(begun.elapsed().as_secs_f64() * 1e3))
}
