//! What both ends do alike with a WebSocket: reading while a write is stuck, and KubeEdge's stream tunnel.
//!
//! It listens nowhere, dials nobody and knows no node: cloudcore and edgecore hand it a connection that stands.

#![warn(missing_docs)]

pub mod frame;
pub mod tunnel;
pub mod wire;
