//! What all pods together may use: the machine less what `systemReserved` and `kubeReserved` keep. The cgroup `kubepods` has it
//! as its limit, as with a kubelet's `enforceNodeAllocatable: [pods]`, so that pods without limits cannot take what is kept.
//!
//! With the cgroupfs driver `cgroups.rs` writes it beside the classes; with the systemd driver
//! `pods_slice.rs` asks systemd.

use super::resources::{PodResources, shares, weight};

/// Room for pods. Processors are a weight against the rest of the machine, memory is a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodsRoom {
    cpu_millis: i64,
    memory_bytes: i64,
}

impl PodsRoom {
    /// `machine` and `reserved`: thousandths of a processor, and bytes. Hard thresholds of eviction are not taken off: pods that
    /// come near them are evicted before.
    #[must_use]
    pub fn new(machine: (u64, u64), reserved: (u64, u64)) -> Self {
        let left = |all: u64, kept: u64| i64::try_from(all.saturating_sub(kept)).unwrap_or(i64::MAX);
        Self { cpu_millis: left(machine.0, reserved.0), memory_bytes: left(machine.1, reserved.1) }
    }

    /// A machine that keeps all its memory limits none: its pods could not even start to be refused.
    pub(super) fn resources(self) -> PodResources {
        PodResources {
            cpu_shares: shares(self.cpu_millis),
            cpu_quota: None,
            memory_limit: Some(self.memory_bytes),
        }
    }

    /// What systemctl is asked for.
    pub(super) fn words(self, slice: &str) -> Vec<String> {
        let mut words = vec!["set-property".to_owned(), "--runtime".to_owned(), slice.to_owned()];
        words.push(format!("CPUWeight={}", weight(shares(self.cpu_millis))));
        if self.memory_bytes > 0 {
            words.push(format!("MemoryMax={}", self.memory_bytes));
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_taken_off() {
        let room = PodsRoom::new((4000, 8 << 30), (500, 1 << 30));
        let resources = room.resources();
        assert_eq!((resources.cpu_shares, resources.memory_limit), (3584, Some(7 << 30)));
        assert_eq!(resources.cpu_quota, None, "what nobody else needs is theirs");
        let none = PodsRoom::new((1000, 1 << 30), (2000, 2 << 30));
        assert_eq!(none.words("k.slice"), ["set-property", "--runtime", "k.slice", "CPUWeight=1"]);
    }
}
