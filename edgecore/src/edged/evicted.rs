//! Pods that this Node itself ends: what is decided about one, and what its status says then. Pure.
//!
//! `eviction` decides, `keeper.rs` carries the word into edged, `plan.rs` and `status.rs` act and speak by it. What was reported
//! once holds over a restart: the stored status says it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// `status.reason`, and the reason of the event.
pub const EVICTED: &str = "Evicted";
/// The same of a pod that makes room.
const PREEMPTING: &str = "Preempting";
/// Priority from which pods keep the cluster itself running.
pub(super) const CRITICAL: i32 = 2_000_000_000;

/// Why a pod ends, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// `status.message`, and the event.
    pub message: String,
    /// At most so many seconds to end.
    pub grace_secs: i64,
    /// For whose sake.
    pub cause: Cause,
}

/// Why a Node ends a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It took more than it may.
    Itself,
    /// The node is short of something. Its status gets the condition `DisruptionTarget`.
    Shortage,
    /// A critical pod needs its room. It gets that, too, and is told as `Preempting`.
    Preempted,
}

/// What else a worker is told about its Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Care {
    pub(super) evicted: Option<Arc<Eviction>>,
    /// Once the Pod has ended, its dead containers go as well: the disk is needed.
    pub(super) strip: bool,
}

/// The condition of a Pod that is ended for the sake of others.
pub(super) const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// How far a Pod is, as its worker sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Life {
    /// Not looked at yet.
    #[default]
    Unseen,
    /// Something of it runs or should run.
    Active,
    /// It has ended or is to end, and something is left to do.
    Ending,
    /// Nothing of it runs, and nothing is left to do.
    Over,
}

impl Eviction {
    /// The pod makes room for a critical one. It has its own time to end.
    #[must_use]
    pub fn preempted() -> Self {
        let message = "Preempted in order to admit critical pod".to_owned();
        Self { message, grace_secs: i64::MAX, cause: Cause::Preempted }
    }

    /// The word in status and event.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self.cause {
            Cause::Itself | Cause::Shortage => EVICTED,
            Cause::Preempted => PREEMPTING,
        }
    }

    /// Whether its containers and volumes go with it: the disk is needed. What only made room keeps its logs.
    pub(super) fn strips(&self) -> bool {
        self.cause != Cause::Preempted
    }

    /// What an earlier life of this process had decided, by the last status.
    pub(super) fn recall(status: &PodStatus) -> Option<Arc<Self>> {
        match status.reason.as_deref() {
            Some(EVICTED) => {
                let message = status.message.clone().unwrap_or_default();
                // Its time was up then.
                Some(Arc::new(Self { message, grace_secs: 0, cause: Cause::Itself }))
            }
            Some(PREEMPTING) => Some(Arc::new(Self::preempted())),
            _ => None,
        }
    }

    /// Writes it into a status.
    pub(super) fn mark(&self, pod: &Pod, status: &mut PodStatus, now: Timestamp) {
        status.reason = Some(self.reason().into());
        status.message = Some(self.message.clone());
        let conditions = status.conditions.get_or_insert_default();
        let holds = |known: &PodCondition| known.type_ == DISRUPTION_TARGET && known.status == "True";
        let message = match self.cause {
            Cause::Itself => return,
            Cause::Shortage => self.message.clone(),
            Cause::Preempted => "Pod was preempted by Kubelet to accommodate a critical pod.".to_owned(),
        };
        if conditions.iter().any(holds) {
            return;
        }
        conditions.retain(|known| known.type_ != DISRUPTION_TARGET);
        conditions.push(disruption(pod, Some(message), now));
    }
}

/// What the status of a Pod says that its Node ends for the sake of others.
pub(super) fn disruption(pod: &Pod, message: Option<String>, now: Timestamp) -> PodCondition {
    PodCondition {
        type_: DISRUPTION_TARGET.into(),
        status: "True".into(),
        reason: Some("TerminationByKubelet".into()),
        message,
        last_transition_time: Some(Time(now)),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

/// Pods without which the machine or the cluster does not work: static ones, and those of the system's own priority.
#[must_use]
pub fn is_critical(pod: &Pod) -> bool {
    let annotation = |key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key));
    let source = annotation(crate::static_pods::SOURCE);
    let is_static = source.is_some_and(|source| source != "api");
    let is_mirror = annotation("kubernetes.io/config.mirror").is_some();
    is_static || is_mirror || priority(pod) >= CRITICAL
}

/// What the API server made of the pod's priority class.
#[must_use]
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_status_says() {
        let pod = Pod::default();
        let mark = |cause| {
            let mut status = PodStatus::default();
            let eviction = Eviction { message: "m. ".into(), grace_secs: 1, cause };
            eviction.mark(&pod, &mut status, Timestamp::UNIX_EPOCH);
            eviction.mark(&pod, &mut status, Timestamp::from_second(9).unwrap());
            status
        };
        let status = mark(Cause::Shortage);
        assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some("m. ")));
        let [condition] = status.conditions.as_deref().unwrap() else { panic!("one condition") };
        let said = (&*condition.type_, &*condition.status, condition.reason.as_deref());
        assert_eq!(said, ("DisruptionTarget", "True", Some("TerminationByKubelet")));
        assert_eq!(condition.last_transition_time, Some(Time(Timestamp::UNIX_EPOCH)));
        assert_eq!(Eviction::recall(&status).unwrap().message, "m. ");
        assert_eq!(mark(Cause::Itself).conditions, Some(Vec::new()));
        assert_eq!(Eviction::recall(&PodStatus::default()), None);
        let status = mark(Cause::Preempted);
        assert_eq!(status.reason.as_deref(), Some("Preempting"));
        let sentence = "Pod was preempted by Kubelet to accommodate a critical pod.";
        assert_eq!(status.conditions.as_ref().unwrap()[0].message.as_deref(), Some(sentence));
        let recalled = Eviction::recall(&status).unwrap();
        assert_eq!((recalled.cause, recalled.grace_secs), (Cause::Preempted, i64::MAX));
    }

    #[test]
    fn who_is_critical() {
        let check = |body: serde_json::Value, expected: bool| {
            let pod: Pod = serde_json::from_value(body.clone()).unwrap();
            assert_eq!(is_critical(&pod), expected, "{body}");
        };
        let with = |key: &str, value: &str| json!({"metadata": {"annotations": {key: value}}});
        check(json!({"metadata": {}}), false);
        check(with("kubernetes.io/config.source", "api"), false);
        check(with("kubernetes.io/config.source", "file"), true);
        check(with("kubernetes.io/config.mirror", "x"), true);
        check(json!({"metadata": {}, "spec": {"containers": [], "priority": 1_999_999_999}}), false);
        check(json!({"metadata": {}, "spec": {"containers": [], "priority": 2_000_001_000}}), true);
    }
}
