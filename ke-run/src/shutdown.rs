//! The wish to stop, as a token that every module can hold.
//!
//! A `Shutdown` never goes back to "running" and never ends the process itself; only `main` does that.
//! Called by `main.rs` (makes it), the supervisor (passes it on) and every module's `run` (waits for it).

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells its holder when to stop. Cheap to clone; all clones see the same thing.
#[derive(Clone, Debug)]
pub struct Shutdown {
    // Every token keeps the sender too, so that a wait can never end because the other side is gone.
    wishes: Arc<watch::Sender<u32>>,
}

/// Stops what holds the matching [`Shutdown`]. Dropping it stops nothing.
#[derive(Clone, Debug)]
pub struct Trigger(Shutdown);

impl Trigger {
    /// Asks everybody to stop. A second call means "at once".
    pub fn stop(&self) {
        self.0.ask();
    }
}

impl Shutdown {
    /// A token that only `Trigger::stop` triggers.
    #[must_use]
    pub fn new() -> (Trigger, Shutdown) {
        let shutdown = Self { wishes: Arc::new(watch::Sender::new(0)) };
        (Trigger(shutdown.clone()), shutdown)
    }

    /// A token that SIGTERM or SIGINT triggers; the second such signal means "at once".
    /// Must be called inside a tokio runtime. Errors: the operating system refuses a signal handler.
    pub fn on_signals() -> std::io::Result<Shutdown> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (trigger, shutdown) = Self::new();
        tokio::spawn(async move {
            loop {
                let came = tokio::select! {
                    came = terminate.recv() => came,
                    came = interrupt.recv() => came,
                };
                if came.is_none() {
                    return;
                }
                tracing::info!("a signal asks this process to stop");
                trigger.stop();
            }
        });
        Ok(shutdown)
    }

    /// Returns as soon as somebody wishes to stop, at once if that has been said already.
    /// Cancellation-safe: a dropped wait loses nothing, so it may stand in a `select!` inside a loop.
    pub async fn wait(&self) {
        self.wait_for(1).await;
    }

    /// Returns when somebody has asked twice: do not finish anything, end.
    pub async fn wait_hard(&self) {
        self.wait_for(2).await;
    }

    /// Whether somebody wishes to stop.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        *self.wishes.borrow() > 0
    }

    pub(crate) fn ask(&self) {
        self.wishes.send_modify(|wishes| *wishes = wishes.saturating_add(1));
    }

    async fn wait_for(&self, at_least: u32) {
        // Cannot be an error: `self` holds the sender.
        let _ = self.wishes.subscribe().wait_for(|wishes| *wishes >= at_least).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_clones_stop_and_stay_stopped() {
        let (trigger, shutdown) = Shutdown::new();
        let waiting = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.wait().await }
        });
        assert!(!shutdown.is_triggered());
        trigger.stop();
        waiting.await.unwrap();
        shutdown.wait().await;
        assert!(shutdown.clone().is_triggered());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_trigger_stops_nothing_and_a_dropped_wait_loses_nothing() {
        let (trigger, shutdown) = Shutdown::new();
        drop(trigger.clone());
        let short = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(short, shutdown.wait()).await.is_err());
        trigger.stop();
        drop(trigger);
        shutdown.wait().await;
        assert!(tokio::time::timeout(short, shutdown.wait_hard()).await.is_err());
    }

    #[tokio::test]
    async fn the_second_wish_is_the_hard_one() {
        let (trigger, shutdown) = Shutdown::new();
        trigger.stop();
        trigger.stop();
        shutdown.wait_hard().await;
    }
}
