//! DeviceController as it runs: one task, one `select!`; watches and links in, orders for the queues and writes out.
//!
//! It keeps which nodes have a link and what waits for what. What nodes are told is `orders.rs`, what is written `writes.rs`.
//! Called by `mod.rs`.

mod orders;
mod writes;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;
use ke_run::shutdown::Shutdown;
use ke_wire::{Discovery, Kind, MessageId, NodeName, StateReport, TwinReport};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::conditions::{self, NodeIs};
use super::discovery::{self, BadRule};
use super::placement::{Effect, Placement};
use super::reports::{Confirmation, Statuses, Written};
use super::watch::WatchEvent;
use super::{DeviceControllerError, KnownNodes, Numbers, write};
use crate::api_server::ApiServer;
use crate::device_inbox::{AboutDevices, FromEdge};
use crate::node_queue::NodeQueues;
use ke_wire::DeviceId;

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

/// What it holds.
pub(super) struct Running {
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

impl Running {
    /// Nothing is known yet.
    pub(super) fn new(
        api: ApiServer,
        queues: NodeQueues,
        nodes: Option<KnownNodes>,
        numbers: Numbers,
    ) -> Self {
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

    /// Runs until asked to stop.
    pub(super) async fn run(
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
                AboutDevices::WhichAreMine(id) => self.on_detail(node, id).await,
                AboutDevices::Twins { id, device, report } => {
                    self.on_report(node, id, device, Report::Twins(report));
                }
                AboutDevices::State { id, device, report } => {
                    self.on_report(node, id, device, Report::State(report));
                }
                AboutDevices::Discovered(discovery) => self.on_discovered(node, &discovery),
            },
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

    /// Looks for nodes that were not there.
    fn on_timeout(&mut self) {
        let now = Instant::now();
        if self.look.is_none_or(|look| look > now) {
            return;
        }
        let is_ready = self.placement.is_complete()
            && self.nodes.as_ref().is_none_or(|nodes| nodes.edge_controller.is_complete());
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
            (Some(nodes), _) if !nodes.edge_controller.is_complete() => NodeIs::NotTold,
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

    fn log_now_and_then(&mut self, node: &NodeName, id: &DeviceId, why: &str) {
        let now = Instant::now();
        if self.last_logged.is_none_or(|last| now - last > LOG_PAUSE) {
            self.last_logged = Some(now);
            tracing::warn!(%node, device = %id, why, "a node reports on a device that is not its own; more of this minute are only counted");
        }
    }
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
#[path = "tests.rs"]
mod tests;
