//! How containers are ended: which grace period each has, whether its hook runs, whose turn comes when. Pure.

use super::action::{Action, Stop, StopReason};
use crate::edged::desired::{DEFAULT_GRACE_SECS, DesiredPod};
use crate::edged::observed::{ObservedContainer, ObservedPod};
use crate::edged::pod_spec::{container_of, inits, is_sidecar};
use crate::edged::verdict::Kind;

/// From the stop signal to the kill, whatever was asked for.
pub(in crate::edged) const LEAST_GRACE_SECS: i64 = 2;

/// The end of this container, with what it has left.
pub(super) fn stop(desired: &DesiredPod, record: &ObservedContainer, reason: StopReason) -> Stop {
    let of_pod = || desired.grace_secs().or(record.grace_secs).unwrap_or(DEFAULT_GRACE_SECS);
    let asked = match reason {
        StopReason::Unwell { probe, .. } => probe_grace(desired, record, probe).unwrap_or_else(of_pod),
        StopReason::PodEnds
        | StopReason::Lost
        | StopReason::SpecChanged
        | StopReason::SandboxChanged
        | StopReason::Resized
        | StopReason::HookFailed => of_pod(),
    };
    let hook = asked > 0 && has_pre_stop(desired, &record.name);
    let grace_secs = asked.max(LEAST_GRACE_SECS);
    Stop { id: record.id.clone(), name: record.name.clone(), grace_secs, reason, turn: 0, hook }
}

/// The end of a container that has just been started and whose postStart hook failed.
#[must_use]
pub(in crate::edged) fn stop_after_failed_start(desired: &DesiredPod, name: &str, id: &str) -> Stop {
    let asked = desired.grace_secs().unwrap_or(DEFAULT_GRACE_SECS);
    Stop {
        id: id.to_owned(),
        name: name.to_owned(),
        grace_secs: asked.max(LEAST_GRACE_SECS),
        reason: StopReason::HookFailed,
        turn: 0,
        hook: asked > 0 && has_pre_stop(desired, name),
    }
}

/// Ends what still runs: main containers side by side, then sidecars in the reverse of their order. Empty when nothing
/// is alive.
pub(super) fn stops(desired: &DesiredPod, observed: &ObservedPod) -> Vec<Action> {
    let spec = desired.pod().and_then(|pod| pod.spec.as_ref());
    let inits = spec.map(inits).unwrap_or_default();
    let sidecars: Vec<&str> =
        inits.iter().filter(|init| is_sidecar(init)).map(|init| init.name.as_str()).rev().collect();
    let mut stops = Vec::new();
    for record in observed.containers.iter().filter(|c| c.may_be_alive()) {
        let mut stop = stop(desired, record, StopReason::PodEnds);
        if let Some(evicted) =
            observed.evicted.as_ref().filter(|evicted| evicted.grace_secs < stop.grace_secs)
        {
            stop.hook = stop.hook && evicted.grace_secs > 0;
            stop.grace_secs = evicted.grace_secs.max(LEAST_GRACE_SECS);
        }
        if let Some(place) = sidecars.iter().position(|name| *name == record.name) {
            stop.turn = place.saturating_add(1);
        }
        stops.push(stop);
    }
    stops.sort_by_key(|stop| stop.turn);
    if stops.is_empty() { Vec::new() } else { vec![Action::StopContainers(stops)] }
}

/// Of a Pod that only the runtime knows the container itself carries its hook, if it has one.
fn has_pre_stop(desired: &DesiredPod, name: &str) -> bool {
    let lifecycle = desired
        .pod()
        .and_then(|pod| container_of(pod, name))
        .and_then(|container| container.lifecycle.as_ref());
    desired.pod().is_none() || lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some())
}

/// What this probe gives its container instead of the Pod's grace period. A Pod that is being deleted has its own.
fn probe_grace(desired: &DesiredPod, record: &ObservedContainer, probe: Kind) -> Option<i64> {
    let pod = desired.pod().filter(|pod| pod.metadata.deletion_grace_period_seconds.is_none())?;
    pod.spec.as_ref()?.termination_grace_period_seconds?;
    probe.probe(container_of(pod, &record.name)?)?.termination_grace_period_seconds
}
