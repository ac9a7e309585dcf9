//! How old devices' values are when a watcher of the cluster sees them.

use std::collections::HashMap;
use std::sync::mpsc::TryRecvError;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use e2e::cluster::Cluster;
use e2e::watch::Watch;

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
        Ok(Self(cluster.watch(&[of.resource(), "--all-namespaces"], columns)?))
    }

    /// Milliseconds from the edge's clock to the watcher's, which is the same machine's.
    pub(crate) fn stop(self) -> Result<Vec<f64>> {
        let mut ages = Vec::new();
        let mut last: HashMap<String, Option<f64>> = HashMap::new();
        loop {
            let (seen, line) = match self.0.seen.try_recv() {
                Ok(event) => event,
                Err(TryRecvError::Empty) => return Ok(ages),
                Err(TryRecvError::Disconnected) => bail!("kubectl's watch has ended"),
            };
            let Some((device, at)) = line.split_once(' ') else { continue };
            let at = at.trim().parse::<f64>().ok();
            // The first of each is what there was before. What else changes about a device shows its value once more.
            let before = last.insert(device.to_owned(), at);
            if let Some(at) = at
                && before.is_some_and(|before| before != Some(at))
            {
                ages.push(seen.unix_timestamp_nanos() as f64 / 1e6 - at);
            }
        }
    }
}

/// Of the edge's clock and the watcher's.
pub(crate) fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}
