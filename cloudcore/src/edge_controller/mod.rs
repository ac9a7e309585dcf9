//! EdgeController: what each node needs, and what each node reports.
//!
//! Two halves: `placer.rs` turns watches into orders for the queues and never waits for the other, `lanes.rs`, which has the
//! nodes answered and waits for the placer only when thousands of links come or go at once. It never touches a link; the
//! queues and CloudHub do. Started by `main.rs`.

mod answers;
mod fetch;
mod graph;
mod handle;
mod lanes;
mod numbers;
mod observed;
mod placement;
mod placer;
mod pod_ranges;
mod runtime_class;
mod services;
mod tolerate;
mod tolerations;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;

use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use tokio::sync::{Semaphore, mpsc, watch as state};
use tokio::task::JoinSet;

use self::answers::Answers;
use self::numbers::Numbers;
use self::placer::{FETCHES, Placer};
use self::tolerations::{Policy, Stay};
use crate::api_server::ApiServer;
use crate::device_inbox::DeviceInbox;
use crate::kubelet_endpoints::KubeletEndpoints;
use crate::node_queue::NodeQueues;
use crate::ranges::Pool;

pub use graph::Graph;
pub use handle::{EdgeControllerHandle, FromNode, Upstream};

/// What the module needs beside its handles.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// PEM of the API server's certificate authority; empty when not known.
    pub api_server_ca: String,
    /// The address that nodes are told to be served from; empty when not known.
    pub address: String,
    /// How long Pods stay on a node that the cluster cannot reach; nothing: for ever.
    pub pod_toleration_secs: Option<u32>,
    /// What the API server's admission gives to Pods that say nothing. Seconds.
    pub admission_toleration_secs: i64,
    /// From what edge nodes get ranges of pod addresses; nothing: they get none.
    pub pod_ranges: Option<Pool>,
    /// What Nodes show to the API server.
    pub endpoints: KubeletEndpoints,
}

/// The module. `run` it.
pub struct EdgeController {
    client: kube::Client,
    queues: NodeQueues,
    devices: DeviceInbox,
    inbox: mpsc::Receiver<FromNode>,
    passes: mpsc::Receiver<()>,
    complete: state::Sender<bool>,
    graph: Graph,
    settings: Settings,
    numbers: Numbers,
}

/// The module cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EdgeControllerError {
    /// One of its tasks ended by itself.
    #[error("{0} ended by itself")]
    Ended(&'static str),
}

impl EdgeController {
    /// The module, what others may ask of it, and the view of which node has to do with what.
    #[must_use]
    pub fn new(
        client: kube::Client,
        queues: NodeQueues,
        devices: DeviceInbox,
        inbox: mpsc::Receiver<FromNode>,
        settings: Settings,
        metrics: &mut Metrics,
    ) -> (Self, EdgeControllerHandle, Graph) {
        let (pass, passes) = mpsc::channel(1);
        let (complete, is_complete) = state::channel(false);
        let graph = Graph::default();
        let numbers = Numbers::new(metrics);
        let view = graph.clone();
        let module = Self { client, queues, devices, inbox, passes, complete, graph, settings, numbers };
        (module, EdgeControllerHandle::new(pass, is_complete), view)
    }

    /// Runs until asked to stop.
    pub async fn run(self, stop: Shutdown) -> Result<(), EdgeControllerError> {
        let Self { client, queues, devices, inbox, passes, complete, graph, settings, numbers } = self;
        let api = ApiServer::new(client.clone());
        let stay = Stay::from_secs(settings.pod_toleration_secs);
        let policy = Policy { stay, admission_secs: settings.admission_toleration_secs };
        // Full: the watches wait, and the API server buffers.
        let (seen, events) = mpsc::channel(256);
        // Full: the lanes wait; the placer empties it between any two events.
        let (tell, news) = mpsc::channel(4096);
        // Emptied at once: `tolerate` keeps the newest per Pod.
        let (order, orders) = mpsc::channel(64);
        // Full: that somebody asks for a range of pod addresses is known already.
        let (ask, asked) = mpsc::channel(1);
        let answers = Answers {
            api: api.clone(),
            graph: graph.clone(),
            api_server_ca: settings.api_server_ca,
            address: settings.address,
            endpoints: settings.endpoints.clone(),
            services: services::Services::default(),
            news: tell.clone(),
            numbers: numbers.clone(),
        };
        let placer = Placer {
            api: api.clone(),
            queues,
            devices,
            graph,
            endpoints: settings.endpoints,
            policy,
            orders: order,
            ranges: ask,
            complete,
            links: HashMap::new(),
            fetches: JoinSet::new(),
            permits: Arc::new(Semaphore::new(FETCHES)),
            n_orders: numbers.orders,
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(named("watch", watch::run(client.clone(), seen, stop.clone())));
        tasks.spawn(named("pod ranges", pod_ranges::run(client, settings.pod_ranges, asked, stop.clone())));
        tasks.spawn(named("tolerate", tolerate::run(api, policy, orders, stop.clone())));
        tasks.spawn(named("lanes", lanes::run(answers, inbox, tell, stop.clone())));
        tasks.spawn(named("placer", placer.run(events, news, passes, stop.clone())));
        while let Some(ended) = tasks.join_next().await {
            if !stop.is_triggered() {
                return Err(EdgeControllerError::Ended(ended.unwrap_or("a task")));
            }
        }
        Ok(())
    }
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

#[cfg(test)]
mod tests;
