//! Pure: which node has which devices and models, and what it must be told when that changes.
//!
//! A device goes before its model when both leave a node and after it when both come. A model that is deleted while
//! devices use it stays on their nodes until the last of them is gone. It never asks and never waits. Called by `running.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ke_wire::{Change, DeviceId, DeviceRef, Kind, NodeName, ObjectName};

use super::conditions::ModelIs;
use super::object::{SeenDevice, SeenModel};
use crate::node_queue::{Desired, Gone};

/// What follows from something seen.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Effect {
    /// The device is the node's from now on. Before its `Put`.
    Came(NodeName, DeviceRef),
    /// It is no longer.
    Left(NodeName, DeviceRef),
    /// The node must hold this.
    Put(NodeName, Desired),
    /// The same, whatever it has confirmed: what it is merged with changed.
    Again(NodeName, Desired),
    /// The node must no longer hold this.
    Delete(NodeName, Gone),
    /// Something that the device's conditions depend on changed, or its properties.
    Judge(DeviceId),
    /// The Device is gone.
    Ended(DeviceId),
}

/// Everything a node must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Whole {
    pub(super) references: Vec<DeviceRef>,
    pub(super) models: Vec<Desired>,
    pub(super) devices: Vec<Desired>,
    /// A device's model is not known: it may be one that was deleted before we started, which the node goes on with.
    pub(super) lacks_model: bool,
}

/// All devices and models.
#[derive(Debug, Default)]
pub(super) struct Placement {
    devices: HashMap<DeviceId, Device>,
    models: HashMap<DeviceId, Model>,
    /// Devices by node.
    nodes: HashMap<NodeName, BTreeSet<DeviceId>>,
    /// Devices by the model that they name, whether it exists or not.
    users: HashMap<DeviceId, BTreeSet<DeviceId>>,
    /// Models that are there but cannot be read, and why.
    unreadable: HashMap<DeviceId, String>,
    lists: HashMap<Kind, List>,
}

#[derive(Debug)]
struct Device {
    seen: SeenDevice,
    node: Option<NodeName>,
    model: Option<DeviceId>,
}

#[derive(Debug)]
struct Model {
    seen: SeenModel,
    /// Deleted while devices use it.
    is_ghost: bool,
}

/// How far the watch of one kind is.
#[derive(Debug, Default)]
struct List {
    /// What was seen in the list that is going on.
    seen: Option<HashSet<DeviceId>>,
    is_complete: bool,
}

impl Placement {
    /// All objects of this kind follow.
    pub(super) fn list_started(&mut self, kind: Kind) {
        self.lists.entry(kind).or_default().seen = Some(HashSet::new());
    }

    /// What was not in the list does not exist.
    pub(super) fn list_done(&mut self, kind: &Kind) -> Vec<Effect> {
        let list = self.lists.entry(kind.clone()).or_default();
        let seen = list.seen.take().unwrap_or_default();
        let was_complete = std::mem::replace(&mut list.is_complete, true);
        let mut effects = Vec::new();
        if *kind == Kind::Device {
            let vanished: Vec<DeviceId> =
                self.devices.keys().filter(|id| !seen.contains(*id)).cloned().collect();
            vanished.iter().for_each(|id| self.device_gone(id, &mut effects));
        } else {
            let known = self.models.keys().chain(self.unreadable.keys());
            let vanished: Vec<DeviceId> = known.filter(|id| !seen.contains(*id)).cloned().collect();
            vanished.iter().for_each(|id| self.model_gone(id, &mut effects));
            if !was_complete {
                // From now on a model that is not known is missing.
                effects.extend(self.devices.keys().cloned().map(Effect::Judge));
            }
        }
        effects
    }

    /// The object is there but cannot be read: what was known of it stays.
    pub(super) fn unusable(&mut self, kind: &Kind, id: DeviceId, why: &str) -> Vec<Effect> {
        let mut effects = Vec::new();
        if *kind == Kind::DeviceModel {
            self.unreadable.insert(id.clone(), why.to_owned());
            self.judge_users(&id, &mut effects);
        }
        self.listed(kind, id);
        effects
    }

    fn listed(&mut self, kind: &Kind, id: DeviceId) {
        if let Some(seen) = self.lists.get_mut(kind).and_then(|list| list.seen.as_mut()) {
            seen.insert(id);
        }
    }

    /// Whether all devices and models are known.
    pub(super) fn is_complete(&self) -> bool {
        [Kind::Device, Kind::DeviceModel]
            .iter()
            .all(|kind| self.lists.get(kind).is_some_and(|list| list.is_complete))
    }

    /// A Device as it is now.
    pub(super) fn device(&mut self, seen: SeenDevice) -> Vec<Effect> {
        let mut effects = Vec::new();
        let id = seen.stored.id.clone();
        self.listed(&Kind::Device, id.clone());
        let node = seen.says.node.parse::<NodeName>().ok();
        let model = seen.says.model.parse::<ObjectName>().ok();
        let model = model.map(|name| DeviceId { namespace: id.namespace.clone(), name });
        // One that was deleted and made anew unseen is another device.
        if self.devices.get(&id).is_some_and(|device| device.seen.stored.uid != seen.stored.uid) {
            self.device_gone(&id, &mut effects);
        }
        match self.devices.get_mut(&id) {
            Some(held) if held.seen.stored.shape == seen.stored.shape => {
                // Our own patches of its status among others. A later version of the same counts as the same.
                let version = held.seen.stored.version;
                held.seen = seen;
                held.seen.stored.version = version;
                effects.push(Effect::Judge(id));
                return effects;
            }
            Some(held) if held.node == node => {
                let before = std::mem::replace(&mut held.model, model.clone());
                held.seen = seen;
                if before != model {
                    self.unlink_model(&id, before.as_ref());
                    self.link_model(&id, model.as_ref());
                }
                if let Some(node) = &node {
                    self.put(node, &id, Change::Updated, &mut effects);
                    if before != model {
                        self.drop_model(node, before.as_ref(), &mut effects);
                    }
                }
            }
            Some(_) => {
                self.leave(&id, &mut effects);
                self.come(id.clone(), Device { seen, node, model }, &mut effects);
            }
            None => self.come(id.clone(), Device { seen, node, model }, &mut effects),
        }
        effects.push(Effect::Judge(id));
        effects
    }

    /// A Device that is no more.
    pub(super) fn device_removed(&mut self, id: &DeviceId) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.device_gone(id, &mut effects);
        effects
    }

    /// A DeviceModel as it is now.
    pub(super) fn model(&mut self, seen: SeenModel) -> Vec<Effect> {
        let mut effects = Vec::new();
        let id = seen.stored.id.clone();
        self.listed(&Kind::DeviceModel, id.clone());
        self.unreadable.remove(&id);
        let before = self.models.get_mut(&id);
        if let Some(before) = before
            && !before.is_ghost
            && before.seen.stored.uid == seen.stored.uid
            && before.seen.stored.shape == seen.stored.shape
        {
            // Its annotations may be others: rules of discovery are among them.
            before.seen = seen;
            return effects;
        }
        let before = self.models.get(&id);
        let change = if before.is_some() { Change::Updated } else { Change::Inserted };
        let replaced = before.filter(|before| before.seen.stored.uid != seen.stored.uid);
        let replaced = replaced.map(|before| before.seen.stored.gone(Kind::DeviceModel));
        let put = seen.stored.desired(Kind::DeviceModel, change);
        self.models.insert(id.clone(), Model { seen, is_ghost: false });
        for (node, devices) in self.users_by_node(&id) {
            effects.extend(replaced.clone().map(|gone| Effect::Delete(node.clone(), gone)));
            effects.push(Effect::Put(node.clone(), put.clone()));
            // What a device is to its mapper is made of both.
            for device in devices.iter().filter_map(|device| self.devices.get(device)) {
                let again = device.seen.stored.desired(Kind::Device, Change::Updated);
                effects.push(Effect::Again(node.clone(), again));
            }
        }
        self.judge_users(&id, &mut effects);
        effects
    }

    /// A DeviceModel that is no more.
    pub(super) fn model_removed(&mut self, id: &DeviceId) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.model_gone(id, &mut effects);
        effects
    }

    /// Everything that a node must hold, models first.
    pub(super) fn whole(&self, node: &NodeName) -> Whole {
        let mut whole = Whole::default();
        let mut models = BTreeSet::new();
        for device in self.nodes.get(node).into_iter().flatten().filter_map(|id| self.devices.get(id)) {
            whole.references.push(device.seen.reference());
            whole.devices.push(device.seen.stored.desired(Kind::Device, Change::Updated));
            whole.lacks_model |= device.model.as_ref().is_some_and(|model| !self.models.contains_key(model));
            models.extend(device.model.as_ref());
        }
        let known = models.into_iter().filter_map(|id| self.models.get(id));
        whole.models =
            known.map(|model| model.seen.stored.desired(Kind::DeviceModel, Change::Inserted)).collect();
        whole
    }

    /// The device, if there is one.
    pub(super) fn get(&self, id: &DeviceId) -> Option<&SeenDevice> {
        self.devices.get(id).map(|device| &device.seen)
    }

    /// Whether the device is this node's.
    pub(super) fn is_on(&self, id: &DeviceId, node: &NodeName) -> bool {
        self.devices.get(id).is_some_and(|device| device.node.as_ref() == Some(node))
    }

    /// The node that the device names, if that is a name of a node.
    pub(super) fn node_of(&self, id: &DeviceId) -> Option<&NodeName> {
        self.devices.get(id)?.node.as_ref()
    }

    /// The model of a device.
    pub(super) fn model_of(&self, id: &DeviceId) -> ModelIs<'_> {
        let model = self.devices.get(id).and_then(|device| device.model.as_ref());
        if let Some(why) = model.and_then(|model| self.unreadable.get(model)) {
            return ModelIs::Unreadable(why);
        }
        match model.and_then(|model| self.models.get(model)) {
            Some(Model { is_ghost: true, .. }) => ModelIs::Deleted,
            Some(model) => ModelIs::Known(&model.seen.says),
            None if self.lists.get(&Kind::DeviceModel).is_some_and(|list| list.is_complete) => {
                ModelIs::Missing
            }
            None => ModelIs::NotTold,
        }
    }

    /// All models that are there, in the order of their names.
    pub(super) fn models(&self) -> Vec<&SeenModel> {
        let there = self.models.values().filter(|model| !model.is_ghost);
        let mut models: Vec<&SeenModel> = there.map(|model| &model.seen).collect();
        models.sort_by(|one, other| one.stored.id.cmp(&other.stored.id));
        models
    }

    /// All devices.
    pub(super) fn ids(&self) -> impl Iterator<Item = &DeviceId> {
        self.devices.keys()
    }

    /// Number of devices.
    pub(super) fn n_devices(&self) -> usize {
        self.devices.len()
    }

    fn come(&mut self, id: DeviceId, device: Device, effects: &mut Vec<Effect>) {
        self.link_model(&id, device.model.as_ref());
        let node = device.node.clone();
        let reference = device.seen.reference();
        self.devices.insert(id.clone(), device);
        if let Some(node) = node {
            self.nodes.entry(node.clone()).or_default().insert(id.clone());
            effects.push(Effect::Came(node.clone(), reference));
            self.put(&node, &id, Change::Inserted, effects);
        }
    }

    /// Model, then device.
    fn put(&self, node: &NodeName, id: &DeviceId, change: Change, effects: &mut Vec<Effect>) {
        let Some(device) = self.devices.get(id) else { return };
        if let Some(model) = device.model.as_ref().and_then(|model| self.models.get(model)) {
            effects.push(Effect::Put(node.clone(), model.seen.stored.desired(Kind::DeviceModel, change)));
        }
        effects.push(Effect::Put(node.clone(), device.seen.stored.desired(Kind::Device, change)));
    }

    /// Device, then model.
    fn leave(&mut self, id: &DeviceId, effects: &mut Vec<Effect>) {
        let Some(device) = self.devices.remove(id) else { return };
        self.unlink_model(id, device.model.as_ref());
        let Some(node) = &device.node else {
            self.forget_ghost(device.model.as_ref());
            return;
        };
        if let Some(devices) = self.nodes.get_mut(node) {
            devices.remove(id);
            if devices.is_empty() {
                self.nodes.remove(node);
            }
        }
        effects.push(Effect::Left(node.clone(), device.seen.reference()));
        effects.push(Effect::Delete(node.clone(), device.seen.stored.gone(Kind::Device)));
        self.drop_model(node, device.model.as_ref(), effects);
    }

    fn device_gone(&mut self, id: &DeviceId, effects: &mut Vec<Effect>) {
        if self.devices.contains_key(id) {
            self.leave(id, effects);
            effects.push(Effect::Ended(id.clone()));
        }
    }

    fn model_gone(&mut self, id: &DeviceId, effects: &mut Vec<Effect>) {
        if self.unreadable.remove(id).is_some() {
            self.judge_users(id, effects);
        }
        let Some(model) = self.models.get_mut(id) else { return };
        if self.users.contains_key(id) {
            model.is_ghost = true;
            self.judge_users(id, effects);
        } else {
            self.models.remove(id);
        }
    }

    /// The node needs the model no longer, if no device there uses it.
    fn drop_model(&mut self, node: &NodeName, model: Option<&DeviceId>, effects: &mut Vec<Effect>) {
        let Some(id) = model else { return };
        let is_used = self.users.get(id).into_iter().flatten().any(|device| self.is_on(device, node));
        if let (false, Some(model)) = (is_used, self.models.get(id)) {
            effects.push(Effect::Delete(node.clone(), model.seen.stored.gone(Kind::DeviceModel)));
        }
        self.forget_ghost(model);
    }

    fn forget_ghost(&mut self, model: Option<&DeviceId>) {
        let Some(id) = model else { return };
        if !self.users.contains_key(id) && self.models.get(id).is_some_and(|model| model.is_ghost) {
            self.models.remove(id);
        }
    }

    fn link_model(&mut self, id: &DeviceId, model: Option<&DeviceId>) {
        if let Some(model) = model {
            self.users.entry(model.clone()).or_default().insert(id.clone());
        }
    }

    fn unlink_model(&mut self, id: &DeviceId, model: Option<&DeviceId>) {
        let Some(model) = model else { return };
        if let Some(users) = self.users.get_mut(model) {
            users.remove(id);
            if users.is_empty() {
                self.users.remove(model);
            }
        }
    }

    fn users_by_node(&self, model: &DeviceId) -> BTreeMap<NodeName, Vec<DeviceId>> {
        let mut nodes = BTreeMap::<NodeName, Vec<DeviceId>>::new();
        for id in self.users.get(model).into_iter().flatten() {
            if let Some(node) = self.node_of(id) {
                nodes.entry(node.clone()).or_default().push(id.clone());
            }
        }
        nodes
    }

    fn judge_users(&self, model: &DeviceId, effects: &mut Vec<Effect>) {
        effects.extend(self.users.get(model).into_iter().flatten().cloned().map(Effect::Judge));
    }
}

#[cfg(test)]
mod tests;
