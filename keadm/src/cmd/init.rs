//! `keadm init`: makes a cluster the cloud of edge nodes.
//!
//! In this order: flags, a look at the cluster (nothing is written until that is good), the objects by server-side apply,
//! cloudcore is ready and has made its token. Done twice, the second run changes nothing: what was said earlier holds.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use std::time::Duration;

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use super::manifest::Wanted;
use super::takeover::{self, Owner};
use super::{AroundCloud, Failure, noted, upgrade_cloud};
use crate::apply::{Became, apply_one, look_at_version, may_write, try_one, wanted};
use crate::cluster::{Cluster, Write, shown};
use crate::host::Host;
use crate::objects::{NAME, NAMESPACE};
use crate::rollout::{NONE_WANTED, is_wanted, readiness};
use crate::token_secrets;
use crate::wait::wait;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: keadm init --advertise-address=203.0.113.7\nThen: keadm gettoken, and keadm join on each machine."
)]
pub(crate) struct Args {
    #[command(flatten)]
    around: AroundCloud,
    /// Take the place of a KubeEdge installation: its CA, tokens, nodes and devices stay.
    #[arg(long)]
    takeover: bool,
    /// Forget what was said at an earlier init, and since.
    #[arg(long)]
    reset_values: bool,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let AroundCloud { wanted: flags, reach, .. } = &args.around;
    let say = |line: &str| println!("{line}");
    // What is wrong with it is told before anything is asked.
    flags.values()?;
    let cluster = reach.cluster()?;
    let deadline = host.elapsed() + reach.limit();
    let found = look(&cluster, args, &say)?;
    let is_ours = found.as_ref().is_some_and(|found| found.owner == Owner::Keadm);
    let old = found.filter(|found| found.owner == Owner::KubeEdge);
    upgrade_cloud::must_be_whole(host, &cluster, &say)?;
    let below = match &old {
        Some(old) => old.below(),
        None => noted_earlier(&cluster, args.reset_values, &say)?,
    };
    let silent = noted::silent_on(&flags.said_over(Value::Null)?.0, &below);
    if !silent.is_empty() {
        say(&format!("said earlier, and not now, so that it holds: {}", silent.join(", ")));
    }
    let (said, warnings) = flags.said_over(below)?;
    let all = wanted(&said, warnings, &say)?;
    may_write(&cluster, &all)?;
    if let Some(old) = &old {
        old.may_go(&cluster)?;
    }
    if !reach.dry_run {
        wait_terminated(host, &cluster, deadline, &say)?;
    }
    // Once it is taken over, `--takeover` has no more to say than init without it.
    let how = if args.takeover && !is_ours { Write::Over } else { args.around.how() };
    let (steps, refused) = plan(&cluster, &all, old.as_ref(), how)?;
    if reach.dry_run {
        old.iter().flat_map(takeover::Old::plan).chain(steps).for_each(|line| say(&line));
    }
    if !refused.is_empty() {
        return Err(Failure::Refused(format!("nothing was changed: {}", refused.join("\n  "))));
    }
    if reach.dry_run {
        say("nothing was changed");
        return Ok(());
    }
    if let Some(old) = &old {
        old.remove(host, &cluster, &all, &say)?;
    }
    let apply = |object: &Value| apply_one(&cluster, object, how);
    let written = apply_all(&all, apply, |object| cluster.delete(object), &say);
    written.map_err(|failure| match &old {
        Some(_) => {
            Failure::Halfway(anyhow!("{failure}; KubeEdge's objects are gone: {}", takeover::WAY_BACK))
        }
        None => failure,
    })?;
    if !is_wanted(&all) {
        say(NONE_WANTED);
        return Ok(());
    }
    wait_ready(host, &cluster, &all, deadline, &say)?;
    token_secrets::wait_for(host, &cluster, deadline)?;
    next(&all, flags, &said, &say);
    Ok(())
}

/// What was said at an earlier init, and since; also one that was cut short. Of a takeover that was, what it carries over.
fn noted_earlier(cluster: &Cluster, is_forgotten: bool, say: &dyn Fn(&str)) -> Result<Value, Failure> {
    let like =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": NAME, "namespace": NAMESPACE}});
    let found = cluster.get(&like);
    let found = found.map_err(|error| Failure::Refused(format!("nothing was changed: {error:#}")))?;
    Ok(found.map_or(Value::Null, |config_map| noted::below(Some(&config_map), is_forgotten, say)))
}

/// Whether cloudcore can be installed here. What is there already.
fn look(cluster: &Cluster, args: &Args, say: &dyn Fn(&str)) -> Result<Option<takeover::Old>, Failure> {
    look_at_version(cluster, say)?;
    let old = takeover::look(cluster)?;
    match (old.as_ref().map(|old| old.owner), args.takeover) {
        (None | Some(Owner::Keadm), _) => {}
        (Some(Owner::Helm), _) => {
            return Err(Failure::Refused(
                "cloudcore was installed here with Helm: use helm upgrade, or helm uninstall first".into(),
            ));
        }
        (Some(Owner::KubeEdge), true) => return Ok(old),
        (Some(Owner::KubeEdge), false) => {
            return Err(Failure::Refused(format!(
                "Deployment {NAMESPACE}/{NAME} is KubeEdge's: add --takeover to put Isthmus in its place; its CA, tokens, \
                 nodes and devices stay"
            )));
        }
    }
    let nodes =
        cluster.list(&json!({"apiVersion": "v1", "kind": "Node"}), "!node-role.kubernetes.io/edge")?;
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    };
    match nodes.iter().filter(is_ready).count() {
        0 => say("warning: no node of this cluster is Ready, so that cloudcore has nowhere to run yet"),
        n_ready => say(&format!("ok: {n_ready} nodes are Ready to run cloudcore")),
    }
    Ok(old)
}

/// A namespace that goes takes everything with it that is put into it meanwhile.
fn wait_terminated(
    host: &dyn Host,
    cluster: &Cluster,
    deadline: Duration,
    say: &dyn Fn(&str),
) -> Result<(), Failure> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    wait(host, deadline, say, || {
        let goes = cluster.get(&namespace)?.is_some_and(|found| found["status"]["phase"] == "Terminating");
        Ok(if goes {
            Err(format!("the namespace {NAMESPACE} of an earlier installation is still going"))
        } else {
            Ok(())
        })
    })
    .map_err(|error| Failure::Refused(format!("nothing was changed: {error:#}")))
}

/// A line for each object, and a sentence for each that would be refused.
fn plan(
    cluster: &Cluster,
    all: &[Value],
    old: Option<&takeover::Old>,
    how: Write,
) -> Result<(Vec<String>, Vec<String>), Failure> {
    let failed = |error: anyhow::Error| Failure::Refused(format!("nothing was changed: {error:#}"));
    let has_namespace = cluster.get(all.first().unwrap_or(&Value::Null)).map_err(failed)?.is_some();
    let (mut steps, mut refused) = (Vec::new(), Vec::new());
    for object in all {
        let before = match object["metadata"]["namespace"].as_str() {
            Some(NAMESPACE) if !has_namespace => None,
            // Ours is not written over KubeEdge's, but once that is gone.
            _ if old.is_some_and(|old| old.has(object)) => None,
            _ => cluster.get(object).map_err(failed)?,
        };
        match try_one(cluster, object, before.as_ref(), how) {
            Ok(word) => steps.push(format!("{word} {}", shown(object))),
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    Ok((steps, refused))
}

/// Writes everything; if it cannot, what was made goes again.
fn apply_all(
    all: &[Value],
    mut apply: impl FnMut(&Value) -> Result<Became>,
    mut delete: impl FnMut(&Value) -> Result<()>,
    say: &dyn Fn(&str),
) -> Result<(), Failure> {
    let mut made: Vec<&Value> = Vec::new();
    let mut over: Vec<String> = Vec::new();
    for object in all {
        match apply(object) {
            Ok(became) => {
                match became {
                    Became::Create => made.push(object),
                    Became::Change => over.push(shown(object)),
                    Became::Keep | Became::Remove => {}
                }
                say(&format!("{became} {}", shown(object)));
            }
            Err(error) => {
                if !made.is_empty() {
                    say("taking back what was made");
                }
                let left: Vec<String> = made
                    .iter()
                    .rev()
                    .filter_map(|object| {
                        delete(object).err().map(|error| format!("{}: {error:#}", shown(object)))
                    })
                    .collect();
                return Err(match (left.is_empty(), over.is_empty()) {
                    (true, true) => Failure::Undone(error),
                    (true, false) => Failure::Halfway(error.context(format!(
                        "what was made is gone again; changed, and not put back: {}; type keadm init again when the cause is gone",
                        over.join(", ")
                    ))),
                    (false, _) => Failure::LeftBehind(error, left),
                });
            }
        }
    }
    Ok(())
}

fn wait_ready(
    host: &dyn Host,
    cluster: &Cluster,
    all: &[Value],
    deadline: Duration,
    say: &dyn Fn(&str),
) -> Result<(), Failure> {
    let Some(wanted) = all.iter().find(|object| object["kind"] == "Deployment") else { return Ok(()) };
    wait(host, deadline, say, || Ok(readiness(cluster, wanted)?.map(drop)))
    .map_err(|error| {
        Failure::Halfway(error.context(format!(
            "what was written stays; look at: kubectl -n {NAMESPACE} describe pods; type keadm init again when the cause is \
             gone, or keadm reset cloud"
        )))
    })?;
    say("cloudcore is ready");
    Ok(())
}

/// `said`: what holds, as a file of values.
fn next(all: &[Value], wanted: &Wanted, said: &Value, say: &dyn Fn(&str)) {
    let port = |name: &str| -> Option<i64> {
        let of = |kind: &str| {
            all.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == NAME)
        };
        let pod = &of("Deployment")?["spec"]["template"]["spec"];
        let named = |ports: &Value, key: &str| {
            ports.as_array()?.iter().find(|port| port["name"] == name)?[key].as_i64()
        };
        if pod["hostNetwork"] == true {
            return named(&pod["containers"][0]["ports"], "containerPort");
        }
        let ports = &of("Service")?["spec"]["ports"];
        named(ports, "nodePort").or_else(|| named(ports, "port"))
    };
    let host = dialled(wanted, said);
    say("next, here:            keadm gettoken");
    let certificates = match port("cloudhub-https") {
        Some(10002) | None => String::new(),
        Some(other) => format!(" --certport={other}"),
    };
    say(&format!(
        "then, on each machine: keadm join --cloudcore-ipport={host}:{}{certificates} --token=TOKEN",
        port("cloudhub").unwrap_or(10000)
    ));
}

/// What machines dial: what was named first now, or else earlier.
fn dialled(wanted: &Wanted, said: &Value) -> String {
    let hub = &said["cloudCore"]["modules"]["cloudHub"];
    let listed = |key: &str| hub[key].as_array()?.iter().filter_map(Value::as_str).find(|it| !it.is_empty());
    let now = wanted.advertise_address.first().map(|text| text.trim());
    let host = now.or_else(|| listed("advertiseAddress")).or_else(|| listed("dnsNames")).unwrap_or("ADDRESS");
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use Became::{Change, Create, Keep};

    /// `words`: what becomes of a, b, c and so on; `None`: it cannot be written. Out: what went again, and how it ended.
    fn check(words: &[Option<Became>], stuck: &str, gone: &str, expected: &str, code: u8) {
        let named = |name: char| json!({"kind": "Thing", "metadata": {"name": name.to_string()}});
        let all: Vec<Value> = ('a'..).take(words.len()).map(named).collect();
        let mut words = words.iter();
        let removed = RefCell::new(String::new());
        let delete = |object: &Value| {
            let name = object["metadata"]["name"].as_str().unwrap();
            if stuck == name {
                return Err(anyhow!("it is stuck"));
            }
            removed.borrow_mut().push_str(name);
            Ok(())
        };
        let apply = |_: &Value| words.next().unwrap().ok_or_else(|| anyhow!("full"));
        let told = RefCell::new(Vec::new());
        let failure = apply_all(&all, apply, delete, &|line| told.borrow_mut().push(line.to_owned()));
        let failure = failure.unwrap_err();
        let is_told = told.borrow().iter().any(|line| line == "taking back what was made");
        assert_eq!(is_told, !gone.is_empty() || !stuck.is_empty(), "{failure}");
        assert_eq!(removed.borrow().as_str(), gone, "{failure}");
        assert_eq!(
            (failure.to_string().lines().take(3).collect::<Vec<_>>().join("|"), failure.code()),
            (expected.to_owned(), code)
        );
    }

    #[test]
    fn what_was_made_goes_and_what_was_changed_is_named() {
        check(&[Some(Keep), None], "", "", "full", 1);
        check(&[Some(Create), Some(Keep), Some(Create), None, Some(Create)], "", "ca", "full", 1);
        let changed = "what was made is gone again; changed, and not put back: Thing b, Thing d; type keadm init again when the \
                       cause is gone: full";
        check(&[Some(Create), Some(Change), Some(Keep), Some(Change), None], "", "a", changed, 4);
        let left = "full|left behind, since it could not be undone:|  Thing b: it is stuck";
        check(&[Some(Create), Some(Create), Some(Change), None], "b", "a", left, 4);
    }

    #[test]
    fn nothing_goes_if_all_is_written() {
        let all = [json!({"kind": "Thing"}), json!({"kind": "Thing"})];
        let done = apply_all(&all, |_| Ok(Create), |_| Err(anyhow!("removed")), &|_| {});
        assert!(done.is_ok(), "{done:?}");
    }

    #[test]
    fn machines_dial_what_was_named() {
        let check = |now: &[&str], hub: Value, expected: &str| {
            let advertise_address = now.iter().map(|text| (*text).to_owned()).collect();
            let wanted = Wanted { advertise_address, ..Wanted::default() };
            let said = json!({"cloudCore": {"modules": {"cloudHub": hub}}});
            assert_eq!(dialled(&wanted, &said), expected, "{said}");
        };
        let both = json!({"advertiseAddress": ["", "203.0.113.7"], "dnsNames": ["a.example"]});
        check(&["b.example", "192.0.2.1"], both.clone(), "b.example");
        check(&[], both, "203.0.113.7");
        check(&[], json!({"dnsNames": ["a.example"]}), "a.example");
        check(&["fd00::1"], json!({}), "[fd00::1]");
        check(&[], json!({"advertiseAddress": [""]}), "ADDRESS");
        check(&[], Value::Null, "ADDRESS");
    }
}
