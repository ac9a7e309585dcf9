//! Edged: runs this machine's pods through its container runtime.

pub mod backoff;
pub mod cgroups;
pub mod container;
pub mod cri;
pub mod cri_fake;
pub mod expand;
pub mod image_gc;
pub mod image_name;
pub mod images;
pub mod observed;
pub mod plan;
pub mod pull_secrets;
pub mod quantity;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod status;
