//! Pure: what a manifest's `pushMethod` says, as typed [`Push`]es.
//!
//! KubeEdge's order: the first of `http`, `mqtt`, `otel`, and beside it the first database of `influxdb2`, `redis`,
//! `TDEngine`, `mysql`. What is wrong or incomplete is a [`PushError`] that names the key and what to write; the other push of
//! the property goes on. Users and passwords never stand in manifests but in the mapper's environment, see `secrets.rs`.
//! Called by `manifest.rs`.

use std::time::Duration;

use ke_dmi::v1beta1 as dmi;

use crate::push::address::{AddressError, Place, Url, escaped, is_unreserved};
use crate::push::format::{self, Point};
use crate::value::Kind;

/// MySQL's and MariaDB's limit for the name of a table, in characters.
const LONGEST_TABLE: usize = 64;

/// One property that goes to one place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Push {
    /// The property.
    pub(crate) property: String,
    /// Its type.
    pub(crate) kind: Kind,
    /// How often.
    pub(crate) cycle: Duration,
    /// Where to.
    pub(crate) to: To,
}

/// A place, and what of it this property is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum To {
    /// A form, posted.
    Http(Form),
    /// A message on a topic.
    Mqtt(Broker, Topic),
    /// A gauge for OpenTelemetry.
    Otlp(Collector),
    /// A point in a bucket.
    Influx(Bucket, Point),
    /// A member of a sorted set.
    Redis(Redis),
    /// A row of a super table.
    TdEngine(TdEngine),
    /// A row of a table of its own.
    MySql(MySql),
}

/// Where forms are posted. Paths do not share a line: one of them may fail alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Form(pub(crate) Url);

/// An MQTT broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Broker(pub(crate) Place);

/// How a message is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    /// No wildcards.
    pub(crate) name: String,
    /// 0, 1 or 2.
    pub(crate) qos: u8,
    /// Whether the broker keeps it.
    pub(crate) is_retained: bool,
}

/// An OTLP/HTTP receiver of metrics.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Collector(pub(crate) Url);

/// A bucket of an InfluxDB 2.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bucket(pub(crate) Url);

/// A database of a Redis server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Redis {
    /// Where.
    pub(crate) place: Place,
    /// Its number.
    pub(crate) database: u32,
}

/// A database of TDengine's REST interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TdEngine(pub(crate) Url);

/// A database of MySQL or MariaDB, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MySql {
    /// Where.
    pub(crate) place: Place,
    /// Its name.
    pub(crate) database: String,
    /// As whom.
    pub(crate) user: String,
}

/// Why a push is left out. The value is not told: it may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PushError {
    /// Nothing there.
    #[error("{key} is missing; set it to {expected}")]
    Missing {
        /// Below `pushMethod`.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// Something else there.
    #[error("{key} must be {expected}")]
    Wrong {
        /// Below `pushMethod`.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// An address that leads nowhere.
    #[error("{key} {why}; write {expected}")]
    Address {
        /// Below `pushMethod`.
        key: &'static str,
        /// Why.
        why: AddressError,
        /// An example.
        expected: &'static str,
    },
    /// OTLP knows numbers only.
    #[error("otel takes numbers and {0} is none; use http or mqtt, or a type that is one")]
    NoNumber(Kind),
    /// Drivers of KubeEdge's mappers may do something with it; ours do not.
    #[error("anomalyDetection is not served by this mapper; let a detector subscribe to a push by mqtt")]
    Anomaly,
    /// Left out of this binary.
    #[error("this mapper was built without {0}; build it with mapper-sdk's feature {1}")]
    NotBuilt(&'static str, &'static str),
}

/// Whose property it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner<'a> {
    /// The device's namespace.
    pub(crate) namespace: &'a str,
    /// The device's name.
    pub(crate) device: &'a str,
    /// The property's name.
    pub(crate) property: &'a str,
    /// Its type.
    pub(crate) kind: Kind,
}

/// The pushes of one property, and what is wrong with the others.
pub(crate) fn of(method: &dmi::PushMethod, owner: Owner<'_>) -> (Vec<To>, Vec<PushError>) {
    let mut pushes = Vec::new();
    let mut errors = Vec::new();
    let mut add = |push: Result<To, PushError>| match push {
        Ok(push) => pushes.push(push),
        Err(error) => errors.push(error),
    };
    match method {
        dmi::PushMethod { http: Some(http), .. } => add(form(http)),
        dmi::PushMethod { mqtt: Some(mqtt), .. } => add(message(mqtt)),
        dmi::PushMethod { otel: Some(otel), .. } => add(gauge(otel, owner.kind)),
        dmi::PushMethod { anomaly_detection: Some(_), .. } => add(Err(PushError::Anomaly)),
        _ => {}
    }
    match method.db_method.as_ref() {
        Some(dmi::DbMethod { influxdb2: Some(influx), .. }) => add(point(influx)),
        Some(dmi::DbMethod { redis: Some(redis), .. }) => add(member(redis)),
        Some(dmi::DbMethod { tdengine: Some(tdengine), .. }) => add(super_table(tdengine)),
        Some(dmi::DbMethod { mysql: Some(mysql), .. }) => add(row(mysql, owner)),
        _ => {}
    }
    (pushes, errors)
}

fn form(http: &dmi::PushMethodHttp) -> Result<To, PushError> {
    let (key, expected) = ("http.hostName", "http://HOST, and the port in http.port");
    let host = http.hostname.trim().trim_end_matches('/');
    let path = http.requestpath.trim();
    let slash = if path.is_empty() || path.starts_with('/') { "" } else { "/" };
    let text = match http.port {
        // The host has one, or it is HTTP's own.
        0 => format!("{host}{slash}{path}"),
        port @ 1..=65535 => format!("{host}:{port}{slash}{path}"),
        _ => return Err(PushError::Wrong { key: "http.port", expected: "a port from 1 to 65535" }),
    };
    let why = if host.is_empty() { Err(AddressError::Missing) } else { Url::parse(&text, 80) };
    why.map(|url| To::Http(Form(url))).map_err(|why| PushError::Address { key, why, expected })
}

fn message(mqtt: &dmi::PushMethodMqtt) -> Result<To, PushError> {
    let (key, expected) = ("mqtt.address", "tcp://HOST:PORT");
    let place = Place::parse(&mqtt.address, &["tcp", "mqtt"], 1883).map_err(|why| PushError::Address {
        key,
        why,
        expected,
    })?;
    let name = mqtt.topic.clone();
    let expected = "a topic without wildcards";
    if name.is_empty() {
        return Err(PushError::Missing { key: "mqtt.topic", expected });
    }
    if name.contains(['+', '#', '\0']) || name.len() > usize::from(u16::MAX) {
        return Err(PushError::Wrong { key: "mqtt.topic", expected });
    }
    let qos = u8::try_from(mqtt.qos).ok().filter(|qos| *qos <= 2);
    let qos = qos.ok_or(PushError::Wrong { key: "mqtt.qos", expected: "0, 1 or 2" })?;
    let to = To::Mqtt(Broker(place), Topic { name, qos, is_retained: mqtt.retained });
    built(to, cfg!(feature = "push-mqtt"), ("MQTT pushes", "push-mqtt"))
}

fn gauge(otel: &dmi::PushMethodOtel, kind: Kind) -> Result<To, PushError> {
    let (key, expected) = ("otel.endpointURL", "http://HOST:4318/v1/metrics");
    let mut url =
        Url::parse(&otel.endpoint_url, 4318).map_err(|why| PushError::Address { key, why, expected })?;
    // As OpenTelemetry's own exporters take an address without a path.
    if url.path == "/" {
        "/v1/metrics".clone_into(&mut url.path);
    }
    match kind {
        Kind::Int | Kind::Float | Kind::Double | Kind::Bool => Ok(To::Otlp(Collector(url))),
        Kind::Text | Kind::Bytes => Err(PushError::NoNumber(kind)),
    }
}

fn point(influx: &dmi::DbMethodInfluxdb2) -> Result<To, PushError> {
    let client = influx.influxdb2_client_config.clone().unwrap_or_default();
    let data = influx.influxdb2_data_config.clone().unwrap_or_default();
    let (key, expected) = ("dbMethod.influxdb2.influxdb2ClientConfig.url", "http://HOST:8086");
    let mut url = Url::parse(&client.url, 8086).map_err(|why| PushError::Address { key, why, expected })?;
    let needed = |key, text: &str, expected| {
        if text.is_empty() { Err(PushError::Missing { key, expected }) } else { Ok(text.to_owned()) }
    };
    let org = needed("dbMethod.influxdb2.influxdb2ClientConfig.org", &client.org, "the organization")?;
    let bucket =
        needed("dbMethod.influxdb2.influxdb2ClientConfig.bucket", &client.bucket, "the bucket's name")?;
    let measurement = needed(
        "dbMethod.influxdb2.influxdb2DataConfig.measurement",
        &data.measurement,
        "a name for the measurement",
    )?;
    let field =
        needed("dbMethod.influxdb2.influxdb2DataConfig.fieldKey", &data.field_key, "a name for the field")?;
    let (org, bucket) = (escaped(&org, is_unreserved), escaped(&bucket, is_unreserved));
    let base = url.path.split('?').next().unwrap_or_default().trim_end_matches('/');
    url.path = format!("{base}/api/v2/write?org={org}&bucket={bucket}&precision=ns");
    Ok(To::Influx(Bucket(url), Point { measurement, tags: data.tag, field }))
}

fn member(redis: &dmi::DbMethodRedis) -> Result<To, PushError> {
    // `poolsize` and `minIdleConns` say nothing here: there is one connection for all properties.
    let client = redis.redis_client_config.clone().unwrap_or_default();
    let (key, expected) = ("dbMethod.redis.redisClientConfig.addr", "HOST:6379");
    let place = Place::parse(&client.addr, &["redis", "tcp"], 6379).map_err(|why| PushError::Address {
        key,
        why,
        expected,
    })?;
    let key = "dbMethod.redis.redisClientConfig.db";
    let wrong = |_| PushError::Wrong { key, expected: "a number from 0 on, 0 to 15 on most servers" };
    Ok(To::Redis(Redis { place, database: u32::try_from(client.db).map_err(wrong)? }))
}

fn super_table(tdengine: &dmi::DbMethodTdEngine) -> Result<To, PushError> {
    let client = tdengine.td_engine_client_config.clone().unwrap_or_default();
    let (key, expected) = ("dbMethod.TDEngine.TDEngineClientConfig.addr", "HOST:6041");
    let place = Place::parse(&client.addr, &["http"], 6041).map_err(|why| PushError::Address {
        key,
        why,
        expected,
    })?;
    let (key, expected) = ("dbMethod.TDEngine.TDEngineClientConfig.dbName", "the database's name");
    if client.dbname.is_empty() {
        return Err(PushError::Missing { key, expected });
    }
    let path = format!("/rest/sql/{}", escaped(&client.dbname, is_unreserved));
    Ok(To::TdEngine(TdEngine(Url { place, path })))
}

fn row(mysql: &dmi::DbMethodMySql, owner: Owner<'_>) -> Result<To, PushError> {
    let client = mysql.mysql_client_config.clone().unwrap_or_default();
    let (key, expected) = ("dbMethod.mysql.mysqlClientConfig.addr", "HOST:3306");
    let place = Place::parse(&client.addr, &["tcp", "mysql"], 3306).map_err(|why| PushError::Address {
        key,
        why,
        expected,
    })?;
    let (key, expected) = ("dbMethod.mysql.mysqlClientConfig.database", "the database's name");
    if client.database.is_empty() {
        return Err(PushError::Missing { key, expected });
    }
    let (key, expected) = ("dbMethod.mysql.mysqlClientConfig.userName", "the user's name");
    if client.user_name.is_empty() {
        return Err(PushError::Missing { key, expected });
    }
    let table = format::table(owner.namespace, owner.device, owner.property);
    if table.chars().count() > LONGEST_TABLE {
        let key = "dbMethod.mysql: NAMESPACE/DEVICE/PROPERTY, which is the table's name,";
        return Err(PushError::Wrong { key, expected: "64 characters long at most" });
    }
    let to = To::MySql(MySql { place, database: client.database, user: client.user_name });
    built(to, cfg!(feature = "push-mysql"), ("MySQL", "push-mysql"))
}

fn built(to: To, is_built: bool, (what, feature): (&'static str, &'static str)) -> Result<To, PushError> {
    if is_built { Ok(to) } else { Err(PushError::NotBuilt(what, feature)) }
}

// They want all there is.
#[cfg(all(test, feature = "push-mqtt", feature = "push-mysql"))]
mod tests;
