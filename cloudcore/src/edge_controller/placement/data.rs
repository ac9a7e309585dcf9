//! Pure: a ConfigMap, Secret or claim that Pods on edge nodes name, and what each of these nodes is told of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use ke_wire::{Change, Kind, NodeName, Origin, Uid, Version};

use super::super::observed::Observed;
use super::Effect;
use crate::node_queue::{Desired, Gone};

/// A ConfigMap, Secret or claim that Pods on edge nodes name.
#[derive(Debug)]
pub(super) struct Data {
    /// How many Pods of each node name it.
    pub(super) nodes: BTreeMap<NodeName, usize>,
    pub(super) state: DataState,
}

/// Awaited -> Held | Absent; Fetching -> Held | Absent; Held <-> Absent.
#[derive(Debug)]
pub(super) enum DataState {
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

impl Data {
    /// It is there as seen.
    pub(super) fn hold(&mut self, observed: &Observed, effects: &mut Vec<Effect>) {
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

    /// It is gone.
    pub(super) fn end(&mut self, uid: &Uid, version: Option<Version>, effects: &mut Vec<Effect>) {
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

/// Whether objects of this kind are pushed where Pods name them. Claims are only read.
pub(super) fn is_data(kind: &Kind) -> bool {
    matches!(kind, Kind::ConfigMap | Kind::Secret)
}

/// What a node is to hold, as it was seen.
pub(super) fn desired(observed: &Observed, change: Change) -> Desired {
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
pub(super) fn gone(held: &Desired, version: Option<Version>) -> Gone {
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
