//! What this machine is: read once at start from /proc, /sys and /etc.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::huge_pages;

/// Facts that do not change while edgecore runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
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
    /// Bytes of huge pages by resource, such as `hugepages-2Mi`.
    pub huge_pages: BTreeMap<String, u64>,
    /// Where pods' files live.
    pub root_dir: PathBuf,
    /// Whether AppArmor is on.
    pub has_apparmor: bool,
}

impl Host {
    /// Reads the facts. `root_dir`: where pods' files live.
    #[must_use]
    pub fn read(root_dir: &Path) -> Self {
        let machine_id = read_line("/etc/machine-id");
        let product = read_line("/sys/class/dmi/id/product_uuid");
        Self {
            system_uuid: if product.is_empty() { machine_id.clone() } else { product },
            machine_id,
            boot_id: read_line("/proc/sys/kernel/random/boot_id"),
            kernel_version: read_line("/proc/sys/kernel/osrelease"),
            os_image: os_image(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
            architecture: architecture(std::env::consts::ARCH),
            n_cpus: processors(&read_line("/sys/devices/system/cpu/online"))
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
            memory_bytes: memory().unwrap_or(0),
            disk_bytes: file_system(root_dir).map_or(0, |(_, whole)| whole),
            huge_pages: huge_pages::read(Path::new(huge_pages::SYS)),
            root_dir: root_dir.to_owned(),
            has_apparmor: read_line("/sys/module/apparmor/parameters/enabled") == "Y",
        }
    }
}

/// How many processors a list such as `0-3,6` of the kernel has. They are the machine's: what this process may use of them
/// (`CPUQuota` of its unit) is no matter of its pods.
fn processors(list: &str) -> Option<usize> {
    let count = |range: &str| -> Option<usize> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim().split(',').map(count).sum()
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

fn memory() -> Option<u64> {
    meminfo(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal")
}

/// One figure of /proc/meminfo in bytes.
fn meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// Bytes that are free where `path` is, or would be. `None`: it cannot be told.
#[must_use]
pub fn free_bytes(path: &Path) -> Option<u64> {
    file_system(path).map(|(free, _)| free)
}

/// Free and all bytes of the file system that holds `path`, or the nearest folder above it that exists.
fn file_system(path: &Path) -> Option<(u64, u64)> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let facts = rustix::fs::statvfs(existing).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
    Some((bytes(facts.f_bavail), bytes(facts.f_blocks)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_the_kernel() {
        assert_eq!(meminfo("MemTotal:       16384 kB\nMemAvailable: 1 kB\n", "MemTotal"), Some(16384 * 1024));
        assert_eq!(meminfo("", "MemTotal"), None);
        assert_eq!(
            os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
    }

    #[test]
    fn processors_are_counted() {
        let check = |list: &str, expected: Option<usize>| assert_eq!(processors(list), expected, "{list:?}");
        check("0", Some(1));
        check("0-7\n", Some(8));
        check("0-3,6,8-9", Some(7));
        check("", None);
        check("3-1", None);
    }

    #[test]
    fn this_machine_can_be_described() {
        let host = Host::read(Path::new("/no/such/folder"));
        assert!(host.memory_bytes > 0 && host.disk_bytes > 0 && !host.kernel_version.is_empty());
    }
}
