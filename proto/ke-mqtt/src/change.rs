//! Pure: what a broker must not forget, told change by change.
//!
//! Whoever drives the broker stores them in order, all of one turn in one transaction, before anything that this turn wants
//! sent. The same type brings the broker back: see `Broker::restore`. A session without `clean` is what these are about;
//! clean sessions leave no trace.

use std::sync::Arc;

use crate::{Message, PacketId, Qos};

/// One thing to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A client has a session now.
    Session {
        /// Its id.
        client: Arc<str>,
    },
    /// It has none any more: its subscriptions, queue and received ids go with it.
    SessionGone {
        /// Its id.
        client: Arc<str>,
    },
    /// It wants a filter, or the same one with another QoS.
    Subscription {
        /// Whose.
        client: Arc<str>,
        /// What.
        filter: Arc<str>,
        /// At most this surely.
        qos: Qos,
    },
    /// It no longer wants it.
    SubscriptionGone {
        /// Whose.
        client: Arc<str>,
        /// What.
        filter: Arc<str>,
    },
    /// The last message of a topic, for later subscribers. Replaces the one before.
    Retained {
        /// What was said.
        message: Message,
        /// How surely.
        qos: Qos,
    },
    /// The topic has none any more.
    RetainedGone {
        /// Which.
        topic: Arc<str>,
    },
    /// A message waits for a client, or is on its way to it.
    Queued {
        /// For whom.
        client: Arc<str>,
        /// Grows over all clients; the order of one client's messages.
        sequence: u64,
        /// What was said.
        message: Message,
        /// 1 or 2.
        qos: Qos,
        /// With this id it has been sent.
        sent: Option<PacketId>,
        /// The client has taken it over (QoS 2) and must only be told that it is not repeated.
        released: bool,
    },
    /// It has been sent with this id.
    Sent {
        /// From `Queued`.
        sequence: u64,
        /// To be used again if it is sent again.
        id: PacketId,
        /// 1 or 2.
        qos: Qos,
    },
    /// The client has taken it over (QoS 2); its payload is not needed any more.
    Released {
        /// From `Queued`.
        sequence: u64,
    },
    /// It is done: acknowledged, or dropped because too many waited.
    Done {
        /// From `Queued`.
        sequence: u64,
        /// 1 or 2.
        qos: Qos,
    },
    /// A client's message of QoS 2 was taken over; its repetition is to be ignored.
    Received {
        /// Whose.
        client: Arc<str>,
        /// Which.
        id: PacketId,
    },
    /// The client will not repeat it.
    Completed {
        /// Whose.
        client: Arc<str>,
        /// Which.
        id: PacketId,
    },
}

impl Change {
    /// Whether losing it costs at worst a repetition that QoS 1 allows. Such changes may be stored with later ones.
    #[must_use]
    pub fn may_wait(&self) -> bool {
        matches!(self, Self::Sent { qos: Qos::AtLeastOnce, .. } | Self::Done { qos: Qos::AtLeastOnce, .. })
    }
}
