//! Pure: figures in the texts of the kernel: cgroups of both versions, `/proc`.

use super::figures::{Interface, Memory};

/// What one cgroup, or the machine, uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Used {
    pub(super) core_nanos: Option<u64>,
    /// Without its time.
    pub(super) memory: Option<Memory>,
}

/// A field of a list of `name number` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', ':']))?;
    value.split_whitespace().next()?.parse().ok()
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The files of a cgroup by what they are called; `None`: it has no such file.
pub(super) fn used_v1(read: impl Fn(&str, &str) -> Option<String>) -> Used {
    let core_nanos = read("cpuacct", "cpuacct.usage").and_then(|text| number(&text));
    let usage = read("memory", "memory.usage_in_bytes").and_then(|text| number(&text));
    let stat = read("memory", "memory.stat").unwrap_or_default();
    let limit = read("memory", "memory.limit_in_bytes").and_then(|text| number(&text));
    let memory = usage.map(|usage| {
        let inactive = field(&stat, "total_inactive_file").unwrap_or(0);
        Memory {
            rss_bytes: field(&stat, "total_rss"),
            page_faults: field(&stat, "total_pgfault"),
            major_page_faults: field(&stat, "total_pgmajfault"),
            ..in_use(usage, inactive, limit)
        }
    });
    Used { core_nanos, memory }
}

/// The same for the unified hierarchy, which has one folder for all.
pub(super) fn used_v2(read: impl Fn(&str) -> Option<String>) -> Used {
    let micros = read("cpu.stat").and_then(|text| field(&text, "usage_usec"));
    let core_nanos = micros.map(|micros| micros.saturating_mul(1000));
    let stat = read("memory.stat").unwrap_or_default();
    // `max` is no number.
    let limit = read("memory.max").and_then(|text| number(&text));
    let memory = read("memory.current").and_then(|text| number(&text)).map(|usage| Memory {
        rss_bytes: field(&stat, "anon"),
        page_faults: field(&stat, "pgfault"),
        major_page_faults: field(&stat, "pgmajfault"),
        ..in_use(usage, field(&stat, "inactive_file").unwrap_or(0), limit)
    });
    Used { core_nanos, memory }
}

fn in_use(usage: u64, inactive: u64, limit: Option<u64>) -> Memory {
    let working_set = usage.saturating_sub(inactive);
    // A limit that nothing can reach is none: the kernel has a number for that too.
    let limit = limit.filter(|limit| *limit < 1 << 62);
    Memory {
        usage_bytes: Some(usage),
        working_set_bytes: Some(working_set),
        available_bytes: limit.map(|limit| limit.saturating_sub(working_set)),
        ..Memory::default()
    }
}

/// The machine's memory by `/proc/meminfo`.
pub(super) fn meminfo(text: &str) -> Option<Memory> {
    let kib = |name: &str| field(text, name).map(|kib| kib.saturating_mul(1024));
    let (whole, free) = (kib("MemTotal")?, kib("MemFree")?);
    Some(Memory {
        rss_bytes: kib("AnonPages"),
        ..in_use(whole.saturating_sub(free), kib("Inactive(file)").unwrap_or(0), Some(whole))
    })
}

/// Time that processors have worked, by `/proc/stat`, whose steps are hundredths of a second; and when the machine was booted,
/// in seconds.
pub(super) fn proc_stat(text: &str) -> (Option<u64>, Option<i64>) {
    let cpu = text.lines().find_map(|line| line.strip_prefix("cpu "));
    // user nice system (idle iowait) irq softirq steal; guests count as user.
    let hundredths = cpu.map(|line| {
        let words = line.split_whitespace().take(8).enumerate();
        let worked = words.filter(|(at, _)| !matches!(at, 3 | 4)).filter_map(|(_, word)| word.parse().ok());
        worked.fold(0_u64, u64::saturating_add)
    });
    let booted = field(text, "btime").and_then(|secs| i64::try_from(secs).ok());
    (hundredths.map(|hundredths| hundredths.saturating_mul(10_000_000)), booted)
}

/// Interfaces of `/proc/net/dev`, that of the default route (`/proc/net/route`) first. Not the loopback, and not the machine's ends
/// of pods' own, as in cAdvisor.
pub(super) fn interfaces(dev: &str, routes: &str) -> Vec<Interface> {
    let read = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let [received, sent] = [figures.get(..4)?, figures.get(8..12)?];
        let (&[rx_bytes, rx_packets, rx_errors, rx_dropped], &[tx_bytes, tx_packets, tx_errors, tx_dropped]) =
            (received, sent)
        else {
            return None;
        };
        Some(Interface {
            name: name.trim().to_owned(),
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        })
    };
    let default = routes.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|_| words.next() == Some("00000000"))
    });
    let is_own = |one: &Interface| one.name != "lo" && !one.name.starts_with("veth");
    let mut found: Vec<Interface> = dev.lines().filter_map(read).filter(is_own).collect();
    found.sort_by_key(|one| Some(one.name.as_str()) != default);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_of_both_versions() {
        let v1 = |folder: &str, file: &str| {
            Some(
                match (folder, file) {
                    ("cpuacct", "cpuacct.usage") => "21202044141996\n",
                    ("memory", "memory.usage_in_bytes") => "1000\n",
                    ("memory", "memory.limit_in_bytes") => "9223372036854771712\n",
                    ("memory", "memory.stat") => {
                        "rss 1\ninactive_file 9\ntotal_rss 500\ntotal_pgfault 7\ntotal_pgmajfault 8\ntotal_inactive_file 300\n"
                    }
                    _ => return None,
                }
                .to_owned(),
            )
        };
        let used = used_v1(v1);
        assert_eq!(used.core_nanos, Some(21_202_044_141_996));
        let expected = Memory {
            usage_bytes: Some(1000),
            working_set_bytes: Some(700),
            rss_bytes: Some(500),
            page_faults: Some(7),
            major_page_faults: Some(8),
            ..Memory::default()
        };
        assert_eq!(used.memory, Some(expected));

        let v2 = |file: &str| {
            Some(
                match file {
                    "cpu.stat" => "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n",
                    "memory.current" => "1000\n",
                    "memory.max" => "4000\n",
                    "memory.stat" => "anon 500\nfile 500\ninactive_file 300\npgfault 7\npgmajfault 8\n",
                    _ => return None,
                }
                .to_owned(),
            )
        };
        let used = used_v2(v2);
        assert_eq!(used.core_nanos, Some(1_500_000));
        assert_eq!(used.memory, Some(Memory { available_bytes: Some(3300), ..expected }));
        let unlimited = used_v2(|file| if file == "memory.max" { Some("max\n".into()) } else { v2(file) });
        assert_eq!(unlimited.memory.and_then(|memory| memory.available_bytes), None);

        assert_eq!(used_v1(|_, _| None), Used::default());
        assert_eq!(used_v2(|_| Some("nonsense".into())), Used::default());
        // Less than it says is inactive: two files are not read at one moment.
        let odd = used_v2(|file| if file == "memory.current" { Some("100".into()) } else { v2(file) });
        assert_eq!(odd.memory.and_then(|memory| memory.working_set_bytes), Some(0));
    }

    #[test]
    fn the_machine() {
        let memory = meminfo(
            "MemTotal:       1000 kB\nMemFree:         400 kB\nInactive:  300 kB\nInactive(file):  100 kB\nAnonPages: 50 kB\n",
        );
        let memory = memory.unwrap();
        assert_eq!((memory.usage_bytes, memory.working_set_bytes), (Some(600 << 10), Some(500 << 10)));
        assert_eq!((memory.available_bytes, memory.rss_bytes), (Some(500 << 10), Some(50 << 10)));
        assert_eq!(meminfo("MemTotal: 3 kB"), None);
        let stat = "cpu  1 2 3 1000 1000 4 5 6 7 8\ncpu0 1 2 3 4 5 6 7 8 9 10\nbtime 1700000000\n";
        assert_eq!(proc_stat(stat), (Some(210_000_000), Some(1_700_000_000)));
        assert_eq!(proc_stat(""), (None, None));
    }

    #[test]
    fn interfaces_of_a_namespace() {
        let dev = "Inter-|   Receive        |  Transmit\n face |bytes packets errs drop|bytes\n    \
                   lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  cni0: 5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n  \
                   eth0:100 1 2 4 0 0 0 0 200 7 3 5 0 0 0 0\n broken: 1 2\n \
                   veth1a2b: 5 1 0 0 0 0 0 0 6 1 0 0 0 0 0 0\n";
        let routes = "Iface\tDestination\tGateway\ncni0\t0000580A\t00000000\neth0\t00000000\t0102A8C0\n";
        let found = interfaces(dev, routes);
        let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["eth0", "cni0"]);
        let eth0 = Interface {
            name: "eth0".into(),
            rx_bytes: 100,
            rx_packets: 1,
            rx_errors: 2,
            rx_dropped: 4,
            tx_bytes: 200,
            tx_packets: 7,
            tx_errors: 3,
            tx_dropped: 5,
        };
        assert_eq!(found[0], eth0);
        assert_eq!(interfaces(dev, "")[0].name, "cni0");
        assert!(interfaces("", "").is_empty());
    }
}
