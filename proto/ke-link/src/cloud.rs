//! The cloud's end of one node's link: window, acknowledgements, retransmission, silence.
//!
//! It never decides what a node gets nor keeps anything beyond the connection. `cloud_hub/node_link.rs` drives it.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ke_wire::kubeedge::{self, FRAME_LIMIT};
use ke_wire::{About, Answer, Down, Kind, MessageId, ObjectKey, Up, Version};

use crate::{CloseReason, IgnoredWhy, ProtocolError};

/// How the cloud's end behaves. The durations are KubeEdge's.
#[derive(Clone, Debug)]
pub struct CloudConfig {
    /// A link on which nothing was received for this long is given up. Edges say something every 15 s.
    pub keepalive_limit: Duration,
    /// An unacknowledged message is sent again after this long.
    pub resend_after: Duration,
    /// After so many transmissions without acknowledgement a message is given back as lost.
    pub max_transmissions: u32,
    /// Unacknowledged messages under way. Go edges drop the oldest of 100 queued ones, so stay far below.
    pub window: usize,
    /// Largest frame that is read, bytes.
    pub frame_limit: usize,
    /// Unix milliseconds at the instant given to `new`. Only copied into messages, for people who read traces.
    pub started_unix_ms: i64,
}

impl Default for CloudConfig {
    fn default() -> Self {
        Self {
            keepalive_limit: Duration::from_secs(30),
            resend_after: Duration::from_secs(5),
            max_transmissions: 5,
            window: 16,
            frame_limit: FRAME_LIMIT,
            started_unix_ms: 0,
        }
    }
}

/// What an acknowledged message did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It made the node hold an object.
    Put,
    /// It took an object from the node.
    Delete,
    /// It answered a read of an object, which the node keeps.
    Answer,
}

/// What the caller has to do or to know.
#[derive(Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this as one text frame.
    Transmit(Bytes),
    /// The node said this. Keepalives and acknowledgements are not handed up.
    Received(Up),
    /// The node acknowledged this message. Said once for each `send`.
    Delivered {
        /// Id of the message.
        id: MessageId,
        /// What it was about.
        key: ObjectKey,
        /// The version it carried.
        version: Option<Version>,
        /// What it did.
        deed: Deed,
    },
    /// The node did not acknowledge this message, however often it was sent. The caller queues it again.
    Lost {
        /// Id of the message.
        id: MessageId,
        /// What it was about.
        key: ObjectKey,
        /// The version it carried.
        version: Option<Version>,
        /// What it did.
        deed: Deed,
    },
    /// A frame had no effect.
    Ignored {
        /// Why.
        why: IgnoredWhy,
    },
    /// The link is given up. Whatever was neither delivered nor lost is to be sent on the next one.
    Closed(CloseReason),
}

/// Without the frame: it may carry a Secret.
impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transmit(frame) => write!(f, "Transmit({} bytes)", frame.len()),
            Self::Received(message) => f.debug_tuple("Received").field(message).finish(),
            Self::Delivered { id, key, version, deed } => {
                write!(f, "Delivered({id:?}, {key:?}, {version:?}, {deed:?})")
            }
            Self::Lost { id, key, version, deed } => {
                write!(f, "Lost({id:?}, {key:?}, {version:?}, {deed:?})")
            }
            Self::Ignored { why } => f.debug_tuple("Ignored").field(why).finish(),
            Self::Closed(reason) => f.debug_tuple("Closed").field(reason).finish(),
        }
    }
}

/// The window has no room; the message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the window of unacknowledged messages is full")]
pub struct WindowFull;

struct InFlight {
    id: MessageId,
    key: ObjectKey,
    version: Option<Version>,
    deed: Deed,
    /// Every transmission is the same bytes, id and timestamp included.
    frame: Bytes,
    transmissions: u32,
    due: Instant,
}

/// Without the frame: it may carry a Secret.
impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {}, sent {} times", self.id, self.deed, self.key, self.transmissions)
    }
}

/// The cloud's end of one connection.
#[derive(Debug)]
pub struct CloudEnd {
    config: CloudConfig,
    started: Instant,
    last_heard: Instant,
    in_flight: Vec<InFlight>,
    outputs: VecDeque<Output>,
    open: bool,
}

impl CloudEnd {
    /// The end of a connection that has just been admitted.
    #[must_use]
    pub fn new(now: Instant, config: CloudConfig) -> Self {
        Self {
            config,
            started: now,
            last_heard: now,
            in_flight: Vec::new(),
            outputs: VecDeque::new(),
            open: true,
        }
    }

    /// Whether a Put or Delete would be taken now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.open && self.in_flight.len() < self.config.window
    }

    /// Whether a message about this object waits for its acknowledgement. Edges keep no order between messages, so
    /// the next one about the same object should wait until this is false.
    #[must_use]
    pub fn is_in_flight(&self, key: &ObjectKey) -> bool {
        self.in_flight.iter().any(|sent| sent.key == *key)
    }

    /// Number of messages that wait for their acknowledgement.
    #[must_use]
    pub fn n_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Sends a message. Puts and Deletes are refused while the window is full; nothing else ever is, for an answer
    /// that waits is an edge that waits. Answers that the node keeps and acknowledges fill the window all the same.
    pub fn send(&mut self, now: Instant, message: Down) -> Result<(), WindowFull> {
        let awaited = awaits_ack(&message);
        if matches!(message, Down::Put(_) | Down::Delete(_)) && !self.has_room() {
            return Err(WindowFull);
        }
        if !self.open {
            return Ok(());
        }
        let frame = Bytes::from(kubeedge::encode_down(&message, self.unix_ms(now)));
        if let Some((id, key, version, deed)) = awaited {
            let due = now + self.config.resend_after;
            self.in_flight.push(InFlight {
                id,
                key,
                version,
                deed,
                frame: frame.clone(),
                transmissions: 1,
                due,
            });
        }
        self.outputs.push_back(Output::Transmit(frame));
        Ok(())
    }

    /// Takes in one frame. A frame that makes no sense is an `Ignored`; only one that is not JSON, or too large, is an
    /// error, after which the caller closes the connection.
    pub fn handle_bytes(&mut self, now: Instant, frame: &[u8]) -> Result<(), ProtocolError> {
        if !self.open {
            return Ok(());
        }
        self.last_heard = self.last_heard.max(now);
        match kubeedge::decode_up(frame, self.config.frame_limit) {
            Ok(Up::Keepalive { .. }) => {}
            Ok(Up::Ack { to, .. }) => self.on_ack(&to),
            Ok(message) => self.outputs.push_back(Output::Received(message)),
            Err(why) if why.is_fatal() => {
                self.open = false;
                return Err(why.into());
            }
            Err(why) => self.outputs.push_back(Output::Ignored { why: why.into() }),
        }
        Ok(())
    }

    /// A sign of life without a message: a WebSocket ping or pong.
    pub fn handle_life(&mut self, now: Instant) {
        self.last_heard = self.last_heard.max(now);
    }

    /// Does what is due at `now`. Calling it too early or too often is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.open {
            return;
        }
        if now >= self.last_heard + self.config.keepalive_limit {
            self.open = false;
            self.outputs.push_back(Output::Closed(CloseReason::Silent));
            return;
        }
        let (limit, pause) = (self.config.max_transmissions, self.config.resend_after);
        for lost in self.in_flight.extract_if(.., |sent| sent.due <= now && sent.transmissions >= limit) {
            let InFlight { id, key, version, deed, .. } = lost;
            self.outputs.push_back(Output::Lost { id, key, version, deed });
        }
        for sent in self.in_flight.iter_mut().filter(|sent| sent.due <= now) {
            sent.transmissions += 1;
            sent.due = now + pause;
            self.outputs.push_back(Output::Transmit(sent.frame.clone()));
        }
    }

    /// The next thing to do or to know.
    pub fn poll_output(&mut self) -> Option<Output> {
        let next = self.outputs.pop_front();
        if next.is_none() {
            // A cloud has thousands of ends that are mostly idle: what is empty holds no memory.
            self.outputs = VecDeque::new();
            if self.in_flight.is_empty() {
                self.in_flight = Vec::new();
            }
        }
        next
    }

    /// When `handle_timeout` wants to be called next. `None` once the link is given up.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let silence = self.last_heard + self.config.keepalive_limit;
        self.open.then(|| self.in_flight.iter().map(|sent| sent.due).fold(silence, Instant::min))
    }

    /// Acknowledgements of unknown messages are normal: Go edges acknowledge every answer.
    fn on_ack(&mut self, to: &MessageId) {
        if let Some(position) = self.in_flight.iter().position(|sent| sent.id == *to) {
            let InFlight { id, key, version, deed, .. } = self.in_flight.swap_remove(position);
            self.outputs.push_back(Output::Delivered { id, key, version, deed });
        }
    }

    fn unix_ms(&self, now: Instant) -> i64 {
        crate::unix_ms(self.config.started_unix_ms, self.started, now)
    }
}

/// Which messages the cloud waits for: pushes, and answers that KubeEdge records as held by the node.
fn awaits_ack(message: &Down) -> Option<(MessageId, ObjectKey, Option<Version>, Deed)> {
    match message {
        Down::Put(put) => Some((put.id.clone(), put.key.clone(), Some(put.version), Deed::Put)),
        Down::Delete(delete) => Some((delete.id.clone(), delete.key.clone(), delete.version, Deed::Delete)),
        Down::Answer { id, about: About::Object(key), version, answer: Answer::Object(_), .. }
            if is_kept_when_read(&key.kind) =>
        {
            Some((id.clone(), key.clone(), *version, Deed::Answer))
        }
        _ => None,
    }
}

fn is_kept_when_read(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::ConfigMap
            | Kind::Secret
            | Kind::PersistentVolume
            | Kind::PersistentVolumeClaim
            | Kind::VolumeAttachment
    )
}
