//! Byte streams to nodes: which node is connected here and can have one, and the stream itself.
//!
//! It opens nothing but streams on links that stand, and knows nothing of what they carry. CloudHub attaches each link;
//! whoever serves the API server connects. No channel lies between: a stream's bytes wait in the link's windows
//! (`ke_link::streams`), so that a reader or a node that stalls holds up its own stream and little memory.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use ke_link::streams::shared::{LinkStreams, OpenError, RawStream, StreamOpener};
use ke_link::streams::{Reset, ResetCode, StreamError, StreamKind};
use ke_run::telemetry::Metrics;
use ke_wire::NodeName;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

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
            open: metrics.gauge("cloudcore_open_streams", "Byte streams to nodes that are in use"),
            opened: metrics.counter("cloudcore_opened_streams", "Byte streams to nodes that were opened"),
            reset: metrics.counter(
                "cloudcore_reset_streams",
                "Byte streams to nodes that ended before both sides had finished",
            ),
            bytes_down: metrics.counter("cloudcore_stream_bytes_down", "Bytes sent to nodes by streams"),
            bytes_up: metrics.counter("cloudcore_stream_bytes_up", "Bytes received from nodes by streams"),
        }
    }
}

/// Why there is no stream to a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTunnel {
    /// Another cloudcore may have its link.
    #[error("node {0} is not connected to this cloudcore")]
    NotConnected(NodeName),
    /// It is connected, and stays as it is until its edgecore is another one.
    #[error("the edgecore of node {0} is KubeEdge's or an old one, which has no streams")]
    NoStreams(NodeName),
    /// Worth trying again once others have ended.
    #[error("node {0} has as many streams as its link carries; end some, such as followed logs")]
    TooMany(NodeName),
}

/// Cloneable handle to the links of this process.
#[derive(Clone)]
pub struct Tunnels(Arc<Inner>);

struct Inner {
    /// A node that reconnects has two links for a moment: the number says which one an entry is of.
    nodes: Mutex<HashMap<NodeName, (u64, Option<StreamOpener>)>>,
    n_attached: AtomicU64,
    counters: StreamCounters,
}

/// A link's place among the tunnels; dropped with the link.
pub(crate) struct Attachment {
    tunnels: Tunnels,
    node: NodeName,
    number: u64,
}

impl Tunnels {
    /// No links yet.
    #[must_use]
    pub fn new(counters: StreamCounters) -> Self {
        Self(Arc::new(Inner { nodes: Mutex::default(), n_attached: AtomicU64::new(0), counters }))
    }

    /// Opens a stream to the kubelet's face of this node. It never waits: what is written goes out as the link has room.
    pub fn connect(&self, node: &NodeName) -> Result<TunnelStream, NoTunnel> {
        let opener = match self.nodes().get(node) {
            Some((_, Some(opener))) => opener.clone(),
            Some((_, None)) => return Err(NoTunnel::NoStreams(node.clone())),
            None => return Err(NoTunnel::NotConnected(node.clone())),
        };
        let raw = opener.open(StreamKind::Kubelet).map_err(|error| match error {
            OpenError::TooMany(_) => NoTunnel::TooMany(node.clone()),
            OpenError::LinkEnded => NoTunnel::NotConnected(node.clone()),
        })?;
        self.0.counters.open.inc();
        self.0.counters.opened.inc();
        Ok(TunnelStream { raw, node: node.clone(), tunnels: self.clone(), progress: Progress::default() })
    }

    /// Streams of the link of this node, those included that only wait for their end to be told.
    #[must_use]
    pub fn n_streams(&self, node: &NodeName) -> usize {
        self.nodes().get(node).and_then(|(_, opener)| opener.as_ref()).map_or(0, StreamOpener::n_streams)
    }

    /// Bytes that wait here for this node's streams: to be written, or to be read.
    #[must_use]
    pub fn n_held_bytes(&self, node: &NodeName) -> usize {
        self.nodes().get(node).and_then(|(_, opener)| opener.as_ref()).map_or(0, StreamOpener::n_held_bytes)
    }

    /// Notes the newest link of a node. `None`: its edgecore has no streams.
    pub(crate) fn attach(&self, node: &NodeName, link: Option<&LinkStreams>) -> Attachment {
        let number = self.0.n_attached.fetch_add(1, Ordering::Relaxed);
        self.nodes().insert(node.clone(), (number, link.map(LinkStreams::opener)));
        Attachment { tunnels: self.clone(), node: node.clone(), number }
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeName, (u64, Option<StreamOpener>)>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mut nodes = self.tunnels.nodes();
        if nodes.get(&self.node).is_some_and(|(number, _)| *number == self.number) {
            nodes.remove(&self.node);
        }
    }
}

/// One byte stream to a node. Dropped before `shutdown`, it ends at once in both directions, which the node sees; dropped
/// after it, what was written still arrives.
pub struct TunnelStream {
    raw: RawStream,
    node: NodeName,
    tunnels: Tunnels,
    progress: Progress,
}

#[derive(Debug, Default)]
struct Progress {
    has_finished: bool,
    saw_end: bool,
    saw_reset: bool,
}

impl TunnelStream {
    /// Where it leads.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.node
    }

    fn on_reset(&mut self, reset: &Reset) -> io::Error {
        if !std::mem::replace(&mut self.progress.saw_reset, true) {
            self.tunnels.0.counters.reset.inc();
        }
        let kind = match reset.code {
            ResetCode::LinkEnded => io::ErrorKind::ConnectionAborted,
            ResetCode::Refused | ResetCode::TooMany => io::ErrorKind::ConnectionRefused,
            ResetCode::Dropped | ResetCode::Broken | ResetCode::Other => io::ErrorKind::ConnectionReset,
        };
        io::Error::new(kind, format!("the stream to node {} ended: {}", self.node, reset.text))
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match std::task::ready!(self.raw.poll_read(cx, buffer.initialize_unfilled())) {
            Ok(n_read) => {
                self.progress.saw_end |= n_read == 0;
                buffer.advance(n_read);
                self.tunnels.0.counters.bytes_up.inc_by(n_read as u64);
                Poll::Ready(Ok(()))
            }
            Err(reset) => Poll::Ready(Err(self.on_reset(&reset))),
        }
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match std::task::ready!(self.raw.poll_write(cx, bytes)) {
            Ok(n_taken) => {
                self.tunnels.0.counters.bytes_down.inc_by(n_taken as u64);
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

impl Drop for TunnelStream {
    fn drop(&mut self) {
        let counters = &self.tunnels.0.counters;
        counters.open.dec();
        let Progress { has_finished, saw_end, saw_reset } = self.progress;
        let was_told = saw_reset || (has_finished && saw_end);
        if !was_told {
            counters.reset.inc();
        }
    }
}

impl fmt::Debug for TunnelStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TunnelStream({}, {:?})", self.node, self.raw)
    }
}
