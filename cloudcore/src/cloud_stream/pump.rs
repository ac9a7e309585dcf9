//! Bytes both ways between client and node, until both have ended, one has failed, or nothing has come for long.
//!
//! Whoever stops reading stops the other's sending: between them is one buffer each way, and nothing is stored. Called by
//! `connection.rs`.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// Bytes read at once, for each direction.
const BUFFER: usize = 16 << 10;
/// When one side has ended, the other has this long between two of its bytes: what is under way arrives, and a client that
/// has gone does not hold a `logs -f` open.
const LINGER: Duration = Duration::from_secs(5);
/// A kubelet's own limit for streams on which nothing moves.
const IDLE_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Both sides said so, or one did and the other fell silent.
    Orderly,
    /// One side broke off.
    Broken(#[expect(dead_code, reason = "shown in the log")] io::Error),
    /// Nothing came for hours.
    Idle,
}

/// Which end of one way broke off.
enum Broken {
    Reader(io::Error),
    Writer(io::Error),
}

/// When a byte moved last, in milliseconds since the start.
struct Pulse {
    start: Instant,
    last_ms: AtomicU64,
}

/// Copies until an end. Both are closed by being dropped.
pub(super) async fn both_ways<A, B>(client: A, node: B) -> Ended
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let pulse = Pulse { start: Instant::now(), last_ms: AtomicU64::new(0) };
    let (client_reads, client_writes) = tokio::io::split(client);
    let (node_reads, node_writes) = tokio::io::split(node);
    let up = Box::pin(one_way(client_reads, node_writes, &pulse));
    let down = Box::pin(one_way(node_reads, client_writes, &pulse));
    tokio::pin!(up, down);
    let (mut up_ended, mut down_ended) = (false, false);
    loop {
        let limit = if up_ended || down_ended { LINGER } else { IDLE_LIMIT };
        let ended = tokio::select! {
            ended = &mut up, if !up_ended => {
                up_ended = true;
                match ended {
                    // A node that takes no more may still have something to say, such as a command's exit status.
                    Err(Broken::Writer(_)) => Ok(()),
                    ended => ended,
                }
            }
            ended = &mut down, if !down_ended => { down_ended = true; ended }
            () = pulse.silence(limit) => return if limit == LINGER { Ended::Orderly } else { Ended::Idle },
        };
        match ended {
            Err(Broken::Reader(error) | Broken::Writer(error)) => return Ended::Broken(error),
            Ok(()) if up_ended && down_ended => return Ended::Orderly,
            Ok(()) => pulse.beat(),
        }
    }
}

/// To the reader's end, which is then the writer's.
async fn one_way(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    pulse: &Pulse,
) -> Result<(), Broken> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n_read = from.read(&mut buffer).await.map_err(Broken::Reader)?;
        let Some(mut read) = buffer.get(..n_read).filter(|read| !read.is_empty()) else { break };
        pulse.beat();
        while !read.is_empty() {
            let n_written = match to.write(read).await.map_err(Broken::Writer)? {
                0 => return Err(Broken::Writer(io::ErrorKind::WriteZero.into())),
                n_written => n_written,
            };
            // A part of it, too, is a sign of life.
            pulse.beat();
            read = read.get(n_written..).unwrap_or_default();
        }
        // Each piece may be a keystroke.
        to.flush().await.map_err(Broken::Writer)?;
        pulse.beat();
    }
    to.shutdown().await.map_err(Broken::Writer)
}

impl Pulse {
    fn beat(&self) {
        let since = self.start.elapsed().as_millis();
        self.last_ms.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns when nothing has moved for so long.
    async fn silence(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.last_ms.load(Ordering::Relaxed));
            let until = self.start + last + limit;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{DuplexStream, ReadBuf, duplex};

    use super::*;

    const ROOM: usize = 1 << 10;

    fn between() -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<Ended>) {
        let ((client, outer), (inner, node)) = (duplex(ROOM), duplex(ROOM));
        (client, node, tokio::spawn(both_ways(outer, inner)))
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_of_one_side_is_the_other_ones_end_and_the_rest_still_comes() {
        let (mut client, mut node, ended) = between();
        client.write_all(b"ask").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        node.read_to_string(&mut asked).await.unwrap();
        assert_eq!(asked, "ask");
        // Longer than the time in which silence counts, but never silent that long.
        for _ in 0..10 {
            tokio::time::sleep(LINGER / 2).await;
            node.write_all(b"answer ").await.unwrap();
        }
        node.shutdown().await.unwrap();
        let mut answered = String::new();
        client.read_to_string(&mut answered).await.unwrap();
        assert_eq!(answered, "answer ".repeat(10));
        assert!(matches!(ended.await.unwrap(), Ended::Orderly));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_takes_no_more_is_heard_to_its_end() {
        let ((mut client, outer), (inner, mut node)) = (duplex(64), duplex(64 << 10));
        let ended = tokio::spawn(both_ways(outer, inner));
        node.write_all(&[7; 50_000]).await.unwrap();
        drop(node);
        client.write_all(b"input").await.unwrap();
        // What comes after it finds nobody to write to, and a slow reader is a reader.
        let mut read = Vec::new();
        while read.len() < 50_000 {
            tokio::time::sleep(LINGER / 2).await;
            let mut some = [0; 1000];
            let n_read = client.read(&mut some).await.unwrap();
            assert!(n_read > 0, "{} of 50000 bytes came", read.len());
            read.extend_from_slice(&some[..n_read]);
        }
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
        assert!(matches!(ended.await.unwrap(), Ended::Orderly));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_takes_no_more_and_says_nothing_is_not_waited_for() {
        struct Deaf(DuplexStream);
        impl AsyncRead for Deaf {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::new(&mut self.0).poll_read(cx, buffer)
            }
        }
        impl AsyncWrite for Deaf {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
                Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let ((mut client, outer), (inner, _node)) = (duplex(ROOM), duplex(ROOM));
        let ended = tokio::spawn(both_ways(outer, Deaf(inner)));
        let start = Instant::now();
        client.write_all(b"input").await.unwrap();
        assert!(matches!(ended.await.unwrap(), Ended::Orderly));
        assert!(start.elapsed() < LINGER * 2, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_gone_holds_nothing() {
        let (client, _node, ended) = between();
        let start = Instant::now();
        drop(client);
        ended.await.unwrap();
        assert!(start.elapsed() <= LINGER + Duration::from_secs(1), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_hours_is_an_end_and_of_minutes_is_not() {
        let (mut client, _node, ended) = between();
        tokio::time::sleep(IDLE_LIMIT / 2).await;
        client.write_all(b"x").await.unwrap();
        tokio::time::sleep(IDLE_LIMIT / 2 + Duration::from_secs(60)).await;
        assert!(!ended.is_finished());
        assert!(matches!(ended.await.unwrap(), Ended::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_stops_the_sender() {
        let (mut client, mut node, _ended) = between();
        let sending = tokio::spawn(async move {
            let mut n_sent = 0;
            while tokio::time::timeout(Duration::from_secs(60), node.write_all(&[7; 1 << 10])).await.is_ok() {
                n_sent += 1 << 10;
            }
            n_sent
        });
        let n_sent = sending.await.unwrap();
        assert!(n_sent <= BUFFER + 3 * ROOM, "{n_sent} bytes were taken from a node whose client reads none");
        // And they are all there when it reads.
        let mut read = vec![0; n_sent];
        client.read_exact(&mut read).await.unwrap();
        assert!(read.iter().all(|byte| *byte == 7));
    }
}
