//! What all pods together may use: the machine less what `systemReserved` and `kubeReserved` keep. The cgroup `kubepods` has it
//! as its limit, as with a kubelet's `enforceNodeAllocatable: [pods]`, so that pods without limits cannot take what is kept.
//!
//! With the cgroupfs driver `cgroups.rs` writes it beside the classes; with the systemd driver systemd is asked once.

use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::cgroups::{CgroupName, Driver, PodCgroups};
use super::resources::{PodResources, Qos, shares, weight};

/// systemd answers at once, or is in trouble of its own.
const ANSWER: Duration = Duration::from_secs(30);

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

    fn words(self, slice: &str) -> Vec<String> {
        let mut words = vec!["set-property".to_owned(), "--runtime".to_owned(), slice.to_owned()];
        words.push(format!("CPUWeight={}", weight(shares(self.cpu_millis))));
        if self.memory_bytes > 0 {
            words.push(format!("MemoryMax={}", self.memory_bytes));
        }
        words
    }
}

impl PodCgroups {
    /// With the systemd driver: systemd keeps the limit of the pods' slice, until the next boot. Nothing to do with the other.
    pub async fn limit_slice(self, systemctl: &str) {
        let (layout, Some(room)) = (self.layout(), self.room()) else { return };
        if !layout.per_qos || layout.driver != Driver::Systemd {
            return;
        }
        let slice = CgroupName::root(&layout.root).class(Qos::Guaranteed).slice();
        let asked = Command::new(systemctl).args(room.words(&slice)).kill_on_drop(true).output();
        let why = match timeout(ANSWER, asked).await {
            Ok(Ok(output)) if output.status.success() => return,
            Ok(Ok(output)) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not answer".to_owned(),
        };
        tracing::warn!(%slice, "pods may use what is reserved, since systemd did not limit their slice: {why}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::super::cgroups::Layout;
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

    #[tokio::test]
    async fn systemd_is_asked_with_its_own_driver_only() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
        let (program, said) = (folder.path().join("systemctl"), folder.path().join("said"));
        // By another process: a child of a test beside this one would inherit the file while it is open for writing.
        let write = "printf '#!/bin/sh\\necho \"$@\" > %s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let written = std::process::Command::new("sh").args(["-c", write]).arg(&program).arg(&said).status();
        assert!(written.unwrap().success());
        assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
        let check = async |driver: Driver, expected: Option<&str>| {
            let layout = Layout { driver, root: "/edge".into(), per_qos: true };
            let room = PodsRoom::new((2000, 3 << 30), (0, 1 << 30));
            let cgroups = PodCgroups::new(layout, folder.path()).unwrap().with_room(room);
            cgroups.limit_slice(&program.to_string_lossy()).await;
            assert_eq!(fs::read_to_string(&said).ok().as_deref(), expected, "{driver:?}");
        };
        check(Driver::Cgroupfs, None).await;
        let expected = "set-property --runtime edge-kubepods.slice CPUWeight=79 MemoryMax=2147483648\n";
        check(Driver::Systemd, Some(expected)).await;
    }
}
