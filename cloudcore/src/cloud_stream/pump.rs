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
            ended = &mut up, if !up_ended => { up_ended = true; ended }
            ended = &mut down, if !down_ended => { down_ended = true; ended }
            () = pulse.silence(limit) => return if limit == LINGER { Ended::Orderly } else { Ended::Idle },
        };
        match ended {
            Err(error) => return Ended::Broken(error),
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
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let n_read = from.read(&mut buffer).await?;
        let Some(read) = buffer.get(..n_read).filter(|read| !read.is_empty()) else { break };
        pulse.beat();
        to.write_all(read).await?;
        // Each piece may be a keystroke.
        to.flush().await?;
        pulse.beat();
    }
    to.shutdown().await
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
    use tokio::io::{DuplexStream, duplex};

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
