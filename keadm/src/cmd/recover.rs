//! `keadm recover`: puts an edge node back to what it was before an upgrade, rollback or new configuration that was cut short.
//!
//! Service managers run it before each start of edgecore; every change starts one that waits for its end, killed or not.

use std::time::Duration;

use super::Failure;
use crate::change;
use crate::host::Host;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stop edgecore before and start it afterwards.
    #[arg(long)]
    restart: bool,
    /// Wait until nobody changes this node any more.
    #[arg(long, requires = "restart")]
    wait: bool,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let mut say = |line: &str| println!("{line}");
    if args.wait {
        // Who started it may hang up. It fails for who leads its group already, which has left its terminal then.
        let _ = rustix::process::setsid();
    }
    let limit = if args.wait { Duration::MAX } else { Duration::ZERO };
    let done = if args.restart {
        change::restart(host, limit, &mut say)
    } else {
        change::before_start(host, &mut say)
    };
    done.map_err(change::unfinished)
}
