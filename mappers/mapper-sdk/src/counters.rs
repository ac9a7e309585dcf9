//! What a mapper counts, for Prometheus: `/metrics` of its REST port.

use ke_run::telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// All of them, of all devices together. Clones count the same.
#[derive(Clone)]
pub(crate) struct Counters {
    pub(crate) devices: Gauge,
    pub(crate) values: Counter,
    pub(crate) failed_reads: Counter,
    pub(crate) writes: Counter,
    pub(crate) refused_writes: Counter,
    pub(crate) lost: Counter,
    pub(crate) dropped: Counter,
    pub(crate) left_out: Counter,
    pub(crate) replaced: Counter,
}

impl Counters {
    pub(crate) fn new(metrics: &mut Metrics) -> Self {
        Self {
            devices: metrics.gauge("mapper_devices", "Devices that this mapper drives"),
            values: metrics.counter("mapper_values", "Values that devices gave"),
            failed_reads: metrics.counter("mapper_failed_reads", "Properties that a device did not give"),
            writes: metrics.counter("mapper_writes", "Desired values written"),
            refused_writes: metrics
                .counter("mapper_refused_writes", "Desired values that a device refused, each try"),
            lost: metrics.counter("mapper_lost_devices", "Times that a device did not answer any more"),
            dropped: metrics.counter(
                "mapper_dropped_reports",
                "Reports dropped because the edge node was away for too long",
            ),
            left_out: metrics.counter(
                "mapper_left_out_values",
                "Values not reported because KubeEdge's edgecore does not take their characters",
            ),
            replaced: metrics.counter(
                "mapper_replaced_values",
                "Values that newer ones replaced before they could go, as the edge node takes one report a second",
            ),
        }
    }
}
