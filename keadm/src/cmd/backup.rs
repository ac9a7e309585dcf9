//! `keadm backup edge`: keeps the edge node as it is. edgecore stands still for the time of a copy of its store; pods go on.

use super::{Around, Failure};
use crate::change;
use crate::host::Host;
use crate::node::Node;
use crate::script;

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
    around.must_find_programs(host)?;
    let lock = change::begin(host, say)?;
    let node = Node::look(host, &around.config)?;
    script::run(host, around.pre_run.as_deref(), "--pre-run")?;
    change::carry_out(host, &lock, &around.change("Backup", &node, &node.version), say)?;
    say("edgecore runs on; `keadm rollback edge` goes back to this");
    Ok(())
}
