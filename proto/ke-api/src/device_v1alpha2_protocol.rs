//! Connections and visitors of `devices.kubeedge.io/v1alpha2`: every protocol has fields of its own there.
//!
//! Only shapes, for the schema of `device_v1alpha2`.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::free_object::{FreeObject, is_default, null_is_default};

/// How to connect: one protocol, and settings common to all.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProtocolConfig {
    /// OPC UA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opcua: Option<OpcuaProtocol>,
    /// Modbus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modbus: Option<ModbusProtocol>,
    /// Bluetooth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bluetooth: Option<BluetoothProtocol>,
    /// Settings common to all protocols.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub common: Option<CommonProtocol>,
    /// Any other protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customized_protocol: Option<CustomizedProtocol>,
}

/// OPC UA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // The names say it all.
pub struct OpcuaProtocol {
    #[serde(skip_serializing_if = "is_default")]
    pub url: String,
    #[serde(skip_serializing_if = "is_default")]
    pub user_name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub password: String,
    #[serde(skip_serializing_if = "is_default")]
    pub security_policy: String,
    #[serde(skip_serializing_if = "is_default")]
    pub security_mode: String,
    #[serde(skip_serializing_if = "is_default")]
    pub certificate: String,
    #[serde(skip_serializing_if = "is_default")]
    pub private_key: String,
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: i64,
}

/// Modbus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct ModbusProtocol {
    /// Number of the device on its line.
    #[serde(rename = "slaveID", skip_serializing_if = "Option::is_none")]
    pub slave_id: Option<i64>,
}

/// Bluetooth.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BluetoothProtocol {
    /// Address of the device.
    #[serde(skip_serializing_if = "is_default")]
    pub mac_address: String,
}

/// Any protocol without fields of its own.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CustomizedProtocol {
    /// Name of the protocol.
    #[serde(skip_serializing_if = "is_default")]
    pub protocol_name: String,
    /// Its settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_data: Option<FreeObject>,
}

/// Settings common to all protocols.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // The names say it all.
pub struct CommonProtocol {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub com: Option<Com>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    #[serde(skip_serializing_if = "is_default")]
    pub comm_type: String,
    #[serde(skip_serializing_if = "is_default")]
    pub reconn_timeout: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub reconn_retry_times: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub collect_timeout: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub collect_retry_times: i64,
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(schema_with = "collect_type")]
    pub collect_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customized_values: Option<FreeObject>,
}

/// A serial line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // The names say it all.
pub struct Com {
    #[serde(skip_serializing_if = "is_default")]
    pub serial_port: String,
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(schema_with = "baud_rate")]
    pub baud_rate: i64,
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(schema_with = "data_bits")]
    pub data_bits: i64,
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(schema_with = "parity")]
    pub parity: String,
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(schema_with = "stop_bits")]
    pub stop_bits: i64,
}

/// A TCP server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // The names say it all.
pub struct Tcp {
    #[serde(skip_serializing_if = "is_default")]
    pub ip: String,
    #[serde(skip_serializing_if = "is_default")]
    pub port: i64,
}

/// How to reach one property.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Visitor {
    /// Name of the property.
    #[serde(skip_serializing_if = "is_default")]
    pub property_name: String,
    /// How often the value is pushed: nanoseconds, or milliseconds when under 100,000,000.
    #[serde(skip_serializing_if = "is_default")]
    pub report_cycle: i64,
    /// How often the value is read: nanoseconds, or milliseconds when under 100,000,000.
    #[serde(skip_serializing_if = "is_default")]
    pub collect_cycle: i64,
    /// Settings without a field of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customized_values: Option<FreeObject>,
    /// OPC UA.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opcua: Option<OpcuaVisitor>,
    /// Modbus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modbus: Option<ModbusVisitor>,
    /// Bluetooth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bluetooth: Option<BluetoothVisitor>,
    /// Any other protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customized_protocol: Option<CustomizedProtocol>,
}

/// OPC UA.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OpcuaVisitor {
    /// Id of the node, for example `ns=2;i=2`.
    #[serde(rename = "nodeID", skip_serializing_if = "is_default")]
    pub node_id: String,
    /// Name of the node, for people.
    #[serde(skip_serializing_if = "is_default")]
    pub browse_name: String,
}

/// Modbus.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModbusVisitor {
    /// Kind of register.
    #[serde(skip_serializing_if = "is_default")]
    #[schemars(schema_with = "register")]
    pub register: String,
    /// Address of the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// How many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// The value is the raw one times this.
    #[serde(skip_serializing_if = "is_default")]
    pub scale: f64,
    /// Whether the two bytes of a register are swapped.
    #[serde(skip_serializing_if = "is_default")]
    pub is_swap: bool,
    /// Whether the registers are in reverse order.
    #[serde(skip_serializing_if = "is_default")]
    pub is_register_swap: bool,
}

/// Bluetooth.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct BluetoothVisitor {
    /// Which characteristic.
    #[serde(rename = "characteristicUUID", skip_serializing_if = "is_default")]
    pub characteristic_uuid: String,
    /// What to write for each value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub data_write: BTreeMap<String, Base64>,
    /// How read bytes become a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_converter: Option<DataConverter>,
}

/// How read bytes become a value.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs)] // The names say it all.
pub struct DataConverter {
    #[serde(skip_serializing_if = "is_default")]
    pub start_index: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub end_index: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub shift_left: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub shift_right: i64,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub order_of_operations: Vec<Operation>,
}

/// One step of arithmetic.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Operation {
    /// `Add`, `Subtract`, `Multiply` or `Divide`; not checked.
    #[serde(skip_serializing_if = "is_default")]
    pub operation_type: String,
    /// By how much.
    #[serde(skip_serializing_if = "is_default")]
    pub operation_value: f64,
}

/// Bytes as base64 text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Base64(pub String);

impl JsonSchema for Base64 {
    fn schema_name() -> Cow<'static, str> {
        "Base64".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "byte"})
    }
}

/// Speeds that the schema admits.
pub(crate) const BAUD_RATES: &[i64] =
    &[115_200, 57_600, 38_400, 19_200, 9600, 4800, 2400, 1800, 1200, 600, 300, 200, 150, 134, 110, 75, 50];
/// Sizes of a character that the schema admits.
pub(crate) const DATA_BITS: &[i64] = &[8, 7, 6, 5];
/// Ends of a character that the schema admits.
pub(crate) const STOP_BITS: &[i64] = &[1, 2];
/// Parities that the schema admits.
pub(crate) const PARITIES: &[&str] = &["none", "even", "odd"];
/// Ways of collecting that the schema admits.
pub(crate) const COLLECT_TYPES: &[&str] = &["sync", "async"];
/// Registers that the schema admits.
pub(crate) const REGISTERS: &[&str] =
    &["CoilRegister", "DiscreteInputRegister", "InputRegister", "HoldingRegister"];

fn numbers(admitted: &[i64]) -> Schema {
    json_schema!({"type": "integer", "format": "int64", "enum": admitted})
}

fn words(admitted: &[&str]) -> Schema {
    json_schema!({"type": "string", "enum": admitted})
}

fn baud_rate(_: &mut SchemaGenerator) -> Schema {
    numbers(BAUD_RATES)
}

fn data_bits(_: &mut SchemaGenerator) -> Schema {
    numbers(DATA_BITS)
}

fn stop_bits(_: &mut SchemaGenerator) -> Schema {
    numbers(STOP_BITS)
}

fn parity(_: &mut SchemaGenerator) -> Schema {
    words(PARITIES)
}

fn collect_type(_: &mut SchemaGenerator) -> Schema {
    words(COLLECT_TYPES)
}

fn register(_: &mut SchemaGenerator) -> Schema {
    words(REGISTERS)
}
