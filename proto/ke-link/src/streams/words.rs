//! What both ends of a link's streams say to their callers: ids, kinds, ends and errors. Pure.

use super::MAX_STREAMS;
use super::frame::FrameError;

/// A stream of one link. The cloud's are odd, the edge's even; none is used twice on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(super) u32);

/// What a stream leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// The HTTP server with a kubelet's routes on the edge.
    Kubelet,
}

impl StreamKind {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Kubelet => 1,
        }
    }

    pub(super) fn from_number(number: u8) -> Option<Self> {
        (number == 1).then_some(Self::Kubelet)
    }
}

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams; takes none.
    Cloud,
    /// Takes the streams that the cloud opens.
    Edge,
}

/// Why a stream was ended in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetCode {
    /// Its user let go of it.
    Dropped,
    /// Nobody takes it; the text says why.
    Refused,
    /// The other side has as many streams as it takes.
    TooMany,
    /// What the other side sent on this stream breaks its rules.
    Broken,
    /// The link ended. Never on the wire.
    LinkEnded,
    /// A number of a later version.
    Other,
}

impl ResetCode {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Dropped => 1,
            Self::Refused => 2,
            Self::TooMany => 3,
            Self::Broken => 4,
            Self::LinkEnded | Self::Other => 0,
        }
    }

    pub(super) fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Dropped,
            2 => Self::Refused,
            3 => Self::TooMany,
            4 => Self::Broken,
            _ => Self::Other,
        }
    }
}

/// The end of a stream in both directions, before it was finished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream was ended ({code:?}): {text}")]
pub struct Reset {
    /// What sort of end.
    pub code: ResetCode,
    /// For people; one line.
    pub text: String,
}

impl Reset {
    pub(super) fn new(code: ResetCode, text: &str) -> Self {
        Self { code, text: text.to_owned() }
    }
}

/// Why a stream takes or gives no bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// It was ended in both directions.
    #[error(transparent)]
    Reset(#[from] Reset),
    /// This side has said that it says nothing more.
    #[error("written after its end")]
    Ended,
}

/// The other side does what no end of ours does; nothing more it says about streams can be believed. The caller closes the
/// link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamsBroken {
    /// Bytes that are no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A stream that nobody opened, or opened in a way that is not allowed.
    #[error("a frame of the stream {0}, which is none")]
    Id(u32),
    /// More data than the link's window has room for, or said to have heard more than was sent.
    #[error("the window of the link was not kept")]
    LinkWindow,
    /// Streams opened faster than answers are read.
    #[error("streams are opened faster than answers to them can be written")]
    Flood,
}

/// There are as many streams as this link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the link carries {MAX_STREAMS} streams already")]
pub struct TooManyStreams;

/// What the caller has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The other side opened this stream.
    Opened(StreamId, StreamKind),
    /// There is something to read: bytes, the end, or a reset.
    Readable(StreamId),
    /// Bytes that were refused may be offered again; or there was a reset, which the next offer tells.
    Writable(StreamId),
}

/// What `read` found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes, at least 1.
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The other side says nothing more.
    End,
}
