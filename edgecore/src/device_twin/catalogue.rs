//! Pure: the Devices and models of this node, and which mapper must hold what of them.
//!
//! A mapper serves a protocol: it gets the devices that name it, each with its model, and the models that these use. A
//! device without a model in the store goes to nobody until the model comes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ke_api::device::{Device, DeviceModel};
use ke_dmi::v1beta1 as dmi;
use ke_wire::DeviceId;
use ring::digest::{SHA256, digest};
use serde::Serialize;

use super::mapping;

/// Something a mapper holds. Models sort before devices, as they must arrive before them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Model(DeviceId),
    Device(DeviceId),
}

/// What it holds of it. Equal digests: the mapper needs not be told.
pub(super) type Digest = [u8; 32];

/// What a mapper is to hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) digest: Digest,
    pub(super) message: Message,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    Model(dmi::DeviceModel),
    /// With the id of its model, which the mapper must have before.
    Device(Box<dmi::Device>, DeviceId),
}

/// One difference for the mapper of one protocol; `None`: it must hold this no longer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) protocol: String,
    pub(super) key: Key,
    pub(super) wanted: Option<Wanted>,
}

#[derive(Debug, Default)]
pub(super) struct Catalogue {
    devices: BTreeMap<DeviceId, Arc<Device>>,
    models: BTreeMap<DeviceId, Arc<DeviceModel>>,
    /// What each protocol was last said to want.
    told: BTreeMap<(String, Key), Digest>,
}

impl Catalogue {
    /// The Device as it is known.
    pub(super) fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.get(id).map(Arc::as_ref)
    }

    /// A Device came, changed or went.
    pub(super) fn set_device(&mut self, id: &DeviceId, device: Option<Arc<Device>>) -> Vec<Difference> {
        let before = match device {
            Some(device) => self.devices.insert(id.clone(), device),
            None => self.devices.remove(id),
        };
        let now = self.devices.get(id).cloned();
        let mut affected = BTreeSet::new();
        for device in [before, now].into_iter().flatten() {
            let protocol = device.spec.protocol.protocol_name.clone();
            if let Some(model) = model_of(id, &device) {
                affected.insert((protocol.clone(), Key::Model(model)));
            }
            affected.insert((protocol, Key::Device(id.clone())));
        }
        self.differences(affected)
    }

    /// A model came, changed or went. Devices that use it change with it.
    pub(super) fn set_model(&mut self, id: &DeviceId, model: Option<Arc<DeviceModel>>) -> Vec<Difference> {
        match model {
            Some(model) => drop(self.models.insert(id.clone(), model)),
            None => drop(self.models.remove(id)),
        }
        let mut affected = BTreeSet::new();
        for (device_id, device) in &self.devices {
            if model_of(device_id, device).as_ref() == Some(id) {
                let protocol = device.spec.protocol.protocol_name.clone();
                affected.insert((protocol.clone(), Key::Model(id.clone())));
                affected.insert((protocol, Key::Device(device_id.clone())));
            }
        }
        self.differences(affected)
    }

    /// Everything that the mapper of this protocol is to hold, models first.
    pub(super) fn wanted(&self, protocol: &str) -> BTreeMap<Key, Wanted> {
        let of_protocol =
            self.devices.iter().filter(|(_, device)| device.spec.protocol.protocol_name == protocol);
        let keys = of_protocol.flat_map(|(id, device)| {
            let model = model_of(id, device).map(Key::Model);
            model.into_iter().chain([Key::Device(id.clone())])
        });
        let keys: BTreeSet<Key> = keys.collect();
        keys.into_iter().filter_map(|key| Some((key.clone(), self.wanted_of(protocol, &key)?))).collect()
    }

    /// Each device and its protocol, where it names one.
    pub(super) fn protocols(&self) -> impl Iterator<Item = (&DeviceId, &str)> {
        let named = self.devices.iter().map(|(id, device)| (id, device.spec.protocol.protocol_name.as_str()));
        named.filter(|(_, protocol)| !protocol.is_empty())
    }

    fn differences(&mut self, affected: BTreeSet<(String, Key)>) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (protocol, key) in affected {
            let wanted = self.wanted_of(&protocol, &key);
            let place = (protocol.clone(), key.clone());
            let before = match &wanted {
                Some(wanted) => self.told.insert(place, wanted.digest),
                None => self.told.remove(&place),
            };
            if before != wanted.as_ref().map(|wanted| wanted.digest) {
                differences.push(Difference { protocol, key, wanted });
            }
        }
        // Two mappers must not drive one device.
        differences.sort_by_key(|difference| difference.wanted.is_some());
        differences
    }

    fn wanted_of(&self, protocol: &str, key: &Key) -> Option<Wanted> {
        match key {
            Key::Model(id) => {
                let is_used = self.devices.iter().any(|(device_id, device)| {
                    device.spec.protocol.protocol_name == protocol
                        && model_of(device_id, device).as_ref() == Some(id)
                });
                let model = self.models.get(id).filter(|_| is_used)?;
                let message = Message::Model(mapping::model(model));
                Some(Wanted { digest: digest_of(&("model", &model.spec)), message })
            }
            Key::Device(id) => {
                let device =
                    self.devices.get(id).filter(|device| device.spec.protocol.protocol_name == protocol)?;
                let model_id = model_of(id, device)?;
                let model = self.models.get(&model_id)?;
                let (message, left_out) = mapping::device(device, model);
                for reason in left_out {
                    tracing::warn!(device = %id, %reason, "a mapper does not get all of this device");
                }
                // The legacy place of the state report; the rest of the status is what we ourselves report.
                let status =
                    message.status.as_ref().map(|status| (status.report_to_cloud, status.report_cycle));
                // Another Device of the same name: its mapper tells everything anew.
                let uid = &device.metadata.uid;
                let digest = digest_of(&("device", uid, &device.spec, &model.spec, status));
                Some(Wanted { digest, message: Message::Device(Box::new(message), model_id) })
            }
        }
    }
}

fn model_of(id: &DeviceId, device: &Device) -> Option<DeviceId> {
    let name = device.spec.device_model_ref.as_ref()?.name.parse().ok()?;
    Some(DeviceId { namespace: id.namespace.clone(), name })
}

/// Of the JSON: its maps are sorted, those of the wire's messages are not.
fn digest_of(what: &impl Serialize) -> Digest {
    let json = serde_json::to_vec(what).unwrap_or_default();
    let mut held = [0; 32];
    held.copy_from_slice(digest(&SHA256, &json).as_ref());
    held
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn id(name: &str) -> DeviceId {
        DeviceId { namespace: "plant".parse().unwrap(), name: name.parse().unwrap() }
    }

    fn device(name: &str, protocol: &str, desired: &str) -> Option<Arc<Device>> {
        let json = json!({
            "metadata": {"name": name, "namespace": "plant"},
            "spec": {
                "deviceModelRef": {"name": "oven"}, "protocol": {"protocolName": protocol},
                "properties": [{"name": "limit", "desired": {"value": desired}}],
            },
        });
        Some(Arc::new(serde_json::from_value(json).unwrap()))
    }

    fn model(unit: &str) -> Option<Arc<DeviceModel>> {
        let json = json!({"metadata": {"name": "oven", "namespace": "plant"},
            "spec": {"properties": [{"name": "limit", "type": "INT", "unit": unit}]}});
        Some(Arc::new(serde_json::from_value(json).unwrap()))
    }

    fn told(differences: &[Difference]) -> Vec<String> {
        let one = |difference: &Difference| {
            let sign = if difference.wanted.is_some() { '+' } else { '-' };
            let what = match &difference.key {
                Key::Model(id) => format!("model {}", id.name),
                Key::Device(id) => format!("device {}", id.name),
            };
            format!("{}: {sign}{what}", difference.protocol)
        };
        differences.iter().map(one).collect()
    }

    #[test]
    fn a_device_waits_for_its_model_and_goes_with_it() {
        let mut catalogue = Catalogue::default();
        assert!(catalogue.set_device(&id("o1"), device("o1", "modbus", "1")).is_empty(), "no model yet");
        let came = catalogue.set_model(&id("oven"), model("C"));
        assert_eq!(told(&came), ["modbus: +model oven", "modbus: +device o1"]);
        assert!(catalogue.set_model(&id("oven"), model("C")).is_empty(), "nothing new");
        let changed = catalogue.set_model(&id("oven"), model("F"));
        assert_eq!(told(&changed), ["modbus: +model oven", "modbus: +device o1"]);
        let second = catalogue.set_device(&id("o2"), device("o2", "modbus", "1"));
        assert_eq!(told(&second), ["modbus: +device o2"]);
        let wanted = catalogue.set_device(&id("o2"), device("o2", "modbus", "2"));
        assert_eq!(told(&wanted), ["modbus: +device o2"]);
        let moved = catalogue.set_device(&id("o2"), device("o2", "opcua", "2"));
        assert_eq!(told(&moved), ["modbus: -device o2", "opcua: +model oven", "opcua: +device o2"]);
        let gone = catalogue.set_device(&id("o1"), None);
        assert_eq!(told(&gone), ["modbus: -model oven", "modbus: -device o1"]);
        assert_eq!(catalogue.wanted("opcua").len(), 2);
        let lost = catalogue.set_model(&id("oven"), None);
        assert_eq!(told(&lost), ["opcua: -model oven", "opcua: -device o2"]);
        assert!(catalogue.wanted("opcua").is_empty());
    }

    #[test]
    fn a_device_made_anew_is_told_anew() {
        let mut catalogue = Catalogue::default();
        catalogue.set_model(&id("oven"), model("C"));
        let with_uid = |uid: &str| {
            let mut one = Arc::unwrap_or_clone(device("o1", "modbus", "20").unwrap());
            one.metadata.uid = Some(uid.to_owned());
            Some(Arc::new(one))
        };
        assert_eq!(told(&catalogue.set_device(&id("o1"), with_uid("a"))).len(), 2);
        assert!(catalogue.set_device(&id("o1"), with_uid("a")).is_empty());
        assert_eq!(told(&catalogue.set_device(&id("o1"), with_uid("b"))), ["modbus: +device o1"]);
    }

    #[test]
    fn a_device_leaves_one_mapper_before_it_comes_to_another() {
        let mut catalogue = Catalogue::default();
        catalogue.set_model(&id("oven"), model("C"));
        catalogue.set_device(&id("o1"), device("o1", "opcua", "20"));
        let moved = catalogue.set_device(&id("o1"), device("o1", "modbus", "20"));
        let wanted: Vec<bool> = moved.iter().map(|difference| difference.wanted.is_some()).collect();
        assert_eq!(wanted, [false, false, true, true]);
    }
}
