//! What a subscription sent and nobody took yet: the newest per property, so that it never grows and nobody waits long.
//! Filled by the client library's callback, emptied by `driver.rs`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Newest values by number.
pub struct Newest<T> {
    waiting: Mutex<Waiting<T>>,
    arrived: Notify,
}

struct Waiting<T> {
    values: BTreeMap<usize, T>,
    last: usize,
}

impl<T> Default for Newest<T> {
    fn default() -> Self {
        Self { waiting: Mutex::new(Waiting { values: BTreeMap::new(), last: 0 }), arrived: Notify::new() }
    }
}

impl<T> Newest<T> {
    /// Replaces what waits under this number.
    pub fn put(&self, number: usize, value: T) {
        self.waiting().values.insert(number, value);
        self.arrived.notify_one();
    }

    /// The next in turn, so that one that changes all the time starves nobody. Cancellation-safe.
    pub async fn next(&self) -> (usize, T) {
        loop {
            let arrived = self.arrived.notified();
            if let Some(next) = self.take() {
                return next;
            }
            arrived.await;
        }
    }

    fn take(&self) -> Option<(usize, T)> {
        let mut waiting = self.waiting();
        let after = waiting.values.range((Bound::Excluded(waiting.last), Bound::Unbounded)).next();
        let number = after.or_else(|| waiting.values.iter().next()).map(|(number, _)| *number)?;
        waiting.last = number;
        waiting.values.remove(&number).map(|value| (number, value))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting<T>> {
        // Nothing between lock and unlock leaves it half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn newest_in_turn() {
        let newest = Newest::default();
        for (number, value) in [(2, "a"), (0, "b"), (2, "c"), (1, "d")] {
            newest.put(number, value);
        }
        assert_eq!(newest.next().await, (1, "d"));
        newest.put(1, "e");
        assert_eq!(newest.next().await, (2, "c"));
        assert_eq!(newest.next().await, (0, "b"));
        assert_eq!(newest.next().await, (1, "e"));
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, newest.next());
        assert!(waiting.await.is_err());
    }
}
