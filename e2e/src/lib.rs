//! Real peers on one machine for the stories and the demo: control plane, container runtime, images, our two
//! binaries, and the wire between them. Nothing here is part of what ships.
//!
//! Everything blocks: a story reads top to bottom. What a run makes stands in its `RunDir`, and whoever comes
//! later removes what a killed run left behind.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

pub mod acknowledged;
pub mod api_client;
pub mod bench;
pub mod changer;
pub mod cluster;
pub mod databases;
pub mod devices;
pub mod forgetful;
pub mod ground;
pub mod images;
pub mod joined;
pub mod joining;
pub mod leftovers;
pub mod machine;
pub mod need;
pub mod network;
pub mod node;
pub mod pki;
pub mod process;
pub mod program;
pub mod proxy;
pub mod recorder;
pub mod registry;
pub mod run_dir;
pub mod runtime;
pub mod simulator;
pub mod site;
pub mod stock;
pub mod tap;
pub mod token;
pub mod wait;
pub mod watch;
pub mod wire;
