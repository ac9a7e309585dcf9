//! `keadm reset cloud`: takes back what init made in a cluster.
//!
//! Devices are their owners' work: definitions that hold some stay unless told otherwise. Edge nodes are not touched; they go
//! on with what their stores hold.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

mod others;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};
use ke_api::node::LEASE_NAMESPACE;
use serde_json::{Value, json};

use super::takeover::{self, Owner};
use super::{Failure, is_meant};
use crate::cluster::{Cluster, MADE, MANAGER, SELECTOR, shown};
use crate::host::Host;
use crate::objects::{self, NAME, NAMESPACE};
use crate::wait::wait;

/// A namespace takes a while to go: its pods have to end.
const LIMIT: Duration = Duration::from_secs(180);
/// What cloudcore makes for itself: its CA, its certificate and the join token, under KubeEdge's names; and what is noted of
/// join tokens.
const SECRETS: [&str; 4] = ["casecret", "cloudcoresecret", "tokensecret", ke_wire::join_tokens::SECRET];
/// Where init writes objects that are in a namespace.
const NAMESPACES: [&str; 2] = [NAMESPACE, LEASE_NAMESPACE];
const KINDS: [(&str, &str); 9] = [
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "ServiceAccount"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("policy/v1", "PodDisruptionBudget"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
];

const DEVICES: &str = "devices.kubeedge.io/v1beta1";
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kubeconfig of the cluster [default: $KUBECONFIG, /root/.kube/config or /etc/rancher/k3s/k3s.yaml]
    #[arg(long, value_name = "FILE")]
    kube_config: Option<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    force: bool,
    /// Leave the CA and the join token, so that edge nodes know the next cloudcore.
    #[arg(long)]
    keep_secrets: bool,
    /// Remove CA and join token also where the namespace was there before init, as after a takeover from KubeEdge.
    #[arg(long, conflicts_with = "keep_secrets")]
    with_secrets: bool,
    /// Remove all Devices and DeviceModels of the cluster, too.
    #[arg(long)]
    with_devices: bool,
    /// Print what would be removed.
    #[arg(short, long)]
    dry_run: bool,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let cluster = Cluster::connect(args.kube_config.as_deref())?;
    match takeover::look(&cluster)?.map(|old| old.owner) {
        None => {}
        Some(Owner::Keadm) => must_be_made(&cluster)?,
        Some(Owner::Helm) => {
            return Err(Failure::Refused(
                "cloudcore was installed here with Helm: helm uninstall removes it".into(),
            ));
        }
        Some(Owner::KubeEdge) => {
            return Err(Failure::Refused(
                "this cluster's cloudcore is KubeEdge's: its own keadm, or helm uninstall, removes it".into(),
            ));
        }
    }
    let found = find(&cluster, args).map_err(|error| Failure::Refused(format!("{error:#}")))?;
    found.stay.iter().for_each(|line| println!("{line}"));
    if found.go.is_empty() {
        println!("there is nothing to remove in {}", cluster.server);
        return Ok(());
    }
    if args.dry_run {
        found.go.iter().for_each(|object| println!("remove {}", shown(object)));
        println!("nothing was changed");
        return Ok(());
    }
    if !args.force
        && !is_meant(&format!("cloudcore in {}, and for every edge node its cloud,", cluster.server))?
    {
        return Err(Failure::Refused("nothing was removed".into()));
    }
    remove(host, &cluster, &found.go)?;
    let has_ca = found.go.iter().any(|object| object["metadata"]["name"] == SECRETS[0]);
    nodes(&cluster, has_ca)?;
    Ok(())
}

/// A cloudcore of ours may have come without keadm's hands: then nothing tells what else came with it.
fn must_be_made(cluster: &Cluster) -> Result<(), Failure> {
    let like = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": NAME, "namespace": NAMESPACE}});
    let found = cluster.get(&like).map_err(|error| Failure::Refused(format!("{error:#}")))?;
    match found.filter(|it| !is_made(it)) {
        None => Ok(()),
        Some(other) => Err(Failure::Refused(by_others(&other))),
    }
}

fn by_others(deployment: &Value) -> String {
    let managers = deployment["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let writes = |one: &&Value| one["subresource"].is_null();
    let who = managers.iter().find(writes).and_then(|one| one["manager"].as_str()).unwrap_or("somebody else");
    format!(
        "nothing was removed: {} was not made by keadm init (the cluster names {who}); what was applied with kubectl goes with: \
         keadm manifest generate --skip-crds | kubectl delete -f - (with the namespace {NAMESPACE}, and with it the CA, so that \
         every machine must join again; resource definitions and Devices stay)",
        shown(deployment)
    )
}

struct Found {
    go: Vec<Value>,
    /// Sentences on what stays.
    stay: Vec<String>,
}

fn find(cluster: &Cluster, args: &Args) -> Result<Found> {
    let mut found = Found { go: all_made(cluster)?, stay: Vec::new() };
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    let namespace_found = cluster.get(&namespace)?;
    let was_there = namespace_found.as_ref().is_some_and(|it| it["metadata"]["annotations"][MADE].is_null());
    for name in SECRETS {
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}});
        if cluster.get(&secret)?.is_none() {
            continue;
        }
        match why_secret_stays(args, was_there) {
            Some(why) => found.stay.push(format!("{} stays{why}", shown(&secret))),
            None => found.go.push(secret),
        }
    }
    definitions(cluster, args, &mut found)?;
    if namespace_found.is_some() {
        if args.keep_secrets || was_there {
            found.stay.push(format!("the namespace {NAMESPACE} stays"));
        } else {
            match others::in_namespace(cluster, args.with_devices, &found.go)?.as_slice() {
                [] => found.go.push(namespace),
                names => found.stay.push(format!(
                    "the namespace {NAMESPACE} stays, since others have put something into it: {}. With all of that it goes by: \
                     kubectl delete namespace {NAMESPACE}",
                    others::some_of(names)
                )),
            }
        }
    }
    Ok(found)
}

/// The end of a sentence; `None`: it goes. `was_there`: its namespace was there before init.
fn why_secret_stays(args: &Args, was_there: bool) -> Option<&'static str> {
    match (args.keep_secrets, was_there && !args.with_secrets) {
        (true, _) => Some(" (--keep-secrets)"),
        (false, true) => Some(
            ": its namespace was there before keadm init, and it may have been, too; --with-secrets removes it",
        ),
        (false, false) => None,
    }
}

/// What keadm wrote, but for the namespace and definitions, which others may use too; by kind and name.
pub(super) fn all_made(cluster: &Cluster) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for (version, kind) in KINDS {
        for namespace in NAMESPACES {
            all.extend(made(cluster, version, kind, Some(namespace))?);
        }
    }
    for kind in ["ClusterRoleBinding", "ClusterRole"] {
        all.extend(made(cluster, "rbac.authorization.k8s.io/v1", kind, None)?);
    }
    Ok(all)
}

/// Of a kind what keadm wrote.
fn made(cluster: &Cluster, version: &str, kind: &str, namespace: Option<&str>) -> Result<Vec<Value>> {
    let like = json!({"apiVersion": version, "kind": kind, "metadata": {"namespace": namespace}});
    let all = cluster.list(&like, SELECTOR)?;
    Ok(all.into_iter().filter(is_made).map(|object| named(version, kind, &object)).collect())
}

fn is_made(object: &Value) -> bool {
    let managers = object["metadata"]["managedFields"].as_array();
    managers.is_some_and(|managers| managers.iter().any(|one| one["manager"] == MANAGER))
}

/// No more of an object than is needed to remove it; lists do not say the kind of what is in them.
fn named(version: &str, kind: &str, object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]}})
}

/// The resource definitions, or what cloudcore wrote by them.
fn definitions(cluster: &Cluster, args: &Args, found: &mut Found) -> Result<()> {
    const SYNCS: &str = "reliablesyncs.kubeedge.io/v1alpha1";
    let list = |version: &str, kind: &str| cluster.list(&json!({"apiVersion": version, "kind": kind}), "");
    let n_owned = list(DEVICES, "Device")?.len() + list(DEVICES, "DeviceModel")?.len();
    for definition in objects::crds().map_err(|why| anyhow!(why))? {
        let Some(it) = cluster.get(&definition)? else { continue };
        let name = it["metadata"]["name"].as_str().unwrap_or_default();
        let is_of_devices = name.ends_with(".devices.kubeedge.io");
        if it["metadata"]["annotations"][MADE].is_null() {
            found.stay.push(format!("the resource definition {name} stays: it was there before keadm init"));
        } else if is_of_devices && n_owned > 0 && !args.with_devices {
            found.stay.push(format!(
                "the resource definition {name} stays: there are {n_owned} Devices and DeviceModels; --with-devices removes \
                 them, too"
            ));
        } else {
            found.go.push(named("apiextensions.k8s.io/v1", "CustomResourceDefinition", &it));
            continue;
        }
        if !is_of_devices {
            for kind in ["ObjectSync", "ClusterObjectSync"] {
                found.go.extend(list(SYNCS, kind)?.iter().map(|sync| named(SYNCS, kind, sync)));
            }
        }
    }
    Ok(())
}

fn remove(host: &dyn Host, cluster: &Cluster, go: &[Value]) -> Result<(), Failure> {
    let mut left = Vec::new();
    for object in go {
        match cluster.delete(object) {
            Ok(()) => println!("remove {}", shown(object)),
            // The rest goes all the same.
            Err(error) => left.push(format!("{}: {error:#}", shown(object))),
        }
    }
    let gone = wait(host, host.elapsed() + LIMIT, &|line| println!("{line}"), || {
        for object in go {
            if cluster.get(object)?.is_some() {
                return Ok(Err(format!("{} is still going", shown(object))));
            }
        }
        Ok(Ok(()))
    });
    match gone {
        Ok(()) if left.is_empty() => {
            println!("cloudcore is removed from {}", cluster.server);
            Ok(())
        }
        Ok(()) => Err(Failure::Halfway(anyhow!("not everything could be removed:\n  {}", left.join("\n  ")))),
        Err(error) => {
            Err(Failure::Halfway(error.context("not everything is gone; type keadm reset cloud again")))
        }
    }
}

/// `is_ca_gone`: they must join again, whatever comes here.
fn nodes(cluster: &Cluster, is_ca_gone: bool) -> Result<(), Failure> {
    let nodes = cluster.list(&json!({"apiVersion": "v1", "kind": "Node"}), "node-role.kubernetes.io/edge")?;
    let names: Vec<&str> = nodes.iter().filter_map(|node| node["metadata"]["name"].as_str()).collect();
    if !names.is_empty() {
        println!(
            "edge nodes are still in the cluster, and run on without a cloud: {}. {}On each: keadm reset edge; here: kubectl delete \
             node NAME",
            names.join(", "),
            if is_ca_gone {
                ""
            } else {
                "They connect again when a cloudcore with their CA is here. To be rid of them: "
            }
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn secrets_of_a_namespace_that_was_there_go_only_when_that_is_said() {
        let check = |flags: &[&str], was_there: bool, expected: Option<&str>| {
            let line = Line::try_parse_from([&["cloud"], flags].concat()).unwrap();
            let why = why_secret_stays(&line.args, was_there);
            let is_told = why.zip(expected).is_some_and(|(why, words)| why.contains(words));
            assert!(is_told || why == expected, "{flags:?} {was_there}: {why:?}");
        };
        check(&[], true, Some("--with-secrets removes it"));
        check(&["--force", "--with-devices"], true, Some("--with-secrets removes it"));
        check(&["--with-secrets"], true, None);
        check(&["--keep-secrets"], true, Some("(--keep-secrets)"));
        check(&[], false, None);
        check(&["--keep-secrets"], false, Some("(--keep-secrets)"));
        Line::try_parse_from(["cloud", "--keep-secrets", "--with-secrets"]).unwrap_err();
    }

    #[test]
    fn who_made_it_is_named() {
        let check = |managers: Value, expected: &str| {
            let metadata = json!({"name": NAME, "namespace": NAMESPACE, "managedFields": managers});
            let said = by_others(&json!({"kind": "Deployment", "metadata": metadata}));
            assert!(said.contains(expected), "{said}");
            assert!(said.contains("manifest generate --skip-crds | kubectl delete -f -"), "{said}");
        };
        let status = json!({"manager": "controller", "subresource": "status"});
        check(json!([status, {"manager": "kubectl-client-side-apply"}]), "names kubectl-client-side-apply)");
        check(json!([status]), "names somebody else)");
        check(Value::Null, "Deployment kubeedge/cloudcore was not made by keadm init");
    }

    #[test]
    fn only_what_keadm_wrote_goes() {
        let check = |managers: Value, expected: bool| {
            assert_eq!(is_made(&json!({"metadata": {"managedFields": managers}})), expected);
        };
        check(json!([{"manager": "helm"}, {"manager": "keadm"}]), true);
        check(json!([{"manager": "helm"}]), false);
        check(Value::Null, false);
    }
}
