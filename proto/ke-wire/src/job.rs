//! Orders to a node about itself (new version, images, configuration) and what came of them, in both API versions.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::go_json::null_is_default;

/// Which sort of job, where the order itself is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Another version of the edge's programs.
    NodeUpgrade,
    /// Images fetched before they are needed.
    ImagePrePull,
    /// Other values in the edge's configuration.
    ConfigUpdate,
}

/// A job of `operations.kubeedge.io/v1alpha2`, as its `spec`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobOrder {
    /// Another version of the edge's programs.
    NodeUpgrade(NodeUpgradeSpec),
    /// Images fetched before they are needed.
    ImagePrePull(ImagePrePullSpec),
    /// Other values in the edge's configuration.
    ConfigUpdate(ConfigUpdateSpec),
}

impl JobOrder {
    /// Its sort.
    #[must_use]
    pub fn kind(&self) -> JobKind {
        match self {
            Self::NodeUpgrade(_) => JobKind::NodeUpgrade,
            Self::ImagePrePull(_) => JobKind::ImagePrePull,
            Self::ConfigUpdate(_) => JobKind::ConfigUpdate,
        }
    }
}

/// A step of a job. The edge goes from step to step by itself; the cloud only ever orders `Check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "KubeEdge's words")]
pub enum JobAction {
    Check,
    WaitingConfirmation,
    BackUp,
    Upgrade,
    RollBack,
    Pull,
    Update,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobReport {
    /// The step.
    pub action: JobAction,
    /// Whether it went well.
    pub succ: bool,
    /// RFC 3339 in UTC; empty for configuration updates.
    #[serde(default)]
    pub finish_time: String,
    /// Why not.
    #[serde(default)]
    pub reason: String,
    /// `<from>,<to>` of an upgrade; JSON list of images of a pre-pull.
    #[serde(default)]
    pub extend: String,
}

/// Shape: `NodeUpgradeJobSpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's fields")]
pub struct NodeUpgradeSpec {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// The API spells it so, and never leaves it out.
    #[serde(rename = "imageDigestGatter")]
    pub image_digest_getter: Option<ImageDigestGetter>,
    #[serde(skip_serializing_if = "is_zero")]
    pub concurrency: i32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub check_items: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure_tolerate: String,
    #[serde(skip_serializing_if = "is_false")]
    pub require_confirmation: bool,
}

/// Where the digest of an image is had from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the API's fields")]
pub struct ImageDigestGetter {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub arm64: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub amd64: String,
    #[serde(rename = "registryAPI", skip_serializing_if = "Option::is_none")]
    pub registry_api: Option<RegistryApi>,
}

/// A registry that knows digests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the API's fields")]
pub struct RegistryApi {
    pub host: String,
    pub token: RegistryToken,
}

/// A secret; never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RegistryToken(pub String);

impl fmt::Debug for RegistryToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Shape: `metav1.LabelSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's fields")]
pub struct LabelSelector {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelRequirement>,
}

/// Shape: `metav1.LabelSelectorRequirement`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the API's fields")]
pub struct LabelRequirement {
    pub key: String,
    pub operator: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// Shape: `ImagePrePullJobSpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's fields")]
pub struct ImagePrePullSpec {
    #[serde(rename = "imagePrePullTemplate")]
    pub template: ImagePrePullTemplate,
}

/// Shape: `ImagePrePullTemplate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's fields")]
pub struct ImagePrePullTemplate {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub check_items: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure_tolerate: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub concurrency: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    /// One text `<namespace>/<name>`, whatever the name says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_secrets: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_times: i32,
}

/// Shape: `ConfigUpdateJobSpec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[expect(missing_docs, reason = "the API's fields")]
pub struct ConfigUpdateSpec {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub node_names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
    #[serde(skip_serializing_if = "is_zero")]
    pub concurrency: i32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub update_fields: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub failure_tolerate: String,
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Sorts of jobs in `v1alpha1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "KubeEdge's words")]
pub enum TaskKind {
    Upgrade,
    PrePull,
}

/// A job of `operations.kubeedge.io/v1alpha1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Name of the job.
    pub task_id: String,
    /// Its sort.
    pub kind: TaskKind,
    /// The state to reach, in KubeEdge's words.
    pub state: String,
    /// What to do for that.
    pub item: TaskItem,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskItem {
    /// Look whether the node is fit. Sent with the state `Checking`.
    Check(TaskCheck),
    /// Change the version.
    Upgrade(TaskUpgrade),
    /// Fetch images.
    PrePull(TaskPrePull),
}

/// What to look at: `cpu`, `mem`, `disk`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskCheck {
    /// The items.
    #[serde(deserialize_with = "null_is_default")]
    pub check_item: Vec<String>,
}

/// Shape: `NodeUpgradeJobRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the protocol's fields")]
pub struct TaskUpgrade {
    #[serde(rename = "UpgradeID")]
    pub upgrade_id: String,
    #[serde(rename = "HistoryID")]
    pub history_id: String,
    pub version: String,
    pub upgrade_tool: String,
    pub image: String,
    pub image_digest: String,
    pub require_confirmation: bool,
}

/// Shape: `ImagePrePullJobRequest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the protocol's fields")]
pub struct TaskPrePull {
    #[serde(deserialize_with = "null_is_default")]
    pub images: Vec<String>,
    pub node_name: String,
    pub secret: String,
    pub retry_times: i32,
    #[serde(deserialize_with = "null_is_default")]
    pub check_items: Vec<String>,
}

/// What came of a `v1alpha1` job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the protocol's fields")]
pub struct TaskReport {
    pub node_name: String,
    pub state: String,
    pub event: String,
    pub action: String,
    pub reason: String,
    pub time: String,
    /// Results by image, a JSON text.
    pub external_message: String,
}
