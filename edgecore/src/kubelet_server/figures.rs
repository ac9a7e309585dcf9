//! Pure: what this node and its pods use, as measured at one moment. `measure.rs` fills it; `summary.rs` and `exposition.rs` write it
//! down, and `eviction` judges by it. What was not measured is `None` and is left out, never written as 0.

use std::collections::HashMap;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) node: NodeFigures,
    pub(crate) pods: Vec<PodFigures>,
    /// Whether all that should be there could be asked for: a runtime that is away tells nothing of its containers.
    pub(crate) is_whole: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeFigures {
    pub(crate) name: String,
    pub(crate) n_cpus: usize,
    pub(crate) memory_bytes: u64,
    /// Nanoseconds since 1970, as every time here.
    pub(crate) booted_at: Option<i64>,
    pub(crate) cpu: Option<Cpu>,
    pub(crate) memory: Option<Memory>,
    /// Of all pods together.
    pub(crate) pods_cpu: Option<Cpu>,
    pub(crate) pods_memory: Option<Memory>,
    pub(crate) network: Option<Network>,
    pub(crate) disk: Option<Disk>,
    pub(crate) image_disk: Option<Disk>,
    /// Whether images and containers lie in another file system than pods' files.
    pub(crate) has_image_disk: bool,
    pub(crate) max_pid: Option<u64>,
    pub(crate) n_processes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PodFigures {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Where it stands in the cgroup tree; empty when it has no level of its own.
    pub(crate) cgroup: String,
    pub(crate) started_at: i64,
    pub(crate) containers: Vec<ContainerFigures>,
    pub(crate) cpu: Option<Cpu>,
    pub(crate) memory: Option<Memory>,
    pub(crate) network: Option<Network>,
    pub(crate) n_processes: Option<u64>,
    /// Those of its volumes that lie on the disk and are its own, by name.
    pub(crate) volumes: Vec<(String, Disk)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ContainerFigures {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) started_at: i64,
    pub(crate) cpu: Option<Cpu>,
    pub(crate) memory: Option<Memory>,
    /// What it has written into its own file system.
    pub(crate) written: Option<Disk>,
    pub(crate) logs: Option<Disk>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) at: i64,
    /// All that was ever used.
    pub(crate) core_nanos: u64,
    /// Cores now, in billionths; unknown until there are two measurements.
    pub(crate) nano_cores: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) at: i64,
    pub(crate) usage_bytes: Option<u64>,
    /// What cannot be taken back without harm: usage without files that nobody has read lately.
    pub(crate) working_set_bytes: Option<u64>,
    pub(crate) available_bytes: Option<u64>,
    pub(crate) rss_bytes: Option<u64>,
    pub(crate) page_faults: Option<u64>,
    pub(crate) major_page_faults: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Disk {
    pub(crate) at: i64,
    pub(crate) available_bytes: Option<u64>,
    pub(crate) capacity_bytes: Option<u64>,
    pub(crate) used_bytes: Option<u64>,
    pub(crate) inodes_free: Option<u64>,
    pub(crate) inodes: Option<u64>,
    pub(crate) inodes_used: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Network {
    pub(crate) at: i64,
    /// The one that leads out first.
    pub(crate) interfaces: Vec<Interface>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) rx_bytes: u64,
    pub(crate) rx_packets: u64,
    pub(crate) rx_errors: u64,
    pub(crate) rx_dropped: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_errors: u64,
    pub(crate) tx_dropped: u64,
}

impl PodFigures {
    /// What the pod has written: its containers, logs included, and its volumes.
    pub(crate) fn on_disk(&self) -> Option<Disk> {
        let disks = || {
            let containers = self.containers.iter();
            let written = containers.flat_map(|container| [container.written, container.logs]).flatten();
            written.chain(self.volumes.iter().map(|(_, disk)| *disk))
        };
        let at = disks().map(|disk| disk.at).max()?;
        let sum = |of: fn(Disk) -> Option<u64>| disks().filter_map(of).reduce(u64::saturating_add);
        let (used, inodes_used) = (sum(|disk| disk.used_bytes), sum(|disk| disk.inodes_used));
        Some(Disk { at, used_bytes: used, inodes_used, ..Disk::default() })
    }

    /// A pod without a level of its own uses what its containers use.
    pub(super) fn add_up(&mut self) {
        if self.cpu.is_none() {
            let all: Vec<Cpu> = self.containers.iter().filter_map(|container| container.cpu).collect();
            let core_nanos = all.iter().map(|cpu| cpu.core_nanos).sum();
            self.cpu = all.iter().map(|cpu| cpu.at).max().map(|at| Cpu { at, core_nanos, nano_cores: None });
        }
        if self.memory.is_none() {
            let all: Vec<Memory> = self.containers.iter().filter_map(|container| container.memory).collect();
            let sum = |of: fn(&Memory) -> Option<u64>| all.iter().map(of).sum::<Option<u64>>();
            self.memory = all.iter().map(|memory| memory.at).max().map(|at| Memory {
                at,
                usage_bytes: sum(|memory| memory.usage_bytes),
                working_set_bytes: sum(|memory| memory.working_set_bytes),
                rss_bytes: sum(|memory| memory.rss_bytes),
                ..Memory::default()
            });
        }
    }
}

/// How fast something uses cores: from what it had used some time before.
#[derive(Debug, Default)]
pub(super) struct Rates {
    held: HashMap<String, Held>,
}

/// Two measurements, at least [`SPAN`] apart once there are so many.
#[derive(Clone, Copy, Debug)]
struct Held {
    base: Cpu,
    next: Cpu,
}

/// Nanoseconds. The kernel's figures move in steps; what lies further back says less about now.
const SPAN: i64 = 10_000_000_000;
/// How long is remembered what was measured of something nobody asked for again.
const FORGET: i64 = 600_000_000_000;

impl Rates {
    /// Notes a measurement and gives the rate, once there is one.
    pub(super) fn rate(&mut self, of: &str, now: Cpu) -> Option<u64> {
        let held = self.held.entry(of.to_owned()).or_insert(Held { base: now, next: now });
        if now.core_nanos < held.next.core_nanos {
            // It has begun anew.
            *held = Held { base: now, next: now };
        } else if now.at.saturating_sub(held.next.at) >= SPAN {
            *held = Held { base: held.next, next: now };
        }
        let nanos = u64::try_from(now.at.saturating_sub(held.base.at)).ok().filter(|nanos| *nanos > 0)?;
        let used = u128::from(now.core_nanos.saturating_sub(held.base.core_nanos));
        u64::try_from(used.saturating_mul(1_000_000_000) / u128::from(nanos)).ok()
    }

    pub(super) fn forget(&mut self, now: i64) {
        self.held.retain(|_, held| now.saturating_sub(held.next.at) < FORGET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn cpu(secs: i64, used: u64) -> Cpu {
        Cpu { at: secs * SECOND, core_nanos: used, nano_cores: None }
    }

    #[test]
    fn rates_need_two_measurements() {
        let mut rates = Rates::default();
        let mut check = |secs, used, expected| {
            assert_eq!(rates.rate("a", cpu(secs, used)), expected, "{secs} s");
        };
        check(100, 5_000_000_000, None);
        // The same moment again says nothing.
        check(100, 5_000_000_000, None);
        // Half a core, then none.
        check(110, 10_000_000_000, Some(500_000_000));
        check(120, 10_000_000_000, Some(0));
        check(121, 11_000_000_000, Some(90_909_090));
        // A container of the same name that has begun anew.
        check(130, 1, None);
        check(132, 2_000_000_001, Some(1_000_000_000));
        rates.forget(132 * SECOND + FORGET);
        assert!(rates.held.is_empty());
    }

    #[test]
    fn pods_are_their_containers() {
        let memory =
            |at, working_set| Memory { at, working_set_bytes: Some(working_set), ..Memory::default() };
        let container = |used, at| ContainerFigures {
            cpu: Some(cpu(at, used)),
            memory: Some(memory(at, used * 2)),
            ..ContainerFigures::default()
        };
        let containers = vec![container(3, 1), container(4, 2), ContainerFigures::default()];
        let mut pod = PodFigures { containers, ..PodFigures::default() };
        pod.add_up();
        assert_eq!(pod.cpu, Some(cpu(2, 7)));
        assert_eq!(pod.memory, Some(Memory { working_set_bytes: Some(14), ..memory(2, 0) }));
        let own = Some(cpu(9, 9));
        let mut pod = PodFigures { cpu: own, ..pod };
        pod.add_up();
        assert_eq!(pod.cpu, own);
        let mut none = PodFigures::default();
        none.add_up();
        assert_eq!(none, PodFigures::default());
    }
}
