//! Whether edgecore lives with ten pods on a small machine: one CPU and 64 MB, as a cgroup allows it.
//!
//! Only edgecore is inside; its pods have cgroups of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;

use anyhow::{Context, Result};
use e2e::bench::Row;
use e2e::leftovers::Leftover;
use e2e::site::{PATIENCE, Site, Wishes, shell_pod};
use serde_json::Value;

use crate::usage::{QUIET, memory};

const N_PODS: u32 = 10;
const BYTES: u64 = 64_000_000;
const PERIOD_MICROS: u32 = 100_000;

pub(crate) fn small_machine() -> Result<Vec<Row>> {
    let mut site = Site::prepare("bench-cgroup", &Wishes::default())?;
    let name = format!("{}-agent", site.runtime.cgroup_root().trim_matches('/'));
    site.edge.run_dir().record(&Leftover::Cgroup(format!("/{name}")))?;
    let cgroup = Cgroup::new(&name)?;
    // The shell goes in and becomes edgecore.
    let enter: Vec<String> =
        cgroup.folders().map(|folder| format!("echo $$ > {}/cgroup.procs", folder.display())).collect();
    let script = format!("{} && exec \"$0\" \"$@\"", enter.join(" && "));
    site.edge.process.wrap(Path::new("/bin/sh"), &["-c", &script]);
    site.edge.process.start()?;
    let lives = live(&mut site);
    if let Err(error) = &lives {
        eprintln!("cgroup: {error:#}");
    }
    let peak = cgroup.peak()?;
    let own = site.edge.process.pid().and_then(|pid| memory(pid, "VmHWM").ok());
    let value = if lives.is_ok() { 1.0 } else { 0.0 };
    Ok(vec![
        Row::new("edgecore_lives_in_64MB", "yes", Some(value), None, N_PODS),
        // With page cache and kernel memory, which the kernel takes back when the limit nears.
        Row::new("edgecore_peak_10pods_bytes", "bytes", Some(peak as f64), None, N_PODS),
        Row::new("edgecore_rss_peak_10pods", "MB", own.map(|own| own / 1e6), None, N_PODS),
    ])
}

fn live(site: &mut Site) -> Result<()> {
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    for number in 0..N_PODS {
        site.cluster.apply(&shell_pod(&format!("small-{number}"), "exec sleep 100000", &Value::Null))?;
    }
    for number in 0..N_PODS {
        site.wait_running(&format!("small-{number}"))?;
    }
    sleep(QUIET);
    site.edge.process.must_run()?;
    site.edge.wait_ready(&site.cluster, PATIENCE)
}

/// One cgroup with both limits, of either version.
struct Cgroup {
    memory: PathBuf,
    /// The same as `memory` in version 2.
    cpu: PathBuf,
    v1: bool,
}

impl Cgroup {
    fn new(name: &str) -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let v1 = root.join("memory").is_dir();
        let (memory, cpu) = if v1 {
            (root.join("memory").join(name), root.join("cpu").join(name))
        } else {
            (root.join(name), root.join(name))
        };
        let cgroup = Self { memory, cpu, v1 };
        for folder in cgroup.folders() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let set = |folder: &Path, file: &str, value: String| {
            let path = folder.join(file);
            fs::write(&path, &value).with_context(|| format!("write {value} to {}", path.display()))
        };
        if v1 {
            set(&cgroup.memory, "memory.limit_in_bytes", BYTES.to_string())?;
            set(&cgroup.cpu, "cpu.cfs_period_us", PERIOD_MICROS.to_string())?;
            set(&cgroup.cpu, "cpu.cfs_quota_us", PERIOD_MICROS.to_string())?;
        } else {
            set(&cgroup.memory, "memory.max", BYTES.to_string())?;
            set(&cgroup.cpu, "cpu.max", format!("{PERIOD_MICROS} {PERIOD_MICROS}"))?;
        }
        Ok(cgroup)
    }

    fn folders(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.memory.as_path()).chain(self.v1.then_some(self.cpu.as_path()))
    }

    fn peak(&self) -> Result<u64> {
        let path = self.memory.join(if self.v1 { "memory.max_usage_in_bytes" } else { "memory.peak" });
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.trim().parse().with_context(|| format!("{} holds {text:?}", path.display()))
    }
}
