//! `keadm init`: makes a cluster the cloud of edge nodes.
//!
//! In this order: flags, a look at the cluster (nothing is written until that is good), the objects by server-side apply,
//! cloudcore is ready and has made its token. Done twice, the second run changes nothing.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use super::manifest::Wanted;
use super::takeover::{self, Owner};
use super::{Failure, token};
use crate::cluster::{Cluster, Refused, Write, shown};
use crate::objects::{self, NAME, NAMESPACE};

/// Tokens of service accounts that end, and everything else that cloudcore asks for, are there from this on.
const OLDEST: (u32, u32) = (1, 24);
/// On what init made and reset may remove although others could have made it.
pub(crate) const MADE: &str = "isthmus.io/made-by-keadm";
/// How often is looked whether something is done.
const LOOK: Duration = Duration::from_millis(500);
/// A word on what is waited for.
const TELL: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: keadm init --advertise-address=203.0.113.7\nThen: keadm gettoken, and keadm join on each machine."
)]
pub(crate) struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// Kubeconfig of the cluster [default: $KUBECONFIG, /root/.kube/config or /etc/rancher/k3s/k3s.yaml]
    #[arg(long, value_name = "FILE")]
    kube_config: Option<PathBuf>,
    /// Take back what others have changed about cloudcore's objects since.
    #[arg(long)]
    force: bool,
    /// Take the place of a KubeEdge installation: its CA, tokens, nodes and devices stay.
    #[arg(long)]
    takeover: bool,
    /// Print what would be done.
    #[arg(short, long)]
    dry_run: bool,
    /// How long cloudcore may take to be ready. Seconds.
    #[arg(long, default_value_t = 120, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    ready_timeout_secs: u64,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let say = |line: &str| println!("{line}");
    let (values, warnings) = args.wanted.values()?;
    let cluster = Cluster::connect(args.kube_config.as_deref())?;
    let limit = Instant::now() + Duration::from_secs(args.ready_timeout_secs);
    let old = look(&cluster, args, &say)?;
    let (values, more) = match &old {
        Some(old) => old.values(&args.wanted)?,
        None => (values, warnings),
    };
    for warning in more {
        say(&format!("warning: {warning}"));
    }
    let mut all = objects::crds().map_err(Failure::Refused)?;
    all.extend(objects::objects(&values));
    // The namespace first, for whoever reads along.
    all.sort_by_key(|object| object["kind"] != "Namespace");
    may_write(&cluster, &all)?;
    if !args.dry_run {
        wait_terminated(&cluster, limit, &say)?;
    }
    let how = if args.force || args.takeover { Write::Over } else { Write::Careful };
    if args.dry_run {
        if let Some(old) = &old {
            old.plan().iter().for_each(|line| say(line));
        }
        return plan(&cluster, &all, old.as_ref(), &say);
    }
    if let Some(old) = &old {
        old.remove(&cluster, &all, &say)?;
    }
    let written = apply_all(&cluster, &all, how, &say);
    written.map_err(|failure| match &old {
        Some(_) => {
            Failure::Halfway(anyhow!("{failure}; KubeEdge's objects are gone: {}", takeover::WAY_BACK))
        }
        None => failure,
    })?;
    wait_ready(&cluster, &all, limit, &say)?;
    wait_token(&cluster, limit)?;
    next(&all, &args.wanted, &say);
    Ok(())
}

/// Whether cloudcore can be installed here. What of KubeEdge's is to be taken over.
fn look(cluster: &Cluster, args: &Args, say: &dyn Fn(&str)) -> Result<Option<takeover::Old>, Failure> {
    let (major, minor, text) = cluster.version().map_err(|error| Failure::Refused(format!("{error:#}")))?;
    if (major, minor) < OLDEST {
        let (a, b) = OLDEST;
        return Err(Failure::Refused(format!(
            "{} runs Kubernetes {text}; cloudcore needs {a}.{b} or newer: upgrade the cluster first",
            cluster.server
        )));
    }
    say(&format!("ok: {} runs Kubernetes {text}", cluster.server));
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
    Ok(None)
}

fn may_write(cluster: &Cluster, all: &[Value]) -> Result<(), Failure> {
    let mut missing = Vec::new();
    for object in all {
        for verb in ["get", "create", "patch"] {
            if !cluster.may(verb, object).map_err(|error| Failure::Refused(format!("{error:#}")))? {
                missing.push(format!("{verb} {}", shown(object)));
                break;
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "this kubeconfig's user may not do what init must do, and nothing was changed; use a cluster administrator's \
         (--kube-config FILE):\n  {}",
        missing.join("\n  ")
    )))
}

/// A namespace that goes takes everything with it that is put into it meanwhile.
fn wait_terminated(cluster: &Cluster, limit: Instant, say: &dyn Fn(&str)) -> Result<(), Failure> {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    wait(limit, say, || {
        let goes = cluster.get(&namespace)?.is_some_and(|found| found["status"]["phase"] == "Terminating");
        Ok(if goes {
            Err(format!("the namespace {NAMESPACE} of an earlier installation is still going"))
        } else {
            Ok(())
        })
    })
    .map_err(|error| Failure::Refused(format!("nothing was changed: {error:#}")))
}

fn plan(
    cluster: &Cluster,
    all: &[Value],
    old: Option<&takeover::Old>,
    say: &dyn Fn(&str),
) -> Result<(), Failure> {
    let has_namespace = cluster.get(all.first().unwrap_or(&Value::Null))?.is_some();
    for object in all {
        let is_there = match object["metadata"]["namespace"].as_str() {
            Some(NAMESPACE) if !has_namespace => None,
            // Ours is not written over KubeEdge's, but once that is gone.
            _ if old.is_some_and(|old| old.has(object)) => None,
            _ => cluster.get(object)?,
        };
        let word = match is_there {
            None => "create",
            Some(before) => match cluster.apply(object, Write::Try) {
                Ok(after) => changed(Some(&before), &after),
                Err(Refused::Conflict(why)) => {
                    say(&format!("conflict {}: {why}", shown(object)));
                    continue;
                }
                Err(Refused::Other(error)) => return Err(Failure::Refused(format!("{error:#}"))),
            },
        };
        say(&format!("{word} {}", shown(object)));
    }
    say("nothing was changed");
    Ok(())
}

fn changed(before: Option<&Value>, after: &Value) -> &'static str {
    // What is seen of an object apart from who wrote it when.
    let seen = |object: &Value| {
        let mut object = object.clone();
        for key in ["managedFields", "resourceVersion", "generation"] {
            if let Some(metadata) = object["metadata"].as_object_mut() {
                metadata.remove(key);
            }
        }
        object
    };
    match before {
        None => "create",
        Some(before) if seen(before) == seen(after) => "keep",
        Some(_) => "change",
    }
}

/// Writes everything; if it cannot, what was made goes again.
fn apply_all(cluster: &Cluster, all: &[Value], how: Write, say: &dyn Fn(&str)) -> Result<(), Failure> {
    let mut made: Vec<&Value> = Vec::new();
    for object in all {
        let done = apply_one(cluster, object, how);
        match done {
            Ok("create") => {
                made.push(object);
                say(&format!("create {}", shown(object)));
            }
            Ok(word) => say(&format!("{word} {}", shown(object))),
            Err(error) => {
                say("taking back what was made");
                let left: Vec<String> = made
                    .iter()
                    .rev()
                    .filter_map(|object| {
                        cluster.delete(object).err().map(|error| format!("{}: {error:#}", shown(object)))
                    })
                    .collect();
                return Err(if left.is_empty() {
                    Failure::Undone(error)
                } else {
                    Failure::LeftBehind(error, left)
                });
            }
        }
    }
    Ok(())
}

fn apply_one(cluster: &Cluster, object: &Value, how: Write) -> Result<&'static str> {
    let before = cluster.get(object)?;
    let mut object = object.clone();
    // Others could have made these, and what is in them is not ours to remove with them then.
    let is_shared = object["kind"] == "Namespace" || object["kind"] == "CustomResourceDefinition";
    let was_made = before.as_ref().is_none_or(|before| !before["metadata"]["annotations"][MADE].is_null());
    if is_shared && was_made {
        object["metadata"]["annotations"] = json!({MADE: "true"});
    }
    let how = if object["kind"] == "CustomResourceDefinition" { Write::Over } else { how };
    let after = match cluster.apply(&object, how) {
        Ok(after) => after,
        Err(Refused::Conflict(why)) => {
            let shown = shown(&object);
            return Err(anyhow!(
                "{shown} was changed by somebody else: {why}; add --force to take that back"
            ));
        }
        Err(Refused::Other(error)) => return Err(error),
    };
    Ok(changed(before.as_ref(), &after))
}

fn wait_ready(cluster: &Cluster, all: &[Value], limit: Instant, say: &dyn Fn(&str)) -> Result<(), Failure> {
    let Some(wanted) = all.iter().find(|object| object["kind"] == "Deployment") else { return Ok(()) };
    if wanted["spec"]["replicas"] == 0 {
        say("no cloudcore is wanted (replicaCount 0)");
        return Ok(());
    }
    wait(limit, say, || {
        let deployment = cluster.get(wanted)?.ok_or_else(|| anyhow!("{} is gone", shown(wanted)))?;
        let status = &deployment["status"];
        let count = |key: &str| status[key].as_i64().unwrap_or_default();
        let n_wanted = deployment["spec"]["replicas"].as_i64().unwrap_or(1);
        let is_seen = count("observedGeneration") >= deployment["metadata"]["generation"].as_i64().unwrap_or(1);
        if is_seen && count("updatedReplicas") >= n_wanted && count("availableReplicas") >= n_wanted {
            return Ok(Ok(()));
        }
        let pods = cluster.list(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": NAMESPACE}}), SELECTOR)?;
        let why = pods.iter().find_map(reason).unwrap_or_else(|| "it has not started yet".to_owned());
        Ok(Err(format!("cloudcore is not ready: {why}")))
    })
    .map_err(|error| {
        Failure::Halfway(error.context(format!(
            "what was written stays; look at: kubectl -n {NAMESPACE} describe pods; type keadm init again when the cause is \
             gone, or keadm reset cloud"
        )))
    })?;
    say("cloudcore is ready");
    Ok(())
}

/// Of cloudcore's pods.
pub(crate) const SELECTOR: &str = "k8s-app=kubeedge,kubeedge=cloudcore";

/// What keeps a pod from being ready, if anything is known.
fn reason(pod: &Value) -> Option<String> {
    let name = pod["metadata"]["name"].as_str().unwrap_or_default();
    let containers = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let waits = containers.iter().find_map(|container| {
        let waiting = &container["state"]["waiting"];
        let last = &container["lastState"]["terminated"];
        let reason = waiting["reason"].as_str()?;
        let message = waiting["message"].as_str().or(last["message"].as_str()).unwrap_or_default();
        Some(format!("{reason} {message}").trim_end().to_owned())
    });
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let condition = |kind: &str| {
        let found = conditions
            .iter()
            .find(|condition| condition["type"] == kind && condition["status"] == "False")?;
        found["message"].as_str().filter(|message| !message.is_empty()).map(str::to_owned)
    };
    let why = condition("PodScheduled").or(waits).or_else(|| condition("Ready"))?;
    Some(format!("pod {name}: {why}"))
}

fn wait_token(cluster: &Cluster, limit: Instant) -> Result<(), Failure> {
    wait(limit, &|_| {}, || Ok(token::read(cluster).map(drop).map_err(|error| format!("{error:#}"))))
        .map_err(Failure::Halfway)
}

/// Until `look` says so; what it says meanwhile is told now and then, and at the end.
pub(crate) fn wait(
    limit: Instant,
    say: &dyn Fn(&str),
    mut look: impl FnMut() -> Result<Result<(), String>>,
) -> Result<()> {
    let mut told = Instant::now();
    loop {
        let why = match look() {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= limit {
            return Err(anyhow!("{why}")).context("the time is over");
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            say(&format!("  still waiting: {why}"));
        }
        std::thread::sleep(LOOK);
    }
}

fn next(all: &[Value], wanted: &Wanted, say: &dyn Fn(&str)) {
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
    let host = wanted.advertise_address.first().map_or("ADDRESS", String::as_str);
    let host =
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_seen_is_a_change() {
        let object = |version: &str, replicas: u32| json!({"metadata": {"name": "a", "resourceVersion": version, "managedFields": [version]}, "spec": {"replicas": replicas}});
        assert_eq!(changed(None, &object("1", 1)), "create");
        assert_eq!(changed(Some(&object("1", 1)), &object("2", 1)), "keep");
        assert_eq!(changed(Some(&object("1", 1)), &object("2", 2)), "change");
    }

    #[test]
    fn what_keeps_a_pod_is_told() {
        let check = |status: Value, expected: Option<&str>| {
            let pod = json!({"metadata": {"name": "cloudcore-1"}, "status": status});
            assert_eq!(reason(&pod).as_deref(), expected);
        };
        check(json!({}), None);
        check(
            json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]}),
            Some("pod cloudcore-1: 0/3 nodes are available"),
        );
        check(
            json!({"containerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}),
            Some("pod cloudcore-1: ImagePullBackOff no such image"),
        );
        check(json!({"containerStatuses": [{"state": {"running": {}}}]}), None);
    }

    #[test]
    fn waiting_ends_with_the_last_word() {
        let error = wait(Instant::now(), &|_| {}, || Ok(Err("not yet".into()))).unwrap_err();
        assert_eq!(format!("{error:#}"), "the time is over: not yet");
        wait(Instant::now(), &|_| {}, || Ok(Ok(()))).unwrap();
    }
}
