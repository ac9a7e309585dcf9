//! Both ends of the link between cloud and edge as state machines: windows, acknowledgements, heartbeats, silence.
//!
//! This crate has no socket, no clock and no task. The caller moves bytes, passes `now`, calls `handle_timeout` at
//! `poll_timeout` and empties `poll_output` after every call. cloudcore's `cloud_hub` drives [`CloudEnd`], edgecore's
//! `edge_hub` drives [`EdgeEnd`]. Both end with the connection: a new connection gets a new one. [`streams`] carries byte
//! streams beside the messages, where both sides know how.

#![warn(missing_docs)]

pub mod cloud;
pub mod edge;
mod recent;
pub mod streams;

pub use cloud::{CloudConfig, CloudEnd, Deed, WindowFull};
pub use edge::{EdgeConfig, EdgeEnd};

use ke_wire::kubeedge::DecodeError;

/// The other side sent something after which nothing it says can be trusted. The caller closes the connection; the
/// end says nothing more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("close the link: {0}")]
pub struct ProtocolError(#[from] pub DecodeError);

/// Why an end gives the link up. The caller closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Nothing was heard from the other side for the whole limit.
    Silent,
}

/// Why a frame had no effect. The caller counts it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoredWhy {
    /// It says nothing that this side understands.
    #[error(transparent)]
    NotUnderstood(#[from] DecodeError),
    /// An answer that nobody waits for (any more).
    #[error("nobody waits for this answer")]
    LateAnswer,
    /// The sender has far more unacknowledged messages under way than any window allows. It will send this one again.
    #[error("too many objects wait for being stored")]
    TooManyUnstored,
}

/// Wall clock of a message, from the wall clock at the start of the connection and the monotonic one since then.
fn unix_ms(started_unix_ms: i64, started: std::time::Instant, now: std::time::Instant) -> i64 {
    let elapsed = now.saturating_duration_since(started).as_millis();
    started_unix_ms.saturating_add(i64::try_from(elapsed).unwrap_or(i64::MAX))
}
