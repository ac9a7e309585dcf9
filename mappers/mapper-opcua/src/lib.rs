//! The OPC-UA mapper: nodes of OPC-UA servers as properties of devices.
//!
//! It never browses a server for what the manifest does not name, and never takes a weaker security than the manifest says.

pub mod discover;
pub mod driver;
pub mod endpoint;
pub mod newest;
pub mod session;
pub mod settings;
pub mod trust;
pub mod values;

pub use driver::OpcUa;
pub use settings::ServerUrl;
