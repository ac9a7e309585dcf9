//! Pure: what waits for one target.
//!
//! It decides only what is kept; `line.rs` delivers.

use std::collections::VecDeque;
use std::sync::Arc;

/// A quarter of an hour of one property that is pushed every second; a few hundred kilobytes.
pub(crate) const ROOM: usize = 1000;

/// Waiting pushes, oldest first.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    waiting: VecDeque<(u64, Arc<T>)>,
    last_number: u64,
    n_dropped: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), last_number: 0, n_dropped: 0 }
    }
}

impl<T> Queue<T> {
    /// Adds one. When full, the oldest goes and is counted: whoever looks at a device wants to know how it is now.
    pub(crate) fn push(&mut self, item: T) {
        if self.waiting.len() >= ROOM {
            self.waiting.pop_front();
            self.n_dropped = self.n_dropped.saturating_add(1);
        }
        self.last_number = self.last_number.wrapping_add(1);
        self.waiting.push_back((self.last_number, Arc::new(item)));
    }

    /// The oldest and its number; it stays until [`Queue::done`], or until there is no room for it.
    #[must_use]
    pub(crate) fn oldest(&self) -> Option<(u64, Arc<T>)> {
        self.waiting.front().cloned()
    }

    /// This one was delivered, or never will be.
    pub(crate) fn done(&mut self, number: u64) {
        // It may have been dropped meanwhile.
        if self.waiting.front().is_some_and(|(waits, _)| *waits == number) {
            self.waiting.pop_front();
        }
    }

    /// How many were dropped since this was last asked.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.n_dropped)
    }

    /// How many wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_and_are_counted() {
        let mut queue = Queue::default();
        for item in 0..ROOM {
            queue.push(item);
        }
        let (number, oldest) = queue.oldest().unwrap();
        assert_eq!((*oldest, queue.take_dropped()), (0, 0));
        queue.push(ROOM);
        queue.push(ROOM + 1);
        // Dropped while it was under way: the next one is not taken for it.
        queue.done(number);
        assert_eq!((queue.len(), queue.take_dropped(), queue.take_dropped()), (ROOM, 2, 0));
        let (number, oldest) = queue.oldest().unwrap();
        assert_eq!(*oldest, 2);
        queue.done(number);
        assert_eq!(queue.oldest().map(|(_, oldest)| *oldest), Some(3));
    }
}
