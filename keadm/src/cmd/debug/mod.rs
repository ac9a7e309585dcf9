//! `keadm debug`: what is wrong with this edge node, and what to send to who can tell. It changes nothing on the node.
//!
//! What needs the store, the container runtime or a certificate is asked of edgecore's own commands.

mod check;
mod collect;
mod diagnose;
mod edgecore;
mod finding;
mod get;

use super::Failure;
use crate::host::Host;
use crate::reach::Internet;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Show what this node holds of the cluster, with the cloud away or edgecore stopped too.
    Get(get::Args),
    /// Look for what is wrong with the node, a pod, or a machine that should become a node.
    Diagnose(diagnose::Args),
    /// Look at what edgecore needs of this machine.
    Check(check::Args),
    /// Put all that helps to find a fault into one file, without secrets.
    Collect(collect::Args),
}

/// How findings are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    #[default]
    Text,
    Json,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::Get(args) => get::run(host, args),
        What::Diagnose(args) => diagnose::run(host, &Internet, args),
        What::Check(args) => check::run(host, &Internet, args),
        What::Collect(args) => collect::run(host, args),
    }
}
