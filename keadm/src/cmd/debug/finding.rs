//! How a command that looked at many things tells of them, and ends.

use anyhow::anyhow;

use super::Form;
use crate::cmd::Failure;
use crate::preflight::{Finding, Verdict};

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
