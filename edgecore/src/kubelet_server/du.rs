//! How much pods' volumes hold: the sizes of whole trees, looked at seldom and remembered in between.
//!
//! Only what lies on the disk and belongs to the pod alone counts: directories for `emptyDir` and ConfigMaps. It follows no
//! link and enters no mount: what is mounted there is memory, or somebody else's. A tree that changes meanwhile, or cannot be
//! read, counts as far as it was seen. One walk at a time goes through all of them, on a thread that may wait for the disk;
//! `measure.rs`, which calls this, gets what the last one found.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

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
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    is_walking: bool,
    /// When the last walk ended.
    walked_at: Option<Instant>,
    /// By the pods' uids.
    known: HashMap<String, Vec<(String, Disk)>>,
}

/// The only walk that is under way: its end, however it comes, lets the next one begin.
struct Walk(Arc<VolumeSizes>);

impl Drop for Walk {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        (state.is_walking, state.walked_at) = (false, Some(Instant::now()));
    }
}

impl VolumeSizes {
    pub(super) fn new(pods: PathBuf, period: Duration) -> Self {
        Self { pods, period, state: Mutex::default() }
    }

    /// By the volumes' names, as the last walk found them; none before it came by. Waits for no disk.
    pub(super) fn of(&self, uid: &str) -> Vec<(String, Disk)> {
        self.lock().known.get(uid).cloned().unwrap_or_default()
    }

    /// Starts a walk beside whoever asks, unless one is under way or the sizes are young enough. A slow disk thus costs one
    /// thread, however many ask.
    pub(super) fn refresh(self: &Arc<Self>) {
        {
            let mut state = self.lock();
            if state.is_walking || state.walked_at.is_some_and(|at| at.elapsed() < self.period) {
                return;
            }
            state.is_walking = true;
        }
        let walk = Walk(Arc::clone(self));
        tokio::task::spawn_blocking(move || walk.0.walk());
    }

    /// Each pod's sizes count as soon as they are known. Those without a directory are forgotten.
    fn walk(&self) {
        let Ok(pods) = fs::read_dir(&self.pods) else { return };
        let mut found = HashSet::new();
        for pod in pods.flatten() {
            let uid = pod.file_name().to_string_lossy().into_owned();
            let volumes = volumes(&pod.path().join("volumes"), now());
            self.lock().known.insert(uid.clone(), volumes);
            found.insert(uid);
        }
        self.lock().known.retain(|uid, _| found.contains(uid));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Nanoseconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn trees_are_measured_once_in_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("u/volumes/kubernetes.io~empty-dir/cache");
        fs::create_dir_all(cache.join("a/b")).unwrap();
        fs::write(cache.join("a/b/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(cache.join("a/b/file"), cache.join("again")).unwrap();
        std::os::unix::fs::symlink("/", cache.join("out")).unwrap();
        fs::create_dir_all(folder.path().join("u/volumes/kubernetes.io~secret/key")).unwrap();
        let sizes = Arc::new(VolumeSizes::new(folder.path().to_owned(), Duration::from_secs(3600)));
        let walked = async |sizes: &Arc<VolumeSizes>| {
            sizes.refresh();
            while sizes.lock().is_walking {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let check = |sizes: &VolumeSizes, least: u64, n_inodes: u64| {
            let found = sizes.of("u");
            let [(name, disk)] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((&**name, disk.inodes_used), ("cache", Some(n_inodes)));
            let used = disk.used_bytes.unwrap();
            assert!((least..least + 65_536).contains(&used), "{used}");
        };
        assert!(sizes.of("u").is_empty(), "nobody waits for a walk");
        walked(&sizes).await;
        // The volume, a, b, the file once, and the link itself.
        check(&sizes, 100_000, 5);
        fs::write(cache.join("more"), vec![1; 200_000]).unwrap();
        walked(&sizes).await;
        check(&sizes, 100_000, 5);
        // While one is under way there is no other, however old the sizes are.
        let (walk, hour) = (Walk(Arc::clone(&sizes)), Duration::from_secs(3600));
        let long_ago = Instant::now().checked_sub(2 * hour);
        let under_way = |state: &mut State| (state.is_walking, state.walked_at) = (true, long_ago);
        under_way(&mut sizes.lock());
        let strong = Arc::strong_count(&sizes);
        sizes.refresh();
        assert_eq!(Arc::strong_count(&sizes), strong, "nobody walks beside it");
        drop(walk);
        sizes.lock().walked_at = long_ago;
        walked(&sizes).await;
        check(&sizes, 300_000, 6);
        fs::remove_dir_all(folder.path().join("u")).unwrap();
        sizes.lock().walked_at = long_ago;
        walked(&sizes).await;
        assert!(sizes.of("u").is_empty() && sizes.of("none").is_empty());
    }
}
