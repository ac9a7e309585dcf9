//! Pure: what a machine leaves for pods.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::host::Host;
use crate::config::{EvictionHard, Reserved};

/// What the node gives to pods: all but what is reserved, and that whose lack would make it short.
#[must_use]
pub fn allocatable(host: &Host, hard: &EvictionHard, reserved: &Reserved) -> BTreeMap<String, Quantity> {
    let room = Room::of(host, hard, reserved);
    let mut given = BTreeMap::from([
        ("cpu".to_owned(), Quantity(cores(room.cpu_millis))),
        ("memory".to_owned(), Quantity(kib(room.memory_bytes))),
        ("ephemeral-storage".to_owned(), Quantity(room.disk_bytes.to_string())),
    ]);
    given.extend(huge_pages(host));
    given
}

/// All of them are for pods.
pub(super) fn huge_pages(host: &Host) -> impl Iterator<Item = (String, Quantity)> {
    host.huge_pages.iter().map(|(name, bytes)| (name.clone(), Quantity(written(*bytes))))
}

/// A sentence for each thing of which a reservation leaves nothing for pods.
#[must_use]
pub fn nothing_left(host: &Host, hard: &EvictionHard, reserved: &Reserved) -> Vec<String> {
    let room = Room::of(host, hard, reserved);
    let (memory, disk) = (host.memory_bytes, host.disk_bytes);
    let mib = |bytes: u64| format!("{}Mi", bytes >> 20);
    let mut said = Vec::new();
    // What is not reserved is not gone by this.
    let mut say = |what: &str, left: u64, reserved: u64, sentence: String| {
        if left == 0 && reserved > 0 {
            said.push(format!("no {what} is left for pods: systemReserved and kubeReserved keep {sentence}"));
        }
    };
    let (kept, whole) = (reserved.cpu.millis(), cpu_millis(host));
    say("cpu", room.cpu_millis, kept, format!("{}, and this machine has {}", cores(kept), cores(whole)));
    let of_bytes = |kept: u64, short: u64, whole: u64| {
        format!("{}, evictionHard {}, and this machine has {}", mib(kept), mib(short), mib(whole))
    };
    let kept = reserved.memory.bytes();
    say("memory", room.memory_bytes, kept, of_bytes(kept, hard.memory.of(memory), memory));
    let kept = reserved.disk.bytes();
    say("ephemeral-storage", room.disk_bytes, kept, of_bytes(kept, hard.disk.of(disk), disk));
    said
}

struct Room {
    cpu_millis: u64,
    memory_bytes: u64,
    disk_bytes: u64,
}

impl Room {
    fn of(host: &Host, hard: &EvictionHard, reserved: &Reserved) -> Self {
        let (memory, disk) = (host.memory_bytes, host.disk_bytes);
        Self {
            cpu_millis: cpu_millis(host).saturating_sub(reserved.cpu.millis()),
            memory_bytes: memory
                .saturating_sub(host.huge_pages.values().sum())
                .saturating_sub(reserved.memory.bytes())
                .saturating_sub(hard.memory.of(memory)),
            disk_bytes: disk.saturating_sub(reserved.disk.bytes()).saturating_sub(hard.disk.of(disk)),
        }
    }
}

fn cpu_millis(host: &Host) -> u64 {
    u64::try_from(host.n_cpus).unwrap_or(u64::MAX).saturating_mul(1000)
}

/// As Kubernetes writes processors.
fn cores(millis: u64) -> String {
    if millis.is_multiple_of(1000) { (millis / 1000).to_string() } else { format!("{millis}m") }
}

/// As it writes memory.
pub(super) fn kib(bytes: u64) -> String {
    format!("{}Ki", bytes / 1024)
}

/// An amount of bytes as Kubernetes writes huge pages; nothing is `0`.
fn written(bytes: u64) -> String {
    if bytes == 0 { "0".to_owned() } else { kib(bytes) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn host(n_cpus: usize, memory_mib: u64) -> Host {
        Host {
            n_cpus,
            memory_bytes: memory_mib << 20,
            disk_bytes: 10 << 30,
            huge_pages: BTreeMap::new(),
            ..Host::read(Path::new("/"))
        }
    }

    #[test]
    fn pods_get_what_nobody_keeps() {
        let check =
            |reserved: &str, (n_cpus, memory_mib): (usize, u64), expected: [&str; 3], said: &[&str]| {
                let reserved: Reserved = serde_json::from_str(reserved).unwrap();
                let (host, hard) = (host(n_cpus, memory_mib), EvictionHard::default());
                let given = allocatable(&host, &hard, &reserved);
                let given = ["cpu", "memory", "ephemeral-storage"].map(|name| given[name].0.clone());
                assert_eq!(given, expected.map(str::to_owned), "{reserved:?}");
                assert_eq!(nothing_left(&host, &hard, &reserved), said);
            };
        // A hundredth of a gibibyte is the threshold of memory, a tenth of the disk that of the disk.
        check("{}", (4, 4096), ["4", "4091904Ki", "9663676416"], &[]);
        check(r#"{"cpu": "1500m", "memory": "1Gi"}"#, (4, 4096), ["2500m", "3043328Ki", "9663676416"], &[]);
        check(r#"{"ephemeral-storage": "1Gi"}"#, (1, 4096), ["1", "4091904Ki", "8589934592"], &[]);
        check(
            r#"{"cpu": "1", "memory": "1Gi"}"#,
            (1, 1000),
            ["0", "0Ki", "9663676416"],
            &[
                "no cpu is left for pods: systemReserved and kubeReserved keep 1, and this machine has 1",
                "no memory is left for pods: systemReserved and kubeReserved keep 1024Mi, evictionHard 100Mi, and this \
                 machine has 1000Mi",
            ],
        );
        // Huge pages are no memory for anything else.
        let huge = Host { huge_pages: [("hugepages-2Mi".into(), 1024 << 20)].into(), ..host(4, 4096) };
        let given = allocatable(&huge, &EvictionHard::default(), &Reserved::default());
        assert_eq!(
            (given["memory"].0.as_str(), given["hugepages-2Mi"].0.as_str()),
            ("3043328Ki", "1048576Ki")
        );
        assert_eq!((written(6 << 20), written(0)), ("6144Ki".to_owned(), "0".to_owned()));
        // A machine that is too small without any reservation has another trouble.
        check("{}", (1, 50), ["1", "0Ki", "9663676416"], &[]);
    }
}
