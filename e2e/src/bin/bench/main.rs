//! `make bench [BENCH=group]`: measures, and writes down what it found, good or bad.
//!
//! A peer's binaries are named by `PEER_CLOUDCORE`, `PEER_EDGECORE` and `PEER_KEADM`; without them its column is empty.
//! What is measured is what ships: `ISTHMUS_CLOUDCORE`, `ISTHMUS_EDGECORE`, `ISTHMUS_KEADM` and `ISTHMUS_EDGEMARK` name the binaries.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use e2e::bench::{Row, document, write};
use e2e::process::target_dir;

mod cgroup;
mod delays;
mod devices;
mod exec;
mod fleet;
mod followers;
mod install;
mod link;
mod logs;
mod memory;
mod modbus;
mod pod;
mod probed;
mod usage;

/// One stretch of work that gives some rows.
type Measure = fn() -> Result<Vec<Row>>;

/// Name, and what is done for it, in this order. One measure that fails does not hold up the others.
const GROUPS: &[(&str, &[Measure])] = &[
    ("size", &[size, install::images]),
    ("install", &[install::init_and_join]),
    ("memory", &[memory::links, memory::nodes, memory::edgecore]),
    ("pod", &[pod::starts_and_restart]),
    ("kubelet", &[probed::thirty, logs::followed, exec::sessions]),
    ("link", &[link::half_open]),
    ("devices", &[devices::reports, modbus::reads, modbus::noisy_signal]),
    ("fleet", &[fleet::ten_thousand]),
    ("cgroup", &[cgroup::small_machine]),
];

fn main() -> ExitCode {
    match bench(std::env::args().nth(1).as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(wanted: Option<&str>) -> Result<()> {
    let names: Vec<&str> = GROUPS.iter().map(|(name, _)| *name).collect();
    if let Some(wanted) = wanted.filter(|wanted| !names.contains(wanted)) {
        bail!("no group {wanted:?}; there are: {}", names.join(", "));
    }
    let mut failed = Vec::new();
    for (name, measures) in GROUPS.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name)) {
        let (mut rows, n_failed) = (Vec::new(), failed.len());
        for measure in *measures {
            match measure() {
                Ok(found) => rows.extend(found),
                Err(error) => failed.push(format!("{name}: {error:#}")),
            }
        }
        write(name, rows, failed.len() == n_failed)?;
    }
    document(&names)?;
    if failed.is_empty() { Ok(()) } else { bail!("not everything could be measured:\n{}", failed.join("\n")) }
}

/// Binaries as they ship, in MB.
fn size() -> Result<Vec<Row>> {
    let folder = target_dir()?.join("dist");
    let megabytes = |path: &Path| -> Result<f64> {
        let length =
            std::fs::metadata(path).with_context(|| format!("read size of {}", path.display()))?.len();
        Ok(length as f64 / 1e6)
    };
    let row = |(name, peer): (&str, &str)| -> Result<Row> {
        let ours = megabytes(&folder.join(name)).context("type: make dist")?;
        let peer = std::env::var_os(peer).map(PathBuf::from).map(|path| megabytes(&path)).transpose()?;
        Ok(Row::new(&format!("binary_{name}"), "MB", Some(ours), peer, 1))
    };
    [("cloudcore", "PEER_CLOUDCORE"), ("edgecore", "PEER_EDGECORE"), ("keadm", "PEER_KEADM")]
        .into_iter()
        .map(row)
        .collect()
}
