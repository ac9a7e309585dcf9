//! How long a pod needs from the API server's word to Running as the API server sees it, and what of that is ours; memory
//! and CPU with all of them; and how soon a restarted edgecore has adopted pods while the cloud is away.

#![expect(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::RecvTimeoutError;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use e2e::bench::Row;
use e2e::cluster::Cluster;
use e2e::site::{PATIENCE, Site, Wishes, shell_pod};
use e2e::wait::{Seen, eventually};
use e2e::watch::Watch;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::usage::{QUIET, cpu_seconds, memory, percentile};

const N_PODS: u32 = 30;
const N_ADOPTED: usize = 20;
const SCRIPT: &str = "exec sleep 100000";

/// edgecore says how long each runtime call took, and when a pod wants nothing more.
fn talkative() -> Wishes {
    let level = "info,edgecore::edged::cri=debug,edgecore::edged::worker=debug";
    Wishes { edgecore: json!({"logging": {"format": "json", "level": level}}), ..Wishes::default() }
}

pub(crate) fn starts_and_restart() -> Result<Vec<Row>> {
    let mut site = Site::start("bench-pod", &talkative())?;
    let watch = Pods::watch(&site.cluster)?;
    let (mut totals, mut own) = (Vec::new(), Vec::new());
    // The first one also loads pages and makes cgroups; it is not counted.
    for number in 0..=N_PODS {
        let name = format!("start-{number}");
        let (created, running) = watch.one_start(&site, &name)?;
        if number > 0 {
            let total = (running - created).as_seconds_f64() * 1e3;
            totals.push(total);
            own.push(total - runtime_millis(&site.edge.process.log(), created, running));
        }
    }
    sleep(QUIET);
    let pid = site.edge.process.pid().context("edgecore has no process")?;
    let (cpu, start) = (cpu_seconds(pid)?, Instant::now());
    sleep(QUIET);
    let cpu = (cpu_seconds(pid)? - cpu) / start.elapsed().as_secs_f64() * 100.0;
    let rss = memory(pid, "VmRSS")?;
    let restart = offline_restart(&mut site)?;
    let n = N_PODS;
    Ok(vec![
        Row::new("pod_start_p50", "ms", percentile(&totals, 50.0), None, n),
        Row::new("pod_start_p99", "ms", percentile(&totals, 99.0), None, n),
        Row::new("pod_start_own_p50", "ms", percentile(&own, 50.0), None, n),
        Row::new("edgecore_rss_30pods", "MB", Some(rss / 1e6), None, n),
        Row::new("edgecore_cpu_30pods", "%", Some(cpu), None, n),
        Row::new("offline_restart_20pods", "ms", Some(restart), None, N_ADOPTED as u32),
    ])
}

/// What a watcher sees of pods: name, phase and whether their container is ready.
pub(crate) struct Pods(Watch);

impl Pods {
    pub(crate) fn watch(cluster: &Cluster) -> Result<Self> {
        let columns = "{.metadata.name} {.status.phase} {.status.containerStatuses[0].ready}";
        Ok(Self(cluster.watch(&["pods"], columns)?))
    }

    /// Creates a pod; gives when the API server had it and when it called it Running.
    pub(crate) fn one_start(&self, site: &Site, name: &str) -> Result<(OffsetDateTime, OffsetDateTime)> {
        site.cluster.apply(&shell_pod(name, SCRIPT, &Value::Null))?;
        let mut created = None;
        let end = Instant::now() + PATIENCE;
        loop {
            let (at, seen) = match self.0.seen.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(seen) => seen,
                Err(RecvTimeoutError::Timeout) => {
                    let pod = site.pod(name)?;
                    let (node, status) = (&pod["spec"]["nodeName"], &pod["status"]);
                    bail!("pod {name} of node {node} is not Running: {status}")
                }
                Err(RecvTimeoutError::Disconnected) => bail!("kubectl's watch has ended"),
            };
            let Some(of_it) = seen.strip_prefix(&format!("{name} ")) else { continue };
            let created = *created.get_or_insert(at);
            if of_it == "Running true" {
                return Ok((created, at));
            }
        }
    }
}

/// Milliseconds between `from` and `to` during which at least one call to the runtime was under way.
fn runtime_millis(log: &str, from: OffsetDateTime, to: OffsetDateTime) -> f64 {
    let mut calls: Vec<(OffsetDateTime, OffsetDateTime)> = lines(log)
        .filter_map(|(at, line)| {
            let micros = i64::try_from(line["micros"].as_u64()?).ok()?;
            let begun = (at - time::Duration::microseconds(micros)).max(from);
            (begun < at.min(to)).then_some((begun, at.min(to)))
        })
        .collect();
    calls.sort_unstable();
    let (mut millis, mut covered) = (0.0, from);
    for (begun, ended) in calls {
        let begun = begun.max(covered);
        if begun < ended {
            millis += (ended - begun).as_seconds_f64() * 1e3;
            covered = ended;
        }
    }
    millis
}

/// Lines of a log in JSON, with their time.
fn lines(log: &str) -> impl Iterator<Item = (OffsetDateTime, Value)> {
    let all = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter_map(|line| Some((OffsetDateTime::parse(line["timestamp"].as_str()?, &Rfc3339).ok()?, line)))
}

/// Milliseconds from the start of edgecore, its cloud away, until no pod wants anything more. Fails if a container changed.
fn offline_restart(site: &mut Site) -> Result<f64> {
    for number in N_ADOPTED as u32..=N_PODS {
        site.cluster.kubectl_ok(&["delete", "pod", &format!("start-{number}"), "--wait=false"])?;
    }
    for number in N_ADOPTED as u32..=N_PODS {
        site.wait_gone(&format!("start-{number}"))?;
    }
    let containers = 2 * N_ADOPTED;
    eventually(PATIENCE, "removed pods to have left the runtime", || {
        let n = site.runtime.running()?.len();
        Ok(if n == containers { Seen::Yes(()) } else { Seen::NotYet(format!("{n} containers run")) })
    })?;
    let before: BTreeSet<String> = site.runtime.running()?.into_iter().collect();
    site.cut();
    site.edge.process.stop()?;
    let start = OffsetDateTime::from(SystemTime::now());
    site.edge.process.start()?;
    let adopted = eventually(PATIENCE, &format!("{N_ADOPTED} pods to be adopted"), || {
        site.edge.process.must_run()?;
        let mut first: BTreeMap<String, OffsetDateTime> = BTreeMap::new();
        for (at, line) in lines(&site.edge.process.log()) {
            if line["message"] == "nothing to do for a pod now"
                && let Some(pod) = line["pod"].as_str()
            {
                first.entry(pod.to_owned()).or_insert(at);
            }
        }
        let n = first.len();
        let last = first.into_values().max();
        Ok(match last {
            Some(last) if n >= N_ADOPTED => Seen::Yes(last),
            _ => Seen::NotYet(format!("{n} adopted")),
        })
    })?;
    // Long enough for a mistake to show.
    sleep(Duration::from_secs(10));
    let after: BTreeSet<String> = site.runtime.running()?.into_iter().collect();
    ensure!(before == after, "containers changed over a restart of edgecore: {before:?} and {after:?}");
    site.heal();
    Ok((adopted - start).as_seconds_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_the_runtime_is_counted_once() {
        let time = |millis: i64| OffsetDateTime::UNIX_EPOCH + time::Duration::milliseconds(millis);
        let call = |end: i64, millis: i64| {
            let at = time(end).format(&Rfc3339).unwrap();
            format!("{{\"timestamp\":\"{at}\",\"micros\":{}}}\n", millis * 1000)
        };
        let check = |calls: &[(i64, i64)], expected: f64| {
            let log: String = calls.iter().map(|(end, millis)| call(*end, *millis)).collect();
            assert_eq!(runtime_millis(&log, time(1000), time(2000)), expected, "{log}");
        };
        check(&[], 0.0);
        check(&[(1500, 100)], 100.0);
        check(&[(1500, 100), (1550, 100)], 150.0);
        check(&[(1500, 300), (1450, 50)], 300.0);
        check(&[(1100, 500), (2100, 200)], 200.0);
        check(&[(900, 100), (2500, 100)], 0.0);
    }
}
