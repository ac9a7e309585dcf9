//! Why the API server, or we in its place, did not do what was asked: the useful part of a Kubernetes `Status`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A refusal in Kubernetes' own words. Shape: the fields of a failed `metav1.Status`; unknown ones are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// One word for programs.
    #[serde(default, skip_serializing_if = "Reason::is_unknown")]
    pub reason: Reason,
    /// Which object it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<RefusalDetails>,
    /// HTTP status, 400 to 599.
    #[serde(default)]
    pub code: u16,
}

/// What a refusal was about. Shape: `metav1.StatusDetails`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RefusalDetails {
    /// Object name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Resource or kind.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Object uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Single causes, as the API server listed them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Value>,
    /// Ask again after so many seconds.
    #[serde(skip_serializing_if = "is_zero")]
    pub retry_after_seconds: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// `metav1.StatusReason`. Only what somebody decides by is a variant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Reason {
    /// No reason given.
    #[default]
    Unknown,
    /// The object is not there.
    NotFound,
    /// An object of that name is there.
    AlreadyExists,
    /// The version or uid given is not the current one.
    Conflict,
    /// This node may not touch this object.
    Forbidden,
    /// The request makes no sense.
    BadRequest,
    /// The object breaks a rule of its schema.
    Invalid,
    /// The other side did not answer in time.
    Timeout,
    /// Another of Kubernetes' words.
    Other(String),
}

impl Reason {
    fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        match text.as_str() {
            "" => Self::Unknown,
            "NotFound" => Self::NotFound,
            "AlreadyExists" => Self::AlreadyExists,
            "Conflict" => Self::Conflict,
            "Forbidden" => Self::Forbidden,
            "BadRequest" => Self::BadRequest,
            "Invalid" => Self::Invalid,
            "Timeout" => Self::Timeout,
            _ => Self::Other(text),
        }
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Unknown => Self::new(),
            Reason::NotFound => "NotFound".into(),
            Reason::AlreadyExists => "AlreadyExists".into(),
            Reason::Conflict => "Conflict".into(),
            Reason::Forbidden => "Forbidden".into(),
            Reason::BadRequest => "BadRequest".into(),
            Reason::Invalid => "Invalid".into(),
            Reason::Timeout => "Timeout".into(),
            Reason::Other(text) => text,
        }
    }
}
