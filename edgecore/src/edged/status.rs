//! What the cloud is told about one Pod: `pod_status(..)` builds a `PodStatus` in Kubernetes' own words. Pure.
//!
//! It decides nothing about what runs (that is `plan.rs`) and sends nothing (that is `worker/telling.rs`, which compares the
//! result with the last one and reports a change). Fields and conditions that are not the node's are passed through.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    Container, ContainerState as State, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::failure_reason::FailureReason;
use super::observed::{ContainerState, Exit, ObservedContainer, ObservedPod, Source};
use super::outcome::{Outcome, is_initialized, outcome};
use super::pod_spec::{ephemeral_as_container, inits, is_sidecar, restarts};
use super::resources::qos;

/// What the status needs to know about the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Addresses of this machine, the preferred one first.
    pub host_ips: Vec<IpAddr>,
    /// The runtime's name from its version answer: `containerd`, `cri-o`.
    pub runtime_name: String,
}

/// Whether the Pod is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It is to run, or ends by itself.
    No,
    /// It was deleted: once nothing runs it counts as ended, whatever its restart policy.
    Deleted,
}

/// The Pod's status now. `previous` is the last one reported or, after a start, the stored one: start time,
/// transition times and what other programs wrote come from it.
#[must_use]
pub fn pod_status(
    pod: &Pod,
    ending: Ending,
    observed: &ObservedPod,
    previous: &PodStatus,
    facts: &Facts,
    now: Timestamp,
) -> PodStatus {
    let Some(spec) = &pod.spec else { return previous.clone() };
    let now = whole_seconds(now);
    let view = View { pod, spec, ending, observed, previous, facts, now };
    let mut status = previous.clone();
    let ended = outcome(pod, observed, now);

    let init_statuses = view.container_statuses(inits(spec), &previous.init_container_statuses);
    let main_statuses = view.container_statuses(&spec.containers, &previous.container_statuses);
    let phase = view.phase(&init_statuses, &main_statuses, ended);
    status.conditions = Some(view.conditions(&init_statuses, &main_statuses, phase));
    status.phase = Some(phase.into());
    if ended == Some(Outcome::DeadlineExceeded) {
        status.reason = Some("DeadlineExceeded".into());
        status.message = Some("Pod was active on the node longer than the specified deadline".into());
    }
    // Somebody here ended it, and says why.
    let verdict = pod.status.as_ref().filter(|stored| stored.phase.as_deref() == Some(phase));
    if let Some(stored) = verdict.filter(|stored| phase == "Failed" && stored.reason.is_some()) {
        (status.reason, status.message) = (stored.reason.clone(), stored.message.clone());
    }
    if let Some(evicted) = &observed.evicted {
        evicted.mark(pod, &mut status, now);
    }
    if !view.was_refused() {
        status.init_container_statuses = (!init_statuses.is_empty()).then_some(init_statuses);
        status.container_statuses = Some(main_statuses);
        status.ephemeral_container_statuses = view.ephemeral_statuses();
    }
    cut_messages(&mut status);
    status.start_time = previous.start_time.clone().or(Some(Time(now)));
    status.observed_generation = pod.metadata.generation.or(previous.observed_generation);
    if status.qos_class.is_none() {
        status.qos_class = Some(qos(pod).as_str().into());
    }
    view.addresses(&mut status);
    status
}

/// Kubernetes' texts carry whole seconds; comparing with a status that came back from the API needs the same.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

struct View<'a> {
    pod: &'a Pod,
    spec: &'a PodSpec,
    ending: Ending,
    observed: &'a ObservedPod,
    previous: &'a PodStatus,
    facts: &'a Facts,
    now: Timestamp,
}

impl View<'_> {
    fn container_statuses(
        &self,
        containers: &[Container],
        previous: &Option<Vec<ContainerStatus>>,
    ) -> Vec<ContainerStatus> {
        let previous = previous.as_deref().unwrap_or_default();
        containers
            .iter()
            .map(|container| {
                let previous = previous.iter().find(|status| status.name == container.name);
                self.container_status(container, previous)
            })
            .collect()
    }

    /// Containers that look into the Pod: they count for nothing else in its status.
    fn ephemeral_statuses(&self) -> Option<Vec<ContainerStatus>> {
        let containers: Vec<Container> =
            self.spec.ephemeral_containers.iter().flatten().map(ephemeral_as_container).collect();
        let mut statuses = self.container_statuses(&containers, &self.previous.ephemeral_container_statuses);
        for status in &mut statuses {
            (status.ready, status.started) = (false, None);
            if let Some(waiting) = status.state.as_mut().and_then(|state| state.waiting.as_mut())
                && waiting.reason.as_deref() == Some("PodInitializing")
            {
                waiting.reason = Some("ContainerCreating".into());
            }
        }
        (!statuses.is_empty()).then_some(statuses)
    }

    fn container_status(&self, container: &Container, previous: Option<&ContainerStatus>) -> ContainerStatus {
        let records = self.observed.records(&container.name);
        let newest = records.first().copied();
        // A container that was made and not started has not happened as far as the status goes.
        let shown = records.iter().copied().find(|record| record.state != ContainerState::Created);
        let waiting = self.waiting(container, newest);
        let (state, last) = match (waiting, shown) {
            (Some(waiting), shown) => {
                (State { waiting: Some(waiting), ..State::default() }, shown.and_then(|r| self.terminated(r)))
            }
            (None, Some(record)) => {
                let last =
                    records.iter().copied().find(|older| older.id != record.id && older.exit().is_some());
                (self.state(record), last.and_then(|older| self.terminated(older)))
            }
            (None, None) if self.is_deleted() && is_initialized(self.spec, self.observed) => {
                (never_was(), previous.and_then(|p| p.last_state.as_ref()).and_then(|s| s.terminated.clone()))
            }
            (None, None) => (
                State { waiting: Some(reason(self.not_started_yet(), None)), ..State::default() },
                previous.and_then(|p| p.last_state.as_ref()).and_then(|s| s.terminated.clone()),
            ),
        };
        let running = state.running.is_some();
        let restart_count = shown.map_or_else(
            || previous.map_or(0, |previous| previous.restart_count),
            |record| i32::try_from(record.attempt).unwrap_or(i32::MAX),
        );
        let verdict = shown.map_or_else(Default::default, |record| self.observed.verdict(record));
        let is_init = inits(self.spec).iter().any(|init| init.name == container.name);
        let ready = if is_init && !is_sidecar(container) {
            state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0)
        } else {
            running && verdict.ready
        };
        ContainerStatus {
            name: container.name.clone(),
            image: shown
                .map(|record| record.image.clone())
                .filter(|image| !image.is_empty())
                .or_else(|| container.image.clone())
                .unwrap_or_default(),
            image_id: shown.map(|record| record.image_id.clone()).unwrap_or_default(),
            container_id: shown.map(|record| self.container_id(record)),
            started: Some(running && verdict.started),
            ready,
            restart_count,
            last_state: last.map(|ended| State { terminated: Some(ended), ..State::default() }),
            state: Some(state),
            resources: shown.map(|record| {
                let actual = self.observed.resizes.actual.get(&record.id);
                actual.or(container.resources.as_ref()).cloned().unwrap_or_default()
            }),
            allocated_resources: shown
                .and(container.resources.as_ref())
                .and_then(|resources| resources.requests.clone()),
            ..ContainerStatus::default()
        }
    }

    /// Why this container is not there yet; `None` when its newest record says all.
    fn waiting(
        &self,
        container: &Container,
        newest: Option<&ObservedContainer>,
    ) -> Option<ContainerStateWaiting> {
        if self.is_over() || newest.is_some_and(ObservedContainer::is_running) {
            return None;
        }
        let will_start = match newest.and_then(ObservedContainer::exit) {
            None => true,
            Some(exit) => {
                // An init container that did its work is done under every policy; a sidecar never is.
                let is_init = inits(self.spec).iter().any(|init| init.name == container.name);
                let is_done = is_init && !is_sidecar(container) && exit.code == 0;
                let is_ephemeral =
                    self.spec.ephemeral_containers.iter().flatten().any(|one| one.name == container.name);
                !is_done && !is_ephemeral && restarts(self.spec, container, exit.code)
            }
        };
        if !will_start {
            return None;
        }
        let exit = newest.and_then(ObservedContainer::exit);
        let held_back =
            exit.and_then(|exit| self.observed.backoffs.wait(&container.name, exit.finished_at, self.now));
        if let Some(failure) = self.observed.failures.get(&container.name)
            && (failure.reason != FailureReason::RunContainerError || held_back.is_none())
        {
            return Some(reason(failure.reason.word(), Some(failure.message.clone())));
        }
        let (_, delay) = held_back?;
        let message = format!(
            "back-off {} restarting failed container={} pod={}_{}({})",
            go_duration(delay.as_secs()),
            container.name,
            self.pod.metadata.name.as_deref().unwrap_or_default(),
            self.pod.metadata.namespace.as_deref().unwrap_or_default(),
            self.pod.metadata.uid.as_deref().unwrap_or_default(),
        );
        Some(reason("CrashLoopBackOff", Some(message)))
    }

    /// A Pod that this node did not take has no containers to tell of; kubectl would show them as being created.
    fn was_refused(&self) -> bool {
        let before = self.previous;
        before.phase.as_deref() == Some("Failed")
            && before.reason.is_some()
            && before.container_statuses.as_ref().is_none_or(Vec::is_empty)
            && self.observed.containers.is_empty()
    }

    fn is_over(&self) -> bool {
        self.ending == Ending::Deleted || outcome(self.pod, self.observed, self.now).is_some()
    }

    fn not_started_yet(&self) -> &'static str {
        if inits(self.spec).is_empty() || is_initialized(self.spec, self.observed) {
            "ContainerCreating"
        } else {
            "PodInitializing"
        }
    }

    fn state(&self, record: &ObservedContainer) -> State {
        match &record.state {
            ContainerState::Running { started_at } => State {
                running: Some(ContainerStateRunning { started_at: Some(Time(whole_seconds(*started_at))) }),
                ..State::default()
            },
            ContainerState::Exited(_) => State { terminated: self.terminated(record), ..State::default() },
            ContainerState::Created | ContainerState::Unknown => {
                State { waiting: Some(reason(self.not_started_yet(), None)), ..State::default() }
            }
        }
    }

    fn terminated(&self, record: &ObservedContainer) -> Option<ContainerStateTerminated> {
        let exit: &Exit = record.exit()?;
        let time = |time: Timestamp| (time != Timestamp::UNIX_EPOCH).then(|| Time(whole_seconds(time)));
        let word = match (exit.reason.as_str(), exit.code) {
            ("", 0) => "Completed",
            ("", _) => "Error",
            (word, _) => word,
        };
        Some(ContainerStateTerminated {
            container_id: Some(self.container_id(record)),
            exit_code: exit.code,
            reason: Some(word.into()),
            message: (!exit.message.is_empty())
                .then(|| exit.message.clone())
                .or_else(|| self.said_before(record)),
            started_at: exit.started_at.and_then(time),
            finished_at: time(exit.finished_at),
            signal: None,
        })
    }

    /// The last words as they were told: their file goes with the Pod's volumes.
    fn said_before(&self, record: &ObservedContainer) -> Option<String> {
        let id = self.container_id(record);
        let all = [&self.previous.container_statuses, &self.previous.init_container_statuses];
        let states =
            all.into_iter().flatten().flatten().flat_map(|status| [&status.state, &status.last_state]);
        let mut ended = states.flatten().filter_map(|state| state.terminated.as_ref());
        ended.find(|ended| ended.container_id.as_ref() == Some(&id))?.message.clone()
    }

    fn container_id(&self, record: &ObservedContainer) -> String {
        format!("{}://{}", self.facts.runtime_name, record.id)
    }

    fn phase(
        &self,
        inits_now: &[ContainerStatus],
        mains: &[ContainerStatus],
        ended: Option<Outcome>,
    ) -> &'static str {
        let all = || inits_now.iter().chain(mains);
        let any_alive = all().any(running) || self.any_alive();
        match ended {
            // The phase says that a Pod ended only when nothing of it runs any more.
            Some(Outcome::Succeeded) if !any_alive => return "Succeeded",
            Some(Outcome::Failed | Outcome::DeadlineExceeded | Outcome::Evicted) if !any_alive => {
                return "Failed";
            }
            _ => {}
        }
        // A phase once told is never taken back.
        match self.previous.phase.as_deref() {
            Some("Succeeded") => return "Succeeded",
            Some("Failed") => return "Failed",
            _ => {}
        }
        if self.is_deleted() {
            let ended_well =
                |status: &ContainerStatus| terminated(status).is_some_and(|end| end.exit_code == 0);
            // Whoever waits for the end of a Pod (a Job does) waits for one of these two, also if nothing of it ever ran.
            return if mains.iter().all(ended_well) { "Succeeded" } else { "Failed" };
        }
        let initialized = is_initialized(self.spec, self.observed);
        let began = |status: &ContainerStatus| {
            running(status)
                || terminated(status).is_some()
                || status.last_state.as_ref().is_some_and(|last| last.terminated.is_some())
        };
        let was_running = self.previous.phase.as_deref() == Some("Running");
        // A Pod whose sandbox is being made anew stays Running, as with a kubelet; one whose init containers have not
        // run stays Pending.
        if mains.iter().all(began) && (initialized || was_running || mains.iter().any(running)) {
            "Running"
        } else {
            "Pending"
        }
    }

    /// Deleted, and nothing of it is left to end.
    fn is_deleted(&self) -> bool {
        self.ending == Ending::Deleted && !self.any_alive()
    }

    fn any_alive(&self) -> bool {
        self.observed.containers.iter().any(|c| c.source == Source::Runtime && c.may_be_alive())
    }

    fn conditions(
        &self,
        inits_now: &[ContainerStatus],
        mains: &[ContainerStatus],
        phase: &'static str,
    ) -> Vec<PodCondition> {
        let previous = self.previous.conditions.as_deref().unwrap_or_default();
        let mut conditions = vec![
            self.ready_to_start(),
            self.initialized(inits_now, phase),
            self.readiness("Ready", inits_now, mains, phase),
            self.readiness("ContainersReady", inits_now, mains, phase),
        ];
        for condition in &mut conditions {
            let before = previous.iter().find(|p| p.type_ == condition.type_ && p.status == condition.status);
            condition.last_transition_time =
                before.and_then(|before| before.last_transition_time.clone()).or(Some(Time(self.now)));
            condition.observed_generation = self.pod.metadata.generation;
        }
        if !previous.iter().any(|p| p.type_ == "PodScheduled") {
            // It is here, so somebody placed it; a Pod created with its nodeName never met the scheduler.
            let mut placed = condition("PodScheduled", Verdict::True);
            placed.last_transition_time = Some(Time(self.now));
            placed.observed_generation = self.pod.metadata.generation;
            conditions.push(placed);
        }
        conditions.extend(self.resize());
        conditions.extend(previous.iter().filter(|p| !OURS.contains(&p.type_.as_str())).cloned());
        conditions
    }

    /// What keeps a changed size from being there. Its time is that of its reason.
    fn resize(&self) -> Vec<PodCondition> {
        let pending = self.observed.resizes.pending.as_ref();
        let pending = pending.map(|pending| (OURS[4], pending.reason, pending.message.as_str()));
        let progress = self.observed.resizes.progress.as_deref();
        let progress = progress.map(|error| (OURS[5], if error.is_empty() { "" } else { "Error" }, error));
        let previous = self.previous.conditions.as_deref().unwrap_or_default();
        let told = |(type_, reason, message): (&str, &str, &str)| {
            let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
            let before = previous.iter().find(|p| p.type_ == type_ && p.reason == some(reason));
            PodCondition {
                type_: type_.into(),
                status: "True".into(),
                reason: some(reason),
                message: some(message),
                last_transition_time: before
                    .and_then(|before| before.last_transition_time.clone())
                    .or(Some(Time(self.now))),
                observed_generation: self.pod.metadata.generation,
                ..PodCondition::default()
            }
        };
        pending.into_iter().chain(progress).map(told).collect()
    }

    fn ready_to_start(&self) -> PodCondition {
        let ready = self.observed.current_sandbox().is_some();
        condition(OURS[0], if ready { Verdict::True } else { Verdict::Bare })
    }

    fn initialized(&self, inits_now: &[ContainerStatus], phase: &str) -> PodCondition {
        if phase == "Succeeded" {
            return condition("Initialized", Verdict::TrueBecause("PodCompleted"));
        }
        if is_initialized(self.spec, self.observed) || (self.is_over() && phase != "Failed") {
            return condition("Initialized", Verdict::True);
        }
        let is_done = |(init, status): &(&Container, &ContainerStatus)| match is_sidecar(init) {
            true => status.started == Some(true),
            false => status.ready,
        };
        let missing: Vec<&str> = inits(self.spec)
            .iter()
            .zip(inits_now)
            .filter(|pair| !is_done(pair))
            .map(|(_, status)| status.name.as_str())
            .collect();
        if missing.is_empty() {
            return condition("Initialized", Verdict::True);
        }
        let message = format!("containers with incomplete status: [{}]", missing.join(" "));
        condition("Initialized", Verdict::False("ContainersNotInitialized", message))
    }

    fn readiness(
        &self,
        type_: &str,
        inits_now: &[ContainerStatus],
        mains: &[ContainerStatus],
        phase: &str,
    ) -> PodCondition {
        match phase {
            "Succeeded" => return condition(type_, Verdict::False("PodCompleted", String::new())),
            "Failed" => return condition(type_, Verdict::False("PodFailed", String::new())),
            _ => {}
        }
        let sidecars = inits(self.spec).iter().zip(inits_now).filter(|(init, _)| is_sidecar(init));
        let unready: Vec<&str> = sidecars
            .map(|(_, status)| status)
            .chain(mains)
            .filter(|status| !status.ready)
            .map(|status| status.name.as_str())
            .collect();
        if !unready.is_empty() {
            let message = format!("containers with unready status: [{}]", unready.join(" "));
            return condition(type_, Verdict::False("ContainersNotReady", message));
        }
        if type_ == "Ready"
            && let Some(message) = self.closed_gates()
        {
            return condition(type_, Verdict::False("ReadinessGatesNotReady", message));
        }
        condition(type_, Verdict::True)
    }

    /// The readiness gates that are not open, in Kubernetes' words.
    fn closed_gates(&self) -> Option<String> {
        let conditions = self.previous.conditions.as_deref().unwrap_or_default();
        let closed = |type_: &String| match conditions.iter().find(|condition| condition.type_ == *type_) {
            Some(condition) if condition.status == "True" => None,
            Some(PodCondition { status, .. }) => {
                Some(format!("the status of pod readiness gate \"{type_}\" is not \"True\", but {status}"))
            }
            None => {
                Some(format!("corresponding condition of pod readiness gate \"{type_}\" does not exist."))
            }
        };
        let gates = self.spec.readiness_gates.iter().flatten();
        let closed: Vec<String> = gates.filter_map(|gate| closed(&gate.condition_type)).collect();
        (!closed.is_empty()).then(|| closed.join(", "))
    }

    fn addresses(&self, status: &mut PodStatus) {
        if !self.facts.host_ips.is_empty() {
            let ips = self.facts.host_ips.iter();
            status.host_ip = self.facts.host_ips.first().map(ToString::to_string);
            status.host_ips = Some(ips.map(|ip| HostIP { ip: ip.to_string() }).collect());
        }
        let ips: Vec<String> = if self.spec.host_network == Some(true) {
            self.facts.host_ips.iter().map(ToString::to_string).collect()
        } else {
            self.observed
                .current_sandbox()
                .into_iter()
                .flat_map(|s| &s.ips)
                .map(ToString::to_string)
                .collect()
        };
        // Without a sandbox the last address stays until a new one takes its place: who looked it up finds why.
        if !ips.is_empty() {
            status.pod_ip = ips.first().cloned();
            status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
        }
    }
}

/// Bytes of all termination messages in a Pod's status.
const MAX_MESSAGES: usize = 12 * 1024;

/// Conditions that the node writes.
pub(super) const OURS: [&str; 6] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodResizePending",
    "PodResizeInProgress",
];

enum Verdict {
    True,
    TrueBecause(&'static str),
    Bare,
    False(&'static str, String),
}

fn condition(type_: &str, verdict: Verdict) -> PodCondition {
    let (status, reason, message) = match verdict {
        Verdict::True => ("True", None, None),
        Verdict::TrueBecause(reason) => ("True", Some(reason), None),
        Verdict::Bare => ("False", None, None),
        Verdict::False(reason, message) => ("False", Some(reason), Some(message).filter(|m| !m.is_empty())),
    };
    PodCondition {
        type_: type_.into(),
        status: status.into(),
        reason: reason.map(Into::into),
        message,
        ..PodCondition::default()
    }
}

fn reason(reason: &str, message: Option<String>) -> ContainerStateWaiting {
    ContainerStateWaiting { reason: Some(reason.into()), message }
}

/// All termination messages of a Pod together take no more than Kubernetes allows.
fn cut_messages(status: &mut PodStatus) {
    let lists = || {
        [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses]
    };
    let n: usize = lists().into_iter().flatten().map(Vec::len).sum();
    let most = MAX_MESSAGES.checked_div(n).unwrap_or(MAX_MESSAGES);
    let lists = [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    for status in lists.into_iter().flatten().flatten() {
        let states = [&mut status.state, &mut status.last_state].into_iter().flatten();
        for terminated in states.filter_map(|state| state.terminated.as_mut()) {
            if let Some(message) = &mut terminated.message {
                message.truncate(message.floor_char_boundary(most));
            }
        }
    }
}

fn running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref().and_then(|state| state.terminated.as_ref())
}

/// `10s`, `1m20s`, `5m0s`: as Go prints durations.
fn go_duration(secs: i64) -> String {
    if secs < 60 { format!("{secs}s") } else { format!("{}m{}s", secs / 60, secs % 60) }
}

/// The state of a container of which nothing was seen by the time its Pod ended.
fn never_was() -> State {
    let terminated = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some("there was no such container when the Pod ended".into()),
        ..ContainerStateTerminated::default()
    };
    State { terminated: Some(terminated), ..State::default() }
}

#[cfg(test)]
mod tests;
