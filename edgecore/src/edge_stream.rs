//! Near end of the byte streams that the cloud opens over the link: each goes to one handler.
//!
//! This file dials nothing and knows nothing of what a stream carries: EdgeHub hands over what comes, `main.rs` says who serves.
//! No channel lies between: bytes wait in the link's windows (`ke_link::streams`), so that a reader that stalls holds up its own
//! stream and little memory. KubeEdge's cloud opens none on the link: `go_tunnel` dials its tunnel instead.

mod go_tunnel;

use std::sync::Arc;

use ke_link::streams::shared::RawStream;
use ke_run::telemetry::Metrics;
use ke_socket::stream::{LinkStream, StreamCounters};

pub use go_tunnel::{EdgeStreamConfig, EdgeTunnel, ToKubelet};

/// Who serves a stream. Called by the link's task, so it must not wait: it starts a task, or refuses.
pub type StreamHandler = Arc<dyn Fn(LinkStream) + Send + Sync>;

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

/// What is counted, under this program's names.
#[must_use]
pub fn counters(metrics: &mut Metrics) -> StreamCounters {
    StreamCounters {
        open: metrics.gauge("edgecore_open_streams", "Byte streams of the cloud that are in use"),
        opened: metrics.counter("edgecore_opened_streams", "Byte streams that the cloud opened"),
        reset: metrics.counter(
            "edgecore_reset_streams",
            "Byte streams of the cloud that ended before both sides had finished",
        ),
        bytes_read: metrics.counter("edgecore_stream_bytes_down", "Bytes received from the cloud by streams"),
        bytes_written: metrics.counter("edgecore_stream_bytes_up", "Bytes sent to the cloud by streams"),
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
        let name = "the stream of the cloud".to_owned();
        (self.handler)(LinkStream::new(raw, name, Arc::clone(&self.counters)));
    }
}
