//! Carries out what `resize/` decided: the Pod's own level, then its containers through the runtime, then the level again.
//!
//! Decides nothing; every step may be repeated. Called by `worker.rs`.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;

use super::state::Worker;
use crate::edged::desired::{Desired, DesiredPod};
use crate::edged::events::Severity;
use crate::edged::failure_reason::FailureReason;
use crate::edged::hands::{Failure, Hands};
use crate::edged::observed::ObservedPod;
use crate::edged::resize::{Change, Resizer, Turn, Word};
use crate::edged::resources::{PodResources, qos};

impl Hands {
    async fn resize(&self, pod: &Pod, turn: Turn, resizer: &mut Resizer) -> Result<(), Failure> {
        self.set_level(pod, &turn.wide)?;
        for change in turn.changes {
            self.check_memory(&change).await?;
            let updated = self.runtime.update_resources(&change.id, &change.resources).await;
            let what = format!("cannot change the resources of container {}", change.name);
            updated.map_err(|error| Failure::of(FailureReason::ResizeError, &what, error))?;
            resizer.changed(change);
        }
        if let Some(last) = turn.last {
            self.set_level(pod, &last)?;
            resizer.settled();
        }
        Ok(())
    }

    fn set_level(&self, pod: &Pod, resources: &PodResources) -> Result<(), Failure> {
        let Some(cgroups) = &self.cgroups else { return Ok(()) };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let set = cgroups.ensure_pod(qos(pod), uid, resources, self.settings.n_pids);
        set.map_err(|error| {
            Failure::new(FailureReason::ResizeError, format!("cannot change the pod's cgroup: {error}"))
        })
    }

    /// A limit below what is in use would end the container (cgroup v2) or be refused (v1).
    async fn check_memory(&self, change: &Change) -> Result<(), Failure> {
        let Some(limit) = change.less_memory else { return Ok(()) };
        // A runtime that does not say it is asked all the same.
        let stats = self.runtime.container_stats().await.unwrap_or_default();
        let own = stats.iter().find(|one| one.attributes.as_ref().is_some_and(|of| of.id == change.id));
        let memory = own.and_then(|own| own.memory.as_ref());
        let used =
            memory.and_then(|memory| memory.usage_bytes.as_ref().or(memory.working_set_bytes.as_ref()));
        let used = used.map_or(0, |used| i64::try_from(used.value).unwrap_or(i64::MAX));
        if used < limit {
            return Ok(());
        }
        let name = &change.name;
        Err(Failure::new(
            FailureReason::ResizeError,
            format!(
                "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
            ),
        ))
    }
}

impl Worker {
    /// The Pod as this node has granted it.
    pub(super) async fn granted(&mut self, desired: DesiredPod) -> DesiredPod {
        let Desired::Run(pod) = &desired.want else {
            self.shared.room.leave(self.uid.as_str());
            return desired;
        };
        let none = k8s_openapi::api::core::v1::PodStatus::default();
        let pod = pod.clone();
        let previous = self.memory.told.last(pod.status.as_ref().unwrap_or(&none));
        let (desired, word) =
            self.memory.resizer.admit(desired, self.uid.as_str(), previous, &self.shared.room);
        self.say_resize(word).await;
        desired
    }

    /// Goes on whatever comes of it: what failed is told and tried again later.
    pub(super) async fn resize(&mut self, desired: &DesiredPod, observed: &ObservedPod) {
        let Some(pod) = desired.pod() else { return };
        let shared = self.shared.clone();
        let settings = &shared.hands.settings;
        let resizer = &mut self.memory.resizer;
        let turn = resizer.turn(pod, observed, settings.cpu, settings.memory_capacity);
        let Err(failure) = shared.hands.resize(pod, turn, resizer).await else { return };
        let now = Timestamp::now();
        let Failure::Failed { message, .. } = failure else {
            resizer.wait(now);
            return;
        };
        tracing::warn!(pod = %self.uid, error = %message, "a pod could not be resized; it is tried again");
        let word = resizer.failed(pod, message, now);
        self.say_resize(word).await;
    }

    pub(super) async fn say_resize(&mut self, word: Option<Word>) {
        let Some(Word { warning, reason, message }) = word else { return };
        let severity = if warning { Severity::Warning } else { Severity::Normal };
        self.say(severity, reason, message, None).await;
    }
}
