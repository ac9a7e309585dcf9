//! The commands. Called by `main.rs`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;

use self::manifest::Wanted;
use crate::backup::Scope;
use crate::change::{Change, New, Report};
use crate::cluster::{Cluster, Write};
use crate::failure::Failure;
use crate::host::Host;
use crate::node::Node;
use crate::render::CONFIG;
use crate::script;

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
mod noted;
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

/// What every change of cloudcore is told.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AroundCloud {
    #[command(flatten)]
    pub(crate) wanted: Wanted,
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// Take back what others have changed about cloudcore's objects since.
    #[arg(long)]
    pub(crate) force: bool,
}

impl AroundCloud {
    /// What becomes of what others have changed.
    fn how(&self) -> Write {
        if self.force { Write::Over } else { Write::Careful }
    }
}

/// Which cluster is changed, whether it is, and how long it may take.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Reach {
    /// Kubeconfig of the cluster [default: $KUBECONFIG, /root/.kube/config or /etc/rancher/k3s/k3s.yaml]
    #[arg(long, value_name = "FILE")]
    pub(crate) kube_config: Option<PathBuf>,
    /// Print what would be done.
    #[arg(short, long)]
    pub(crate) dry_run: bool,
    /// How long cloudcore may take to be ready. Seconds.
    #[arg(long, default_value_t = 120, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    ready_timeout_secs: u64,
}

impl Reach {
    pub(crate) fn cluster(&self) -> Result<Cluster, Failure> {
        Cluster::connect(self.kube_config.as_deref())
    }

    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.ready_timeout_secs)
    }
}

impl Around {
    /// Before anything is done: the last of them would be missed when all else is.
    fn must_find_programs(&self, host: &dyn Host) -> Result<(), Failure> {
        script::must_find(host, self.pre_run.as_deref(), "--pre-run")?;
        script::must_find(host, self.post_run.as_deref(), "--post-run")
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
