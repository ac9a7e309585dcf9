//! A look at the machine before anything is changed: edgecore itself says whether it could run with a configuration.

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use crate::cmd::Failure;
use crate::host::Host;
use crate::pod_network::NoNetwork;

/// What `edgecore preflight --output json` says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Preflight {
    findings: Vec<Finding>,
    #[serde(default)]
    pub(crate) cgroup_driver: Option<String>,
    /// `None`: pods have a network.
    #[serde(default)]
    pub(crate) no_network: Option<NoNetwork>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    check: String,
    verdict: String,
    found: String,
    #[serde(default)]
    advice: String,
}

impl Preflight {
    /// Whoever gives pods a network has judged that already.
    pub(crate) fn without_network(mut self) -> Self {
        self.findings.retain(|finding| finding.check != "network");
        self
    }
}

/// Lets edgecore look, with the configuration in that file.
pub(crate) fn ask(host: &dyn Host, edgecore: &Path, config: &Path) -> Result<Preflight, Failure> {
    let config = config.display().to_string();
    let arguments = ["--config", &*config, "preflight", "--output", "json"].map(str::to_owned);
    let ran = host.run(edgecore, &arguments).with_context(|| format!("start {}", edgecore.display()))?;
    let report = ran.stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
    // Without a report it does not take the configuration, and its words name the key.
    report.ok_or_else(|| Failure::Refused(format!("nothing was changed: {}", ran.stderr)))
}

/// Tells what was found; refuses if anything of it makes edgecore impossible here.
pub(crate) fn judge(report: &Preflight, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let mut failed = Vec::new();
    for Finding { check, verdict, found, advice } in &report.findings {
        match verdict.as_str() {
            "ok" => say(&format!("ok: {found}")),
            "failed" if advice.is_empty() => failed.push(format!("{check}: {found}")),
            "failed" => failed.push(format!("{check}: {found}: {advice}")),
            _ => say(&format!("warning: {found}: {advice}")),
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    let why = failed.join("\n  ");
    Err(Failure::Refused(format!("this machine cannot join yet, and nothing was changed:\n  {why}")))
}
