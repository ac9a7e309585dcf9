//! The half of EdgeController that turns watches into orders for the queues, node by node.
//!
//! One task, one `select!`. What it decides is `placement.rs` and `tolerations.rs`; it keeps which nodes have a link, and starts
//! the reads that the watches do not bring. Started by `mod.rs`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use ke_run::shutdown::Shutdown;
use ke_wire::{Kind, NodeName, ObjectKey};
use prometheus_client::metrics::counter::Counter;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, watch as state};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::graph::Graph;
use super::handle::LinkNews;
use super::observed::{Observed, WatchEvent};
use super::placement::Effect;
use super::tolerations::{self, Policy};
use super::{fetch, pod_ranges, tolerate};
use crate::api_server::ApiServer;
use crate::device_inbox::{DeviceInbox, FromEdge};
use crate::kubelet_endpoints::KubeletEndpoints;
use crate::node_queue::{NodeQueues, QueueOrder, Share};

/// Reads that are under way at once: data named for the first time, Pods of a node that came late.
pub(super) const FETCHES: usize = 16;
/// A Go edge repeats its registration every 7 s until the Node has arrived; one refill is enough for all of them.
pub(super) const REFILL_PAUSE: Duration = Duration::from_secs(60);

enum Event {
    Watch(WatchEvent),
    News(LinkNews),
    Fetched(Fetched),
    Repeat,
    Stop,
    Ended,
}

/// What a read brought.
pub(super) enum Fetched {
    Object(ObjectKey, Option<Observed>),
    Pods(NodeName, Vec<Observed>),
}

/// What places objects on nodes. `run` it.
pub(super) struct Placer {
    pub(super) api: ApiServer,
    pub(super) queues: NodeQueues,
    pub(super) devices: DeviceInbox,
    pub(super) graph: Graph,
    pub(super) endpoints: KubeletEndpoints,
    pub(super) policy: Policy,
    pub(super) orders: mpsc::Sender<tolerate::Order>,
    pub(super) ranges: mpsc::Sender<()>,
    pub(super) complete: state::Sender<bool>,
    pub(super) links: HashMap<NodeName, Link>,
    pub(super) fetches: JoinSet<Fetched>,
    pub(super) permits: Arc<Semaphore>,
    pub(super) n_orders: Counter,
}

/// A node with at least one link.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// An old link may be told gone after the new one is told up.
    n_links: usize,
    /// All it must hold was handed over, so that changes are enough from here.
    is_handed_over: bool,
    refilled: Option<Instant>,
}

impl Placer {
    /// Runs until asked to stop.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<WatchEvent>,
        mut news: mpsc::Receiver<LinkNews>,
        mut passes: mpsc::Receiver<()>,
        stop: Shutdown,
    ) {
        loop {
            let event = tokio::select! {
                () = stop.wait() => Event::Stop,
                news = news.recv() => news.map_or(Event::Ended, Event::News),
                Some(fetched) = self.fetches.join_next() => match fetched {
                    Ok(fetched) => Event::Fetched(fetched),
                    Err(_) => continue,
                },
                event = events.recv() => event.map_or(Event::Ended, Event::Watch),
                Some(()) = passes.recv() => Event::Repeat,
            };
            match event {
                Event::Watch(event) => self.on_watch(event).await,
                Event::Fetched(fetched) => self.on_fetched(fetched).await,
                Event::News(news) => self.on_news(news).await,
                Event::Repeat => {
                    for node in self.links.keys().cloned().collect::<Vec<_>>() {
                        self.hand_over(&node).await;
                    }
                }
                Event::Stop | Event::Ended => return,
            }
        }
    }

    async fn on_watch(&mut self, event: WatchEvent) {
        let was_complete = *self.complete.borrow();
        self.tolerate(&event).await;
        if let WatchEvent::Applied(observed) = &event
            && observed.key.kind == Kind::Node
            && let Ok(node) = observed.key.name.as_str().parse()
        {
            self.endpoints.seen(&node, observed.object());
        }
        if pod_ranges::asks(&event) {
            let _ = self.ranges.try_send(());
        }
        let (effects, is_complete) = {
            let mut placement = self.graph.write();
            let effects = placement.on_event(event);
            (effects, was_complete || placement.is_complete())
        };
        self.carry_out(effects).await;
        if is_complete && !was_complete {
            tracing::info!("all nodes, pods, config maps and secrets are known");
            self.complete.send_replace(true);
            for node in self.links.keys().cloned().collect::<Vec<_>>() {
                self.hand_over(&node).await;
            }
        }
    }

    async fn on_fetched(&mut self, fetched: Fetched) {
        let (effects, nodes) = match fetched {
            Fetched::Object(key, found) => {
                let mut placement = self.graph.write();
                (placement.fetched(&key, found), placement.nodes_of(&key))
            }
            Fetched::Pods(node, pods) => {
                for pod in &pods {
                    self.tolerate_pod(pod).await;
                }
                (self.graph.write().listed(&node, pods), vec![node])
            }
        };
        self.carry_out(effects).await;
        for node in nodes {
            if self.links.get(&node).is_some_and(|link| !link.is_handed_over) {
                self.hand_over(&node).await;
            }
        }
    }

    async fn on_news(&mut self, news: LinkNews) {
        match news {
            LinkNews::Connected(node) => {
                let link = self.links.entry(node.clone()).or_default();
                link.n_links = link.n_links.saturating_add(1);
                link.is_handed_over = false;
                self.hand_over(&node).await;
            }
            LinkNews::Disconnected(node) => {
                let Some(link) = self.links.get_mut(&node) else { return };
                link.n_links = link.n_links.saturating_sub(1);
                if link.n_links == 0 {
                    self.links.remove(&node);
                    let autonomy = self.graph.read().autonomy(&node).map(str::to_owned);
                    self.order_all(&node, autonomy.as_deref()).await;
                }
            }
            LinkNews::RegisteredAnew(node) => {
                let now = Instant::now();
                let Some(link) = self.links.get_mut(&node) else { return };
                if link.refilled.is_some_and(|last| now.duration_since(last) < REFILL_PAUSE) {
                    return;
                }
                link.refilled = Some(now);
                tracing::info!(%node, "registered though its Node exists: it gets everything once more");
                self.queues.tell(QueueOrder::Forget(node.clone())).await;
                self.devices.tell(FromEdge::Forgotten(node.clone())).await;
                self.hand_over(&node).await;
            }
        }
    }

    /// Everything that the node must hold, between two marks: after the second, whatever else it holds is too much. Not before all of it is known.
    async fn hand_over(&mut self, node: &NodeName) {
        let desired = {
            let placement = self.graph.read();
            if !placement.is_complete() || !placement.is_settled(node) {
                return;
            }
            placement.desired(node)
        };
        self.queues.tell(QueueOrder::HandOver(node.clone(), Share::Workload)).await;
        for desired in desired {
            self.tell(QueueOrder::Put(node.clone(), desired)).await;
        }
        self.queues.tell(QueueOrder::Synced(node.clone(), Share::Workload)).await;
        if let Some(link) = self.links.get_mut(node) {
            link.is_handed_over = true;
        }
    }

    async fn tell(&self, order: QueueOrder) {
        self.n_orders.inc();
        self.queues.tell(order).await;
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) {
        // What a node waits for may also come to be by an end: the Pod that named what is being fetched is gone.
        let waiting: BTreeSet<NodeName> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Put(node, _) | Effect::Delete(node, _) => Some(node),
                Effect::NodeGone(_) | Effect::Fetch(_) | Effect::ListPods(_) => None,
            })
            .filter(|node| self.links.get(*node).is_some_and(|link| !link.is_handed_over))
            .cloned()
            .collect();
        self.carry_out_each(effects).await;
        for node in waiting {
            self.hand_over(&node).await;
        }
    }

    async fn carry_out_each(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            // A node without a link gets all at once when it is back.
            let is_told = |node| self.links.get(node).is_some_and(|link: &Link| link.is_handed_over);
            match effect {
                Effect::Put(node, desired) if is_told(&node) => {
                    self.tell(QueueOrder::Put(node, desired)).await;
                }
                Effect::Delete(node, gone) if is_told(&node) => {
                    self.tell(QueueOrder::Delete(node, gone)).await;
                }
                Effect::Put(..) | Effect::Delete(..) => {}
                Effect::NodeGone(node) => {
                    tracing::info!(%node, "is no edge node any more");
                    // Another Node of its name may be there already.
                    if !self.graph.is_node(&node) {
                        self.endpoints.gone(&node);
                    }
                    self.queues.tell(QueueOrder::NodeGone(node)).await;
                }
                Effect::Fetch(key) => {
                    let (api, permits) = (self.api.clone(), Arc::clone(&self.permits));
                    self.fetches.spawn(async move {
                        let _permit = permits.acquire().await;
                        let found = fetch::object(&api, &key).await;
                        Fetched::Object(key, found)
                    });
                }
                Effect::ListPods(node) => {
                    let (api, permits) = (self.api.clone(), Arc::clone(&self.permits));
                    self.fetches.spawn(async move {
                        let _permit = permits.acquire().await;
                        let pods = fetch::pods(&api, &node).await;
                        Fetched::Pods(node, pods)
                    });
                }
            }
        }
    }

    async fn tolerate(&self, event: &WatchEvent) {
        let WatchEvent::Applied(observed) = event else { return };
        match observed.key.kind {
            Kind::Pod => self.tolerate_pod(observed).await,
            Kind::Node => {
                let Ok(node) = observed.key.name.as_str().parse::<NodeName>() else { return };
                let autonomy = observed.annotation(tolerations::AUTONOMY);
                {
                    let placement = self.graph.read();
                    if placement.autonomy(&node) == autonomy || !placement.is_node(&node) {
                        return;
                    }
                }
                self.order_all(&node, autonomy).await;
            }
            _ => {}
        }
    }

    async fn tolerate_pod(&self, pod: &Observed) {
        let Some(node) = pod.node() else { return };
        let autonomy = {
            let placement = self.graph.read();
            if !placement.is_node(&node) {
                return;
            }
            placement.autonomy(&node).map(str::to_owned)
        };
        let wait = tolerations::wait(pod, Timestamp::now(), self.policy);
        self.order(pod, autonomy.as_deref(), wait).await;
    }

    /// All Pods of a node, at once.
    async fn order_all(&self, node: &NodeName, autonomy: Option<&str>) {
        let bodies: Vec<_> = self.graph.read().bodies_of_pods(node).map(|pod| pod.body.clone()).collect();
        for body in bodies {
            let pod = serde_json::from_slice(&body).ok();
            if let Some(Ok(pod)) = pod.map(|pod: Value| Observed::new(&Kind::Pod, pod)) {
                self.order(&pod, autonomy, Duration::ZERO).await;
            }
        }
    }

    async fn order(&self, pod: &Observed, autonomy: Option<&str>, wait: Duration) {
        if let Some(fix) = tolerations::plan(pod, autonomy, self.policy) {
            let autonomy = autonomy.map(str::to_owned);
            let _ = self.orders.send(tolerate::Order { pod: pod.key.clone(), fix, autonomy, wait }).await;
        }
    }
}
