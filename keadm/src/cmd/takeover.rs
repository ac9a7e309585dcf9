//! What is installed in a cluster already, and how KubeEdge's cloudcore gives its place to ours.
//!
//! Its Secrets (CA, tokens), nodes, devices and resource definitions are never touched: edge nodes go on as they are. What is
//! removed is written to a file first. Called by `init.rs` and `reset_cloud.rs`.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Map, Value, json};

use super::Failure;
use crate::apply::may;
use crate::cluster::{Cluster, Refused, Write, shown};
use crate::host::Host;
use crate::objects::{NAME, NAMESPACE};
use crate::wait::wait;

/// What Helm writes on everything that it makes.
const RELEASE: &str = "meta.helm.sh/release-name";
const RELEASE_NAMESPACE: &str = "meta.helm.sh/release-namespace";
/// Of Secrets that are Helm's notes.
const OF_RELEASE: &str = "owner=helm,name=cloudcore";
/// On our pods, whoever installed them.
const CONFIG_HASH: &str = "isthmus.io/config-sha256";
/// Where what is removed is kept, in the folder that keadm is started in.
const KEPT: &str = "kubeedge-before-takeover.yaml";
pub(crate) const WAY_BACK: &str = "kubectl apply -f kubeedge-before-takeover.yaml brings them back";
/// A Deployment's pods take a while to end.
const GONE_WITHIN: Duration = Duration::from_secs(120);
/// Kinds that KubeEdge's chart makes, in the order in which they go. The Deployment after all that nothing is asked of: by it
/// the next run sees what an interrupted one has left to do. The ConfigMap last: the next run carries over what it says. Not
/// Secrets: those that matter are cloudcore's.
const KINDS: [(&str, &str, bool); 10] = [
    ("apps/v1", "DaemonSet", true),
    ("v1", "Service", true),
    ("v1", "ServiceAccount", true),
    ("rbac.authorization.k8s.io/v1", "RoleBinding", true),
    ("rbac.authorization.k8s.io/v1", "Role", true),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", false),
    ("rbac.authorization.k8s.io/v1", "ClusterRole", false),
    ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", false),
    ("apps/v1", "Deployment", true),
    ("v1", "ConfigMap", true),
];

/// Who installed the cloudcore that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Keadm,
    /// Our chart.
    Helm,
    KubeEdge,
}

/// An installation that is there.
#[derive(Debug)]
pub(crate) struct Old {
    pub(crate) owner: Owner,
    /// The Deployment's uid, by which it is told from one that came after it.
    installation: String,
    /// KubeEdge's objects, which would go.
    objects: Vec<Value>,
    /// KubeEdge's cloudcore.yaml; null if there is none.
    config: Value,
}

/// `None`: no cloudcore is there.
pub(crate) fn look(cluster: &Cluster) -> Result<Option<Old>, Failure> {
    let refused = |error: anyhow::Error| Failure::Refused(format!("{error:#}"));
    let of = |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": NAME, "namespace": NAMESPACE}});
    let Some(deployment) = cluster.get(&of("apps/v1", "Deployment")).map_err(refused)? else {
        return Ok(None);
    };
    let owner = owner(&deployment);
    let installation = deployment["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let mut old = Old { owner, installation, objects: Vec::new(), config: Value::Null };
    if owner == Owner::KubeEdge {
        for (version, kind, is_namespaced) in KINDS {
            let mut like = json!({"apiVersion": version, "kind": kind, "metadata": {}});
            if is_namespaced {
                like["metadata"]["namespace"] = NAMESPACE.into();
            }
            let found = cluster.list(&like, "").map_err(refused)?;
            old.objects.extend(found.into_iter().filter(is_of_release).map(|mut object| {
                object["apiVersion"] = version.into();
                object["kind"] = kind.into();
                object
            }));
        }
        let config = cluster.get(&of("v1", "ConfigMap")).map_err(refused)?;
        let text = config.and_then(|config| Some(config["data"]["cloudcore.yaml"].as_str()?.to_owned()));
        old.config = text.and_then(|text| serde_saphyr::from_str(&text).ok()).unwrap_or_default();
    }
    Ok(Some(old))
}

fn owner(deployment: &Value) -> Owner {
    let is_ours = !deployment["spec"]["template"]["metadata"]["annotations"][CONFIG_HASH].is_null();
    match (is_ours, deployment["metadata"]["annotations"][RELEASE].is_null()) {
        (true, true) => Owner::Keadm,
        (true, false) => Owner::Helm,
        (false, _) => Owner::KubeEdge,
    }
}

/// By Helm's mark, or by name where KubeEdge's plain manifests were applied.
fn is_of_release(object: &Value) -> bool {
    let said = &object["metadata"]["annotations"];
    // A release of this name in another namespace is somebody else's.
    let is_here = said[RELEASE_NAMESPACE].is_null() || said[RELEASE_NAMESPACE] == NAMESPACE;
    is_here && (said[RELEASE] == NAME || object["metadata"]["name"] == NAME)
}

/// Of a file that [`Old::keep`] wrote.
fn documents(text: &str) -> Result<Vec<Value>> {
    let all = format!("\n{text}");
    all.split("\n---\n").skip(1).map(|one| serde_saphyr::from_str(one).context("read an object")).collect()
}

/// Whether one of them has the kind and name of this object.
fn is_among(object: &Value, others: &[Value]) -> bool {
    let name = |object: &Value| (object["apiVersion"].clone(), shown(object));
    others.iter().any(|other| name(other) == name(object))
}

impl Old {
    /// Of KubeEdge's cloudcore.yaml what holds unless flags say otherwise: a file of values.
    pub(crate) fn below(&self) -> Value {
        carried_over(&self.config)
    }

    /// A line for each object that would go.
    pub(crate) fn plan(&self) -> Vec<String> {
        self.objects.iter().map(|object| format!("remove {} (KubeEdge's)", shown(object))).collect()
    }

    /// Whether what would go has the name of this object.
    pub(crate) fn has(&self, object: &Value) -> bool {
        is_among(object, &self.objects)
    }

    /// Refuses if this kubeconfig's user may not remove all of it.
    pub(crate) fn may_go(&self, cluster: &Cluster) -> Result<(), Failure> {
        may(cluster, &self.objects, &["delete"])?;
        may(cluster, &[secrets()], &["list", "delete"])
    }

    /// Writes the objects to a file. One that an earlier takeover of the same installation has begun holds what is gone since:
    /// it is added to.
    fn keep(&self, host: &dyn Host) -> Result<(), Failure> {
        let path = Path::new(KEPT);
        let held = host.read(path).with_context(|| format!("read {KEPT}"))?;
        let held = held.map(|body| String::from_utf8_lossy(&body).into_owned());
        let mark = format!("# Of KubeEdge's Deployment {}\n", self.installation);
        let (mut text, held) = match held {
            None => (mark, Vec::new()),
            Some(text) if !self.installation.is_empty() && text.starts_with(&mark) => {
                let held = documents(&text).with_context(|| format!("understand {KEPT}"))?;
                (text, held)
            }
            Some(_) => {
                return Err(Failure::Refused(format!(
                    "{KEPT} of an earlier takeover is in this folder: move it away, or start keadm in another folder"
                )));
            }
        };
        for object in self.objects.iter().filter(|object| !is_among(object, &held)) {
            let one = serde_saphyr::to_string(&plain(object)).context("write an object")?;
            text += &format!("---\n{}\n", one.trim_end());
        }
        host.write(path, text.as_bytes(), 0o644).with_context(|| {
            format!("nothing was changed: write {KEPT}; keadm may be started in another folder")
        })?;
        Ok(())
    }

    /// Writes KubeEdge's objects to a file and removes them from the cluster. Helm forgets its release. `ours`: what comes.
    pub(crate) fn remove(
        &self,
        host: &dyn Host,
        cluster: &Cluster,
        ours: &[Value],
        say: &dyn Fn(&str),
    ) -> Result<(), Failure> {
        if self.objects.is_empty() {
            return Ok(());
        }
        // On disk before the first of them goes.
        self.keep(host)?;
        say(&format!(
            "KubeEdge's objects are kept in {KEPT}; the way back: keadm reset cloud, then kubectl apply -f {KEPT}"
        ));
        disown_namespace(cluster, ours).map_err(Failure::Halfway)?;
        for object in &self.objects {
            cluster
                .delete(object)
                .with_context(|| {
                    format!("what goes is kept in {KEPT}; type the same again, in this folder, when the cause is gone")
                })
                .map_err(Failure::Halfway)?;
            say(&format!("remove {} (KubeEdge's)", shown(object)));
        }
        if let Err(error) = forget_release(cluster) {
            // Ours comes all the same: edge nodes have no cloud meanwhile.
            say(&format!("warning: {}", still_released(&error)));
        }
        // What is written over an object that goes, goes with it. Nothing else is waited for: pods of KubeEdge's DaemonSets on
        // edge nodes end only when these have a cloudcore again.
        let replaced: Vec<&Value> = self.objects.iter().filter(|old| is_among(old, ours)).collect();
        let gone = wait(host, host.elapsed() + GONE_WITHIN, say, || {
            for object in &replaced {
                let is_same = |found: &Value| found["metadata"]["uid"] == object["metadata"]["uid"];
                if cluster.get(object)?.as_ref().is_some_and(is_same) {
                    return Ok(Err(format!("{} is still going", shown(object))));
                }
            }
            Ok(Ok(()))
        });
        gone.with_context(|| format!("what goes is kept in {KEPT}; type keadm init again"))
            .map_err(Failure::Halfway)
    }
}

/// An earlier `keadm init` may have made it: with its mark it would go when ours goes, and the CA with it. Before anything else:
/// whoever comes after a keadm that was killed may not know of the takeover.
fn disown_namespace(cluster: &Cluster, ours: &[Value]) -> Result<()> {
    let Some(namespace) = ours.iter().find(|object| object["kind"] == "Namespace") else { return Ok(()) };
    cluster.apply(namespace, Write::Over).map(drop).map_err(|refused| match refused {
        Refused::Conflict(why) => anyhow!("write {}: {why}", shown(namespace)),
        Refused::Other(error) => error,
    })
}

fn secrets() -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": NAMESPACE}})
}

/// Helm's own note of what it has installed.
fn forget_release(cluster: &Cluster) -> Result<()> {
    for mut release in cluster.list(&secrets(), OF_RELEASE)? {
        release["apiVersion"] = "v1".into();
        release["kind"] = "Secret".into();
        cluster.delete(&release)?;
    }
    Ok(())
}

fn still_released(error: &anyhow::Error) -> String {
    format!(
        "Helm still lists KubeEdge's release ({error:#}), and helm uninstall would remove what is there now; so that it forgets it: \
         kubectl -n {NAMESPACE} delete secrets -l {OF_RELEASE}"
    )
}

/// As it could be applied again.
pub(crate) fn plain(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(members) = object.as_object_mut() {
        members.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for key in ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp"] {
            metadata.remove(key);
        }
    }
    object
}

/// Of KubeEdge's cloudcore.yaml what edge nodes depend on: addresses, names, ports, and how long things last.
pub(crate) fn carried_over(config: &Value) -> Value {
    let hub = &config["modules"]["cloudHub"];
    let mut said = Map::new();
    for key in ["nodeLimit", "tokenRefreshDuration", "edgeCertSigningDuration"] {
        if !hub[key].is_null() {
            said.insert(key.to_owned(), hub[key].clone());
        }
    }
    for key in ["advertiseAddress", "dnsNames"] {
        let list: Vec<&Value> =
            hub[key].as_array().into_iter().flatten().filter(|text| **text != "").collect();
        if !list.is_empty() {
            said.insert(key.to_owned(), json!(list));
        }
    }
    for key in ["websocket", "https"] {
        if !hub[key]["port"].is_null() {
            said.insert(key.to_owned(), json!({"port": hub[key]["port"]}));
        }
    }
    json!({"cloudCore": {"modules": {"cloudHub": said}}})
}

#[cfg(test)]
mod tests;
