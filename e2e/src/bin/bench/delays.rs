//! How old devices' values are when a watcher of the cluster sees them.

use std::collections::HashMap;
use std::sync::mpsc::TryRecvError;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use e2e::cluster::Cluster;
use e2e::site::PATIENCE;
use e2e::wait::{Seen, eventually};
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
pub(crate) struct Delays {
    watch: Watch,
    /// When the value that each shows was measured, by the edge's clock.
    last: HashMap<String, Option<f64>>,
    ages: Vec<f64>,
}

impl Delays {
    /// From now on, when kubectl's first list of `n_devices` is through: of every change of a first property's value its age.
    pub(crate) fn watch(cluster: &Cluster, of: Shows, n_devices: usize) -> Result<Self> {
        let columns = "{.metadata.namespace}/{.metadata.name} {.status.twins[0].reported.metadata.timestamp}";
        let watch = cluster.watch(&[of.resource(), "--all-namespaces"], columns)?;
        let mut delays = Self { watch, last: HashMap::new(), ages: Vec::new() };
        eventually(PATIENCE, "kubectl to list all devices", || {
            delays.read()?;
            let n_listed = delays.last.len();
            Ok(if n_listed >= n_devices {
                Seen::Yes(())
            } else {
                Seen::NotYet(format!("{n_listed} were listed"))
            })
        })?;
        Ok(delays)
    }

    /// Milliseconds from the edge's clock to the watcher's, which is the same machine's.
    pub(crate) fn stop(mut self) -> Result<Vec<f64>> {
        self.read()?;
        Ok(self.ages)
    }

    /// Forgets what was seen until now.
    pub(crate) fn begin(&mut self) -> Result<()> {
        self.read()?;
        self.ages.clear();
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        loop {
            let (seen, line) = match self.watch.seen.try_recv() {
                Ok(event) => event,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => bail!("kubectl's watch has ended"),
            };
            let Some((device, at)) = line.split_once(' ') else { continue };
            let at = at.trim().parse::<f64>().ok();
            // The first of each is what there was before. What else changes about a device shows its value once more.
            let before = self.last.insert(device.to_owned(), at);
            if let Some(at) = at
                && before.is_some_and(|before| before != Some(at))
            {
                self.ages.push(seen.unix_timestamp_nanos() as f64 / 1e6 - at);
            }
        }
    }
}

/// Of the edge's clock and the watcher's.
pub(crate) fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}
