//! `keadm rollback cloud`: cloudcore's objects as they were before an upgrade, also one that was cut short.
//!
//! Resource definitions stay as wide as they are: Devices may have been stored by them meanwhile.

use std::path::{Path, PathBuf};

use anyhow::anyhow;

use super::before::{Before, is_same};
use super::kept::{self, Kept, State};
use super::{like, look, not_back, not_ready, ready, refused, uid};
use crate::apply::{may, may_write};
use crate::cluster::{Cluster, Write};
use crate::cmd::{Reach, reset_cloud};
use crate::failure::Failure;
use crate::host::Host;

#[derive(Debug, clap::Args)]
#[command(after_help = "Typed again it goes back by one upgrade more. Edge nodes and their pods run on.")]
pub(crate) struct Args {
    #[command(flatten)]
    reach: Reach,
    /// Name of a folder in the backup folder [default: that of the newest upgrade which was not taken back]
    #[arg(long, value_name = "TIME")]
    historical_version: Option<String>,
    /// Where the objects of before are kept, as upgrade cloud was told [default: /var/lib/keadm-cloud]
    #[arg(long, value_name = "FOLDER")]
    backup_dir: Option<PathBuf>,
}

/// For whoever writes the same objects: half of an upgrade is gone on with, or back from, by what was kept of it.
pub(crate) fn must_be_whole(host: &dyn Host, cluster: &Cluster, say: &dyn Fn(&str)) -> Result<(), Failure> {
    let Some(deployment) = cluster.get(&like("apps/v1", "Deployment")).map_err(refused)? else {
        return Ok(());
    };
    kept::must_be_whole(host, Path::new(kept::FOLDER), &uid(&deployment), say)
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let say = |line: &str| println!("{line}");
    let cluster = args.reach.cluster()?;
    let installation = look(&cluster, &say)?;
    let above = args.backup_dir.as_deref().unwrap_or(Path::new(kept::FOLDER));
    let is_changing = !args.reach.dry_run && host.exists(above);
    let _lock = is_changing.then(|| kept::hold(host, above)).transpose()?;
    let all = kept::list(host, above, &installation, &say).map_err(refused)?;
    let mut later = kept::choose(all, args.historical_version.as_deref()).map_err(Failure::Refused)?;
    // What the upgrades since have made, and what else of keadm's there is now.
    let mut made = reset_cloud::all_made(&cluster).map_err(refused)?;
    for object in later.iter().flat_map(|kept| kept.made()) {
        if !made.iter().any(|one| is_same(one, object)) {
            made.push(object.clone());
        }
    }
    let (goal, later) = later.split_first_mut().ok_or_else(|| anyhow!("there is nothing to go back to"))?;
    may_write(&cluster, &goal.before().present)?;
    may_write(&cluster, &goal.before().gone)?;
    may(&cluster, &made, &["get", "delete"])?;
    say(&format!("going back to what is kept in {}", goal.objects().display()));
    if args.reach.dry_run {
        let left = goal.before().put_back(&cluster, &made, Write::TryOver, &say);
        left.iter().for_each(|why| say(&format!("would be refused: {why}")));
        say("nothing was changed");
        return Ok(());
    }
    // Half of both is nothing that anybody wants again.
    let whole = match goal.state() {
        State::UnderWay => None,
        State::Done | State::TakenBack => {
            Some(Before::read(&cluster, &goal.before().present).map_err(refused)?)
        }
    };
    goal.go_back(host, whole.as_ref()).map_err(refused)?;
    for kept in later {
        kept.note(host, State::TakenBack).map_err(refused)?;
    }
    let left = goal.before().put_back(&cluster, &made, Write::Over, &say);
    if !left.is_empty() {
        return Err(Failure::Halfway(anyhow!(not_back(goal, &left))));
    }
    let noted = goal.note(host, State::TakenBack);
    noted.map_err(|error| not_noted(&error, goal))?;
    say("the objects of before are back");
    ready(host, &cluster, args.reach.limit(), &say)
        .map_err(|error| Failure::Halfway(anyhow!(not_ready(&error))))?;
    say("the cloudcore of before is ready; edge nodes connect again by themselves");
    Ok(())
}

/// The record still says that it is under way.
fn not_noted(error: &anyhow::Error, goal: &Kept) -> Failure {
    Failure::Halfway(anyhow!(
        "the objects of before are back, but that cannot be noted: {error:#}; when the cause is gone type {} again",
        goal.way_back()
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn what_cannot_be_noted_is_no_undone_rollback() {
        let host = FakeHost::new(&["/"]);
        let before = Before { present: Vec::new(), gone: Vec::new() };
        let made = Kept::make(&host, Path::new("/kept"), "uid-1", before, (&Value::Null, &[]));
        let failure = not_noted(&anyhow!("full"), &made.unwrap());
        assert_eq!(failure.code(), 4, "{failure}");
        assert!(failure.to_string().contains("keadm rollback cloud --backup-dir /kept again"), "{failure}");
    }
}
