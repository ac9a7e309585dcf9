//! Contents of the messages that carry MQTT and HTTP between rules in the cloud and programs at the edge.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::go_json::{base64_text, null_is_default};

/// What the cloud's router wants from an edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouterOrder {
    /// Send up what comes on this MQTT topic; the rule's namespace is its first part.
    Subscribe(String),
    /// Stop that.
    Unsubscribe(String),
    /// Publish a text on this MQTT topic.
    Publish {
        /// The topic.
        topic: String,
        /// The text, as it came to the cloud.
        payload: String,
    },
    /// Local programs may send to this URL in the cloud.
    Allow(String),
    /// They may not any more.
    Disallow(String),
    /// Call a local HTTP service; its answer goes back as [`crate::Up::ServiceReplied`].
    Call(ServiceCall),
}

/// A call of a local HTTP service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCall {
    /// `<port>:<path>`.
    pub target: String,
    /// The method.
    pub method: HttpMethod,
    /// Header fields.
    pub header: BTreeMap<String, Vec<String>>,
    /// The body.
    pub body: Bytes,
}

/// The methods that a rule may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "HTTP's words")]
pub enum HttpMethod {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
}

/// What a local HTTP service answered, or what the edge answers in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpAnswer {
    /// Header fields.
    #[serde(default, deserialize_with = "null_is_default")]
    pub header: BTreeMap<String, Vec<String>>,
    /// HTTP status.
    pub status_code: u16,
    /// The body.
    #[serde(default, with = "base64_text")]
    pub body: Bytes,
}
