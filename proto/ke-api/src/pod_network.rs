//! The words about pods' network that stand on a Node, written by one end and read by the other.

/// Annotation by which an edge node asks for a range of pod addresses; its value is [`MANAGED`].
pub const POD_NETWORK: &str = "isthmus.io/pod-network";
/// edgecore makes the network itself.
pub const MANAGED: &str = "managed";
/// Annotation in which cloudcore notes the range that it gave: what is in `spec.podCIDR` and not here was given by others.
pub const POD_RANGE: &str = "isthmus.io/pod-range";
