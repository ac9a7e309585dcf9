//! `make bench [BENCH=group]`: measures, and writes down what it found, good or bad.
//!
//! A peer's binaries are named by `PEER_CLOUDCORE`, `PEER_EDGECORE` and `PEER_KEADM`; without them its column is empty.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use e2e::bench::{Row, write};
use e2e::process::target_dir;

type Group = (&'static str, fn() -> Result<Vec<Row>>);
const GROUPS: &[Group] = &[("size", size)];

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
    for (name, measure) in GROUPS.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name)) {
        write(name, &measure().with_context(|| format!("measure {name}"))?)?;
    }
    Ok(())
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
    [("cloudcore", "PEER_CLOUDCORE"), ("edgecore", "PEER_EDGECORE")].into_iter().map(row).collect()
}
