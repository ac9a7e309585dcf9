//! What comes to the fleet and its devices: from the edge node, and from people at the REST API. Only data.

use std::sync::Arc;

use ke_dmi::v1beta1 as dmi;
use tokio::sync::{mpsc, oneshot};

use crate::driver::{Device, DeviceName};
use crate::value::Value;

/// What comes to the fleet.
pub(crate) enum News {
    /// A device is new or changed.
    Device(Box<dmi::Device>),
    /// A device is no longer this mapper's.
    DeviceGone(DeviceName),
    /// A model is new or changed.
    Model(dmi::DeviceModel),
    /// A model is no longer there.
    ModelGone(DeviceName),
    /// A registration is under way: what changes from now on is newer than its answer.
    Registering,
    /// Everything there is, apart from what changed since.
    Registered(dmi::MapperRegisterResponse),
    /// Somebody asks for a device.
    Find(DeviceName, oneshot::Sender<Option<Found>>),
}

/// A device as those who ask see it.
#[derive(Clone)]
pub(crate) struct Found {
    /// As drivers get it.
    pub(crate) device: Arc<Device>,
    /// Its model.
    pub(crate) model: Arc<dmi::DeviceModel>,
    /// Wishes go to its task here.
    pub(crate) wishes: mpsc::Sender<Wish>,
}

/// What somebody at the REST API wants of a device. The answer is for people.
pub(crate) enum Wish {
    /// What a property is now; the device is asked.
    Read(String, oneshot::Sender<Result<Value, String>>),
    /// Writes once; it does not become the desired value.
    Write(String, String, oneshot::Sender<Result<(), String>>),
}
