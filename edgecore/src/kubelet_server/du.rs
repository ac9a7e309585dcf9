//! How much pods' volumes hold: the sizes of whole trees, looked at seldom and remembered in between.
//!
//! Only what lies on the disk and belongs to the pod alone counts: directories for `emptyDir` and ConfigMaps. It follows no
//! link and enters no mount: what is mounted there is memory, or somebody else's. A tree that changes meanwhile, or cannot be
//! read, counts as far as it was seen. Called by `measure.rs`, on a thread that may wait for the disk.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::figures::Disk;

/// Kinds of volumes that are the pod's own and on the disk.
const PLUGINS: [&str; 2] = ["kubernetes.io~empty-dir", "kubernetes.io~configmap"];
/// Bytes of what the kernel calls a block.
const BLOCK: u64 = 512;

/// Sizes of the volumes of all pods.
pub(super) struct VolumeSizes {
    /// Holds a directory for each pod.
    pods: PathBuf,
    period: Duration,
    known: Mutex<HashMap<String, Known>>,
}

struct Known {
    at: Instant,
    volumes: Vec<(String, Disk)>,
}

impl VolumeSizes {
    pub(super) fn new(pods: PathBuf, period: Duration) -> Self {
        Self { pods, period, known: Mutex::default() }
    }

    /// By the volumes' names; at most `period` old. `at`: nanoseconds since 1970, for what is looked at now.
    pub(super) fn of(&self, uid: &str, at: i64) -> Vec<(String, Disk)> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(uid).filter(|known| known.at.elapsed() < self.period) {
            return known.volumes.clone();
        }
        let volumes = volumes(&self.pods.join(uid).join("volumes"), at);
        lock().insert(uid.to_owned(), Known { at: Instant::now(), volumes: volumes.clone() });
        volumes
    }

    /// Forgets all other pods.
    pub(super) fn keep<'a>(&self, uids: impl Iterator<Item = &'a str>) {
        let uids: HashSet<&str> = uids.collect();
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|uid, _| uids.contains(uid.as_str()));
    }
}

fn volumes(folder: &Path, at: i64) -> Vec<(String, Disk)> {
    let device = fs::symlink_metadata(folder).map(|facts| facts.dev()).ok();
    let mut found = Vec::new();
    for plugin in PLUGINS {
        for volume in fs::read_dir(folder.join(plugin)).into_iter().flatten().flatten() {
            let is_here = volume.metadata().is_ok_and(|facts| Some(facts.dev()) == device && facts.is_dir());
            if is_here {
                let (used, n_inodes) = tree(&volume.path());
                let disk =
                    Disk { at, used_bytes: Some(used), inodes_used: Some(n_inodes), ..Disk::default() };
                found.push((volume.file_name().to_string_lossy().into_owned(), disk));
            }
        }
    }
    found
}

/// Bytes and inodes of a directory with all that is in it. A file with several names counts once.
fn tree(top: &Path) -> (u64, u64) {
    let Ok(facts) = fs::symlink_metadata(top) else { return (0, 0) };
    let device = facts.dev();
    let (mut used, mut n_inodes) = (facts.blocks().saturating_mul(BLOCK), 1_u64);
    let mut linked = HashSet::new();
    // Not by recursion: a container may have made a tree deeper than any stack.
    let mut folders = vec![top.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(facts) = entry.metadata() else { continue };
            if facts.dev() != device || (facts.nlink() > 1 && !facts.is_dir() && !linked.insert(facts.ino()))
            {
                continue;
            }
            used = used.saturating_add(facts.blocks().saturating_mul(BLOCK));
            n_inodes = n_inodes.saturating_add(1);
            if facts.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    (used, n_inodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_measured_once_in_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("u/volumes/kubernetes.io~empty-dir/cache");
        fs::create_dir_all(cache.join("a/b")).unwrap();
        fs::write(cache.join("a/b/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(cache.join("a/b/file"), cache.join("again")).unwrap();
        std::os::unix::fs::symlink("/", cache.join("out")).unwrap();
        fs::create_dir_all(folder.path().join("u/volumes/kubernetes.io~secret/key")).unwrap();
        let sizes = VolumeSizes::new(folder.path().to_owned(), Duration::from_secs(3600));
        let check = |sizes: &VolumeSizes, least: u64, n_inodes: u64| {
            let found = sizes.of("u", 7);
            let [(name, disk)] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((&**name, disk.at, disk.inodes_used), ("cache", 7, Some(n_inodes)));
            let used = disk.used_bytes.unwrap();
            assert!((least..least + 65_536).contains(&used), "{used}");
        };
        // The volume, a, b, the file once, and the link itself.
        check(&sizes, 100_000, 5);
        fs::write(cache.join("more"), vec![1; 200_000]).unwrap();
        check(&sizes, 100_000, 5);
        sizes.keep(["other"].into_iter());
        check(&sizes, 300_000, 6);
        assert!(sizes.of("none", 0).is_empty());
    }
}
