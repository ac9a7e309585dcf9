//! The namespace of everything that cloudcore keeps in its cluster.

/// Where KubeEdge and we keep certificates and tokens.
pub const NAMESPACE: &str = ke_api::node::CLOUD_NAMESPACE;
