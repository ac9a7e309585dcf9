//! What an edge found around itself that nobody has described yet. KubeEdge has no such message; its clouds drop it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// All devices that one mapper finds now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Discovery {
    /// The mapper's protocol: the `protocolName` of Devices made of these.
    pub protocol: String,
    /// What it finds.
    #[serde(default)]
    pub devices: Vec<DiscoveredDevice>,
}

/// A device that answers.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveredDevice {
    /// Stays the same as long as the device does.
    pub id: String,
    /// What is known of it (maker, model, address): rules look at these.
    #[serde(default)]
    pub data: BTreeMap<String, String>,
    /// The `protocol.configData` with which it is reached.
    #[serde(default)]
    pub config_data: Map<String, Value>,
}

/// Without what it is reached with: passwords may be among that.
impl std::fmt::Debug for DiscoveredDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiscoveredDevice")
            .field("id", &self.id)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}
