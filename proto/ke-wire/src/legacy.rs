//! Status messages of edges before v1.23. Ours never sends them; a cloud still takes them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Status of one Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldPodStatus {
    /// The Pod's uid.
    pub uid: String,
    /// The Pod's name.
    pub name: String,
    /// `PodStatus` as Kubernetes JSON.
    pub status: Bytes,
}

/// Status of the Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldNodeStatus {
    /// The Node's uid.
    pub uid: String,
    /// `NodeStatus` as Kubernetes JSON.
    pub status: Bytes,
    /// Resources beyond Kubernetes' own, by their name.
    pub extend_resources: BTreeMap<String, Vec<ExtendResource>>,
}

/// One unit of such a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the protocol's fields")]
pub struct ExtendResource {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    pub capacity: String,
}
