//! Values that go elsewhere than to the cloud: `pushMethod` of a Device's properties.
//!
//! `settings.rs` reads what a manifest wants. [`Pushes`] holds the newest values of one device and says at each cycle which
//! go out; `format.rs` makes the texts; `line.rs` has a queue and a task for each target, and the files beside it know how
//! one sort of target is spoken to. Nothing here makes a device or the cloud wait. Called by `device.rs`.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use crate::driver::DeviceName;
use crate::sampler::Sampler;
use crate::value::Value;

pub(crate) mod address;
pub(crate) mod format;
mod http;
mod influx;
mod line;
#[cfg(feature = "push-mqtt")]
mod mqtt;
#[cfg(feature = "push-mysql")]
mod mysql;
mod otlp;
mod queue;
mod redis;
pub(crate) mod secrets;
pub(crate) mod settings;
mod tdengine;
#[cfg(test)]
mod tests;

use format::Sample;
use line::Lines;
use secrets::Secrets;
use settings::{Bucket, Collector, Form, Push, Redis, TdEngine, To};

/// All targets of a mapper. One for all devices.
pub(crate) struct Targets {
    forms: Lines<Form>,
    collectors: Lines<Collector>,
    buckets: Lines<Bucket>,
    redis: Lines<Redis>,
    tdengine: Lines<TdEngine>,
    #[cfg(feature = "push-mqtt")]
    brokers: Lines<settings::Broker>,
    #[cfg(feature = "push-mysql")]
    mysql: Lines<settings::MySql>,
}

/// Takes a sample to a target's queue; it never waits.
type Outlet = Box<dyn Fn(&Sample) + Send + Sync>;

impl Targets {
    pub(crate) fn new(secrets: Secrets) -> Self {
        let secrets = Arc::new(secrets);
        Self {
            forms: Lines::new(Arc::clone(&secrets)),
            collectors: Lines::new(Arc::clone(&secrets)),
            buckets: Lines::new(Arc::clone(&secrets)),
            redis: Lines::new(Arc::clone(&secrets)),
            tdengine: Lines::new(Arc::clone(&secrets)),
            #[cfg(feature = "push-mqtt")]
            brokers: Lines::new(Arc::clone(&secrets)),
            #[cfg(feature = "push-mysql")]
            mysql: Lines::new(secrets),
        }
    }

    fn outlet(&self, to: &To) -> Outlet {
        match to.clone() {
            To::Http(form) => {
                let line = self.forms.to(&form);
                Box::new(move |sample| line.push(whose(sample), format::form(sample)))
            }
            To::Otlp(collector) => {
                let line = self.collectors.to(&collector);
                Box::new(move |sample| match format::gauge(sample) {
                    Some(gauge) => line.push(whose(sample), gauge),
                    // A driver that gives a text for a number: rare, and told by nobody else.
                    None => {
                        tracing::debug!(property = whose(sample), "a value is no number and is not pushed")
                    }
                })
            }
            To::Influx(bucket, point) => {
                let line = self.buckets.to(&bucket);
                Box::new(move |sample| line.push(whose(sample), format::line(sample, &point)))
            }
            To::Redis(redis) => {
                let line = self.redis.to(&redis);
                Box::new(move |sample| {
                    let (key, score) = (sample.device.name.clone(), sample.ms());
                    line.push(whose(sample), redis::Member { key, score, member: format::member(sample) });
                })
            }
            To::TdEngine(tdengine) => {
                let line = self.tdengine.to(&tdengine);
                Box::new(move |sample| {
                    let (create, insert) = format::super_table(sample);
                    line.push(whose(sample), tdengine::Row { create, insert });
                })
            }
            #[cfg(feature = "push-mqtt")]
            To::Mqtt(broker, topic) => {
                let line = self.brokers.to(&broker);
                Box::new(move |sample| {
                    let text = format::message(sample, &topic.name);
                    let settings::Topic { name: topic, qos, is_retained } = topic.clone();
                    line.push(whose(sample), mqtt::Message { topic, text, qos, is_retained });
                })
            }
            #[cfg(feature = "push-mysql")]
            To::MySql(mysql) => {
                let line = self.mysql.to(&mysql);
                Box::new(move |sample| {
                    let device = &sample.device;
                    let table = format::table(&device.namespace, &device.name, &sample.property);
                    let (time, value) = (format::date_time(sample.time), sample.value.to_string());
                    line.push(whose(sample), mysql::Row { table, time, value });
                })
            }
            // `settings.rs` lets nothing through that is not built in.
            #[cfg(not(all(feature = "push-mqtt", feature = "push-mysql")))]
            _ => Box::new(|_| {}),
        }
    }
}

/// Device and property, for people.
fn whose(sample: &Sample) -> String {
    format!("{} {}", sample.device, sample.property)
}

/// The pushes of one device.
pub(crate) struct Pushes {
    device: DeviceName,
    entries: Vec<Entry>,
}

struct Entry {
    push: Push,
    outlet: Outlet,
    /// Of this push alone.
    when: Sampler,
    /// `None`: not known, or not any more. Then nothing is pushed.
    newest: Option<Value>,
}

impl Pushes {
    /// Each is due as soon as there is a value.
    pub(crate) fn new(targets: &Targets, device: &DeviceName, pushes: &[Push], now: Duration) -> Self {
        let entries = pushes.iter().map(|push| Entry {
            push: push.clone(),
            outlet: targets.outlet(&push.to),
            when: Sampler::new([(0, push.cycle)], now),
            newest: None,
        });
        Self { device: device.clone(), entries: entries.collect() }
    }

    /// Whether these are what a manifest wants.
    pub(crate) fn are(&self, pushes: &[Push]) -> bool {
        self.entries.iter().map(|entry| &entry.push).eq(pushes)
    }

    /// Whether values of a property are pushed anywhere.
    pub(crate) fn take(&self, property: &str) -> bool {
        self.entries.iter().any(|entry| entry.push.property == property)
    }

    /// What a property is now.
    pub(crate) fn note(&mut self, property: &str, value: &Value) {
        for entry in self.entries.iter_mut().filter(|entry| entry.push.property == property) {
            entry.newest = Some(value.clone());
        }
    }

    /// What a property is now is not known: an old value is not pushed as if it were new.
    pub(crate) fn forget(&mut self, property: &str) {
        for entry in self.entries.iter_mut().filter(|entry| entry.push.property == property) {
            entry.newest = None;
        }
    }

    /// The device is away.
    pub(crate) fn forget_all(&mut self) {
        for entry in &mut self.entries {
            entry.newest = None;
        }
    }

    /// Sends what is due on its way. `time`: what it is told to be.
    pub(crate) fn push_due(&mut self, now: Duration, time: OffsetDateTime) {
        for entry in &mut self.entries {
            let Some(value) = &entry.newest else { continue };
            if entry.when.take_due(now).is_empty() {
                continue;
            }
            (entry.outlet)(&Sample {
                device: self.device.clone(),
                property: entry.push.property.clone(),
                kind: entry.push.kind,
                value: value.clone(),
                time,
            });
        }
    }

    /// When something is due next.
    #[must_use]
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let known = self.entries.iter().filter(|entry| entry.newest.is_some());
        known.filter_map(|entry| entry.when.next_due()).min()
    }
}
