//! The [`Cloud`] handle: how other modules ask the cloud through EdgeHub, and learn whether it is there.
//!
//! It knows nothing of sockets; `link.rs` puts the questions on the wire.

use ke_wire::{Answer, DeviceRef, MessageId, Question, Up, Version};
use tokio::sync::{mpsc, oneshot, watch};

/// Whether the cloud can be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// No connection.
    Away,
    /// A connection stands.
    Connected {
        /// Connections are counted from 1, so that a reader notices one it slept through.
        number: u64,
        /// Whose cloud is there.
        peer: Peer,
    },
}

impl LinkState {
    /// Whose cloud is there, if one is.
    #[must_use]
    pub fn peer(self) -> Option<Peer> {
        match self {
            Self::Away => None,
            Self::Connected { peer, .. } => Some(peer),
        }
    }
}

/// Who made a cloud, as far as the link tells: ours takes the offer of byte streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Ours: it opens streams on the link, and answers what KubeEdge's leaves unanswered.
    Isthmus,
    /// KubeEdge's, or one of ours without streams: the least is expected of it.
    KubeEdge,
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no connection, or it broke before the answer came.
    #[error("the cloud is not reachable")]
    Offline,
    /// The connection stands, but no answer came in time.
    #[error("the cloud did not answer in time")]
    NoAnswer,
}

/// Says that an answer's object is on disk, so that the cloud may count on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt(pub(super) MessageId);

/// What came of a question.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer.
    pub answer: Answer,
    /// Version of the object in it, where there is one.
    pub version: Option<Version>,
    /// Owed to the cloud once the object is on disk.
    pub receipt: Option<Receipt>,
}

/// Devices that the cloud says came, left or are here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Some came, some left.
    Changed {
        /// Devices that came.
        added: Vec<DeviceRef>,
        /// Devices that left.
        removed: Vec<DeviceRef>,
    },
    /// These and no others.
    All(Vec<DeviceRef>),
}

/// What a handle asks of EdgeHub.
pub(super) enum Request {
    Ask(Question, oneshot::Sender<Result<Answered, AskError>>),
    Kept(Receipt),
    Tell(Box<Up>),
}

/// Cloneable handle: asks the cloud, tells whether it is there.
#[derive(Clone, Debug)]
pub struct Cloud {
    requests: mpsc::Sender<Request>,
    state: watch::Receiver<LinkState>,
}

/// EdgeHub's end of [`Cloud`].
pub struct CloudInbox {
    pub(super) requests: mpsc::Receiver<Request>,
    state: watch::Sender<LinkState>,
}

impl CloudInbox {
    /// Tells every reader how the link is now.
    pub(crate) fn set(&self, state: LinkState) {
        self.state.send_if_modified(|held| std::mem::replace(held, state) != state);
    }
}

impl Cloud {
    /// The handle, and the end that EdgeHub reads. Made before EdgeHub, since MetaManager asks through it and EdgeHub
    /// hands MetaManager what comes. Full: whoever asks waits.
    #[must_use]
    pub fn channel() -> (Self, CloudInbox) {
        let (sender, receiver) = mpsc::channel(64);
        let (state_sender, state) = watch::channel(LinkState::Away);
        (Self { requests: sender, state }, CloudInbox { requests: receiver, state: state_sender })
    }

    /// Asks the cloud. Fails at once while there is no connection.
    pub async fn ask(&self, question: Question) -> Result<Answered, AskError> {
        if *self.state.borrow() == LinkState::Away {
            return Err(AskError::Offline);
        }
        let (sender, receiver) = oneshot::channel();
        self.requests.send(Request::Ask(question, sender)).await.map_err(|_| AskError::Offline)?;
        receiver.await.map_err(|_| AskError::Offline)?
    }

    /// Whose cloud is connected now, if one is.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        self.state.borrow().peer()
    }

    /// Tells the cloud something that nothing answers and nobody keeps. Errors: it is away, or nobody knows whether it heard.
    pub async fn tell(&self, message: Up) -> Result<(), AskError> {
        if *self.state.borrow() == LinkState::Away {
            return Err(AskError::Offline);
        }
        self.requests.send(Request::Tell(Box::new(message))).await.map_err(|_| AskError::Offline)
    }

    /// The object that came with this receipt is on disk.
    pub async fn kept(&self, receipt: Option<Receipt>) {
        if let Some(receipt) = receipt {
            // Closed at shutdown only; the cloud then sends it again to the next run.
            let _ = self.requests.send(Request::Kept(receipt)).await;
        }
    }

    /// The link's state and its changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }
}
