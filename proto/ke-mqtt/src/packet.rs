//! Pure: what MQTT 3.1 and 3.1.1 can say. The bytes are in `codec.rs`.

use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;

/// Names one message on its way between two ends, from one sender. Zero is not allowed.
pub type PacketId = NonZeroU16;

/// How surely a message is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// 0: sent once, never repeated.
    #[default]
    AtMostOnce,
    /// 1: repeated until acknowledged.
    AtLeastOnce,
    /// 2: with a second round so that none arrives twice.
    ExactlyOnce,
}

impl Qos {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::AtMostOnce => 0,
            Self::AtLeastOnce => 1,
            Self::ExactlyOnce => 2,
        }
    }

    /// `None` above 2.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Which edition of the protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// "MQIsdp", level 3.
    V31,
    /// "MQTT", level 4.
    V311,
}

/// What is said, and under which topic. Shared by everybody who receives it.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Without wildcards.
    pub topic: Arc<str>,
    /// Any bytes.
    pub payload: Bytes,
}

/// Without the payload: it is its users' own.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.topic, self.payload.len())
    }
}

/// A client's first packet.
#[derive(Clone, PartialEq, Eq)]
pub struct Connect {
    /// Which protocol it speaks.
    pub version: Version,
    /// True: begin with nothing, and forget everything at the end. False: go on where this client id left off.
    pub clean: bool,
    /// It promises to say something in each span of this many seconds. 0: it promises nothing.
    pub keep_alive_secs: u16,
    /// May be empty with `clean`.
    pub client: String,
    /// Said in its name if it goes without a farewell.
    pub will: Option<Will>,
    /// User name.
    pub user: Option<String>,
    /// Never shown.
    pub password: Option<Bytes>,
}

/// Without the password.
impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean", &self.clean)
            .field("keep_alive_secs", &self.keep_alive_secs)
            .field("client", &self.client)
            .field("will", &self.will)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// What is said in the name of a client that went without a farewell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// The message.
    pub message: Message,
    /// How surely.
    pub qos: Qos,
    /// Whether it stays for later subscribers.
    pub retain: bool,
}

/// The answer to a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectCode {
    /// 0: welcome.
    Accepted,
    /// 1: not a protocol that is spoken here.
    Version,
    /// 2: this client id is not possible.
    ClientId,
    /// 3: no room.
    Unavailable,
    /// 4: wrong user or password.
    Credentials,
    /// 5: not allowed.
    NotAuthorized,
}

impl ConnectCode {
    const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Version,
        Self::ClientId,
        Self::Unavailable,
        Self::Credentials,
        Self::NotAuthorized,
    ];

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        Self::ALL.iter().position(|code| *code == self).and_then(|at| u8::try_from(at).ok()).unwrap_or(3)
    }

    /// `None` above 5.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// How surely, and under which id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1: wants a PUBACK.
    AtLeastOnce(PacketId),
    /// QoS 2: wants a PUBREC.
    ExactlyOnce(PacketId),
}

impl Delivery {
    /// Without the id.
    #[must_use]
    pub const fn qos(self) -> Qos {
        match self {
            Self::AtMostOnce => Qos::AtMostOnce,
            Self::AtLeastOnce(_) => Qos::AtLeastOnce,
            Self::ExactlyOnce(_) => Qos::ExactlyOnce,
        }
    }
}

/// One message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// What is said.
    pub message: Message,
    /// How surely.
    pub delivery: Delivery,
    /// From a client: keep it for later subscribers. To a client: it was kept.
    pub retain: bool,
    /// It may have been sent before.
    pub dup: bool,
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// First of a client.
    Connect(Connect),
    /// Answer to that.
    ConnAck {
        /// Whether the broker still had something of this client. 3.1 does not know it.
        session_present: bool,
        /// Welcome, or why not.
        code: ConnectCode,
    },
    /// A message.
    Publish(Publish),
    /// QoS 1: taken over.
    PubAck(PacketId),
    /// QoS 2: taken over.
    PubRec(PacketId),
    /// QoS 2: will not be repeated any more.
    PubRel(PacketId),
    /// QoS 2: forgotten.
    PubComp(PacketId),
    /// Filters that a client wants, with the highest QoS it wants for each.
    Subscribe {
        /// Names the answer.
        id: PacketId,
        /// At least one.
        filters: Vec<(String, Qos)>,
    },
    /// Answer to that, filter by filter; `None`: refused.
    SubAck {
        /// From the question.
        id: PacketId,
        /// In the order of the question.
        granted: Vec<Option<Qos>>,
    },
    /// Filters no longer wanted.
    Unsubscribe {
        /// Names the answer.
        id: PacketId,
        /// At least one.
        filters: Vec<String>,
    },
    /// Answer to that.
    UnsubAck(PacketId),
    /// A sign of life.
    PingReq,
    /// Answer to that.
    PingResp,
    /// A client's farewell.
    Disconnect,
}
