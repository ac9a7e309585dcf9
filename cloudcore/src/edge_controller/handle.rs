//! What a node's link hands to EdgeController, what others may ask of it, and what the half that answers tells the placer.

use ke_wire::{Answer, EventChange, NodeName, ObjectKey, Question, Version};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch as state};

/// Something a node said, already admitted.
#[derive(Debug)]
pub enum FromNode {
    /// The node's link is up. EdgeController answers by handing the queues all that the node must hold.
    Connected(NodeName),
    /// A link of the node is down; one that replaced it may be up.
    Disconnected(NodeName),
    /// A question; its answer, with the version of the object in it where there is one.
    Ask(NodeName, Question, oneshot::Sender<(Answer, Option<Version>)>),
    /// A Kubernetes event, which nothing answers. The permit is held until it is stored, so that a node has only so many.
    Event(NodeName, ObjectKey, EventChange, OwnedSemaphorePermit),
}

/// Cloneable handle to the half of EdgeController that answers.
#[derive(Clone, Debug)]
pub struct Upstream(mpsc::Sender<FromNode>);

impl Upstream {
    /// A handle and the end that EdgeController reads. Full: the link stops reading its socket, so that a flood of one
    /// node slows that node.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<FromNode>) {
        let (sender, receiver) = mpsc::channel(1024);
        (Self(sender), receiver)
    }

    /// Hands over one message. After shutdown it is dropped.
    pub async fn tell(&self, message: FromNode) {
        let _ = self.0.send(message).await;
    }
}

/// What others may ask of the module. Cloneable.
#[derive(Clone, Debug)]
pub struct EdgeControllerHandle {
    passes: mpsc::Sender<()>,
    complete: state::Receiver<bool>,
}

impl EdgeControllerHandle {
    pub(super) fn new(passes: mpsc::Sender<()>, complete: state::Receiver<bool>) -> Self {
        Self { passes, complete }
    }

    /// Hands the queues once more all that each connected node must hold. A pass that waits already is enough.
    pub fn repeat_all(&self) {
        let _ = self.passes.try_send(());
    }

    /// Whether the watches have shown all there is once.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        *self.complete.borrow()
    }

    /// Returns when they have.
    pub async fn wait_complete(&self) {
        let _ = self.complete.clone().wait_for(|complete| *complete).await;
    }
}

/// What the placer learns of the links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkNews {
    /// One more link of this node.
    Connected(NodeName),
    /// One less.
    Disconnected(NodeName),
    /// The node registered, though its Node exists: its store may be empty.
    RegisteredAnew(NodeName),
}
