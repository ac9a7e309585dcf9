//! What every mapper shares: values and their way between a device's bytes and the cloud's texts.
//!
//! Nothing here knows a field bus; drivers do. Nothing here knows Kubernetes; edgecore does.

pub mod deadband;
pub mod pipeline;
pub mod value;
