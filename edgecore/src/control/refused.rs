//! Pure: why something that was asked for is not done, as Kubernetes' API says it.

use std::fmt::Display;

use serde_json::{Value, json};

/// An answer that is no success. `message` is a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: u16,
    reason: &'static str,
    message: String,
}

impl Refused {
    pub(super) fn bad(message: String) -> Self {
        Self { code: 400, reason: "BadRequest", message }
    }

    pub(super) fn not_found(message: String) -> Self {
        Self { code: 404, reason: "NotFound", message }
    }

    pub(super) fn no_such_path(path: &str) -> Self {
        Self::not_found(format!(
            "there is no {path} here, only pods with log, exec and restart, events, and devices"
        ))
    }

    /// What is asked for does not go with how things are.
    pub(super) fn conflict(message: String) -> Self {
        Self { code: 409, reason: "Conflict", message }
    }

    /// It failed within.
    pub(super) fn broken(why: &dyn Display) -> Self {
        Self { code: 500, reason: "InternalError", message: why.to_string() }
    }

    /// It failed for now.
    pub(super) fn unavailable(message: String) -> Self {
        Self { code: 503, reason: "ServiceUnavailable", message }
    }

    pub(super) fn late(message: String) -> Self {
        Self { code: 504, reason: "Timeout", message }
    }

    /// The body of the answer.
    pub(super) fn status(&self) -> Value {
        let Self { code, reason, message } = self;
        json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code,
        })
    }
}
