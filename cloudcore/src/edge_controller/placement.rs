//! Pure: which nodes need which object, and why.
//!
//! A node needs itself, the Pods bound to it, and the ConfigMaps and Secrets that those name. This module never asks
//! the API server and never waits; it says what to fetch. Called by `mod.rs`; read by CloudHub through `Graph`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use ke_wire::{Change, Kind, NodeName, ObjectKey, Origin, Uid, Version};

use super::observed::{Observed, WATCHED, WatchEvent};
use crate::node_queue::{Desired, Gone};

/// What follows from something seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The node must hold this.
    Put(NodeName, Desired),
    /// The node must no longer hold this.
    Delete(NodeName, Gone),
    /// This is no edge node any more.
    NodeGone(NodeName),
    /// Read this object; the result goes to [`Placement::fetched`].
    Fetch(ObjectKey),
    /// List the Pods of this node; the result goes to [`Placement::listed`].
    ListPods(NodeName),
}

/// What is known of all edge nodes.
#[derive(Debug, Default)]
pub(super) struct Placement {
    nodes: HashMap<NodeName, Node>,
    pods: HashMap<ObjectKey, Pod>,
    data: HashMap<ObjectKey, Data>,
    lists: HashMap<Kind, List>,
}

#[derive(Debug)]
struct Node {
    desired: Desired,
    shape: u64,
    autonomy: Option<String>,
    pods: BTreeSet<ObjectKey>,
    /// While its Pods are being listed: the uids of those that vanished meanwhile.
    listing: Option<HashSet<Uid>>,
}

#[derive(Debug)]
struct Pod {
    node: NodeName,
    desired: Desired,
    shape: u64,
    references: BTreeSet<ObjectKey>,
    account: Option<ke_wire::ObjectName>,
}

/// A ConfigMap, Secret or claim that Pods on edge nodes name.
#[derive(Debug)]
struct Data {
    /// How many Pods of each node name it.
    nodes: BTreeMap<NodeName, usize>,
    state: DataState,
}

/// Awaited -> Held | Absent; Fetching -> Held | Absent; Held <-> Absent.
#[derive(Debug)]
enum DataState {
    /// The first list of its kind will show it or not.
    Awaited,
    /// Asked for. If the watch showed its end meanwhile, the version of that end.
    Fetching(Option<Version>),
    /// It exists.
    Held(Desired),
    /// It does not exist; should it come to be, the watch shows it.
    Absent,
    /// Readable, but never pushed: claims.
    NotPushed,
}

/// How far the watch of one kind is.
#[derive(Debug, Default)]
struct List {
    /// Keys seen in the list that is going on.
    seen: Option<HashSet<ObjectKey>>,
    /// Whether one list was complete.
    complete: bool,
}

impl Placement {
    /// Takes in one event of a watch.
    pub(super) fn on_event(&mut self, event: WatchEvent) -> Vec<Effect> {
        let mut effects = Vec::new();
        match event {
            WatchEvent::ListStarted(kind) => {
                self.lists.entry(kind).or_default().seen = Some(HashSet::new());
            }
            WatchEvent::Applied(observed) => {
                if let Some(seen) = self.lists.get_mut(&observed.key.kind).and_then(|list| list.seen.as_mut())
                {
                    // Of data only what is needed is remembered, not every name in the cluster.
                    if !is_data(&observed.key.kind) || self.data.contains_key(&observed.key) {
                        seen.insert(observed.key.clone());
                    }
                }
                self.on_applied(&observed, &mut effects);
            }
            WatchEvent::Removed(observed) => {
                self.on_removed(&observed, &mut effects);
            }
            WatchEvent::ListDone(kind) => self.on_list_done(&kind, &mut effects),
        }
        effects
    }

    /// The result of [`Effect::Fetch`]: the object, or `None` when there is none.
    pub(super) fn fetched(&mut self, key: &ObjectKey, found: Option<Observed>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(data) = self.data.get_mut(key) else { return effects };
        if found.is_some()
            && let Some(seen) = self.lists.get_mut(&key.kind).and_then(|list| list.seen.as_mut())
        {
            // A list that is going on may have passed this key by before anybody needed it.
            seen.insert(key.clone());
        }
        match (&data.state, found) {
            (DataState::Fetching(Some(ended)), Some(found)) if !found.version.is_newer_than(*ended) => {
                data.state = DataState::Absent;
            }
            // Another fetch of the same was quicker, or the watch: the newer one stays.
            (DataState::Fetching(_) | DataState::Held(_), Some(found)) => data.hold(&found, &mut effects),
            (DataState::Fetching(_), None) => data.state = DataState::Absent,
            _ => {}
        }
        effects
    }

    /// The result of [`Effect::ListPods`].
    pub(super) fn listed(&mut self, node: &NodeName, pods: Vec<Observed>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let Some(vanished) = self.nodes.get_mut(node).and_then(|node| node.listing.take()) else {
            return effects;
        };
        for pod in pods.into_iter().filter(|pod| !vanished.contains(&pod.uid)) {
            if let Some(seen) = self.lists.get_mut(&Kind::Pod).and_then(|list| list.seen.as_mut()) {
                seen.insert(pod.key.clone());
            }
            self.apply_pod(&pod, &mut effects);
        }
        effects
    }

    /// Whether each watch has shown all there is once.
    #[must_use]
    pub(super) fn is_complete(&self) -> bool {
        WATCHED.iter().all(|kind| self.lists.get(kind).is_some_and(|list| list.complete))
    }

    /// Whether all that this node needs is here, so that anything else it holds is too much.
    #[must_use]
    pub(super) fn is_settled(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_none_or(|entry| {
            entry.listing.is_none()
                && self
                    .data_of(entry)
                    .all(|data| !matches!(data.state, DataState::Awaited | DataState::Fetching(_)))
        })
    }

    /// All that the node must hold: itself, then data, then the Pods that need it.
    #[must_use]
    pub(super) fn desired(&self, node: &NodeName) -> Vec<Desired> {
        let Some(entry) = self.nodes.get(node) else { return Vec::new() };
        let mut all = vec![entry.desired.clone()];
        let mut keys = BTreeSet::new();
        for pod in entry.pods.iter().filter_map(|key| self.pods.get(key)) {
            keys.extend(&pod.references);
        }
        all.extend(keys.into_iter().filter_map(|key| match &self.data.get(key)?.state {
            DataState::Held(desired) => Some(desired.clone()),
            _ => None,
        }));
        all.extend(entry.pods.iter().filter_map(|key| self.pods.get(key)).map(|pod| pod.desired.clone()));
        all
    }

    /// Whether this is an edge node.
    #[must_use]
    pub(super) fn is_node(&self, node: &NodeName) -> bool {
        self.nodes.contains_key(node)
    }

    /// Nodes whose Pods name this object.
    #[must_use]
    pub(super) fn nodes_of(&self, key: &ObjectKey) -> Vec<NodeName> {
        self.data.get(key).map(|data| data.nodes.keys().cloned().collect()).unwrap_or_default()
    }

    /// Whether a Pod on the node names this ConfigMap, Secret or claim.
    #[must_use]
    pub(super) fn may_read(&self, node: &NodeName, key: &ObjectKey) -> bool {
        self.data.get(key).is_some_and(|data| data.nodes.contains_key(node))
    }

    /// Whether this is a Pod of an edge node.
    #[must_use]
    pub(super) fn is_pod(&self, key: &ObjectKey) -> bool {
        self.pods.contains_key(key)
    }

    /// The edge node that a Pod is bound to.
    #[must_use]
    pub(super) fn node_of(&self, key: &ObjectKey) -> Option<&NodeName> {
        self.pods.get(key).map(|pod| &pod.node)
    }

    /// Uid and service account of a Pod, if it is bound to this node.
    #[must_use]
    pub(super) fn pod_on(
        &self,
        node: &NodeName,
        pod: &ObjectKey,
    ) -> Option<(&Uid, Option<&ke_wire::ObjectName>)> {
        let pod = self.pods.get(pod).filter(|pod| pod.node == *node)?;
        Some((&pod.desired.uid, pod.account.as_ref()))
    }

    /// Whether any Pod on the node runs as this service account.
    #[must_use]
    pub(super) fn uses_account(
        &self,
        node: &NodeName,
        namespace: &ke_wire::Namespace,
        account: &ke_wire::ObjectName,
    ) -> bool {
        self.bodies_of_pods(node).any(|pod| {
            pod.key.scope.namespace() == Some(namespace)
                && self.pods.get(&pod.key).is_some_and(|pod| pod.account.as_ref() == Some(account))
        })
    }

    /// The node's annotation about how long its Pods stay bound without it.
    #[must_use]
    pub(super) fn autonomy(&self, node: &NodeName) -> Option<&str> {
        self.nodes.get(node)?.autonomy.as_deref()
    }

    /// The Pods of a node as they are pushed.
    pub(super) fn bodies_of_pods(&self, node: &NodeName) -> impl Iterator<Item = &Desired> {
        let keys = self.nodes.get(node).into_iter().flat_map(|node| &node.pods);
        keys.filter_map(|key| self.pods.get(key)).map(|pod| &pod.desired)
    }

    fn data_of<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Data> {
        let pods = node.pods.iter().filter_map(|key| self.pods.get(key));
        pods.flat_map(|pod| &pod.references).filter_map(|key| self.data.get(key))
    }

    fn on_applied(&mut self, observed: &Observed, effects: &mut Vec<Effect>) {
        match observed.key.kind {
            Kind::Node => self.apply_node(observed, effects),
            Kind::Pod => self.apply_pod(observed, effects),
            _ => {
                if let Some(data) = self.data.get_mut(&observed.key) {
                    data.hold(observed, effects);
                }
            }
        }
    }

    fn apply_node(&mut self, observed: &Observed, effects: &mut Vec<Effect>) {
        let Ok(name) = observed.key.name.as_str().parse::<NodeName>() else { return };
        if self.nodes.get(&name).is_some_and(|held| held.desired.uid != observed.uid) {
            self.remove_node(&name, effects);
        }
        let shape = observed.shape();
        let autonomy = observed.annotation(super::tolerations::AUTONOMY).map(str::to_owned);
        if let Some(held) = self.nodes.get_mut(&name) {
            if held.shape == shape || !observed.version.is_newer_than(held.desired.version) {
                return;
            }
            held.desired = desired(observed, Change::Updated);
            (held.shape, held.autonomy) = (shape, autonomy);
            effects.push(Effect::Put(name, held.desired.clone()));
            return;
        }
        let desired = desired(observed, Change::Updated);
        // Pods that were bound before the label came have passed by unseen. Before the first list they cannot have.
        let listing = self.lists.contains_key(&Kind::Pod).then(HashSet::new);
        if listing.is_some() {
            effects.push(Effect::ListPods(name.clone()));
        }
        effects.push(Effect::Put(name.clone(), desired.clone()));
        self.nodes.insert(name, Node { desired, shape, autonomy, pods: BTreeSet::new(), listing });
    }

    fn apply_pod(&mut self, observed: &Observed, effects: &mut Vec<Effect>) {
        let key = &observed.key;
        let Some(name) = observed.node() else { return };
        if let Some(held) = self.pods.get(key) {
            if !observed.version.is_newer_than(held.desired.version) {
                return;
            }
            if held.desired.uid != observed.uid || held.node != name {
                self.remove_pod(key, None, effects);
            }
        }
        let Some(node) = self.nodes.get_mut(&name) else { return };
        let shape = observed.shape();
        let references = observed.references();
        let change =
            if observed.is_going() || node.pods.contains(key) { Change::Updated } else { Change::Inserted };
        let old = match self.pods.get(key) {
            Some(held) if held.shape == shape => return,
            Some(held) => held.references.clone(),
            None => BTreeSet::new(),
        };
        node.pods.insert(key.clone());
        // New data first, so that the Pod finds it; what is no longer named goes last.
        for added in references.difference(&old) {
            self.refer(&name, added, effects);
        }
        let pod = Pod {
            node: name.clone(),
            desired: desired(observed, change),
            shape,
            references,
            account: observed.account(),
        };
        effects.push(Effect::Put(name.clone(), pod.desired.clone()));
        let dropped: Vec<ObjectKey> = old.difference(&pod.references).cloned().collect();
        self.pods.insert(key.clone(), pod);
        for key in dropped {
            self.unrefer(&name, &key, Some(effects));
        }
    }

    fn on_removed(&mut self, observed: &Observed, effects: &mut Vec<Effect>) {
        let (key, uid, version) = (&observed.key, &observed.uid, Some(observed.version));
        match key.kind {
            Kind::Node => {
                let Ok(name) = key.name.as_str().parse::<NodeName>() else { return };
                if self.nodes.get(&name).is_some_and(|held| held.desired.uid == *uid) {
                    self.remove_node(&name, effects);
                }
            }
            Kind::Pod => {
                let node = observed.node().and_then(|node| self.nodes.get_mut(&node));
                if let Some(vanished) = node.and_then(|node| node.listing.as_mut()) {
                    vanished.insert(uid.clone());
                }
                if self.pods.get(key).is_some_and(|held| held.desired.uid == *uid) {
                    self.remove_pod(key, version, effects);
                }
            }
            _ => {
                if let Some(data) = self.data.get_mut(key) {
                    data.end(uid, version, effects);
                }
            }
        }
    }

    fn on_list_done(&mut self, kind: &Kind, effects: &mut Vec<Effect>) {
        let list = self.lists.entry(kind.clone()).or_default();
        list.complete = true;
        let Some(seen) = list.seen.take() else { return };
        match kind {
            Kind::Node => {
                let gone = self.nodes.iter().filter(|(_, node)| !seen.contains(&node.desired.key));
                for name in gone.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
                    self.remove_node(&name, effects);
                }
            }
            Kind::Pod => {
                let gone = self.pods.keys().filter(|key| !seen.contains(key)).cloned();
                for key in gone.collect::<Vec<_>>() {
                    self.remove_pod(&key, None, effects);
                }
            }
            kind => {
                for (_, data) in
                    self.data.iter_mut().filter(|(key, _)| key.kind == *kind && !seen.contains(key))
                {
                    match &data.state {
                        DataState::Awaited => data.state = DataState::Absent,
                        DataState::Held(held) => {
                            let uid = held.uid.clone();
                            data.end(&uid, None, effects);
                        }
                        DataState::Fetching(_) | DataState::Absent | DataState::NotPushed => {}
                    }
                }
            }
        }
    }

    fn remove_node(&mut self, name: &NodeName, effects: &mut Vec<Effect>) {
        let Some(node) = self.nodes.remove(name) else { return };
        for key in node.pods {
            let Some(pod) = self.pods.remove(&key) else { continue };
            for reference in pod.references {
                self.unrefer(name, &reference, None);
            }
        }
        effects.push(Effect::NodeGone(name.clone()));
    }

    fn remove_pod(&mut self, key: &ObjectKey, version: Option<Version>, effects: &mut Vec<Effect>) {
        let Some(pod) = self.pods.remove(key) else { return };
        if let Some(node) = self.nodes.get_mut(&pod.node) {
            node.pods.remove(key);
        }
        let Desired { key, uid, origin, body, .. } = pod.desired;
        effects.push(Effect::Delete(pod.node.clone(), Gone { key, uid, version, origin, body }));
        for reference in pod.references {
            self.unrefer(&pod.node, &reference, Some(effects));
        }
    }

    fn refer(&mut self, node: &NodeName, key: &ObjectKey, effects: &mut Vec<Effect>) {
        let lists = &self.lists;
        let data = self.data.entry(key.clone()).or_insert_with(|| {
            let state = match &key.kind {
                kind if !is_data(kind) => DataState::NotPushed,
                kind if lists.contains_key(kind) => {
                    effects.push(Effect::Fetch(key.clone()));
                    DataState::Fetching(None)
                }
                _ => DataState::Awaited,
            };
            Data { nodes: BTreeMap::new(), state }
        });
        let n_pods = data.nodes.entry(node.clone()).or_insert(0);
        *n_pods = n_pods.saturating_add(1);
        if let (1, DataState::Held(held)) = (*n_pods, &data.state) {
            effects.push(Effect::Put(node.clone(), held.clone()));
        }
    }

    /// `effects` is `None` when the node itself is gone and must not be told.
    fn unrefer(&mut self, node: &NodeName, key: &ObjectKey, effects: Option<&mut Vec<Effect>>) {
        let Some(data) = self.data.get_mut(key) else { return };
        let Some(n_pods) = data.nodes.get_mut(node) else { return };
        *n_pods = n_pods.saturating_sub(1);
        if *n_pods > 0 {
            return;
        }
        data.nodes.remove(node);
        if let (Some(effects), DataState::Held(held)) = (effects, &data.state) {
            // Secrets do not stay on a node whose last Pod that needed them is gone.
            effects.push(Effect::Delete(node.clone(), gone(held, Some(held.version))));
        }
        if data.nodes.is_empty() {
            self.data.remove(key);
        }
    }
}

impl Data {
    fn hold(&mut self, observed: &Observed, effects: &mut Vec<Effect>) {
        let mut change = Change::Inserted;
        if let DataState::Held(held) = &self.state {
            if !observed.version.is_newer_than(held.version) {
                return;
            }
            if held.uid == observed.uid {
                change = Change::Updated;
            } else {
                let uid = held.uid.clone();
                self.end(&uid, None, effects);
            }
        }
        if observed.key.kind == Kind::Secret {
            // What Go peers send, whatever happened.
            change = Change::Updated;
        }
        let desired = desired(observed, change);
        effects.extend(self.nodes.keys().map(|node| Effect::Put(node.clone(), desired.clone())));
        self.state = DataState::Held(desired);
    }

    fn end(&mut self, uid: &Uid, version: Option<Version>, effects: &mut Vec<Effect>) {
        match &mut self.state {
            DataState::Held(held) if held.uid == *uid => {
                let gone = gone(held, version);
                effects.extend(self.nodes.keys().map(|node| Effect::Delete(node.clone(), gone.clone())));
                self.state = DataState::Absent;
            }
            DataState::Fetching(ended) => *ended = version.max(*ended),
            DataState::Held(_) | DataState::Awaited | DataState::Absent | DataState::NotPushed => {}
        }
    }
}

fn is_data(kind: &Kind) -> bool {
    matches!(kind, Kind::ConfigMap | Kind::Secret)
}

fn desired(observed: &Observed, change: Change) -> Desired {
    Desired {
        key: observed.key.clone(),
        uid: observed.uid.clone(),
        version: observed.version,
        change,
        origin: Origin::EdgeController,
        body: observed.body(),
    }
}

/// Only metadata travels with the removal of data: it is no longer the node's business.
fn gone(held: &Desired, version: Option<Version>) -> Gone {
    let mut metadata = serde_json::json!({
        "name": held.key.name.as_str(), "uid": held.uid.as_str(),
        "resourceVersion": version.unwrap_or(held.version).to_string(),
    });
    if let (Some(namespace), Some(metadata)) = (held.key.scope.namespace(), metadata.as_object_mut()) {
        metadata.insert("namespace".to_owned(), namespace.as_str().into());
    }
    let api = ke_api::object::api_type(&held.key.kind);
    let body = serde_json::json!({
        "apiVersion": api.map_or("", |api| api.api_version), "kind": api.map_or("", |api| api.kind),
        "metadata": metadata,
    });
    Gone {
        key: held.key.clone(),
        uid: held.uid.clone(),
        version,
        origin: held.origin,
        body: Bytes::from(body.to_string()),
    }
}

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
