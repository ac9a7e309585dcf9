//! DeviceController: which devices and models each node has, and what nodes report of their devices.
//!
//! `running.rs` is the one task: watches and links in, orders for the queues and writes out. It decides nothing itself:
//! `placement.rs` says what a node must be told, `reports.rs` what is written when, `conditions.rs` what is wrong with a
//! device. It never touches a link, and a bad object stops no other. Started by `main.rs`.

mod conditions;
pub mod conversion;
mod definitions;
mod discovery;
mod object;
mod placement;
mod reports;
mod running;
mod says;
mod translate;
mod turns;
mod watch;
mod write;

use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;

use self::running::Running;
use crate::api_server::ApiServer;
use crate::device_inbox::FromEdge;
use crate::edge_controller::{EdgeControllerHandle, Graph};
use crate::node_queue::NodeQueues;

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
    pub edge_controller: EdgeControllerHandle,
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
