//! What is on disk of devices and mappers, and the changes to it. Only data; `store.rs` writes it.

use std::path::PathBuf;

use ke_wire::DeviceId;

use super::merge::Twin;

/// What is known of a device beside its twin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The label `description` of its Device.
    pub(super) description: String,
    /// As its mapper said last; empty before that.
    pub(super) state: String,
    /// RFC 3339; kept when it goes offline.
    pub(super) last_online: String,
    /// Not empty: what `state` was before nobody could say how the device is.
    pub(super) before: String,
}

/// A row that must be on disk before anybody is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Add(DeviceId, String),
    Remove(DeviceId),
    State(DeviceId, Known),
    Twin(DeviceId, Twin),
    /// Properties of the device that are no more.
    Forget(DeviceId, Vec<String>),
}

/// A mapper as it registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) protocol: String,
    pub(super) name: String,
    pub(super) version: String,
    pub(super) api_version: String,
    pub(super) address: PathBuf,
}
