//! Devices and their models, `devices.kubeedge.io/v1beta1`: what a user writes. Names and schema are KubeEdge's, odd
//! capitals included, so that its manifests and its mappers' tools work unchanged.
//!
//! Reading is lenient: unknown fields are ignored and every field may be absent. A field of a wrong type is an error of
//! that one object, so whoever lists devices must decode them one by one.

use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::free_object::{FreeObject, is_default, null_is_default};
use crate::push_method::PushMethod;

/// What sort of device this is: its properties and how a mapper usually reaches them.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema, CustomResource)]
#[kube(
    group = "devices.kubeedge.io",
    version = "v1beta1",
    kind = "DeviceModel",
    plural = "devicemodels",
    singular = "devicemodel",
    namespaced,
    derive = "Default",
    derive = "PartialEq",
    // The derive refuses to be told this directly. An object without a spec is legal and must decode.
    attr = "cfg_attr(all(), serde(default))",
    printcolumn = r#"{"name":"PROTOCOL","type":"string","jsonPath":".spec.protocol"}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    doc = "Properties that devices of one sort have in common."
)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceModelSpec {
    /// Properties of such a device. Names are unique.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub properties: Vec<ModelProperty>,
    /// Protocol that such devices speak; equals the name under which the mapper registers.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol: String,
    /// Connection settings that a device has unless it says otherwise, key by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol_config_data: Option<FreeObject>,
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
    /// Type of its value.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub data_type: Option<DataType>,
    /// Whether a desired value may be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// Smallest value, a decimal number as text.
    #[serde(skip_serializing_if = "is_default")]
    pub minimum: String,
    /// Largest value, a decimal number as text.
    #[serde(skip_serializing_if = "is_default")]
    pub maximum: String,
    /// Unit of the value.
    #[serde(skip_serializing_if = "is_default")]
    pub unit: String,
    /// How a mapper reaches the property unless the device says otherwise, key by key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visitors: Option<Visitors>,
}

/// Type of a property's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs)] // Words on variants would split the schema's one list of values; the names say it all.
pub enum DataType {
    Int,
    Float,
    Double,
    String,
    Boolean,
    Bytes,
    Stream,
}

/// Whether a property can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[allow(missing_docs)] // As above.
pub enum AccessMode {
    ReadWrite,
    ReadOnly,
}

/// One device: its model, its node, how to reach it, and what is wanted of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema, CustomResource)]
#[kube(
    group = "devices.kubeedge.io",
    version = "v1beta1",
    kind = "Device",
    plural = "devices",
    singular = "device",
    namespaced,
    status = "FreeObject",
    derive = "Default",
    derive = "PartialEq",
    attr = "cfg_attr(all(), serde(default))",
    printcolumn = r#"{"name":"NODE","type":"string","jsonPath":".spec.nodeName"}"#,
    printcolumn = r#"{"name":"PROTOCOL","type":"string","jsonPath":".spec.protocol.protocolName"}"#,
    printcolumn = r#"{"name":"STATE","type":"string","jsonPath":".status.state"}"#,
    printcolumn = r#"{"name":"LASTONLINE","type":"string","jsonPath":".status.lastOnlineTime"}"#,
    printcolumn = r#"{"name":"AGE","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    doc = "A field device behind an edge node. `live_status` reads what its status says."
)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceSpec {
    /// The device's model, in the same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_model_ref: Option<ModelRef>,
    /// Edge node that the device is attached to. Empty: nobody handles it.
    #[serde(skip_serializing_if = "is_default")]
    pub node_name: String,
    /// Which mapper handles the device, and how it connects.
    pub protocol: ProtocolConfig,
    /// Properties of this device.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub properties: Vec<DeviceProperty>,
    /// Calls that a mapper offers for the device.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub methods: Vec<DeviceMethod>,
    /// Whether and how often the device's state is reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_report: Option<StateReport>,
}

/// Reference to a model in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelRef {
    /// Name of the model.
    pub name: String,
}

/// Which protocol, and its connection settings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProtocolConfig {
    /// Name of the protocol: chooses the mapper.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol_name: String,
    /// Connection settings; every value a string, a number or a boolean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_data: Option<FreeObject>,
}

/// One property of a device.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceProperty {
    /// Name of the property, as in the model.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// The value that the device is to have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub desired: Option<TwinValue>,
    /// How a mapper reaches the property.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub visitors: Option<Visitors>,
    /// How often the value is pushed, milliseconds; 0: the mapper's default.
    #[serde(skip_serializing_if = "is_default")]
    pub report_cycle: i64,
    /// How often the value is read, milliseconds; 0: the mapper's default.
    #[serde(skip_serializing_if = "is_default")]
    pub collect_cycle: i64,
    /// Whether the value is reported to the cloud.
    #[serde(skip_serializing_if = "is_default")]
    pub report_to_cloud: bool,
    /// Where else the mapper sends the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub push_method: Option<PushMethod>,
}

/// How a mapper reaches a property.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Visitors {
    /// Name of the protocol.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol_name: String,
    /// Access settings; every value a string, a number or a boolean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_data: Option<FreeObject>,
}

/// A value of a twin: always text, whatever its type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TwinValue {
    /// The value. The schema asks for it; a missing one reads as empty, as Go has it.
    #[serde(deserialize_with = "null_is_default")]
    pub value: String,
    /// Words about the value; `type` and `timestamp` (milliseconds since 1970) have a meaning.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub metadata: BTreeMap<String, String>,
}

/// A call that a mapper offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DeviceMethod {
    /// Name of the call.
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// What it does, for people.
    #[serde(skip_serializing_if = "is_default")]
    pub description: String,
    /// Properties that it sets.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub property_names: Vec<String>,
}

/// Whether and how often a device's state is reported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StateReport {
    /// Whether the state goes to the cloud.
    #[serde(skip_serializing_if = "is_default")]
    pub report_to_cloud: bool,
    /// How often, milliseconds; 0: the mapper's default.
    #[serde(skip_serializing_if = "is_default")]
    pub report_cycle: i64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_device_with_most_fields_reads_and_writes_the_same() {
        let device = json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "metadata": {"name": "oven-1", "namespace": "plant"},
            "spec": {
                "deviceModelRef": {"name": "oven"},
                "nodeName": "edge-1",
                "protocol": {"protocolName": "modbus", "configData": {"ip": "10.0.0.5", "port": 502, "deep": {"x": [1]}}},
                "stateReport": {"reportToCloud": true, "reportCycle": 5000},
                "properties": [{
                    "name": "heat", "collectCycle": 1000, "reportCycle": 10000, "reportToCloud": true,
                    "desired": {"value": "180", "metadata": {"type": "int"}},
                    "visitors": {"protocolName": "modbus", "configData": {"offset": 7}},
                    "pushMethod": {
                        "http": {"hostName": "h", "port": 80, "requestPath": "/x", "timeout": 3},
                        "mqtt": {"address": "tcp://127.0.0.1:1883", "topic": "t", "qos": 1, "retained": true},
                        "otel": {"endpointURL": "http://o"},
                        "dbMethod": {
                            "influxdb2": {
                                "influxdb2ClientConfig": {"url": "u", "org": "o", "bucket": "b"},
                                "influxdb2DataConfig": {"measurement": "m", "tag": {"hall": "3"}, "fieldKey": "heat"},
                            },
                            "redis": {"redisClientConfig": {"addr": "a", "db": 1, "poolsize": 2, "minIdleConns": 3}},
                            "TDEngine": {"TDEngineClientConfig": {"addr": "a", "dbName": "d"}},
                            "mysql": {"mysqlClientConfig": {"addr": "a", "database": "d", "userName": "u"}},
                        },
                        "anomalyDetection": {"kind": "x"},
                    },
                }],
                "methods": [{"name": "set", "description": "d", "propertyNames": ["heat"]}],
            },
            "status": {"state": "online", "anything": [1]},
        });
        let read: Device = serde_json::from_value(device.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), device);
    }

    #[test]
    fn a_model_reads_and_writes_the_same() {
        let model = json!({
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel", "metadata": {"name": "oven"},
            "spec": {
                "protocol": "modbus",
                "protocolConfigData": {"timeout": 3},
                "properties": [{
                    "name": "heat", "description": "d", "type": "FLOAT", "accessMode": "ReadOnly",
                    "minimum": "-20", "maximum": "400", "unit": "Celsius",
                    "visitors": {"protocolName": "modbus", "configData": {"offset": 0}},
                }],
            },
        });
        let read: DeviceModel = serde_json::from_value(model.clone()).unwrap();
        assert_eq!(read.spec.properties[0].data_type, Some(DataType::Float));
        assert_eq!(serde_json::to_value(&read).unwrap(), model);
    }

    #[test]
    fn little_is_enough_and_a_wrong_type_is_an_error_of_one_object() {
        let check = |device: Value, readable: bool| {
            let read: Result<Device, _> = serde_json::from_value(device.clone());
            assert_eq!(read.is_ok(), readable, "{device}: {read:?}");
        };
        check(json!({"metadata": {"name": "d"}}), true);
        check(json!({"metadata": {"name": "d"}, "spec": {}}), true);
        check(json!({"metadata": {"name": "d"}, "spec": {"properties": null, "other": 1}, "more": 2}), true);
        check(json!({"metadata": {"name": "d"}, "spec": {"properties": [{"desired": {}}]}}), true);
        check(json!({"metadata": {"name": "d"}, "spec": {"properties": 5}}), false);
        check(json!({"metadata": {"name": "d"}, "spec": {"properties": [{"collectCycle": "1s"}]}}), false);
        check(json!({"metadata": {"name": "d"}, "status": "online"}), false);
        // What KubeEdge makes of a v1alpha2 model when nobody converts it.
        let emptied = json!({"metadata": {"name": "m"}, "spec": {"properties": [{"name": "t", "type": {}}]}});
        assert!(serde_json::from_value::<DeviceModel>(emptied).is_err());
    }
}
