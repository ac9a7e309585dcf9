//! What a field bus must bring to be a mapper: [`Driver`] connects, [`Connection`] reads and writes.
//!
//! Everything else is the SDK's: talking to the node, cycles, reports, ranges and types of writes, reconnects, REST.
//! `mapper-virtual` is the example to copy.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::settings::{DeviceSettings, PropertyName, PropertySettings, SettingError};
use crate::value::Value;

/// A field bus. One for the whole process; it hands out one [`Connection`] per device.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// The `protocolName` of the devices that this driver serves, unless `config.yaml` names another.
    fn protocol(&self) -> &str;

    /// Connects to a device. Called again, with growing pauses, until it succeeds and after each
    /// [`DriverError::Lost`]. What is wrong with the device's configuration is best said here.
    async fn connect(&self, device: &DeviceSettings) -> Result<Box<dyn Connection>, DriverError>;

    /// No single call of a connection may take longer: then it is dropped and made anew.
    fn call_limit(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Devices that answer on the bus and that nobody described yet.
    async fn discover(&self) -> Result<Vec<Discovered>, DriverError> {
        Ok(Vec::new())
    }
}

/// A standing connection to one device. It is used by one task at a time and never after an error of kind `Lost`.
/// A call that takes too long is cancelled where it stands, and the connection dropped.
#[async_trait]
pub trait Connection: Send {
    /// Reads properties: one answer for each, in the order asked. They are due together, so what lies together on the
    /// device may be fetched together. An error inside the list is that property's alone; the outer one is the device's.
    async fn read(&mut self, properties: &[&PropertySettings]) -> Result<Vec<Sample>, DriverError>;

    /// Writes one property. Type and the model's range were checked.
    async fn write(&mut self, property: &PropertySettings, value: &Value) -> Result<(), DriverError>;

    /// Asks the device to send changes by itself through `updates`, and says for which properties it will; those are not
    /// read in cycles. Called once after each connect. By default none.
    async fn subscribe(
        &mut self,
        _properties: &[&PropertySettings],
        _updates: Updates,
    ) -> Result<Vec<PropertyName>, DriverError> {
        Ok(Vec::new())
    }

    /// Carries out a method of the device. By default it writes the property.
    async fn call(
        &mut self,
        _method: &str,
        property: &PropertySettings,
        value: &Value,
    ) -> Result<(), DriverError> {
        self.write(property, value).await
    }

    /// How the device is; asked in its state cycle. By default `Online`, as it is connected.
    async fn state(&mut self) -> Result<DeviceState, DriverError> {
        Ok(DeviceState::Online)
    }
}

/// What reading one property gave.
pub type Sample = Result<Value, DriverError>;

/// Why something did not work. The texts reach the person who wrote the manifest: they name what can be changed and
/// hold no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The connection is of no use any more: the SDK makes a new one.
    #[error("{0}")]
    Lost(String),
    /// The device said no, or its answer makes no sense. The connection stands.
    #[error("{0}")]
    Refused(String),
    /// The configuration cannot work as it is written.
    #[error("{0}")]
    Setting(#[from] SettingError),
}

/// What KubeEdge calls the state of a device, in the words it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// Connected.
    Online,
    /// Not reachable.
    Offline,
    /// All is well; the word of Go mappers.
    Ok,
    /// Reachable, but something is wrong with it.
    Unhealthy,
}

impl DeviceState {
    /// As it is sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Ok => "ok",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// Where a subscribed device's changes go. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Updates(mpsc::Sender<Update>);

/// One change that came by itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Update {
    Sample(PropertyName, Sample),
    Lost(String),
}

impl Updates {
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Update>) {
        // Full: the driver waits in `send`, and so, in good protocols, does the device.
        let (sender, receiver) = mpsc::channel(256);
        (Self(sender), receiver)
    }

    /// A new value of a subscribed property. Waits while the device's task is busy; false when the connection has been
    /// given up and nobody listens any more.
    pub async fn send(&self, property: PropertyName, sample: Sample) -> bool {
        self.0.send(Update::Sample(property, sample)).await.is_ok()
    }

    /// The connection is gone, and no call was under way that could say so.
    pub async fn lost(&self, reason: impl Into<String>) -> bool {
        self.0.send(Update::Lost(reason.into())).await.is_ok()
    }
}

/// A device that was found on the bus.
#[derive(Clone, Debug, PartialEq)]
pub struct Discovered {
    /// The same at every discovery; becomes part of the device's name.
    pub id: String,
    /// How to connect to it, as `protocol.configData` has it.
    pub protocol: serde_json::Map<String, serde_json::Value>,
    /// What else it says about itself, such as maker and type, for rules that choose its model.
    pub facts: std::collections::BTreeMap<String, String>,
}
