//! How Edged looks at the runtime: the first meeting, then a look every second or sooner. Who has changed is woken; what nobody
//! asks for gets a worker that removes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ke_wire::Uid;
use tokio::time::Instant;

use super::container::{POD_NAME, POD_NAMESPACE};
use super::cri::Runtime;
use super::desired::{Desired, DesiredPod};
use super::observer::Listings;
use super::state::{Edged, Entry, Look, Seen};
use super::statics::{is_static, static_key};

/// How often the runtime is asked what it runs. containerd before 1.7 tells nothing by itself; two lists cost it about a
/// millisecond. Shortly after a change the next one is near.
const QUIET: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_millis(200);
/// How long a change makes the machine busy.
const BUSY_FOR: Duration = Duration::from_secs(3);

impl Edged {
    pub(super) fn begin_look(&self) -> Look {
        let shared = self.shared.clone();
        // Asked once with the first look: a runtime without events never gets any.
        let wants_events = self.events.is_none() && !self.has_looked;
        Box::pin(async move {
            let listings = shared.observer.look().await.ok()?;
            if !wants_events {
                return Some((listings, None));
            }
            Some((listings, Some(shared.hands.runtime.events().await.ok().flatten())))
        })
    }

    pub(super) async fn on_looked(&mut self, seen: Option<Seen>) {
        self.look = None;
        if let Some((listings, asked)) = seen {
            self.compare(&listings);
            if let Some(events) = asked {
                (self.events, self.has_looked) = (events, true);
            }
            let is_whole = *self.store_is_full.borrow() && self.knows_statics;
            if is_whole && !std::mem::replace(&mut self.directories_adopted, true) {
                self.adopt_directories().await;
            }
        }
        self.start_waiting();
        let now = Instant::now();
        let wait = if now < self.busy_until { BUSY } else { QUIET };
        self.look_at = now + wait;
    }

    /// Wakes the workers of pods that changed, and gives pods that nobody asks for a worker that removes them.
    fn compare(&mut self, listings: &Listings) {
        for (uid, listing) in listings.iter() {
            let fingerprint = listing.fingerprint();
            if self.seen.get(uid) == Some(&fingerprint) {
                continue;
            }
            let is_known = self.pods.contains_key(uid);
            // The folder of static pods is whole once it was read, whatever the store is.
            let is_whole = match is_static(listing) {
                true => self.knows_statics,
                false => *self.store_is_full.borrow(),
            };
            if !is_known && !is_whole {
                continue;
            }
            self.seen.insert(uid.clone(), fingerprint);
            self.busy();
            if is_known {
                self.wake(uid.as_str());
                continue;
            }
            let labels = listing
                .sandboxes
                .first()
                .map(|sandbox| &sandbox.labels)
                .or(listing.containers.first().map(|container| &container.labels));
            let label = |key: &str| labels.and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
            tracing::info!(pod = %label(POD_NAME), namespace = %label(POD_NAMESPACE), uid = %uid, "a pod that the store does not have is removed");
            match static_key(listing) {
                Some(key) => self.add_static_orphan(uid, key),
                None => self.add_orphan(uid),
            }
        }
        let gone: Vec<Uid> = self.seen.keys().filter(|uid| !listings.contains_key(*uid)).cloned().collect();
        for uid in gone {
            self.seen.remove(&uid);
            self.wake(uid.as_str());
        }
    }

    /// Directories and devices of pods of which neither the store nor the runtime knows anything: removed the same way.
    async fn adopt_directories(&mut self) {
        let mut uids = self.shared.hands.files.on_disk().await;
        // None is kept for a Pod without a usable uid: it would not have been taken on.
        let holders = self.shared.hands.devices.holders();
        uids.extend(holders.iter().filter_map(|uid| uid.parse().ok()));
        for uid in uids {
            if !self.pods.contains_key(&uid) {
                self.add_orphan(&uid);
            }
        }
    }

    fn add_orphan(&mut self, uid: &Uid) {
        let wanted = DesiredPod { want: Desired::Removed(None), hashes: BTreeMap::new() };
        self.pods.insert(uid.clone(), Entry::new(wanted, BTreeSet::new(), None));
        self.start_worker(uid);
    }

    pub(super) fn busy(&mut self) {
        let now = Instant::now();
        self.busy_until = now + BUSY_FOR;
        self.look_at = self.look_at.min(now + BUSY);
    }
}

/// Waits for a runtime that starts after edgecore, as is normal at boot; gives its name.
pub(super) async fn meet_runtime(runtime: Arc<dyn Runtime>) -> String {
    let mut wait = BUSY;
    loop {
        match runtime.version().await {
            Ok(version) => return version.runtime_name,
            Err(error) if wait == BUSY => {
                tracing::warn!(%error, "the container runtime does not answer yet; pods wait for it");
            }
            Err(_) => {}
        }
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(Duration::from_secs(5));
    }
}
