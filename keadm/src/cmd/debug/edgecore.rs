//! edgecore's own commands, asked from here.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::binary;
use crate::host::Host;
use crate::node;
use crate::preflight::{self, Finding};
use crate::render::{CONFIG, PROGRAM};

pub(super) struct Edgecore<'a> {
    host: &'a dyn Host,
    program: PathBuf,
    /// Its configuration file.
    pub(super) config: PathBuf,
}

impl<'a> Edgecore<'a> {
    /// The installed one, if it is ours; else whichever join would install. Errors: one sentence.
    pub(super) fn find(host: &'a dyn Host, config: Option<&Path>) -> Result<Self, String> {
        let installed = PathBuf::from(PROGRAM);
        // KubeEdge's takes every question for a start.
        let is_ours = host.exists(&installed) && node::is_ours(host, &installed);
        let program = if is_ours { installed } else { binary::find_new(host)? };
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

    /// Its look at this machine. Errors: its words.
    pub(super) fn preflight(&self) -> Result<Vec<Finding>, String> {
        preflight::look(self.host, &self.program, &self.config).map(|report| report.findings)
    }

    /// `None`: nothing answers.
    pub(super) fn answer(&self, path: &str) -> Option<(u16, String)> {
        self.host.get(self.admin()?, path).ok()
    }

    fn admin(&self) -> Option<std::net::SocketAddr> {
        // Without a configuration it is where edgecore is told nothing.
        node::admin(&node::read(self.host, &self.config).unwrap_or_default()).ok()
    }

    fn run(&self, words: &[&str], input: Option<&str>) -> Result<String, String> {
        let arguments = self.arguments(words);
        let ran = match input {
            None => self.host.run(&self.program, &arguments),
            Some(input) => self.host.feed(&self.program, &arguments, input.as_bytes()),
        };
        let ran = ran.map_err(|error| self.unstarted(&error))?;
        // It stands within a sentence that says so.
        if ran.is_good { Ok(ran.stdout) } else { Err(ran.stderr.trim_start_matches("error: ").to_owned()) }
    }

    fn arguments(&self, words: &[&str]) -> Vec<String> {
        let config = self.config.display().to_string();
        ["--config", &config].iter().chain(words).map(|word| (*word).to_owned()).collect()
    }

    fn unstarted(&self, error: &std::io::Error) -> String {
        format!("start {}: {error}", self.program.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn kubeedges_edgecore_is_asked_nothing() {
        let host = FakeHost::new(&[PROGRAM]);
        host.write(Path::new(PROGRAM), crate::node::OF_GO, 0o755).unwrap();
        assert!(Edgecore::find(&host, None).is_err(), "there is no other");
        host.write(Path::new("/opt/keadm/edgecore"), b"ours", 0o755).unwrap();
        Edgecore::find(&host, None).unwrap().ask(&["objects"]).unwrap();
        let asked =
            host.ran.borrow().iter().filter(|line| line.starts_with(PROGRAM)).cloned().collect::<Vec<_>>();
        assert!(asked.is_empty(), "{asked:?}");
    }
}
