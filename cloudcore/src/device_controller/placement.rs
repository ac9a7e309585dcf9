//! Pure: which node has which devices and models, and what it must be told when that changes.
//!
//! A device goes before its model when both leave a node and after it when both come. A model that is deleted while
//! devices use it stays on their nodes until the last of them is gone. It never asks and never waits. Called by `mod.rs`.

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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn object(name: &str, uid: &str, version: u64, spec: &Value, status: Value) -> Value {
        json!({"metadata": {"name": name, "namespace": "plant", "uid": uid, "resourceVersion": version.to_string()},
            "spec": spec, "status": status})
    }

    fn device(name: &str, version: u64, node: &str, model: &str) -> SeenDevice {
        let spec = json!({"nodeName": node, "deviceModelRef": {"name": model}});
        SeenDevice::new(object(name, name, version, &spec, json!({}))).unwrap()
    }

    fn model(name: &str, version: u64, protocol: &str) -> SeenModel {
        SeenModel::new(object(name, name, version, &json!({"protocol": protocol}), json!({}))).unwrap()
    }

    fn id(name: &str) -> DeviceId {
        DeviceId { namespace: "plant".parse().unwrap(), name: name.parse().unwrap() }
    }

    /// Without the judging, which almost everything brings.
    fn told(effects: Vec<Effect>) -> String {
        let name = |key: &ke_wire::ObjectKey| format!("{}/{}", key.kind.as_str(), key.name);
        let told = effects.into_iter().filter_map(|effect| match effect {
            Effect::Came(node, device) => Some(format!("{node} came {}", device.id)),
            Effect::Left(node, device) => Some(format!("{node} left {}", device.id)),
            Effect::Put(node, put) => Some(format!("{node} +{}", name(&put.key))),
            Effect::Again(node, put) => Some(format!("{node} ++{}", name(&put.key))),
            Effect::Delete(node, gone) => Some(format!("{node} -{}", name(&gone.key))),
            Effect::Judge(_) => None,
            Effect::Ended(id) => Some(format!("ended {id}")),
        });
        told.collect::<Vec<_>>().join(", ")
    }

    fn with_model() -> Placement {
        let mut placement = Placement::default();
        assert_eq!(told(placement.model(model("oven", 1, "modbus"))), "");
        placement
    }

    #[test]
    fn a_device_comes_after_its_model_and_leaves_before_it() {
        let mut placement = with_model();
        let came = "e1 came plant/a, e1 +devicemodel/oven, e1 +device/a";
        assert_eq!(told(placement.device(device("a", 2, "e1", "oven"))), came);
        assert_eq!(
            told(placement.device(device("b", 3, "e1", "oven"))),
            "e1 came plant/b, e1 +devicemodel/oven, e1 +device/b"
        );
        assert_eq!(told(placement.device_removed(&id("a"))), "e1 left plant/a, e1 -device/a, ended plant/a");
        assert_eq!(
            told(placement.device_removed(&id("b"))),
            "e1 left plant/b, e1 -device/b, e1 -devicemodel/oven, ended plant/b"
        );
        assert_eq!(told(placement.device_removed(&id("b"))), "");
        assert_eq!(placement.n_devices(), 0);
    }

    #[test]
    fn our_own_status_writes_are_not_sent() {
        let mut placement = with_model();
        placement.device(device("a", 2, "e1", "oven"));
        let mut echo = device("a", 9, "e1", "oven");
        echo.shown =
            SeenDevice::new(object("a", "a", 9, &json!({}), json!({"state": "online"}))).unwrap().shown;
        assert_eq!(told(placement.device(echo)), "");
        assert_eq!(
            placement.whole(&"e1".parse().unwrap()).devices[0].version.number(),
            2,
            "the one that was sent"
        );
    }

    #[test]
    fn a_device_moves() {
        let mut placement = with_model();
        placement.device(device("a", 2, "e1", "oven"));
        assert_eq!(
            told(placement.device(device("a", 3, "e2", "oven"))),
            "e1 left plant/a, e1 -device/a, e1 -devicemodel/oven, e2 came plant/a, e2 +devicemodel/oven, e2 +device/a"
        );
        assert!(
            placement.is_on(&id("a"), &"e2".parse().unwrap())
                && !placement.is_on(&id("a"), &"e1".parse().unwrap())
        );
        assert_eq!(
            told(placement.device(device("a", 4, "No Node", "oven"))),
            "e2 left plant/a, e2 -device/a, e2 -devicemodel/oven"
        );
        assert_eq!(told(placement.device(device("a", 5, "", "oven"))), "");
    }

    #[test]
    fn a_device_changes_its_model() {
        let mut placement = with_model();
        placement.model(model("grill", 2, "modbus"));
        placement.device(device("a", 3, "e1", "oven"));
        assert_eq!(
            told(placement.device(device("a", 4, "e1", "grill"))),
            "e1 +devicemodel/grill, e1 +device/a, e1 -devicemodel/oven"
        );
    }

    #[test]
    fn a_changed_model_goes_with_every_device_that_uses_it() {
        let mut placement = with_model();
        for (name, node) in [("a", "e1"), ("b", "e1"), ("c", "e2"), ("d", "")] {
            placement.device(device(name, 2, node, "oven"));
        }
        assert_eq!(told(placement.model(model("oven", 5, "modbus"))), "", "only its version");
        let effects = placement.model(model("oven", 6, "opcua"));
        assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Judge(_))).count(), 4);
        assert_eq!(
            told(effects),
            "e1 +devicemodel/oven, e1 ++device/a, e1 ++device/b, e2 +devicemodel/oven, e2 ++device/c"
        );
    }

    #[test]
    fn a_missing_model_stops_nobody_and_goes_when_it_appears() {
        let mut placement = Placement::default();
        assert_eq!(told(placement.device(device("a", 2, "e1", "oven"))), "e1 came plant/a, e1 +device/a");
        assert_eq!(
            told(placement.device(device("none", 2, "e1", ""))),
            "e1 came plant/none, e1 +device/none"
        );
        assert!(matches!(placement.model_of(&id("a")), ModelIs::NotTold));
        placement.list_done(&Kind::DeviceModel);
        assert!(matches!(placement.model_of(&id("a")), ModelIs::Missing));
        assert!(placement.whole(&"e1".parse().unwrap()).lacks_model);
        assert_eq!(told(placement.model(model("oven", 3, "modbus"))), "e1 +devicemodel/oven, e1 ++device/a");
        assert!(!placement.whole(&"e1".parse().unwrap()).lacks_model);
    }

    #[test]
    fn a_deleted_model_stays_until_its_last_device_is_gone() {
        let mut placement = with_model();
        placement.device(device("a", 2, "e1", "oven"));
        assert_eq!(placement.model_removed(&id("oven")), [Effect::Judge(id("a"))]);
        assert!(matches!(placement.model_of(&id("a")), ModelIs::Deleted));
        assert_eq!(placement.whole(&"e1".parse().unwrap()).models.len(), 1);
        assert_eq!(
            told(placement.device_removed(&id("a"))),
            "e1 left plant/a, e1 -device/a, e1 -devicemodel/oven, ended plant/a"
        );
        assert!(placement.models.is_empty());
    }

    #[test]
    fn what_a_list_does_not_show_is_gone() {
        let mut placement = with_model();
        placement.device(device("a", 2, "e1", "oven"));
        placement.device(device("b", 2, "e1", "oven"));
        placement.device(device("c", 2, "e1", "oven"));
        placement.list_started(Kind::Device);
        placement.device(device("a", 2, "e1", "oven"));
        assert_eq!(placement.unusable(&Kind::Device, id("c"), "x"), []);
        assert_eq!(told(placement.list_done(&Kind::Device)), "e1 left plant/b, e1 -device/b, ended plant/b");
        assert!(!placement.is_complete());
        placement.list_done(&Kind::DeviceModel);
        assert!(placement.is_complete());
    }

    #[test]
    fn a_device_made_anew_is_another_one() {
        let mut placement = with_model();
        placement.device(device("a", 2, "e1", "oven"));
        let mut anew = device("a", 9, "e1", "oven");
        anew.stored.uid = "another".parse().unwrap();
        assert_eq!(
            told(placement.device(anew)),
            "e1 left plant/a, e1 -device/a, e1 -devicemodel/oven, ended plant/a, e1 came plant/a, e1 +devicemodel/oven, \
             e1 +device/a"
        );
    }

    #[test]
    fn devices_of_one_name_in_two_namespaces_are_two() {
        let mut placement = Placement::default();
        placement.device(device("a", 2, "e1", ""));
        let mut other = object("a", "other", 3, &json!({"nodeName": "e1"}), json!({}));
        other["metadata"]["namespace"] = "device".into();
        assert_eq!(told(placement.device(SeenDevice::new(other).unwrap())), "e1 came device/a, e1 +device/a");
        assert_eq!(placement.whole(&"e1".parse().unwrap()).references.len(), 2);
    }
}
