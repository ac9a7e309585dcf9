//! Mirrors: the Pods in the cloud that show what static pods do here. Made while the cloud is there, made again when somebody
//! deletes one, deleted when their static pod is gone.
//!
//! Edged says which static pods and which mirrors there are ([`MirrorPairs`]); [`plan`] is pure and says what is wrong with that;
//! [`Mirrors::run`] asks the cloud for a mirror, or hands its deletion to the report queue, which keeps it until it is done.
//! Statuses are Edged's own reports, under the mirror's uid.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use ke_run::shutdown::Shutdown;
use ke_wire::{Answer, NodeName, ObjectKey, Question, Reason, Scope, Uid};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{HASH, MIRROR, annotation};
use crate::edge_hub::{Cloud, LinkState};
use crate::meta_manager::Meta;
use crate::report_queue::{Report, Reports};

/// How long a made mirror may take to come back as a Pod of this node before it is asked for again; also the wait after a
/// refusal. The cloud pushes it within a second.
const AGAIN: Duration = Duration::from_secs(20);
/// How often it is looked whether something is due, or the Node is known at last.
const LOOK: Duration = Duration::from_secs(2);

/// Static pods beside their mirrors as Edged knows them, by namespace and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MirrorPairs {
    /// Every static pod; `None` while one is being ended.
    pub pods: BTreeMap<ObjectKey, Option<Arc<Pod>>>,
    /// Every mirror that the store holds.
    pub mirrors: BTreeMap<ObjectKey, Arc<Pod>>,
}

impl MirrorPairs {
    /// The mirror of this static pod as the cloud has it: none, or not that of an earlier content of its file.
    #[must_use]
    pub fn mirror_of(&self, key: &ObjectKey, uid: &str) -> Option<&Arc<Pod>> {
        let mirror = self.mirrors.get(key)?;
        (annotation(mirror, MIRROR) == Some(uid) && mirror.metadata.deletion_timestamp.is_none())
            .then_some(mirror)
    }
}

/// One thing to do in the cloud.
#[derive(Clone, Debug, PartialEq)]
enum Deed {
    Make(ObjectKey, Arc<Pod>),
    Delete(ObjectKey, Uid),
}

/// What is not yet as it should be.
fn plan(pairs: &MirrorPairs) -> Vec<Deed> {
    let keys: BTreeSet<&ObjectKey> = pairs.pods.keys().chain(pairs.mirrors.keys()).collect();
    let deed = |key: &ObjectKey| match (pairs.pods.get(key), pairs.mirrors.get(key)) {
        // It goes with the last of its containers.
        (Some(None), _) => None,
        (Some(Some(pod)), None) => Some(Deed::Make(key.clone(), Arc::clone(pod))),
        (Some(Some(pod)), Some(mirror)) => {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            if pairs.mirror_of(key, uid).is_some() { None } else { delete(key, mirror) }
        }
        (None, Some(mirror)) => delete(key, mirror),
        (None, None) => None,
    };
    keys.into_iter().filter_map(deed).collect()
}

fn delete(key: &ObjectKey, mirror: &Pod) -> Option<Deed> {
    Some(Deed::Delete(key.clone(), mirror.metadata.uid.as_deref()?.parse().ok()?))
}

/// The mirror of a static pod. It belongs to its Node: when that is deleted, nobody is left to delete it.
fn mirror(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    let uid = mirror.metadata.uid.take().unwrap_or_default();
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    annotations.insert(HASH.to_owned(), uid.clone());
    annotations.insert(MIRROR.to_owned(), uid);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror.status = None;
    mirror
}

/// Keeps mirrors true to the static pods.
pub struct Mirrors {
    pairs: watch::Receiver<MirrorPairs>,
    cloud: Cloud,
    meta: Meta,
    reports: Reports,
    node: NodeName,
    /// When a mirror may be asked for again.
    asked: BTreeMap<ObjectKey, Instant>,
    /// Mirrors whose deletion the report queue has.
    deleted: BTreeSet<Uid>,
    /// The last refusal of each, so that it is said once.
    refused: BTreeMap<ObjectKey, String>,
}

impl Mirrors {
    /// Nothing happens before `run`.
    #[must_use]
    pub fn new(
        pairs: watch::Receiver<MirrorPairs>,
        cloud: Cloud,
        meta: Meta,
        reports: Reports,
        node: NodeName,
    ) -> Self {
        let (asked, deleted, refused) = (BTreeMap::new(), BTreeSet::new(), BTreeMap::new());
        Self { pairs, cloud, meta, reports, node, asked, deleted, refused }
    }

    /// Works until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        loop {
            let pairs = self.pairs.borrow_and_update().clone();
            let is_idle = tokio::select! {
                is_idle = self.work(&pairs) => is_idle,
                () = shutdown.wait() => return Ok(()),
            };
            tokio::select! {
                changed = self.pairs.changed() => if changed.is_err() {
                    shutdown.wait().await;
                    return Ok(());
                },
                () = tokio::time::sleep(LOOK), if !is_idle => {}
                () = shutdown.wait() => return Ok(()),
            }
        }
    }

    /// True when nothing is left to do until something changes.
    async fn work(&mut self, pairs: &MirrorPairs) -> bool {
        let deeds = plan(pairs);
        let is_there = |uid: &Uid| {
            pairs.mirrors.values().any(|mirror| mirror.metadata.uid.as_deref() == Some(uid.as_str()))
        };
        self.deleted.retain(is_there);
        let waits =
            |key: &ObjectKey| deeds.iter().any(|deed| matches!(deed, Deed::Make(other, _) if other == key));
        self.asked.retain(|key, _| waits(key));
        self.refused.retain(|key, _| waits(key));
        let mut is_idle = true;
        for deed in deeds {
            match deed {
                Deed::Delete(key, uid) => self.delete(&key, uid).await,
                Deed::Make(key, pod) => {
                    is_idle = false;
                    self.make(key, &pod).await;
                }
            }
        }
        is_idle
    }

    async fn delete(&mut self, key: &ObjectKey, uid: Uid) {
        let Scope::Namespace(namespace) = &key.scope else { return };
        if self.deleted.insert(uid.clone()) {
            let (namespace, name) = (namespace.clone(), key.name.clone());
            self.reports.send(Report::PodGone { namespace, name, uid }).await;
        }
    }

    async fn make(&mut self, key: ObjectKey, pod: &Pod) {
        let is_away = *self.cloud.state().borrow() == LinkState::Away;
        if is_away || self.asked.get(&key).is_some_and(|at| *at > Instant::now()) {
            return;
        }
        // Without its Node's uid a mirror would outlive the Node.
        let Ok(Some(node)) = self.meta.node(&self.node).await else { return };
        if node.metadata.uid.is_none() {
            return;
        }
        let Ok(body) = serde_json::to_vec(&mirror(pod, &node)) else { return };
        let question = Question::Create { key: key.clone(), body: body.into() };
        let Ok(answered) = self.cloud.ask(question).await else { return };
        self.asked.insert(key.clone(), Instant::now() + AGAIN);
        self.cloud.kept(answered.receipt).await;
        match answered.answer {
            // It comes back as a Pod of this node. Taken from there only: by then the cloud takes its status, too.
            Answer::Stored(_) | Answer::Object(_) | Answer::Done | Answer::Pem(_) => {
                tracing::info!(pod = %key, "the cloud has a mirror of a static pod");
            }
            Answer::NotStored(refusal) | Answer::Refused(refusal) => {
                // One of an earlier run whose push is still under way, or somebody else's.
                let text = match refusal.reason {
                    Reason::AlreadyExists => "the cloud has another pod of this name".to_owned(),
                    _ => refusal.to_string(),
                };
                if self.refused.get(&key) != Some(&text) {
                    tracing::warn!(pod = %key, "a static pod runs, but the cloud does not show it: {text}");
                    self.refused.insert(key, text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::file::pods;
    use super::super::{is_mirror, is_static};
    use super::*;

    const WEB: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: i}]}";

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "edge-1", "uid": "n-1"}})).unwrap()
    }

    /// The mirror as it comes back from the cloud.
    fn stored(pod: &Pod, uid: &str) -> Arc<Pod> {
        let mut mirror = mirror(pod, &node());
        mirror.metadata.uid = Some(uid.into());
        Arc::new(mirror)
    }

    #[test]
    fn a_mirror_belongs_to_its_node() {
        let pods = pods(&[WEB], "edge-1");
        let pod = pods.values().next().unwrap();
        let mirror = mirror(pod, &node());
        assert!(is_mirror(&mirror) && !is_static(&mirror) && is_static(pod));
        assert_eq!(mirror.metadata.uid, None, "the API server gives it one");
        assert_eq!(annotation(&mirror, MIRROR), pod.metadata.uid.as_deref());
        let owners = mirror.metadata.owner_references.clone().unwrap();
        let owner = &owners[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("Node", "n-1", Some(true)));
        let run = super::super::as_run(stored(pod, "m-1"), &Arc::new(pods.clone()));
        assert_eq!(run.metadata.uid, pod.metadata.uid, "containers and logs are found under this");
    }

    #[test]
    fn an_annotation_is_no_mirror() {
        let pods = Arc::new(pods(&[WEB, &WEB.replace("name: web", "name: db")], "edge-1"));
        let [db, web] = [0, 1].map(|at| pods.values().nth(at).unwrap());
        let uid = |pod: &Pod| pod.metadata.uid.clone().unwrap();
        let check = |name: &str, namespace: &str, says: &str, expected: &str| {
            let mut pod = Pod::clone(&stored(web, "m-1"));
            pod.metadata.name = Some(name.into());
            pod.metadata.namespace = Some(namespace.into());
            pod.metadata.annotations.as_mut().unwrap().insert(MIRROR.into(), says.into());
            let run = super::super::as_run(Arc::new(pod), &pods);
            assert_eq!(uid(&run), expected, "{namespace}/{name} {says}");
        };
        check("web-edge-1", "default", &uid(web), &uid(web));
        // Of another static pod, of another file, of any pod, of none.
        check("web-edge-1", "default", &uid(db), "m-1");
        check("fake", "default", &uid(web), "m-1");
        check("web-edge-1", "tenant", &uid(web), "m-1");
        check("fake", "tenant", "u-1", "m-1");
        check("web-edge-1", "default", "../../secret", "m-1");
        check("web-edge-1", "default", "", "m-1");
    }

    #[test]
    fn what_is_wrong_with_the_mirrors() {
        let old = pods(&[WEB], "edge-1");
        let new = pods(&[&WEB.replace("image: i", "image: j")], "edge-1");
        let (key, old) = old.into_iter().next().unwrap();
        let new = new.into_values().next().unwrap();
        let check = |pod: Option<Option<&Arc<Pod>>>, mirror: Option<Arc<Pod>>, expected: Vec<Deed>| {
            let pairs = MirrorPairs {
                pods: pod.map(|pod| (key.clone(), pod.cloned())).into_iter().collect(),
                mirrors: mirror.map(|mirror| (key.clone(), mirror)).into_iter().collect(),
            };
            assert_eq!(plan(&pairs), expected);
        };
        let delete = || vec![Deed::Delete(key.clone(), "m-1".parse().unwrap())];
        check(None, None, Vec::new());
        check(Some(Some(&old)), None, vec![Deed::Make(key.clone(), old.clone())]);
        check(Some(Some(&old)), Some(stored(&old, "m-1")), Vec::new());
        check(Some(Some(&new)), Some(stored(&old, "m-1")), delete());
        check(Some(None), Some(stored(&old, "m-1")), Vec::new());
        check(None, Some(stored(&old, "m-1")), delete());
        let mut dying = Arc::unwrap_or_clone(stored(&old, "m-1"));
        dying.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2026-01-31T12:00:00Z")).unwrap());
        check(Some(Some(&old)), Some(Arc::new(dying)), delete());
    }
}
