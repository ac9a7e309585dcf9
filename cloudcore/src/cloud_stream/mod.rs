//! The way from the API server to what runs on a node: byte streams over the links that nodes hold.

mod tunnels;

pub use tunnels::{NoTunnel, StreamCounters, TunnelStream, Tunnels};

pub(crate) use tunnels::Attachment;
