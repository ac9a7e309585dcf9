//! What a mapper's author writes: how to reach one sort of device.
//!
//! The SDK does the rest: it registers at the edge node, keeps one [`Connection`] per device, samples, scales, reports,
//! writes what is desired and says whether the device is there. A driver never sees Kubernetes, and two devices never
//! share a connection: what one does not answer, the others do not feel.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::settings::{SettingError, Settings};
use crate::value::{Kind, NoValue, Value};

/// How to reach devices of one protocol. One per process; `mapper-virtual` is the example to copy.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// A device that was reached.
    type Connection: Connection;

    /// The `protocolName` of the devices that this mapper serves, unless its configuration says otherwise.
    fn protocol(&self) -> &'static str;

    /// Reaches the device. Called again, later and later, until it succeeds, and after a connection was
    /// [`Lost`](DriverError::Lost). Settings that cannot work are [`Setting`](DriverError::Setting): told to people and not
    /// tried again until the device changes.
    async fn connect(&self, device: &Device) -> Result<Self::Connection, DriverError>;

    /// Devices that are there without anybody having described them. Called now and then; by default there are none.
    async fn discover(&self) -> Result<Vec<Discovered>, DriverError> {
        Ok(Vec::new())
    }
}

/// One device that was reached. Dropped when the device changes, goes or is lost.
#[async_trait]
pub trait Connection: Send + 'static {
    /// Reads one property. A driver has this, or [`read`](Connection::read) if its device answers for several at once.
    async fn read_one(&mut self, property: &Property) -> Result<Value, DriverError> {
        Err(DriverError::Refused(format!("this driver cannot read {}", property.name)))
    }

    /// Reads properties that are due together: one answer for each, in their order. A driver may fetch neighbours with one
    /// request. An error of the whole means that the device is lost. By default each is read by itself.
    async fn read(
        &mut self,
        properties: &[&Property],
    ) -> Result<Vec<Result<Value, DriverError>>, DriverError> {
        let mut answers = Vec::with_capacity(properties.len());
        for property in properties {
            match self.read_one(property).await {
                Err(lost @ DriverError::Lost(_)) => return Err(lost),
                answer => answers.push(answer),
            }
        }
        Ok(answers)
    }

    /// Writes one property. The value has the property's type and is within its range.
    async fn write(&mut self, property: &Property, value: &Value) -> Result<(), DriverError>;

    /// Whether every read and write of this connection ends in time by itself, whatever the device does. Others are ended by
    /// the SDK after `common.call_limit_secs`, and the device is lost. For drivers whose calls wait for those of other devices,
    /// as units on one line do: how long one's turn takes to come says nothing about the device.
    fn has_limit(&self) -> bool {
        false
    }

    /// Whether the device sends this property by itself, so that nobody samples it.
    fn is_pushed(&self, _property: &Property) -> bool {
        false
    }

    /// The next that the device sent by itself: a property's name, and its value or why there is none any more, which holds
    /// until the next one of this name. An error of the whole means that the device is lost. Must be cancellation-safe: it is
    /// dropped and called again whenever something else is to be done. By default nothing ever comes.
    async fn pushed(&mut self) -> Result<(String, Result<Value, DriverError>), DriverError> {
        std::future::pending().await
    }
}

/// Why a driver did not do something. Texts are for people and say what they can change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The device does not answer, or the connection broke: it is offline and will be connected anew.
    #[error("{0}")]
    Lost(String),
    /// The device answered that this does not go, or gave something that is no value. The connection stands.
    #[error("{0}")]
    Refused(String),
    /// The manifest must change first.
    #[error(transparent)]
    Setting(#[from] SettingError),
}

/// Whatever breaks on the way to a device means that it is lost: `?` after a call of the network or a serial port.
impl From<std::io::Error> for DriverError {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// What the device gave is no value of the property's type: `property.kind.parse(text)?`.
impl From<NoValue> for DriverError {
    fn from(wrong: NoValue) -> Self {
        Self::Refused(wrong.to_string())
    }
}

/// A device's name in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    /// Its namespace; empty only from edge nodes older than KubeEdge v1.16.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A device as its manifest and its model describe it.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name.
    pub name: DeviceName,
    /// How to connect: `protocol.configData`, the model's defaults included.
    pub settings: Settings,
    /// What it has. Streams and properties that the model lacks are left out.
    pub properties: Vec<Property>,
    /// Calls that set properties.
    pub methods: Vec<Method>,
    /// How often its state is reported even if unchanged; `None`: not at all.
    pub state_cycle: Option<Duration>,
}

/// A property as its manifest and its model describe it.
#[derive(Clone, Debug, PartialEq)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// The model's type.
    pub kind: Kind,
    /// Whether the model lets it be written.
    pub is_writable: bool,
    /// Smallest value, from the model.
    pub minimum: Option<f64>,
    /// Largest value, from the model.
    pub maximum: Option<f64>,
    /// How to reach it: `visitors.configData`, the model's defaults included.
    pub settings: Settings,
    /// How often it is read; one that goes not to the cloud but elsewhere is read each `report_cycle`.
    pub collect_cycle: Duration,
    /// How often it is pushed elsewhere.
    pub report_cycle: Duration,
    /// Whether its value goes to the cloud.
    pub report_to_cloud: bool,
    /// What somebody wants it to be, as text; `None` when nobody does.
    pub desired: Option<String>,
}

/// A call that sets properties, offered over the mapper's REST interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// What it does, for people.
    pub description: String,
    /// Properties that it may set.
    pub properties: Vec<String>,
}

/// A device that nobody described yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovered {
    /// A name that stays the same as long as the device does: a serial number, an address. Letters, digits and `-`.
    pub id: String,
    /// What is known of it (maker, model, address, ...): rules look at these.
    pub data: Settings,
    /// Settings with which [`Driver::connect`] reaches it.
    pub settings: Settings,
}
