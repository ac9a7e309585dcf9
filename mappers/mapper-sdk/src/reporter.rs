//! Empties a device's outbox into the node, one call at a time.
//!
//! It drops nothing: what the node did not take stays in the outbox until it does, or a newer value takes its place.
//! Started by each device's task, beside it, so that a slow node never delays sampling.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ke_run::backoff::Backoff;
use ke_run::shutdown::Shutdown;
use tokio::sync::Notify;

use crate::device::random;
use crate::edge::{Edge, EdgeError};
use crate::metrics::Counters;
use crate::outbox::{Batch, Outbox};
use crate::settings::DeviceName;

/// An outbox that two tasks share.
#[derive(Debug, Default)]
pub(crate) struct SharedOutbox {
    outbox: Mutex<Outbox>,
    filled: Notify,
}

impl SharedOutbox {
    /// Changes it; the reporter looks again.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Outbox) -> T) -> T {
        let result = self.with(change);
        self.filled.notify_one();
        result
    }

    fn with<T>(&self, change: impl FnOnce(&mut Outbox) -> T) -> T {
        // Poisoned: another holder panicked between two assignments; what is in there is still values of the device.
        change(&mut self.outbox.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Repeats wait this long for something new to go along with.
const REPEAT_AFTER: Duration = Duration::from_secs(1);
/// A busy or absent node is asked again at growing intervals.
const AGAIN: Backoff =
    Backoff { first: Duration::from_millis(500), factor: 2.0, max: Duration::from_secs(15), jitter: 0.5 };
/// At the end the last state may still go out, if the node is quick.
const FAREWELL: Duration = Duration::from_millis(500);

/// Reports until `stop`, then once more.
pub(crate) async fn run(
    name: DeviceName,
    edge: Edge,
    outbox: std::sync::Arc<SharedOutbox>,
    counters: Counters,
    stop: Shutdown,
) {
    let mut attempt = 0;
    loop {
        let batch = tokio::select! {
            batch = next(&outbox) => batch,
            () = stop.wait() => break,
        };
        let sent = tokio::select! {
            sent = send(&name, &edge, &outbox, &batch) => sent,
            () = stop.wait() => break,
        };
        match sent {
            Ok(()) => {
                counters.reports.inc();
                attempt = 0;
            }
            Err(error) => {
                counters.report_errors.inc();
                if attempt == 0 {
                    tracing::warn!(device = %name, %error, "not reported yet, goes on trying");
                }
                let delay = AGAIN.delay(attempt, random());
                attempt = attempt.saturating_add(1);
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = stop.wait() => break,
                }
            }
        }
    }
    if let Some(batch) = outbox.with(|outbox| outbox.batch()) {
        let _ = tokio::time::timeout(FAREWELL, send(&name, &edge, &outbox, &batch)).await;
    }
}

async fn next(outbox: &SharedOutbox) -> Batch {
    loop {
        let filled = outbox.filled.notified();
        match outbox.with(|outbox| outbox.batch()) {
            Some(batch) if batch.is_repeat => tokio::select! {
                () = tokio::time::sleep(REPEAT_AFTER) => return batch,
                () = filled => {}
            },
            Some(batch) => return batch,
            None => filled.await,
        }
    }
}

async fn send(name: &DeviceName, edge: &Edge, outbox: &SharedOutbox, batch: &Batch) -> Result<(), EdgeError> {
    // The state first: it says whether the values mean anything.
    if let Some(state) = batch.state {
        edge.report_state(name, state).await?;
        outbox.with(|outbox| outbox.delivered_state(batch));
    }
    if !batch.twins.is_empty() {
        edge.report(name, batch).await?;
        outbox.with(|outbox| outbox.delivered_twins(batch));
    }
    Ok(())
}
