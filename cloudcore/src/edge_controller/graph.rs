//! What others may ask of the placement: which nodes there are, and which objects have to do with which of them.
//!
//! One structure with `placement.rs`, read under a lock that nobody holds across an await. Filled by `placer.rs`; asked by
//! `answers.rs`, by CloudHub before it admits a message, by CloudStream for the node of a pod, by DeviceController and
//! SyncController for which nodes there are.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use ke_wire::{Kind, Namespace, NodeName, ObjectKey, ObjectName, Uid};

use super::placement::Placement;

/// Cloneable view of the placement.
#[derive(Clone, Debug, Default)]
pub struct Graph(Arc<RwLock<Placement>>);

impl Graph {
    /// Whether a Pod on the node names this ConfigMap, Secret or claim.
    #[must_use]
    pub fn may_read(&self, node: &NodeName, key: &ObjectKey) -> bool {
        self.read().may_read(node, key)
    }

    /// Uid of this Pod, if it is bound to the node.
    #[must_use]
    pub fn pod_is_on(&self, node: &NodeName, namespace: &Namespace, name: &ObjectName) -> Option<Uid> {
        let key = ObjectKey::namespaced(Kind::Pod, namespace.clone(), name.clone());
        self.read().pod_on(node, &key).map(|(uid, _)| uid.clone())
    }

    /// Whether this Pod is bound to any edge node.
    #[must_use]
    pub fn pod_is_bound(&self, namespace: &Namespace, name: &ObjectName) -> bool {
        self.read().is_pod(&ObjectKey::namespaced(Kind::Pod, namespace.clone(), name.clone()))
    }

    /// Which edge node this Pod is bound to.
    #[must_use]
    pub fn node_of_pod(&self, namespace: &Namespace, name: &ObjectName) -> Option<NodeName> {
        let key = ObjectKey::namespaced(Kind::Pod, namespace.clone(), name.clone());
        self.read().node_of(&key).cloned()
    }

    /// Whether a Pod on the node runs as this service account.
    #[must_use]
    pub fn uses_account(&self, node: &NodeName, namespace: &Namespace, account: &ObjectName) -> bool {
        self.read().uses_account(node, namespace, account)
    }

    /// Whether the node has a Pod of this namespace.
    #[must_use]
    pub fn has_pods_of(&self, node: &NodeName, namespace: &Namespace) -> bool {
        self.read().bodies_of_pods(node).any(|pod| pod.key.scope.namespace() == Some(namespace))
    }

    /// Whether this is an edge node as far as the watch has told.
    #[must_use]
    pub fn is_node(&self, node: &NodeName) -> bool {
        self.read().is_node(node)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Placement> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Placement> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
