//! The commands, and how each may end. Called by `main.rs`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};

use crate::host::Host;
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

/// How a command failed; the sentences say what to type next.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was begun is undone, or nothing was.
    Undone(anyhow::Error),
    /// A flag, or two that do not go together.
    Usage(String),
    /// Before anything was touched.
    Refused(String),
    /// Something is there and not as it should be; the message says what to do.
    Halfway(anyhow::Error),
    /// Why, and what could not be undone.
    LeftBehind(anyhow::Error, Vec<String>),
    /// A command in a container did what it does, and ended with this code.
    Ended(u8),
    /// A change of a node that could be neither finished nor undone yet.
    Unfinished(anyhow::Error),
}

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
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.ready_timeout_secs)
    }
}

/// Runs a site's own program, if one is named.
pub(crate) fn script(host: &dyn Host, path: Option<&Path>, flag: &str) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let ran = host
        .run(path, &[])
        .with_context(|| format!("{flag}: start {} (is it executable?)", path.display()))?;
    if ran.is_good {
        Ok(())
    } else {
        Err(Failure::Undone(anyhow!("{flag}: {} failed: {}", path.display(), ran.stderr)))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undone(error) | Self::Halfway(error) => write!(f, "{error:#}"),
            Self::Unfinished(error) => write!(
                f,
                "{error:#}\nwhat was before is put back the next time edgecore starts; when the cause is gone, type `keadm recover --restart`"
            ),
            Self::Usage(why) | Self::Refused(why) => f.write_str(why),
            Self::Ended(code) => write!(f, "the command ended with exit code {code}"),
            Self::LeftBehind(error, left) => {
                write!(f, "{error:#}\nleft behind, since it could not be undone:")?;
                left.iter().try_for_each(|one| write!(f, "\n  {one}"))?;
                f.write_str("\ntype `keadm reset edge --force` when the cause is gone")
            }
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Undone(error)
    }
}
