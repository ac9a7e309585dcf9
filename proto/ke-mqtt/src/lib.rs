//! MQTT 3.1 and 3.1.1: packets, topic filters, a broker's and a client's decisions, without sockets, clocks, files or tasks.
//!
//! [`Broker`] is fed with packets and says what to send and what to store; whoever drives it stores before it sends, so
//! that nothing acknowledged is lost. edgecore's `event_bus` is the only driver so far. Imports none of our other crates.
//! There is no MQTT 5, no bridge between brokers, and no check of user names: the embedded broker listens on loopback.

mod broker;
mod change;
mod client;
mod codec;
mod filter;
mod packet;
mod retained;
mod session;
mod turn;

pub use broker::Broker;
pub use change::Change;
pub use client::{AckId, Client, ClientError, ClientOutput};
pub use codec::{DecodeError, EncodeError, PACKET_LIMIT, decode, encode};
pub use filter::{is_filter, is_topic, matches};
pub use packet::{Connect, ConnectCode, Delivery, Message, Packet, PacketId, Publish, Qos, Version, Will};
pub use turn::{BrokerConfig, CloseReason, ConnectionId, Counts, Output, Ticket};
