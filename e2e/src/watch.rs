//! A kubectl that watches, and what it saw when. Started by [`Cluster::watch`](crate::cluster::Cluster::watch).

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use anyhow::{Context, Result};
use time::OffsetDateTime;

/// Ends with its owner.
pub struct Watch {
    kubectl: Child,
    /// Its lines, each with the time at which it was read; ends when kubectl does.
    pub seen: Receiver<(OffsetDateTime, String)>,
}

impl Watch {
    pub(crate) fn start(mut kubectl: Command) -> Result<Self> {
        let mut kubectl =
            kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start kubectl")?;
        let output = BufReader::new(kubectl.stdout.take().context("kubectl's output")?);
        let (sender, seen) = channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send((OffsetDateTime::now_utc(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { kubectl, seen })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.kubectl.kill().ok();
        self.kubectl.wait().ok();
    }
}
