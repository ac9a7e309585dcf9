//! With the systemd driver systemd itself limits what all pods together use, since the slice is its own. Asked once, at the start.

use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::cgroups::{CgroupName, Driver, PodCgroups};
use super::resources::Qos;

/// systemd answers at once, or is in trouble of its own.
const ANSWER: Duration = Duration::from_secs(30);

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

    use super::*;
    use crate::edged::cgroups::Layout;
    use crate::edged::pods_room::PodsRoom;

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
