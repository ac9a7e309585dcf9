//! Pods of this machine's own folder, and the mirrors that show them to the cloud.
//!
//! A mirror runs nothing: it lends its static pod its status and its uid for reports. Of a static pod whose file changed the old one ends before the new one begins: they are one Pod in two versions
//! and share host ports and folders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use ke_cri::v1::PodSandbox;
use ke_wire::{Kind, ObjectKey, Uid};

use super::admission::Applicant;
use super::container::{POD_NAME, POD_NAMESPACE};
use super::desired::{Desired, DesiredPod};
use super::door::Origin;
use super::observer::{Listing, Listings};
use super::pod_spec::pod_key;
use super::state::{Edged, Entry};
use crate::static_pods::{FROM_FILE, MirrorPairs, SOURCE, StaticSet};

impl Edged {
    /// A mirror came or changed.
    pub(super) fn on_mirror(&mut self, mirror: Arc<Pod>) {
        let key = pod_key(&mirror);
        self.note_mirror(mirror);
        self.on_static_pods();
        // Somebody may be there to be told now, whatever the mirror itself says.
        let shown = self.pods.values().filter(|entry| entry.origin == Origin::File && entry.key == key);
        shown.for_each(|entry| entry.wake.notify_one());
    }

    pub(super) fn note_mirror(&mut self, mirror: Arc<Pod>) {
        let node = mirror.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if node == Some(self.shared.hands.settings.node_name.as_str())
            && let Some(key) = pod_key(&mirror)
        {
            self.mirrors.insert(key, mirror);
        }
    }

    /// A Pod of the store is gone: was it a mirror?
    pub(super) fn on_mirror_deleted(&mut self, key: &ObjectKey, uid: Option<&str>) {
        let is_it = |mirror: &Arc<Pod>| uid.is_none_or(|uid| mirror.metadata.uid.as_deref() == Some(uid));
        if self.mirrors.get(key).is_some_and(is_it) {
            self.mirrors.remove(key);
            self.on_static_pods();
        }
    }

    /// Brings what runs in line with the folder. Called whenever that, a mirror, or a static pod's end may have changed it.
    pub(super) fn on_static_pods(&mut self) {
        // Unknown: those that run go on, and their mirrors stay.
        let Some(wanted) = self.door.static_pods.borrow_and_update().clone() else { return };
        self.knows_statics = true;
        let is_wanted = |uid: &Uid, entry: &Entry| {
            let pod = entry.key.as_ref().and_then(|key| wanted.get(key));
            pod.is_some_and(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str()))
        };
        let gone = self.pods.iter().filter(|(uid, entry)| {
            entry.origin == Origin::File && !entry.is_removed() && !is_wanted(uid, entry)
        });
        let gone: Vec<Uid> = gone.map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.remove(&uid);
        }
        // First: workers look there for their mirror's uid.
        self.show_mirror_pairs(&wanted);
        for (key, pod) in wanted.iter() {
            let Some(uid) = pod.metadata.uid.as_deref() else { continue };
            let pod = self.with_mirrors_status(key, pod);
            match self.pods.get(uid) {
                Some(entry) if entry.is_removed() => {}
                // It was told to end with the machine, and none begins any more.
                _ if self.is_going_down(uid) => {}
                Some(entry) if entry.desired.borrow().pod().is_some_and(|held| **held == *pod) => {}
                Some(entry) => entry.change(&pod),
                // The one before it ends first; its end leads here again.
                None if self.has_static(key) => {}
                None => {
                    if let Some((uid, mut entry)) = self.entry(&pod) {
                        entry.origin = Origin::File;
                        self.let_in(uid, entry, &pod, Applicant::Static);
                    }
                }
            }
        }
        self.show_mirror_pairs(&wanted);
    }

    /// While the machine goes down: pods that were told to end, and all that are new.
    fn is_going_down(&self, uid: &str) -> bool {
        let down = self.going_down.as_ref();
        down.is_some_and(|down| down.contains_key(uid) || !self.pods.contains_key(uid))
    }

    /// What runs of static pods whose file has changed or gone while edgecore was down. It has its pod's name until it has
    /// ended, so that no other version begins beside it. Called before workers start, and before new ones come.
    pub(super) fn adopt_statics(&mut self, listings: &Listings) {
        let Some(wanted) = self.door.static_pods.borrow().clone() else { return };
        let is_wanted = |uid: &Uid, key: &ObjectKey| {
            wanted.get(key).is_some_and(|pod| pod.metadata.uid.as_deref() == Some(uid.as_str()))
        };
        let is_orphan = |(uid, listing): (&Uid, &Listing)| {
            let key =
                static_key(listing).filter(|key| !self.pods.contains_key(uid) && !is_wanted(uid, key))?;
            Some((uid.clone(), key))
        };
        let orphans: Vec<(Uid, ObjectKey)> = listings.iter().filter_map(is_orphan).collect();
        for (uid, key) in orphans {
            tracing::info!(%uid, pod = %key, "a static pod whose file is another one now is ended");
            self.add_static_orphan(&uid, key);
        }
        self.on_static_pods();
    }

    pub(super) fn add_static_orphan(&mut self, uid: &Uid, key: ObjectKey) {
        if !self.met {
            // Its end lets the other version in.
            self.pods.retain(|_, entry| entry.origin != Origin::File || entry.key.as_ref() != Some(&key));
        }
        let wanted = DesiredPod { want: Desired::Removed(None), hashes: BTreeMap::new() };
        let orphan = Entry { origin: Origin::File, ..Entry::new(wanted, BTreeSet::new(), Some(key)) };
        self.pods.insert(uid.clone(), orphan);
        self.start_worker(uid);
    }

    /// The folder says something new. Known for the first time: what runs of it under another uid is found before it begins.
    pub(super) async fn on_folder(&mut self) {
        if !self.knows_statics
            && let Ok(listings) = self.shared.observer.look().await
        {
            return self.adopt_statics(&listings);
        }
        self.on_static_pods();
    }

    fn has_static(&self, key: &ObjectKey) -> bool {
        self.pods.values().any(|entry| entry.origin == Origin::File && entry.key.as_ref() == Some(key))
    }

    /// Start times, restart counts and conditions of others go on from what the cloud has. That it has failed, or why, does
    /// not: the file asks for it as before, whatever ended it or refused it in an earlier life of the machine.
    fn with_mirrors_status(&self, key: &ObjectKey, pod: &Arc<Pod>) -> Arc<Pod> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let pairs = self.door.mirror_pairs.borrow();
        let status = pairs.mirror_of(key, uid).and_then(|mirror| mirror.status.clone());
        match status.filter(|status| status.phase.as_deref() != Some("Failed")) {
            Some(status) => {
                let status = PodStatus { reason: None, message: None, ..status };
                Arc::new(Pod { status: Some(status), ..Pod::clone(pod) })
            }
            None => Arc::clone(pod),
        }
    }

    fn show_mirror_pairs(&self, wanted: &StaticSet) {
        let files = self.pods.values().filter(|entry| entry.origin == Origin::File);
        let pair = |entry: &Entry| {
            let key = entry.key.clone()?;
            let pod = wanted.get(&key).filter(|_| !entry.is_removed()).cloned();
            Some((key, pod))
        };
        let pods: BTreeMap<_, _> = files.filter_map(pair).collect();
        let pairs = MirrorPairs { pods, mirrors: self.mirrors.clone() };
        self.door.mirror_pairs.send_if_modified(|shown| {
            let is_new = *shown != pairs;
            *shown = pairs;
            is_new
        });
    }
}

/// Whose listing this is, if it is a static pod's.
pub(super) fn static_key(listing: &Listing) -> Option<ObjectKey> {
    let labels = &listing.sandboxes.first().filter(|_| is_static(listing))?.labels;
    let (namespace, name) = (labels.get(POD_NAMESPACE)?, labels.get(POD_NAME)?);
    Some(ObjectKey::namespaced(Kind::Pod, namespace.parse().ok()?, name.parse().ok()?))
}

/// Whether what the runtime has is of a static pod.
pub(super) fn is_static(listing: &Listing) -> bool {
    let source = |one: &PodSandbox| one.annotations.get(SOURCE).map(String::as_str) == Some(FROM_FILE);
    listing.sandboxes.iter().any(source)
}
