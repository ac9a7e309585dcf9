//! Rows of figures: one JSON file per group in `<target>/bench`, and a table for people.
//!
//! It only writes down; measuring is the caller's. Called by `make bench`.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::process::{run, target_dir};

/// One figure. `ratio` is peer divided by ours: above 1 is better than the peer where less is better.
#[derive(Clone, Debug, Serialize)]
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

/// Writes `<target>/bench/<group>.json` and prints the table.
pub fn write(group: &str, rows: &[Row]) -> Result<()> {
    let folder = target_dir()?.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let path = folder.join(format!("{group}.json"));
    fs::write(&path, serde_json::to_vec_pretty(rows)?)
        .with_context(|| format!("write {}", path.display()))?;
    println!("{group}: {}", path.display());
    print!("{}", table(rows));
    Ok(())
}

fn table(rows: &[Row]) -> String {
    let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
    let mut text =
        String::from("| row | unit | ours | peer | peer/ours | n |\n| --- | --- | --- | --- | --- | --- |\n");
    for row in rows {
        let (ours, peer, ratio) = (cell(row.ours), cell(row.peer), cell(row.ratio));
        text += &format!("| `{}` | {} | {ours} | {peer} | {ratio} | {} |\n", row.name, row.unit, row.n);
    }
    text
}

/// Kernel, cores and memory: enough to know whether two figures may be compared.
fn machine() -> String {
    let n_cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    format!("{n_cores} cores, {} GiB, Linux {kernel}", kib / (1 << 20))
}

fn commit() -> String {
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
            table(&[Row::new("a", "MB", Some(4.0), None, 1)]).ends_with("| `a` | MB | 4.00 | - | - | 1 |\n")
        );
    }
}
