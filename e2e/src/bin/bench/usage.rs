//! What a process uses, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// How long everything is left alone before memory is read.
pub(crate) const QUIET: Duration = Duration::from_secs(30);

/// In what the kernel tells programs, on every architecture of ours.
const TICKS_PER_SECOND: f64 = 100.0;

/// Bytes of a line of `/proc/<pid>/status` that counts kB, such as `VmRSS`.
pub(crate) fn memory(pid: u32, field: &str) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kib.with_context(|| format!("no {field} of process {pid}"))? as f64 * 1024.0)
}

/// CPU seconds that a process has used since it started.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    // Behind the program's name, which may hold spaces: user and system time are the 12th and 13th field from there.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// The value below which `percent` of the samples lie.
pub(crate) fn percentile(samples: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let check = |samples: &[f64], percent, expected| assert_eq!(percentile(samples, percent), expected);
        check(&[3.0, 1.0, 2.0], 50.0, Some(2.0));
        check(&[3.0, 1.0, 2.0], 99.0, Some(3.0));
        check(&[3.0, 1.0, 2.0, 4.0], 50.0, Some(2.0));
        check(&[], 50.0, None);
    }

    #[test]
    fn this_process_uses_something() {
        let this = std::process::id();
        assert!(memory(this, "VmRSS").unwrap() > 1e5);
        assert!(memory(this, "VmNone").is_err());
        cpu_seconds(this).unwrap();
    }
}
