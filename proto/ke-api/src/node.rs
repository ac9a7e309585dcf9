//! The words about edge nodes and our own namespace that one end writes, and the other or keadm reads.

/// The label that makes a Node an edge node, with any value.
pub const EDGE_LABEL: &str = "node-role.kubernetes.io/edge";

/// Namespace of the leases by which nodes say that they live. Kubernetes'.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Where the kubelet's HTTP face is on the node's loopback unless its configuration says another, as in KubeEdge.
pub const KUBELET_PORT: u16 = 10_350;

/// Namespace where KubeEdge's and our cloudcore keep certificates and tokens. Fixed: edges of KubeEdge's installations expect it.
pub const CLOUD_NAMESPACE: &str = "kubeedge";
