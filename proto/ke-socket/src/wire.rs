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
            self.n_held = self.n_held.saturating_sub(cost(&received, self.size));
            if self.held.is_empty() {
                // An idle link keeps no room.
                self.held = VecDeque::new();
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
                *n_held = n_held.saturating_add(cost(&received, *size));
                held.push_back(received);
            }
            Poll::Pending
        })
        .await
    }
}

/// What it counts while it is held.
fn cost<M, E>(received: &Option<Result<M, E>>, size: fn(&M) -> usize) -> usize {
    match received {
        Some(Ok(message)) => size(message).saturating_add(OVERHEAD),
        // After its end there is nothing more to read.
        _ => MAX_HELD,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::Context;

    use futures_util::FutureExt;

    use super::*;

    /// Has always something to read, of this size, and takes nothing.
    struct Stuck {
        size: usize,
        n_read: usize,
    }

    impl Stream for Stuck {
        type Item = Result<usize, Infallible>;
        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            self.n_read += 1;
            Poll::Ready(Some(Ok(self.size)))
        }
    }

    impl Sink<usize> for Stuck {
        type Error = Infallible;
        fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Pending
        }
        fn start_send(self: Pin<&mut Self>, _: usize) -> Result<(), Infallible> {
            Ok(())
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_was_taken_makes_room_for_more() {
        let size = 4 << 10;
        let mut wire = Wire::new(Stuck { size, n_read: 0 }, |size| *size);
        assert!(wire.write(1).now_or_never().is_none());
        let n_ahead = wire.conn.n_read;
        assert_eq!(n_ahead, MAX_HELD.div_ceil(size + OVERHEAD));
        // All but one: the next stuck write may read as many again.
        for _ in 1..n_ahead {
            assert_eq!(wire.next().await, Some(Ok(size)));
        }
        assert!(wire.write(1).now_or_never().is_none());
        assert_eq!(wire.conn.n_read, 2 * n_ahead - 1);
        for _ in 0..n_ahead {
            wire.next().await;
        }
        assert_eq!((wire.n_held, wire.held.len()), (0, 0));
    }
}
