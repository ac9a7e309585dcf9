//! What EdgeController counts.

use ke_run::telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;

/// What the module counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    pub orders: Counter,
    pub asked: Counter,
    pub refused: Counter,
}

impl Numbers {
    /// Registers them.
    pub(super) fn new(metrics: &mut Metrics) -> Self {
        Self {
            orders: metrics.counter("edge_controller_orders", "Objects and removals handed to the queues"),
            asked: metrics.counter("edge_controller_asked", "Questions and events of nodes"),
            refused: metrics.counter("edge_controller_refused", "Questions and events that were refused"),
        }
    }
}
