//! How Edged is told of Pods: those of the cloud, those of this machine's own folder, and the mirrors that show the latter.
//!
//! A Pod that is new meets `admission` here. A mirror runs nothing: it lends its static pod its status and its uid for
//! reports. Of a static pod whose file changed the old one ends before the new one begins: they are one Pod in two versions
//! and share host ports and folders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use ke_cri::v1::PodSandbox;
use ke_wire::{Kind, ObjectKey};
use tokio::sync::{mpsc, watch};

use super::admission::{Applicant, Gate, Refusal, is_settled, judge, refused};
use super::container::{POD_NAME, POD_NAMESPACE};
use super::evicted::EVICTED;
use super::holds::{Release, as_released, is_to_wait};
use super::observer::{Listing, Listings};
use super::plan::{Desired, DesiredPod};
use super::pressure::refuses_under_pressure;
use super::{Edged, Entry, desired, pod_key};
use crate::static_pods::{FROM_FILE, SOURCE, Seats, StaticSet};

/// What Edged needs for Pods that are new to it.
pub struct Door {
    /// Static pods of now; `None` while nobody knows.
    pub static_pods: watch::Receiver<Option<StaticSet>>,
    /// Where static pods and mirrors are shown to whoever makes mirrors.
    pub seats: watch::Sender<Seats>,
    /// What this node takes.
    pub gate: Gate,
    /// Wishes to release held Pods.
    pub releases: mpsc::Receiver<Release>,
}

/// Where a Pod comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Origin {
    #[default]
    Cloud,
    File,
}

impl Edged {
    /// At the start: what was accepted before comes first, so that newcomers are judged against it.
    pub(super) fn put_all(&mut self, mut pods: Vec<Arc<Pod>>) {
        let age = |pod: &Arc<Pod>| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        pods.sort_by_key(|pod| (!is_settled(pod), age(pod)));
        let (mirrors, pods): (Vec<_>, Vec<_>) =
            pods.into_iter().partition(|pod| crate::static_pods::is_mirror(pod));
        for mirror in mirrors {
            self.note_mirror(mirror);
        }
        self.on_static_pods();
        for pod in pods.into_iter().map(crate::static_pods::as_from_api) {
            if let Some((uid, entry)) = self.entry(&pod) {
                self.let_in(uid, entry, &pod, Applicant::of(&pod));
            }
        }
    }

    /// A mirror came or changed.
    pub(super) fn on_mirror(&mut self, mirror: Arc<Pod>) {
        let key = pod_key(&mirror);
        self.note_mirror(mirror);
        self.on_static_pods();
        // Somebody may be there to be told now, whatever the mirror itself says.
        let shown = self.pods.values().filter(|entry| entry.origin == Origin::File && entry.key == key);
        shown.for_each(|entry| entry.wake.notify_one());
    }

    fn note_mirror(&mut self, mirror: Arc<Pod>) {
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
                // It was told to end with the machine, and none begins any more.
                _ if self.is_going_down(&uid) => {}
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

    /// While the machine goes down: pods that were told to end, and all that are new.
    fn is_going_down(&self, uid: &str) -> bool {
        let down = self.going_down.as_ref();
        down.is_some_and(|down| down.contains_key(uid) || !self.pods.contains_key(uid))
    }

    /// What runs of static pods whose file has changed or gone while edgecore was down. It has its pod's seat until it has
    /// ended, so that no other version begins beside it. Called before workers start, and before new ones come.
    pub(super) fn adopt_statics(&mut self, listings: &Listings) {
        let Some(wanted) = self.door.static_pods.borrow().clone() else { return };
        let is_wanted = |uid: &String, key: &ObjectKey| {
            wanted.get(key).is_some_and(|pod| pod.metadata.uid.as_ref() == Some(uid))
        };
        let is_orphan = |(uid, listing): (&String, &Listing)| {
            let key =
                static_key(listing).filter(|key| !self.pods.contains_key(uid) && !is_wanted(uid, key))?;
            Some((uid.clone(), key))
        };
        let orphans: Vec<(String, ObjectKey)> = listings.iter().filter_map(is_orphan).collect();
        for (uid, key) in orphans {
            tracing::info!(%uid, pod = %key, "a static pod whose file is another one now is ended");
            self.add_static_orphan(&uid, key);
        }
        self.on_static_pods();
    }

    pub(super) fn add_static_orphan(&mut self, uid: &str, key: ObjectKey) {
        if !self.met {
            // Its end lets the other version in.
            self.pods.retain(|_, entry| entry.origin != Origin::File || entry.key.as_ref() != Some(&key));
        }
        let wanted = DesiredPod { want: Desired::Removed(None), hashes: BTreeMap::new() };
        let orphan = Entry { origin: Origin::File, ..Entry::new(wanted, BTreeSet::new(), Some(key)) };
        self.pods.insert(uid.to_owned(), orphan);
        self.start_worker(uid);
    }

    fn has_static(&self, key: &ObjectKey) -> bool {
        self.pods.values().any(|entry| entry.origin == Origin::File && entry.key.as_ref() == Some(key))
    }

    /// Start times, restart counts and conditions of others go on from what the cloud has. That it has failed, or why, does
    /// not: the file asks for it as before, whatever ended it or refused it in an earlier life of the machine.
    fn with_mirrors_status(&self, key: &ObjectKey, pod: &Arc<Pod>) -> Arc<Pod> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let seats = self.door.seats.borrow();
        let status = seats.mirror_of(key, uid).and_then(|mirror| mirror.status.clone());
        match status.filter(|status| status.phase.as_deref() != Some("Failed")) {
            Some(status) => {
                let status = PodStatus { reason: None, message: None, ..status };
                Arc::new(Pod { status: Some(status), ..Pod::clone(pod) })
            }
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

    /// A Pod that Edged did not know: it runs, or is shown as refused.
    pub(super) fn let_in(&mut self, uid: String, mut entry: Entry, pod: &Arc<Pod>, applicant: Applicant) {
        if applicant != Applicant::Static && is_to_wait(pod) {
            entry.is_held = true;
            self.pods.insert(uid, entry);
            return self.tell_held(pod);
        }
        self.let_go(uid, entry, pod, applicant);
    }

    /// A Pod that waits for nobody.
    pub(super) fn let_go(&mut self, uid: String, mut entry: Entry, pod: &Arc<Pod>, applicant: Applicant) {
        let is_ending = pod.metadata.deletion_timestamp.is_some();
        if !is_settled(pod)
            && !is_ending
            && let Some(refusal) = self.refusal(pod, applicant)
        {
            tracing::warn!(%uid, reason = %refusal.reason, "a pod is refused: {}", refusal.message);
            entry.refusal = Some(refusal);
            entry.change(pod);
        }
        self.pods.insert(uid.clone(), entry);
        // Before the runtime is met all start together.
        if self.met {
            self.weigh_classes();
            self.start_worker(&uid);
        }
    }

    /// Why a new Pod is not taken: the node is short of something, or the Pod does not fit it.
    fn refusal(&self, pod: &Pod, applicant: Applicant) -> Option<Refusal> {
        let short = refuses_under_pressure(pod, self.pressures).filter(|_| applicant != Applicant::Static);
        let short = short.map(|message| Refusal { reason: EVICTED.to_owned(), message });
        short.or_else(|| judge(pod, applicant, &self.accepted(), &self.door.gate))
    }

    /// Pods that have a claim on this machine: all but those that have ended or are about to.
    fn accepted(&self) -> Vec<Arc<Pod>> {
        let runs = |entry: &Entry| match &entry.desired.borrow().want {
            Desired::Run(_) if entry.is_held => None,
            Desired::Run(_) if entry.has_ended.load(Ordering::Relaxed) => None,
            Desired::Run(pod) => {
                // What an earlier run told of it.
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                (!matches!(phase, Some("Failed" | "Succeeded"))).then(|| Arc::clone(pod))
            }
            Desired::Terminate(_) | Desired::Removed(_) => None,
        };
        self.pods.values().filter_map(runs).collect()
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

impl Entry {
    pub(super) fn is_removed(&self) -> bool {
        matches!(self.desired.borrow().want, Desired::Removed(_))
    }

    /// The Pod's new version. One that was refused stays refused, even while the cloud does not know it yet.
    pub(super) fn change(&self, pod: &Arc<Pod>) {
        let has_ended =
            |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed");
        let pod = match &self.refusal {
            Some(refusal) if !has_ended(pod) => Arc::new(refused(pod, refusal)),
            _ => Arc::clone(pod),
        };
        let pod = if self.is_held { pod } else { as_released(&pod) };
        self.desired.send_replace(desired(pod));
    }
}

/// What a worker has to know of how its Pod came.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrival {
    pub(super) origin: Origin,
    pub(super) refusal: Option<Refusal>,
    /// Set when the Pod's phase says that it is over: it takes no room any more. The cloud does not send phases back.
    pub(super) has_ended: Arc<AtomicBool>,
}

impl Arrival {
    /// What the worker found out about the Pod.
    pub(super) fn note(&self, status: &PodStatus) {
        if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
            self.has_ended.store(true, Ordering::Relaxed);
        }
    }
}
