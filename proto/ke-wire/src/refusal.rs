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

/// A refusal as Go prints an API error: `{"ErrStatus":{"metadata":{},"status":"Failure",...}}`. No error is the same
/// without any of the rest, null, or an object without `ErrStatus`.
pub(crate) mod go_error {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Reason, Refusal, RefusalDetails};

    #[derive(Serialize)]
    struct Empty {}

    #[derive(Serialize)]
    struct ErrorOut<'a> {
        #[serde(rename = "ErrStatus")]
        err_status: StatusOut<'a>,
    }

    #[derive(Serialize)]
    struct StatusOut<'a> {
        metadata: Empty,
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<&'static str>,
        #[serde(flatten)]
        refusal: Option<Fields<'a>>,
    }

    #[derive(Serialize)]
    struct Fields<'a> {
        #[serde(skip_serializing_if = "str::is_empty")]
        message: &'a str,
        #[serde(skip_serializing_if = "Reason::is_unknown")]
        reason: &'a Reason,
        #[serde(skip_serializing_if = "Option::is_none")]
        details: &'a Option<RefusalDetails>,
        #[serde(skip_serializing_if = "is_zero")]
        code: u16,
    }

    fn is_zero(code: &u16) -> bool {
        *code == 0
    }

    #[derive(Deserialize)]
    struct ErrorIn {
        #[serde(default, rename = "ErrStatus")]
        err_status: Option<StatusIn>,
    }

    #[derive(Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct StatusIn {
        status: String,
        message: String,
        reason: Reason,
        details: Option<RefusalDetails>,
        code: i64,
    }

    pub(crate) fn serialize<S: Serializer>(
        error: &Option<Refusal>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let status = error.as_ref().map(|_| "Failure");
        let refusal = error.as_ref().map(|refusal| Fields {
            message: &refusal.message,
            reason: &refusal.reason,
            details: &refusal.details,
            code: refusal.code,
        });
        ErrorOut { err_status: StatusOut { metadata: Empty {}, status, refusal } }.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Refusal>, D::Error> {
        let Some(ErrorIn { err_status: Some(it) }) = Option::<ErrorIn>::deserialize(deserializer)? else {
            return Ok(None);
        };
        if it.status.is_empty() && it.message.is_empty() && it.reason.is_unknown() && it.code == 0 {
            return Ok(None);
        }
        let code = u16::try_from(it.code).unwrap_or(0);
        Ok(Some(Refusal { message: it.message, reason: it.reason, details: it.details, code }))
    }
}
