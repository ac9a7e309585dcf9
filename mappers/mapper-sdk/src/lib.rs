//! What every mapper shares. A mapper is a [`Driver`] and a `main` that hands it to [`run_mapper`].
//!
//! The way of a value: `driver.rs` reads it, `device.rs` samples it, `deadband.rs` finds it worth telling, `outbox.rs`
//! holds the newest, `reporter.rs` brings it to the node. The way of a wish: the node calls `link.rs`, `registry.rs`
//! hands it to the device's task, `wishes.rs` knows what is new about it, the driver writes it.
//!
//! Nothing here knows a field bus; drivers do. Nothing here knows Kubernetes; edgecore does.

pub mod driver;
pub mod settings;
pub mod value;
pub mod pipeline;
pub mod deadband;
mod sampler;
mod wishes;
mod outbox;
mod reporter;
mod device;
mod registry;
mod edge;
pub mod link;
pub mod config;
mod rest;
mod metrics;
mod run;
pub mod testing;

pub use async_trait::async_trait;
pub use driver::{Connection, DeviceState, Discovered, Driver, DriverError, Sample, Updates};
pub use ke_run::shutdown::Shutdown;
pub use run::{run_mapper, run_until};
pub use settings::{
    Access, DeviceName, DeviceSettings, PropertyName, PropertySettings, SettingError, Settings,
};
pub use value::{Kind, Value};
