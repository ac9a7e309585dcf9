//! One link's socket, which never stops reading because it writes.
//!
//! Two ends that both wait for room to write, and read nothing meanwhile, would wait for ever. Messages alone are too rare
//! for that; streams in both directions are not.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;

use futures_util::{Sink, SinkExt, Stream, StreamExt};

/// Bytes that are read ahead while a write is stuck: all the data that the other end may have under way (128 KiB), several
/// times. Full: the rest stays in its socket, and the write has its own limit.
const MAX_HELD: usize = 512 << 10;
/// What a message costs besides its bytes.
const OVERHEAD: usize = 64;

/// The socket, and what was read from it while something was written.
pub struct Wire<C, M, E> {
    /// The socket itself.
    pub conn: C,
    held: VecDeque<Option<Result<M, E>>>,
    n_held: usize,
    size: fn(&M) -> usize,
}

impl<C, M, E> Wire<C, M, E>
where
    C: Stream<Item = Result<M, E>> + Sink<M, Error = E> + Unpin,
{
    /// `size`: bytes of a message.
    pub fn new(conn: C, size: fn(&M) -> usize) -> Self {
        Self { conn, held: VecDeque::new(), n_held: 0, size }
    }

    /// The next message; nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Result<M, E>> {
        if let Some(received) = self.held.pop_front() {
            if self.held.is_empty() {
                self.held = VecDeque::new();
                self.n_held = 0;
            }
            return received;
        }
        self.conn.next().await
    }

    /// Writes one message, and returns when the socket has taken all of it.
    pub async fn write(&mut self, message: M) -> Result<(), E> {
        let Self { conn, held, n_held, size } = self;
        let mut message = Some(message);
        poll_fn(move |cx| {
            loop {
                let written = match message {
                    Some(_) => conn.poll_ready_unpin(cx)?,
                    None => conn.poll_flush_unpin(cx)?,
                };
                match (written, message.take()) {
                    (Poll::Ready(()), Some(message)) => conn.start_send_unpin(message)?,
                    (Poll::Ready(()), None) => return Poll::Ready(Ok(())),
                    (Poll::Pending, unsent) => {
                        message = unsent;
                        break;
                    }
                }
            }
            while *n_held < MAX_HELD {
                let Poll::Ready(received) = conn.poll_next_unpin(cx) else { break };
                // After its end there is nothing more to read.
                *n_held += match &received {
                    Some(Ok(message)) => size(message) + OVERHEAD,
                    _ => MAX_HELD,
                };
                held.push_back(received);
            }
            Poll::Pending
        })
        .await
    }
}
