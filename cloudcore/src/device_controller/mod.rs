//! DeviceController: which devices and models each node has, and what nodes report of their devices.
//!
//! One task, one `select!`: watches and links in, orders for the queues and writes out. It decides nothing itself:
//! `placement.rs` says what a node must be told, `reports.rs` what is written when, `conditions.rs` what is wrong with a
//! device. It never touches a link, and a bad object stops no other. Started by `main.rs`.

mod conditions;
pub mod conversion;
mod definitions;
mod discovery;
pub mod handle;
mod object;
mod placement;
mod reports;
mod says;
mod translate;
mod turns;
mod watch;
mod write;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;
use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use ke_wire::{DeviceId, Discovery, Down, Kind, MessageId, NodeName, StateReport, TwinReport, Up};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::conditions::NodeIs;
use self::discovery::BadRule;
use self::placement::{Effect, Placement};
use self::reports::{Confirmation, Statuses, Written, Wrote};
use self::watch::WatchEvent;
use crate::edge_controller::{ApiServer, Downstream, Graph};
use crate::node_queue::{NodeQueues, QueueOrder, Share};

pub use handle::{DeviceInbox, FromEdge};

/// Devices that are being written at once. Half of what `cluster.rs` lets through: Pods and leases go on beside them.
const WRITES: usize = 32;
/// Reports that come before all devices are known wait; more drop the oldest, which its node repeats after a minute. Some
/// thousand nodes' first words, or all that some fully loaded ones have kept, in the seconds that the lists take.
const MAX_EARLY: usize = 16_384;
/// How often devices whose node is not there are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How often it is looked whether all nodes are known.
const LOOK_AT_START: Duration = Duration::from_millis(200);
/// Reports about devices of others are logged once in this time.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// The module. `run` it.
pub struct DeviceController {
    client: kube::Client,
    queues: NodeQueues,
    inbox: mpsc::Receiver<FromEdge>,
    nodes: Option<KnownNodes>,
    numbers: Numbers,
}

/// Which nodes there are. Without it no device is told that its node is unknown.
#[derive(Clone, Debug)]
pub struct KnownNodes {
    /// What EdgeController sees.
    pub graph: Graph,
    /// Whether it has seen all.
    pub downstream: Downstream,
}

/// The module cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DeviceControllerError {
    /// The task that watches ended by itself.
    #[error("the watch of devices ended by itself")]
    WatchEnded,
}

/// What the module counts.
#[derive(Clone, Debug)]
struct Numbers {
    devices: Gauge,
    behind: Gauge,
    reports: Counter,
    patches: Counter,
    failed: Counter,
    refused: Counter,
    unconfirmed: Counter,
}

enum Event {
    Watch(Option<WatchEvent>),
    Edge(FromEdge),
    Written(Box<Written>),
    Timeout,
    Stop,
}

enum Report {
    Twins(TwinReport),
    State(StateReport),
}

/// A node with at least one link.
#[derive(Debug, Default)]
struct Link {
    /// An old link may be told gone after the new one is told up.
    n_links: usize,
    /// All its devices were handed over, so that changes are enough from here.
    is_handed_over: bool,
    /// It asked for all of them, and was given them whatever it had confirmed.
    is_refreshed: bool,
}

struct Running {
    api: ApiServer,
    queues: NodeQueues,
    nodes: Option<KnownNodes>,
    placement: Placement,
    statuses: Statuses,
    links: HashMap<NodeName, Link>,
    early: VecDeque<(NodeName, MessageId, DeviceId, Report)>,
    /// All devices, models and nodes are known: before that nothing is written, since it might be wrong.
    is_ready: bool,
    /// What could not be read, and why, as it was told.
    unusable: HashMap<(Kind, DeviceId), String>,
    /// Rules of discovery that cannot be used, and why, as it was told.
    bad_rules: HashMap<DeviceId, String>,
    /// What was found is being written; one at a time.
    discovering: JoinSet<()>,
    /// Devices whose node is not known to be there.
    unplaced: BTreeSet<DeviceId>,
    look: Option<Instant>,
    writes: JoinSet<Written>,
    last_logged: Option<Instant>,
    numbers: Numbers,
}

impl DeviceController {
    /// The module; `inbox` is the end of [`DeviceInbox::channel`].
    #[must_use]
    pub fn new(
        client: kube::Client,
        queues: NodeQueues,
        inbox: mpsc::Receiver<FromEdge>,
        nodes: Option<KnownNodes>,
        metrics: &mut Metrics,
    ) -> Self {
        let numbers = Numbers {
            devices: metrics.gauge("device_controller_devices", "Devices in the cluster"),
            behind: metrics.gauge(
                "device_controller_devices_behind",
                "Devices that do not show yet what their DeviceStatus says, since the API server does not keep up",
            ),
            reports: metrics.counter("device_controller_reports", "Reports of nodes about their devices"),
            patches: metrics
                .counter("device_controller_writes", "Writes of a DeviceStatus or of a Device's status"),
            failed: metrics.counter(
                "device_controller_failed_writes",
                "Status writes that failed; they are tried again",
            ),
            refused: metrics.counter(
                "device_controller_refused_reports",
                "Reports about devices that are unknown or another node's; confirmed, but without effect",
            ),
            unconfirmed: metrics.counter(
                "device_controller_dropped_confirmations",
                "Reports that were taken in but not confirmed, since too many wait; nodes repeat them",
            ),
        };
        Self { client, queues, inbox, nodes, numbers }
    }

    /// Runs until asked to stop.
    pub async fn run(self, stop: Shutdown) -> Result<(), DeviceControllerError> {
        let Self { client, queues, inbox, nodes, numbers } = self;
        // Full: the watches wait, and the API server buffers.
        let (seen, events) = mpsc::channel(256);
        let running = Running::new(ApiServer::new(client.clone()), queues, nodes, numbers);
        let watching = tokio::spawn(watch::run(client, seen, stop.clone()));
        let outcome = running.run(events, inbox, stop).await;
        watching.abort();
        outcome
    }
}

impl Running {
    fn new(api: ApiServer, queues: NodeQueues, nodes: Option<KnownNodes>, numbers: Numbers) -> Self {
        Self {
            api,
            queues,
            nodes,
            placement: Placement::default(),
            statuses: Statuses::default(),
            links: HashMap::new(),
            early: VecDeque::new(),
            is_ready: false,
            unusable: HashMap::new(),
            bad_rules: HashMap::new(),
            discovering: JoinSet::new(),
            unplaced: BTreeSet::new(),
            look: Some(Instant::now()),
            writes: JoinSet::new(),
            last_logged: None,
            numbers,
        }
    }

    async fn run(
        mut self,
        mut events: mpsc::Receiver<WatchEvent>,
        mut inbox: mpsc::Receiver<FromEdge>,
        stop: Shutdown,
    ) -> Result<(), DeviceControllerError> {
        loop {
            let timeout = self.next_timeout();
            let event = tokio::select! {
                () = stop.wait() => Event::Stop,
                Some(written) = self.writes.join_next() => match written {
                    Ok(written) => Event::Written(Box::new(written)),
                    Err(error) => {
                        tracing::error!(%error, "a write of a device ended in a panic; its device waits for a restart");
                        continue;
                    }
                },
                Some(said) = inbox.recv() => Event::Edge(said),
                event = events.recv() => Event::Watch(event),
                () = tokio::time::sleep_until(timeout) => Event::Timeout,
            };
            match event {
                Event::Watch(Some(event)) => self.on_watch(event).await,
                Event::Edge(said) => self.on_edge(said).await,
                Event::Written(written) => self.on_written(*written),
                Event::Timeout => self.on_timeout(),
                Event::Stop => return Ok(()),
                Event::Watch(None) if stop.is_triggered() => return Ok(()),
                Event::Watch(None) => return Err(DeviceControllerError::WatchEnded),
            }
            self.start_writes();
            self.confirm().await;
        }
    }

    fn next_timeout(&self) -> Instant {
        let write = if self.is_ready && self.writes.len() < WRITES {
            self.statuses.poll_timeout().map(Instant::from_std)
        } else {
            None
        };
        let next = write.into_iter().chain(self.look).min();
        // Anything far away: there is nothing to wait for.
        next.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    async fn on_watch(&mut self, event: WatchEvent) {
        let was_complete = self.placement.is_complete();
        let effects = match event {
            WatchEvent::Status(id, found) => {
                self.statuses.found(id, *found);
                Vec::new()
            }
            WatchEvent::ListStarted(kind) => {
                self.placement.list_started(kind);
                Vec::new()
            }
            WatchEvent::Device(device) => {
                self.unusable.remove(&(Kind::Device, device.stored.id.clone()));
                self.placement.device(*device)
            }
            WatchEvent::DeviceRemoved(id) => {
                self.unusable.remove(&(Kind::Device, id.clone()));
                self.placement.device_removed(&id)
            }
            WatchEvent::Model(model) => {
                self.unusable.remove(&(Kind::DeviceModel, model.stored.id.clone()));
                self.placement.model(*model)
            }
            WatchEvent::ModelRemoved(id) => {
                self.unusable.remove(&(Kind::DeviceModel, id.clone()));
                self.placement.model_removed(&id)
            }
            WatchEvent::Unusable(kind, id, uid, unusable) => {
                let why = unusable.to_string();
                match id {
                    Some(id) => self.on_unusable(&kind, id, uid, &why),
                    None => {
                        tracing::warn!("not delivered, all others are: {why}");
                        Vec::new()
                    }
                }
            }
            WatchEvent::ListDone(kind) => self.placement.list_done(&kind),
        };
        self.carry_out(effects).await;
        self.numbers.devices.set(i64::try_from(self.placement.n_devices()).unwrap_or(i64::MAX));
        if !was_complete && self.placement.is_complete() {
            tracing::info!("all {} devices and their models are known", self.placement.n_devices());
            self.statuses.all_found();
            for (node, report, id, what) in std::mem::take(&mut self.early) {
                self.on_report(node, report, id, what);
            }
            for node in self.links.keys().cloned().collect::<Vec<_>>() {
                self.hand_over(&node).await;
            }
            self.on_timeout();
        }
    }

    /// Told once: lists repeat it.
    fn on_unusable(&mut self, kind: &Kind, id: DeviceId, uid: String, why: &str) -> Vec<Effect> {
        let told = self.unusable.entry((kind.clone(), id.clone())).or_default();
        if told != why {
            why.clone_into(told);
            tracing::warn!("not delivered, all others are: {why}");
            let (api, kind, id, why) = (self.api.clone(), kind.clone(), id.clone(), why.to_owned());
            tokio::spawn(async move {
                write::tell(&api, (&kind, &id, &uid), "Unreadable", &why, &stamp()).await;
            });
        }
        self.placement.unusable(kind, id, why)
    }

    async fn on_edge(&mut self, said: FromEdge) {
        match said {
            FromEdge::Connected(node) => {
                let link = self.links.entry(node.clone()).or_default();
                link.n_links = link.n_links.saturating_add(1);
                (link.is_handed_over, link.is_refreshed) = (false, false);
                self.hand_over(&node).await;
            }
            FromEdge::Disconnected(node) => {
                let Some(link) = self.links.get_mut(&node) else { return };
                link.n_links = link.n_links.saturating_sub(1);
                if link.n_links == 0 {
                    self.links.remove(&node);
                }
            }
            FromEdge::Forgotten(node) => self.hand_over(&node).await,
            FromEdge::Repeat => {
                // Nodes go, too, and nobody tells.
                self.unplaced.extend(self.placement.ids().cloned());
                self.look = Some(Instant::now());
                for node in self.links.keys().cloned().collect::<Vec<_>>() {
                    self.hand_over(&node).await;
                }
            }
            FromEdge::Said(node, said) => match *said {
                Up::MembershipDetail { id, .. } => self.on_detail(node, id).await,
                Up::TwinReport { id, device, report } => {
                    self.on_report(node, id, device, Report::Twins(report));
                }
                Up::StateReport { id, device, report } => {
                    self.on_report(node, id, device, Report::State(report));
                }
                Up::Discovered { discovery, .. } => self.on_discovered(node, &discovery),
                // CloudHub hands over nothing else.
                _ => tracing::debug!(%node, "a message that is none about devices"),
            },
        }
    }

    /// A Go edge asks which devices are its own on each connect, and tells its mappers only of what comes from this module:
    /// what it confirmed to another cloudcore they may never have heard of. So it gets all, once a link.
    async fn on_detail(&mut self, node: NodeName, asked: MessageId) {
        // Otherwise it asks again every minute.
        self.say(&node, Down::TwinConfirmed { id: MessageId::fresh(), to: asked }).await;
        let Some(link) = self.links.get_mut(&node).filter(|link| link.is_handed_over) else { return };
        if std::mem::replace(&mut link.is_refreshed, true) {
            return;
        }
        let whole = self.placement.whole(&node);
        self.say(&node, membership_all(whole.references)).await;
        for object in whole.models.into_iter().chain(whole.devices) {
            self.queues.tell(QueueOrder::Again(node.clone(), object)).await;
        }
    }

    fn on_report(&mut self, node: NodeName, report: MessageId, id: DeviceId, what: Report) {
        if !self.placement.is_complete() {
            if self.early.len() >= MAX_EARLY {
                self.early.pop_front();
                self.numbers.unconfirmed.inc();
            }
            self.early.push_back((node, report, id, what));
            return;
        }
        self.numbers.reports.inc();
        let who = Confirmation { node: node.clone(), report };
        if !self.placement.is_on(&id, &node) {
            let why =
                if self.placement.get(&id).is_some() { "it is on another node" } else { "there is none" };
            self.numbers.refused.inc();
            self.log_now_and_then(&node, &id, why);
            // Otherwise it would be repeated for ever.
            self.statuses.confirm(who);
            return;
        }
        let (now, unix_now) = (Instant::now().into_std(), unix_ms());
        let was_heard = self.statuses.is_heard(&id);
        let taken = match &what {
            Report::Twins(report) => self.statuses.twins(now, unix_now, &id, report, who),
            Report::State(report) => self.statuses.state(now, unix_now, &id, report, who),
        };
        if taken.is_some_and(|taken| taken.unknown > 0) {
            tracing::debug!(device = %id, "a report names properties that the Device does not list");
        }
        if !was_heard {
            self.judge(&id);
        }
    }

    /// What is found is told again every few seconds: what does not fit now is done then.
    fn on_discovered(&mut self, node: NodeName, discovery: &Discovery) {
        while self.discovering.try_join_next().is_some() {}
        if !self.placement.is_complete() || !self.discovering.is_empty() {
            return;
        }
        let (steps, bad) =
            discovery::steps(&node, discovery, &self.placement.models(), |id| self.placement.get(id));
        // One that was mended and is broken again is told again.
        self.bad_rules.retain(|model, why| bad.iter().any(|rule| rule.model == *model && rule.why == *why));
        for BadRule { model, uid, why } in bad {
            if self.bad_rules.get(&model) != Some(&why) {
                tracing::warn!(%model, "{why}");
                self.bad_rules.insert(model.clone(), why.clone());
                let api = self.api.clone();
                tokio::spawn(async move {
                    let about = (&Kind::DeviceModel, &model, uid.as_str());
                    write::tell(&api, about, "DiscoveryRule", &why, &stamp()).await;
                });
            }
        }
        if !steps.is_empty() {
            let api = self.api.clone();
            self.discovering.spawn(async move {
                for step in steps {
                    write::discovered(&api, &node, step).await;
                }
            });
        }
    }

    fn on_written(&mut self, written: Written) {
        for half in [&written.status, &written.device] {
            match half {
                Wrote::Done(_) => drop(self.numbers.patches.inc()),
                Wrote::Away | Wrote::Refused => drop(self.numbers.failed.inc()),
                Wrote::Nothing | Wrote::Missing | Wrote::Exists(_) => {}
            }
        }
        self.statuses.written(Instant::now().into_std(), unix_ms(), written);
    }

    /// Looks for nodes that were not there.
    fn on_timeout(&mut self) {
        let now = Instant::now();
        if self.look.is_none_or(|look| look > now) {
            return;
        }
        let is_ready = self.placement.is_complete()
            && self.nodes.as_ref().is_none_or(|nodes| nodes.downstream.is_complete());
        if is_ready {
            self.is_ready = true;
            for id in std::mem::take(&mut self.unplaced) {
                self.judge(&id);
            }
        }
        self.look = match (self.is_ready, self.unplaced.is_empty()) {
            (false, _) => Some(now + LOOK_AT_START),
            (true, false) => Some(now + LOOK),
            (true, true) => None,
        };
    }

    fn judge(&mut self, id: &DeviceId) {
        let Some(device) = self.placement.get(id) else { return };
        let node = match (&self.nodes, self.placement.node_of(id)) {
            (None, _) => NodeIs::Known,
            (Some(nodes), _) if !nodes.downstream.is_complete() => NodeIs::NotTold,
            (Some(nodes), Some(node)) if nodes.graph.is_node(node) => NodeIs::Known,
            (Some(_), _) => NodeIs::Unknown,
        };
        if node != NodeIs::Known && !device.says.node.is_empty() {
            self.unplaced.insert(id.clone());
            self.look.get_or_insert_with(|| Instant::now() + LOOK);
        }
        let is_heard = self.statuses.is_heard(id);
        let problems = conditions::problems(&device.says, self.placement.model_of(id), node, is_heard);
        self.statuses.device(Instant::now().into_std(), device, problems);
    }

    /// All devices and models of a node: who they are, then each, between marks after which whatever else of them it
    /// holds is too much. Not before all of them are known.
    async fn hand_over(&mut self, node: &NodeName) {
        if !self.placement.is_complete() {
            return;
        }
        let Some(link) = self.links.get_mut(node) else { return };
        link.is_handed_over = true;
        let whole = self.placement.whole(node);
        self.say(node, membership_all(whole.references)).await;
        for share in [Share::Models, Share::Devices] {
            self.queues.tell(QueueOrder::HandOver(node.clone(), share)).await;
        }
        for object in whole.models.into_iter().chain(whole.devices) {
            self.queues.tell(QueueOrder::Put(node.clone(), object)).await;
        }
        self.queues.tell(QueueOrder::Synced(node.clone(), Share::Devices)).await;
        // A model that was deleted before we started is not known here; the node goes on with what it has of it.
        if !whole.lacks_model {
            self.queues.tell(QueueOrder::Synced(node.clone(), Share::Models)).await;
        }
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Came(node, device) => self.tell(&node, membership(vec![device], Vec::new())).await,
                Effect::Left(node, device) => self.tell(&node, membership(Vec::new(), vec![device])).await,
                Effect::Put(node, put) => self.order(&node.clone(), QueueOrder::Put(node, put)).await,
                Effect::Again(node, put) => self.order(&node.clone(), QueueOrder::Again(node, put)).await,
                Effect::Delete(node, gone) => self.order(&node.clone(), QueueOrder::Delete(node, gone)).await,
                Effect::Judge(id) => self.judge(&id),
                Effect::Ended(id) => {
                    self.unplaced.remove(&id);
                    self.statuses.ended(&id);
                }
            }
        }
    }

    /// A node without a link gets all at once when it is back.
    async fn order(&self, node: &NodeName, order: QueueOrder) {
        if self.links.get(node).is_some_and(|link| link.is_handed_over) {
            self.queues.tell(order).await;
        }
    }

    async fn tell(&self, node: &NodeName, message: Down) {
        self.order(node, QueueOrder::Say(node.clone(), Box::new(message))).await;
    }

    async fn say(&self, node: &NodeName, message: Down) {
        self.queues.tell(QueueOrder::Say(node.clone(), Box::new(message))).await;
    }

    fn start_writes(&mut self) {
        if !self.is_ready {
            return;
        }
        let now = Instant::now().into_std();
        while self.writes.len() < WRITES {
            let stamp = stamp();
            let Some(write) = self.statuses.poll(now, &stamp) else { break };
            let api = self.api.clone();
            self.writes.spawn(async move { write::carry_out(&api, write, &stamp).await });
        }
        self.numbers.behind.set(i64::try_from(self.statuses.n_behind()).unwrap_or(i64::MAX));
    }

    async fn confirm(&mut self) {
        for Confirmation { node, report } in self.statuses.take_confirmed() {
            self.say(&node, Down::TwinConfirmed { id: MessageId::fresh(), to: report }).await;
        }
        self.numbers.unconfirmed.inc_by(self.statuses.take_unconfirmed());
    }

    fn log_now_and_then(&mut self, node: &NodeName, id: &DeviceId, why: &str) {
        let now = Instant::now();
        if self.last_logged.is_none_or(|last| now - last > LOG_PAUSE) {
            self.last_logged = Some(now);
            tracing::warn!(%node, device = %id, why, "a node reports on a device that is not its own; more of this minute are only counted");
        }
    }
}

fn membership(added: Vec<ke_wire::DeviceRef>, removed: Vec<ke_wire::DeviceRef>) -> Down {
    let event_id = uuid::Uuid::new_v4().to_string();
    Down::Membership { id: MessageId::fresh(), event_id, timestamp_ms: unix_ms(), added, removed }
}

fn membership_all(devices: Vec<ke_wire::DeviceRef>) -> Down {
    let event_id = uuid::Uuid::new_v4().to_string();
    Down::MembershipAll { id: MessageId::fresh(), event_id, timestamp_ms: unix_ms(), devices }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Now as Kubernetes writes it: RFC 3339 in UTC, whole seconds.
fn stamp() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
