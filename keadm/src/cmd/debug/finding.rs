//! One line for each thing that was looked at, and how a command with such lines ends.

use anyhow::anyhow;
use serde::{Deserialize, Serialize};

use super::Form;
use crate::cmd::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Ok,
    /// It works, but somebody should know.
    Warning,
    Failed,
}

/// In the form of `edgecore preflight --output json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Finding {
    /// A fixed word, for scripts.
    pub(super) check: String,
    pub(super) verdict: Verdict,
    pub(super) found: String,
    /// What to type; empty when it is fine.
    #[serde(default)]
    pub(super) advice: String,
}

impl Finding {
    pub(super) fn ok(check: &str, found: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    pub(super) fn failed(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Failed, found: found.into(), advice: advice.into() }
    }

    pub(super) fn warning(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Warning, found: found.into(), advice: advice.into() }
    }

    pub(super) fn line(&self) -> String {
        let Self { check, verdict, found, advice } = self;
        let word = match verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        };
        let advice = if advice.is_empty() { String::new() } else { format!(": {advice}") };
        format!("{word}: {check}: {found}{advice}")
    }
}

/// Writes all of them. Errors: one failed.
pub(super) fn tell(findings: &[Finding], form: Form) -> Result<(), Failure> {
    match form {
        Form::Text => findings.iter().for_each(|finding| println!("{}", finding.line())),
        Form::Json => println!("{}", serde_json::json!({ "findings": findings })),
    }
    let n_failed = findings.iter().filter(|finding| finding.verdict == Verdict::Failed).count();
    match n_failed {
        0 => Ok(()),
        _ => Err(Failure::Undone(anyhow!("{n_failed} of {} things are wrong", findings.len()))),
    }
}
