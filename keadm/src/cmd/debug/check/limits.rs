//! Pure: what the kernel and `df` say of this machine, against what edgecore needs.

use crate::preflight::Finding;

/// KubeEdge's limits.
const MIN_CORES: usize = 1;
const MAX_BUSY_PERCENT: u64 = 90;
const MIN_MEMORY_MB: u64 = 256;
const MIN_FREE_MEMORY_MB: u64 = 128;
const MIN_DISK_MB: u64 = 1024;
const MIN_FREE_DISK_MB: u64 = 512;
const MIN_FREE_PIDS_PERCENT: u64 = 5;

/// Two contents of `/proc/stat`, a while apart.
pub(super) fn cpu(before: &str, after: &str) -> Finding {
    let is_core = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    let n_cores = after.lines().filter(is_core).count();
    // user nice system idle iowait irq softirq steal; guest is part of user.
    let ticks = |stat: &str| -> Option<(u64, u64)> {
        let words: Vec<u64> = stat
            .lines()
            .next()?
            .split_whitespace()
            .skip(1)
            .take(8)
            .map_while(|word| word.parse().ok())
            .collect();
        let idle = words.get(3)? + words.get(4)?;
        Some((words.iter().sum::<u64>(), idle))
    };
    let (Some((all_before, idle_before)), Some((all, idle))) = (ticks(before), ticks(after)) else {
        return Finding::warning(
            "cpu",
            "the processors' load cannot be read from /proc/stat",
            "look with: top",
        );
    };
    let all = all.saturating_sub(all_before).max(1);
    let busy = 100 - (idle.saturating_sub(idle_before).min(all) * 100 / all);
    let found = format!("{n_cores} cores, {busy} % busy");
    if n_cores < MIN_CORES {
        Finding::failed("cpu", found, "edgecore needs one core")
    } else if busy > MAX_BUSY_PERCENT {
        Finding::failed(
            "cpu",
            found,
            format!("more than {MAX_BUSY_PERCENT} % leaves no time for pods; see who uses it: top"),
        )
    } else {
        Finding::ok("cpu", found)
    }
}

/// The content of `/proc/meminfo`.
pub(super) fn memory(meminfo: &str) -> Finding {
    let mb = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? / 1024)
    };
    let (Some(total), Some(free)) = (mb("MemTotal"), mb("MemAvailable")) else {
        return Finding::warning("mem", "the memory cannot be read from /proc/meminfo", "look with: free -m");
    };
    let found = format!("{free} MB of {total} MB memory are free");
    if total < MIN_MEMORY_MB {
        Finding::failed("mem", found, format!("a node needs {MIN_MEMORY_MB} MB"))
    } else if free < MIN_FREE_MEMORY_MB {
        Finding::failed(
            "mem",
            found,
            format!("{MIN_FREE_MEMORY_MB} MB must be free; see who uses it: ps aux --sort=-rss"),
        )
    } else {
        Finding::ok("mem", found)
    }
}

/// What `df -Pk` says of the folder.
pub(super) fn disk(folder: &str, said: &str) -> Finding {
    let words: Vec<&str> = said.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    let mb = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).map(|kb| kb / 1024);
    let (Some(total), Some(free)) = (mb(1), mb(3)) else {
        let look = format!("look with: df -h {folder}");
        return Finding::warning("disk", format!("the room of {folder} is not told by df"), look);
    };
    let found = format!("{folder} has {free} MB of {total} MB free");
    if total < MIN_DISK_MB {
        Finding::failed(
            "disk",
            found,
            format!("a node needs {MIN_DISK_MB} MB; put its data elsewhere with database.dataSource"),
        )
    } else if free < MIN_FREE_DISK_MB {
        let advice =
            format!("{MIN_FREE_DISK_MB} MB must be free; see what takes the room: du -xhd2 {folder}");
        Finding::failed("disk", found, advice)
    } else {
        Finding::ok("disk", found)
    }
}

/// The highest process id, and the content of `/proc/loadavg`.
pub(super) fn pids(max: &str, loadavg: &str) -> Finding {
    let used = loadavg.split_whitespace().nth(3).and_then(|word| word.split_once('/')?.1.parse::<u64>().ok());
    let (Ok(max), Some(used)) = (max.trim().parse::<u64>(), used) else {
        return Finding::warning(
            "pid",
            "the process ids cannot be read from /proc",
            "look with: ps -eLf | wc -l",
        );
    };
    let free = max.saturating_sub(used) * 100 / max.max(1);
    let found = format!("{used} of {max} process ids are used");
    if free > MIN_FREE_PIDS_PERCENT {
        Finding::ok("pid", found)
    } else {
        Finding::failed("pid", found, "see who holds them: ps -eo nlwp,pid,comm --sort=-nlwp | head")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::Verdict;

    #[test]
    fn limits_are_kept() {
        let check = |finding: Finding, expected: Verdict| {
            assert_eq!(finding.verdict, expected, "{}", finding.line());
            assert_eq!(finding.advice.is_empty(), expected == Verdict::Ok, "{}", finding.line());
        };
        let stat = |busy: u64, idle: u64| format!("cpu {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1\n");
        check(super::cpu(&stat(100, 100), &stat(190, 110)), Verdict::Ok);
        check(super::cpu(&stat(100, 100), &stat(195, 105)), Verdict::Failed);
        check(super::cpu("", ""), Verdict::Warning);
        let memory = |total: u64, free: u64| {
            super::memory(&format!(
                "MemTotal: {} kB\nMemFree: 1 kB\nMemAvailable: {} kB\n",
                total << 10,
                free << 10
            ))
        };
        check(memory(256, 128), Verdict::Ok);
        check(memory(255, 200), Verdict::Failed);
        check(memory(4000, 127), Verdict::Failed);
        check(super::memory(""), Verdict::Warning);
        let disk = |total: u64, free: u64| {
            super::disk("/x", &format!("head\n/dev/a {} 1 {} 1% /x\n", total << 10, free << 10))
        };
        check(disk(1024, 512), Verdict::Ok);
        check(disk(1023, 512), Verdict::Failed);
        check(disk(9000, 511), Verdict::Failed);
        check(super::disk("/x", "df: broken"), Verdict::Warning);
        check(super::pids("1000\n", "0.1 0.1 0.1 1/940 77"), Verdict::Ok);
        check(super::pids("1000\n", "0.1 0.1 0.1 1/950 77"), Verdict::Failed);
        check(super::pids("", ""), Verdict::Warning);
    }
}
