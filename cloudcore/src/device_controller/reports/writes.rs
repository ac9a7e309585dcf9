//! Pure: one device's write, what came of it, and what a DeviceStatus says that is there. `write.rs` carries it out.

use ke_api::device_status::DeviceStatusStatus;
use ke_wire::{Uid, Version};
use serde::Deserialize as _;
use serde_json::{Map, Value};

use super::super::conditions::Problem;
use super::super::translate::{Facts, digest};
use ke_wire::DeviceId;

/// What to do about the DeviceStatus.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::device_controller) enum StatusWrite {
    /// Make it, with this status.
    Create(Map<String, Value>),
    /// Merge this into its status.
    Patch(Map<String, Value>),
    /// It belongs to a Device of this name that is no more, or to none: make it this one's.
    TakeOver(Map<String, Value>),
}

/// One device's write.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::device_controller) struct Write {
    pub(in crate::device_controller) id: DeviceId,
    pub(in crate::device_controller) uid: Uid,
    pub(in crate::device_controller) status: Option<StatusWrite>,
    /// Merged into the status of the Device itself.
    pub(in crate::device_controller) device: Option<Map<String, Value>>,
    /// To be told as Kubernetes events once the Device says them.
    pub(in crate::device_controller) events: Vec<Problem>,
}

/// What came of one half of a write.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::device_controller) enum Wrote {
    /// There was nothing to do.
    Nothing,
    /// It is in the API server.
    Done(Version),
    /// The object is not there.
    Missing,
    /// It is there already, and says this.
    Exists(Box<Found>),
    /// Not now: the API server is away, or busy.
    Away,
    /// Not like this: trying again soon is in vain.
    Refused,
}

/// A DeviceStatus that is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::device_controller) struct Found {
    pub(in crate::device_controller) facts: Facts,
    pub(in crate::device_controller) said: Said,
    /// Uid of the Device that it belongs to; empty when it says none.
    pub(in crate::device_controller) owner: String,
}

impl Found {
    /// What a DeviceStatus says. One that says nonsense says nothing, and is written over.
    pub(in crate::device_controller) fn of(object: &Value) -> Self {
        let status = object.get("status").unwrap_or(&Value::Null);
        let facts = Option::<DeviceStatusStatus>::deserialize(status).ok().flatten().unwrap_or_default();
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let owner =
            owners.into_iter().flatten().find(|owner| owner.get("kind").is_some_and(|kind| kind == "Device"));
        let owner =
            owner.and_then(|owner| owner.get("uid")).and_then(Value::as_str).unwrap_or_default().to_owned();
        let said = Said::new(status.as_object().unwrap_or(&Map::new()));
        Self { facts: Facts::from_status(facts), said, owner }
    }
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::device_controller) struct Written {
    pub(in crate::device_controller) id: DeviceId,
    pub(in crate::device_controller) uid: Uid,
    pub(in crate::device_controller) status: Wrote,
    pub(in crate::device_controller) device: Wrote,
}

/// What is compared of a DeviceStatus.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in crate::device_controller) struct Said {
    twins: u64,
    state: Option<Value>,
    last_online: Option<Value>,
}

impl Said {
    pub(in crate::device_controller) fn new(status: &Map<String, Value>) -> Self {
        Self {
            twins: digest(status.get("twins")),
            state: status.get("state").cloned(),
            last_online: status.get("lastOnlineTime").cloned(),
        }
    }
}
