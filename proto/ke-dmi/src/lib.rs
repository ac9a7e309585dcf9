//! The contract between an edge node and its mappers: gRPC on unix sockets, generated from `dmi.proto` and
//! `discovery.proto`.
//!
//! edgecore serves the manager and calls mappers; the mapper SDK does the reverse. Both import this crate, and it
//! imports none of ours. It decides nothing about devices: [`value`] turns free configuration values into the wire's
//! form and back, [`authority`] lets peers written in Go call a server written in Rust, [`alive()`] finds out
//! whether anybody answers, [`socket`] has both ends' sockets, [`beside`] what ours say that KubeEdge's do not.

/// Package `v1beta1`: messages, clients and servers of both services.
pub mod v1beta1 {
    #![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    #![allow(missing_docs, unreachable_pub)]
    tonic::include_proto!("v1beta1");
}
/// Package `isthmus.discovery.v1`, which KubeEdge does not have: devices that nobody has described yet.
pub mod discovery {
    #![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    #![allow(missing_docs, unreachable_pub)]
    tonic::include_proto!("isthmus.discovery.v1");
}
pub mod value;
pub mod alive;
pub mod authority;
pub mod beside;
pub mod socket;

pub use alive::{alive, bottom_of, is_nobody};
pub use authority::{AnyAuthority, incoming};

/// The same types that tonic's server parses requests with.
use tonic::codegen::http;

/// Keys only: among the values are passwords of devices.
impl std::fmt::Debug for v1beta1::CustomizedValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CustomizedValue").field("keys", &self.data.keys()).finish_non_exhaustive()
    }
}

/// Without what it is reached with: passwords may be among that.
impl std::fmt::Debug for discovery::DiscoveredDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiscoveredDevice")
            .field("id", &self.id)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}
