//! Pods of this machine's own folder, and the mirrors that show them to the cloud.
//!
//! A mirror runs nothing: it lends its static pod its status and its uid for
//! reports. Of a static pod whose file changed the old one ends before the new one begins: they are one Pod in two versions
//! and share host ports and folders.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use ke_wire::ObjectKey;

use super::admission::Applicant;
use super::door::Origin;
use super::pod_spec::pod_key;
use super::state::{Edged, Entry};
use crate::static_pods::{Seats, StaticSet};

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
        let wanted = self.door.static_pods.borrow_and_update().clone();
        let is_wanted = |uid: &String, entry: &Entry| {
            let pod = entry.key.as_ref().and_then(|key| wanted.get(key));
            pod.is_some_and(|pod| pod.metadata.uid.as_ref() == Some(uid))
        };
        let gone = self.pods.iter().filter(|(uid, entry)| {
            entry.origin == Origin::File && !entry.is_removed() && !is_wanted(uid, entry)
        });
        let gone: Vec<String> = gone.map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.remove(&uid);
        }
        // First: workers look there for their mirror's uid.
        self.show_seats(&wanted);
        for (key, pod) in wanted.iter() {
            let Some(uid) = pod.metadata.uid.clone() else { continue };
            let pod = self.with_mirrors_status(key, pod);
            match self.pods.get(&uid) {
                Some(entry) if entry.is_removed() => {}
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
        self.show_seats(&wanted);
    }

    fn has_static(&self, key: &ObjectKey) -> bool {
        self.pods.values().any(|entry| entry.origin == Origin::File && entry.key.as_ref() == Some(key))
    }

    /// Start times, restart counts and conditions of others go on from what the cloud has.
    fn with_mirrors_status(&self, key: &ObjectKey, pod: &Arc<Pod>) -> Arc<Pod> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let seats = self.door.seats.borrow();
        match seats.mirror_of(key, uid).and_then(|mirror| mirror.status.clone()) {
            Some(status) => Arc::new(Pod { status: Some(status), ..Pod::clone(pod) }),
            None => Arc::clone(pod),
        }
    }

    fn show_seats(&self, wanted: &StaticSet) {
        let files = self.pods.values().filter(|entry| entry.origin == Origin::File);
        let seat = |entry: &Entry| {
            let key = entry.key.clone()?;
            let pod = wanted.get(&key).filter(|_| !entry.is_removed()).cloned();
            Some((key, pod))
        };
        let pods: BTreeMap<_, _> = files.filter_map(seat).collect();
        let seats = Seats { pods, mirrors: self.mirrors.clone() };
        self.door.seats.send_if_modified(|shown| {
            let is_new = *shown != seats;
            *shown = seats;
            is_new
        });
    }
}
