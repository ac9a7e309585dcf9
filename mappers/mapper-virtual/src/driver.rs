//! Simulated devices: ramps, sine waves, seeded chance, counters, and set-points that can be written.
//!
//! Read this file from top to bottom to learn how a driver is written. It has three parts: what can be configured, how a
//! device is connected, how its properties are read and written. Everything else (cycles, reports, ranges, reconnects,
//! REST) the SDK does.
//!
//! ```yaml
//! # The device in Kubernetes:
//! protocol:
//!   protocolName: virtual
//!   configData: {seed: 7}            # the same seed, the same chance
//! properties:
//! - name: temperature
//!   visitors:
//!     protocolName: virtual
//!     configData: {simulate: sine, low: 15, high: 25, period: 60}
//! ```

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mapper_sdk::{
    Access, Connection, DeviceName, DeviceSettings, Driver, DriverError, Kind, PropertyName,
    PropertySettings, Sample, SettingError, Settings, Value, async_trait,
};

// ---- 1. What can be configured

/// What a property does. Made from its `visitors.configData` at each read: parsing costs nothing beside a field bus.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Simulation {
    /// From `low` to `high` within a period, then from `low` again.
    Ramp(Wave),
    /// Around the middle of `low` and `high`.
    Sine(Wave),
    /// Anywhere between `low` and `high`, another number each period.
    Random(Wave),
    /// What was last written; `low` before that.
    SetPoint(Wave),
    /// How often it was read: shows whether a value was lost on its way.
    Counter,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Wave {
    low: f64,
    high: f64,
    period: Duration,
}

impl Simulation {
    /// `Settings` finds keys in any case and takes numbers written as text. Errors name the key and what is allowed; the
    /// SDK logs them with device and property, and the device becomes `unhealthy`.
    fn of(property: &PropertySettings) -> Result<Self, SettingError> {
        let visitor: &Settings = &property.visitor;
        let low = visitor.real(&["low"])?.unwrap_or(0.0);
        let high = visitor.real(&["high"])?.unwrap_or(100.0);
        let seconds = visitor.real(&["period"])?.unwrap_or(60.0);
        let period = Duration::try_from_secs_f64(seconds).ok().filter(|period| !period.is_zero());
        let period = period.ok_or_else(|| SettingError::new("period", "must be seconds, more than 0"))?;
        let wave = Wave { low, high, period };
        // What can be written is a set-point unless somebody says otherwise.
        let usual = if property.access == Access::ReadWrite { "setpoint" } else { "sine" };
        match visitor.text(&["simulate"]).as_deref().unwrap_or(usual).to_ascii_lowercase().as_str() {
            "ramp" => Ok(Self::Ramp(wave)),
            "sine" => Ok(Self::Sine(wave)),
            "random" => Ok(Self::Random(wave)),
            "setpoint" => Ok(Self::SetPoint(wave)),
            "counter" => Ok(Self::Counter),
            _ => Err(SettingError::new("simulate", "must be ramp, sine, random, setpoint or counter")),
        }
    }

    /// The number that it shows after this long.
    fn number(self, elapsed: Duration, seed: u64) -> f64 {
        let periods = |wave: Wave| elapsed.as_secs_f64() / wave.period.as_secs_f64();
        let between = |wave: Wave, share: f64| wave.low + (wave.high - wave.low) * share;
        match self {
            Self::Ramp(wave) => between(wave, periods(wave).fract()),
            Self::Sine(wave) => between(wave, 0.5 + (periods(wave) * std::f64::consts::TAU).sin() / 2.0),
            Self::Random(wave) => between(wave, chance(seed, periods(wave).floor())),
            Self::SetPoint(wave) => wave.low,
            Self::Counter => 0.0,
        }
    }
}

/// A number from 0 to 1 that looks like chance and is the same for the same seed and step.
fn chance(seed: u64, step: f64) -> f64 {
    // SplitMix64.
    let mut mixed = seed.wrapping_add(step.to_bits()).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    f64::from(u32::try_from(mixed >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

// ---- 2. How a device is connected

/// Written values by device and property. A real device keeps these in itself; here they must outlive its connections.
type Memory = Arc<Mutex<HashMap<(DeviceName, PropertyName), Value>>>;

/// The driver: one for the whole process. It holds what connections share.
#[derive(Default)]
pub(crate) struct VirtualDriver {
    memory: Memory,
}

#[async_trait]
impl Driver for VirtualDriver {
    /// Devices whose `protocolName` is this come to this mapper.
    fn protocol(&self) -> &str {
        "virtual"
    }

    /// Called for every device, and again with growing pauses after it failed or the connection was lost. A real driver
    /// opens its socket here. What is wrong with the device's configuration is said here, once.
    async fn connect(&self, device: &DeviceSettings) -> Result<Box<dyn Connection>, DriverError> {
        let seed = device.protocol.number(&["seed"], "a whole number, 0 or more")?.unwrap_or(0);
        // `unreachable: true` lets you see how a device goes offline.
        if device.protocol.flag(&["unreachable"])?.unwrap_or(false) {
            return Err(DriverError::Lost("its configuration says `unreachable: true`".to_owned()));
        }
        let memory = Arc::clone(&self.memory);
        Ok(Box::new(VirtualDevice { name: device.name.clone(), seed, since: Instant::now(), memory }))
    }
}

// ---- 3. How its properties are read and written

/// One connected device.
struct VirtualDevice {
    name: DeviceName,
    seed: u64,
    since: Instant,
    memory: Memory,
}

#[async_trait]
impl Connection for VirtualDevice {
    /// One answer per property, in order. A real driver may fetch several with one request here.
    ///
    /// Return `Err(DriverError::Lost(..))` from the function when the connection is of no use any more, and
    /// `Err(DriverError::Refused(..))` inside the list when only that property cannot be read.
    async fn read(&mut self, properties: &[&PropertySettings]) -> Result<Vec<Sample>, DriverError> {
        Ok(properties.iter().map(|property| self.sample(property)).collect())
    }

    /// Type and the model's minimum and maximum were checked already.
    async fn write(&mut self, property: &PropertySettings, value: &Value) -> Result<(), DriverError> {
        if !matches!(Simulation::of(property)?, Simulation::SetPoint(_)) {
            return Err(DriverError::Refused(
                "only a property with `simulate: setpoint` can be written".to_owned(),
            ));
        }
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.insert((self.name.clone(), property.name.clone()), value.clone());
        Ok(())
    }
}

impl VirtualDevice {
    fn sample(&self, property: &PropertySettings) -> Sample {
        // `?` turns the `SettingError` into a `DriverError`.
        let simulation = Simulation::of(property)?;
        let place = (self.name.clone(), property.name.clone());
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        match (simulation, memory.get(&place)) {
            (Simulation::SetPoint(_), Some(written)) => return Ok(written.clone()),
            (Simulation::Counter, last) => {
                let next = match last {
                    Some(Value::Int(last)) => Value::Int(last.saturating_add(1)),
                    _ => Value::Int(1),
                };
                memory.insert(place, next.clone());
                return Ok(next);
            }
            _ => {}
        }
        let number = simulation.number(self.since.elapsed(), self.seed);
        // The model says which type a value has.
        #[expect(clippy::cast_possible_truncation, reason = "the bounds of a simulation are small")]
        Ok(match property.kind {
            Kind::Int => Value::Int(number.round() as i64),
            // Two decimals, as a thermometer has.
            Kind::Float => Value::Float(((number * 100.0).round() / 100.0) as f32),
            Kind::Double => Value::Double(number),
            Kind::Bool => Value::Bool(number >= 50.0),
            Kind::Text => Value::Text(format!("{number:.2}")),
            Kind::Bytes => Value::Bytes(number.to_be_bytes().to_vec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use mapper_sdk::Shutdown;
    use mapper_sdk::testing::messages::{RemoveDeviceRequest, UpdateDeviceRequest};
    use mapper_sdk::testing::{FakeEdge, desired, device, model, property};
    use serde_json::json;

    use super::*;

    #[test]
    fn simulations() {
        let wave = Wave { low: 10.0, high: 20.0, period: Duration::from_secs(4) };
        let check = |simulation: Simulation, seconds: u64, expected: f64| {
            let number = simulation.number(Duration::from_secs(seconds), 0);
            assert!((number - expected).abs() < 1e-9, "{simulation:?} after {seconds} s: {number}");
        };
        check(Simulation::Ramp(wave), 0, 10.0);
        check(Simulation::Ramp(wave), 3, 17.5);
        check(Simulation::Ramp(wave), 4, 10.0);
        check(Simulation::Sine(wave), 0, 15.0);
        check(Simulation::Sine(wave), 1, 20.0);
        check(Simulation::SetPoint(wave), 9, 10.0);
        let random = |seed, seconds| Simulation::Random(wave).number(Duration::from_secs(seconds), seed);
        assert!((random(1, 0) - random(1, 3)).abs() < 1e-9);
        assert!((random(1, 0) - random(2, 0)).abs() > 1e-9);
        assert!((10.0..=20.0).contains(&random(3, 8)));
    }

    /// The whole mapper against a node: this is how a driver is tested.
    #[tokio::test]
    async fn a_device_is_registered_read_written_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let mut edge = FakeEdge::start(directory.path()).unwrap();
        let mut room = model("plant", "room", &[("set", "INT", "ReadWrite"), ("heat", "FLOAT", "ReadOnly")]);
        room.spec.as_mut().unwrap().properties[0].maximum = "30".to_owned();
        let wanted = |value: &str| {
            let set = desired(property("set", json!({})), value);
            device("plant", "room-1", "room", json!({"Seed": "7"}), vec![set, property("heat", json!({}))])
        };
        edge.hand_out(vec![room], vec![wanted("20")]);
        let (trigger, stop) = Shutdown::new();
        let mapper = tokio::spawn(mapper_sdk::run_until(VirtualDriver::default(), edge.config(), stop));

        // Registered with its socket; the desired value written, both properties reported, and twice at start.
        edge.until(|seen| (seen.value("plant/room-1", "set")? == ("20", "20")).then_some(())).await.unwrap();
        edge.until(|seen| seen.n_reports.values().all(|n| *n >= 2).then_some(())).await.unwrap();
        edge.until(|seen| (seen.state("plant/room-1")? == "online").then_some(())).await.unwrap();
        let registered = edge.record().registrations[0].clone();
        assert_eq!((registered.protocol.as_str(), registered.state.as_str()), ("virtual", "ok"));

        // Another desired value, then one that the model does not allow.
        let mut client = edge.mapper().unwrap();
        client.update_device(UpdateDeviceRequest { device: Some(wanted("22")) }).await.unwrap();
        edge.until(|seen| (seen.value("plant/room-1", "set")? == ("22", "22")).then_some(())).await.unwrap();
        client.update_device(UpdateDeviceRequest { device: Some(wanted("99")) }).await.unwrap();
        edge.until(|seen| (seen.state("plant/room-1")? == "unhealthy").then_some(())).await.unwrap();
        assert_eq!(edge.record().value("plant/room-1", "set"), Some(("22", "22")));

        // The node crashes and has the old wish: the mapper registers again by itself.
        edge.hand_out(Vec::new(), vec![wanted("21")]);
        edge.restart().unwrap();
        edge.until(|seen| (seen.registrations.len() >= 2).then_some(())).await.unwrap();
        edge.until(|seen| (seen.value("plant/room-1", "set")? == ("21", "21")).then_some(())).await.unwrap();
        edge.until(|seen| (seen.state("plant/room-1")? == "online").then_some(())).await.unwrap();

        // Removed, also if it never was.
        let mut client = edge.mapper().unwrap();
        for name in ["room-1", "room-2"] {
            let request =
                RemoveDeviceRequest { device_name: name.to_owned(), device_namespace: "plant".to_owned() };
            client.remove_device(request).await.unwrap();
        }
        edge.until(|seen| (seen.state("plant/room-1")? == "offline").then_some(())).await.unwrap();
        trigger.stop();
        mapper.await.unwrap().unwrap();
    }
}
