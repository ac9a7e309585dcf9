//! `keadm upgrade cloud`: another version of cloudcore, or other values, in place of what keadm has installed.
//!
//! In this order: flags, a look at the cluster, every object tried (nothing is written until that is good), a backup, the objects
//! by server-side apply, the rollout. If cloudcore does not become ready and stay so, the objects are put back as they were. A
//! keadm that is killed leaves a note (`kept.rs`) from which the next one goes on, or back (`back.rs`). Edge nodes and
//! their pods are not touched. Resource definitions are only ever widened and stay so: a narrower one could make Devices that
//! were stored meanwhile unreadable.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

mod back;
mod before;
mod kept;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

pub(crate) use self::back::{Args as BackArgs, must_be_whole, run as go_back};
use self::before::Before;
use self::kept::{Kept, State};
use super::noted::below;
use super::takeover::{self, Owner};
use super::{AroundCloud, Failure};
use crate::apply::{Became, apply_one, look_at_version, may_write, wanted};
use crate::cluster::{Cluster, SELECTOR, Write, shown};
use crate::health::STEADY;
use crate::host::Host;
use crate::objects::{NAME, NAMESPACE};
use crate::rollout::{NONE_WANTED, is_after, is_wanted, pods, readiness, revision};
use crate::token_secrets;
use crate::wait::{wait, wait_steady};

/// Lines of a pod's log that are told.
const N_LINES: u32 = 10;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: unpack the new version's archive and type ./keadm upgrade cloud in its folder.\n\
                  What was said at init, and since, holds; --set and the other flags are laid over it."
)]
pub(crate) struct Args {
    #[command(flatten)]
    around: AroundCloud,
    /// Where the objects of before are kept, in a folder of their own [default: /var/lib/keadm-cloud]
    #[arg(long, value_name = "FOLDER")]
    backup_dir: Option<PathBuf>,
    /// Forget what was said at init and since.
    #[arg(long)]
    reset_values: bool,
    /// Print the values that hold, as far as they are not the defaults.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    print_final_values: Option<bool>,
    /// KubeEdge's; what was said before always holds.
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    reuse_values: Option<bool>,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let say = |line: &str| println!("{line}");
    let AroundCloud { wanted: flags, reach, .. } = &args.around;
    // What is wrong with it is told before anything is asked.
    flags.values()?;
    let cluster = reach.cluster()?;
    let installation = look(&cluster, &say)?;
    let above = args.backup_dir.as_deref().unwrap_or(Path::new(kept::FOLDER));
    let is_first = !host.exists(above);
    let mut lock = (!reach.dry_run && !is_first).then(|| kept::hold(host, above)).transpose()?;
    let cut_short = kept::under_way(kept::list(host, above, &installation, &say).map_err(refused)?);
    let below = match &cut_short {
        Some(kept) => {
            say(&format!(
                "an earlier change of cloudcore was cut short: going on; what was before it is kept in {} ({} goes back to it)",
                kept.objects().display(),
                kept.way_back()
            ));
            match kept.said() {
                Value::Null => below(kept.before().of(&like("v1", "ConfigMap")), args.reset_values, &say),
                _ if args.reset_values => Value::Null,
                said => said.clone(),
            }
        }
        None => {
            let present = cluster.get(&like("v1", "ConfigMap")).map_err(refused)?;
            below(present.as_ref(), args.reset_values, &say)
        }
    };
    let (said, warnings) = flags.said_over(below)?;
    if args.print_final_values == Some(true) {
        print!("{}", serde_saphyr::to_string(&said).context("write the values")?);
    }
    let all = wanted(&said, warnings, &say)?;
    may_write(&cluster, &all)?;
    let how = args.around.how();
    let now = Before::read(&cluster, &all).map_err(refused)?;
    // What `prune` removes, and `put_back` makes again.
    may_write(&cluster, &now.gone)?;
    let steps = now.steps(&cluster, &all, how).map_err(refused)?;
    if steps.is_empty() && cut_short.is_none() {
        return same(&cluster, &say);
    }
    if let Some((old, new)) = images(&now, &all) {
        say(&format!("cloudcore's image: {old} -> {new}"));
    }
    if reach.dry_run {
        steps.iter().for_each(|step| say(step));
        say("nothing was changed");
        return Ok(());
    }
    if is_first {
        lock = Some(kept::hold(host, above)?);
    }
    let mut kept = match cut_short {
        Some(mut kept) => {
            kept.go_on(host, &said, &all).map_err(refused)?;
            kept
        }
        None => {
            let made = Kept::make(host, above, &installation, now.clone(), (&said, &all)).map_err(refused)?;
            say(&format!("what is there is kept in {}", made.objects().display()));
            made
        }
    };
    if let Err(why) = carry_out(host, &cluster, &all, (how, reach.limit()), &say) {
        return Err(take_back(host, &cluster, &mut kept, (reach.limit(), why), &say));
    }
    now.prune(&cluster, &say).map_err(|error| {
        Failure::Halfway(
            error.context("cloudcore is upgraded, but something of before is still there; type it again"),
        )
    })?;
    let noted = kept.note(host, State::Done);
    noted
        .context("cloudcore is upgraded, but that cannot be noted; type it again")
        .map_err(Failure::Halfway)?;
    drop(lock);
    if !is_wanted(&all) {
        say(NONE_WANTED);
        return Ok(());
    }
    token_secrets::wait_for(host, &cluster, host.elapsed() + reach.limit())?;
    say("cloudcore is upgraded; edge nodes connect again by themselves");
    Ok(())
}

fn refused(error: anyhow::Error) -> Failure {
    Failure::Refused(format!("nothing was changed: {error:#}"))
}

/// Whether there is something of keadm's here. Out: by what this installation is told from others.
fn look(cluster: &Cluster, say: &dyn Fn(&str)) -> Result<String, Failure> {
    look_at_version(cluster, say)?;
    let owner = takeover::look(cluster)?.map(|old| old.owner);
    let why = match owner {
        Some(Owner::Keadm) => {
            let deployment =
                cluster.get(&like("apps/v1", "Deployment")).map_err(refused)?.unwrap_or_default();
            return Ok(uid(&deployment));
        }
        None => format!(
            "there is no cloudcore in {} (Deployment {NAMESPACE}/{NAME}): keadm init --advertise-address=ADDRESS installs it",
            cluster.server
        ),
        Some(Owner::Helm) => {
            "cloudcore was installed here with Helm: helm upgrade brings it to another version, after \
             kubectl apply --server-side --force-conflicts -f charts/cloudcore/crds; helm rollback brings it back"
                .to_owned()
        }
        Some(Owner::KubeEdge) => format!(
            "Deployment {NAMESPACE}/{NAME} is KubeEdge's: keadm init --takeover puts Isthmus in its place"
        ),
    };
    Err(Failure::Refused(why))
}

fn uid(deployment: &Value) -> String {
    deployment["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

/// Written, ready, and still so after a while; or why not.
fn carry_out(
    host: &dyn Host,
    cluster: &Cluster,
    all: &[Value],
    (how, limit): (Write, Duration),
    say: &dyn Fn(&str),
) -> Result<()> {
    for object in all {
        let became = apply_one(cluster, object, how)?;
        if became != Became::Keep {
            say(&format!("{became} {}", shown(object)));
        }
    }
    let is_told = Cell::new(false);
    wait_steady(host, host.elapsed() + limit, STEADY, say, || {
        let seen = readiness(cluster, &like("apps/v1", "Deployment"))?;
        if seen.is_ok() && !is_told.replace(true) {
            say(&format!("cloudcore is ready; watching for {} s whether it stays so", STEADY.as_secs()));
        }
        Ok(seen)
    })?;
    say("cloudcore is ready and stays so");
    Ok(())
}

/// Once is enough: it is what was there before, and there is nothing else to do about it.
fn ready(host: &dyn Host, cluster: &Cluster, limit: Duration, say: &dyn Fn(&str)) -> Result<()> {
    let look = || Ok(readiness(cluster, &like("apps/v1", "Deployment"))?.map(drop));
    wait(host, host.elapsed() + limit, say, look)
}

/// Puts everything back, and says what it was that was seen.
fn take_back(
    host: &dyn Host,
    cluster: &Cluster,
    kept: &mut Kept,
    (limit, why): (Duration, anyhow::Error),
    say: &dyn Fn(&str),
) -> Failure {
    // Before the pod that knows it is replaced.
    let said = last_words(cluster, kept.before());
    say(&format!("cloudcore is not as wanted ({why:#}): putting back what was there"));
    // So that whoever comes after a keadm that is killed now does not begin with the same again.
    let noted = kept.go_back(host, None);
    let left = kept.before().put_back(cluster, kept.made(), Write::Over, say);
    let why = why.context(format!("the upgrade was taken back{said}"));
    if !left.is_empty() {
        return Failure::Halfway(why.context(not_back(kept, &left)));
    }
    say("the objects of before are back");
    if let Err(error) = noted.and_then(|()| kept.note(host, State::TakenBack)) {
        say(&format!("warning: that it was taken back cannot be noted: {error:#}"));
    }
    match ready(host, cluster, limit, say) {
        Ok(()) => {
            say("the cloudcore of before is ready");
            Failure::Undone(why)
        }
        Err(error) => Failure::Halfway(why.context(not_ready(&error))),
    }
}

fn not_back(kept: &Kept, left: &[String]) -> String {
    format!(
        "not everything could be put back; {} does it when the cause is gone:\n  {}",
        kept.way_back(),
        left.join("\n  ")
    )
}

fn not_ready(error: &anyhow::Error) -> String {
    format!(
        "the objects of before are back, but their cloudcore is not ready ({error:#}); look at: kubectl -n {NAMESPACE} describe \
         pods"
    )
}

/// The last lines of the log of a pod that is not ready. Those of before have nothing to say on why the new ones are not.
fn last_words(cluster: &Cluster, before: &Before) -> String {
    let sets = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"namespace": NAMESPACE}});
    let sets = cluster.list(&sets, SELECTOR).unwrap_or_default();
    let n_before = before.of(&like("apps/v1", "Deployment")).map_or(0, revision);
    let mut pods = pods(cluster).unwrap_or_default();
    pods.retain(|pod| is_after(pod, &sets, n_before));
    let failing = pods.iter().find(|pod| {
        let containers = pod["status"]["containerStatuses"].as_array();
        containers.is_some_and(|all| all.iter().any(|container| container["ready"] != true))
    });
    let Some(name) = failing.and_then(|pod| pod["metadata"]["name"].as_str()) else { return String::new() };
    let logs = [true, false].map(|is_previous| cluster.log(NAMESPACE, name, is_previous, N_LINES));
    let Some(log) = logs.into_iter().flatten().find(|log| is_log(log)) else { return String::new() };
    format!("; the last lines of pod {name}:\n  {}\n", log.trim_end().replace('\n', "\n  "))
}

/// Whether a container has said anything. Of one that is gone, the kubelet says so in place of its log, and calls it one.
fn is_log(text: &str) -> bool {
    !text.trim().is_empty() && !text.starts_with("unable to retrieve container logs for ")
}

fn same(cluster: &Cluster, say: &dyn Fn(&str)) -> Result<(), Failure> {
    match readiness(cluster, &like("apps/v1", "Deployment"))? {
        Ok(_) => {
            say("all of that is so already: nothing is changed");
            Ok(())
        }
        Err(why) => Err(Failure::Undone(anyhow!(
            "all of that is so already, and nothing is changed, but {why}; look at: kubectl -n {NAMESPACE} describe pods"
        ))),
    }
}

/// The present image and the next, if they differ.
fn images(before: &Before, all: &[Value]) -> Option<(String, String)> {
    let new = all.iter().find(|object| object["kind"] == "Deployment")?;
    let image =
        |of: &Value| of["spec"]["template"]["spec"]["containers"][0]["image"].as_str().map(str::to_owned);
    let (old, new) = (image(before.of(new)?)?, image(new)?);
    (old != new).then_some((old, new))
}

/// No more of an object than is needed to remove it.
fn named(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({"apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]}})
}

/// cloudcore's object of this kind.
fn like(version: &str, kind: &str) -> Value {
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": NAME, "namespace": NAMESPACE}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_gone_is_none() {
        assert!(is_log("panicked at main.rs\n"));
        assert!(!is_log("\n"));
        assert!(!is_log("unable to retrieve container logs for containerd://2a24b0c7736a"));
    }

    #[test]
    fn the_image_is_told_if_it_is_another() {
        let deployment = |image: &str| {
            let pod = json!({"spec": {"containers": [{"image": image}]}});
            json!({"kind": "Deployment", "metadata": {"name": NAME}, "spec": {"template": pod}})
        };
        let before = Before { present: vec![deployment("a:1")], gone: Vec::new() };
        assert_eq!(images(&before, &[deployment("a:2")]), Some(("a:1".into(), "a:2".into())));
        assert_eq!(images(&before, &[deployment("a:1")]), None);
    }
}
