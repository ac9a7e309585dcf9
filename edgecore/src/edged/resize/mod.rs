//! In-place resize of one Pod: what it has been granted, what its containers have, and what is to be done about the
//! difference. Pure but for the lock of [`Room`].
//!
//! As with a kubelet three things are told apart: what the spec wants, what this node has granted (everything here works
//! with that) and what a running container really has. A wish that does not fit waits as `PodResizePending`; one that was
//! granted and is not carried out yet shows as `PodResizeInProgress`. `worker/resizing.rs` asks and acts, `plan.rs` says when,
//! `status.rs` tells. After a start of edgecore the Pod's last status says what was granted, and a note on each container
//! what it was made with.

mod room;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceRequirements};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use ke_cri::v1;
use serde_json::json;

pub use self::room::Room;
use super::backoff::later;
use super::desired::{Desired, DesiredPod};
use super::observed::{ObservedPod, Pending, Resizes};
use super::observer::Listing;
use super::pod_spec::{inits, is_sidecar};
use super::resources::{CpuQuota, PodResources, container_resources, pod_resources};
use crate::quantity::{Amount, amount_in};

/// Annotation on containers that this program made: the resources they were made with, as JSON. Only where there are some.
pub const RESOURCES: &str = "isthmus.io/container-resources";

/// How soon a resize that waits for room, or failed, is tried again.
const RETRY_SECS: i64 = 10;

/// An event to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) warning: bool,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// One container to change in place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) resources: v1::LinuxContainerResources,
    /// The memory limit becomes this, which is less than before: the container may use more already.
    pub(super) less_memory: Option<i64>,
    pub(super) wanted: ResourceRequirements,
}

/// All that one turn of a resize changes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Turn {
    /// The Pod's own level before its containers change: wide enough for what was and what comes.
    pub(super) wide: PodResources,
    pub(super) changes: Vec<Change>,
    /// The Pod's own level afterwards; `None` while a container that is to be made anew still needs the wide one.
    pub(super) last: Option<PodResources>,
}

/// One Pod's memory of it.
#[derive(Debug, Default)]
pub(super) struct Resizer {
    /// By container name.
    granted: BTreeMap<String, ResourceRequirements>,
    /// By the runtime's id.
    actual: BTreeMap<String, ResourceRequirements>,
    pending: Option<Pending>,
    error: Option<String>,
    retry_at: Option<Timestamp>,
    /// The Pod's own level is wider than it should be in the end.
    is_wide: bool,
    /// It was begun by this process, and its end is to be told.
    begun: bool,
}

impl Resizer {
    /// The Pod with what it has been granted, and what there is to tell about that. `previous` is the last status.
    pub(super) fn admit(
        &mut self,
        desired: DesiredPod,
        uid: &str,
        previous: &PodStatus,
        room: &Room,
    ) -> (DesiredPod, Option<Word>) {
        let Desired::Run(pod) = &desired.want else { return (desired, None) };
        for container in resizable(pod) {
            if !self.granted.contains_key(&container.name) {
                let known = stored(previous, &container.name, None);
                let granted = known.unwrap_or_else(|| container.resources.clone().unwrap_or_default());
                self.granted.insert(container.name.clone(), granted);
            }
        }
        let granted = self.with_granted(pod);
        if resizable(pod).all(|c| self.granted.get(&c.name).is_some_and(|has| same(has, &wants(c)))) {
            self.grant(pod);
            self.pending = None;
            room.note(uid, pod);
            return (desired, None);
        }
        match room.judge(uid, &granted, pod) {
            Ok(()) => {
                self.grant(pod);
                (self.pending, self.error, self.retry_at) = (None, None, None);
                // The Pod's own level has its turn also if no container runs just now: its next start needs the room.
                (self.begun, self.is_wide) = (true, true);
                let word = Word {
                    warning: false,
                    reason: "ResizeStarted",
                    message: summary("Pod resize started", pod, ""),
                };
                (desired, Some(word))
            }
            Err(pending) => {
                room.note(uid, &granted);
                let is_new = self.pending.as_ref().is_none_or(|known| known.reason != pending.reason);
                let word = is_new.then(|| Word {
                    warning: true,
                    reason: if pending.reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" },
                    message: summary(&format!("Pod resize {}", pending.reason), pod, &pending.message),
                });
                self.pending = Some(pending);
                let want = Desired::Run(Arc::new(granted));
                (DesiredPod { want, hashes: desired.hashes }, word)
            }
        }
    }

    /// A wish that waits for room is looked at again then.
    pub(super) fn look_again(&self, now: Timestamp) -> Option<Timestamp> {
        let waits = self.pending.as_ref().is_some_and(|pending| pending.reason == "Deferred");
        waits.then(|| later(now, SignedDuration::from_secs(RETRY_SECS)))
    }

    /// What is to be done about the containers that run. `pod` is the one with what was granted.
    pub(super) fn look(
        &mut self,
        pod: &Pod,
        observed: &ObservedPod,
        listing: &Listing,
        previous: &PodStatus,
    ) -> (Resizes, Option<Word>) {
        let mut resizes = Resizes { pending: self.pending.clone(), ..Resizes::default() };
        let mut in_place = false;
        for container in resizable(pod) {
            let Some(record) = observed.newest(&container.name).filter(|record| record.is_running()) else {
                continue;
            };
            let wanted = wants(container);
            let actual = self.actual.entry(record.id.clone()).or_insert_with(|| {
                stored(previous, &container.name, Some(&record.id))
                    .or_else(|| noted(listing, &record.id))
                    .unwrap_or_else(|| wanted.clone())
            });
            if same(actual, &wanted) {
                // Other resources and other spellings cost nothing.
                *actual = wanted;
            } else if must_restart(container, actual, &wanted) {
                resizes.restart.insert(record.id.clone());
            } else {
                in_place = true;
            }
            resizes.actual.insert(record.id.clone(), actual.clone());
        }
        self.actual.retain(|id, _| resizes.actual.contains_key(id));
        let is_open = in_place || !resizes.restart.is_empty() || self.is_wide;
        // The Pod's own level is widened before a container is made anew, and narrowed when all have what they should.
        if in_place || resizes.restart.is_empty() == self.is_wide {
            resizes.due = Some(self.retry_at.unwrap_or(Timestamp::UNIX_EPOCH));
        }
        if !is_open {
            (self.error, self.retry_at) = (None, None);
        }
        resizes.progress = is_open.then(|| self.error.clone().unwrap_or_default());
        let is_done = !is_open && self.begun;
        self.begun = is_open;
        let word = is_done.then(|| Word {
            warning: false,
            reason: "ResizeCompleted",
            message: summary("Pod resize completed", pod, ""),
        });
        (resizes, word)
    }

    /// What this turn changes.
    pub(super) fn turn(
        &mut self,
        pod: &Pod,
        observed: &ObservedPod,
        cpu: CpuQuota,
        memory_capacity: i64,
    ) -> Turn {
        let mut before = pod.clone();
        let mut changes = Vec::new();
        for container in resizable(pod) {
            let Some(record) = observed.newest(&container.name) else { continue };
            let Some(actual) = self.actual.get(&record.id) else { continue };
            set_resources(&mut before, &container.name, actual);
            let wanted = wants(container);
            if same(actual, &wanted) || observed.resizes.restart.contains(&record.id) {
                continue;
            }
            let mut resources = container_resources(pod, container, cpu, memory_capacity);
            // 0 would leave the old limit standing.
            if resources.cpu_quota == 0 && cpu.enforced {
                resources.cpu_quota = -1;
            }
            if resources.memory_limit_in_bytes == 0 {
                resources.memory_limit_in_bytes = -1;
            }
            let memory = |of: &ResourceRequirements| amount_in(of.limits.as_ref(), "memory");
            let less_memory = memory(&wanted).filter(|new| memory(actual).is_none_or(|old| *new < old));
            changes.push(Change {
                id: record.id.clone(),
                name: container.name.clone(),
                resources,
                less_memory: less_memory.map(Amount::units),
                wanted,
            });
        }
        let last = explicit(pod_resources(pod, cpu), cpu);
        let wide = widest(explicit(pod_resources(&before, cpu), cpu), last);
        self.is_wide = true;
        let last = observed.resizes.restart.is_empty().then_some(last);
        Turn { wide, changes, last }
    }

    /// A container has what it should have.
    pub(super) fn changed(&mut self, change: Change) {
        self.actual.insert(change.id, change.wanted);
    }

    /// The Pod's own level is as it should be.
    pub(super) fn settled(&mut self) {
        (self.is_wide, self.error, self.retry_at) = (false, None, None);
    }

    /// The runtime is away: nothing is wrong with the resize.
    pub(super) fn wait(&mut self, now: Timestamp) {
        self.retry_at = Some(later(now, SignedDuration::from_secs(1)));
    }

    /// This turn went wrong. What is to be told: an error that is told already is not told again.
    pub(super) fn failed(&mut self, pod: &Pod, error: String, now: Timestamp) -> Option<Word> {
        self.retry_at = Some(later(now, SignedDuration::from_secs(RETRY_SECS)));
        if self.error.as_ref() == Some(&error) {
            return None;
        }
        let message = summary("Pod resize error", pod, &error);
        self.error = Some(error);
        Some(Word { warning: true, reason: "ResizeError", message })
    }

    fn grant(&mut self, pod: &Pod) {
        self.granted = resizable(pod).map(|container| (container.name.clone(), wants(container))).collect();
    }

    fn with_granted(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        for (name, granted) in &self.granted {
            set_resources(&mut pod, name, granted);
        }
        pod
    }
}

/// The note for a container that is made with these.
#[must_use]
pub fn note(container: &Container) -> Option<String> {
    let resources = container.resources.as_ref()?;
    let has_some = resources.requests.is_some() || resources.limits.is_some();
    has_some.then(|| serde_json::to_string(resources).ok()).flatten()
}

fn wants(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

/// The containers that run as long as the Pod does.
fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let sidecars = spec.map(inits).unwrap_or_default().iter().filter(|init| is_sidecar(init));
    sidecars.chain(spec.into_iter().flat_map(|spec| &spec.containers))
}

/// What the last status says of a container's resources; with an id only if it is that very container.
fn stored(previous: &PodStatus, name: &str, id: Option<&str>) -> Option<ResourceRequirements> {
    let lists = [&previous.container_statuses, &previous.init_container_statuses];
    let status = lists.into_iter().flatten().flatten().find(|status| status.name == name)?;
    let its_id = status.container_id.as_deref().and_then(|id| id.rsplit("://").next());
    if id.is_some() && id != its_id {
        return None;
    }
    status.resources.clone()
}

fn noted(listing: &Listing, id: &str) -> Option<ResourceRequirements> {
    let listed = listing.containers.iter().find(|container| container.id == id)?;
    serde_json::from_str(listed.annotations.get(RESOURCES)?).ok()
}

/// Request and limit of one resource.
fn sizes(of: &ResourceRequirements, resource: &str) -> (Option<Amount>, Option<Amount>) {
    (amount_in(of.requests.as_ref(), resource), amount_in(of.limits.as_ref(), resource))
}

/// Whether they are the same in what can be resized, however it is spelled.
fn same(one: &ResourceRequirements, other: &ResourceRequirements) -> bool {
    ["cpu", "memory"].iter().all(|resource| sizes(one, resource) == sizes(other, resource))
}

/// Whether the container's own policy asks for a new start for what changes.
fn must_restart(container: &Container, actual: &ResourceRequirements, wanted: &ResourceRequirements) -> bool {
    container.resize_policy.iter().flatten().any(|policy| {
        let resource = policy.resource_name.as_str();
        policy.restart_policy == "RestartContainer" && sizes(actual, resource) != sizes(wanted, resource)
    })
}

fn set_resources(pod: &mut Pod, name: &str, resources: &ResourceRequirements) {
    let Some(spec) = &mut pod.spec else { return };
    let all = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    for container in all.filter(|container| container.name == name) {
        container.resources = Some(resources.clone());
    }
}

/// What is not limited is said so, since a limit may stand from before.
fn explicit(resources: PodResources, cpu: CpuQuota) -> PodResources {
    PodResources {
        cpu_quota: Some(resources.cpu_quota.unwrap_or((-1, cpu.period))),
        memory_limit: Some(resources.memory_limit.unwrap_or(-1)),
        ..resources
    }
}

/// Wide enough for both. A negative number is no limit.
fn widest(one: PodResources, other: PodResources) -> PodResources {
    let wider = |one: i64, other: i64| if one < 0 || other < 0 { -1 } else { one.max(other) };
    PodResources {
        cpu_shares: one.cpu_shares.max(other.cpu_shares),
        cpu_quota: one
            .cpu_quota
            .zip(other.cpu_quota)
            .map(|((one, _), (other, period))| (wider(one, other), period)),
        memory_limit: one.memory_limit.zip(other.memory_limit).map(|(one, other)| wider(one, other)),
    }
}

/// Kubernetes' text of a resize event: a few words, then all containers with what they are to have.
fn summary(words: &str, pod: &Pod, error: &str) -> String {
    let row = |container: &Container| json!({"name": container.name, "resources": wants(container)});
    let spec = pod.spec.as_ref();
    let mains: Vec<_> = spec.into_iter().flat_map(|spec| &spec.containers).map(row).collect();
    let inits: Vec<_> = spec.map(inits).unwrap_or_default().iter().map(row).collect();
    let mut all = json!({"containers": mains, "generation": pod.metadata.generation.unwrap_or(0)});
    if let Some(fields) = all.as_object_mut() {
        if !inits.is_empty() {
            fields.insert("initContainers".into(), inits.into());
        }
        if !error.is_empty() {
            fields.insert("error".into(), error.into());
        }
    }
    format!("{words}: {all}")
}
