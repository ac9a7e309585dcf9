//! The commands. Called by `main.rs`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use crate::backup::Scope;
use crate::change::{Change, New, Report, must_find, script};
use crate::failure::Failure;
use crate::host::Host;
use crate::node::Node;
use crate::render::CONFIG;

pub(crate) mod backup;
pub(crate) mod batch;
pub(crate) mod bundle;
pub(crate) mod config;
pub(crate) mod ctl;
pub(crate) mod debug;
pub(crate) mod deprecated;
pub(crate) mod documents;
pub(crate) mod images;
pub(crate) mod init;
pub(crate) mod install_into;
pub(crate) mod join;
pub(crate) mod manifest;
pub(crate) mod recover;
pub(crate) mod reset;
pub(crate) mod reset_cloud;
pub(crate) mod rollback;
pub(crate) mod supervise;
pub(crate) mod takeover;
pub(crate) mod takeover_edge;
pub(crate) mod token;
pub(crate) mod tokens;
pub(crate) mod upgrade;
pub(crate) mod upgrade_cloud;
pub(crate) mod version;

/// What every change of an edge node is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Around {
    /// edgecore's configuration.
    #[arg(long, default_value = CONFIG, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// A program that runs before anything is changed; it must be executable.
    #[arg(long, value_name = "FILE")]
    pub(crate) pre_run: Option<PathBuf>,
    /// A program that runs once edgecore is as well as before; if it fails, what was done is undone.
    #[arg(long, value_name = "FILE")]
    pub(crate) post_run: Option<PathBuf>,
    /// How long edgecore may take to be as well as before. Seconds.
    #[arg(long, default_value_t = 120, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) ready_timeout_secs: u64,
}

impl Around {
    /// Before anything is done: the last of them would be missed when all else is.
    fn must_find_programs(&self, host: &dyn Host) -> Result<(), Failure> {
        must_find(host, self.pre_run.as_deref(), "--pre-run")?;
        must_find(host, self.post_run.as_deref(), "--post-run")
    }

    /// A change of all of that node which puts nothing in place yet. `event_type`: of its report.
    fn change<'a>(&'a self, event_type: &str, node: &'a Node, to_version: &str) -> Change<'a> {
        let report = Report {
            event_type: event_type.to_owned(),
            from_version: node.version.clone(),
            to_version: to_version.to_owned(),
            ..Report::default()
        };
        Change {
            node,
            report,
            scope: Scope::All,
            new: New::Nothing,
            admin: node.admin,
            limit: Duration::from_secs(self.ready_timeout_secs),
            post_run: self.post_run.as_deref(),
        }
    }
}

/// Asks. `what` goes, says the question.
fn is_meant(what: &str) -> Result<bool, Failure> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        let why = format!(
            "this would remove {what} with certificates and data; add --force to do it without asking"
        );
        return Err(Failure::Refused(why));
    }
    print!("This removes {what} with certificates and data. Type yes to go on: ");
    std::io::stdout().flush().context("ask")?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer).context("read the answer")?;
    Ok(answer.trim() == "yes")
}
