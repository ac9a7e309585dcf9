//! Modbus devices, over TCP or a serial line, for `mapper-sdk`.
//!
//! A property's settings become a [`codec::Codec`]; properties that are due together become as few requests as
//! [`group`] finds; [`wire`] asks them. Register numbers like 40001 are not translated: `offset` is the address on the wire.

pub mod codec;
pub mod driver;
pub mod group;
pub mod serial;
pub mod settings;
pub mod wire;

pub use driver::Modbus;
