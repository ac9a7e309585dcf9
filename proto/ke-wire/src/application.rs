//! A request that a local API client made and the cloud carries out, and its answer: one type both ways.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::go_json::{base64_or_null, base64_text, null_is_default};
use crate::refusal::Refusal;

/// A request to the API server, and what came of it once the cloud has sent it back.
#[derive(Clone, PartialEq, Eq)]
pub struct Application {
    /// Lower-case hex SHA-256 of node, key, verb, options, body and subresource, put together without separators.
    pub id: String,
    /// `/<group or core>/<version>/<resource>/<namespace or null>/<name or null>`, or a path such as `/version`.
    pub key: String,
    /// What is wanted.
    pub verb: ApplicationVerb,
    /// Name of the node. A cloud takes the one of the connection instead.
    pub node: String,
    /// JSON of the Kubernetes options that go with the verb; of [`PatchInfo`] for a patch.
    pub options: Bytes,
    /// The object to create or update, JSON; empty otherwise.
    pub request_body: Bytes,
    /// `status`, `scale`, ...; empty for the object itself.
    pub subresource: String,
    /// JSON that the API server answered; empty before that and where there is none.
    pub response_body: Bytes,
    /// How far it got.
    pub status: ApplicationStatus,
    /// Text of an error that is none of the API server's.
    pub reason: String,
    /// The API server's error.
    pub error: Option<Refusal>,
    /// RFC 3339; the year 1 in a new request.
    pub timestamp: String,
}

/// Without the objects: they may be Secrets.
impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application")
            .field("id", &self.id)
            .field("key", &self.key)
            .field("verb", &self.verb)
            .field("node", &self.node)
            .field("options", &format_args!("{} bytes", self.options.len()))
            .field("request_body", &format_args!("{} bytes", self.request_body.len()))
            .field("subresource", &self.subresource)
            .field("response_body", &format_args!("{} bytes", self.response_body.len()))
            .field("status", &self.status)
            .field("reason", &self.reason)
            .field("error", &self.error)
            .field("timestamp", &self.timestamp)
            .finish()
    }
}

/// What an application wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "Kubernetes' verbs")]
pub enum ApplicationVerb {
    Get,
    List,
    Watch,
    Create,
    Delete,
    Update,
    UpdateStatus,
    Patch,
}

/// How far an application got. Edges wait for `Approved`, `Rejected` or `Failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "KubeEdge's words")]
pub enum ApplicationStatus {
    PreApplying,
    InApplying,
    InProcessing,
    Approved,
    Rejected,
    Failed,
    Completed,
}

/// The options of a patch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PatchInfo {
    /// Name of the object.
    pub name: String,
    /// Content type of the patch.
    pub patch_type: String,
    /// The patch.
    #[serde(with = "base64_text")]
    pub data: Bytes,
    /// `PatchOptions`.
    #[serde(default)]
    pub options: PatchOptions,
    /// Subresources; one empty text means the object itself.
    #[serde(default, deserialize_with = "null_is_default")]
    pub subresources: Vec<String>,
}

/// Shape: `metav1.PatchOptions`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PatchOptions {
    /// `All` to try only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dry_run: Vec<String>,
    /// Take over fields that others own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// Who owns the fields.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_manager: String,
    /// What to do with unknown fields.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_validation: String,
}

/// The Go field names, all of them always there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OnTheWire {
    #[serde(rename = "ID")]
    id: String,
    key: String,
    verb: ApplicationVerb,
    #[serde(default)]
    nodename: String,
    #[serde(default, with = "base64_or_null")]
    option: Bytes,
    #[serde(default, with = "base64_or_null")]
    req_body: Bytes,
    #[serde(default)]
    subresource: String,
    #[serde(default, with = "base64_or_null")]
    resp_body: Bytes,
    status: ApplicationStatus,
    #[serde(default)]
    reason: String,
    #[serde(default, with = "crate::refusal::go_error")]
    error: Option<Refusal>,
    #[serde(default)]
    timestamp: String,
}

impl Serialize for Application {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let it = self.clone();
        OnTheWire {
            id: it.id,
            key: it.key,
            verb: it.verb,
            nodename: it.node,
            option: it.options,
            req_body: it.request_body,
            subresource: it.subresource,
            resp_body: it.response_body,
            status: it.status,
            reason: it.reason,
            error: it.error,
            timestamp: it.timestamp,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Application {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let it = OnTheWire::deserialize(deserializer)?;
        Ok(Self {
            id: it.id,
            key: it.key,
            verb: it.verb,
            node: it.nodename,
            options: it.option,
            request_body: it.req_body,
            subresource: it.subresource,
            response_body: it.resp_body,
            status: it.status,
            reason: it.reason,
            error: it.error,
            timestamp: it.timestamp,
        })
    }
}
