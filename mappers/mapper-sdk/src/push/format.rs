//! Pure: the texts that those on the other side parse: KubeEdge's, byte for byte where KubeEdge's work.
//!
//! Times are UTC. KubeEdge writes the local time of the mapper's container, which is UTC unless somebody changed it; a
//! program of several threads cannot ask for the local offset soundly, and in a database it would be ambiguous once a year.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

use crate::driver::DeviceName;
use crate::value::{Kind, Value};

/// A value on its way out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Whose.
    pub(crate) device: DeviceName,
    /// Of what.
    pub(crate) property: String,
    /// The property's type.
    pub(crate) kind: Kind,
    /// The value.
    pub(crate) value: Value,
    /// When it was pushed; it was read at most a cycle before.
    pub(crate) time: OffsetDateTime,
}

/// How a value becomes a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    /// Not empty.
    pub(crate) measurement: String,
    /// May be none.
    pub(crate) tags: BTreeMap<String, String>,
    /// Not empty.
    pub(crate) field: String,
}

/// What is told of a sample in Redis. The order is KubeEdge's.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DataModel<'a> {
    device_name: &'a str,
    property_name: &'a str,
    namespace: &'a str,
    value: String,
    r#type: String,
    time_stamp: i64,
}

impl Sample {
    /// As KubeEdge's mappers write types here.
    fn kind_word(&self) -> String {
        self.kind.to_string().to_lowercase()
    }

    /// Milliseconds since 1970.
    pub(crate) fn ms(&self) -> i64 {
        i64::try_from(self.time.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
    }
}

/// `2026-01-02 03:04:05`
pub(crate) fn date_time(time: OffsetDateTime) -> String {
    let (date, clock) = (time.date(), time.time());
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

/// The body of an HTTP push. KubeEdge escapes nothing; escaped is only what would end or change the value in a form, so that
/// whoever splits the text at `&time=` and whoever parses forms find the same.
pub(crate) fn form(sample: &Sample) -> String {
    let escaped = |text: &str, is_special: fn(char) -> bool| {
        let mut escaped = String::with_capacity(text.len());
        for letter in text.chars() {
            if letter.is_ascii() && is_special(letter) {
                let _ = write!(escaped, "%{:02X}", u32::from(letter));
            } else {
                escaped.push(letter);
            }
        }
        escaped
    };
    let name = escaped(&sample.property, |letter| matches!(letter, '%' | '&' | '+' | ';' | '='));
    let value = escaped(&sample.value.to_string(), |letter| matches!(letter, '%' | '&' | '+' | ';'));
    format!("{name}={value}&time={}", date_time(sample.time))
}

/// The message of an MQTT push.
#[cfg(any(test, feature = "push-mqtt"))]
pub(crate) fn message(sample: &Sample, topic: &str) -> String {
    format!("time is {}  {topic}: {}", date_time(sample.time), sample.value)
}

/// The member of a Redis sorted set.
pub(crate) fn member(sample: &Sample) -> String {
    let model = DataModel {
        device_name: &sample.device.name,
        property_name: &sample.property,
        namespace: &sample.device.namespace,
        value: sample.value.to_string(),
        r#type: sample.kind_word(),
        time_stamp: sample.ms(),
    };
    // Texts and a number: nothing there can fail.
    serde_json::to_string(&model).unwrap_or_default()
}

/// The table of a property in MySQL.
pub(crate) fn table(namespace: &str, device: &str, property: &str) -> String {
    format!("{namespace}/{device}/{property}")
}

/// One line of InfluxDB's protocol; the value is a text, as in KubeEdge. Tags without a name or value are none.
pub(crate) fn line(sample: &Sample, point: &Point) -> String {
    let mut line = influx_name(&point.measurement, false);
    for (key, value) in point.tags.iter().filter(|(key, value)| !key.is_empty() && !value.is_empty()) {
        let _ = write!(line, ",{}={}", influx_name(key, true), influx_name(value, true));
    }
    let value = sample.value.to_string().replace('\\', "\\\\").replace('"', "\\\"");
    let nanos = sample.time.unix_timestamp_nanos();
    let _ = write!(line, " {}=\"{value}\" {nanos}", influx_name(&point.field, true));
    line
}

fn influx_name(text: &str, is_equals_special: bool) -> String {
    let mut name = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            // A line has no other way to hold them.
            '\n' => name.push_str("\\n"),
            '\r' => name.push_str("\\r"),
            '\t' => name.push_str("\\t"),
            ',' | ' ' => name.extend(['\\', letter]),
            '=' if is_equals_special => name.push_str("\\="),
            letter => name.push(letter),
        }
    }
    // It would escape what follows the name.
    if name.ends_with('\\') {
        name.push(' ');
    }
    name
}

/// The OTLP message of one gauge as JSON, or nothing if the value is no number.
pub(crate) fn gauge(sample: &Sample) -> Option<String> {
    let (key, number) = match &sample.value {
        // 64-bit numbers are texts in Protobuf's JSON.
        Value::Int(whole) => ("asInt", json!(whole.to_string())),
        // The shortest text of 32 bits, not the 64 bits that are nearest to it.
        Value::Float(_) => ("asDouble", json!(sample.value.to_string().parse::<f64>().ok()?)),
        other => ("asDouble", json!(other.number()?)),
    };
    let data = json!({"timeUnixNano": sample.time.unix_timestamp_nanos().to_string(), key: number});
    let device = json!({"key": "device.id", "value": {"stringValue": sample.device.to_string()}});
    let message = json!({"resourceMetrics": [{
        "resource": {"attributes": [device]},
        "scopeMetrics": [{"scope": {"name": "mapper-sdk"},
            "metrics": [{"name": sample.property, "gauge": {"dataPoints": [data]}}]}],
    }]});
    Some(message.to_string())
}

/// What makes a device's super table in TDengine, and what puts a row into it.
///
/// Names are those that KubeEdge meant, in quotes, without which TDengine refuses their `/`. A point is the one thing that
/// quotes do not help with. KubeEdge names the sub-table like the property, by which devices of one database would write
/// into each other's; its readers ask the super table.
pub(crate) fn super_table(sample: &Sample) -> (String, String) {
    let legal = |text: &str| text.replace(['-', '.'], "_").replace('`', "_");
    let table = legal(&sample.device.to_string());
    let property = legal(&sample.property);
    let create = format!(
        "CREATE STABLE IF NOT EXISTS `{table}` (ts timestamp, deviceid binary(64), propertyname binary(64), \
         data binary(64), type binary(64)) TAGS (location binary(64))"
    );
    let insert = format!(
        "INSERT INTO `{table}/{property}` USING `{table}` TAGS ('{}') VALUES ('{}', '{}', '{}', '{}', '{}')",
        quoted(&property),
        // With its zone, or the server takes it for its own; with milliseconds, or two of one second are one row.
        rfc3339_ms(sample.time),
        quoted(&sample.device.to_string()),
        quoted(&sample.property),
        quoted(&sample.value.to_string()),
        quoted(&sample.kind_word()),
    );
    (create, insert)
}

fn rfc3339_ms(time: OffsetDateTime) -> String {
    format!("{}.{:03}Z", date_time(time).replace(' ', "T"), time.millisecond())
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\'', "\\'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(kind: Kind, text: &str) -> Sample {
        Sample {
            device: DeviceName { namespace: "plant".into(), name: "oven-1".into() },
            property: "heat".into(),
            kind,
            value: kind.parse(text).unwrap(),
            time: OffsetDateTime::from_unix_timestamp_nanos(1_767_323_045_678_000_000).unwrap(),
        }
    }

    #[test]
    fn forms() {
        let check = |property: &str, text: &str, expected: &str| {
            let sample = Sample { property: property.into(), ..sample(Kind::Text, text) };
            assert_eq!(form(&sample), expected);
        };
        check("heat", "25.3", "heat=25.3&time=2026-01-02 03:04:05");
        check("heat", "", "heat=&time=2026-01-02 03:04:05");
        check("heat", "a b=ü", "heat=a b=ü&time=2026-01-02 03:04:05");
        check("a=b", "1&time=x+y%20;", "a%3Db=1%26time=x%2By%2520%3B&time=2026-01-02 03:04:05");
    }

    #[test]
    fn messages() {
        let sample = sample(Kind::Float, "25.3");
        assert_eq!(message(&sample, "plant/heat"), "time is 2026-01-02 03:04:05  plant/heat: 25.3");
        assert_eq!(table("plant", "oven-1", "heat"), "plant/oven-1/heat");
    }

    #[test]
    fn members() {
        assert_eq!(
            member(&sample(Kind::Text, "as \"it\" is")),
            r#"{"DeviceName":"oven-1","PropertyName":"heat","Namespace":"plant","Value":"as \"it\" is","Type":"string","TimeStamp":1767323045678}"#
        );
    }

    #[test]
    fn lines() {
        let check = |measurement: &str, tags: &[(&str, &str)], field: &str, text: &str, expected: &str| {
            let tags = tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
            let point = Point { measurement: measurement.into(), tags, field: field.into() };
            assert_eq!(line(&sample(Kind::Text, text), &point), format!("{expected} 1767323045678000000"));
        };
        check("oven", &[], "heat", "25.3", r#"oven heat="25.3""#);
        check("oven", &[("b", "3"), ("a", "x"), ("none", "")], "heat", "", r#"oven,a=x,b=3 heat="""#);
        check(
            "my, oven=",
            &[("a b", "c=d\n")],
            "e f",
            r#"\"x""#,
            r#"my\,\ oven=,a\ b=c\=d\n e\ f="\\\"x\"""#,
        );
        check("oven\\", &[], "heat", "1", r#"oven\  heat="1""#);
    }

    #[test]
    fn gauges() {
        let check = |kind: Kind, text: &str, expected: Option<(&str, serde_json::Value)>| {
            let expected = expected.map(|(key, number)| {
                json!({"resourceMetrics": [{
                    "resource": {"attributes": [{"key": "device.id", "value": {"stringValue": "plant/oven-1"}}]},
                    "scopeMetrics": [{"scope": {"name": "mapper-sdk"}, "metrics": [{"name": "heat", "gauge":
                        {"dataPoints": [{"timeUnixNano": "1767323045678000000", key: number}]}}]}],
                }]})
            });
            let found = gauge(&sample(kind, text));
            let found = found.map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap());
            assert_eq!(found, expected, "{kind} {text}");
        };
        check(Kind::Int, "9007199254740993", Some(("asInt", json!("9007199254740993"))));
        check(Kind::Float, "25.3", Some(("asDouble", json!(25.3))));
        check(Kind::Double, "0.5", Some(("asDouble", json!(0.5))));
        check(Kind::Bool, "true", Some(("asDouble", json!(1.0))));
        check(Kind::Text, "1", None);
    }

    #[test]
    fn super_tables() {
        let (create, insert) = super_table(&sample(Kind::Text, r"it's \"));
        assert_eq!(
            create,
            "CREATE STABLE IF NOT EXISTS `plant/oven_1` (ts timestamp, deviceid binary(64), propertyname binary(64), \
             data binary(64), type binary(64)) TAGS (location binary(64))"
        );
        assert_eq!(
            insert,
            r"INSERT INTO `plant/oven_1/heat` USING `plant/oven_1` TAGS ('heat') VALUES ('2026-01-02T03:04:05.678Z', 'plant/oven-1', 'heat', 'it\'s \\', 'string')"
        );
        let sample = Sample { property: "a`.b".into(), ..sample(Kind::Int, "1") };
        assert!(super_table(&sample).1.starts_with("INSERT INTO `plant/oven_1/a__b` USING"));
    }
}
