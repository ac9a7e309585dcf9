//! What becomes of a Pod that comes: it changes one that is known, or meets `admission` and is let in, refused, or held until
//! it is released. Whoever is let in gets a worker (`workers.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use ke_wire::{ObjectKey, Uid};

use super::admission::{Applicant, Refusal, is_settled, judge};
use super::desired::{Desired, desired};
use super::door::Origin;
use super::evicted::{EVICTED, Life};
use super::hold_upgrade::{Release, Which, held_status, is_to_wait};
use super::node_shutdown::{ended, turned_away};
use super::pod_spec::{pod_key, pod_uid, uses};
use super::pressure::refuses_under_pressure;
use super::state::{Edged, Entry};
use crate::report_queue::Report;
use crate::static_pods;

impl Edged {
    /// At the start: what was accepted before comes first, so that newcomers are judged against it, static pods before others.
    pub(super) fn put_all(&mut self, mut pods: Vec<Arc<Pod>>) {
        let age = |pod: &Arc<Pod>| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        pods.sort_by_key(age);
        let (mirrors, pods): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| static_pods::is_mirror(pod));
        for mirror in mirrors {
            self.note_mirror(mirror);
        }
        let (settled, new): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| is_settled(pod));
        self.put_each(settled);
        self.on_static_pods();
        self.put_each(new);
    }

    fn put_each(&mut self, pods: Vec<Arc<Pod>>) {
        for pod in pods.into_iter().map(static_pods::as_from_api) {
            if let Some((uid, entry)) = self.entry(&pod) {
                self.let_in(uid, entry, &pod, Applicant::of(&pod));
            }
        }
    }

    pub(super) fn put(&mut self, pod: Arc<Pod>) {
        if static_pods::is_mirror(&pod) {
            return self.on_mirror(pod);
        }
        let pod = self.judged(static_pods::as_from_api(pod));
        let Some((uid, entry)) = self.entry(&pod) else { return };
        self.busy();
        // Another Pod of this name: the one before is gone from the cloud, whether we were told or not.
        let replaced = self.pods.iter().filter(|(other, known)| {
            **other != uid && known.key == entry.key && known.origin == Origin::Cloud
        });
        let replaced: Vec<Uid> = replaced.map(|(other, _)| other.clone()).collect();
        for other in replaced {
            self.remove(&other);
        }
        match self.pods.get_mut(&uid) {
            Some(known) => {
                known.uses = entry.uses;
                known.key = entry.key;
                known.change(&pod);
                if known.is_held && !is_to_wait(&pod) {
                    self.begin(&uid);
                }
            }
            None => self.let_in(uid, entry, &pod, Applicant::of(&pod)),
        }
    }

    /// As it is, unless the machine goes down.
    fn judged(&self, pod: Arc<Pod>) -> Arc<Pod> {
        let (Some(down), None) = (&self.going_down, &pod.metadata.deletion_timestamp) else { return pod };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match down.get(uid) {
            Some(period) => Arc::new(ended(&pod, *period, Timestamp::now())),
            None if !self.pods.contains_key(uid) => Arc::new(turned_away(&pod)),
            None => pod,
        }
    }

    /// An entry for a Pod of this machine; `None` for one that is not ours or that has no usable uid and names.
    pub(super) fn entry(&self, pod: &Arc<Pod>) -> Option<(Uid, Entry)> {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if node != Some(self.shared.hands.settings.node_name.as_str()) {
            return None;
        }
        let (Some(uid), Some(key)) = (pod_uid(pod), pod_key(pod)) else {
            let uid = pod.metadata.uid.as_deref();
            tracing::warn!(uid, "a pod has no usable uid, namespace and name and is not run");
            return None;
        };
        Some((uid, Entry::new(desired(pod.clone()), uses(pod), Some(key))))
    }

    /// A Pod that Edged did not know: it runs, or is shown as refused.
    pub(super) fn let_in(&mut self, uid: Uid, mut entry: Entry, pod: &Arc<Pod>, applicant: Applicant) {
        if applicant != Applicant::Static && is_to_wait(pod) {
            entry.is_held = true;
            self.pods.insert(uid, entry);
            return self.tell_held(pod);
        }
        self.let_go(uid, entry, pod, applicant);
    }

    /// A Pod that waits for nobody.
    fn let_go(&mut self, uid: Uid, mut entry: Entry, pod: &Arc<Pod>, applicant: Applicant) {
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
    fn refusal(&mut self, pod: &Pod, applicant: Applicant) -> Option<Refusal> {
        let short = refuses_under_pressure(pod, self.pressures).filter(|_| applicant != Applicant::Static);
        let short = short.map(|message| Refusal { reason: EVICTED.to_owned(), message });
        let others = self.accepted();
        short
            .or_else(|| judge(pod, applicant, &others, &self.door.gate, &self.lacks(pod, &others)))
            .or_else(|| self.make_room(pod, &others))
    }

    /// Pods that have a claim on this machine: all but those of which nothing runs any more.
    fn accepted(&self) -> Vec<Arc<Pod>> {
        let runs = |entry: &Entry| match &entry.desired.borrow().want {
            Desired::Run(_) if entry.is_held => None,
            Desired::Run(_) if entry.has_ended.load(Ordering::Relaxed) => None,
            Desired::Run(pod) => {
                // What an earlier run told of it.
                let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
                (!matches!(phase, Some("Failed" | "Succeeded"))).then(|| Arc::clone(pod))
            }
            // What ends holds its ports and its memory until it is over. One that the cloud does not have any more counts as
            // gone, as with a kubelet: its successor may be here already.
            Desired::Terminate(_) if *entry.life.borrow() == Life::Over => None,
            Desired::Terminate(pod) => Some(Arc::clone(pod)),
            Desired::Removed(_) => None,
        };
        self.pods.values().filter_map(runs).collect()
    }

    /// Tells the cloud that the Pod waits, unless it knows.
    fn tell_held(&mut self, pod: &Pod) {
        let Some(status) = held_status(pod) else { return };
        let (name, namespace) = (pod.metadata.name.as_deref(), pod.metadata.namespace.as_deref());
        let (name, namespace) = (name.unwrap_or_default(), namespace.unwrap_or_default());
        tracing::info!(pod = name, namespace, "a pod is held: keadm ctl unhold-upgrade releases it");
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let (Ok(namespace), Ok(name), Ok(uid)) = (namespace.parse(), name.parse(), uid.parse()) else {
            return;
        };
        let Ok(status) = serde_json::to_vec(&status) else { return };
        let report = Report::PodStatus { namespace, name, uid, status: status.into() };
        let reports = self.shared.reports.clone();
        self.tasks.spawn(async move { reports.send(report).await });
    }

    pub(super) fn on_release(&mut self, Release { which, done }: Release) {
        let is_meant = |key: &ObjectKey| match &which {
            Which::Pod(meant) => meant == key,
            Which::All => true,
        };
        let held = self.pods.iter().filter(|(_, entry)| entry.is_held);
        let meant = held
            .filter_map(|(uid, entry)| Some((uid.clone(), entry.key.clone().filter(|key| is_meant(key))?)));
        let meant: Vec<(Uid, ObjectKey)> = meant.collect();
        for (uid, key) in &meant {
            tracing::info!(pod = %key, "a held pod is released");
            self.begin(uid);
        }
        // Whoever asked may be gone.
        let _ = done.send(meant.into_iter().map(|(_, key)| key).collect());
    }

    /// Lets a held Pod go on as one that comes now. Nothing to do for any other.
    pub(super) fn begin(&mut self, uid: &Uid) {
        let Some(mut entry) = self.pods.remove(uid) else { return };
        let pod = entry.desired.borrow().pod().cloned();
        match pod.filter(|_| std::mem::replace(&mut entry.is_held, false)) {
            Some(pod) if !entry.is_removed() => {
                entry.change(&pod);
                self.let_go(uid.clone(), entry, &pod, Applicant::of(&pod));
            }
            Some(_) => {
                self.pods.insert(uid.clone(), entry);
                self.start_worker(uid);
            }
            None => {
                self.pods.insert(uid.clone(), entry);
            }
        }
    }
}
