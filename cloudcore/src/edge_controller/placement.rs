//! Pure: which nodes need which object, and why.
//!
//! A node needs itself, the Pods bound to it, and the ConfigMaps and Secrets that those name. This module never asks
//! the API server and never waits; it says what to fetch. Called by `placer.rs`; read by others through `Graph`.

mod data;
mod questions;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ke_wire::{Change, Kind, NodeName, ObjectKey, Uid, Version};

use self::data::{Data, DataState, desired, gone, is_data};
use super::observed::{Observed, WatchEvent};
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

#[cfg(test)]
#[path = "placement_tests.rs"]
mod tests;
