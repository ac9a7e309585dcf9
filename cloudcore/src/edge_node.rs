//! By what a Node is known to be an edge node's.

/// The label that makes a Node an edge node, with any value.
pub(crate) const EDGE_LABEL: &str = "node-role.kubernetes.io/edge";

/// Node annotation, KubeEdge's: address of the cloudcore that serves the node.
pub(crate) const CLOUDCORE: &str = "cloudcore";
