//! edgecore's own commands, asked from here.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::finding::Finding;
use crate::binary;
use crate::host::Host;
use crate::render::{CONFIG, PROGRAM};

/// Where edgecore says how it is, unless its configuration says otherwise.
const ADMIN: &str = "127.0.0.1:10560";

pub(super) struct Edgecore<'a> {
    host: &'a dyn Host,
    program: PathBuf,
    /// Its configuration file.
    pub(super) config: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Preflight {
    findings: Vec<Finding>,
}

impl<'a> Edgecore<'a> {
    /// The installed one, else whichever join would install. Errors: one sentence.
    pub(super) fn find(host: &'a dyn Host, config: Option<&Path>) -> Result<Self, String> {
        let installed = PathBuf::from(PROGRAM);
        let program = if host.exists(&installed) { installed } else { binary::find(host)? };
        Ok(Self { host, program, config: config.unwrap_or(Path::new(CONFIG)).to_owned() })
    }

    /// What it printed. Errors: its words, or why it did not start.
    pub(super) fn ask(&self, words: &[&str]) -> Result<String, String> {
        self.run(words, None)
    }

    /// As [`Self::ask`], with a text to read.
    pub(super) fn feed(&self, words: &[&str], input: &str) -> Result<String, String> {
        self.run(words, Some(input))
    }

    pub(super) fn json<T: DeserializeOwned>(&self, words: &[&str]) -> Result<T, String> {
        let text = self.ask(words)?;
        let nonsense =
            |error| format!("{} said what keadm does not understand: {error}", self.program.display());
        serde_json::from_str(&text).map_err(nonsense)
    }

    /// Its look at this machine. It ends with an error when something failed, and has said what.
    pub(super) fn preflight(&self) -> Result<Vec<Finding>, String> {
        let arguments = self.arguments(&["preflight", "--output", "json"]);
        let ran = self.host.run(&self.program, &arguments).map_err(|error| self.unstarted(&error))?;
        let report: Option<Preflight> =
            ran.stdout.lines().last().and_then(|line| serde_json::from_str(line).ok());
        report.map(|report| report.findings).ok_or(ran.stderr)
    }

    /// `None`: nothing answers.
    pub(super) fn answer(&self, path: &str) -> Option<(u16, String)> {
        self.host.get(self.admin()?, path).ok()
    }

    fn admin(&self) -> Option<std::net::SocketAddr> {
        let config = self.host.read(&self.config).ok().flatten().unwrap_or_default();
        let config: serde_json::Value = serde_saphyr::from_slice(&config).unwrap_or_default();
        config
            .pointer("/admin/bindAddress")
            .and_then(|address| address.as_str())
            .unwrap_or(ADMIN)
            .parse()
            .ok()
    }

    fn run(&self, words: &[&str], input: Option<&str>) -> Result<String, String> {
        let arguments = self.arguments(words);
        let ran = match input {
            None => self.host.run(&self.program, &arguments),
            Some(input) => self.host.feed(&self.program, &arguments, input.as_bytes()),
        };
        let ran = ran.map_err(|error| self.unstarted(&error))?;
        if ran.is_good { Ok(ran.stdout) } else { Err(ran.stderr) }
    }

    fn arguments(&self, words: &[&str]) -> Vec<String> {
        let config = self.config.display().to_string();
        ["--config", &config].iter().chain(words).map(|word| (*word).to_owned()).collect()
    }

    fn unstarted(&self, error: &std::io::Error) -> String {
        format!("start {}: {error}", self.program.display())
    }
}
