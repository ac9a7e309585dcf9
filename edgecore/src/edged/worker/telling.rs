//! What a worker tells: the Pod's status and events to the cloud, how far it is to the rest of edged. `status.rs` makes the
//! status, `told.rs` says whether it is news; nothing is decided here.

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::jiff::Timestamp;
use ke_wire::Uid;

use super::state::Worker;
use crate::edged::desired::{Desired, DesiredPod};
use crate::edged::door::Origin;
use crate::edged::events::{Occurrence, Severity};
use crate::edged::evicted::{DISRUPTION_TARGET, Life};
use crate::edged::hold_upgrade::HELD_UPGRADE;
use crate::edged::images::ImageNotice;
use crate::edged::observed::ObservedPod;
use crate::edged::outcome::outcome;
use crate::edged::pod_spec::{field_path, pod_key, pod_uid};
use crate::edged::probes::Said;
use crate::edged::status::{Ending, OURS, pod_status};
use crate::edged::told::newly_held_back;
use crate::report_queue::Report;

impl Worker {
    pub(super) async fn report(&mut self, desired: &DesiredPod, observed: &ObservedPod, now: Timestamp) {
        let (pod, ending) = match &desired.want {
            Desired::Run(pod) => (pod, Ending::No),
            // After the last word to the cloud there is nothing to add.
            Desired::Terminate(_) if self.memory.gone_reported || self.memory.cleaned => return,
            Desired::Terminate(pod) => (pod, Ending::Deleted),
            Desired::Removed(_) => return,
        };
        let stored = pod.status.clone().unwrap_or_default();
        let previous = self.memory.told.previous(&stored);
        let mut status =
            pod_status(pod, ending, observed, &previous, &self.shared.facts.borrow().clone(), now);
        self.tell_device_health(&mut status);
        let told_as = self.told_as(pod);
        let is_known_there = self.arrival.origin == Origin::Cloud || self.memory.told_as == told_as;
        if !self.memory.told.is_news(&status, &stored, now) && is_known_there {
            return self.arrival.note(&status);
        }
        let meta = &pod.metadata;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let Some(told_as) = told_as else {
            // A static pod without a mirror: nobody to tell, and all of it when there is.
            self.memory.told_as = None;
            self.arrival.note(&status);
            return self.memory.told.told(status, now);
        };
        let (Ok(namespace), Ok(name)) = (text(&meta.namespace).parse(), text(&meta.name).parse()) else {
            return;
        };
        let uid = told_as.clone();
        let held_back = newly_held_back(self.memory.told.last(&stored), &status);
        for container in held_back {
            let message =
                format!("Back-off restarting failed container {container} in pod {name}_{namespace}({uid})");
            self.say(Severity::Warning, "BackOff", message, Some(&container)).await;
        }
        match serde_json::to_vec(&to_tell(&status, &stored)) {
            Ok(body) => {
                self.shared
                    .reports
                    .send(Report::PodStatus { namespace, name, uid, status: body.into() })
                    .await;
                // Behind it: who ends pods with the machine waits for this.
                self.arrival.note(&status);
                self.memory.told.told(status, now);
                self.memory.told_as = Some(told_as);
            }
            Err(error) => tracing::error!(pod = %self.uid, %error, "a pod status cannot be written as JSON"),
        }
    }

    /// The uid that the cloud knows this Pod by.
    pub(super) fn told_as(&self, pod: &Pod) -> Option<Uid> {
        match self.arrival.origin {
            Origin::Cloud => Some(self.uid.clone()),
            Origin::File => {
                let pairs = self.shared.mirror_pairs.borrow();
                pod_uid(pairs.mirror_of(&pod_key(pod)?, self.uid.as_str())?)
            }
        }
    }

    pub(super) async fn report_gone(&mut self, desired: &DesiredPod) {
        let Some(pod) = desired.pod() else { return };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let meta = &pod.metadata;
        if let (Ok(namespace), Ok(name), Ok(uid)) =
            (text(&meta.namespace).parse(), text(&meta.name).parse(), text(&meta.uid).parse())
        {
            self.shared.reports.send(Report::PodGone { namespace, name, uid }).await;
        }
        self.memory.gone_reported = true;
    }

    pub(super) fn tell_life(
        &self,
        desired: &DesiredPod,
        observed: &ObservedPod,
        is_idle: bool,
        now: Timestamp,
    ) {
        let is_alive = observed.containers.iter().any(|container| container.may_be_alive());
        let life = match &desired.want {
            Desired::Run(pod) if outcome(pod, observed, now).is_none() => Life::Active,
            Desired::Run(_) if is_idle => Life::Over,
            Desired::Run(_) => Life::Ending,
            Desired::Terminate(_) | Desired::Removed(_) if is_alive => Life::Active,
            Desired::Terminate(_) | Desired::Removed(_) => Life::Over,
        };
        self.ears.life.send_if_modified(|known| std::mem::replace(known, life) != life);
    }

    pub(super) async fn say(
        &mut self,
        severity: Severity,
        reason: &str,
        message: String,
        container: Option<&str>,
    ) {
        let desired = self.ears.desired.borrow().clone();
        let field = container.map(|name| field_path(desired.pod(), name));
        let occurrence = Occurrence { severity, reason: reason.into(), message, field };
        if let Some(report) = self.recorder.report(&occurrence, Timestamp::now()) {
            self.shared.reports.send(report).await;
        }
    }

    pub(super) async fn say_probe(&mut self, said: Said) {
        self.say(Severity::Warning, said.reason, said.message, Some(&said.container)).await;
    }

    pub(super) async fn say_notice(&mut self, notice: ImageNotice, name: &str) {
        let severity = if notice.warning { Severity::Warning } else { Severity::Normal };
        self.say(severity, notice.reason, notice.message, Some(name)).await;
    }
}

/// The status without conditions that the cloud has from others: an old copy of one must not undo what was written since, as
/// when a readiness gate was set while the node was away.
fn to_tell(status: &PodStatus, stored: &PodStatus) -> PodStatus {
    let mut told = status.clone();
    let has = |condition: &PodCondition| stored.conditions.iter().flatten().any(|known| known == condition);
    // The last two are given to the Pod by this Node outside its worker, so that they stand there as if the cloud had them.
    let is_ours = |condition: &PodCondition| {
        let type_ = condition.type_.as_str();
        OURS.contains(&type_) || [DISRUPTION_TARGET, HELD_UPGRADE].contains(&type_)
    };
    told.conditions.iter_mut().for_each(|conditions| {
        conditions.retain(|condition| is_ours(condition) || !has(condition));
    });
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_of_others_are_not_told_back() {
        let condition = |type_: &str, status: &str| PodCondition {
            type_: type_.into(),
            status: status.into(),
            ..PodCondition::default()
        };
        let status = |conditions: &[PodCondition]| PodStatus {
            conditions: Some(conditions.to_vec()),
            ..PodStatus::default()
        };
        let ready = condition("Ready", "True");
        let gate = condition("example.com/gate", "True");
        let ours_for_others = condition("DisruptionTarget", "True");
        let stored = status(&[ready.clone(), gate.clone(), ours_for_others.clone()]);
        let told = to_tell(&status(&[ready.clone(), gate, ours_for_others.clone()]), &stored);
        assert_eq!(told.conditions, Some(vec![ready, ours_for_others]));
    }
}
