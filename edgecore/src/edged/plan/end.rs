//! The plan for a Pod of which nothing is to run any more: it ended by itself, or the cloud deleted it. Pure.

use std::collections::BTreeMap;

use super::action::Action;
use super::stops::stops;
use crate::edged::desired::{Desired, DesiredPod};
use crate::edged::observed::{ObservedContainer, ObservedPod, SandboxState, Source, Volumes};

/// A Pod that has ended by itself: nothing runs, its containers stay for logs and status until the Pod is removed.
pub(super) fn wind_down(desired: &DesiredPod, observed: &ObservedPod) -> Vec<Action> {
    let mut actions = stops(desired, observed);
    if !actions.is_empty() {
        return actions;
    }
    for sandbox in observed.sandboxes.iter().filter(|s| s.state != SandboxState::NotReady) {
        actions.push(Action::StopSandbox { id: sandbox.id.clone() });
    }
    if observed.volumes != Volumes::Gone {
        actions.push(Action::TearDownVolumes);
    }
    let kept = kept_dead(observed);
    for record in observed.containers.iter().filter(|c| c.source == Source::Runtime) {
        if observed.strip || !kept.contains(&record.id.as_str()) {
            actions.push(Action::RemoveContainer { id: record.id.clone() });
        }
    }
    actions
}

/// A Pod that the cloud deleted: nothing of it stays. By the time the second half is planned the worker has reported
/// how the containers ended.
pub(super) fn end(desired: &DesiredPod, observed: &ObservedPod) -> Vec<Action> {
    let mut actions = stops(desired, observed);
    if !actions.is_empty() {
        return actions;
    }
    for sandbox in &observed.sandboxes {
        actions.push(Action::StopSandbox { id: sandbox.id.clone() });
    }
    if !observed.cleaned {
        actions.push(Action::TearDownVolumes);
    }
    for record in observed.containers.iter().filter(|c| c.source == Source::Runtime) {
        actions.push(Action::RemoveContainer { id: record.id.clone() });
    }
    for sandbox in &observed.sandboxes {
        actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
    }
    if !observed.cleaned {
        actions.push(Action::RemoveCgroup);
    }
    match &desired.want {
        Desired::Removed(_) => actions.push(Action::Forget),
        Desired::Terminate(_) if !observed.gone_reported => actions.push(Action::ReportGone),
        Desired::Terminate(_) | Desired::Run(_) => {}
    }
    actions
}

/// The newest dead container of each name.
pub(super) fn kept_dead(observed: &ObservedPod) -> Vec<&str> {
    let mut newest: BTreeMap<&str, &ObservedContainer> = BTreeMap::new();
    for record in observed.containers.iter().filter(|c| c.source == Source::Runtime && c.exit().is_some()) {
        let entry = newest.entry(&record.name).or_insert(record);
        if record.attempt > entry.attempt {
            *entry = record;
        }
    }
    newest.into_values().map(|record| record.id.as_str()).collect()
}
