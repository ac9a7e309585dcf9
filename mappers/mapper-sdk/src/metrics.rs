//! What a mapper counts. Served at `/metrics` beside the REST API.

use ke_run::telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

/// Shared by all devices; clones count into the same numbers.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    pub(crate) reads: Counter,
    pub(crate) read_errors: Counter,
    pub(crate) writes: Counter,
    pub(crate) write_errors: Counter,
    pub(crate) reports: Counter,
    pub(crate) report_errors: Counter,
    pub(crate) connects: Counter,
    pub(crate) devices: Gauge,
    pub(crate) connected: Gauge,
    pub(crate) registrations: Counter,
}

impl Counters {
    pub(crate) fn new(metrics: &mut Metrics) -> Self {
        Self {
            reads: metrics.counter("mapper_reads", "Properties read from devices"),
            read_errors: metrics.counter("mapper_read_errors", "Properties that could not be read"),
            writes: metrics.counter("mapper_writes", "Values written to devices"),
            write_errors: metrics.counter("mapper_write_errors", "Values that could not be written"),
            reports: metrics.counter("mapper_reports", "Batches of values that the node took"),
            report_errors: metrics.counter("mapper_report_errors", "Batches that the node did not take yet"),
            connects: metrics.counter("mapper_device_connects", "Connections made to devices"),
            devices: metrics.gauge("mapper_devices", "Devices of this mapper"),
            connected: metrics.gauge("mapper_devices_connected", "Devices with a standing connection"),
            registrations: metrics.counter("mapper_registrations", "Registrations that the node took"),
        }
    }
}
