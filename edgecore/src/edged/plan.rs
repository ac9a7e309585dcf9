//! What to do for one Pod now: `plan(desired, observed, now)` gives a list of [`Action`]. Pure.
//!
//! The only place that decides about sandboxes, starts, stops and removals. It never calls the runtime: `worker.rs`
//! carries out the actions in their order, stops at the first that fails, looks again and asks again. So each list
//! holds only what is right as far as is known; the next look adds the rest. Nothing here depends on what an earlier
//! process did: a kill between any two actions leaves an observation from which the same end is reached.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, Pod, PodSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::backoff::later;
use super::observed::{
    ContainerState, ObservedContainer, ObservedPod, RUN_FAILED, SandboxState, Source, StartFailure, Volumes,
};
use super::probes::Kind;

/// What the store says about a Pod.
#[derive(Clone, Debug)]
pub enum Desired {
    /// It runs.
    Run(Arc<Pod>),
    /// It has a deletion timestamp: end it, then say that it is gone.
    Terminate(Arc<Pod>),
    /// The store has it no longer, or never had it (`None`: found in the runtime only).
    Removed(Option<Arc<Pod>>),
}

/// A Pod as it should be.
#[derive(Clone, Debug)]
pub struct DesiredPod {
    /// What the store says.
    pub want: Desired,
    /// Hash of each container's spec, by container name, as `container.rs` notes it on the containers it makes.
    pub hashes: BTreeMap<String, String>,
}

impl DesiredPod {
    /// The Pod, where it is known.
    #[must_use]
    pub fn pod(&self) -> Option<&Arc<Pod>> {
        match &self.want {
            Desired::Run(pod) | Desired::Terminate(pod) => Some(pod),
            Desired::Removed(pod) => pod.as_ref(),
        }
    }

    /// Seconds from the decision to end a container to its kill. Kubernetes gives at least two after the stop signal; 0
    /// as it was asked for means that no hook runs.
    #[must_use]
    pub fn grace_secs(&self) -> Option<i64> {
        let pod = self.pod()?;
        let asked = pod.metadata.deletion_grace_period_seconds;
        let written = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        Some(asked.or(written).unwrap_or(DEFAULT_GRACE_SECS))
    }
}

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

/// What `spec.restartPolicy` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// When the exit code is not zero.
    OnFailure,
    /// Not at all.
    Never,
}

const DEFAULT_GRACE_SECS: i64 = 30;
/// From the stop signal to the kill, whatever was asked for.
pub(super) const LEAST_GRACE_SECS: i64 = 2;

/// What to do for this Pod now, in this order. An empty list: nothing, until something changes.
#[must_use]
pub fn plan(desired: &DesiredPod, observed: &ObservedPod, now: Timestamp) -> Vec<Action> {
    if let Some(until) = observed.hold.filter(|hold| *hold > now) {
        return vec![Action::Wait { until }];
    }
    match &desired.want {
        Desired::Run(pod) => match outcome(pod, observed, now) {
            Some(_) => wind_down(desired, observed, now),
            None => Run { desired, pod, observed, now, actions: Vec::new(), waits: Vec::new() }.plan(),
        },
        Desired::Terminate(_) | Desired::Removed(_) => end(desired, observed, now),
    }
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

/// Whether this init container runs beside the main ones.
#[must_use]
pub fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// The init containers and sidecars, in their order.
#[must_use]
pub fn inits(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// What this container's or its Pod's restart policy says.
#[must_use]
pub fn restart_policy(spec: &PodSpec, container: &Container) -> RestartPolicy {
    match container.restart_policy.as_deref().or(spec.restart_policy.as_deref()) {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// Whether a container that ended with this code is started again. Its own rules go before its own policy, that before the
/// Pod's. A rule that asks for all containers at once is for nodes that say they can; here it counts as no rule.
#[must_use]
pub fn restarts(spec: &PodSpec, container: &Container, code: i32) -> bool {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let matches = |rule: &&ContainerRestartRule| {
        let codes = rule.exit_codes.as_ref();
        codes.is_some_and(|codes| {
            let listed = codes.values.as_deref().unwrap_or_default().contains(&code);
            listed == (codes.operator != "NotIn")
        })
    };
    // The first that fits decides.
    let rule = rules.iter().find(matches).filter(|_| container.restart_policy.is_some());
    if rule.is_some_and(|rule| rule.action == "Restart") {
        return true;
    }
    match restart_policy(spec, container) {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
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

fn deadline(spec: &PodSpec, observed: &ObservedPod) -> Option<Timestamp> {
    let seconds = spec.active_deadline_seconds?;
    Some(later(observed.started_at?, SignedDuration::from_secs(seconds)))
}

/// The newest record of this name, if it belongs to this sandbox. Init containers of an earlier sandbox did their work
/// for that one.
fn here<'a>(observed: &'a ObservedPod, name: &str, sandbox: &str) -> Option<&'a ObservedContainer> {
    observed.newest(name).filter(|record| record.sandbox == sandbox)
}

/// A main container in this sandbox proves that its init containers were done, even if their records are gone.
fn mains_began(spec: &PodSpec, observed: &ObservedPod, sandbox: &str) -> bool {
    spec.containers.iter().any(|container| here(observed, &container.name, sandbox).is_some())
}

/// The plan for a Pod of which something should run.
struct Run<'a> {
    desired: &'a DesiredPod,
    pod: &'a Pod,
    observed: &'a ObservedPod,
    now: Timestamp,
    actions: Vec<Action>,
    waits: Vec<Timestamp>,
}

/// What an init container's place in the order means for those behind it.
#[derive(PartialEq, Eq)]
enum Next {
    Goes,
    Waits,
}

impl Run<'_> {
    fn plan(mut self) -> Vec<Action> {
        let Some(spec) = &self.pod.spec else { return Vec::new() };
        self.waits.extend(deadline(spec, self.observed));
        let current = self.observed.current_sandbox();
        let current_id = current.map(|sandbox| sandbox.id.clone());
        self.leave_other_sandboxes(current_id.as_deref());
        if !self.actions.is_empty() && current_id.is_none() && self.any_alive() {
            // How these end may be the end of the Pod (`restartPolicy: Never`): look again before a new sandbox.
            return self.actions;
        }
        if self.observed.volumes != Volumes::Ready {
            self.actions.push(Action::PrepareVolumes);
        }
        match current_id {
            Some(sandbox) => {
                self.resize();
                self.containers(spec, &sandbox);
            }
            None => {
                let attempt =
                    self.observed.newest_sandbox().map_or(0, |sandbox| sandbox.attempt.saturating_add(1));
                self.actions.push(Action::CreateSandbox { attempt });
            }
        }
        self.garbage(current.map(|sandbox| sandbox.id.as_str()));
        if let Some(until) = self.waits.iter().min().copied() {
            self.actions.push(Action::Wait { until });
        }
        self.actions
    }

    /// Ends what is alive outside the current sandbox; without a current one, gives back the dead ones' network.
    fn leave_other_sandboxes(&mut self, current: Option<&str>) {
        let stops: Vec<Stop> = self
            .observed
            .containers
            .iter()
            .filter(|c| c.may_be_alive() && Some(c.sandbox.as_str()) != current)
            .map(|c| self.stop(c, StopReason::SandboxChanged))
            .collect();
        if !stops.is_empty() {
            self.actions.push(Action::StopContainers(stops));
        }
        for sandbox in self.observed.sandboxes.iter().filter(|s| Some(s.id.as_str()) != current) {
            if current.is_none() || sandbox.state != SandboxState::NotReady {
                self.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
            }
        }
    }

    /// Before any container is made anew with more than the Pod's own level allows.
    fn resize(&mut self) {
        match self.observed.resizes.due {
            Some(at) if at <= self.now => self.actions.push(Action::Resize),
            Some(at) => self.waits.push(at),
            None => {}
        }
    }

    fn containers(&mut self, spec: &PodSpec, sandbox: &str) {
        // They look into the Pod at any time, and run once.
        for ephemeral in spec.ephemeral_containers.iter().flatten() {
            match self.observed.newest(&ephemeral.name) {
                None => self.start(&ephemeral.name, None, sandbox),
                Some(made) if made.state == ContainerState::Created => {
                    self.start(&ephemeral.name, Some(made), sandbox);
                }
                Some(_) => {}
            }
        }
        let began = mains_began(spec, self.observed, sandbox);
        for init in inits(spec) {
            let next = if is_sidecar(init) {
                self.sidecar(init, sandbox)
            } else if began {
                Next::Goes
            } else {
                self.init(spec, init, sandbox)
            };
            if next == Next::Waits && !began {
                return;
            }
        }
        for container in &spec.containers {
            self.main(spec, container, sandbox);
        }
    }

    fn sidecar(&mut self, init: &Container, sandbox: &str) -> Next {
        match self.observed.newest(&init.name) {
            Some(record) if record.is_running() && record.sandbox == sandbox => {
                if self.spec_changed(record) {
                    self.replace(record, sandbox, StopReason::SpecChanged);
                } else if self.must_restart(record) {
                    self.replace(record, sandbox, StopReason::Resized);
                } else {
                    self.heal(record, sandbox, RestartPolicy::Always);
                }
                if self.observed.verdict(record).started { Next::Goes } else { Next::Waits }
            }
            record => {
                self.start(&init.name, record, sandbox);
                Next::Waits
            }
        }
    }

    fn init(&mut self, spec: &PodSpec, init: &Container, sandbox: &str) -> Next {
        let record = self.observed.newest(&init.name);
        match here(self.observed, &init.name, sandbox).map(|record| &record.state) {
            Some(ContainerState::Exited(exit)) if exit.code == 0 => return Next::Goes,
            Some(ContainerState::Running { .. }) => return Next::Waits,
            // It failed and must not be tried again: `outcome` has said so already.
            Some(ContainerState::Exited(exit)) if !restarts(spec, init, exit.code) => {}
            Some(_) | None => self.start(&init.name, record, sandbox),
        }
        Next::Waits
    }

    fn main(&mut self, spec: &PodSpec, container: &Container, sandbox: &str) {
        let Some(record) = self.observed.newest(&container.name) else {
            return self.start(&container.name, None, sandbox);
        };
        match &record.state {
            ContainerState::Running { .. } if record.sandbox == sandbox => {
                if self.spec_changed(record) {
                    self.replace(record, sandbox, StopReason::SpecChanged);
                } else if self.must_restart(record) {
                    self.replace(record, sandbox, StopReason::Resized);
                } else {
                    self.heal(record, sandbox, restart_policy(spec, container));
                }
            }
            ContainerState::Exited(exit) => {
                if restarts(spec, container, exit.code) {
                    self.start(&container.name, Some(record), sandbox);
                }
            }
            _ => self.start(&container.name, Some(record), sandbox),
        }
    }

    fn any_alive(&self) -> bool {
        self.observed.containers.iter().any(ObservedContainer::may_be_alive)
    }

    /// Starts a container unless it has to wait. `record` is the newest one of its name.
    fn start(&mut self, name: &str, record: Option<&ObservedContainer>, sandbox: &str) {
        if let Some(record) = record.filter(|record| record.state == ContainerState::Unknown) {
            return self.replace(record, sandbox, StopReason::Lost);
        }
        let has_ended = record.is_some_and(|record| record.exit().is_some());
        let holds = |failure: &&StartFailure| {
            failure.retry_at > self.now && !(failure.reason == RUN_FAILED && has_ended)
        };
        if let Some(failure) = self.observed.failures.get(name).filter(holds) {
            self.waits.push(failure.retry_at);
            return;
        }
        let mut attempt = record.map_or(0, |record| record.attempt.saturating_add(1));
        if let Some(record) = record
            && record.state == ContainerState::Created
        {
            // Made and never started: edgecore was killed in between. The runtime keeps name and attempt reserved.
            self.actions.push(Action::RemoveContainer { id: record.id.clone() });
            attempt = record.attempt;
        }
        let exit = record.and_then(|record| record.exit());
        if let (Some(record), Some(exit)) = (record, exit)
            && !self.spec_changed(record)
            && let Some((until, _)) = self.observed.backoffs.wait(name, exit.finished_at, self.now)
        {
            self.waits.push(until);
            return;
        }
        self.actions.push(Action::StartContainer {
            name: name.to_owned(),
            sandbox: sandbox.to_owned(),
            attempt,
            ended: exit.map(|exit| exit.finished_at),
        });
    }

    /// Ends a container that runs and starts its successor at once.
    fn replace(&mut self, record: &ObservedContainer, sandbox: &str, reason: StopReason) {
        if let Some(failure) = self.observed.failures.get(&record.name).filter(|f| f.retry_at > self.now) {
            self.waits.push(failure.retry_at);
            return;
        }
        self.actions.push(Action::StopContainers(vec![self.stop(record, reason)]));
        self.actions.push(Action::StartContainer {
            name: record.name.clone(),
            sandbox: sandbox.to_owned(),
            attempt: record.attempt.saturating_add(1),
            ended: None,
        });
    }

    /// Ends a container that its probes found unwell, and starts its successor unless the policy forbids it. As with a
    /// kubelet the back-off of this start counts from the container before: the first one is immediate.
    fn heal(&mut self, record: &ObservedContainer, sandbox: &str, policy: RestartPolicy) {
        let Some(probe) = self.observed.verdict(record).failed else { return };
        let restarts = policy != RestartPolicy::Never;
        let reason = StopReason::Unwell { probe, restarts };
        self.actions.push(Action::StopContainers(vec![self.stop(record, reason)]));
        let records = self.observed.records(&record.name);
        let ended = records.iter().find_map(|older| older.exit()).map(|exit| exit.finished_at);
        let waits = ended.and_then(|ended| self.observed.backoffs.wait(&record.name, ended, self.now));
        if restarts && waits.is_none() {
            self.actions.push(Action::StartContainer {
                name: record.name.clone(),
                sandbox: sandbox.to_owned(),
                attempt: record.attempt.saturating_add(1),
                ended,
            });
        }
    }

    /// Only a hash that we wrote counts: a container that another program or version made is left in peace.
    fn spec_changed(&self, record: &ObservedContainer) -> bool {
        match (&record.hash, self.desired.hashes.get(&record.name)) {
            (Some(made), Some(wanted)) => made != wanted,
            _ => false,
        }
    }

    fn must_restart(&self, record: &ObservedContainer) -> bool {
        self.observed.resizes.restart.contains(&record.id)
    }

    fn stop(&self, record: &ObservedContainer, reason: StopReason) -> Stop {
        stop(self.desired, record, reason)
    }

    /// Of each name the newest dead container stays for logs and `lastState`; older ones go. A sandbox that is not
    /// the current one goes with its last container.
    fn garbage(&mut self, current: Option<&str>) {
        let kept = kept_dead(self.observed);
        let newest =
            |c: &ObservedContainer| self.observed.newest(&c.name).is_some_and(|newest| newest.id == c.id);
        for record in self.observed.containers.iter().filter(|c| c.source == Source::Runtime) {
            let is_over = match record.state {
                ContainerState::Exited(_) => !kept.contains(&record.id.as_str()),
                // The newest is dealt with where its successor is started.
                ContainerState::Created => !newest(record),
                ContainerState::Running { .. } | ContainerState::Unknown => false,
            };
            if !is_over {
                continue;
            }
            self.actions.push(Action::RemoveContainer { id: record.id.clone() });
        }
        for sandbox in &self.observed.sandboxes {
            let is_empty = !self.observed.containers.iter().any(|c| {
                c.sandbox == sandbox.id
                    && c.source == Source::Runtime
                    && (c.exit().is_none() || kept.contains(&c.id.as_str()))
            });
            // Without a current one the newest stays until it has a successor: the next attempt is counted from it.
            let is_needed = match current {
                Some(current) => current == sandbox.id,
                None => self.observed.newest_sandbox().is_some_and(|newest| newest.id == sandbox.id),
            };
            if is_empty && !is_needed {
                self.actions.push(Action::StopSandbox { id: sandbox.id.clone() });
                self.actions.push(Action::RemoveSandbox { id: sandbox.id.clone() });
            }
        }
    }
}

/// The newest dead container of each name.
fn kept_dead(observed: &ObservedPod) -> Vec<&str> {
    let mut newest: BTreeMap<&str, &ObservedContainer> = BTreeMap::new();
    for record in observed.containers.iter().filter(|c| c.source == Source::Runtime && c.exit().is_some()) {
        let entry = newest.entry(&record.name).or_insert(record);
        if record.attempt > entry.attempt {
            *entry = record;
        }
    }
    newest.into_values().map(|record| record.id.as_str()).collect()
}

fn stop(desired: &DesiredPod, record: &ObservedContainer, reason: StopReason) -> Stop {
    let of_pod = || desired.grace_secs().or(record.grace_secs).unwrap_or(DEFAULT_GRACE_SECS);
    let asked = match reason {
        // Nobody knows whether it would hear the signal.
        StopReason::Lost => 0,
        StopReason::Unwell { probe, .. } => probe_grace(desired, record, probe).unwrap_or_else(of_pod),
        StopReason::PodEnds
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
pub fn stop_after_failed_start(desired: &DesiredPod, name: &str, id: &str) -> Stop {
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

/// Of a Pod that only the runtime knows the container itself carries its hook, if it has one.
fn has_pre_stop(desired: &DesiredPod, name: &str) -> bool {
    let lifecycle = container_of(desired, name).and_then(|container| container.lifecycle.as_ref());
    desired.pod().is_none() || lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some())
}

fn container_of<'a>(desired: &'a DesiredPod, name: &str) -> Option<&'a Container> {
    let spec = desired.pod()?.spec.as_ref()?;
    inits(spec).iter().chain(&spec.containers).find(|container| container.name == name)
}

/// What this probe gives its container instead of the Pod's grace period. A Pod that is being deleted has its own.
fn probe_grace(desired: &DesiredPod, record: &ObservedContainer, probe: Kind) -> Option<i64> {
    let pod = desired.pod().filter(|pod| pod.metadata.deletion_grace_period_seconds.is_none())?;
    pod.spec.as_ref()?.termination_grace_period_seconds?;
    probe.probe(container_of(desired, &record.name)?)?.termination_grace_period_seconds
}

/// Ends what still runs: main containers side by side, then sidecars in the reverse of their order. Empty when nothing
/// is alive.
fn stops(desired: &DesiredPod, observed: &ObservedPod, now: Timestamp) -> Vec<Action> {
    let spec = desired.pod().and_then(|pod| pod.spec.as_ref());
    let inits = spec.map(inits).unwrap_or_default();
    let sidecars: Vec<&str> =
        inits.iter().filter(|init| is_sidecar(init)).map(|init| init.name.as_str()).rev().collect();
    let spent = observed.stopping_since.map_or(0, |since| now.duration_since(since).as_secs().max(0));
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
            // All share one grace period; what the main containers used is gone.
            stop.grace_secs = stop.grace_secs.saturating_sub(spent).max(LEAST_GRACE_SECS);
        }
        stops.push(stop);
    }
    stops.sort_by_key(|stop| stop.turn);
    if stops.is_empty() { Vec::new() } else { vec![Action::StopContainers(stops)] }
}

/// A Pod that has ended by itself: nothing runs, its containers stay for logs and status until the Pod is removed.
fn wind_down(desired: &DesiredPod, observed: &ObservedPod, now: Timestamp) -> Vec<Action> {
    let mut actions = stops(desired, observed, now);
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
fn end(desired: &DesiredPod, observed: &ObservedPod, now: Timestamp) -> Vec<Action> {
    let mut actions = stops(desired, observed, now);
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

#[cfg(test)]
mod tests;
