//! By what a Node is known to be an edge node's.

pub(crate) use ke_api::node::EDGE_LABEL;

/// Node annotation, KubeEdge's: address of the cloudcore that serves the node.
pub(crate) const CLOUDCORE: &str = "cloudcore";
