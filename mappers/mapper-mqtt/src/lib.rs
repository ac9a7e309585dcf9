//! The MQTT mapper: devices that tell their values to a broker and take commands from it.
//!
//! A property is a topic and, where messages are JSON, a path in them ([`payload`]); a write is a message made from a
//! template. Nothing is ever asked: what was not told is not known. This crate is a client only, and no broker.

pub mod driver;
pub mod inbox;
pub mod link;
pub mod payload;
pub mod settings;
pub mod template;
pub mod topic;

pub use driver::Mqtt;
