//! Pure: what a device is made of, from the node's messages to types that a driver reads.
//!
//! It never refuses a whole device for one bad property: that one is left out and its fault is told. Called by the
//! registry for every device and model that arrives. No error shows a configured value: it may be a password.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ke_dmi::v1beta1 as wire;
use serde_json::Value as Json;

use crate::deadband::Deadband;
use crate::sampler::{Cycle, cycle};
use crate::value::Kind;

/// Namespace and name: two devices of one name in two namespaces are two devices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    /// Empty only from nodes older than KubeEdge v1.16.
    pub namespace: String,
    /// Unique in its namespace.
    pub name: String,
}

impl DeviceName {
    /// Both parts, as they are.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A property's name, unique in its device. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PropertyName(Arc<str>);

impl PropertyName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PropertyName {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for PropertyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A key of a device's configuration that cannot be used. The text is for the person who wrote the manifest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {text}")]
pub struct SettingError {
    /// The key as the documentation spells it.
    pub key: String,
    /// What is allowed there.
    pub text: String,
}

impl SettingError {
    /// `text` says what is allowed, such as `must be TCP or RTU`; the value itself stays out of it.
    pub fn new(key: &str, text: impl Into<String>) -> Self {
        Self { key: key.to_owned(), text: text.into() }
    }
}

/// Free configuration of a device or a property, the model's defaults merged in already.
///
/// Keys are found in any case. Numbers and truths may be written as text, since published manifests do both.
/// Each getter takes all spellings of its key; the first is the one that errors name.
#[derive(Clone, Default, PartialEq)]
pub struct Settings(BTreeMap<String, Json>);

/// Keys only: among the values are passwords.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

impl Settings {
    /// From JSON, for tests and tools: `Settings::from_json(json!({"ip": "10.0.0.5"}))`. What is no object is empty.
    #[must_use]
    pub fn from_json(json: Json) -> Self {
        match json {
            Json::Object(map) => Self::from_map(map),
            _ => Self::default(),
        }
    }

    fn from_map(map: serde_json::Map<String, Json>) -> Self {
        Self(map.into_iter().map(|(key, value)| (key.to_lowercase(), value)).collect())
    }

    fn get(&self, keys: &[&str]) -> Option<&Json> {
        keys.iter().find_map(|key| self.0.get(&key.to_lowercase()))
    }

    /// Text; numbers and truths become theirs. `None`: absent or empty.
    #[must_use]
    pub fn text(&self, keys: &[&str]) -> Option<String> {
        let text = match self.get(keys)? {
            Json::String(text) => text.trim().to_owned(),
            Json::Null => return None,
            other => other.to_string(),
        };
        (!text.is_empty()).then_some(text)
    }

    /// A number of any type, such as `number::<u16>(&["port"], "a whole number, 0 to 65535")`. `None`: absent or empty.
    pub fn number<N: FromStr>(&self, keys: &[&str], allowed: &str) -> Result<Option<N>, SettingError> {
        let Some(text) = self.text(keys) else { return Ok(None) };
        // `502.0` is a whole number too, to whoever passed it through a float.
        let whole = text.strip_suffix(".0").unwrap_or(&text);
        whole.parse().map(Some).map_err(|_| Self::refused(keys, allowed))
    }

    /// A finite number with or without fraction. `None`: absent or empty.
    pub fn real(&self, keys: &[&str]) -> Result<Option<f64>, SettingError> {
        match self.number::<f64>(keys, "a number")? {
            Some(real) if !real.is_finite() => Err(Self::refused(keys, "a number")),
            real => Ok(real),
        }
    }

    /// True or false. `None`: absent or empty.
    pub fn flag(&self, keys: &[&str]) -> Result<Option<bool>, SettingError> {
        let Some(text) = self.text(keys) else { return Ok(None) };
        match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "1" | "yes" => Ok(Some(true)),
            "false" | "f" | "0" | "no" => Ok(Some(false)),
            _ => Err(Self::refused(keys, "true or false")),
        }
    }

    fn refused(keys: &[&str], allowed: &str) -> SettingError {
        SettingError::new(keys.first().copied().unwrap_or_default(), format!("must be {allowed}"))
    }
}

/// Whether the cloud may write a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read.
    ReadOnly,
    /// Read and written.
    ReadWrite,
}

/// One property as a driver sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct PropertySettings {
    /// Its name.
    pub name: PropertyName,
    /// The model's type.
    pub kind: Kind,
    /// Whether it may be written.
    pub access: Access,
    /// The model's lowest value. The SDK refuses writes outside; drivers need not look.
    pub minimum: Option<f64>,
    /// The model's highest value.
    pub maximum: Option<f64>,
    /// How to reach it on the device.
    pub visitor: Settings,
    /// How often it is read.
    pub collect: Duration,
    /// Whether it is read and reported by itself.
    pub is_reported: bool,
    /// When a sample is worth a report.
    pub deadband: Deadband,
    /// What the cloud wants, as it was written. `None`: it wants nothing.
    pub desired: Option<String>,
}

/// Something a device can be told to do, over REST.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// The properties that it writes.
    pub properties: Vec<PropertyName>,
}

/// One device as a driver sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceSettings {
    /// Its name.
    pub name: DeviceName,
    /// How to connect.
    pub protocol: Settings,
    /// What it has.
    pub properties: Vec<Arc<PropertySettings>>,
    /// What it can be told to do.
    pub methods: Vec<Method>,
    /// How often its state is reported even if nothing changed. `None`: on change only.
    pub state_cycle: Option<Duration>,
    /// Properties that were left out, and why.
    pub faults: Vec<(PropertyName, String)>,
}

impl DeviceSettings {
    /// The property of that name.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Arc<PropertySettings>> {
        self.properties.iter().find(|property| property.name.as_str() == name)
    }
}

/// An unchanged value is told again after this long, unless the property says otherwise (`reportHeartbeat`).
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Joins a device with its model. Errors: the device's own configuration cannot be read.
pub fn join(device: &wire::Device, model: &wire::DeviceModel) -> Result<DeviceSettings, String> {
    let spec = device.spec.clone().unwrap_or_default();
    let config = spec.protocol.and_then(|protocol| protocol.config_data);
    let protocol = decode(config.as_ref()).map_err(|fault| format!("protocol.configData.{fault}"))?;
    let model_properties = model.spec.as_ref().map_or(&[][..], |spec| &spec.properties);
    let mut properties = Vec::<Arc<PropertySettings>>::new();
    let mut faults = Vec::new();
    for property in &spec.properties {
        let name = PropertyName::from(property.name.as_str());
        let found = model_properties.iter().find(|declared| declared.name == property.name);
        let made = match found {
            _ if properties.iter().any(|known| known.name == name) => Err("is there twice".to_owned()),
            None => Err(format!("the model {:?} has no property of this name", model.name)),
            Some(declared) => join_property(property, declared),
        };
        match made {
            Ok(made) => properties.push(Arc::new(made)),
            Err(fault) => faults.push((name, fault)),
        }
    }
    let methods = spec.methods.iter().map(|method| Method {
        name: method.name.clone(),
        properties: method.property_names.iter().map(|name| name.as_str().into()).collect(),
    });
    let status = device.status.clone().unwrap_or_default();
    Ok(DeviceSettings {
        name: DeviceName::new(&device.namespace, &device.name),
        protocol,
        properties,
        methods: methods.collect(),
        state_cycle: status
            .report_to_cloud
            .then(|| told_cycle("stateReport.reportCycle", status.report_cycle)),
        faults,
    })
}

fn join_property(
    property: &wire::DeviceProperty,
    model: &wire::ModelProperty,
) -> Result<PropertySettings, String> {
    let kind = Kind::of_model(&model.r#type).ok_or_else(|| {
        let known = "INT, FLOAT, DOUBLE, STRING, BOOLEAN or BYTES";
        format!("its type in the model is {:?}; this mapper knows {known}", model.r#type)
    })?;
    let bound = |key: &str, text: &str| match text.trim() {
        "" => Ok(None),
        // A bound of text, as some manifests have, says nothing.
        _ if matches!(kind, Kind::Text | Kind::Bytes | Kind::Bool) => Ok(None),
        number => match number.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(format!("{key} in the model must be a number, not {text:?}")),
        },
    };
    let config = property.visitors.as_ref().and_then(|visitors| visitors.config_data.as_ref());
    let visitor = decode(config).map_err(|fault| format!("visitors.configData.{fault}"))?;
    let told = |fault: SettingError| format!("visitors.configData.{fault}");
    let heartbeat = visitor.real(&["reportHeartbeat"]).map_err(told)?;
    let heartbeat = heartbeat.map_or(Ok(HEARTBEAT), |seconds| {
        Duration::try_from_secs_f64(seconds)
            .map_err(|_| told(SettingError::new("reportHeartbeat", "must be seconds, 0 for none")))
    })?;
    let threshold = visitor.real(&["reportThreshold"]).map_err(told)?.unwrap_or(0.0);
    let desired = property.desired.as_ref().map(|desired| desired.value.as_str());
    Ok(PropertySettings {
        name: property.name.as_str().into(),
        kind,
        access: if model.access_mode.eq_ignore_ascii_case("ReadWrite") {
            Access::ReadWrite
        } else {
            Access::ReadOnly
        },
        minimum: bound("minimum", &model.minimum)?,
        maximum: bound("maximum", &model.maximum)?,
        visitor,
        collect: told_cycle(&property.name, property.collect_cycle),
        is_reported: property.report_to_cloud,
        deadband: Deadband { threshold, heartbeat: (!heartbeat.is_zero()).then_some(heartbeat) },
        desired: desired.filter(|desired| !desired.is_empty()).map(str::to_owned),
    })
}

fn told_cycle(what: &str, number: i64) -> Duration {
    match cycle(number) {
        Cycle::Milliseconds(cycle) => cycle,
        Cycle::Nanoseconds(cycle) => {
            tracing::info!(
                what,
                ?cycle,
                "a cycle this long is taken as nanoseconds, as older manifests mean it"
            );
            cycle
        }
    }
}

fn decode(config: Option<&wire::CustomizedValue>) -> Result<Settings, ke_dmi::value::ValueError> {
    config.map_or(Ok(Settings::default()), |config| ke_dmi::value::from_data(config).map(Settings::from_map))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{device, model, property};

    #[test]
    fn settings_are_found_in_any_case_and_spelling() {
        let settings = Settings::from_json(
            json!({"Port": "502", "slaveid": 2, "On": "True", "empty": "", "f": 5.0, "bad": "x"}),
        );
        assert_eq!(settings.number::<u16>(&["port"], "x"), Ok(Some(502)));
        assert_eq!(settings.number::<u8>(&["unitID", "slaveID"], "x"), Ok(Some(2)));
        assert_eq!(settings.number::<u8>(&["f"], "x"), Ok(Some(5)));
        assert_eq!(settings.flag(&["on"]), Ok(Some(true)));
        assert_eq!(settings.text(&["empty"]), None);
        let wrong = settings.number::<u16>(&["bad"], "a whole number").unwrap_err();
        assert_eq!(wrong.to_string(), "bad: must be a whole number");
        assert!(!format!("{settings:?}").contains("502"));
    }

    #[test]
    fn one_bad_property_costs_only_itself() {
        let model = model("plant", "m", &[("good", "INT", "ReadWrite"), ("video", "STREAM", "ReadOnly")]);
        let device = device(
            "plant",
            "d",
            "m",
            json!({}),
            vec![
                property("good", json!({"reportThreshold": "0.5"})),
                property("video", json!({})),
                property("absent", json!({})),
                property("good", json!({})),
            ],
        );
        let settings = join(&device, &model).unwrap();
        assert_eq!(settings.properties.len(), 1);
        assert!((settings.properties[0].deadband.threshold - 0.5).abs() < f64::EPSILON);
        let faults: Vec<&str> = settings.faults.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(faults, ["video", "absent", "good"]);
    }
}
