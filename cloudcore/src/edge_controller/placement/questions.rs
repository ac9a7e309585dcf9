//! Pure: what may be asked of the placement. Nothing here changes it. Called by `placer.rs` and through `Graph`.

use std::collections::BTreeSet;

use ke_wire::{NodeName, ObjectKey, Uid};

use super::super::observed::WATCHED;
use super::data::DataState;
use super::{Data, Node, Placement};
use crate::node_queue::Desired;

impl Placement {
    /// Whether each watch has shown all there is once.
    #[must_use]
    pub(in crate::edge_controller) fn is_complete(&self) -> bool {
        WATCHED.iter().all(|kind| self.lists.get(kind).is_some_and(|list| list.complete))
    }

    /// Whether all that this node needs is here, so that anything else it holds is too much.
    #[must_use]
    pub(in crate::edge_controller) fn is_settled(&self, node: &NodeName) -> bool {
        self.nodes.get(node).is_none_or(|entry| {
            entry.listing.is_none()
                && self
                    .data_of(entry)
                    .all(|data| !matches!(data.state, DataState::Awaited | DataState::Fetching(_)))
        })
    }

    /// All that the node must hold: itself, then data, then the Pods that need it.
    #[must_use]
    pub(in crate::edge_controller) fn desired(&self, node: &NodeName) -> Vec<Desired> {
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
    pub(in crate::edge_controller) fn is_node(&self, node: &NodeName) -> bool {
        self.nodes.contains_key(node)
    }

    /// Nodes whose Pods name this object.
    #[must_use]
    pub(in crate::edge_controller) fn nodes_of(&self, key: &ObjectKey) -> Vec<NodeName> {
        self.data.get(key).map(|data| data.nodes.keys().cloned().collect()).unwrap_or_default()
    }

    /// Whether a Pod on the node names this ConfigMap, Secret or claim.
    #[must_use]
    pub(in crate::edge_controller) fn may_read(&self, node: &NodeName, key: &ObjectKey) -> bool {
        self.data.get(key).is_some_and(|data| data.nodes.contains_key(node))
    }

    /// Whether this is a Pod of an edge node.
    #[must_use]
    pub(in crate::edge_controller) fn is_pod(&self, key: &ObjectKey) -> bool {
        self.pods.contains_key(key)
    }

    /// The edge node that a Pod is bound to.
    #[must_use]
    pub(in crate::edge_controller) fn node_of(&self, key: &ObjectKey) -> Option<&NodeName> {
        self.pods.get(key).map(|pod| &pod.node)
    }

    /// Uid and service account of a Pod, if it is bound to this node.
    #[must_use]
    pub(in crate::edge_controller) fn pod_on(
        &self,
        node: &NodeName,
        pod: &ObjectKey,
    ) -> Option<(&Uid, Option<&ke_wire::ObjectName>)> {
        let pod = self.pods.get(pod).filter(|pod| pod.node == *node)?;
        Some((&pod.desired.uid, pod.account.as_ref()))
    }

    /// Whether any Pod on the node runs as this service account.
    #[must_use]
    pub(in crate::edge_controller) fn uses_account(
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
    pub(in crate::edge_controller) fn autonomy(&self, node: &NodeName) -> Option<&str> {
        self.nodes.get(node)?.autonomy.as_deref()
    }

    /// The Pods of a node as they are pushed.
    pub(in crate::edge_controller) fn bodies_of_pods(
        &self,
        node: &NodeName,
    ) -> impl Iterator<Item = &Desired> {
        let keys = self.nodes.get(node).into_iter().flat_map(|node| &node.pods);
        keys.filter_map(|key| self.pods.get(key)).map(|pod| &pod.desired)
    }

    fn data_of<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = &'a Data> {
        let pods = node.pods.iter().filter_map(|key| self.pods.get(key));
        pods.flat_map(|pod| &pod.references).filter_map(|key| self.data.get(key))
    }
}
