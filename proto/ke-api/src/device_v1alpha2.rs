//! Devices and models as KubeEdge had them before, `devices.kubeedge.io/v1alpha2`: the version of most tutorials.
//!
//! Only here so that the API server serves it and checks what users write; `device_conversion` turns it into v1beta1,
//! and nothing else of ours works with these types.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::device::{AccessMode, ModelRef, TwinValue};
use crate::device_v1alpha2_protocol::{ProtocolConfig, Visitor};
use crate::free_object::{is_default, null_is_default};

/// What sort of device this is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema, CustomResource)]
#[kube(
    group = "devices.kubeedge.io",
    version = "v1alpha2",
    kind = "DeviceModel",
    plural = "devicemodels",
    singular = "devicemodel",
    namespaced,
    derive = "Default",
    derive = "PartialEq",
    // The derive refuses to be told this directly. An object without a spec is legal and must decode.
    attr = "cfg_attr(all(), serde(default))",
    doc = "Properties that devices of one sort have in common, as before v1beta1."
)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceModelSpec {
    /// Properties of such a device.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub properties: Vec<ModelProperty>,
    /// Protocol that such devices speak.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
}

/// One property of a model.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelProperty {
    /// Name of the property.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// What it is, for people.
    #[serde(skip_serializing_if = "is_default")]
    pub description: String,
    /// Type of its value: one member.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub data_type: Option<PropertyType>,
}

/// The one member says the type.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PropertyType {
    /// An integer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int: Option<IntType>,
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub string: Option<StringType>,
    /// A number of 64 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub double: Option<NumberType>,
    /// A number of 32 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub float: Option<NumberType>,
    /// True or false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boolean: Option<BooleanType>,
    /// Bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<BytesType>,
}

/// Of an integer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct IntType {
    /// Whether a desired value may be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// Never had an effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_value: Option<i64>,
    /// Smallest value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
    /// Largest value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum: Option<i64>,
    /// Unit of the value.
    #[serde(skip_serializing_if = "is_default")]
    pub unit: String,
}

/// Of a number.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NumberType {
    /// Whether a desired value may be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// Never had an effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_value: Option<f64>,
    /// Smallest value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<f64>,
    /// Largest value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum: Option<f64>,
    /// Unit of the value.
    #[serde(skip_serializing_if = "is_default")]
    pub unit: String,
}

/// Of text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StringType {
    /// Whether a desired value may be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// Never had an effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_value: Option<String>,
}

/// Of true and false.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BooleanType {
    /// Whether a desired value may be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// Never had an effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_value: Option<bool>,
}

/// Of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BytesType {
    /// Whether a desired value may be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema, CustomResource)]
#[kube(
    group = "devices.kubeedge.io",
    version = "v1alpha2",
    kind = "Device",
    plural = "devices",
    singular = "device",
    namespaced,
    status = "DeviceStatus",
    derive = "Default",
    derive = "PartialEq",
    attr = "cfg_attr(all(), serde(default))",
    printcolumn = r#"{"name":"NODE","type":"string","jsonPath":".spec.nodeSelector.nodeSelectorTerms[0].matchExpressions[0].values[0]"}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    doc = "A field device behind an edge node, as before v1beta1."
)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceSpec {
    /// The device's model, in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_model_ref: Option<ModelRef>,
    /// How to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<ProtocolConfig>,
    /// How to reach each property.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub property_visitors: Vec<Visitor>,
    /// Values that go to a topic on the node only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DeviceData>,
    /// The edge node: the first value of the first expression of the first term. Keys and operators have no effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<NodeSelector>,
}

/// Which node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// The first counts.
    #[serde(deserialize_with = "null_is_default")]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// Part of a selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorTerm {
    /// The first counts.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub match_expressions: Vec<NodeSelectorRequirement>,
    /// Without effect.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub match_fields: Vec<NodeSelectorRequirement>,
}

/// Part of a term.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelectorRequirement {
    /// Without effect.
    pub key: String,
    /// Without effect.
    pub operator: String,
    /// The first is the node's name.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub values: Vec<String>,
}

/// Values that go to a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceData {
    /// Which properties.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub data_properties: Vec<DataProperty>,
    /// Topic; `$ke/events/device/+/data/update` when absent.
    #[serde(skip_serializing_if = "is_default")]
    pub data_topic: String,
}

/// One property that goes to the topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DataProperty {
    /// Name of the property.
    #[serde(skip_serializing_if = "is_default")]
    pub property_name: String,
    /// Words about its value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub metadata: BTreeMap<String, String>,
}

/// What is wanted and what was reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceStatus {
    /// One entry per property.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub twins: Vec<Twin>,
}

/// What is wanted and what was reported of one property.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Twin {
    /// Name of the property.
    #[serde(skip_serializing_if = "is_default")]
    pub property_name: String,
    /// The value that the device is to have; users write it here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<TwinValue>,
    /// The value that it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reported: Option<TwinValue>,
}
