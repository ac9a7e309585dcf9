//! Held Pods: with the annotation `edge.kubeedge.io/hold-upgrade: "true"` a Pod that is new to this node waits until somebody at
//! this machine releases it (`keadm ctl unhold-upgrade`), or the cloud takes the annotation back.
//!
//! Held is what was never begun and has the annotation: both outlive a restart, so nothing else is kept. A released Pod has
//! begun, and what has begun is never held again. The cloud sees the condition `HeldUpgrade`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use ke_wire::{NodeName, ObjectKey};
use tokio::sync::{mpsc, oneshot};

use super::admission::is_settled;

/// KubeEdge's annotation.
pub const HOLD: &str = "edge.kubeedge.io/hold-upgrade";
pub(super) const HELD_UPGRADE: &str = "HeldUpgrade";

/// Which Pods are to be released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// This one.
    Pod(ObjectKey),
    /// All of this node.
    All,
}

/// One wish, and where is told what it released.
pub struct Release {
    pub(super) which: Which,
    pub(super) done: oneshot::Sender<Vec<ObjectKey>>,
}

#[cfg(test)]
impl Release {
    /// An Edged that holds these.
    pub(crate) fn answer(self, held: &[ObjectKey]) {
        let meant =
            held.iter().filter(|key| self.which == Which::All || self.which == Which::Pod((*key).clone()));
        let _ = self.done.send(meant.cloned().collect());
    }
}

/// Cloneable handle: releases held Pods.
#[derive(Clone, Debug)]
pub struct Holds {
    node: NodeName,
    wishes: mpsc::Sender<Release>,
}

impl Holds {
    /// The handle, and the end that Edged reads. Full: whoever asks waits.
    #[must_use]
    pub fn channel(node: NodeName) -> (Self, mpsc::Receiver<Release>) {
        let (wishes, heard) = mpsc::channel(8);
        (Self { node, wishes }, heard)
    }

    /// The node whose Pods these are.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    /// Says which Pods were released; `None`: Edged has ended.
    pub async fn release(&self, which: Which) -> Option<Vec<ObjectKey>> {
        let (done, released) = oneshot::channel();
        self.wishes.send(Release { which, done }).await.ok()?;
        released.await.ok()
    }
}

/// Whether a Pod that came now has to wait.
pub(super) fn is_to_wait(pod: &Pod) -> bool {
    let annotation = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(HOLD));
    annotation.is_some_and(|value| value == "true")
        && pod.metadata.deletion_timestamp.is_none()
        && !is_settled(pod)
}

/// The status of a Pod that waits; `None`: it says so already.
pub(super) fn held_status(pod: &Pod) -> Option<PodStatus> {
    let (name, namespace) = (pod.metadata.name.as_deref(), pod.metadata.namespace.as_deref());
    let (name, namespace) = (name.unwrap_or_default(), namespace.unwrap_or_default());
    let mut status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.get_or_insert_default();
    if conditions.iter().any(|condition| condition.type_ == HELD_UPGRADE && condition.status == "True") {
        return None;
    }
    conditions.retain(|condition| condition.type_ != HELD_UPGRADE);
    conditions.push(PodCondition {
        type_: HELD_UPGRADE.into(),
        status: "True".into(),
        reason: Some("Held".into()),
        message: Some(format!(
            "the pod waits for a release on its node: keadm ctl unhold-upgrade pod {name} -n {namespace}"
        )),
        last_transition_time: now(),
        ..PodCondition::default()
    });
    Some(status)
}

/// The Pod as one that waits for nobody: whatever the cloud still says, the condition is over.
pub(super) fn as_released(pod: &Arc<Pod>) -> Arc<Pod> {
    let is_held = |condition: &PodCondition| condition.type_ == HELD_UPGRADE && condition.status == "True";
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    if !conditions.is_some_and(|conditions| conditions.iter().any(is_held)) {
        return Arc::clone(pod);
    }
    let mut pod = Pod::clone(pod);
    let conditions = pod.status.as_mut().and_then(|status| status.conditions.as_mut());
    for condition in conditions.into_iter().flatten().filter(|condition| is_held(condition)) {
        condition.status = "False".into();
        (condition.reason, condition.message) = (Some("Released".into()), None);
        condition.last_transition_time = now();
    }
    Arc::new(pod)
}

fn now() -> Option<Time> {
    // Kubernetes keeps whole seconds.
    Timestamp::from_second(Timestamp::now().as_second()).ok().map(Time)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: &str, more: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": "web", "annotations": {HOLD: value}}, "status": {"phase": "Pending"}});
        for (part, fields) in more.as_object().unwrap() {
            for (field, value) in fields.as_object().unwrap() {
                pod[part][field] = value.clone();
            }
        }
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn what_waits() {
        let check = |value: &str, more: Value, expected: bool| {
            assert_eq!(is_to_wait(&pod(value, more.clone())), expected, "{value} {more}");
        };
        check("true", json!({}), true);
        check("false", json!({}), false);
        let time = "2026-01-31T12:00:00Z";
        check("true", json!({"metadata": {"deletionTimestamp": time}}), false);
        check("true", json!({"status": {"startTime": time}}), false);
        check("true", json!({"status": {"phase": "Failed"}}), false);
    }

    #[test]
    fn the_condition_ends_with_the_release() {
        let held =
            json!({"status": {"conditions": [{"type": HELD_UPGRADE, "status": "True", "message": "waits"}]}});
        let released = as_released(&Arc::new(pod("true", held)));
        let condition = released.status.clone().unwrap().conditions.unwrap()[0].clone();
        assert_eq!((condition.status.as_str(), condition.message), ("False", None));
        assert!(Arc::ptr_eq(&released, &as_released(&released)));
    }
}
