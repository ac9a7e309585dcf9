//! A look at the machine before anything is changed: edgecore itself says whether it could run with a configuration.

use std::path::Path;

use ke_api::pod_network::{CHECK, NoNetwork};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::host::Host;
use crate::words::last_words;

/// What `edgecore preflight --output json` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Preflight {
    pub(crate) findings: Vec<Finding>,
    #[serde(default)]
    pub(crate) cgroup_driver: Option<String>,
    /// `None`: pods have a network.
    #[serde(default)]
    pub(crate) no_network: Option<NoNetwork>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Ok,
    /// It works, but somebody should know.
    Warning,
    Failed,
}

impl Preflight {
    /// Whoever gives pods a network has judged that already.
    pub(crate) fn without_network(mut self) -> Self {
        self.findings.retain(|finding| finding.check != CHECK);
        self
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Finding {
    /// A fixed word, for scripts.
    pub(crate) check: String,
    pub(crate) verdict: Verdict,
    pub(crate) found: String,
    /// What to type; empty when it is fine.
    #[serde(default)]
    pub(crate) advice: String,
}

impl Finding {
    pub(crate) fn ok(check: &str, found: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Ok, found: found.into(), advice: String::new() }
    }

    pub(crate) fn failed(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Failed, found: found.into(), advice: advice.into() }
    }

    pub(crate) fn warning(check: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Warning, found: found.into(), advice: advice.into() }
    }

    pub(crate) fn line(&self) -> String {
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

/// Lets edgecore look before a change, with the configuration in that file.
pub(crate) fn before_change(host: &dyn Host, edgecore: &Path, config: &Path) -> Result<Preflight, Failure> {
    look(host, edgecore, config).map_err(|why| Failure::Refused(format!("nothing was changed: {why}")))
}

/// Errors: edgecore's words.
pub(crate) fn look(host: &dyn Host, edgecore: &Path, config: &Path) -> Result<Preflight, String> {
    let config = config.display().to_string();
    let arguments = ["--config", &*config, "preflight", "--output", "json"].map(str::to_owned);
    let ran = host.run(edgecore, &arguments);
    let ran = ran.map_err(|error| format!("start {}: {error}", edgecore.display()))?;
    let report = ran.stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
    // Without a report it does not take the configuration, and its words name the key.
    report.ok_or_else(|| complaint(&ran.stderr))
}

/// What edgecore has against a configuration, for within a sentence of ours. The file that it read is one that users have not.
pub(crate) fn complaint(stderr: &str) -> String {
    let is_of_file =
        |line: &str| line.ends_with("cannot be used:") || line.starts_with("correct it, then run");
    let lines = stderr.lines().map(str::trim).filter(|line| !is_of_file(line));
    last_words(&lines.collect::<Vec<_>>().join("\n"))
}

/// Tells what was found; refuses if anything of it makes edgecore impossible here.
pub(crate) fn judge(report: &Preflight, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for Finding { check, verdict, found, advice } in &report.findings {
        match verdict {
            Verdict::Ok => say(&format!("ok: {found}")),
            Verdict::Failed if advice.is_empty() => failed.push(format!("{check}: {found}")),
            Verdict::Failed => failed.push(format!("{check}: {found}: {advice}")),
            Verdict::Warning => say(&format!("warning: {found}: {advice}")),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let why = failed.join("\n  ");
    Err(Failure::Refused(format!("this machine cannot join yet, and nothing was changed:\n  {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_names_no_file_that_is_gone() {
        let check = |stderr: &str, expected: &str| assert_eq!(complaint(stderr), expected);
        check(
            "error: /run/keadm-config/edgecore.yaml cannot be used:\n  modules.x: unknown key (line 3)\n  a: no\n\
             correct it, then run \"edgecore config check /run/keadm-config/edgecore.yaml\"\n",
            "modules.x: unknown key (line 3); a: no",
        );
        check("error: open the store", "open the store");
        check("", "it failed and said nothing");
    }
}
