//! What a plan is made of: the things to do, in the words that `worker.rs` carries out. Pure.

use k8s_openapi::jiff::Timestamp;

use crate::edged::verdict::Kind;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write the Pod's volumes.
    PrepareVolumes,
    /// Make and start a sandbox.
    CreateSandbox { attempt: u32 },
    /// End what is left in a sandbox and take its network down. Done already: success.
    StopSandbox { id: String },
    /// Remove a stopped sandbox.
    RemoveSandbox { id: String },
    /// Make sure of the image, make a container and start it.
    StartContainer { name: String, sandbox: String, attempt: u32, ended: Option<Timestamp> },
    /// Change what running containers may use, as far as that needs no new start.
    Resize,
    /// End these side by side; done when all have ended.
    StopContainers(Vec<Stop>),
    /// Remove a dead container with its log.
    RemoveContainer { id: String },
    /// Take the Pod's volumes down.
    TearDownVolumes,
    /// Remove the Pod's cgroup.
    RemoveCgroup,
    /// Nothing of the Pod is left: tell the cloud.
    ReportGone,
    /// Nothing of the Pod is left and nobody asks for it: forget it.
    Forget,
    /// Nothing to do before this time.
    Wait { until: Timestamp },
}

/// One container to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// The runtime's id.
    pub id: String,
    /// Its name in the Pod.
    pub name: String,
    /// Seconds for its preStop hook, the wait for its turn, and from the stop signal to the kill.
    pub grace_secs: i64,
    /// Why, for the event.
    pub reason: StopReason,
    /// It gets its stop signal when all of lower turns have ended.
    pub turn: usize,
    /// Its preStop hook runs first.
    pub hook: bool,
}

/// Why a container is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The Pod ends.
    PodEnds,
    /// Its spec changed.
    SpecChanged,
    /// Its sandbox is dead, or is not the Pod's.
    SandboxChanged,
    /// The runtime does not know what it does.
    Lost,
    /// It is to have other resources, and asks for a new start for that.
    Resized,
    /// Its postStart hook failed.
    HookFailed,
    /// A probe asks for its end. `restarts`: its successor starts at once or after its back-off.
    Unwell {
        /// Which probe.
        probe: Kind,
        /// Whether it has a successor.
        restarts: bool,
    },
}
