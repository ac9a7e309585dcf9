//! Edged: runs this machine's pods through its container runtime.

pub mod backoff;
pub mod cri;
pub mod observed;
pub mod plan;
pub mod status;
