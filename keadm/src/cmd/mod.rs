//! The commands, and how each may end. Called by `main.rs`.

use std::fmt;

pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod manifest;
pub(crate) mod reset;
pub(crate) mod reset_cloud;
pub(crate) mod supervise;
pub(crate) mod takeover;
pub(crate) mod token;
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
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undone(error) | Self::Halfway(error) => write!(f, "{error:#}"),
            Self::Usage(why) | Self::Refused(why) => f.write_str(why),
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
