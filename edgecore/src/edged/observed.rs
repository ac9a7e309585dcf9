//! What the runtime shows of one Pod, in the words that plan and status decide with.
//!
//! Types and small questions about them; never calls anything and never reads a clock. `worker/seeing.rs` fills them from
//! CRI lists, `plan.rs` and `status.rs` read them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus, ResourceRequirements};
use k8s_openapi::jiff::Timestamp;

use super::backoff::{Backoffs, is_ahead};
use super::evicted::Eviction;
use super::failure_reason::{FailureReason, LONGEST_WAIT_SECS};
use super::verdict::Verdict;

/// Exit code of a container whose end nobody saw: what a kill by the kernel looks like.
const KILLED: i32 = 137;

/// One Pod as the runtime and this process's memory of it show it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObservedPod {
    /// Every sandbox of the Pod's uid, in any order.
    pub sandboxes: Vec<ObservedSandbox>,
    /// Every container of the Pod's uid, in any order, and those that only the stored status remembers.
    pub containers: Vec<ObservedContainer>,
    /// What this process knows about the Pod's volumes.
    pub volumes: Volumes,
    /// Crash back-off by container name.
    pub backoffs: Backoffs,
    /// The last attempt to start a container that did not lead to a container, by container name.
    pub failures: BTreeMap<String, StartFailure>,
    /// After a failed action that concerns the whole Pod: nothing is tried before this time.
    pub hold: Option<Timestamp>,
    /// When the Pod was first seen here; the status keeps it over restarts.
    pub started_at: Option<Timestamp>,
    /// What the probes of running containers say, by the runtime's id. One that is not in it has none.
    pub probes: BTreeMap<String, Verdict>,
    /// What its containers have and should have.
    pub resizes: Resizes,
    /// Volumes and cgroup of a Pod that ends are gone.
    pub cleaned: bool,
    /// The cloud was told that nothing of the Pod is left.
    pub gone_reported: bool,
    /// This Node itself ends the Pod.
    pub evicted: Option<Arc<Eviction>>,
    /// The Pod has ended, and was told so; its dead containers go as well.
    pub strip: bool,
}

/// What this process knows about a Pod's volumes. A fresh process knows nothing and prepares them again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Volumes {
    /// Not looked at by this process.
    #[default]
    Unknown,
    /// On disk, current.
    Ready,
    /// Torn down.
    Gone,
}

/// Whether a sandbox still holds its namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SandboxState {
    /// Alive.
    Ready,
    /// Stopped, died, or from before a reboot.
    NotReady,
    /// The runtime says ready, but a Pod that needs an address has none.
    NoNetwork,
}

/// One sandbox of a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSandbox {
    /// The runtime's id.
    pub id: String,
    /// Grows with each sandbox of the Pod.
    pub attempt: u32,
    /// Alive or not.
    pub state: SandboxState,
    /// When it was made, nanoseconds since 1970.
    pub created_at: i64,
    /// Its addresses; none on the machine's own network.
    pub ips: Vec<IpAddr>,
}

/// What a container does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    /// Running since.
    Running {
        /// When it started.
        started_at: Timestamp,
    },
    /// Ended.
    Exited(Exit),
    /// The runtime lost it.
    Unknown,
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code.
    pub code: i32,
    /// The runtime's word: `Completed`, `Error`, `OOMKilled`, `StartError`; may be empty.
    pub reason: String,
    /// What the container left in its termination message file, or what the runtime says.
    pub message: String,
    /// When it started; absent when it never did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// Where a record of a container comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The runtime lists it.
    Runtime,
    /// Only the status stored with the Pod tells of it.
    StoredStatus,
}

/// One container of a Pod, alive or dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedContainer {
    /// The runtime's id.
    pub id: String,
    /// The name in the Pod's spec.
    pub name: String,
    /// Grows with each container of this name; also the restart count.
    pub attempt: u32,
    /// The sandbox it lives in.
    pub sandbox: String,
    /// What it does.
    pub state: ContainerState,
    /// Our hash of its spec; `None` when another program, or another version of ours, made it.
    pub hash: Option<String>,
    /// The image's name.
    pub image: String,
    /// The image's digest reference or id.
    pub image_id: String,
    /// Seconds between the stop signal and the kill, as noted when it was made.
    pub grace_secs: Option<i64>,
    /// Where this record comes from.
    pub source: Source,
}

/// Why a container could not be made or started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartFailure {
    /// What its status shows, and what decides how it is tried again.
    pub reason: FailureReason,
    /// One sentence.
    pub message: String,
    /// Not tried again before this time.
    pub retry_at: Timestamp,
    /// How often in a row.
    pub times: u32,
}

impl StartFailure {
    /// Whether it is too soon to try again.
    #[must_use]
    pub fn is_to_wait(&self, now: Timestamp) -> bool {
        is_ahead(self.retry_at, now, LONGEST_WAIT_SECS)
    }
}

/// What plan and status need to know of a Pod's resize.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resizes {
    /// Containers that must be made anew for it, by the runtime's id.
    pub restart: BTreeSet<String>,
    /// Something can be changed in place, not before this time.
    pub due: Option<Timestamp>,
    /// What running containers have, by the runtime's id.
    pub actual: BTreeMap<String, ResourceRequirements>,
    /// The wish that is not granted.
    pub pending: Option<Pending>,
    /// It is granted and not carried out yet; the text of the error, if there was one.
    pub progress: Option<String>,
}

/// Why a resize is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Deferred`: it may fit later. `Infeasible`: never on this node.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

impl Pending {
    pub(super) fn deferred(message: String) -> Self {
        Self { reason: "Deferred", message }
    }

    pub(super) fn infeasible(message: String) -> Self {
        Self { reason: "Infeasible", message }
    }
}

impl ObservedPod {
    /// The sandbox that the Pod's containers belong into. Of several that are alive (a crash between two lines) it is
    /// the one in which most containers run, so that none is restarted without need; else the newest.
    #[must_use]
    pub fn current_sandbox(&self) -> Option<&ObservedSandbox> {
        let n_running = |sandbox: &ObservedSandbox| {
            self.containers.iter().filter(|c| c.is_running() && c.sandbox == sandbox.id).count()
        };
        self.sandboxes
            .iter()
            .filter(|sandbox| sandbox.state == SandboxState::Ready)
            .max_by_key(|sandbox| (n_running(sandbox), sandbox.attempt, sandbox.created_at))
    }

    /// Whether a container was made in the current sandbox: then the Pod's volumes were there.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.current_sandbox().is_some_and(|current| {
            self.containers.iter().any(|c| c.source == Source::Runtime && c.sandbox == current.id)
        })
    }

    /// The newest sandbox, alive or not.
    #[must_use]
    pub fn newest_sandbox(&self) -> Option<&ObservedSandbox> {
        self.sandboxes.iter().max_by_key(|sandbox| (sandbox.attempt, sandbox.created_at))
    }

    /// The records of one container name, newest first.
    #[must_use]
    pub fn records(&self, name: &str) -> Vec<&ObservedContainer> {
        let mut records: Vec<_> = self.containers.iter().filter(|c| c.name == name).collect();
        records.sort_by_key(|c| std::cmp::Reverse((c.attempt, c.is_running())));
        records
    }

    /// The newest record of one container name.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&ObservedContainer> {
        self.containers.iter().filter(|c| c.name == name).max_by_key(|c| (c.attempt, c.is_running()))
    }

    /// What its probes say of a container, if it runs.
    #[must_use]
    pub fn verdict(&self, record: &ObservedContainer) -> Verdict {
        self.probes.get(&record.id).copied().unwrap_or_default()
    }

    /// Adds what only the Pod's stored status tells: containers that ran here once and of which the runtime knows
    /// nothing (its directory was wiped). Without this their restart count would begin anew, and a container that
    /// must run only once would run twice.
    pub fn recall(&mut self, pod: &Pod) {
        let Some(status) = &pod.status else { return };
        self.recall_status(status);
    }

    /// The same by a status that the store does not have yet.
    pub fn recall_status(&mut self, status: &PodStatus) {
        let stored = [
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ];
        for stored in stored.into_iter().flatten().flatten() {
            if self.newest(&stored.name).is_none()
                && let Some(record) = recalled(stored)
            {
                self.containers.push(record);
            }
        }
    }
}

impl ObservedContainer {
    /// Whether its process runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, ContainerState::Running { .. })
    }

    /// Whether the runtime has to be asked to end it.
    #[must_use]
    pub fn may_be_alive(&self) -> bool {
        self.source == Source::Runtime
            && matches!(self.state, ContainerState::Running { .. } | ContainerState::Unknown)
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn exit(&self) -> Option<&Exit> {
        match &self.state {
            ContainerState::Exited(exit) => Some(exit),
            _ => None,
        }
    }
}

/// A container that only the stored status remembers.
fn recalled(stored: &ContainerStatus) -> Option<ObservedContainer> {
    let id = stored.container_id.as_deref().filter(|id| !id.is_empty())?;
    let state = stored.state.as_ref();
    let ended = state
        .and_then(|state| state.terminated.as_ref())
        .or_else(|| stored.last_state.as_ref().and_then(|state| state.terminated.as_ref()));
    let running = state.and_then(|state| state.running.as_ref());
    let exit = match (running, ended) {
        (None, Some(ended)) => Exit {
            code: ended.exit_code,
            reason: ended.reason.clone().unwrap_or_default(),
            message: ended.message.clone().unwrap_or_default(),
            started_at: ended.started_at.as_ref().map(|t| t.0),
            finished_at: ended.finished_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        },
        (running, _) => lost(running.and_then(|r| r.started_at.as_ref()).map(|t| t.0)),
    };
    Some(ObservedContainer {
        id: id.rsplit("://").next().unwrap_or(id).to_owned(),
        name: stored.name.clone(),
        attempt: u32::try_from(stored.restart_count).unwrap_or(0),
        sandbox: String::new(),
        state: ContainerState::Exited(exit),
        hash: None,
        image: stored.image.clone(),
        image_id: stored.image_id.clone(),
        grace_secs: None,
        source: Source::StoredStatus,
    })
}

/// The end of a container that nobody saw end. Its time is unknown, and 1970 lets no back-off wait for it.
pub(super) fn lost(started_at: Option<Timestamp>) -> Exit {
    Exit {
        code: KILLED,
        reason: "ContainerStatusUnknown".into(),
        message: "The container could not be located when the pod was started again".into(),
        started_at,
        finished_at: Timestamp::UNIX_EPOCH,
    }
}

#[cfg(test)]
impl ObservedContainer {
    /// The first one of its name, of which nothing else is known.
    pub(super) fn first(id: &str, name: &str, state: ContainerState) -> Self {
        Self {
            id: id.into(),
            name: name.into(),
            attempt: 0,
            sandbox: "s0".into(),
            state,
            hash: None,
            image: String::new(),
            image_id: String::new(),
            grace_secs: None,
            source: Source::Runtime,
        }
    }
}
