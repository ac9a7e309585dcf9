//! What the SDK calls: one connection to a broker per device; values come by themselves, writes are messages.
//!
//! A property that is wrong, or that the broker does not let us hear, is that property's error; only the loss of the
//! connection is the device's. Never asks a device for anything: MQTT has no questions.

use std::collections::BTreeMap;

use async_trait::async_trait;
use mapper_sdk::value::Value;
use mapper_sdk::{Connection, Device, Driver, DriverError, Property, SettingError, Settings};
use rumqttc::QoS;

use crate::inbox::Known;
use crate::link::{Link, News, Route};
use crate::settings::{Broker, Visitor};

/// Devices that speak MQTT.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mqtt;

#[async_trait]
impl Driver for Mqtt {
    type Connection = MqttConnection;

    fn protocol(&self) -> &'static str {
        "mqtt"
    }

    async fn connect(&self, device: &Device) -> Result<MqttConnection, DriverError> {
        let broker = Broker::of(device)?;
        let mut properties = BTreeMap::new();
        let (mut names, mut routes, mut max_ages) = (Vec::new(), Vec::new(), Vec::new());
        let mut filters: BTreeMap<String, QoS> = BTreeMap::new();
        for property in &device.properties {
            let visitor = Visitor::of(property, &device.settings);
            let mut number = None;
            if let Ok(Visitor { input: Some(filter), qos, path, kind, max_age, .. }) = &visitor {
                number = Some(names.len());
                routes.push(Route {
                    number: names.len(),
                    property: property.name.clone(),
                    filter: filter.clone(),
                    path: path.clone(),
                    kind: *kind,
                });
                names.push(property.name.clone());
                max_ages.push(*max_age);
                // One subscription for all who want it, the best of theirs.
                let best = filters.entry(filter.clone()).or_insert(*qos);
                if (*qos as u8) > (*best as u8) {
                    *best = *qos;
                }
            }
            properties.insert(
                property.name.clone(),
                visitor.map(|visitor| Heard { visitor, number, is_refused: false }),
            );
        }
        let link = Link::open(&broker, routes, max_ages).await?;
        let filters: Vec<(String, QoS)> = filters.into_iter().collect();
        let refused = link.subscribe(&filters).await?;
        for heard in properties.values_mut().flatten() {
            heard.is_refused = heard.visitor.input.as_ref().is_some_and(|filter| refused.contains(filter));
        }
        Ok(MqttConnection { link, names, properties, settings: device.settings.clone() })
    }
}

/// A device whose broker was reached.
pub struct MqttConnection {
    link: Link,
    /// Properties that are told, by their number.
    names: Vec<String>,
    properties: BTreeMap<String, Result<Heard, SettingError>>,
    settings: Settings,
}

struct Heard {
    visitor: Visitor,
    /// `None`: it is only written.
    number: Option<usize>,
    /// The broker does not let us subscribe.
    is_refused: bool,
}

#[async_trait]
impl Connection for MqttConnection {
    async fn read(
        &mut self,
        properties: &[&Property],
    ) -> Result<Vec<Result<Value, DriverError>>, DriverError> {
        let values = properties.iter().map(|property| match self.newest(property) {
            Err(lost @ DriverError::Lost(_)) => Err(lost),
            answer => Ok(answer),
        });
        values.collect()
    }

    async fn write(&mut self, property: &Property, value: &Value) -> Result<(), DriverError> {
        let parsed;
        let visitor = match self.properties.get(&property.name) {
            Some(Ok(heard)) => &heard.visitor,
            Some(Err(error)) => return Err(error.clone().into()),
            None => {
                parsed = Visitor::of(property, &self.settings)?;
                &parsed
            }
        };
        let topic = visitor.output.as_deref().ok_or(SettingError::Missing {
            key: "outputTopic",
            expected: "the topic to write to, because topic has + or # in it",
        })?;
        let refused = |why: &dyn std::fmt::Display| DriverError::Refused(format!("{}: {why}", property.name));
        let message = visitor.template.render(value).map_err(|error| refused(&error))?;
        self.link.publish(topic, message, visitor.qos, visitor.retain).await
    }

    fn is_pushed(&self, property: &Property) -> bool {
        // What is wrong is read instead, and told so.
        matches!(self.properties.get(&property.name), Some(Ok(heard)) if !heard.is_refused)
    }

    async fn pushed(&mut self) -> Result<(String, Result<Value, DriverError>), DriverError> {
        loop {
            let (number, told) = match self.link.next().await? {
                News::Told(number, told) => (number, told.map_err(DriverError::Refused)),
                News::TooOld(number, age) => (number, Err(self.too_old(number, age))),
            };
            if let Some(name) = self.names.get(number) {
                return Ok((name.clone(), told));
            }
        }
    }
}

impl MqttConnection {
    fn newest(&self, property: &Property) -> Result<Value, DriverError> {
        let name = &property.name;
        let refused = |why: String| Err(DriverError::Refused(format!("{name}: {why}")));
        let heard = match self.properties.get(name) {
            Some(Ok(heard)) => heard,
            Some(Err(error)) => return Err(error.clone().into()),
            None => return refused("it was not there when the device was connected".into()),
        };
        let topic = heard.visitor.input.as_deref().unwrap_or_default();
        let Some(number) = heard.number else {
            return refused("it is only written; set topic to where its values come on".into());
        };
        if heard.is_refused {
            return refused(format!("the broker does not let this user subscribe to {topic}"));
        }
        match self.link.known(number)? {
            Known::Told(told) => told.map_err(DriverError::Refused),
            Known::Nothing => refused(format!("no message on {topic} yet")),
            Known::TooOld(age) => Err(self.too_old(number, age)),
        }
    }

    fn too_old(&self, number: usize, age: std::time::Duration) -> DriverError {
        let name = self.names.get(number).map_or("", String::as_str);
        DriverError::Refused(format!(
            "{name}: no message for {} s, longer than maxAgeSecs allows",
            age.as_secs()
        ))
    }
}
