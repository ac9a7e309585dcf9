//! One Pod's worker: look, report, plan, act, and again until there is nothing to do.
//!
//! Actions of one Pod come one after the other; pods go side by side. All memory that matters is in the store and in the
//! runtime, so that a kill at any line loses nothing. `workers.rs` starts one worker for each Pod and wakes it.
//!
//! A step here is the Pod's whole way: `resizing.rs` says what it was granted, `seeing.rs` what there is of it,
//! `devices.rs` whether it has its devices, `telling.rs` tells it, `plan.rs` decides, and the actions lead to `starting.rs`
//! and `ending.rs`, or through `failing.rs` to another try. `state.rs` is what all of these share.

mod devices;
mod ending;
mod failing;
mod resizing;
mod seeing;
mod starting;
mod state;
mod telling;

use std::time::Duration;

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use self::failing::FIRST_HOLD_SECS;
use self::state::tags_of;
pub(super) use self::state::{Ears, Memory, Shared, Worker};
use super::admission::Refusal;
use super::backoff::later;
use super::cri::RuntimeError;
use super::desired::{Desired, DesiredPod};
use super::events::Severity;
use super::evicted::Eviction;
use super::failure_reason::FailureReason;
use super::hands::Failure;
use super::observed::{ObservedPod, Volumes};
use super::plan::{Action, StopReason, plan};
use super::pod_spec::image_of;
use super::probes::Said;

/// What a step leads to.
enum Step {
    /// Something was done: look again at once.
    Again,
    /// Nothing to do until this time or a word from outside.
    Idle(Option<Timestamp>),
    /// The Pod is forgotten.
    Done,
}

/// A word from outside.
enum Heard {
    News,
    Probe(Said),
    ConfigChanged,
    Closed,
}

/// How soon a runtime that is away is asked again by each Pod.
const AWAY: Duration = Duration::from_secs(2);

impl Worker {
    /// Works until the Pod is forgotten. May be dropped at any await: the next start goes on from what is there.
    pub(super) async fn run(mut self) {
        if let Some(Refusal { reason, message }) = self.arrival.refusal.take() {
            self.say(Severity::Warning, &reason, message, None).await;
        }
        loop {
            let until = match self.step().await {
                Ok(Step::Again) => continue,
                Ok(Step::Done) => return,
                Ok(Step::Idle(until)) => {
                    tracing::debug!(pod = %self.uid, "nothing to do for a pod now");
                    until.map(wait_for)
                }
                // The observer has said it. What was reported stays: nothing is known that would change it.
                Err(_) => Some(AWAY),
            };
            let until = until.map(|wait| tokio::time::Instant::now() + wait);
            loop {
                match self.hear(until).await {
                    Heard::News => break,
                    // A probe that fails changes nothing by itself: no look at the runtime for it.
                    Heard::Probe(said) => self.say_probe(said).await,
                    Heard::ConfigChanged => {
                        self.on_config_changed();
                        break;
                    }
                    Heard::Closed => return,
                }
            }
        }
    }

    async fn hear(&mut self, until: Option<tokio::time::Instant>) -> Heard {
        let sleep = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.ears.desired.changed() => {
                if changed.is_err() {
                    return Heard::Closed;
                }
                // `step` asks again whether there is something new.
                self.memory.hold = None;
                Heard::News
            }
            Ok(()) = self.ears.care.changed() => Heard::News,
            () = self.ears.wake.notified() => Heard::News,
            Some(()) = self.ears.config_changed.recv() => Heard::ConfigChanged,
            said = self.memory.probes.said() => Heard::Probe(said),
            () = sleep => Heard::News,
        }
    }

    /// Mounted files are renewed at once, and containers that waited for them are tried again.
    fn on_config_changed(&mut self) {
        if self.memory.volumes == Volumes::Ready {
            self.memory.volumes = Volumes::Unknown;
        }
        self.memory.hold = None;
        for failure in self
            .memory
            .failures
            .values_mut()
            .filter(|f| f.reason == FailureReason::CreateContainerConfigError)
        {
            failure.retry_at = Timestamp::UNIX_EPOCH;
        }
    }

    async fn step(&mut self) -> Result<Step, RuntimeError> {
        // Whatever is new may be worth a try at once, whoever heard of it.
        if self.ears.desired.has_changed().unwrap_or(false) {
            self.memory.hold = None;
        }
        let desired = self.ears.desired.borrow_and_update().clone();
        self.on_care(&desired).await;
        let desired = self.granted(desired).await;
        if let Some(pod) = desired.pod() {
            self.memory.backoffs.forget_changed(|name| image_of(pod, name));
        }
        let listings = self.shared.observer.look().await?;
        let listing = listings.get(&self.uid).cloned().unwrap_or_default();
        let now = Timestamp::now();
        let is_old = desired.pod().is_some_and(|pod| tags_of(pod) != self.memory.written_from)
            || self.memory.refresh_at.is_some_and(|at| at <= now);
        if is_old && self.memory.volumes == Volumes::Ready {
            self.memory.volumes = Volumes::Unknown;
        }
        let observed = self.observe(&desired, &listing).await?;
        let desired = self.admitted(desired, &observed).await?;
        while let Some(said) = self.memory.probes.said_already() {
            self.say_probe(said).await;
        }
        self.report(&desired, &observed, now).await;
        let actions = plan(&desired, &observed, now);
        self.tell_life(&desired, &observed, actions.is_empty(), now);
        let planned = actions.clone();
        let resize_at = self.memory.resizer.look_again(now);
        let mut until =
            [self.memory.refresh_at, self.memory.told.correct_at, resize_at].into_iter().flatten().min();
        let mut acted = false;
        for action in actions {
            if let Action::Wait { until: at } = action {
                until = Some(until.map_or(at, |until| until.min(at)));
                continue;
            }
            acted = true;
            if !self.interruptible(&desired, &observed, &action).await {
                break;
            }
            if self.memory.forgotten {
                self.shared.hands.images.forget_pod(self.uid.as_str());
                self.shared.probe_counts.forget(self.uid.as_str());
                return Ok(Step::Done);
            }
        }
        // What was done had no effect that can be seen: not again at once.
        let is_same = acted && self.memory.did.as_ref() == Some(&planned);
        self.memory.did = acted.then_some(planned);
        Ok(match (acted, is_same) {
            (true, true) => Step::Idle(Some(later(now, SignedDuration::from_secs(FIRST_HOLD_SECS)))),
            (true, false) => Step::Again,
            (false, _) => Step::Idle(until),
        })
    }

    /// Carries out one action; a Pod that is deleted meanwhile, or is to end sooner, does not wait for it.
    /// False: plan anew.
    async fn interruptible(&mut self, desired: &DesiredPod, observed: &ObservedPod, action: &Action) -> bool {
        let mut newer = self.ears.desired.clone();
        let mut care = self.ears.care.clone();
        let is_evicted = observed.evicted.is_some();
        let hurry = async {
            loop {
                tokio::select! {
                    Ok(()) = newer.changed() => {
                        if is_more_urgent(desired, &newer.borrow(), action) {
                            return;
                        }
                    }
                    Ok(()) = care.changed() => {
                        if !is_evicted && care.borrow().evicted.is_some() {
                            return;
                        }
                    }
                    else => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            done = self.perform(desired, observed, action) => done,
            () = hurry => false,
        }
    }

    /// An eviction that was decided, now or by an earlier life of this process.
    async fn on_care(&mut self, desired: &DesiredPod) {
        if self.memory.evicted.is_some() {
            return;
        }
        let decided = self.ears.care.borrow_and_update().evicted.clone();
        if let Some(eviction) = decided {
            self.memory.hold = None;
            self.memory.evicted = Some(eviction.clone());
            self.say(Severity::Warning, eviction.reason(), eviction.message.clone(), None).await;
        } else {
            let stored = desired.pod().and_then(|pod| pod.status.as_ref());
            self.memory.evicted = stored.and_then(Eviction::recall);
        }
    }

    /// False: the rest of the list rests on something that did not happen.
    async fn perform(&mut self, desired: &DesiredPod, observed: &ObservedPod, action: &Action) -> bool {
        let shared = self.shared.clone();
        let runtime = &shared.hands.runtime;
        let result = match action {
            Action::PrepareVolumes => self.prepare_volumes(desired, observed).await,
            Action::CreateSandbox { attempt } => self.create_sandbox(desired, observed, *attempt).await,
            Action::StartContainer { name, sandbox, attempt, ended } => {
                let start = (name.as_str(), sandbox.as_str(), *attempt, *ended);
                return self.start_container(desired, observed, start).await;
            }
            Action::Resize => {
                self.resize(desired, observed).await;
                return true;
            }
            Action::StopContainers(stops) => self.stop_containers(desired, stops).await,
            Action::StopSandbox { id } => runtime
                .stop_sandbox(id)
                .await
                .map_err(|e| Failure::of(FailureReason::FailedKillPod, "error killing pod", e)),
            Action::RemoveSandbox { id } => {
                let removed = runtime.remove_sandbox(id).await;
                removed.map_err(|e| Failure::of(FailureReason::FailedKillPod, "error removing sandbox", e))
            }
            Action::RemoveContainer { id } => self.remove_container(id).await,
            Action::TearDownVolumes => {
                let torn_down = shared.hands.files.tear_down(&self.uid).await;
                self.memory.volumes = Volumes::Gone;
                self.memory.refresh_at = None;
                torn_down.map_err(|error| {
                    self.memory.volumes = Volumes::Unknown;
                    Failure::new(FailureReason::FailedUnMount, error.to_string())
                })
            }
            Action::RemoveCgroup => self.remove_rest(desired).await,
            Action::ReportGone => {
                self.report_gone(desired).await;
                Ok(())
            }
            Action::Forget => {
                self.memory.forgotten = true;
                Ok(())
            }
            Action::Wait { .. } => Ok(()),
        };
        match result {
            Ok(()) => {
                self.memory.n_failed = 0;
                true
            }
            Err(failure) => {
                self.on_failure(failure).await;
                false
            }
        }
    }
}

/// Whether what is wanted now cannot wait for an action that was right for `before`.
fn is_more_urgent(before: &DesiredPod, now: &DesiredPod, action: &Action) -> bool {
    let is_run = |desired: &DesiredPod| match &desired.want {
        // Ended by its node: nothing of it is started any more.
        Desired::Run(pod) => {
            pod.status.as_ref().is_none_or(|status| status.phase.as_deref() != Some("Failed"))
        }
        Desired::Terminate(_) | Desired::Removed(_) => false,
    };
    match (is_run(before), is_run(now)) {
        // It ends already (a deadline, an eviction): its hooks go on unless it is to end sooner.
        (true, false) => match action {
            Action::StopContainers(stops) if stops.iter().all(|stop| stop.reason == StopReason::PodEnds) => {
                now.grace_secs().is_some_and(|grace| stops.iter().any(|stop| grace < stop.grace_secs))
            }
            _ => true,
        },
        (false, false) => now.grace_secs() < before.grace_secs(),
        (_, true) => false,
    }
}

fn wait_for(until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(Timestamp::now()))
        .unwrap_or(Duration::ZERO)
        .max(Duration::from_millis(5))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::edged::desired::desired;
    use crate::edged::plan::Stop;

    /// What runs goes on where its Pod ends already: a deletion cuts its hooks short only with less time than they have.
    #[test]
    fn what_cannot_wait() {
        let pod = |deletion: Option<i64>| {
            let mut metadata = json!({"name": "web", "namespace": "default", "uid": "u"});
            if let Some(grace) = deletion {
                metadata["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                metadata["deletionGracePeriodSeconds"] = json!(grace);
            }
            let body = json!({"metadata": metadata, "spec": {"containers": [{"name": "app"}]}});
            desired(Arc::new(serde_json::from_value(body).unwrap()))
        };
        let stop = |reason| {
            let (id, name) = ("app-0".to_owned(), "app".to_owned());
            Action::StopContainers(vec![Stop { id, name, grace_secs: 30, reason, turn: 0, hook: true }])
        };
        let table = [
            (None, Some(30), Action::PrepareVolumes, true),
            (None, Some(30), stop(StopReason::SpecChanged), true),
            (None, Some(30), stop(StopReason::PodEnds), false),
            (None, Some(10), stop(StopReason::PodEnds), true),
            (Some(30), Some(30), stop(StopReason::PodEnds), false),
            (Some(30), Some(10), stop(StopReason::PodEnds), true),
            (None, None, stop(StopReason::PodEnds), false),
        ];
        for (before, now, action, expected) in table {
            let is_urgent = is_more_urgent(&pod(before), &pod(now), &action);
            assert_eq!(is_urgent, expected, "{before:?} {now:?} {action:?}");
        }
    }
}
