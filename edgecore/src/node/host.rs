//! What this machine is: read once at start from /proc, /sys and /etc.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

/// Why the machine cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No address to report.
    #[error("this machine has no address but loopback: set modules.edged.nodeIP")]
    NoAddress,
}

/// Facts that do not change while edgecore runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Address that other machines reach this one by.
    pub node_ip: IpAddr,
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// DMI product id, or the machine id where there is none.
    pub system_uuid: String,
    /// Changes with each boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel_version: String,
    /// From `/etc/os-release`.
    pub os_image: String,
    /// Kubernetes' word for the processor: `amd64`, `arm64`, `arm`.
    pub architecture: &'static str,
    /// Processors.
    pub n_cpus: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of the file system under the root directory.
    pub disk_bytes: u64,
    /// Where pods' files live.
    pub root_dir: PathBuf,
}

/// Figures that change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Measured {
    pub(super) memory_available_bytes: u64,
    pub(super) disk_available_percent: u64,
    pub(super) pids_used_percent: u64,
}

impl Host {
    /// Reads the facts. `wanted_ip` from the configuration wins; else the address that the route to the outside uses.
    pub fn read(wanted_ip: Option<IpAddr>, root_dir: &Path) -> Result<Self, HostError> {
        let node_ip = wanted_ip.or_else(outward_address).ok_or(HostError::NoAddress)?;
        let machine_id = read_line("/etc/machine-id");
        let product = read_line("/sys/class/dmi/id/product_uuid");
        Ok(Self {
            node_ip,
            system_uuid: if product.is_empty() { machine_id.clone() } else { product },
            machine_id,
            boot_id: read_line("/proc/sys/kernel/random/boot_id"),
            kernel_version: read_line("/proc/sys/kernel/osrelease"),
            os_image: os_image(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
            architecture: architecture(std::env::consts::ARCH),
            n_cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: meminfo(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemTotal"),
            disk_bytes: disk(root_dir).map_or(0, |(total, _)| total),
            root_dir: root_dir.to_owned(),
        })
    }
}

/// The address of the interface that a packet to the outside would leave by. Nothing is sent: connecting a UDP socket only
/// asks the routing table. The addresses are documentation ones, reachable by nobody.
fn outward_address() -> Option<IpAddr> {
    let ask = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_loopback() && !address.is_unspecified()).then_some(address)
    };
    ask("0.0.0.0:0", "192.0.2.1:9").or_else(|| ask("[::]:0", "[2001:db8::1]:9"))
}

fn read_line(path: &str) -> String {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

fn os_image(release: &str) -> String {
    let value = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.unwrap_or("Linux").trim_matches('"').to_owned()
}

fn architecture(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// Looks at the figures that change.
pub(super) fn measure(root_dir: &Path) -> Measured {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let percent = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole);
    let disk = disk(root_dir).and_then(|(total, available)| percent(available, total));
    // The fourth word of /proc/loadavg is running/existing tasks.
    let tasks =
        read("/proc/loadavg").split_whitespace().nth(3).and_then(|word| word.split('/').nth(1)?.parse().ok());
    let max_tasks = read("/proc/sys/kernel/pid_max").trim().parse().ok();
    Measured {
        memory_available_bytes: meminfo(&read("/proc/meminfo"), "MemAvailable"),
        disk_available_percent: disk.unwrap_or(100),
        pids_used_percent: tasks.zip(max_tasks).and_then(|(used, max)| percent(used, max)).unwrap_or(0),
    }
}

/// One figure of /proc/meminfo in bytes; 0 when it is not there.
fn meminfo(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: Option<u64> = line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Total and available bytes of the file system that holds `path`, or the nearest folder above it that exists.
fn disk(path: &Path) -> Option<(u64, u64)> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let facts = rustix::fs::statvfs(existing).ok()?;
    let block = facts.f_frsize;
    Some((facts.f_blocks.saturating_mul(block), facts.f_bavail.saturating_mul(block)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel() {
        assert_eq!(meminfo("MemTotal:       16384 kB\nMemAvailable: 1 kB\n", "MemTotal"), 16384 * 1024);
        assert_eq!(meminfo("", "MemTotal"), 0);
        assert_eq!(
            os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
    }

    #[test]
    fn this_machine_can_be_described() {
        let host = Host::read(Some("192.0.2.7".parse().unwrap()), Path::new("/no/such/folder")).unwrap();
        assert!(host.memory_bytes > 0 && host.disk_bytes > 0 && !host.kernel_version.is_empty());
    }
}
