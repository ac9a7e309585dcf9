//! What of Devices and DeviceModels is judged. Only data; `object.rs` reads it.

use ke_api::device::{DataType, TwinValue};

/// What of a Device is judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct DeviceSays {
    /// `spec.nodeName` as it stands; it may be no name of a node at all.
    pub(super) node: String,
    /// `spec.deviceModelRef.name`; empty: none.
    pub(super) model: String,
    pub(super) protocol: String,
    pub(super) properties: Vec<PropertySays>,
    /// From the label.
    pub(super) description: String,
    /// It was written as v1alpha2 once, by `kubectl apply`.
    pub(super) is_from_alpha: bool,
}

/// What of a Device's property is judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PropertySays {
    pub(super) name: String,
    pub(super) desired: Option<TwinValue>,
    pub(super) has_visitors: bool,
}

/// What of a DeviceModel is judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ModelSays {
    pub(super) protocol: String,
    pub(super) properties: Vec<ModelProperty>,
}

/// What of a model's property is judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ModelProperty {
    pub(super) name: String,
    pub(super) data_type: Option<DataType>,
    pub(super) is_read_only: bool,
    pub(super) minimum: String,
    pub(super) maximum: String,
    pub(super) has_visitors: bool,
}
