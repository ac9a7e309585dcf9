//! A byte stream of the link as `AsyncRead` and `AsyncWrite`, counted, the same at both ends.
//!
//! It opens nothing: whoever opened the stream or was handed it makes one of it. No channel and no task lie between: bytes wait in
//! the link's windows (`ke_link::streams`), so that a reader that stalls holds up its own stream and little memory.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ke_link::streams::shared::RawStream;
use ke_link::streams::{Reset, ResetCode, StreamError, StreamKind};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is counted of the streams of one program.
#[derive(Debug, Default)]
pub struct StreamCounters {
    /// In use.
    pub open: Gauge,
    /// Ever.
    pub opened: Counter,
    /// Ended before both sides had finished.
    pub reset: Counter,
    /// Bytes that came.
    pub bytes_read: Counter,
    /// Bytes that went.
    pub bytes_written: Counter,
}

/// One byte stream. Dropped before `shutdown`, it ends at once in both directions, which the other end sees; dropped after it,
/// what was written still arrives.
pub struct LinkStream {
    raw: RawStream,
    /// Such as "the stream to node edge-1".
    name: String,
    counters: Arc<StreamCounters>,
    progress: Progress,
}

#[derive(Debug, Default)]
struct Progress {
    has_finished: bool,
    saw_end: bool,
    saw_reset: bool,
}

impl LinkStream {
    /// `name` is what errors call it, such as "the stream to node edge-1".
    #[must_use]
    pub fn new(raw: RawStream, name: String, counters: Arc<StreamCounters>) -> Self {
        counters.open.inc();
        counters.opened.inc();
        Self { raw, name, counters, progress: Progress::default() }
    }

    /// What it leads to.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        self.raw.kind()
    }

    /// Ends it and tells the other end why, in one sentence without secrets.
    pub fn refuse(self, why: &str) {
        self.raw.refuse(why);
    }

    fn on_reset(&mut self, reset: &Reset) -> io::Error {
        if !std::mem::replace(&mut self.progress.saw_reset, true) {
            self.counters.reset.inc();
        }
        let kind = match reset.code {
            ResetCode::LinkEnded => io::ErrorKind::ConnectionAborted,
            ResetCode::Refused | ResetCode::TooMany => io::ErrorKind::ConnectionRefused,
            ResetCode::Dropped | ResetCode::Broken | ResetCode::Other => io::ErrorKind::ConnectionReset,
        };
        io::Error::new(kind, format!("{} ended: {}", self.name, reset.text))
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match std::task::ready!(self.raw.poll_read(cx, buffer.initialize_unfilled())) {
            Ok(n_read) => {
                self.progress.saw_end |= n_read == 0;
                buffer.advance(n_read);
                self.counters.bytes_read.inc_by(n_read as u64);
                Poll::Ready(Ok(()))
            }
            Err(reset) => Poll::Ready(Err(self.on_reset(&reset))),
        }
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match std::task::ready!(self.raw.poll_write(cx, bytes)) {
            Ok(n_taken) => {
                self.counters.bytes_written.inc_by(n_taken as u64);
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

impl Drop for LinkStream {
    fn drop(&mut self) {
        self.counters.open.dec();
        let Progress { has_finished, saw_end, saw_reset } = self.progress;
        let was_told = saw_reset || (has_finished && saw_end);
        if !was_told {
            self.counters.reset.inc();
        }
    }
}

impl fmt::Debug for LinkStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkStream({}, {:?})", self.name, self.raw)
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
