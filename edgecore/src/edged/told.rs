//! What the cloud was told of one Pod's status, and whether it has to be told again. Pure.
//!
//! Made by `status.rs`, sent by `worker/telling.rs`; this file only compares.

use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::backoff::later;
use super::status::OURS;

/// A status that differs from ours in the cloud is corrected no more often than this.
const CORRECT_SECS: i64 = 10;

/// The last report of this process about one Pod.
#[derive(Default)]
pub(super) struct Told {
    /// What it said.
    status: Option<PodStatus>,
    at: Option<Timestamp>,
    stored_ready: Option<bool>,
    /// When the stored status, which somebody else changed, is to be set right.
    pub(super) correct_at: Option<Timestamp>,
}

impl Told {
    /// What we said last; before that what the store has from the cloud.
    pub(super) fn last<'a>(&'a self, stored: &'a PodStatus) -> &'a PodStatus {
        self.status.as_ref().unwrap_or(stored)
    }

    /// The last status, with conditions and fields that others write as the store has them.
    pub(super) fn previous(&self, stored: &PodStatus) -> PodStatus {
        let mut previous = self.last(stored).clone();
        keep_foreign(&mut previous, stored);
        previous
    }

    /// Whether `status` says something that the cloud does not have.
    pub(super) fn is_news(&mut self, status: &PodStatus, stored: &PodStatus, now: Timestamp) -> bool {
        let is_overwritten = self.is_overwritten(is_ready(stored), is_ready(status), now);
        is_overwritten || status != self.last(stored)
    }

    /// `status` is on its way.
    pub(super) fn told(&mut self, status: PodStatus, now: Timestamp) {
        self.status = Some(status);
        self.at = Some(now);
    }

    /// While a node is away the control plane writes "not ready" over what we said. Only a stored status that has
    /// changed tells of that; one that never follows ours (a cloud that sends no echoes) must not make us repeat
    /// ourselves for ever.
    fn is_overwritten(&mut self, stored: bool, ours: bool, now: Timestamp) -> bool {
        if self.stored_ready.replace(stored) != Some(stored) {
            let earliest = self.at.map(|at| later(at, SignedDuration::from_secs(CORRECT_SECS)));
            self.correct_at = (stored != ours).then(|| earliest.unwrap_or(now));
        }
        let is_due = self.correct_at.is_some_and(|at| at <= now);
        if is_due {
            self.correct_at = None;
        }
        is_due && stored != ours
    }
}

/// Conditions and fields that others write are taken from what the store has.
fn keep_foreign(previous: &mut PodStatus, stored: &PodStatus) {
    let is_ours = |type_: &str| OURS.contains(&type_);
    let conditions = previous.conditions.get_or_insert_default();
    for foreign in stored.conditions.iter().flatten().filter(|c| !is_ours(&c.type_)) {
        match conditions.iter_mut().find(|c| c.type_ == foreign.type_) {
            Some(known) => *known = foreign.clone(),
            None => conditions.push(foreign.clone()),
        }
    }
}

/// Containers that wait for their back-off now and did not before.
pub(super) fn newly_held_back(before: &PodStatus, now: &PodStatus) -> Vec<String> {
    fn waits(status: &PodStatus) -> Vec<&str> {
        let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
        let waiting = all.filter(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            waiting.and_then(|waiting| waiting.reason.as_deref()) == Some("CrashLoopBackOff")
        });
        waiting.map(|container| container.name.as_str()).collect()
    }
    let before = waits(before);
    waits(now).into_iter().filter(|name| !before.contains(name)).map(str::to_owned).collect()
}

fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodCondition;

    use super::*;

    fn status(ready: &str) -> PodStatus {
        let condition =
            PodCondition { type_: "Ready".into(), status: ready.into(), ..PodCondition::default() };
        PodStatus { conditions: Some(vec![condition]), ..PodStatus::default() }
    }

    #[test]
    fn what_the_cloud_does_not_have_is_news() {
        let at = |secs: i64| Timestamp::from_second(secs).unwrap();
        let mut told = Told::default();
        assert!(
            !told.is_news(&status("True"), &status("True"), at(0)),
            "the store has it from an earlier run"
        );
        assert!(told.is_news(&status("False"), &status("True"), at(1)));
        told.told(status("True"), at(2));
        assert!(!told.is_news(&status("True"), &status("True"), at(3)));
        // The control plane writes over it: said again, but not sooner than it could have been an echo under way.
        assert!(!told.is_news(&status("True"), &status("False"), at(4)));
        assert_eq!(told.correct_at, Some(at(2 + CORRECT_SECS)));
        assert!(told.is_news(&status("True"), &status("False"), at(2 + CORRECT_SECS)));
        told.told(status("True"), at(13));
        // A cloud that sends no echo does not make us repeat ourselves.
        assert!(!told.is_news(&status("True"), &status("False"), at(1000)));
    }
}
