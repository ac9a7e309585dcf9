//! Room for critical pods: static ones, and those of the system's own priority. Where one finds too little, lower pods end for
//! it, and it begins once they have.
//!
//! Asked by `arrivals.rs` when such a Pod is new; `choice.rs` says who goes. Nobody is ended for a Pod that could not run all
//! the same: what else stands against it is asked first (`admission`).

mod choice;
pub(super) mod waiting;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use ke_wire::Uid;
use tokio::time::Instant;

use self::choice::{Missing, choose, words};
use self::waiting::{LEAST_WAIT, Wait};
use super::admission::{Lack, Refusal, UNEXPECTED_ADMISSION, lacks};
use super::desired::Desired;
use super::evicted::{Eviction, Life};
use super::pod_spec::pod_uid;
use super::state::{Edged, Entry};

impl Edged {
    /// What this node has too little of for the Pod.
    pub(super) fn lacks(&self, pod: &Pod, others: &[Arc<Pod>]) -> Vec<Lack> {
        let devices = &self.shared.hands.devices;
        lacks(pod, others, &self.door.gate, &|resource| devices.serves(resource))
    }

    /// Ends pods until the critical one has room. `others`: all that have a claim on this machine. The refusal: not even all
    /// lower ones would be enough, and none of them is touched.
    pub(super) fn make_room(&mut self, pod: &Pod, others: &[Arc<Pod>]) -> Option<Refusal> {
        if self.lacks(pod, others).is_empty() {
            return None;
        }
        // Those that are on their way out already count as gone, and are waited for as well.
        let (leaving, mut staying): (Vec<_>, Vec<_>) =
            others.iter().cloned().partition(|other| self.entry_of(other).is_some_and(Entry::is_leaving));
        staying.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let missing = self.lacks(pod, &staying);
        let missing: Vec<Missing> = missing
            .iter()
            .map(|lack| Missing { resource: lack.resource.clone(), amount: lack.missing() })
            .collect();
        let chosen = match choose(pod, &staying, &missing) {
            Ok(chosen) => chosen,
            Err(left) => {
                return Some(Refusal {
                    reason: UNEXPECTED_ADMISSION.to_owned(),
                    message: format!(
                        "Unexpected error while attempting to recover from admission failure: preemption: error finding a \
                         set of pods to preempt: no set of running pods found to reclaim resources: {}",
                        words(&left)
                    ),
                });
            }
        };
        for other in &chosen {
            let Some(entry) = self.entry_of(other) else { continue };
            tracing::warn!(
                pod = %name(other), for_pod = %name(pod), missing = %words(&missing), "a pod is ended to make room for a critical one"
            );
            entry.care.send_modify(|care| {
                care.evicted.get_or_insert_with(|| Arc::new(Eviction::preempted()));
            });
        }
        let ending: Vec<Arc<Pod>> = chosen.into_iter().chain(leaving).collect();
        let grace = ending.iter().map(|pod| grace(pod)).max().unwrap_or_default();
        let wait = Wait {
            for_pods: ending.iter().filter_map(|pod| pod_uid(pod)).collect(),
            until: Instant::now() + (grace + grace / 2).max(LEAST_WAIT),
        };
        self.waiting.pods.extend(pod_uid(pod).map(|uid| (uid, wait)));
        self.busy();
        None
    }

    /// Begins with those whose room is free, or that have waited long enough. Called at every look.
    pub(super) fn start_waiting(&mut self) {
        if self.waiting.pods.is_empty() {
            return;
        }
        let now = Instant::now();
        let has_ended = |uid: &Uid| self.pods.get(uid).is_none_or(|entry| *entry.life.borrow() == Life::Over);
        let runs = |uid: &Uid| {
            self.pods.get(uid).is_some_and(|entry| matches!(entry.desired.borrow().want, Desired::Run(_)))
        };
        let may_begin = |uid: &Uid, wait: &Wait| {
            let is_late = now >= wait.until;
            if is_late {
                tracing::warn!(pod = %uid, pods = ?wait.for_pods, "pods that make room have not ended in their time");
            }
            is_late || !runs(uid) || wait.for_pods.iter().all(has_ended)
        };
        let ready: Vec<Uid> = self
            .waiting
            .pods
            .iter()
            .filter(|(uid, wait)| may_begin(uid, wait))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in ready {
            self.waiting.pods.remove(&uid);
            self.start_worker(&uid);
        }
    }

    fn entry_of(&self, pod: &Pod) -> Option<&Entry> {
        self.pods.get(pod.metadata.uid.as_deref()?)
    }
}

impl Entry {
    /// It is on its way out already.
    fn is_leaving(&self) -> bool {
        self.care.borrow().evicted.is_some() || !matches!(self.desired.borrow().want, Desired::Run(_))
    }
}

fn grace(pod: &Pod) -> Duration {
    let secs = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    // A day is longer than anybody waits.
    Duration::from_secs(secs.clamp(0, 86_400).unsigned_abs())
}

fn name(pod: &Pod) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&pod.metadata.namespace), text(&pod.metadata.name))
}
