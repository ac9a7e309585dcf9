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
/// Priority from which pods keep the cluster itself running.
pub(super) const CRITICAL: i32 = 2_000_000_000;

/// Why a pod ends, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// `status.message`, and the event.
    pub message: String,
    /// At most so many seconds to end.
    pub grace_secs: i64,
    /// Whether it is ended for the sake of others: then its status has the condition `DisruptionTarget`.
    pub for_others: bool,
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
    /// What an earlier life of this process had decided, by the last status.
    pub(super) fn recall(status: &PodStatus) -> Option<Arc<Self>> {
        if status.reason.as_deref() != Some(EVICTED) {
            return None;
        }
        let message = status.message.clone().unwrap_or_default();
        // Its time was up then.
        Some(Arc::new(Self { message, grace_secs: 0, for_others: false }))
    }

    /// Writes it into a status.
    pub(super) fn mark(&self, pod: &Pod, status: &mut PodStatus, now: Timestamp) {
        status.reason = Some(EVICTED.into());
        status.message = Some(self.message.clone());
        let conditions = status.conditions.get_or_insert_default();
        let holds = |known: &PodCondition| known.type_ == DISRUPTION_TARGET && known.status == "True";
        if !self.for_others || conditions.iter().any(holds) {
            return;
        }
        conditions.retain(|known| known.type_ != DISRUPTION_TARGET);
        conditions.push(disruption(pod, Some(self.message.clone()), now));
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
        let mark = |for_others| {
            let mut status = PodStatus::default();
            let eviction = Eviction { message: "m. ".into(), grace_secs: 1, for_others };
            eviction.mark(&pod, &mut status, Timestamp::UNIX_EPOCH);
            eviction.mark(&pod, &mut status, Timestamp::from_second(9).unwrap());
            status
        };
        let status = mark(true);
        assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Evicted"), Some("m. ")));
        let [condition] = status.conditions.as_deref().unwrap() else { panic!("one condition") };
        let said = (&*condition.type_, &*condition.status, condition.reason.as_deref());
        assert_eq!(said, ("DisruptionTarget", "True", Some("TerminationByKubelet")));
        assert_eq!(condition.last_transition_time, Some(Time(Timestamp::UNIX_EPOCH)));
        assert_eq!(Eviction::recall(&status).unwrap().message, "m. ");
        assert_eq!(mark(false).conditions, Some(Vec::new()));
        assert_eq!(Eviction::recall(&PodStatus::default()), None);
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
