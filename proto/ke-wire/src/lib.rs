//! Everything cloud and edge may say to each other, as types, and the dialects that put it on a wire.
//!
//! This crate decides nothing and does no IO. Modules on both sides know only [`Down`] and [`Up`]; text and
//! JSON of the KubeEdge protocol exist in `kubeedge` alone.

#![warn(missing_docs)]

mod down;
mod id;
mod key;
mod refusal;
mod up;
mod version;

pub mod kubeedge;

pub use down::{About, Answer, Change, Delete, DeviceRef, Down, Origin, Put};
pub use id::{InvalidId, MessageId, Namespace, NodeName, ObjectName, Uid};
pub use key::{InvalidKey, Kind, ObjectKey, Scope};
pub use refusal::{Reason, Refusal, RefusalDetails};
pub use up::{AckRoute, EventChange, Question, Up};
pub use version::{InvalidVersion, Version};
