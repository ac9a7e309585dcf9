//! How the controllers tell the queues what a node must hold.

use std::fmt;

use bytes::Bytes;
use ke_wire::{Change, Down, Kind, NodeName, ObjectKey, Origin, Uid, Version};
use tokio::sync::mpsc;

/// An object that a node must hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Desired {
    /// Which object.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: Uid,
    /// Its version.
    pub version: Version,
    /// What happened to it.
    pub change: Change,
    /// Which controller sends it.
    pub origin: Origin,
    /// Kubernetes JSON with `apiVersion` and `kind`, serialized once for all nodes.
    pub body: Bytes,
}

/// Without the object: it may be a Secret.
impl fmt::Debug for Desired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desired")
            .field("key", &self.key)
            .field("uid", &self.uid)
            .field("version", &self.version)
            .field("change", &self.change)
            .field("origin", &self.origin)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// An object that a node must no longer hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Gone {
    /// Which object.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: Uid,
    /// Its last version, where known.
    pub version: Option<Version>,
    /// Which controller sends it.
    pub origin: Origin,
    /// Last known object as Kubernetes JSON, or just `apiVersion`, `kind` and `metadata`.
    pub body: Bytes,
}

/// Without the object: it may be a Secret.
impl fmt::Debug for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gone")
            .field("key", &self.key)
            .field("uid", &self.uid)
            .field("version", &self.version)
            .field("origin", &self.origin)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// What one hand-over names in full: each controller gives its own, and takes nothing of another's from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Share {
    /// The Node, its Pods and what those name. EdgeController's.
    Workload,
    /// Devices. DeviceController's.
    Devices,
    /// Device models. DeviceController's; apart from the devices, since a model that was deleted while devices use it
    /// stays on the node.
    Models,
}

impl Share {
    /// The share that an object of this kind belongs to. Records of other kinds, say a Go cloudcore's of volumes, are not
    /// ours to judge.
    #[must_use]
    pub fn of(kind: &Kind) -> Option<Self> {
        match kind {
            Kind::Node | Kind::Pod | Kind::ConfigMap | Kind::Secret => Some(Self::Workload),
            Kind::Device => Some(Self::Devices),
            Kind::DeviceModel => Some(Self::Models),
            _ => None,
        }
    }
}

/// What the queues can be told.
#[derive(Debug)]
pub enum QueueOrder {
    /// `node` must hold this. A newer version replaces an older one that still waits.
    Put(NodeName, Desired),
    /// The same, also when the node has confirmed this version: somebody there must hear of it once more.
    Again(NodeName, Desired),
    /// `node` must no longer hold this.
    Delete(NodeName, Gone),
    /// All of this share that `node` must hold follows, up to `Synced`. Without this mark the rest of a hand-over that was
    /// meant for the node's previous link would look like a whole one, and what came before it would be taken from the node.
    HandOver(NodeName, Share),
    /// All of this share that `node` must hold was said since `HandOver`: what it holds beyond that must go.
    Synced(NodeName, Share),
    /// A message that is neither kept nor acknowledged: the node gets it before any object that is ordered later, or never,
    /// if its link ends first.
    Say(NodeName, Box<Down>),
    /// `node` registered anew, perhaps with an empty store: forget what it confirmed; all it must hold follows.
    Forget(NodeName),
    /// The Node object is gone: end its session, drop its queue and ledger.
    NodeGone(NodeName),
}

/// Cloneable handle to the queues.
#[derive(Clone, Debug)]
pub struct NodeQueues(mpsc::Sender<QueueOrder>);

impl NodeQueues {
    /// A handle and the end that the queue task reads. Full: the controllers wait, and with them their Kubernetes
    /// watches, which the API server buffers.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<QueueOrder>) {
        let (sender, receiver) = mpsc::channel(1024);
        (Self(sender), receiver)
    }

    /// Hands over one order. After shutdown it is dropped: the next start derives all of them anew.
    pub async fn tell(&self, order: QueueOrder) {
        let _ = self.0.send(order).await;
    }
}

/// A deletion of an object of which only key and uid are known.
pub(super) fn bare_gone(uid: &Uid, key: &ObjectKey) -> Gone {
    let mut metadata = serde_json::json!({"name": key.name.as_str(), "uid": uid.as_str()});
    if let (Some(namespace), Some(fields)) = (key.scope.namespace(), metadata.as_object_mut()) {
        fields.insert("namespace".into(), namespace.as_str().into());
    }
    let mut body = serde_json::json!({"metadata": metadata});
    // A Go edge's local API goes on serving an object whose deletion does not say its type.
    if let (Some(api), Some(fields)) = (ke_api::object::api_type(&key.kind), body.as_object_mut()) {
        fields.insert("apiVersion".into(), api.api_version.into());
        fields.insert("kind".into(), api.kind.into());
    }
    // A Go edge tells mappers only of what DeviceController sends.
    let origin = match Share::of(&key.kind) {
        Some(Share::Devices | Share::Models) => Origin::DeviceController,
        Some(Share::Workload) | None => Origin::EdgeController,
    };
    Gone { key: key.clone(), uid: uid.clone(), version: None, origin, body: body.to_string().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_stay_out_of_logs() {
        let key: ObjectKey = "default/secret/door".parse().unwrap();
        let (uid, version, origin) = ("u".parse::<Uid>().unwrap(), Version::new(1), Origin::EdgeController);
        let body = || Bytes::from_static(b"{\"data\":{\"key\":\"aHVzaA==\"}}");
        let desired = Desired {
            key: key.clone(),
            uid: uid.clone(),
            version,
            change: Change::Updated,
            origin,
            body: body(),
        };
        let gone = Gone { key, uid, version: None, origin, body: body() };
        let node: NodeName = "edge-1".parse().unwrap();
        for order in [QueueOrder::Put(node.clone(), desired), QueueOrder::Delete(node, gone)] {
            let text = format!("{order:?}");
            assert!(text.contains("27 bytes") && text.contains("door") && !text.contains("data"), "{text}");
        }
    }
}
