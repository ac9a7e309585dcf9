//! Rows of figures: one JSON file per group in `<target>/bench`, a table for people, and `docs/benchmarks.md`.
//!
//! It only writes down; measuring is the caller's. Called by `make bench`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::process::{run, target_dir};

/// What a row must reach: at most this, in the row's unit.
const BUDGETS: &[(&str, f64)] = &[
    ("binary_cloudcore", 12.0),
    ("binary_edgecore", 12.0),
    ("binary_keadm", 8.0),
    ("join_to_ready", 5.0),
    ("init_to_ready", 30.0),
    ("cloudcore_rss_idle", 20.0),
    ("cloudcore_bytes_per_link_ws", 18_000.0),
    ("cloudcore_bytes_per_node_ws", 24_000.0),
    ("edgecore_rss_1pod", 15.0),
    ("edgecore_rss_30pods", 30.0),
    ("edgecore_cpu_30pods", 1.0),
    ("edgecore_peak_10pods_bytes", 64_000_000.0),
    ("pod_start_p50", 1000.0),
    ("pod_start_p99", 4000.0),
    ("pod_start_own_p50", 150.0),
    ("offline_restart_20pods", 1000.0),
    ("edgecore_rss_30probed", 30.0),
    ("edgecore_cpu_30probed", 1.0),
    ("logs_bytes_lost", 0.0),
    ("exec_edgecore_files_growth", 2.0),
    ("exec_edgecore_threads_growth", 2.0),
    ("exec_edgecore_tasks_growth", 2.0),
    ("exec_edgecore_anon_growth", 2.0),
    ("exec_cloudcore_files_growth", 2.0),
    ("exec_cloudcore_threads_growth", 2.0),
    ("exec_cloudcore_tasks_growth", 2.0),
    ("exec_cloudcore_anon_growth", 2.0),
    ("exec_processes_left", 0.0),
    ("halfopen_to_ready", 45.0),
    ("dmi_reports_lost", 0.0),
    ("twin_to_mqtt_p99", 10.0),
    ("twin_to_api_p99", 1000.0),
];

/// What a row must reach: at least this, in the row's unit.
const FLOORS: &[(&str, f64)] = &[("dmi_reports_per_s", 10_000.0), ("signal_saved", 90.0)];

/// What stands before the tables in `docs/benchmarks.md`.
const PREFACE: &str = "\
# Benchmarks

Written by `make bench`; do not edit. `make bench BENCH=group` measures one group and leaves this file to a run that has them
all. The rows lie as JSON in `<target>/bench/<group>.json`.

Binaries are those of `make dist`. The machine is not reserved: rerun on a quiet one before comparing, and compare only rows of
the same machine. `peer` is empty unless the peer's binaries are named (`PEER_CLOUDCORE`, `PEER_EDGECORE`, `PEER_KEADM`; sizes only so far).

How each is measured:

- `image_*`: the archives of images that `make dist` makes, layers gzipped, as they lie on a disk.
- `join_to_ready`, `init_to_ready`: from the Enter key to the end of `keadm join` and `keadm init`, which is when the cloud calls the
  node Ready and when cloudcore's pod is ready and has made its token; half of ten rounds take no longer, `worst` is the slowest.
  Images are there before; between the rounds both ends are reset. The control plane, cloudcore's node and the edge machine are on
  this one machine.
- `demo_first_run`, `demo_second_run` have no row: `make demo` says itself how long it took. 2026-11-22 on this machine with a
  load of 9 to 18 on its two cores, with debug binaries whose build is not counted: 508 s the first time, of which 479 s went
  into the control plane with its Go modules; 25 to 41 s later.
- `cloudcore_bytes_per_link_ws`, `cloudcore_bytes_per_node_ws`: growth of RssAnon from 1,000 to 3,000 simulated nodes
  (`e2e/edgemark`), divided by 2,000, each after 30 quiet seconds. A node is its link, Node, lease (320 s), one pod and one ConfigMap.
- `cloudcore_rss_*`, `edgecore_rss_*`: VmRSS after 30 quiet seconds.
- `pod_start_*`: 30 pods one after another on one node, image present: from the first event to the one that says Running and
  ready, of one `kubectl get --watch`. `own` is that without the time in which a call to the runtime was under way.
- `offline_restart_20pods`: edgecore's start with the cloud cut off, until it has nothing more to do for any of 20 running
  pods. The row is there only if no container changed.
- `dmi_reports_per_s`: values of 100 devices with 10 properties each, reported by `e2e/edgemark`'s `dmimark` for 10 s as fast as
  they are acknowledged; edgecore is killed with -9 and started after 5 s, and that time counts. More is better.
  `dmi_reports_lost`: acknowledged values that the store does not hold afterwards.
- `twin_to_mqtt_*`, `twin_to_api_*`, `twin_to_devicestatus_*`: 100 devices, each reports 10 values every 5 s: from the mapper's
  call to a subscriber of the embedded broker; from the edge's time stamp to `kubectl get devices --watch`, and to the same of
  devicestatuses.
- `modbus_*_grouped_per_s`, `modbus_*_single_per_s`: 100 holding registers of pymodbus' server on this machine as 100 properties
  of one device, read as fast as it answers for 10 s: neighbours, which share a request, and ten apart, which do not.
- `signal_*`: a temperature with noise of three tenths of a degree, played to one register ten times a second for a minute and
  reported by two devices: every sample, and with `deadband: 0.5`, `heartbeatSecs: 30`. Bytes are those of the messages to the
  cloud within the WebSocket.
- `fleet_*`: 10,000 devices over ten nodes on this machine, each reports one value a minute (`dmimark`). `rss` is VmRSS (of the
  largest edgecore), writes are those of Devices and DeviceStatuses that the API server counts in 120 s, `to_devicestatus` and
  `to_device` are from the edge's time stamp to what `kubectl get --watch` shows of either, for each value that it shows: an API
  server that cannot take 333 writes a second gets the former first, and values that newer ones overtook are shown by nobody. `fleet_device_freshness_p99` and `devices_10000_freshness_p99` are the ages of the values
  that Devices and DeviceStatuses have at the end; half a minute on average is the devices' own pace.
- `edgecore_*_30probed`: 30 pods, each with a readiness probe by HTTP and a liveness probe by a command every 10 s; CPU over 30 s in
  which all of them were made, by edgecore's own count. What a command costs the runtime is not in it.
- `logs_*`, `update_*`, `ready_*`: 20 pods of one node write 5 KB/s each. For a minute nobody follows; then for a minute each is followed
  by ten clients of the API server, six of the 200 being `kubectl logs -f`; from the middle on, another client follows a log of 60 MB
  and does not read. `lag` is from the runtime's time stamp of a line to its follower, and what is lost is told by the lines'
  numbers. `update` is from the request that changes a pod's label to the file in the pod that shows it, `ready` a pod's
  start as in `pod_start_*`; their ratios are those of the middle ones with and without followers, in the same run. The API server
  and all clients share the two cores. `rss` and `cpu` are those with all followers there.
- `exec_*`: commands in containers through the API server over WebSockets, ten at a time; half of them are cut off without a word, of
  which half wait for input then and half end by themselves 5 s later. `growth` is from what was held 30 quiet seconds after 100
  sessions to what is held after 1,000: open files, threads, tasks, RssAnon. `exec_processes_left` counts processes of
  the runtime, containers and shims included.
- `halfopen_to_ready`: the slowest of a half-open link and both one-way links, until the API server has a newer lease and a Ready node.
- `edgecore_lives_in_64MB`: edgecore alone in a cgroup of one CPU and 64 MB starts ten pods and stays Ready (1: yes).
  `edgecore_peak_10pods_bytes` is the cgroup's peak: without pages of the binary that were in memory before, with page cache
  that edgecore made. `edgecore_rss_peak_10pods` is VmHWM.
";

/// One figure. `ratio` is peer divided by ours: above 1 is better than the peer where less is better.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Row {
    pub name: String,
    /// MB (10^6 bytes), bytes, ms, s or per cent of a core.
    pub unit: String,
    pub ours: Option<f64>,
    pub peer: Option<f64>,
    pub ratio: Option<f64>,
    /// How many samples or nodes stand behind it.
    pub n: u32,
    pub machine: String,
    pub commit: String,
}

impl Row {
    pub fn new(name: &str, unit: &str, ours: Option<f64>, peer: Option<f64>, n: u32) -> Self {
        let ratio = ours.zip(peer).filter(|(ours, _)| *ours > 0.0).map(|(ours, peer)| peer / ours);
        Self {
            name: name.into(),
            unit: unit.into(),
            ours,
            peer,
            ratio,
            n,
            machine: machine(),
            commit: commit(),
        }
    }
}

/// Writes `<target>/bench/<group>.json` and prints the table. `is_whole`: nothing of the group has failed; else its rows of
/// earlier runs stay, each with its commit, where there are no new ones.
pub fn write(group: &str, mut rows: Vec<Row>, is_whole: bool) -> Result<()> {
    let path = path(group)?;
    print!("{group}: {}\n{}", path.display(), table(&rows));
    if !is_whole {
        let earlier = read(&path)?.unwrap_or_default();
        rows.extend(not_among(earlier, &rows));
    }
    // Nothing was ever measured: the document goes on saying so.
    if rows.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))
        .with_context(|| format!("create the folder of {}", path.display()))?;
    fs::write(&path, serde_json::to_vec_pretty(&rows)?).with_context(|| format!("write {}", path.display()))
}

fn path(group: &str) -> Result<PathBuf> {
    Ok(target_dir()?.join("bench").join(format!("{group}.json")))
}

/// `None`: that group was never measured.
fn read(path: &Path) -> Result<Option<Vec<Row>>> {
    let Ok(bytes) = fs::read(path) else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).with_context(|| format!("read {}", path.display()))
}

fn not_among(earlier: Vec<Row>, rows: &[Row]) -> Vec<Row> {
    earlier.into_iter().filter(|old| !rows.iter().any(|row| row.name == old.name)).collect()
}

/// Writes `docs/benchmarks.md` from the files of all groups; leaves it alone while one of them was never measured here.
pub fn document(groups: &[&str]) -> Result<()> {
    let mut text = String::from(PREFACE);
    let now = OffsetDateTime::now_utc().date();
    text += &format!("\n{now}, {}.\n", machine());
    for group in groups {
        let Some(rows) = read(&path(group)?)? else {
            println!("docs/benchmarks.md is left as it is: group {group} was not measured yet");
            return Ok(());
        };
        text += &format!("\n## {group}\n\n{}{}", of_commits(&rows), table(&rows));
    }
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?.join("docs");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    fs::write(folder.join("benchmarks.md"), text).context("write docs/benchmarks.md")
}

/// A group may have been measured before the others, and a row before its group: what it is of stands with it.
fn of_commits(rows: &[Row]) -> String {
    let mut commits: Vec<&str> = rows.iter().map(|row| row.commit.as_str()).collect();
    commits.dedup();
    match commits.as_slice() {
        [] => String::new(),
        [one] => format!("Of commit `{one}`.\n\n"),
        _ => {
            let each: Vec<String> =
                rows.iter().map(|row| format!("`{}` of `{}`", row.name, row.commit)).collect();
            format!("Not all was measured at once: {}.\n\n", each.join(", "))
        }
    }
}

fn table(rows: &[Row]) -> String {
    let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    let mut text = String::from(
        "| row | unit | ours | budget | | peer | peer/ours | n |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let (ours, peer, ratio) = (cell(row.ours), cell(row.peer), cell(row.ratio));
        let find =
            |list: &[(&str, f64)]| list.iter().find(|(name, _)| *name == row.name).map(|(_, wanted)| *wanted);
        let (ceiling, floor) = (find(BUDGETS), find(FLOORS));
        let budget = ceiling.or(floor);
        let verdict = match row.ours {
            None => String::new(),
            Some(_) if budget.is_none() => String::new(),
            Some(ours)
                if ceiling.is_none_or(|most| ours <= most) && floor.is_none_or(|least| ours >= least) =>
            {
                "met".to_owned()
            }
            Some(ours) => format!("missed by {:.0} %", (ours / budget.unwrap_or(ours) - 1.0).abs() * 100.0),
        };
        let (name, unit, n, budget) = (&row.name, &row.unit, row.n, cell(budget));
        text += &format!("| `{name}` | {unit} | {ours} | {budget} | {verdict} | {peer} | {ratio} | {n} |\n");
    }
    text
}

/// As many digits as say something.
fn number(value: f64) -> String {
    if value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Kernel, cores and memory: enough to know whether two figures may be compared.
pub fn machine() -> String {
    let n_cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    format!("{n_cores} cores, {} GiB, Linux {kernel}", kib / (1 << 20))
}

/// The commit of the sources, marked where they differ from it.
pub fn commit() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let head = run("git", &["-C", folder, "rev-parse", "--short", "HEAD"]);
    let Ok(head) = head else { return "unknown".into() };
    let clean = Command::new("git").args(["-C", folder, "diff", "--quiet", "HEAD"]).status();
    let mark = if clean.is_ok_and(|status| status.success()) { "" } else { "+changes" };
    format!("{}{mark}", head.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_peer_leaves_no_ratio() {
        assert_eq!(Row::new("a", "MB", Some(4.0), Some(10.0), 1).ratio, Some(2.5));
        assert_eq!(Row::new("a", "MB", Some(4.0), None, 1).ratio, None);
        assert!(
            table(&[Row::new("a", "MB", Some(4.0), None, 1)])
                .ends_with("| `a` | MB | 4.00 | - |  | - | - | 1 |\n")
        );
    }

    #[test]
    fn what_could_not_be_measured_stays_as_it_was() {
        let row = |name: &str, ours: f64, commit: &str| Row {
            commit: commit.into(),
            ..Row::new(name, "s", Some(ours), None, 1)
        };
        let mut rows = vec![row("a", 2.0, "new")];
        rows.extend(not_among(vec![row("a", 1.0, "old"), row("b", 1.0, "old")], &rows));
        let kept: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.ours)).collect();
        assert_eq!(kept, [("a", Some(2.0)), ("b", Some(1.0))]);
        assert_eq!(of_commits(&rows), "Not all was measured at once: `a` of `new`, `b` of `old`.\n\n");
        assert_eq!(of_commits(&rows[..1]), "Of commit `new`.\n\n");
        assert_eq!(of_commits(&[]), "");
    }

    #[test]
    fn a_budget_is_met_or_missed() {
        let check = |ours: f64, expected: &str| {
            let text = table(&[Row::new("pod_start_p50", "ms", Some(ours), None, 30)]);
            assert!(text.contains(expected), "{expected}: {text}");
        };
        check(1000.0, "| 1000 | 1000 | met |");
        check(1500.0, "| 1500 | 1000 | missed by 50 % |");
    }
}
