//! One Pod's worker: look, report, plan, act, and again until there is nothing to do.
//!
//! Actions of one Pod come one after the other; pods go side by side. All memory that matters is in the store and in the
//! runtime, so that a kill at any line loses nothing. `mod.rs` starts one worker for each Pod and wakes it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodStatus};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use ke_wire::Uid;
use tokio::sync::{Notify, mpsc, watch};

use super::admission::Refusal;
use super::backoff::{Backoffs, later};
use super::container::{ephemeral_as_container, log_directory};
use super::cri::RuntimeError;
use super::devices::Admission;
use super::events::{Occurrence, Recorder, Severity};
use super::evicted::{Care, EVICTED, Eviction, Life};
use super::hands::{Failure, Hands, POST_START_FAILED};
use super::hooks::{Done, Undertaker};
use super::images::ImageNotice;
use super::inspector::Inspector;
use super::log_links;
use super::log_rotation;
use super::observed::{ObservedPod, StartFailure, Volumes};
use super::observer::{Listing, Observer};
use super::plan::{Action, Desired, DesiredPod, Stop, StopReason, inits, is_sidecar, outcome, plan};
use super::pod_key;
use super::probes::{Ground, ProbeCounts, Probes, Said};
use super::resize::{Resizer, Resizes, Room};
use super::resources::qos;
use super::sandbox::on_host_network;
use super::statics::{Arrival, Origin};
use super::status::{Ending, Facts, pod_status};
use super::told::{Told, newly_held_back};
use crate::report_queue::{Report, Reports};
use crate::static_pods::Seats;

/// What all workers share.
pub(super) struct Shared {
    pub(super) hands: Hands,
    pub(super) observer: Observer,
    pub(super) reports: Reports,
    pub(super) facts: watch::Receiver<Facts>,
    pub(super) probe_counts: ProbeCounts,
    pub(super) room: Room,
    /// Under which uid the cloud knows a static pod.
    pub(super) seats: watch::Receiver<Seats>,
}

/// What the worker hears from outside.
pub(super) struct Ears {
    /// What the store says; the newest only.
    pub(super) desired: watch::Receiver<DesiredPod>,
    /// Something in the runtime changed, or a file that the Pod uses.
    pub(super) wake: Arc<Notify>,
    /// What else is to be done about the Pod.
    pub(super) care: watch::Receiver<Care>,
    /// How far it is, told to whoever wants to know.
    pub(super) life: watch::Sender<Life>,
    /// A ConfigMap or Secret that the Pod uses changed. Full (one waits already): both are served by one look.
    pub(super) config_changed: mpsc::Receiver<()>,
}

pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) ears: Ears,
    pub(super) uid: String,
    pub(super) recorder: Recorder,
    pub(super) memory: Memory,
    pub(super) arrival: Arrival,
}

/// What this process remembers of the Pod. Losing it costs calls, never correctness.
#[derive(Default)]
pub(super) struct Memory {
    inspector: Inspector,
    probes: Probes,
    volumes: Volumes,
    refresh_at: Option<Timestamp>,
    /// Labels and annotations that the mounted files were written from, as a hash.
    written_from: u64,
    backoffs: Backoffs,
    failures: BTreeMap<String, StartFailure>,
    hold: Option<Timestamp>,
    n_failed: u32,
    stopping_since: Option<Timestamp>,
    cleaned: bool,
    gone_reported: bool,
    /// Whether the Pod has the devices that it asks for.
    pub(super) admission: Admission,
    pub(super) told: Told,
    /// Uid under which it was told last; a static pod's mirror may be made anew.
    told_as: Option<String>,
    pub(super) resizer: Resizer,
    /// Containers whose preStop hook has ended.
    hooks_done: Done,
    forgotten: bool,
    evicted: Option<Arc<Eviction>>,
    /// What the last step did.
    did: Option<Vec<Action>>,
}

/// What a step leads to.
enum Step {
    /// Something was done: look again at once.
    Again,
    /// Nothing to do until this time or a word from outside.
    Idle(Option<Timestamp>),
    /// The Pod is forgotten.
    Done,
}

/// A word from outside.
enum Heard {
    News,
    Probe(Said),
    ConfigChanged,
    Closed,
}

/// First and longest wait after an action that failed.
const FIRST_HOLD_SECS: i64 = 1;
const LONGEST_HOLD_SECS: i64 = 60;
/// What of a running Pod may change under files that are mounted: `downwardAPI` shows labels and annotations.
fn tags_of(pod: &Pod) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&pod.metadata.labels, &pod.metadata.annotations).hash(&mut hasher);
    hasher.finish()
}

/// How soon a runtime that is away is asked again by each Pod.
const AWAY: Duration = Duration::from_secs(2);
/// A token that could not be renewed is asked for again no more often than this.
const RENEW_SECS: i64 = 30;
impl Worker {
    /// Works until the Pod is forgotten. May be dropped at any await: the next start goes on from what is there.
    pub(super) async fn run(mut self) {
        if let Some(Refusal { reason, message }) = self.arrival.refusal.take() {
            self.say(Severity::Warning, &reason, message, None).await;
        }
        loop {
            let until = match self.step().await {
                Ok(Step::Again) => continue,
                Ok(Step::Done) => return,
                Ok(Step::Idle(until)) => {
                    tracing::debug!(pod = %self.uid, "nothing to do for a pod now");
                    until.map(wait_for)
                }
                // The observer has said it. What was reported stays: nothing is known that would change it.
                Err(_) => Some(AWAY),
            };
            let until = until.map(|wait| tokio::time::Instant::now() + wait);
            loop {
                match self.hear(until).await {
                    Heard::News => break,
                    // A probe that fails changes nothing by itself: no look at the runtime for it.
                    Heard::Probe(said) => self.say_probe(said).await,
                    Heard::ConfigChanged => {
                        self.on_config_changed();
                        break;
                    }
                    Heard::Closed => return,
                }
            }
        }
    }

    async fn hear(&mut self, until: Option<tokio::time::Instant>) -> Heard {
        let sleep = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.ears.desired.changed() => {
                if changed.is_err() {
                    return Heard::Closed;
                }
                // What the cloud says now may be worth a try at once.
                self.memory.hold = None;
                Heard::News
            }
            Ok(()) = self.ears.care.changed() => Heard::News,
            () = self.ears.wake.notified() => Heard::News,
            Some(()) = self.ears.config_changed.recv() => Heard::ConfigChanged,
            said = self.memory.probes.said() => Heard::Probe(said),
            () = sleep => Heard::News,
        }
    }

    /// Mounted files are renewed at once, and containers that waited for them are tried again.
    fn on_config_changed(&mut self) {
        if self.memory.volumes == Volumes::Ready {
            self.memory.volumes = Volumes::Unknown;
        }
        self.memory.hold = None;
        for failure in self.memory.failures.values_mut().filter(|f| f.reason == "CreateContainerConfigError")
        {
            failure.retry_at = Timestamp::UNIX_EPOCH;
        }
    }

    async fn step(&mut self) -> Result<Step, RuntimeError> {
        let desired = self.ears.desired.borrow_and_update().clone();
        self.on_care(&desired).await;
        let desired = self.granted(desired).await;
        if let Some(pod) = desired.pod() {
            self.memory.backoffs.forget_changed(|name| image_of(pod, name));
        }
        let listings = self.shared.observer.look().await?;
        let listing = listings.get(&self.uid).cloned().unwrap_or_default();
        let now = Timestamp::now();
        let is_old = desired.pod().is_some_and(|pod| tags_of(pod) != self.memory.written_from)
            || self.memory.refresh_at.is_some_and(|at| at <= now);
        if is_old && self.memory.volumes == Volumes::Ready {
            self.memory.volumes = Volumes::Unknown;
        }
        let observed = self.observe(&desired, &listing).await?;
        let desired = self.admitted(desired, &observed).await;
        while let Some(said) = self.memory.probes.said_already() {
            self.say_probe(said).await;
        }
        self.report(&desired, &observed, now).await;
        let actions = plan(&desired, &observed, now);
        self.tell_life(&desired, &observed, actions.is_empty(), now);
        let planned = actions.clone();
        let resize_at = self.memory.resizer.look_again(now);
        let mut until =
            [self.memory.refresh_at, self.memory.told.correct_at, resize_at].into_iter().flatten().min();
        let mut acted = false;
        for action in actions {
            if let Action::Wait { until: at } = action {
                until = Some(until.map_or(at, |until| until.min(at)));
                continue;
            }
            acted = true;
            if !self.interruptible(&desired, &observed, &action).await {
                break;
            }
            if self.memory.forgotten {
                self.shared.hands.images.forget_pod(&self.uid);
                self.shared.probe_counts.forget(&self.uid);
                return Ok(Step::Done);
            }
        }
        // What was done had no effect that can be seen: not again at once.
        let is_same = acted && self.memory.did.as_ref() == Some(&planned);
        self.memory.did = acted.then_some(planned);
        Ok(match (acted, is_same) {
            (true, true) => Step::Idle(Some(later(now, SignedDuration::from_secs(FIRST_HOLD_SECS)))),
            (true, false) => Step::Again,
            (false, _) => Step::Idle(until),
        })
    }

    /// Carries out one action; a Pod that is deleted meanwhile, or is to end sooner, does not wait for it.
    /// False: plan anew.
    async fn interruptible(&mut self, desired: &DesiredPod, observed: &ObservedPod, action: &Action) -> bool {
        let mut newer = self.ears.desired.clone();
        let mut care = self.ears.care.clone();
        let is_evicted = observed.evicted.is_some();
        let hurry = async {
            loop {
                tokio::select! {
                    Ok(()) = newer.changed() => {
                        if is_more_urgent(desired, &newer.borrow()) {
                            return;
                        }
                    }
                    Ok(()) = care.changed() => {
                        if !is_evicted && care.borrow().evicted.is_some() {
                            return;
                        }
                    }
                    else => std::future::pending().await,
                }
            }
        };
        tokio::select! {
            done = self.perform(desired, observed, action) => done,
            () = hurry => false,
        }
    }

    /// An eviction that was decided, now or by an earlier life of this process.
    async fn on_care(&mut self, desired: &DesiredPod) {
        if self.memory.evicted.is_some() {
            return;
        }
        let decided = self.ears.care.borrow_and_update().evicted.clone();
        if let Some(eviction) = decided {
            self.memory.hold = None;
            self.memory.evicted = Some(eviction.clone());
            self.say(Severity::Warning, EVICTED, eviction.message.clone(), None).await;
        } else {
            let stored = desired.pod().and_then(|pod| pod.status.as_ref());
            self.memory.evicted = stored.and_then(Eviction::recall);
        }
    }

    fn tell_life(&self, desired: &DesiredPod, observed: &ObservedPod, is_idle: bool, now: Timestamp) {
        let is_alive = observed.containers.iter().any(|container| container.may_be_alive());
        let life = match &desired.want {
            Desired::Run(pod) if outcome(pod, observed, now).is_none() => Life::Active,
            Desired::Run(_) if is_idle => Life::Over,
            Desired::Run(_) => Life::Ending,
            Desired::Terminate(_) | Desired::Removed(_) if is_alive => Life::Active,
            Desired::Terminate(_) | Desired::Removed(_) => Life::Over,
        };
        self.ears.life.send_if_modified(|known| std::mem::replace(known, life) != life);
    }

    // ---- seeing

    async fn observe(
        &mut self,
        desired: &DesiredPod,
        listing: &Listing,
    ) -> Result<ObservedPod, RuntimeError> {
        let needs_address = desired.pod().is_none_or(|pod| !on_host_network(pod));
        let runtime = &*self.shared.hands.runtime;
        let (sandboxes, containers) = self.memory.inspector.inspect(runtime, listing, needs_address).await?;
        let none = PodStatus::default();
        let stored = desired.pod().and_then(|pod| pod.status.as_ref()).unwrap_or(&none);
        let started_at = self.memory.told.last(stored).start_time.as_ref().map(|time| time.0);
        let mut observed = ObservedPod {
            sandboxes,
            containers,
            volumes: self.memory.volumes,
            backoffs: self.memory.backoffs.clone(),
            failures: self.memory.failures.clone(),
            hold: self.memory.hold,
            stopping_since: self.memory.stopping_since,
            started_at,
            probes: BTreeMap::new(),
            resizes: Resizes::default(),
            cleaned: self.memory.cleaned,
            gone_reported: self.memory.gone_reported,
            evicted: self.memory.evicted.clone(),
            strip: false,
        };
        if let Some(pod) = desired.pod() {
            let told = self.memory.told.last(stored);
            // Its ends must have been told before what shows them goes.
            let has_ended = matches!(told.phase.as_deref(), Some("Succeeded" | "Failed"));
            observed.strip = has_ended && (observed.evicted.is_some() || self.ears.care.borrow().strip);
            if observed.strip {
                observed.recall_status(told);
            }
            observed.recall(pod);
            self.probe(desired, pod, &observed);
            observed.probes = self.memory.probes.verdicts();
            if let Desired::Run(pod) = &desired.want {
                let previous = self.memory.told.last(stored);
                let (resizes, word) = self.memory.resizer.look(pod, &observed, listing, previous);
                observed.resizes = resizes;
                self.say_resize(word).await;
                if outcome(pod, &observed, Timestamp::now()).is_some() {
                    self.shared.room.leave(&self.uid);
                }
            }
        }
        Ok(observed)
    }

    /// What runs and has probes is watched from here on, what ended no more.
    fn probe(&mut self, desired: &DesiredPod, pod: &Pod, observed: &ObservedPod) {
        let none = PodStatus::default();
        let previous = self.memory.told.last(pod.status.as_ref().unwrap_or(&none));
        let is_ending =
            !matches!(desired.want, Desired::Run(_)) || outcome(pod, observed, Timestamp::now()).is_some();
        let address = self.address(Some(pod));
        let ground = Ground {
            runtime: &self.shared.hands.runtime,
            wake: &self.ears.wake,
            counts: &self.shared.probe_counts,
            address,
        };
        self.memory.probes.sync(pod, is_ending, observed, previous, &ground);
    }

    /// Where the Pod is reached; empty while it has no address.
    fn address(&self, pod: Option<&Pod>) -> String {
        if pod.is_some_and(on_host_network) {
            let facts = self.shared.facts.borrow();
            return facts.host_ips.first().map_or("127.0.0.1".into(), ToString::to_string);
        }
        self.memory.inspector.addresses().first().map_or(String::new(), ToString::to_string)
    }

    // ---- telling

    async fn report(&mut self, desired: &DesiredPod, observed: &ObservedPod, now: Timestamp) {
        let (pod, ending) = match &desired.want {
            Desired::Run(pod) => (pod, Ending::No),
            // After the last word to the cloud there is nothing to add.
            Desired::Terminate(_) if self.memory.gone_reported || self.memory.cleaned => return,
            Desired::Terminate(pod) => (pod, Ending::Deleted),
            Desired::Removed(_) => return,
        };
        let stored = pod.status.clone().unwrap_or_default();
        let previous = self.memory.told.previous(&stored);
        let mut status =
            pod_status(pod, ending, observed, &previous, &self.shared.facts.borrow().clone(), now);
        self.tell_device_health(&mut status);
        let told_as = self.told_as(pod);
        let is_known_there = self.arrival.origin == Origin::Cloud || self.memory.told_as == told_as;
        if !self.memory.told.is_news(&status, &stored, now) && is_known_there {
            return self.arrival.note(&status);
        }
        let meta = &pod.metadata;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let Some(told_as) = told_as else {
            // A static pod without a mirror: nobody to tell, and all of it when there is.
            self.memory.told_as = None;
            self.arrival.note(&status);
            return self.memory.told.told(status, now);
        };
        let (Ok(namespace), Ok(name), Ok(uid)) =
            (text(&meta.namespace).parse(), text(&meta.name).parse(), told_as.parse::<Uid>())
        else {
            return;
        };
        let held_back = newly_held_back(self.memory.told.last(&stored), &status);
        for container in held_back {
            let message =
                format!("Back-off restarting failed container {container} in pod {name}_{namespace}({uid})");
            self.say(Severity::Warning, "BackOff", message, Some(&container)).await;
        }
        match serde_json::to_vec(&status) {
            Ok(body) => {
                self.shared
                    .reports
                    .send(Report::PodStatus { namespace, name, uid, status: body.into() })
                    .await;
                // Behind it: who ends pods with the machine waits for this.
                self.arrival.note(&status);
                self.memory.told.told(status, now);
                self.memory.told_as = Some(told_as);
            }
            Err(error) => tracing::error!(pod = %self.uid, %error, "a pod status cannot be written as JSON"),
        }
    }

    /// The uid that the cloud knows this Pod by.
    fn told_as(&self, pod: &Pod) -> Option<String> {
        let uid = pod.metadata.uid.clone()?;
        match self.arrival.origin {
            Origin::Cloud => Some(uid),
            Origin::File => {
                let seats = self.shared.seats.borrow();
                seats.mirror_of(&pod_key(pod)?, &uid)?.metadata.uid.clone()
            }
        }
    }

    pub(super) async fn say(
        &mut self,
        severity: Severity,
        reason: &str,
        message: String,
        container: Option<&str>,
    ) {
        let desired = self.ears.desired.borrow().clone();
        let field = container.map(|name| field_path(desired.pod(), name));
        let occurrence = Occurrence { severity, reason: reason.into(), message, field };
        if let Some(report) = self.recorder.report(&occurrence, Timestamp::now()) {
            self.shared.reports.send(report).await;
        }
    }

    async fn say_probe(&mut self, said: Said) {
        self.say(Severity::Warning, said.reason, said.message, Some(&said.container)).await;
    }

    // ---- doing

    /// False: the rest of the list rests on something that did not happen.
    async fn perform(&mut self, desired: &DesiredPod, observed: &ObservedPod, action: &Action) -> bool {
        let shared = self.shared.clone();
        let runtime = &shared.hands.runtime;
        let result = match action {
            Action::PrepareVolumes => self.prepare_volumes(desired).await,
            Action::CreateSandbox { attempt } => self.create_sandbox(desired, observed, *attempt).await,
            Action::StartContainer { name, sandbox, attempt, ended } => {
                let start = (name.as_str(), sandbox.as_str(), *attempt, *ended);
                return self.start_container(desired, observed, start).await;
            }
            Action::Resize => {
                self.resize(desired, observed).await;
                return true;
            }
            Action::StopContainers(stops) => self.stop_containers(desired, stops).await,
            Action::StopSandbox { id } => runtime
                .stop_sandbox(id)
                .await
                .map_err(|e| Failure::of("FailedKillPod", "error killing pod", e)),
            Action::RemoveSandbox { id } => {
                let removed = runtime.remove_sandbox(id).await;
                removed.map_err(|e| Failure::of("FailedKillPod", "error removing sandbox", e))
            }
            Action::RemoveContainer { id } => self.remove_container(id).await,
            Action::TearDownVolumes => {
                let torn_down = shared.hands.files.tear_down(&self.uid).await;
                self.memory.volumes = Volumes::Gone;
                self.memory.refresh_at = None;
                torn_down.map_err(|error| {
                    self.memory.volumes = Volumes::Unknown;
                    Failure::new("FailedUnMount", error.to_string())
                })
            }
            Action::RemoveCgroup => self.remove_rest(desired).await,
            Action::ReportGone => {
                self.report_gone(desired).await;
                Ok(())
            }
            Action::Forget => {
                self.memory.forgotten = true;
                Ok(())
            }
            Action::Wait { .. } => Ok(()),
        };
        match result {
            Ok(()) => {
                self.memory.n_failed = 0;
                true
            }
            Err(failure) => {
                self.on_failure(failure).await;
                false
            }
        }
    }

    /// A failed action that concerns the whole Pod: told, then tried again later.
    pub(super) async fn on_failure(&mut self, failure: Failure) {
        let doubled = FIRST_HOLD_SECS.checked_shl(self.memory.n_failed.min(16)).unwrap_or(LONGEST_HOLD_SECS);
        let wait = SignedDuration::from_secs(doubled.clamp(FIRST_HOLD_SECS, LONGEST_HOLD_SECS));
        self.memory.n_failed = self.memory.n_failed.saturating_add(1);
        self.memory.hold = Some(later(Timestamp::now(), wait));
        if !failure.runtime_away {
            tracing::warn!(pod = %self.uid, reason = failure.reason, error = %failure.message, "an action on a pod failed and is tried again");
            self.say(Severity::Warning, failure.reason, failure.message, None).await;
        }
    }

    async fn prepare_volumes(&mut self, desired: &DesiredPod) -> Result<(), Failure> {
        let Some(pod) = desired.pod() else { return Ok(()) };
        let host_ips = self.shared.facts.borrow().host_ips.clone();
        let facts = self.shared.hands.pod_facts(pod, &host_ips, &self.memory.inspector.addresses());
        match self.shared.hands.files.prepare(pod, &facts).await {
            Ok(renew_at) => {
                // A time that has passed: the cloud is away, and is asked again at leisure.
                let soonest = later(Timestamp::now(), SignedDuration::from_secs(RENEW_SECS));
                self.memory.refresh_at = renew_at.map(|at| at.max(soonest));
                self.memory.written_from = tags_of(pod);
                self.memory.volumes = Volumes::Ready;
                Ok(())
            }
            Err(error) => Err(Failure::new("FailedMount", error.to_string())),
        }
    }

    async fn create_sandbox(
        &mut self,
        desired: &DesiredPod,
        observed: &ObservedPod,
        attempt: u32,
    ) -> Result<(), Failure> {
        let Some(pod) = desired.pod() else { return Ok(()) };
        if !observed.sandboxes.is_empty() {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            self.say(Severity::Normal, "SandboxChanged", message, None).await;
        }
        let warnings = self.shared.hands.create_sandbox(pod, attempt).await?;
        for (reason, message) in warnings {
            self.say(Severity::Warning, reason, message, None).await;
        }
        Ok(())
    }

    /// A container that cannot start holds up no other one: its failure is its own. Always goes on.
    async fn start_container(
        &mut self,
        desired: &DesiredPod,
        observed: &ObservedPod,
        (name, sandbox, attempt, ended): (&str, &str, u32, Option<Timestamp>),
    ) -> bool {
        let Some((pod, container)) = desired.pod().and_then(|pod| Some((pod, find_container(pod, name)?)))
        else {
            return true;
        };
        let seen = observed.sandboxes.iter().find(|s| s.id == sandbox);
        let (sandbox_attempt, ips) = seen.map_or((0, Vec::new()), |s| (s.attempt, s.ips.clone()));
        let host_ips = self.shared.facts.borrow().host_ips.clone();
        let mut facts = self.shared.hands.pod_facts(pod, &host_ips, &ips);
        facts.service_env = self.shared.hands.service_env(pod).await;
        if let Some(ended) = ended {
            let image = container.image.as_deref().unwrap_or_default();
            self.memory.backoffs.restarted(name, image, ended, Timestamp::now());
        }
        let result = {
            // Unbounded is bounded here: one start says a handful of sentences.
            let (said, mut heard) = mpsc::unbounded_channel();
            let tell = move |notice: ImageNotice| {
                let _ = said.send(notice);
            };
            let shared = self.shared.clone();
            // Whose processes an ephemeral container sees.
            let target = ephemeral(pod, name).and_then(|one| one.target_container_name.as_deref());
            let target = target.and_then(|target| observed.newest(target)).filter(|c| c.is_running());
            let start = shared.hands.start_container(
                pod,
                (&container, target.map(|target| target.id.as_str())),
                (sandbox, sandbox_attempt),
                &facts,
                attempt,
                &tell,
            );
            tokio::pin!(start);
            let result = loop {
                tokio::select! {
                    biased;
                    Some(notice) = heard.recv() => self.say_notice(notice, name).await,
                    result = &mut start => break result,
                }
            };
            while let Ok(notice) = heard.try_recv() {
                self.say_notice(notice, name).await;
            }
            result
        };
        match result {
            Ok(()) => {
                self.memory.failures.remove(name);
            }
            Err(failure) => self.on_start_failure(name, failure).await,
        }
        true
    }

    async fn say_notice(&mut self, notice: ImageNotice, name: &str) {
        let severity = if notice.warning { Severity::Warning } else { Severity::Normal };
        self.say(severity, notice.reason, notice.message, Some(name)).await;
    }

    async fn on_start_failure(&mut self, name: &str, failure: Failure) {
        if failure.runtime_away {
            self.memory.hold = Some(later(Timestamp::now(), SignedDuration::from_secs(FIRST_HOLD_SECS)));
            return;
        }
        let times = self.memory.failures.get(name).map_or(0, |before| before.times).saturating_add(1);
        let doublings = times.saturating_sub(1).min(16);
        let secs = match failure.reason {
            // Images keep their own back-off and answer at once while it lasts.
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName"
            | "ImageInspectError" => 10,
            // Mostly a ConfigMap that is still on its way.
            "CreateContainerConfigError" => 1_i64.checked_shl(doublings).unwrap_or(30).clamp(1, 30),
            _ => 10_i64.checked_shl(doublings).unwrap_or(300).clamp(10, 300),
        };
        let retry_at = later(Timestamp::now(), SignedDuration::from_secs(secs));
        if failure.reason == POST_START_FAILED {
            // It was told, and the container has ended: its next start waits as after any crash.
            return;
        }
        let reason = failure.reason.to_owned();
        // The kubelet's event says `Failed`; the exact word stands in the status. Back-off was said by the images.
        if !matches!(failure.reason, "ImagePullBackOff" | "ErrImageNeverPull") {
            self.say(Severity::Warning, "Failed", format!("Error: {}", failure.message), Some(name)).await;
        }
        let failure = StartFailure { reason, message: failure.message, retry_at, times };
        self.memory.failures.insert(name.to_owned(), failure);
    }

    async fn stop_containers(&mut self, desired: &DesiredPod, stops: &[Stop]) -> Result<(), Failure> {
        self.memory.stopping_since = match stops.first().map(|stop| stop.reason) {
            Some(StopReason::PodEnds) => self.memory.stopping_since.or(Some(Timestamp::now())),
            _ => self.memory.stopping_since,
        };
        if desired.pod().is_some() {
            for stop in stops {
                let message = killing(desired, stop);
                self.say(Severity::Normal, "Killing", message, Some(&stop.name)).await;
            }
        }
        let address = self.address(desired.pod().map(Arc::as_ref));
        let undertaker = Undertaker {
            runtime: self.shared.hands.runtime.clone(),
            pod: desired.pod().cloned(),
            address,
            say: self.memory.probes.voice(),
            done: self.memory.hooks_done.clone(),
        };
        let results = self.meanwhile(desired, undertaker.stop_all(stops.to_vec())).await;
        // What hooks had to say.
        while let Some(said) = self.memory.probes.said_already() {
            self.say_probe(said).await;
        }
        let failed = results.into_iter().find_map(Result::err);
        failed.map_or(Ok(()), |error| Err(Failure::of("FailedKillPod", "error killing container", error)))
    }

    /// Awaits something that may take a grace period, and tells what the Pod does until then: it may lose its readiness.
    async fn meanwhile<T>(&mut self, desired: &DesiredPod, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let wake = self.ears.wake.clone();
        loop {
            let said = tokio::select! {
                biased;
                done = &mut work => return done,
                said = self.memory.probes.said() => Some(said),
                () = wake.notified() => None,
            };
            if let Some(said) = said {
                self.say_probe(said).await;
            } else if let Ok(listings) = self.shared.observer.look().await {
                let listing = listings.get(&self.uid).cloned().unwrap_or_default();
                if let Ok(observed) = self.observe(desired, &listing).await {
                    self.report(desired, &observed, Timestamp::now()).await;
                }
            }
        }
    }

    async fn remove_container(&mut self, id: &str) -> Result<(), Failure> {
        let removed = self.shared.hands.runtime.remove_container(id).await;
        removed.map_err(|e| Failure::of("FailedKillPod", "error removing container", e))?;
        self.memory.hooks_done.forget(id);
        let log = self.memory.inspector.removed(id);
        // Only below our own directory: the path comes from the runtime.
        if std::path::Path::new(&log).starts_with(&self.shared.hands.settings.pod_logs_root) {
            log_rotation::remove(std::path::Path::new(&log));
            log_links::remove(&self.shared.hands.settings.pod_logs_root, std::path::Path::new(&log));
        }
        Ok(())
    }

    /// Cgroup and logs of a Pod of which nothing runs.
    async fn remove_rest(&mut self, desired: &DesiredPod) -> Result<(), Failure> {
        let hands = &self.shared.hands;
        if let Some(pod) = desired.pod() {
            if let Some(cgroups) = &hands.cgroups {
                let removed = cgroups.remove_pod(qos(pod), &self.uid);
                removed.map_err(|error| Failure::new("FailedKillPod", error.to_string()))?;
            }
            let logs = log_directory(&hands.settings.pod_logs_root, pod);
            let _ = tokio::fs::remove_dir_all(&logs).await;
            log_links::remove(&hands.settings.pod_logs_root, std::path::Path::new(&logs));
        } else if let Some(cgroups) = &hands.cgroups {
            for (class, uid) in cgroups.pods().into_iter().filter(|(_, uid)| *uid == self.uid) {
                let removed = cgroups.remove_pod(class, &uid);
                removed.map_err(|error| Failure::new("FailedKillPod", error.to_string()))?;
            }
        }
        self.release_devices().await?;
        self.memory.cleaned = true;
        Ok(())
    }

    async fn report_gone(&mut self, desired: &DesiredPod) {
        let Some(pod) = desired.pod() else { return };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let meta = &pod.metadata;
        if let (Ok(namespace), Ok(name), Ok(uid)) =
            (text(&meta.namespace).parse(), text(&meta.name).parse(), text(&meta.uid).parse())
        {
            self.shared.reports.send(Report::PodGone { namespace, name, uid }).await;
        }
        self.memory.gone_reported = true;
    }
}

/// Whether what is wanted now cannot wait for an action that was right for `before`.
fn is_more_urgent(before: &DesiredPod, now: &DesiredPod) -> bool {
    let is_run = |desired: &DesiredPod| match &desired.want {
        // Ended by its node: nothing of it is started any more.
        Desired::Run(pod) => {
            pod.status.as_ref().is_none_or(|status| status.phase.as_deref() != Some("Failed"))
        }
        Desired::Terminate(_) | Desired::Removed(_) => false,
    };
    match (is_run(before), is_run(now)) {
        (true, false) => true,
        (false, false) => now.grace_secs() < before.grace_secs(),
        (_, true) => false,
    }
}

/// Kubernetes' words for why a container is ended.
fn killing(desired: &DesiredPod, stop: &Stop) -> String {
    let name = &stop.name;
    let spec = desired.pod().and_then(|pod| pod.spec.as_ref());
    let is_sidecar = spec.is_some_and(|spec| inits(spec).iter().any(|c| c.name == *name && is_sidecar(c)));
    match stop.reason {
        StopReason::PodEnds | StopReason::Lost => format!("Stopping container {name}"),
        StopReason::SpecChanged => format!("Container {name} definition changed, will be restarted"),
        StopReason::SandboxChanged => format!("Stopping container {name}: its sandbox changed"),
        StopReason::Resized => format!("Container {name} resize requires restart"),
        StopReason::HookFailed => "FailedPostStartHook".into(),
        StopReason::Unwell { probe, restarts } => {
            let probe = probe.as_str().to_lowercase();
            match (is_sidecar, restarts) {
                (true, _) => format!("Init container {name} failed {probe} probe"),
                (false, true) => format!("Container {name} failed {probe} probe, will be restarted"),
                (false, false) => format!("Container {name} failed {probe} probe"),
            }
        }
    }
}

fn wait_for(until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(Timestamp::now()))
        .unwrap_or(Duration::ZERO)
        .max(Duration::from_millis(5))
}

fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    let spec = pod.spec.as_ref()?;
    let mut all = inits(spec).iter().chain(&spec.containers);
    if let Some(container) = all.find(|container| container.name == name) {
        return Some(Cow::Borrowed(container));
    }
    ephemeral(pod, name).map(|ephemeral| Cow::Owned(ephemeral_as_container(ephemeral)))
}

/// Of a container that may be started more than once.
fn image_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let mut all = inits(spec).iter().chain(&spec.containers);
    all.find(|container| container.name == name)?.image.as_deref()
}

fn ephemeral<'a>(pod: &'a Pod, name: &str) -> Option<&'a EphemeralContainer> {
    let spec = pod.spec.as_ref()?;
    spec.ephemeral_containers.iter().flatten().find(|ephemeral| ephemeral.name == name)
}

fn field_path(pod: Option<&Arc<Pod>>, name: &str) -> String {
    let is_init = pod
        .and_then(|pod| pod.spec.as_ref())
        .is_some_and(|spec| inits(spec).iter().any(|init| init.name == name));
    let is_ephemeral = pod.is_some_and(|pod| ephemeral(pod, name).is_some());
    let list = match (is_init, is_ephemeral) {
        (true, _) => "initContainers",
        (false, true) => "ephemeralContainers",
        (false, false) => "containers",
    };
    format!("spec.{list}{{{name}}}")
}
