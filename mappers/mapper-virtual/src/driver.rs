//! Simulated devices. Start your own mapper from a copy of this file: it shows all that a driver must do.
//!
//! The SDK calls it, from one task per device; it never calls the SDK, and knows neither edgecore nor Kubernetes.
//!
//! A property's `visitors.configData` says what it is:
//! - `signal: counter` adds 1 with every read,
//! - `signal: ramp` goes from `low` to `high` and begins again, `signal: sine` swings between them; `periodSecs` is how long
//!   one turn takes,
//! - `signal: random` is between `low` and `high`; `seed` makes it the same every time,
//! - `signal: setpoint`, or no `signal` at all, reads what was written last.

use std::collections::BTreeMap;
use std::time::Instant;

use mapper_sdk::{Connection, Device, Driver, DriverError, Kind, Property, Value, async_trait};

/// The protocol. It holds nothing, as simulated devices share nothing; a driver of a bus would hold the bus.
pub(crate) struct Virtual;

/// One device.
pub(crate) struct Simulation {
    begin: Instant,
    /// Counters, and the state of chance, by property.
    numbers: BTreeMap<String, u64>,
    /// Set-points by property.
    written: BTreeMap<String, Value>,
}

#[async_trait]
impl Driver for Virtual {
    type Connection = Simulation;

    /// Devices whose `protocolName` is this one come here.
    fn protocol(&self) -> &'static str {
        "virtual"
    }

    /// A real driver opens a socket or a port here, with what `device.settings` say. If nobody answers it gives
    /// `DriverError::Lost`, and the SDK calls again later; if a setting is wrong, the `SettingError` itself by `?`. Settings of a
    /// property are looked at when it is read: a wrong one stops no other, and the SDK tells people which it is.
    async fn connect(&self, _device: &Device) -> Result<Simulation, DriverError> {
        Ok(Simulation { begin: Instant::now(), numbers: BTreeMap::new(), written: BTreeMap::new() })
    }
}

#[async_trait]
impl Connection for Simulation {
    /// Called for each property that is due. A real driver gives `DriverError::Lost` when the device does not answer (`?`
    /// after a socket's call does); one that reads neighbours with one request has `read` instead.
    async fn read_one(&mut self, property: &Property) -> Result<Value, DriverError> {
        self.value(property)
    }

    /// The SDK has checked the type and the model's limits already.
    async fn write(&mut self, property: &Property, value: &Value) -> Result<(), DriverError> {
        if Signal::of(property)? != Signal::SetPoint {
            // The device's own no: the SDK tells people and keeps the connection.
            return Err(DriverError::Refused(format!("{} is a signal and cannot be written", property.name)));
        }
        self.written.insert(property.name.clone(), value.clone());
        Ok(())
    }
}

impl Simulation {
    fn value(&mut self, property: &Property) -> Result<Value, DriverError> {
        let secs = self.begin.elapsed().as_secs_f64();
        let number = self.numbers.entry(property.name.clone()).or_default();
        let number = match Signal::of(property)? {
            Signal::SetPoint => {
                let nothing = if matches!(property.kind, Kind::Text | Kind::Bytes) { "" } else { "0" };
                let written = self.written.get(&property.name).cloned();
                return written.map_or_else(|| parse(property, nothing), Ok);
            }
            Signal::Counter => {
                *number = number.wrapping_add(1);
                return parse(property, &number.to_string());
            }
            Signal::Ramp(range, period) => range.at((secs / period).fract()),
            Signal::Sine(range, period) => {
                range.at((secs / period * std::f64::consts::TAU).sin() / 2.0 + 0.5)
            }
            Signal::Random(range, seed) => {
                // SplitMix64: the same seed gives the same numbers, everywhere.
                *number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = seed.wrapping_add(*number);
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^= mixed >> 31;
                range.at(f64::from((mixed >> 32) as u32) / f64::from(u32::MAX))
            }
        };
        match property.kind {
            Kind::Int => parse(property, &number.round().to_string()),
            _ => parse(property, &number.to_string()),
        }
    }
}

/// The property's type makes the value. A text that is none is the device's answer, so the connection stands.
fn parse(property: &Property, text: &str) -> Result<Value, DriverError> {
    Ok(property.kind.parse(text)?)
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    low: f64,
    high: f64,
}

impl Range {
    fn at(self, part: f64) -> f64 {
        self.low + (self.high - self.low) * part
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Signal {
    SetPoint,
    Counter,
    /// Seconds of one turn.
    Ramp(Range, f64),
    Sine(Range, f64),
    Random(Range, u64),
}

impl Signal {
    /// Reads a property's settings. `Settings` takes care of capitals, of numbers that are texts, and of good errors.
    fn of(property: &Property) -> Result<Self, DriverError> {
        let settings = &property.settings;
        let words = ["counter", "ramp", "sine", "random", "setpoint"];
        let word = settings.word(&["signal"], &words, "counter, ramp, sine, random or setpoint")?;
        let number =
            |key, default: f64| Ok::<_, DriverError>(settings.number(&[key], "a number")?.unwrap_or(default));
        let range = Range { low: number("low", 0.0)?, high: number("high", 100.0)? };
        let period = number("periodSecs", 60.0)?.max(0.001);
        let seed = settings.integer(&["seed"], 0, i64::MAX, "a whole number, 0 or more")?.unwrap_or_default();
        Ok(match word {
            Some("counter") => Self::Counter,
            Some("ramp") => Self::Ramp(range, period),
            Some("sine") => Self::Sine(range, period),
            Some("random") => Self::Random(range, seed),
            _ => Self::SetPoint,
        })
    }
}

#[cfg(test)]
mod tests;
