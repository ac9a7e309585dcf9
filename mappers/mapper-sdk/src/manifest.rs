//! Pure: the edge node's messages about a device to what a driver gets.
//!
//! Nothing in a manifest stops a mapper: what cannot be used is left out and told as a [`Remark`]. Called by `fleet.rs`.

use std::sync::Arc;
use std::time::Duration;

use ke_dmi::v1beta1 as dmi;
use ke_dmi::value::{self, ValueError};

use crate::driver::{Device, DeviceName, Method, Property};
use crate::push::settings::{self as pushes, Owner, Push, PushError};
use crate::settings::Settings;
use crate::value::Kind;

/// What mapper-framework takes when a manifest says nothing.
const DEFAULT_CYCLE: Duration = Duration::from_millis(1000);
/// Manifests of before KubeEdge v1.18 count nanoseconds. As milliseconds this would be more than a day; as nanoseconds it is
/// a tenth of a second.
const NANOSECONDS_FROM: i64 = 100_000_000;

/// Something in a manifest that is not taken as it stands, in words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Remark {
    /// Left out.
    #[error("property {0} is not in the device's model and is left out; add it there")]
    NotInModel(String),
    /// Left out.
    #[error("property {0} is a stream, which mappers of this kind do not serve; it is left out")]
    Stream(String),
    /// Left out.
    #[error(
        "property {0} has the type {1:?} and is left out; use INT, FLOAT, DOUBLE, STRING, BOOLEAN or BYTES"
    )]
    Type(String, String),
    /// The setting is left out.
    #[error("{place}: {error}; the setting is left out")]
    Setting {
        /// `protocol`, or the property.
        place: String,
        /// Names the key.
        error: ValueError,
    },
    /// Not checked.
    #[error("property {property}: the model's {limit} {text:?} is no number and is not checked")]
    Limit {
        /// The property.
        property: String,
        /// `minimum` or `maximum`.
        limit: &'static str,
        /// As the model has it.
        text: String,
    },
    /// Not written.
    #[error("property {0} is ReadOnly in the model: its desired value is not written")]
    ReadOnly(String),
    /// The push is left out.
    #[error("property {property} is not pushed: {error}")]
    Push {
        /// The property.
        property: String,
        /// Names the key.
        error: PushError,
    },
    /// Taken as such.
    #[error("{place} is {given} and taken as nanoseconds, which is {ms} ms; write milliseconds")]
    Nanoseconds {
        /// The cycle's name and whose it is.
        place: String,
        /// As the manifest has it.
        given: i64,
        /// What is taken.
        ms: u128,
    },
}

/// All that a manifest and its model say.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Description {
    /// As drivers get it.
    pub(crate) device: Arc<Device>,
    /// Where values go beside the cloud; drivers need not know.
    pub(crate) pushes: Arc<[Push]>,
}

/// The name of a device or model.
#[must_use]
pub(crate) fn name(namespace: &str, name: &str) -> DeviceName {
    DeviceName { namespace: namespace.to_owned(), name: name.to_owned() }
}

/// A device's model: it stands in the device's namespace.
#[must_use]
pub(crate) fn model_of(message: &dmi::Device) -> DeviceName {
    let model = message.spec.as_ref().map(|spec| spec.device_model_reference.as_str());
    name(&message.namespace, model.unwrap_or_default())
}

/// The device, and what of it is not taken as it stands.
#[must_use]
pub(crate) fn device(message: &dmi::Device, model: &dmi::DeviceModel) -> (Description, Vec<Remark>) {
    let (mut remarks, mut pushes) = (Vec::new(), Vec::new());
    let no_spec = dmi::DeviceSpec::default();
    let spec = message.spec.as_ref().unwrap_or(&no_spec);
    let config = spec.protocol.as_ref().and_then(|protocol| protocol.config_data.as_ref());
    let settings = settings("protocol", config, &mut remarks);
    let known = model.spec.as_ref().map(|spec| spec.properties.as_slice()).unwrap_or_default();
    let mut properties: Vec<Property> = Vec::with_capacity(spec.properties.len());
    for wanted in &spec.properties {
        let Some(known) = known.iter().find(|known| known.name == wanted.name) else {
            remarks.push(Remark::NotInModel(wanted.name.clone()));
            continue;
        };
        if known.r#type.eq_ignore_ascii_case("STREAM") {
            remarks.push(Remark::Stream(wanted.name.clone()));
            continue;
        }
        let Some(kind) = Kind::of_model(&known.r#type) else {
            remarks.push(Remark::Type(wanted.name.clone(), known.r#type.clone()));
            continue;
        };
        let property = property(wanted, known, kind, &mut remarks);
        pushes.extend(pushes_of(&message.namespace, &message.name, &property, wanted, &mut remarks));
        properties.push(property);
    }
    let methods = spec.methods.iter().map(|method| Method {
        name: method.name.clone(),
        description: method.description.clone(),
        properties: method.property_names.clone(),
    });
    let state = message.status.as_ref().filter(|status| status.report_to_cloud);
    let device = Device {
        name: name(&message.namespace, &message.name),
        settings,
        properties,
        methods: methods.collect(),
        state_cycle: state.map(|state| cycle("the state's reportCycle", state.report_cycle, &mut remarks)),
    };
    (Description { device: Arc::new(device), pushes: pushes.into() }, remarks)
}

fn pushes_of(
    namespace: &str,
    device: &str,
    property: &Property,
    wanted: &dmi::DeviceProperty,
    remarks: &mut Vec<Remark>,
) -> Vec<Push> {
    let Some(method) = &wanted.push_method else { return Vec::new() };
    let Property { name, kind, report_cycle, .. } = property;
    let (found, errors) = pushes::of(method, Owner { namespace, device, property: name, kind: *kind });
    remarks.extend(errors.into_iter().map(|error| Remark::Push { property: name.clone(), error }));
    let push = |to| Push { property: name.clone(), kind: *kind, cycle: *report_cycle, to };
    found.into_iter().map(push).collect()
}

fn property(
    wanted: &dmi::DeviceProperty,
    known: &dmi::ModelProperty,
    kind: Kind,
    remarks: &mut Vec<Remark>,
) -> Property {
    let name = &wanted.name;
    let config = wanted.visitors.as_ref().and_then(|visitors| visitors.config_data.as_ref());
    let mut limit = |limit: &'static str, text: &str| {
        let text = text.trim();
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
        if number.is_none() && !text.is_empty() {
            remarks.push(Remark::Limit { property: name.clone(), limit, text: text.to_owned() });
        }
        number
    };
    let (minimum, maximum) = (limit("minimum", &known.minimum), limit("maximum", &known.maximum));
    // As mapper-framework has it: what is not forbidden is allowed.
    let is_writable = !known.access_mode.eq_ignore_ascii_case("ReadOnly");
    let mut desired = wanted.desired.as_ref().map(|desired| desired.value.clone());
    // An empty text is what edges send for "nobody wants anything".
    desired.take_if(|desired| desired.is_empty());
    if desired.is_some() && !is_writable {
        remarks.push(Remark::ReadOnly(name.clone()));
    }
    Property {
        name: name.clone(),
        kind,
        is_writable,
        minimum,
        maximum,
        settings: settings(&format!("property {name}"), config, remarks),
        collect_cycle: cycle(&format!("collectCycle of {name}"), wanted.collect_cycle, remarks),
        report_cycle: cycle(&format!("reportCycle of {name}"), wanted.report_cycle, remarks),
        report_to_cloud: wanted.report_to_cloud,
        desired,
    }
}

fn settings(place: &str, config: Option<&dmi::CustomizedValue>, remarks: &mut Vec<Remark>) -> Settings {
    let Some(config) = config else { return Settings::default() };
    let mut entries = Vec::with_capacity(config.data.len());
    for (key, any) in &config.data {
        match value::from_any(key, any) {
            Ok(value) => entries.push((key.clone(), value)),
            Err(error) => remarks.push(Remark::Setting { place: place.to_owned(), error }),
        }
    }
    Settings::new(entries)
}

fn cycle(place: &str, given: i64, remarks: &mut Vec<Remark>) -> Duration {
    let positive = given.unsigned_abs();
    match given {
        ..=0 => DEFAULT_CYCLE,
        NANOSECONDS_FROM.. => {
            let cycle = Duration::from_nanos(positive);
            remarks.push(Remark::Nanoseconds { place: place.to_owned(), given, ms: cycle.as_millis() });
            cycle
        }
        _ => Duration::from_millis(positive),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn model(properties: &[(&str, &str, &str)]) -> dmi::DeviceModel {
        let property = |(name, kind, limits): &(&str, &str, &str)| {
            let (minimum, maximum) = limits.split_once("..").unwrap_or(("", ""));
            dmi::ModelProperty {
                name: (*name).into(),
                r#type: (*kind).into(),
                access_mode: if name.starts_with("read") { "ReadOnly" } else { "ReadWrite" }.into(),
                minimum: minimum.into(),
                maximum: maximum.into(),
                ..Default::default()
            }
        };
        let properties = properties.iter().map(property).collect();
        let spec = Some(dmi::DeviceModelSpec { properties, ..Default::default() });
        dmi::DeviceModel { name: "m".into(), namespace: "plant".into(), spec }
    }

    fn wanted(name: &str, desired: &str) -> dmi::DeviceProperty {
        let desired = Some(dmi::TwinProperty { value: desired.into(), ..Default::default() });
        dmi::DeviceProperty { name: name.into(), desired, ..Default::default() }
    }

    fn message(properties: Vec<dmi::DeviceProperty>) -> dmi::Device {
        let spec = dmi::DeviceSpec { device_model_reference: "m".into(), properties, ..Default::default() };
        dmi::Device { name: "d".into(), namespace: "plant".into(), spec: Some(spec), status: None }
    }

    fn told(remarks: &[Remark]) -> Vec<String> {
        remarks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_cannot_be_used_is_left_out_and_named() {
        let model = model(&[
            ("limit", "INT", " -5 .. 1e3"),
            ("read", "FLOAT", "x..2"),
            ("film", "stream", ""),
            ("odd", "LIST", ""),
        ]);
        let properties = ["limit", "read", "film", "odd", "none"].map(|name| wanted(name, "7"));
        let (Description { device, .. }, remarks) = device(&message(properties.into()), &model);
        let names: Vec<&str> = device.properties.iter().map(|property| property.name.as_str()).collect();
        assert_eq!(names, ["limit", "read"]);
        let [limit, read] = device.properties.as_slice() else { panic!() };
        assert_eq!((limit.minimum, limit.maximum, limit.is_writable), (Some(-5.0), Some(1000.0), true));
        assert_eq!((read.minimum, read.maximum, read.is_writable), (None, Some(2.0), false));
        assert_eq!(
            told(&remarks),
            [
                "property read: the model's minimum \"x\" is no number and is not checked",
                "property read is ReadOnly in the model: its desired value is not written",
                "property film is a stream, which mappers of this kind do not serve; it is left out",
                "property odd has the type \"LIST\" and is left out; use INT, FLOAT, DOUBLE, STRING, BOOLEAN or BYTES",
                "property none is not in the device's model and is left out; add it there",
            ]
        );
        // Nothing at all is no reason to end.
        assert!(super::device(&dmi::Device::default(), &dmi::DeviceModel::default()).1.is_empty());
    }

    #[test]
    fn cycles() {
        let check = |given: i64, expected_ms: u128, n_remarks: usize| {
            let mut remarks = Vec::new();
            let found = cycle("collectCycle of heat", given, &mut remarks);
            assert_eq!((found.as_millis(), remarks.len()), (expected_ms, n_remarks), "{given}");
        };
        check(0, 1000, 0);
        check(i64::MIN, 1000, 0);
        check(1, 1, 0);
        check(99_999_999, 99_999_999, 0);
        check(100_000_000, 100, 1);
        check(10_000_000_000, 10_000, 1);
        let mut remarks = Vec::new();
        cycle("collectCycle of heat", 10_000_000_000, &mut remarks);
        assert_eq!(
            told(&remarks),
            [
                "collectCycle of heat is 10000000000 and taken as nanoseconds, which is 10000 ms; write milliseconds"
            ]
        );
    }

    #[test]
    fn pushes_and_what_is_wrong_with_them() {
        let http = dmi::PushMethodHttp { hostname: "http://me:secret@web".into(), ..Default::default() };
        let client = dmi::RedisClientConfig { addr: "db".into(), ..Default::default() };
        let redis = dmi::DbMethodRedis { redis_client_config: Some(client) };
        let method = dmi::PushMethod {
            http: Some(http),
            db_method: Some(dmi::DbMethod { redis: Some(redis), ..Default::default() }),
            ..Default::default()
        };
        let properties = ["heat", "none"].map(|name| dmi::DeviceProperty {
            push_method: Some(method.clone()),
            report_cycle: 250,
            ..wanted(name, "")
        });
        let (Description { pushes, .. }, remarks) =
            device(&message(properties.into()), &model(&[("heat", "INT", "")]));
        let [Push { property, kind: Kind::Int, cycle, .. }] = &*pushes else { panic!("{pushes:?}") };
        assert_eq!((property.as_str(), *cycle), ("heat", Duration::from_millis(250)));
        assert_eq!(
            told(&remarks),
            [
                "property heat is not pushed: http.hostName must not hold a user or password; write http://HOST, and the port in http.port",
                "property none is not in the device's model and is left out; add it there",
            ]
        );
    }

    #[test]
    fn settings_desired_values_and_states() {
        let config = json!({"Port": 502, "ip": "10.0.0.7"});
        let mut config = value::to_data(config.as_object().unwrap()).unwrap();
        let odd = prost_types::Any { type_url: "x/google.protobuf.Struct".into(), value: vec![] };
        config.data.insert("odd".into(), odd);
        let mut message = message(vec![wanted("limit", ""), wanted("read", "")]);
        message.spec.as_mut().unwrap().protocol =
            Some(dmi::ProtocolConfig { protocol_name: "p".into(), config_data: Some(config) });
        message.status =
            Some(dmi::DeviceStatus { report_to_cloud: true, report_cycle: 5000, ..Default::default() });
        let (Description { device, .. }, remarks) =
            device(&message, &model(&[("limit", "INT", ""), ("read", "INT", "")]));
        assert_eq!(device.settings.integer(&["port"], 1, 65535, "a port"), Ok(Some(502_u16)));
        assert_eq!(device.state_cycle, Some(Duration::from_secs(5)));
        assert!(device.properties.iter().all(|property| property.desired.is_none()));
        let [remark] = remarks.as_slice() else { panic!("{remarks:?}") };
        assert!(remark.to_string().starts_with("protocol: odd: a value of type"), "{remark}");
        assert_eq!(model_of(&message), name("plant", "m"));
    }
}
