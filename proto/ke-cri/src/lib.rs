//! The container runtime's gRPC interface as Rust types and clients, generated from `cri.proto`.
//!
//! Nothing here decides anything: edgecore's `edged/cri.rs` is the caller, and keadm's `cri.rs` where there is no edgecore yet. What
//! follows the generated code keeps passwords and environment values out of debug output.

/// Package `runtime.v1`: messages, [`v1::runtime_service_client`] and [`v1::image_service_client`].
pub mod v1 {
    #![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    #![allow(missing_docs, unreachable_pub)]
    tonic::include_proto!("runtime.v1");
}

impl std::fmt::Debug for v1::AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthConfig").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for v1::KeyValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyValue").field("key", &self.key).finish_non_exhaustive()
    }
}
