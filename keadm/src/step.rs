//! One step of what is to be done on a machine, as it is written into a plan and as people read it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::journal::Undo;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Its parent is there. One that is there already stays as it is.
    Folder {
        path: PathBuf,
        mode: u32,
    },
    /// As `Folder`, but others put things there, too: it is taken back only when it is empty.
    SharedFolder {
        path: PathBuf,
        mode: u32,
    },
    File {
        path: PathBuf,
        mode: u32,
        body: Vec<u8>,
    },
    /// What stands there before is set aside.
    Replace {
        path: PathBuf,
        mode: u32,
        body: Vec<u8>,
    },
    /// A copy of it is set aside; nothing if it is not there.
    Keep(PathBuf),
    /// What stands there before is set aside.
    Copy {
        from: PathBuf,
        to: PathBuf,
    },
    /// Ends the processes that run this program.
    End {
        program: PathBuf,
        limit: Duration,
    },
    /// What stands there before is set aside.
    Program {
        from: PathBuf,
        to: PathBuf,
    },
    Run {
        what: String,
        program: PathBuf,
        arguments: Vec<String>,
    },
    /// Nothing now; this much when all is taken back.
    OnUndo(Undo),
    /// Starts something that outlives keadm.
    Aside {
        what: String,
        program: PathBuf,
        arguments: Vec<String>,
    },
    /// Until edgecore says that the cloud calls the node Ready.
    WaitReady {
        address: SocketAddr,
        limit: Duration,
    },
    /// A file that is of no more use.
    Drop(PathBuf),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder { path, .. } | Self::SharedFolder { path, .. } => {
                write!(f, "make folder {}", path.display())
            }
            Self::File { path, mode, .. } => write!(f, "write {} (mode {mode:o})", path.display()),
            Self::Replace { path, .. } => {
                write!(f, "write {}; what is there is kept beside it", path.display())
            }
            Self::Keep(path) => write!(f, "copy {} beside it", path.display()),
            Self::Copy { from, to } => write!(f, "copy {} to {}", from.display(), to.display()),
            Self::End { program, .. } => write!(f, "end {}", program.display()),
            Self::Program { from, to } => write!(f, "install {} as {}", from.display(), to.display()),
            Self::Run { what, program, arguments } | Self::Aside { what, program, arguments } => {
                write!(f, "{what}: {} {}", program.display(), arguments.join(" "))
            }
            Self::OnUndo(_) => Ok(()),
            Self::WaitReady { limit, .. } => {
                write!(f, "wait until the node is Ready, {} s at most", limit.as_secs())
            }
            Self::Drop(path) => write!(f, "remove {}", path.display()),
        }
    }
}

/// What would be done, a line each.
pub(crate) fn print(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).filter(|line| !line.is_empty()).collect()
}
