//! The words about pods' network that stand on a Node, on a machine or in a report, written by one end and read by the other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Annotation by which an edge node asks for a range of pod addresses; its value is [`MANAGED`].
pub const POD_NETWORK: &str = "isthmus.io/pod-network";
/// edgecore makes the network itself.
pub const MANAGED: &str = "managed";
/// Annotation with the range that cloudcore gave; it counts where `spec.podCIDR` is empty. That field is left to the cluster's own
/// allocator: it cannot be changed once it is set, and an allocator does not start where it finds one that is not of its ranges.
pub const POD_RANGE: &str = "isthmus.io/pod-range";

/// The name of the CNI configuration that edgecore writes. Runtimes take the first one in the order of names: what clusters'
/// networks install has smaller numbers, and counts before it.
pub const FILE: &str = "99-isthmus.conflist";
/// Which endings runtimes read.
const ENDINGS: [&str; 3] = [".conf", ".conflist", ".json"];

/// Whether a file of this name is a CNI configuration that edgecore did not write.
#[must_use]
pub fn is_of_others(name: &str) -> bool {
    name != FILE && ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Which finding of edgecore's preflight is about pods' network.
pub const CHECK: &str = "network";

/// A runtime without a network for pods: what a program needs that is to give it one. Part of edgecore's preflight report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NoNetwork {
    /// Where it looks for a configuration; absent when it does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conf_dir: Option<PathBuf>,
    /// Where it looks for plugins; empty when it does not tell.
    pub plugin_folders: Vec<PathBuf>,
    /// The plugins that the network would need.
    pub plugins: Vec<String>,
}
