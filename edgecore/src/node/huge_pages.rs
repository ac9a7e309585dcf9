//! Huge pages that this machine has set aside: capacity such as `hugepages-2Mi`, in bytes.
//!
//! Read once at start, as with a kubelet; `room.rs` takes them off the memory, which they are no part of any more.

use std::collections::BTreeMap;
use std::path::Path;

/// Where Linux shows them.
pub(super) const SYS: &str = "/sys/kernel/mm/hugepages";

/// Bytes by the resource's name, of every size that the kernel has, also of those of which none is set aside.
pub(super) fn read(sys: &Path) -> BTreeMap<String, u64> {
    let entries = std::fs::read_dir(sys).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let name = entry.file_name();
        let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let n_pages = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
        let n_pages: u64 = n_pages.trim().parse().ok()?;
        Some((resource(kib), kib.saturating_mul(1024).saturating_mul(n_pages)))
    });
    found.collect()
}

/// As Kubernetes names it: `hugepages-2Mi`, `hugepages-1Gi`.
fn resource(kib: u64) -> String {
    const GIB: u64 = 1 << 20;
    match kib {
        _ if kib >= GIB && kib.is_multiple_of(GIB) => format!("hugepages-{}Gi", kib / GIB),
        _ if kib >= 1024 && kib.is_multiple_of(1024) => format!("hugepages-{}Mi", kib / 1024),
        _ => format!("hugepages-{kib}Ki"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let sys = tempfile::tempdir().unwrap();
        for (size, n_pages) in [("2048kB", "3"), ("1048576kB", "1"), ("64kB", "0"), ("odd", "7")] {
            let folder = sys.path().join(format!("hugepages-{size}"));
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("nr_hugepages"), format!("{n_pages}\n")).unwrap();
        }
        let found: Vec<(String, u64)> = read(sys.path()).into_iter().collect();
        let expected = [("hugepages-1Gi", 1 << 30), ("hugepages-2Mi", 6 << 20), ("hugepages-64Ki", 0)];
        assert_eq!(found, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
        assert!(read(Path::new("/no/such/folder")).is_empty());
    }
}
