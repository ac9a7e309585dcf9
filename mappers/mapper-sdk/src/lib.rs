//! What every mapper shares: all of its life but the way to the device. A mapper's `main` is [`run_mapper`].
//!
//! From edgecore to a device: `link.rs` is called, `fleet.rs` knows what there is, `manifest.rs` reads it, `device.rs` does
//! it. Back again: `sampler.rs` says when, `device.rs` reads, `outbox.rs` keeps, `carrier.rs` says when, `link.rs` sends. To databases and such:
//! `device.rs` reads, `push/mod.rs` says when and what, `push/line.rs` keeps and delivers.
//! Nothing here knows a field bus; drivers do. Nothing here knows Kubernetes; edgecore does.

pub mod config;
pub mod deadband;
pub mod driver;
pub mod pipeline;
pub mod settings;
pub mod value;

mod carrier;
mod counters;
mod desired;
mod device;
mod discovery;
mod fleet;
mod link;
mod manifest;
mod news;
mod mapper;
mod outbox;
mod push;
mod rest;
mod sampler;
mod terms;
mod turns;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use driver::{Connection, Device, DeviceName, Discovered, Driver, DriverError, Method, Property};
pub use mapper::run_mapper;
pub use settings::{SettingError, Settings};
pub use value::{Kind, Value};

/// What `impl Driver` and `impl Connection` stand under.
pub use async_trait::async_trait;
