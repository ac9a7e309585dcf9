//! What this node wants the cloud to know, kept until the cloud has it.

use bytes::Bytes;
use ke_wire::{Namespace, ObjectKey, ObjectName, Uid};

/// One thing the cloud should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The Pod's whole status. Only the newest per uid is kept. `status` is a `PodStatus` as Kubernetes JSON.
    PodStatus { namespace: Namespace, name: ObjectName, uid: Uid, status: Bytes },
    /// Every container of a deleted Pod has ended and its volumes are gone: it may leave the cloud. Kept, in order.
    PodGone { namespace: Namespace, name: ObjectName, uid: Uid },
    /// The Node's status. Only the newest is kept. A strategic merge patch, JSON text.
    NodeStatus { patch: String },
    /// A Kubernetes event (`v1 Event`, JSON). Kept, in order; the oldest is dropped and counted beyond a bound.
    Event { key: ObjectKey, body: Bytes },
}

/// Hands reports to the queue. Cloneable; `send` waits while the queue is busy and never loses one.
#[derive(Clone, Debug)]
pub struct Reports(tokio::sync::mpsc::Sender<Report>);

impl Reports {
    /// A handle and the end that [`ReportQueue`] reads. Full: the sender waits, so that status work slows down
    /// instead of memory growing.
    #[must_use]
    pub fn channel() -> (Self, tokio::sync::mpsc::Receiver<Report>) {
        let (sender, receiver) = tokio::sync::mpsc::channel(64);
        (Self(sender), receiver)
    }

    /// Hands over one report. After shutdown it is dropped: the next start reports anew.
    pub async fn send(&self, report: Report) {
        let _ = self.0.send(report).await;
    }
}
