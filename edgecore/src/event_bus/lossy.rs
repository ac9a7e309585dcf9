//! A queue that never makes its writers wait: when it is full, the oldest goes and is counted.
//!
//! Between edgecore's modules and a broker that may be slow or away: what they say is mostly superseded by what they say
//! next, and nothing of edgecore may stand still because of a broker.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Cloneable; all clones are the same queue. One reader.
#[derive(Debug)]
pub(super) struct Lossy<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    waiting: Mutex<Waiting<T>>,
    came: Notify,
    n_dropped: AtomicU64,
    max_items: usize,
    max_bytes: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    items: VecDeque<(T, usize)>,
    n_bytes: usize,
}

impl<T> Clone for Lossy<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Lossy<T> {
    pub(super) fn new(max_items: usize, max_bytes: usize) -> Self {
        let waiting = Mutex::new(Waiting { items: VecDeque::new(), n_bytes: 0 });
        Self(Arc::new(Shared {
            waiting,
            came: Notify::new(),
            n_dropped: AtomicU64::new(0),
            max_items,
            max_bytes,
        }))
    }

    /// Never waits. An item larger than the whole queue is dropped itself.
    pub(super) fn push(&self, item: T, n_bytes: usize) {
        let mut n_dropped = 0;
        {
            let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.n_bytes += n_bytes;
            waiting.items.push_back((item, n_bytes));
            while waiting.items.len() > self.0.max_items || waiting.n_bytes > self.0.max_bytes {
                let Some((_, n_bytes)) = waiting.items.pop_front() else { break };
                waiting.n_bytes -= n_bytes;
                n_dropped += 1;
            }
        }
        self.0.n_dropped.fetch_add(n_dropped, Ordering::Relaxed);
        self.0.came.notify_one();
    }

    pub(super) fn try_pop(&self) -> Option<T> {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let (item, n_bytes) = waiting.items.pop_front()?;
        waiting.n_bytes -= n_bytes;
        Some(item)
    }

    /// Waits for the next. Cancellation-safe: it takes nothing before it returns.
    pub(super) async fn pop(&self) -> T {
        loop {
            if let Some(item) = self.try_pop() {
                return item;
            }
            self.0.came.notified().await;
        }
    }

    pub(super) fn n_dropped(&self) -> u64 {
        self.0.n_dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_goes_and_is_counted() {
        let queue = Lossy::new(3, 100);
        let check = |n_bytes: usize, expected_dropped: u64| {
            queue.push(n_bytes, n_bytes);
            assert_eq!(queue.n_dropped(), expected_dropped);
        };
        check(1, 0);
        check(2, 0);
        check(3, 0);
        check(4, 1);
        check(95, 3);
        check(101, 6);
        check(7, 6);
        assert_eq!(queue.pop().await, 7);
        assert_eq!(queue.try_pop(), None);
    }
}
