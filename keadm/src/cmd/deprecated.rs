//! `keadm deprecated` and `keadm beta`: what KubeEdge's users may still type.

use super::{Failure, join, reset};
use crate::host::Host;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// As `keadm join`.
    Join(Box<join::Args>),
    /// As `keadm reset`.
    Reset(reset::Args),
    /// Was: run cloudcore on this host.
    Init {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        flags: Vec<String>,
    },
}

impl Args {
    /// The command's words, if it changes this machine.
    pub(crate) fn of_machine(&self) -> Option<&'static str> {
        match &self.command {
            Command::Join(_) => Some("deprecated join"),
            Command::Reset(args) => args.of_machine().map(|_| "deprecated reset"),
            Command::Init { .. } => None,
        }
    }
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Join(args) => {
            note("join");
            join::run(host, args)
        }
        Command::Reset(args) => {
            note("reset");
            reset::run(host, args)
        }
        Command::Init { .. } => Err(Failure::Usage(
            "keadm does not run cloudcore on a host any more: `keadm init` puts it into a cluster, and without one it runs by \
             itself: cloudcore --config FILE"
                .into(),
        )),
    }
}

/// There never were any, but the word is in people's notes.
pub(crate) fn beta() -> Result<(), Failure> {
    Err(Failure::Usage("there are no beta commands; all commands: keadm --help".into()))
}

fn note(command: &str) {
    eprintln!("note: `keadm deprecated {command}` is `keadm {command}` now, with its broker built in");
}
