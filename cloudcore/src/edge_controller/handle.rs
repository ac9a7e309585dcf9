//! What a node's link hands to EdgeController, and what the half that answers tells the half that places.

use ke_wire::{Answer, NodeName, Question, Up, Version};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Something a node said, already admitted.
#[derive(Debug)]
pub enum FromNode {
    /// The node's link is up. EdgeController answers by handing the queues all that the node must hold.
    Connected(NodeName),
    /// A link of the node is down; one that replaced it may be up.
    Disconnected(NodeName),
    /// A question; its answer, with the version of the object in it where there is one.
    Ask(NodeName, Question, oneshot::Sender<(Answer, Option<Version>)>),
    /// A message that nothing answers: events. The permit is held until it is stored, so that a node has only so many.
    Tell(NodeName, Up, OwnedSemaphorePermit),
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

/// What the other half of EdgeController learns of the links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LinkNews {
    /// One more link of this node.
    Connected(NodeName),
    /// One less.
    Disconnected(NodeName),
    /// The node registered, though its Node exists: its store may be empty.
    RegisteredAnew(NodeName),
}
