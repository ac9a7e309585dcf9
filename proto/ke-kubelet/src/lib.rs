//! What programs on a node say to its kubelet over gRPC, as Rust types, clients and servers: device plugins, their
//! registration, and who asks which pod holds which device.
//!
//! Nothing here decides anything: edgecore's `device_plugin/` serves and calls. What follows the generated code keeps
//! variables of containers out of debug output.

/// Package `v1beta1`: device plugins and the kubelet's side of their registration.
pub mod device_plugin {
    #![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    #![allow(missing_docs, unreachable_pub)]
    tonic::include_proto!("v1beta1");
}
/// Package `pluginregistration`, version 1: plugins of every kind that are found by their sockets.
pub mod plugin_registration {
    #![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    #![allow(missing_docs, unreachable_pub)]
    tonic::include_proto!("pluginregistration");
}
/// Package `v1`: which pod holds what.
pub mod pod_resources {
    #![allow(clippy::all, clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
    #![allow(missing_docs, unreachable_pub)]
    tonic::include_proto!("v1");
}

/// Names of variables only: a plugin may hand out credentials.
impl std::fmt::Debug for device_plugin::ContainerAllocateResponse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContainerAllocateResponse")
            .field("envs", &self.envs.keys())
            .field("mounts", &self.mounts)
            .field("devices", &self.devices)
            .field("cdi_devices", &self.cdi_devices)
            .finish_non_exhaustive()
    }
}
