//! How old devices' values are when a watcher of the cluster sees them.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use e2e::cluster::Cluster;

/// A kubectl that watches every DeviceStatus.
pub(crate) struct Delays {
    kubectl: Child,
    seen: Receiver<f64>,
}

impl Delays {
    /// From now on: of every change the age of the first property's value.
    pub(crate) fn watch(cluster: &Cluster) -> Result<Self> {
        let template = "--output=jsonpath={.status.twins[0].reported.metadata.timestamp}{\"\\n\"}";
        let mut kubectl = cluster
            .kubectl_command(&["get", "devicestatuses", "--all-namespaces", "--watch-only", template])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("start kubectl")?;
        let output = BufReader::new(kubectl.stdout.take().context("kubectl's output")?);
        let (sender, seen) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if let Ok(at) = line.trim().parse::<f64>() {
                    // Nobody counts any more: the run is over.
                    let _ = sender.send(now_ms() - at);
                }
            }
        });
        Ok(Self { kubectl, seen })
    }

    /// Milliseconds from the edge's clock to the watcher's, which is the same machine's.
    pub(crate) fn stop(self) -> Vec<f64> {
        self.seen.try_iter().collect()
    }
}

impl Drop for Delays {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kubectl.kill();
        let _ = self.kubectl.wait();
    }
}

/// Of the edge's clock and the watcher's.
pub(crate) fn now_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1e3)
}
