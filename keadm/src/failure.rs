//! How a command may end when it does not end well: what is said, and the exit code. Known to every room, imports none.

use std::fmt;

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

impl Failure {
    /// Of the process; `--help` explains them.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Undone(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Halfway(_) | Self::LeftBehind(..) | Self::Unfinished(_) => 4,
            Self::Ended(code) => *code,
        }
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
