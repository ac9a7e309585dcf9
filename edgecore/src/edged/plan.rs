//! What to do for one Pod now: `plan(desired, observed, now)` gives a list of [`Action`]. Pure.
//!
//! The only place that decides about sandboxes, starts, stops and removals. It never calls the runtime: `worker.rs`
//! carries out the actions in their order, stops at the first that fails, looks again and asks again. So each list
//! holds only what is right as far as is known; the next look adds the rest. Nothing here depends on what an earlier
//! process did: a kill between any two actions leaves an observation from which the same end is reached.

mod action;
mod end;
mod stops;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::jiff::Timestamp;

pub use self::action::{Action, Stop, StopReason};
use self::end::{end, kept_dead, wind_down};
use self::stops::stop;
pub(super) use self::stops::{LEAST_GRACE_SECS, stop_after_failed_start};
use super::backoff::is_ahead;
use super::desired::{Desired, DesiredPod};
use super::failure_reason::FailureReason;
use super::observed::{
    ContainerState, ObservedContainer, ObservedPod, SandboxState, Source, StartFailure, Volumes,
};
use super::outcome::{deadline, here, mains_began, outcome};
use super::pod_spec::{RestartPolicy, inits, is_sidecar, restart_policy, restarts};

/// The longest wait after an action that failed for the whole Pod.
pub(super) const LONGEST_HOLD_SECS: i64 = 60;

/// What to do for this Pod now, in this order. An empty list: nothing, until something changes.
#[must_use]
pub fn plan(desired: &DesiredPod, observed: &ObservedPod, now: Timestamp) -> Vec<Action> {
    if let Some(until) = observed.hold.filter(|hold| is_ahead(*hold, now, LONGEST_HOLD_SECS)) {
        return vec![Action::Wait { until }];
    }
    match &desired.want {
        Desired::Run(pod) => match outcome(pod, observed, now) {
            Some(_) => wind_down(desired, observed),
            None => Run { desired, pod, observed, now, actions: Vec::new(), waits: Vec::new() }.plan(),
        },
        Desired::Terminate(_) | Desired::Removed(_) => end(desired, observed),
    }
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
        // What runs has its files: new ones must not keep it from being healed, resized or started again.
        let has_files = self.observed.has_files();
        let is_stale = self.observed.volumes != Volumes::Ready;
        if is_stale && !has_files {
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
        if is_stale && has_files {
            self.actions.push(Action::PrepareVolumes);
        }
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
            Some(at) if is_ahead(at, self.now, LONGEST_HOLD_SECS) => self.waits.push(at),
            Some(_) => self.actions.push(Action::Resize),
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
            failure.is_to_wait(self.now) && !(failure.reason == FailureReason::RunContainerError && has_ended)
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
        if let Some(failure) = self.observed.failures.get(&record.name).filter(|f| f.is_to_wait(self.now)) {
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
