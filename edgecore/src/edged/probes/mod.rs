//! Startup, liveness and readiness probes of one Pod's containers.
//!
//! [`Probes`] keeps a task for each running container that has probes; `schedule.rs` says when what is asked and what the
//! answers add up to, `target.rs` what is asked, `run.rs` asks. It kills nothing and reports nothing: `plan.rs` and
//! `status.rs` read the verdicts, `worker/telling.rs` tells the events. Nothing here needs the cloud. Results live in this
//! process; after a start, what the stored status says of the same container is believed until a probe says otherwise.

mod counts;
mod grpc;
mod http;
mod probed;
mod run;
pub mod schedule;
pub mod target;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use self::counts::Counted;
pub use self::counts::ProbeCounts;
pub(super) use self::http::{HttpError, get};
use self::probed::Probed;
use self::run::run;
use self::schedule::{ContainerProbes, Found};
pub use self::target::HttpTarget;
use self::target::Target;
use super::cri::Runtime;
use super::observed::{ContainerState, ObservedPod};
use super::pod_spec::{inits, is_sidecar};
use super::verdict::{Kind, Seed, Verdict};

/// Something to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Reason of the event, a warning.
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The container's name.
    pub(super) container: String,
}

/// What probing needs of its surroundings.
pub(super) struct Ground<'a> {
    pub(super) runtime: &'a Arc<dyn Runtime>,
    /// Rung when a verdict changes.
    pub(super) wake: &'a Arc<Notify>,
    pub(super) counts: &'a ProbeCounts,
    /// The Pod's address; empty while it has none.
    pub(super) address: String,
}

/// The probes of one Pod.
pub(super) struct Probes {
    watched: BTreeMap<String, Watched>,
    say: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
}

struct Watched {
    verdict: watch::Receiver<Verdict>,
    facts: watch::Sender<Facts>,
    task: JoinHandle<()>,
}

/// What may change while a container is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    address: String,
    is_ending: bool,
}

impl Default for Probes {
    fn default() -> Self {
        // Full: a probe's words are left out. A worker that does not listen for sixteen failures is at work on this very
        // Pod, and the next failure says the same.
        let (say, said) = mpsc::channel(16);
        Self { watched: BTreeMap::new(), say, said }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probes {
    /// Watches what runs of this Pod and has probes, and nothing else. `previous` is the status told or stored last.
    pub(super) fn sync(
        &mut self,
        pod: &Pod,
        is_ending: bool,
        observed: &ObservedPod,
        previous: &PodStatus,
        ground: &Ground<'_>,
    ) {
        let Some(spec) = &pod.spec else { return };
        let sidecars = inits(spec).iter().filter(|init| is_sidecar(init));
        let mut running = Vec::new();
        for container in spec.containers.iter().chain(sidecars) {
            if let Some(record) = observed.newest(&container.name)
                && let ContainerState::Running { started_at } = record.state
            {
                running.push(record.id.as_str());
                let facts = Facts { address: ground.address.clone(), is_ending };
                match self.watched.get(&record.id) {
                    Some(watched) => {
                        watched.facts.send_if_modified(|known| {
                            let changed = *known != facts;
                            *known = facts;
                            changed
                        });
                    }
                    None => {
                        let age = Timestamp::now().duration_since(started_at);
                        let age = Duration::try_from(age).unwrap_or(Duration::ZERO);
                        let seed = seed(previous, &container.name, &record.id);
                        let phase = record.id.bytes().fold(0_u8, |sum, byte| sum.wrapping_mul(31) ^ byte);
                        let core =
                            ContainerProbes::new(container, age, seed, phase, Instant::now().into_std());
                        if let Some(core) = core {
                            let watched = self.watch(pod, container, &record.id, core, facts, ground);
                            self.watched.insert(record.id.clone(), watched);
                        }
                    }
                }
            }
        }
        self.watched.retain(|id, _| running.contains(&id.as_str()));
    }

    /// What is known now, by the container's id. One that is not in it has no probes, or does not run.
    pub(super) fn verdicts(&self) -> BTreeMap<String, Verdict> {
        self.watched.iter().map(|(id, watched)| (id.clone(), *watched.verdict.borrow())).collect()
    }

    /// For who else has something to tell about containers, as a warning.
    pub(super) fn voice(&self) -> mpsc::Sender<Said> {
        self.say.clone()
    }

    /// What is to be told already: before anything follows from it.
    pub(super) fn said_already(&mut self) -> Option<Said> {
        self.said.try_recv().ok()
    }

    /// The next thing to tell. Never ends.
    pub(super) async fn said(&mut self) -> Said {
        match self.said.recv().await {
            Some(said) => said,
            // Cannot be: the other end is our own.
            None => std::future::pending().await,
        }
    }

    fn watch(
        &self,
        pod: &Pod,
        container: &Container,
        id: &str,
        core: ContainerProbes,
        facts: Facts,
        ground: &Ground<'_>,
    ) -> Watched {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (facts, heard) = watch::channel(facts);
        let (verdict, seen) = watch::channel(core.verdict());
        let driver = Driver {
            core,
            facts: heard,
            verdict,
            wake: ground.wake.clone(),
            say: self.say.clone(),
            counts: ground.counts.clone(),
            runtime: ground.runtime.clone(),
            container: Arc::new(container.clone()),
            id: id.into(),
            pod_uid: text(&pod.metadata.uid),
            namespace: text(&pod.metadata.namespace),
            pod: text(&pod.metadata.name),
        };
        Watched { verdict: seen, facts, task: tokio::spawn(driver.run()) }
    }
}

/// What the last status says of this very container.
fn seed(previous: &PodStatus, name: &str, id: &str) -> Seed {
    let all = [&previous.container_statuses, &previous.init_container_statuses];
    let is_it = |status: &&ContainerStatus| {
        let its_id = status.container_id.as_deref().and_then(|id| id.rsplit("://").next());
        status.name == name && its_id == Some(id)
    };
    let status = all.into_iter().flatten().flatten().find(is_it);
    status.map_or(Seed::default(), |status| {
        let started = status.started == Some(true);
        Seed { started, ready: started && status.ready }
    })
}

/// Probes one container until it is dropped.
struct Driver {
    core: ContainerProbes,
    facts: watch::Receiver<Facts>,
    verdict: watch::Sender<Verdict>,
    wake: Arc<Notify>,
    say: mpsc::Sender<Said>,
    counts: ProbeCounts,
    runtime: Arc<dyn Runtime>,
    container: Arc<Container>,
    id: Arc<str>,
    pod_uid: String,
    namespace: String,
    pod: String,
}

impl Driver {
    async fn run(mut self) {
        let mut asking = FuturesUnordered::new();
        loop {
            if self.facts.borrow_and_update().is_ending {
                self.core.end(Instant::now().into_std());
            }
            while let Some(kind) = self.core.poll(Instant::now().into_std()) {
                asking.push(self.ask(kind));
            }
            self.publish();
            let next = self.core.next_due();
            let due = async {
                match next {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.facts.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                Some((kind, probed)) = asking.next() => self.on_probed(kind, probed),
                () = due => {}
            }
        }
    }

    /// One probe, apart from everything that may change meanwhile.
    fn ask(&self, kind: Kind) -> impl Future<Output = (Kind, Probed)> + Send + use<> {
        let (container, runtime, id) = (self.container.clone(), self.runtime.clone(), self.id.clone());
        let address = self.facts.borrow().address.clone();
        async move {
            let Some(probe) = kind.probe(&container) else { return (kind, Probed::Well) };
            let limit = probe.timeout_seconds.and_then(|secs| u64::try_from(secs).ok()).unwrap_or(1);
            let target = Target::of(probe, &container, &address);
            (kind, run(&target, &*runtime, &id, Duration::from_secs(limit.max(1))).await)
        }
    }

    fn on_probed(&mut self, kind: Kind, probed: Probed) {
        let word = kind.as_str();
        let (found, said) = match probed {
            Probed::Well => (Some(Found::Well), None),
            Probed::Warned(what) => {
                (Some(Found::Well), Some(("ProbeWarning", format!("{word} probe warning: {what}"))))
            }
            Probed::Unwell(what) => {
                (Some(Found::Unwell), Some(("Unhealthy", format!("{word} probe failed: {what}"))))
            }
            Probed::NotMade(why) => {
                let message = format!("{word} probe errored and resulted in unknown state: {why}");
                (None, Some(("Unhealthy", message)))
            }
        };
        if let Some((reason, message)) = said {
            tracing::debug!(pod = %self.pod_uid, container = %self.container.name, %message, "a probe has found something");
            let _ = self.say.try_send(Said { reason, message, container: self.container.name.clone() });
        }
        if let Some(found) = found {
            let counted = Counted {
                pod_uid: self.pod_uid.clone(),
                namespace: self.namespace.clone(),
                pod: self.pod.clone(),
                container: self.container.name.clone(),
                kind,
            };
            self.counts.count(&counted, found);
        }
        self.core.on_result(kind, found, Instant::now().into_std());
    }

    /// Tells the worker what is new.
    fn publish(&self) {
        let now = self.core.verdict();
        let changed = self.verdict.send_if_modified(|known| std::mem::replace(known, now) != now);
        if changed {
            self.wake.notify_one();
        }
    }
}
