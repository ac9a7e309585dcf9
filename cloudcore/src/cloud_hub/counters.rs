//! What CloudHub counts.

use ke_run::telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// What is counted.
pub struct Counters {
    pub(crate) connected: Gauge,
    pub(crate) delivered: Counter,
    pub(crate) lost: Counter,
    pub(crate) refused: Counter,
    pub(crate) bad_frames: Counter,
    pub(crate) dropped: Counter,
}

impl Counters {
    /// Registers them.
    pub fn new(metrics: &mut Metrics) -> Self {
        Self {
            connected: metrics.gauge("cloudcore_connected_nodes", "Nodes with a link to this cloudcore"),
            delivered: metrics.counter("cloudcore_delivered_objects", "Objects that a node has confirmed"),
            lost: metrics.counter(
                "cloudcore_lost_messages",
                "Messages that a node did not confirm in time; they are sent again",
            ),
            refused: metrics.counter(
                "cloudcore_refused_messages",
                "Messages in which a node touched what is not its own",
            ),
            bad_frames: metrics
                .counter("cloudcore_bad_frames", "Frames that say nothing cloudcore understands"),
            dropped: metrics.counter(
                "cloudcore_dropped_messages",
                "Messages for what this cloudcore does not have; nobody answers them",
            ),
        }
    }
}
