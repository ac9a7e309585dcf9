//! Edged: runs this machine's pods through its container runtime.

pub mod cri;
