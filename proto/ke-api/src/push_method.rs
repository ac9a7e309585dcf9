//! Where a mapper sends a property's value besides the cloud: part of a Device.
//!
//! Only shapes; the mapper SDK does the sending. The capitals of the keys are KubeEdge's.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::free_object::{FreeObject, is_default, null_is_default};

/// Every member is optional and they may stand together.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PushMethod {
    /// To an HTTP server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpPush>,
    /// To an MQTT broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttPush>,
    /// To an OpenTelemetry collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otel: Option<OtelPush>,
    /// Into a database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_method: Option<DbMethod>,
    /// Settings of a program that looks for odd values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anomaly_detection: Option<FreeObject>,
}

/// Push to an HTTP server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpPush {
    /// Host, with or without scheme.
    #[serde(skip_serializing_if = "is_default")]
    pub host_name: String,
    /// Port.
    #[serde(skip_serializing_if = "is_default")]
    pub port: i64,
    /// Path of the request.
    #[serde(skip_serializing_if = "is_default")]
    pub request_path: String,
    /// Seconds.
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: i64,
}

/// Push to an MQTT broker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MqttPush {
    /// Broker, for example `tcp://127.0.0.1:1883`.
    #[serde(skip_serializing_if = "is_default")]
    pub address: String,
    /// Topic.
    #[serde(skip_serializing_if = "is_default")]
    pub topic: String,
    /// 0, 1 or 2.
    #[serde(rename = "qos", skip_serializing_if = "is_default")]
    pub qos: i32,
    /// Whether the broker keeps the newest value.
    #[serde(skip_serializing_if = "is_default")]
    pub retained: bool,
}

/// Push to an OpenTelemetry collector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OtelPush {
    /// The collector's URL.
    #[serde(rename = "endpointURL", skip_serializing_if = "is_default")]
    pub endpoint_url: String,
}

/// Which databases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DbMethod {
    /// InfluxDB 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub influxdb2: Option<Influxdb2>,
    /// Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<Redis>,
    /// TDengine.
    #[serde(rename = "TDEngine", skip_serializing_if = "Option::is_none")]
    pub tdengine: Option<TdEngine>,
    /// MySQL or MariaDB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mysql: Option<Mysql>,
}

/// InfluxDB 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Influxdb2 {
    /// Which server.
    #[serde(rename = "influxdb2ClientConfig", skip_serializing_if = "Option::is_none")]
    pub client: Option<Influxdb2Client>,
    /// As what.
    #[serde(rename = "influxdb2DataConfig", skip_serializing_if = "Option::is_none")]
    pub data: Option<Influxdb2Data>,
}

/// An InfluxDB 2 server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Influxdb2Client {
    /// URL of the server.
    #[serde(skip_serializing_if = "is_default")]
    pub url: String,
    /// Organisation.
    #[serde(skip_serializing_if = "is_default")]
    pub org: String,
    /// Bucket.
    #[serde(skip_serializing_if = "is_default")]
    pub bucket: String,
}

/// How a value is stored in InfluxDB 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Influxdb2Data {
    /// Measurement.
    #[serde(skip_serializing_if = "is_default")]
    pub measurement: String,
    /// Tags.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub tag: BTreeMap<String, String>,
    /// Key of the field that holds the value.
    #[serde(skip_serializing_if = "is_default")]
    pub field_key: String,
}

/// Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Redis {
    /// Which server.
    #[serde(rename = "redisClientConfig", skip_serializing_if = "Option::is_none")]
    pub client: Option<RedisClient>,
}

/// A Redis server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RedisClient {
    /// Host and port.
    #[serde(skip_serializing_if = "is_default")]
    pub addr: String,
    /// Number of the database.
    #[serde(skip_serializing_if = "is_default")]
    pub db: i64,
    /// Connections at most.
    #[serde(rename = "poolsize", skip_serializing_if = "is_default")]
    pub pool_size: i64,
    /// Connections kept open.
    #[serde(skip_serializing_if = "is_default")]
    pub min_idle_conns: i64,
}

/// TDengine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct TdEngine {
    /// Which server.
    #[serde(rename = "TDEngineClientConfig", skip_serializing_if = "Option::is_none")]
    pub client: Option<TdEngineClient>,
}

/// A TDengine server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TdEngineClient {
    /// Host and port.
    #[serde(skip_serializing_if = "is_default")]
    pub addr: String,
    /// Name of the database.
    #[serde(skip_serializing_if = "is_default")]
    pub db_name: String,
}

/// MySQL or MariaDB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(default)]
pub struct Mysql {
    /// Which server.
    #[serde(rename = "mysqlClientConfig", skip_serializing_if = "Option::is_none")]
    pub client: Option<MysqlClient>,
}

/// A MySQL server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MysqlClient {
    /// Host and port.
    #[serde(skip_serializing_if = "is_default")]
    pub addr: String,
    /// Name of the database.
    #[serde(skip_serializing_if = "is_default")]
    pub database: String,
    /// User; the password is the mapper's.
    #[serde(skip_serializing_if = "is_default")]
    pub user_name: String,
}
