//! How old devices' values are when a watcher of the cluster sees them.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use e2e::cluster::Cluster;
use e2e::watch::Watch;
use time::OffsetDateTime;

/// The objects that show a device's values.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shows {
    /// What `kubectl get device` reads.
    Device,
    /// What KubeEdge's readers read.
    DeviceStatus,
}

impl Shows {
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Device => "devices",
            Self::DeviceStatus => "devicestatuses",
        }
    }
}

/// A watcher of every Device or DeviceStatus.
pub(crate) struct Delays(Watch);

impl Delays {
    /// From now on: of every change of a first property's value its age.
    pub(crate) fn watch(cluster: &Cluster, of: Shows) -> Result<Self> {
        let columns = "{.metadata.namespace}/{.metadata.name} {.status.twins[0].reported.metadata.timestamp}";
        Ok(Self(cluster.watch(&[of.resource(), "--all-namespaces", "--watch-only"], columns)?))
    }

    /// Milliseconds from the edge's clock to the watcher's, which is the same machine's.
    pub(crate) fn stop(self) -> Vec<f64> {
        // What else changes about a device shows its value once more.
        let mut last = HashMap::new();
        let age = |(seen, line): (OffsetDateTime, String)| {
            let (device, at) = line.split_once(' ')?;
            let at: f64 = at.trim().parse().ok()?;
            let before = last.insert(device.to_owned(), at);
            (before != Some(at)).then(|| seen.unix_timestamp_nanos() as f64 / 1e6 - at)
        };
        self.0.seen.try_iter().filter_map(age).collect()
    }
}

/// Of the edge's clock and the watcher's.
pub(crate) fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}
