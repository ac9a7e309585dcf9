//! One stream of a link: its two directions, what waits in each, and what each may still carry. Pure.

use std::collections::VecDeque;
use std::io::Read;

use super::{FIRST_WINDOW, GROWTH, MAX_QUEUE, MAX_WINDOW, Reset};

/// Whether this side says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    Open,
    /// What is queued goes out, then the end.
    Ending,
    Ended,
}

/// Whether the other side says more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    Open,
    Ended,
}

/// Who still holds the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    ByUser,
    /// Let go after its end was said: it lives until that is on the wire.
    ByWire,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) sending: Sending,
    pub(super) receiving: Receiving,
    pub(super) held: Held,
    /// Set once it is over in both directions.
    pub(super) reset: Option<Reset>,
    /// Taken from the user, not yet transmitted; never more than `window`.
    pub(super) queue: VecDeque<u8>,
    /// What the other side still takes, `queue` included.
    pub(super) window: usize,
    /// Received, not yet read.
    pub(super) unread: VecDeque<u8>,
    /// What the other side may still send.
    pub(super) granted: usize,
    /// The part of `granted` that it has not been told of; its WINDOW frame waits among the urgent ones unless 0.
    pub(super) untold: usize,
    /// Waits for its turn to transmit.
    pub(super) is_in_turn: bool,
    /// Its user was refused some bytes and wants to hear of room.
    pub(super) wants_room: bool,
    /// Stands in the queue of those that wait for room in the link's.
    pub(super) waits_for_link: bool,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            sending: Sending::Open,
            receiving: Receiving::Open,
            held: Held::ByUser,
            reset: None,
            queue: VecDeque::new(),
            window: FIRST_WINDOW,
            unread: VecDeque::new(),
            granted: FIRST_WINDOW,
            untold: 0,
            is_in_turn: false,
            wants_room: false,
            waits_for_link: false,
        }
    }

    /// Bytes its own limits leave room for.
    pub(super) fn room(&self) -> usize {
        self.window.min(MAX_QUEUE).saturating_sub(self.queue.len())
    }

    pub(super) fn has_something_to_send(&self) -> bool {
        self.reset.is_none() && (!self.queue.is_empty() || self.sending == Sending::Ending)
    }

    /// How far it reaches into what all streams share. Of a stream that was let go nothing is kept.
    pub(super) fn growth(&self) -> usize {
        if self.held == Held::ByWire {
            return 0;
        }
        (self.granted + self.unread.len()).saturating_sub(FIRST_WINDOW)
    }

    /// How much more the other side may send now. `others`: growth of all other streams.
    pub(super) fn next_grant(&self, others: usize) -> usize {
        if self.receiving == Receiving::Ended || self.reset.is_some() || self.held == Held::ByWire {
            return 0;
        }
        let target = if others + (MAX_WINDOW - FIRST_WINDOW) <= GROWTH { MAX_WINDOW } else { FIRST_WINDOW };
        let more = target.saturating_sub(self.granted + self.unread.len());
        // Half a window is worth a frame; less can wait for the next read.
        if more >= target / 2 { more } else { 0 }
    }

    /// Moves what fits; an empty queue holds no memory, for most streams are idle most of the time.
    pub(super) fn read(&mut self, into: &mut [u8]) -> usize {
        let n_read = take(&mut self.unread, into);
        if self.unread.is_empty() {
            self.unread = VecDeque::new();
        }
        n_read
    }
}

/// Moves the front of a queue and says how much that was.
pub(super) fn take(queue: &mut VecDeque<u8>, into: &mut [u8]) -> usize {
    let n_taken = queue.len().min(into.len());
    // As much as there is, so it cannot fail.
    let _ = into.get_mut(..n_taken).map(|into| queue.read_exact(into));
    n_taken
}
