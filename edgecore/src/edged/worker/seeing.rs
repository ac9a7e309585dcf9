//! How a worker sees its Pod: what the runtime shows, and what this process remembers of it, become an [`ObservedPod`]. On the
//! way its probes are set to what runs now. Called by `worker.rs` before each plan.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;

use super::state::Worker;
use crate::edged::cri::RuntimeError;
use crate::edged::desired::{Desired, DesiredPod};
use crate::edged::observed::{ObservedPod, Resizes};
use crate::edged::observer::Listing;
use crate::edged::outcome::outcome;
use crate::edged::probes::Ground;
use crate::edged::sandbox::on_host_network;

impl Worker {
    pub(super) async fn observe(
        &mut self,
        desired: &DesiredPod,
        listing: &Listing,
    ) -> Result<ObservedPod, RuntimeError> {
        let needs_address = desired.pod().is_none_or(|pod| !on_host_network(pod));
        let runtime = &*self.shared.hands.runtime;
        let (sandboxes, containers) = self.memory.inspector.inspect(runtime, listing, needs_address).await?;
        let none = PodStatus::default();
        let stored = desired.pod().and_then(|pod| pod.status.as_ref()).unwrap_or(&none);
        let started_at = self.memory.told.last(stored).start_time.as_ref().map(|time| time.0);
        let mut observed = ObservedPod {
            sandboxes,
            containers,
            volumes: self.memory.volumes,
            backoffs: self.memory.backoffs.clone(),
            failures: self.memory.failures.clone(),
            hold: self.memory.hold,
            started_at,
            probes: BTreeMap::new(),
            resizes: Resizes::default(),
            cleaned: self.memory.cleaned,
            gone_reported: self.memory.gone_reported,
            evicted: self.memory.evicted.clone(),
            strip: false,
        };
        // Dead sandboxes stay listed while containers of theirs are kept; their addresses may be another Pod's by now.
        self.memory.addresses = observed.current_sandbox().map(|one| one.ips.clone()).unwrap_or_default();
        if let Some(pod) = desired.pod() {
            let told = self.memory.told.last(stored);
            // Its ends must have been told before what shows them goes.
            let has_ended = matches!(told.phase.as_deref(), Some("Succeeded" | "Failed"));
            let strips = observed.evicted.as_ref().is_some_and(|eviction| eviction.strips());
            observed.strip = has_ended && (strips || self.ears.care.borrow().strip);
            if observed.strip {
                observed.recall_status(told);
            }
            observed.recall(pod);
            self.probe(desired, pod, &observed);
            observed.probes = self.memory.probes.verdicts();
            if let Desired::Run(pod) = &desired.want {
                let previous = self.memory.told.last(stored);
                let (resizes, word) = self.memory.resizer.look(pod, &observed, listing, previous);
                observed.resizes = resizes;
                self.say_resize(word).await;
                if outcome(pod, &observed, Timestamp::now()).is_some() {
                    self.shared.room.leave(self.uid.as_str());
                }
            }
        }
        Ok(observed)
    }

    /// What runs and has probes is watched from here on, what ended no more.
    pub(super) fn probe(&mut self, desired: &DesiredPod, pod: &Pod, observed: &ObservedPod) {
        let none = PodStatus::default();
        let previous = self.memory.told.last(pod.status.as_ref().unwrap_or(&none));
        let is_ending =
            !matches!(desired.want, Desired::Run(_)) || outcome(pod, observed, Timestamp::now()).is_some();
        let address = self.address(Some(pod));
        let ground = Ground {
            runtime: &self.shared.hands.runtime,
            wake: &self.ears.wake,
            counts: &self.shared.probe_counts,
            address,
        };
        self.memory.probes.sync(pod, is_ending, observed, previous, &ground);
    }

    /// Where the Pod is reached; empty while it has no address.
    pub(super) fn address(&self, pod: Option<&Pod>) -> String {
        if pod.is_some_and(on_host_network) {
            let facts = self.shared.facts.borrow();
            return facts.host_ips.first().map_or("127.0.0.1".into(), ToString::to_string);
        }
        self.memory.addresses.first().map_or(String::new(), ToString::to_string)
    }
}
