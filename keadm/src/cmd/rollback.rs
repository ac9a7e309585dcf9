//! `keadm rollback`: the cloud's side is in `upgrade_cloud/back.rs`. `rollback edge` puts a backup in place of the present node,
//! which is kept as a backup itself.
//!
//! The present store stays if the older program can read it: what the cloud knows to be kept here is in no other.

use std::path::Path;

use super::{Around, Failure, upgrade_cloud};
use crate::backup::{self, Backup};
use crate::change::{self, Change, New};
use crate::host::Host;
use crate::node::{self, Node};
use crate::script;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, clap::Subcommand)]
enum Side {
    /// Put programs and configuration of a backup in place.
    Edge(Edge),
    /// Put cloudcore's objects in the cluster back as they were before an upgrade, also one that was cut short.
    Cloud(upgrade_cloud::BackArgs),
}

#[derive(Debug, clap::Args)]
struct Edge {
    #[command(flatten)]
    around: Around,
    /// Version, or name of a folder in /var/lib/kubeedge/backup [default: the newest backup of another version, or the newest if there is none]
    #[arg(long, value_name = "VERSION")]
    historical_version: Option<String>,
}

impl Args {
    /// The command's words, if it changes this machine.
    pub(crate) fn of_machine(&self) -> Option<&'static str> {
        match self.side {
            Side::Edge(_) => Some("rollback edge"),
            Side::Cloud(_) => None,
        }
    }
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    match &args.side {
        Side::Edge(edge) => {
            rollback(host, &edge.around, edge.historical_version.as_deref(), &mut |line| println!("{line}"))
        }
        Side::Cloud(cloud) => upgrade_cloud::go_back(host, cloud),
    }
}

fn rollback(
    host: &dyn Host,
    around: &Around,
    wanted: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    around.must_find_programs(host)?;
    let lock = change::begin(host, say)?;
    let node = Node::look(host, &around.config)?;
    let kept = backup::list(host)?;
    let backup = choose(&kept, &node.version, wanted).map_err(Failure::Refused)?;
    backup.verify(host).map_err(|error| {
        Failure::Refused(format!("nothing was changed: {error:#}; --historical-version names another backup"))
    })?;
    script::run(host, around.pre_run.as_deref(), "--pre-run")?;
    let to = backup.version().to_owned();
    if wanted.is_none() && to == node.version {
        say("there is no backup of another version: the newest one is taken");
    }
    say(&format!("going back from {} to {to} as kept in {}", node.version, backup.folder.display()));
    let admin = node::read(host, &backup.folder.join("edgecore.yaml"))
        .and_then(|config| node::admin(&config))
        .map_err(Failure::Refused)?;
    let change = Change { new: New::Backup(backup.clone()), admin, ..around.change("Rollback", &node, &to) };
    change::carry_out(host, &lock, &change, say)?;
    say(&format!("this node runs {to}"));
    Ok(())
}

fn choose<'a>(kept: &'a [Backup], present: &str, wanted: Option<&str>) -> Result<&'a Backup, String> {
    let whole = || kept.iter().rev().filter(|backup| backup.has_program());
    let found = match wanted {
        Some(wanted) => whole().find(|backup| {
            backup.folder.file_name() == Some(wanted.as_ref())
                || backup.version().trim_start_matches('v') == wanted.trim_start_matches('v')
        }),
        None => whole().find(|backup| backup.version() != present).or_else(|| whole().next()),
    };
    found.ok_or_else(|| {
        let names: Vec<String> = whole().map(|backup| name(&backup.folder)).collect();
        let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        match wanted {
            Some(wanted) => format!("there is no backup {wanted} in {}; there are: {there}", backup::FOLDER),
            None => format!("there is no backup in {}: `keadm upgrade edge` makes one", backup::FOLDER),
        }
    })
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
