//! `keadm backup edge`: keeps the edge node as it is. edgecore stands still for the time of a copy of its store; pods go on.

use super::{Around, Failure, script};
use crate::backup::Scope;
use crate::change::{self, Change, New, Report};
use crate::host::Host;
use crate::node::Node;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, clap::Subcommand)]
enum Side {
    /// Keep programs, configuration and store below /var/lib/kubeedge/backup.
    Edge(Around),
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let Side::Edge(around) = &args.side;
    edge(host, around, &mut |line| println!("{line}"))
}

fn edge(host: &dyn Host, around: &Around, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let lock = change::begin(host, say)?;
    let node = Node::look(host, &around.config)?;
    script(host, around.pre_run.as_deref(), "--pre-run")?;
    let report = Report {
        event_type: "Backup".into(),
        from_version: node.version.clone(),
        to_version: node.version.clone(),
        ..Report::default()
    };
    let change = Change {
        node: &node,
        report,
        scope: Scope::All,
        new: New::Nothing,
        admin: node.admin,
        limit: around.limit(),
        post_run: around.post_run.as_deref(),
    };
    change::carry_out(host, &lock, &change, say)?;
    say("edgecore runs on; `keadm rollback edge` goes back to this");
    Ok(())
}
