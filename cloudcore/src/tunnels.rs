//! Byte streams to nodes: which node is connected here and can have one.
//!
//! It opens nothing but streams on links that stand, and knows nothing of what they carry. CloudHub attaches each link;
//! whoever serves the API server connects. No channel lies between: a stream's bytes wait in the link's windows
//! (`ke_link::streams`), so that a reader or a node that stalls holds up its own stream and little memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ke_link::streams::StreamKind;
use ke_link::streams::shared::{LinkStreams, OpenError, StreamOpener};
use ke_run::telemetry::Metrics;
use ke_socket::stream::{LinkStream, StreamCounters};
use ke_wire::NodeName;

/// What is counted, under this program's names.
#[must_use]
pub fn counters(metrics: &mut Metrics) -> StreamCounters {
    StreamCounters {
        open: metrics.gauge("cloudcore_open_streams", "Byte streams to nodes that are in use"),
        opened: metrics.counter("cloudcore_opened_streams", "Byte streams to nodes that were opened"),
        reset: metrics.counter(
            "cloudcore_reset_streams",
            "Byte streams to nodes that ended before both sides had finished",
        ),
        bytes_read: metrics.counter("cloudcore_stream_bytes_up", "Bytes received from nodes by streams"),
        bytes_written: metrics.counter("cloudcore_stream_bytes_down", "Bytes sent to nodes by streams"),
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
    counters: Arc<StreamCounters>,
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
        Self(Arc::new(Inner { nodes: Mutex::default(), counters: Arc::new(counters) }))
    }

    /// Opens a stream to the kubelet's face of this node. It never waits: what is written goes out as the link has room.
    pub fn connect(&self, node: &NodeName) -> Result<LinkStream, NoTunnel> {
        let opener = match self.nodes().get(node) {
            Some((_, Some(opener))) => opener.clone(),
            Some((_, None)) => return Err(NoTunnel::NoStreams(node.clone())),
            None => return Err(NoTunnel::NotConnected(node.clone())),
        };
        let raw = opener.open(StreamKind::Kubelet).map_err(|error| match error {
            OpenError::TooMany(_) => NoTunnel::TooMany(node.clone()),
            OpenError::LinkEnded => NoTunnel::NotConnected(node.clone()),
        })?;
        Ok(LinkStream::new(raw, format!("the stream to node {node}"), Arc::clone(&self.0.counters)))
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

    /// Notes a link of a node, `number` of which says the order: the newest counts, whichever is told first, so that streams
    /// and messages are never of two links. `None`: its edgecore has no streams.
    pub(crate) fn attach(&self, node: &NodeName, number: u64, link: Option<&LinkStreams>) -> Attachment {
        let mut nodes = self.nodes();
        if nodes.get(node).is_none_or(|(newest, _)| *newest < number) {
            nodes.insert(node.clone(), (number, link.map(LinkStreams::opener)));
        }
        drop(nodes);
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

#[cfg(test)]
mod tests {
    use ke_link::streams::Role;

    use super::*;

    #[test]
    fn the_newest_link_counts_whichever_is_told_first() {
        let tunnels = Tunnels::new(counters(&mut Metrics::new()));
        let node: NodeName = "edge-1".parse().unwrap();
        let (old, new) = (LinkStreams::new(Role::Cloud), LinkStreams::new(Role::Cloud));
        let newer = tunnels.attach(&node, 8, Some(&new));
        // Its task was held up.
        let older = tunnels.attach(&node, 7, Some(&old));
        let stream = tunnels.connect(&node).unwrap();
        assert_eq!((old.opener().n_streams(), new.opener().n_streams()), (0, 1));
        drop((stream, older));
        assert!(tunnels.connect(&node).is_ok(), "the end of the older one takes nothing from the newer");
        // Told in order, the newer takes the place of the older, and one without streams that of one with.
        let without = tunnels.attach(&node, 9, None);
        drop(newer);
        assert_eq!(tunnels.connect(&node).err(), Some(NoTunnel::NoStreams(node.clone())));
        drop(without);
        assert_eq!(tunnels.connect(&node).err(), Some(NoTunnel::NotConnected(node)));
    }
}
