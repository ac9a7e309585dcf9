//! Only data: what a broker is bounded by, who is connected, and what one turn brings forth.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{Change, ConnectCode, Delivery, Message, Packet, Will};

/// Names a connection, given by whoever accepted it, never twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// Names a message that was heard and is not yet kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(crate) u64);

/// Bounds.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Messages that wait for one client; the oldest goes when one more comes.
    pub session_queue: usize,
    /// The same in bytes of topics and payloads.
    pub session_bytes: usize,
    /// Messages of QoS 1 and 2 on their way to one client.
    pub max_under_way: usize,
    /// Messages given to one connection and not yet written to its socket.
    pub send_window: usize,
    /// Connections at once; one more is closed.
    pub max_connections: usize,
    /// Sessions of clients, here or away. One more makes the one go that left first.
    pub max_sessions: usize,
    /// Subscriptions of one client; one more is refused.
    pub max_subscriptions: usize,
    /// Topics with a retained message; one more is passed on but not kept.
    pub max_retained: usize,
    /// Retained bytes.
    pub max_retained_bytes: usize,
    /// How long a connection may take to say CONNECT.
    pub connect_limit: Duration,
}

impl Default for BrokerConfig {
    /// Fits an edge node with a few hundred devices into a few MiB.
    fn default() -> Self {
        Self {
            session_queue: 100,
            session_bytes: 4 * 1024 * 1024,
            max_under_way: 64,
            send_window: 128,
            max_connections: 256,
            max_sessions: 512,
            max_subscriptions: 256,
            max_retained: 16_384,
            max_retained_bytes: 8 * 1024 * 1024,
            connect_limit: Duration::from_secs(10),
        }
    }
}

pub(crate) type Limits = BrokerConfig;

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// It said farewell.
    #[error("it said farewell")]
    Farewell,
    /// The socket ended.
    #[error("its connection broke")]
    Broken,
    /// It was silent for one and a half times what it promised.
    #[error("it was silent for too long")]
    Silent,
    /// It never said CONNECT.
    #[error("it did not say CONNECT in time")]
    NoConnect,
    /// Its bytes or its order of packets are against the rules.
    #[error("it broke the protocol: {0}")]
    Protocol(String),
    /// CONNECT was refused.
    #[error("it was refused: {0:?}")]
    Refused(ConnectCode),
    /// Another connection has its client id now.
    #[error("another connection took its client id over")]
    TakenOver,
    /// It sends and does not read.
    #[error("it does not read what it is told")]
    TooSlow,
    /// There are too many.
    #[error("there are too many connections")]
    TooMany,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send it, and call `handle_sent` when it is written.
    Send(ConnectionId, Packet),
    /// Write out what was to be sent before, then close.
    Close {
        /// Which.
        id: ConnectionId,
        /// Whose it was, if it came to that.
        client: Option<Arc<str>>,
        /// Why.
        reason: CloseReason,
    },
    /// Somebody said something that the host listens to.
    Heard {
        /// Who: `None` for a will of one that is gone.
        from: Option<ConnectionId>,
        /// For `Broker::kept`: the sender's acknowledgement waits for it.
        ticket: Ticket,
        /// What.
        message: Message,
    },
}

/// What had to go, and what there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages dropped because too many waited for a client.
    pub dropped: u64,
    /// Retained messages passed on but not kept, for lack of room.
    pub not_retained: u64,
    /// Sessions of absent clients that made room for others.
    pub sessions_evicted: u64,
    /// Retained messages told to new subscribers.
    pub replayed: u64,
}

/// What one turn brings forth.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) changes: Vec<Change>,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) counts: Counts,
    pub(crate) next_sequence: u64,
}

impl Turn {
    pub(crate) fn take_sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence
    }
}

/// An acknowledgement that waits for its turn: they leave in the order in which the messages came.
#[derive(Debug)]
pub(crate) struct Owed {
    pub(crate) delivery: Delivery,
    pub(crate) waits_for: Option<Ticket>,
}

/// A client that is here.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    /// `None` before CONNECT.
    pub(crate) client: Option<Arc<str>>,
    pub(crate) keep_alive: Duration,
    pub(crate) will: Option<Will>,
    pub(crate) last_heard: Instant,
    pub(crate) n_unsent: usize,
    /// Of its messages, how many the host has heard and not yet kept.
    pub(crate) n_heard: usize,
    /// Bounded by what the driver reads of a connection before the first of it is acknowledged.
    pub(crate) owed: VecDeque<Owed>,
}

impl Connection {
    pub(crate) fn has_room(&self, limits: &Limits) -> bool {
        self.n_unsent < limits.send_window
    }

    pub(crate) fn send(&mut self, packet: Packet, turn: &mut Turn) {
        self.n_unsent += 1;
        turn.outputs.push_back(Output::Send(self.id, packet));
    }

    /// `None`: it has promised nothing, or it is we who keep it waiting.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        (!self.keep_alive.is_zero() && self.n_heard == 0).then(|| self.last_heard + self.keep_alive)
    }
}
