//! What both ends do alike with a connection: reading while a write is stuck, byte streams of the link, and KubeEdge's stream
//! tunnel.
//!
//! It listens nowhere, dials nobody and knows no node: cloudcore and edgecore hand it a connection that stands.

#![warn(missing_docs)]

pub mod frame;
pub mod stream;
pub mod tunnel;
pub mod wire;
