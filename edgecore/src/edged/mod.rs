//! Edged: runs this machine's pods through its container runtime.

pub mod cgroups;
pub mod container;
pub mod cri;
pub mod cri_fake;
pub mod env;
pub mod expand;
pub mod fields;
pub mod image_gc;
pub mod image_name;
pub mod images;
pub mod pull_secrets;
pub mod quantity;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod sources;
pub mod volumes;
