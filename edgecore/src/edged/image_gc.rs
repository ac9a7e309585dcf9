//! Which images to remove when the disk fills up. Pure: the caller reads the disk, asks the runtime and removes.
//!
//! Never picked: what a container uses, the sandbox image, what the runtime pins, and what came a moment ago (a pod may
//! be about to use it).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ke_cri::v1;

/// When to start and when to stop removing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GcPolicy {
    /// `imageGCHighThresholdPercent`: 100 turns collection by disk off.
    pub high_percent: u64,
    /// `imageGCLowThresholdPercent`.
    pub low_percent: u64,
    /// `imageMinimumGCAge`.
    pub min_age: Duration,
    /// `imageMaximumGCAge`: unused for longer goes even when the disk is empty. `None` for never.
    pub max_age: Option<Duration>,
}

impl Default for GcPolicy {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(120), max_age: None }
    }
}

/// The file system that holds the images, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    pub capacity: u64,
    pub available: u64,
}

/// One image and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRecord {
    pub size: u64,
    /// When this process saw it first.
    pub first_seen: Instant,
    /// When a container used it last; `first_seen` while none did.
    pub last_used: Instant,
    pub in_use: bool,
    pub pinned: bool,
}

/// What to remove, oldest use first, and whether that is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    pub ids: Vec<String>,
    /// Bytes that they give.
    pub found: u64,
    /// Bytes that should be freed beyond what `ids` give: the event `FreeDiskSpaceFailed` and the node's disk pressure.
    pub missing: u64,
}

/// Remembers when each image was used. Starts anew with the process: then everything counts as just seen.
#[derive(Clone, Debug, Default)]
pub struct ImageLedger {
    images: BTreeMap<String, ImageRecord>,
}

impl ImageLedger {
    /// Takes in what is there now. `used` are image ids of containers in any state; `sandbox_image` by name.
    pub fn observe(
        &mut self,
        now: Instant,
        images: &[v1::Image],
        used: &BTreeSet<String>,
        sandbox_image: &str,
    ) {
        let mut known = std::mem::take(&mut self.images);
        for image in images {
            let before = known.remove(&image.id);
            let in_use = used.contains(&image.id)
                || image.repo_digests.iter().chain(&image.repo_tags).any(|name| used.contains(name));
            let first_seen = before.as_ref().map_or(now, |before| before.first_seen);
            let last_used = if in_use { now } else { before.map_or(now, |before| before.last_used) };
            let is_sandbox =
                image.repo_tags.iter().chain(&image.repo_digests).any(|name| name == sandbox_image);
            let record = ImageRecord {
                size: image.size,
                first_seen,
                last_used,
                in_use,
                pinned: image.pinned || is_sandbox,
            };
            self.images.insert(image.id.clone(), record);
        }
    }

    /// What to remove now.
    #[must_use]
    pub fn to_remove(&self, now: Instant, disk: Disk, policy: &GcPolicy) -> Removal {
        to_remove(now, &self.images, disk, policy)
    }

    /// All that nobody uses, if it is not too young: before a pod must go.
    #[must_use]
    pub fn unused(&self, now: Instant, policy: &GcPolicy) -> Vec<String> {
        pick(now, &self.images, u64::MAX, policy).ids
    }
}

/// Removes what is too old, then, above the high threshold, the longest unused until the low one is reached.
#[must_use]
pub fn to_remove(
    now: Instant,
    images: &BTreeMap<String, ImageRecord>,
    disk: Disk,
    policy: &GcPolicy,
) -> Removal {
    pick(now, images, bytes_to_free(disk, policy), policy)
}

fn pick(
    now: Instant,
    images: &BTreeMap<String, ImageRecord>,
    mut to_free: u64,
    policy: &GcPolicy,
) -> Removal {
    let age = |since: Instant| now.saturating_duration_since(since);
    let mut candidates: Vec<(&String, &ImageRecord)> = images
        .iter()
        .filter(|(_, image)| !image.in_use && !image.pinned && age(image.first_seen) >= policy.min_age)
        .collect();
    candidates.sort_by_key(|(id, image)| (image.last_used, image.first_seen, (*id).clone()));

    let mut removal = Removal::default();
    for (id, image) in candidates {
        let too_old = policy.max_age.is_some_and(|max_age| age(image.last_used) > max_age);
        if too_old || to_free > 0 {
            to_free = to_free.saturating_sub(image.size);
            removal.found = removal.found.saturating_add(image.size);
            removal.ids.push(id.clone());
        }
    }
    removal.missing = to_free;
    removal
}

fn bytes_to_free(disk: Disk, policy: &GcPolicy) -> u64 {
    if disk.capacity == 0 || policy.high_percent >= 100 {
        return 0;
    }
    let percent = |percent: u64| u128::from(disk.capacity) * u128::from(percent.min(100)) / 100;
    let used = u128::from(disk.capacity.saturating_sub(disk.available));
    if used < percent(policy.high_percent) {
        return 0;
    }
    u64::try_from(used.saturating_sub(percent(policy.low_percent))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn what_goes() {
        let start = Instant::now();
        let now = start + 100 * MINUTE;
        let image = |size: u64, used_minutes_ago: u32, in_use: bool, pinned: bool| ImageRecord {
            size,
            first_seen: start,
            last_used: now - used_minutes_ago * MINUTE,
            in_use,
            pinned,
        };
        let mut images = BTreeMap::from([
            ("old".to_owned(), image(10, 90, false, false)),
            ("mid".to_owned(), image(10, 50, false, false)),
            ("new".to_owned(), image(10, 1, false, false)),
            ("used".to_owned(), image(10, 99, true, false)),
            ("pause".to_owned(), image(10, 99, false, true)),
        ]);
        images.insert("fresh".to_owned(), ImageRecord { first_seen: now, ..image(10, 99, false, false) });
        let check = |used: u64, max_age: Option<Duration>, expected: &[&str], missing: u64| {
            let policy = GcPolicy { max_age, ..GcPolicy::default() };
            let disk = Disk { capacity: 100, available: 100 - used };
            let removal = to_remove(now, &images, disk, &policy);
            assert_eq!(
                (removal.ids, removal.missing),
                (expected.iter().map(|s| (*s).to_owned()).collect(), missing),
                "{used}"
            );
        };
        check(84, None, &[], 0);
        check(85, None, &["old"], 0);
        check(95, None, &["old", "mid"], 0);
        check(100, None, &["old", "mid"], 0);
        check(10, Some(60 * MINUTE), &["old"], 0);
        let disk = Disk { capacity: 100, available: 0 };
        let low = GcPolicy { low_percent: 50, ..GcPolicy::default() };
        assert_eq!(to_remove(now, &images, disk, &low).missing, 20);
        let ledger = ImageLedger { images: images.clone() };
        assert_eq!(ledger.unused(now, &GcPolicy::default()), ["old", "mid", "new"]);
        let off = GcPolicy { high_percent: 100, ..GcPolicy::default() };
        assert_eq!(to_remove(now, &images, disk, &off), Removal::default());
        let no_disk = Disk { capacity: 0, available: 0 };
        assert_eq!(to_remove(now, &images, no_disk, &GcPolicy::default()), Removal::default());
    }

    #[test]
    fn ledger_remembers_use() {
        let start = Instant::now();
        let image = |id: &str, tag: &str| v1::Image {
            id: id.into(),
            repo_tags: vec![tag.into()],
            size: 50,
            ..v1::Image::default()
        };
        let images = [image("1", "app:1"), image("2", "pause:3")];
        let mut ledger = ImageLedger::default();
        let used = BTreeSet::from(["1".to_owned()]);
        ledger.observe(start, &images, &used, "pause:3");
        let full = Disk { capacity: 100, available: 0 };
        let later = start + 10 * MINUTE;
        assert!(ledger.to_remove(later, full, &GcPolicy::default()).ids.is_empty());
        ledger.observe(later, &images, &BTreeSet::new(), "pause:3");
        assert_eq!(ledger.to_remove(later, full, &GcPolicy::default()).ids, ["1"]);
        assert_eq!(ledger.images["1"].last_used, start);
        ledger.observe(later, &[], &BTreeSet::new(), "pause:3");
        assert!(ledger.images.is_empty());
    }
}
