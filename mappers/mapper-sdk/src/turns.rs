//! When the next call may go to an edge node that takes few: one a second of the whole mapper, whoever asked first.
//!
//! Asked by `carrier.rs`, once per call and device, so that a device with much to tell keeps no other waiting.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

/// KubeEdge's edgecore takes one call a second in the long run, of all mappers together.
const PAUSE: Duration = Duration::from_secs(1);
/// After it has refused one: others call it, too.
const REFUSED: Duration = Duration::from_secs(5);

/// Pure: when the next call may go.
#[derive(Debug, Default)]
struct Pacer(Option<Instant>);

impl Pacer {
    /// Until when to wait. `None`: it goes now, and counts as gone.
    fn take(&mut self, now: Instant) -> Option<Instant> {
        if let Some(next) = self.0.filter(|next| now < *next) {
            return Some(next);
        }
        self.0 = Some(now + PAUSE);
        None
    }

    /// The edge node refused a call.
    fn refused(&mut self, now: Instant) {
        self.0 = self.0.max(Some(now + REFUSED));
    }
}

/// Those who wait for their turn.
#[derive(Debug)]
pub(crate) struct Turns {
    /// One is at the front; the others stand behind it in the order in which they came.
    front: Semaphore,
    pacer: Mutex<Pacer>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { front: Semaphore::new(1), pacer: Mutex::default() }
    }
}

impl Turns {
    /// Ends when one call may go. Whoever stops waiting leaves the queue and takes no turn.
    pub(crate) async fn take(&self) {
        // It is never closed.
        let _front = self.front.acquire().await;
        while let Some(next) = self.pacer(|pacer| pacer.take(Instant::now())) {
            sleep_until(next).await;
        }
    }

    /// The edge node refused a call: all wait for some while.
    pub(crate) fn refused(&self) {
        self.pacer(|pacer| pacer.refused(Instant::now()));
    }

    fn pacer<T>(&self, look: impl FnOnce(&mut Pacer) -> T) -> T {
        look(&mut self.pacer.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn one_a_second() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut pacer = Pacer::default();
        assert_eq!(pacer.take(at(0)), None);
        assert_eq!(pacer.take(at(10)), Some(at(1000)));
        assert_eq!(pacer.take(at(1000)), None);
        // Turns that nobody took are not caught up with.
        assert_eq!((pacer.take(at(9000)), pacer.take(at(9000))), (None, Some(at(10_000))));
        pacer.refused(at(9100));
        assert_eq!((pacer.take(at(10_000)), pacer.take(at(14_100))), (Some(at(14_100)), None));
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_order_of_asking() {
        let (turns, began) = (Arc::new(Turns::default()), Instant::now());
        let gone = Arc::new(Mutex::new(Vec::new()));
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..3 {
            let (turns, gone) = (Arc::clone(&turns), Arc::clone(&gone));
            callers.spawn(async move {
                loop {
                    turns.take().await;
                    gone.lock().unwrap().push((caller, began.elapsed().as_secs()));
                    // The others ask, too.
                    tokio::task::yield_now().await;
                }
            });
        }
        sleep_until(began + Duration::from_millis(5500)).await;
        assert_eq!(*gone.lock().unwrap(), [(0, 0), (1, 1), (2, 2), (0, 3), (1, 4), (2, 5)]);
        // Whoever goes keeps nobody waiting.
        callers.shutdown().await;
        turns.take().await;
        assert_eq!(began.elapsed().as_secs(), 6);
    }
}
