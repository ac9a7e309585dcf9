//! Near end of the byte streams that the cloud opens over the link: each goes to one handler.
//!
//! This file dials nothing and knows nothing of what a stream carries: EdgeHub hands over what comes, `main.rs` says who serves.
//! No channel lies between: bytes wait in the link's windows (`ke_link::streams`), so that a reader that stalls holds up its own
//! stream and little memory. KubeEdge's cloud opens none on the link: `go_tunnel` dials its tunnel instead.

mod go_tunnel;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ke_link::streams::shared::RawStream;
use ke_link::streams::{Reset, ResetCode, StreamError, StreamKind};
use ke_run::telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use go_tunnel::{EdgeStreamConfig, EdgeTunnel, ToKubelet};

/// Who serves a stream. Called by the link's task, so it must not wait: it starts a task, or refuses.
pub type StreamHandler = Arc<dyn Fn(EdgeTunnelStream) + Send + Sync>;

/// The handler of an edgecore that serves nothing by streams.
#[must_use]
pub fn refuse() -> StreamHandler {
    Arc::new(|stream| stream.refuse("this edgecore serves nothing by streams yet"))
}

/// Takes the streams of every link, one after the other.
#[derive(Clone)]
pub struct EdgeStreams {
    handler: StreamHandler,
    counters: Arc<StreamCounters>,
}

/// What is counted of streams.
pub struct StreamCounters {
    open: Gauge,
    opened: Counter,
    reset: Counter,
    bytes_down: Counter,
    bytes_up: Counter,
}

impl StreamCounters {
    /// Registers them.
    pub fn new(metrics: &mut Metrics) -> Self {
        Self {
            open: metrics.gauge("edgecore_open_streams", "Byte streams of the cloud that are in use"),
            opened: metrics.counter("edgecore_opened_streams", "Byte streams that the cloud opened"),
            reset: metrics.counter(
                "edgecore_reset_streams",
                "Byte streams of the cloud that ended before both sides had finished",
            ),
            bytes_down: metrics
                .counter("edgecore_stream_bytes_down", "Bytes received from the cloud by streams"),
            bytes_up: metrics.counter("edgecore_stream_bytes_up", "Bytes sent to the cloud by streams"),
        }
    }
}

impl EdgeStreams {
    /// Each stream that the cloud opens goes to `handler`.
    #[must_use]
    pub fn new(handler: StreamHandler, counters: StreamCounters) -> Self {
        Self { handler, counters: Arc::new(counters) }
    }

    /// Hands a stream over.
    pub(crate) fn accept(&self, raw: RawStream) {
        self.counters.open.inc();
        self.counters.opened.inc();
        let counters = Arc::clone(&self.counters);
        (self.handler)(EdgeTunnelStream { raw, counters, progress: Progress::default() });
    }
}

/// One byte stream of the cloud. Dropped before `shutdown`, it ends at once in both directions, which the cloud sees;
/// dropped after it, what was written still arrives.
pub struct EdgeTunnelStream {
    raw: RawStream,
    counters: Arc<StreamCounters>,
    progress: Progress,
}

#[derive(Debug, Default)]
struct Progress {
    has_finished: bool,
    saw_end: bool,
    saw_reset: bool,
}

impl EdgeTunnelStream {
    /// What the cloud wants to reach.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        self.raw.kind()
    }

    /// Ends it and tells the cloud why, in one sentence without secrets.
    pub fn refuse(self, why: &str) {
        self.raw.refuse(why);
    }

    fn on_reset(&mut self, reset: &Reset) -> io::Error {
        if !std::mem::replace(&mut self.progress.saw_reset, true) {
            self.counters.reset.inc();
        }
        let kind = match reset.code {
            ResetCode::LinkEnded => io::ErrorKind::ConnectionAborted,
            _ => io::ErrorKind::ConnectionReset,
        };
        io::Error::new(kind, format!("the stream of the cloud ended: {}", reset.text))
    }
}

impl AsyncRead for EdgeTunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match std::task::ready!(self.raw.poll_read(cx, buffer.initialize_unfilled())) {
            Ok(n_read) => {
                self.progress.saw_end |= n_read == 0;
                buffer.advance(n_read);
                self.counters.bytes_down.inc_by(n_read as u64);
                Poll::Ready(Ok(()))
            }
            Err(reset) => Poll::Ready(Err(self.on_reset(&reset))),
        }
    }
}

impl AsyncWrite for EdgeTunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match std::task::ready!(self.raw.poll_write(cx, bytes)) {
            Ok(n_taken) => {
                self.counters.bytes_up.inc_by(n_taken as u64);
                Poll::Ready(Ok(n_taken))
            }
            Err(StreamError::Reset(reset)) => Poll::Ready(Err(self.on_reset(&reset))),
            Err(error @ StreamError::Ended) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, error)))
            }
        }
    }

    /// The link sends what was taken without being asked.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.progress.has_finished = true;
        self.raw.finish();
        Poll::Ready(Ok(()))
    }
}

impl Drop for EdgeTunnelStream {
    fn drop(&mut self) {
        self.counters.open.dec();
        let Progress { has_finished, saw_end, saw_reset } = self.progress;
        let was_told = saw_reset || (has_finished && saw_end);
        if !was_told {
            self.counters.reset.inc();
        }
    }
}

impl fmt::Debug for EdgeTunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EdgeTunnelStream({:?})", self.raw)
    }
}
