//! How far a Pod has come: whether its init containers are done, and how it has ended. Pure.
//!
//! `plan.rs` acts by it and `status.rs` tells it, so that the two never differ.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::backoff::later;
use super::observed::{ObservedContainer, ObservedPod};
use super::pod_spec::{inits, is_sidecar, restarts};

/// How a Pod that runs no more has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every container ended well.
    Succeeded,
    /// At least one did not.
    Failed,
    /// `activeDeadlineSeconds` are over.
    DeadlineExceeded,
    /// This Node ended it, or did not take it.
    Evicted,
}

/// How the Pod has ended, or `None` while something of it should run.
#[must_use]
pub fn outcome(pod: &Pod, observed: &ObservedPod, now: Timestamp) -> Option<Outcome> {
    // What the cloud was told once stays: a Pod never leaves these phases.
    match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => return Some(Outcome::Succeeded),
        Some("Failed") => return Some(Outcome::Failed),
        _ => {}
    }
    if observed.evicted.is_some() {
        return Some(Outcome::Evicted);
    }
    let spec = pod.spec.as_ref()?;
    if deadline(spec, observed).is_some_and(|deadline| deadline <= now) {
        return Some(Outcome::DeadlineExceeded);
    }
    let failed_init = inits(spec).iter().any(|init| {
        let exit = observed.newest(&init.name).and_then(|c| c.exit());
        !is_sidecar(init) && exit.is_some_and(|exit| exit.code != 0 && !restarts(spec, init, exit.code))
    });
    if failed_init {
        return Some(Outcome::Failed);
    }
    let mut result = Outcome::Succeeded;
    for container in &spec.containers {
        let exit = observed.newest(&container.name).and_then(|c| c.exit())?;
        if restarts(spec, container, exit.code) {
            return None;
        }
        if exit.code != 0 {
            result = Outcome::Failed;
        }
    }
    Some(result)
}

/// Whether all ordinary init containers have done their work in the sandbox that is alive.
#[must_use]
pub fn is_initialized(spec: &PodSpec, observed: &ObservedPod) -> bool {
    let Some(sandbox) = observed.current_sandbox() else { return inits(spec).is_empty() };
    mains_began(spec, observed, &sandbox.id)
        || inits(spec).iter().all(|init| match here(observed, &init.name, &sandbox.id) {
            Some(record) if is_sidecar(init) => record.is_running() && observed.verdict(record).started,
            Some(record) => record.exit().is_some_and(|exit| exit.code == 0),
            None => false,
        })
}

/// When `activeDeadlineSeconds` are over.
pub(super) fn deadline(spec: &PodSpec, observed: &ObservedPod) -> Option<Timestamp> {
    let seconds = spec.active_deadline_seconds?;
    Some(later(observed.started_at?, SignedDuration::from_secs(seconds)))
}

/// The newest record of this name, if it belongs to this sandbox. Init containers of an earlier sandbox did their work
/// for that one.
pub(super) fn here<'a>(
    observed: &'a ObservedPod,
    name: &str,
    sandbox: &str,
) -> Option<&'a ObservedContainer> {
    observed.newest(name).filter(|record| record.sandbox == sandbox)
}

/// A main container in this sandbox proves that its init containers were done, even if their records are gone.
pub(super) fn mains_began(spec: &PodSpec, observed: &ObservedPod, sandbox: &str) -> bool {
    spec.containers.iter().any(|container| here(observed, &container.name, sandbox).is_some())
}
