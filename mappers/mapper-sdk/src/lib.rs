//! What every mapper shares: values and their way between a device's bytes and the cloud's texts, and what a driver is.
//!
//! Nothing here knows a field bus; drivers do. Nothing here knows Kubernetes; edgecore does.

pub mod deadband;
pub mod driver;
pub mod pipeline;
pub mod settings;
pub mod value;

pub use driver::{Connection, Device, DeviceName, Discovered, Driver, DriverError, Method, Property};
pub use settings::{SettingError, Settings};
