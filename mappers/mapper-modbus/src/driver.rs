//! Registers to values, for the SDK: which requests a cycle needs, and what their answers mean for each property.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use mapper_sdk::{
    Connection, DeviceSettings, Driver, DriverError, PropertySettings, Sample, SettingError, Value,
    async_trait,
};

use crate::group::{Group, Limits, groups};
use crate::line::{Failure, Line};
use crate::settings::{DeviceKeys, Held, Point, Span, Table, Target};

/// The driver. It knows the serial lines that devices share.
#[derive(Default)]
pub(crate) struct ModbusDriver {
    lines: Mutex<HashMap<String, Weak<Line>>>,
}

#[async_trait]
impl Driver for ModbusDriver {
    fn protocol(&self) -> &str {
        "modbus"
    }

    async fn connect(&self, device: &DeviceSettings) -> Result<Box<dyn Connection>, DriverError> {
        let keys = DeviceKeys::of(&device.protocol)?;
        let is_rs485 = device.protocol.flag(&["rs485Enabled"])?.unwrap_or(false)
            || device.protocol.text(&["serialType"]).is_some_and(|kind| kind.eq_ignore_ascii_case("rs485"));
        if is_rs485 {
            tracing::debug!(device = %device.name, "RS485: the adapter must switch direction by itself");
        }
        let line = self.line(&keys.target)?;
        line.open(keys.timeout).await?;
        Ok(Box::new(ModbusDevice {
            line,
            unit: keys.unit,
            timeout: keys.timeout,
            limits: keys.limits,
            alone: BTreeSet::new(),
        }))
    }

    /// Every request has a limit of its own; this one covers the queue of a serial line with silent devices on it.
    fn call_limit(&self) -> Duration {
        Duration::from_secs(120)
    }
}

impl ModbusDriver {
    /// A connection of its own for TCP; the one of its path for a serial line.
    fn line(&self, target: &Target) -> Result<Arc<Line>, SettingError> {
        let Target::Rtu(serial) = target else { return Ok(Arc::new(Line::new(target.clone()))) };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(&serial.path).and_then(Weak::upgrade) {
            if line.target != *target {
                let text = "another device uses this line with another speed, parity or number of bits";
                return Err(SettingError::new("serialPort", text));
            }
            return Ok(line);
        }
        let line = Arc::new(Line::new(target.clone()));
        lines.insert(serial.path.clone(), Arc::downgrade(&line));
        Ok(line)
    }
}

struct ModbusDevice {
    line: Arc<Line>,
    unit: u8,
    timeout: Duration,
    limits: Limits,
    /// What the device refused; asked for separately, so that it does not spoil the others' request.
    alone: BTreeSet<Span>,
}

#[async_trait]
impl Connection for ModbusDevice {
    async fn read(&mut self, properties: &[&PropertySettings]) -> Result<Vec<Sample>, DriverError> {
        let points: Vec<Result<Point, SettingError>> =
            properties.iter().map(|property| Point::of(property)).collect();
        let mut samples: Vec<Option<Sample>> = points.iter().map(|_| None).collect();
        let wanted: Vec<(usize, &Point)> = points
            .iter()
            .enumerate()
            .filter_map(|(index, point)| Some((index, point.as_ref().ok()?)))
            .collect();
        let spans: Vec<Span> = wanted.iter().map(|(_, point)| point.span).collect();
        for group in self.requests(&spans) {
            let members = group.members.iter().filter_map(|member| wanted.get(*member));
            for ((index, point), held) in members.zip(self.fetch(&group, &spans).await?) {
                let sample = held.and_then(|held| {
                    point.decode(&held).map_err(|error| DriverError::Refused(error.to_string()))
                });
                if let Some(place) = samples.get_mut(*index) {
                    *place = Some(sample);
                }
            }
        }
        let unread = || Err(DriverError::Refused("it was not read".to_owned()));
        let joined = samples.into_iter().zip(points).map(|(sample, point)| match point {
            Ok(_) => sample.unwrap_or_else(unread),
            Err(error) => Err(error.into()),
        });
        Ok(joined.collect())
    }

    async fn write(&mut self, property: &PropertySettings, value: &Value) -> Result<(), DriverError> {
        let point = Point::of(property)?;
        if !matches!(point.span.table, Table::Coil | Table::Holding) {
            let text = "only CoilRegister and HoldingRegister can be written";
            return Err(SettingError::new("register", text).into());
        }
        let current = if point.keeps_bits() {
            self.line.read(self.unit, self.timeout, point.span).await?
        } else {
            Held::zero(point.span)
        };
        // Will never fit, however often it is tried.
        let held =
            point.encode(value, &current).map_err(|error| SettingError::new("value", error.to_string()))?;
        Ok(self.line.write(self.unit, self.timeout, point.span.offset, held).await?)
    }
}

impl ModbusDevice {
    fn requests(&self, spans: &[Span]) -> Vec<Group> {
        let together: Vec<usize> = (0..spans.len()).filter(|index| !self.is_alone(spans, *index)).collect();
        let near: Vec<Span> = together.iter().filter_map(|index| spans.get(*index).copied()).collect();
        let mut requests = groups(&near, self.limits);
        for group in &mut requests {
            group.members =
                group.members.iter().filter_map(|member| together.get(*member).copied()).collect();
        }
        let alone = spans.iter().enumerate().filter(|(index, _)| self.is_alone(spans, *index));
        requests.extend(alone.map(|(index, span)| Group { span: *span, members: vec![index] }));
        requests
    }

    fn is_alone(&self, spans: &[Span], index: usize) -> bool {
        spans.get(index).is_some_and(|span| self.alone.contains(span))
    }

    /// An answer for each member of the group. Errors: the connection is lost.
    async fn fetch(
        &mut self,
        group: &Group,
        spans: &[Span],
    ) -> Result<Vec<Result<Held, DriverError>>, DriverError> {
        let members: Vec<Span> =
            group.members.iter().filter_map(|member| spans.get(*member).copied()).collect();
        let together = self.line.read(self.unit, self.timeout, group.span).await;
        let refused = match together {
            Ok(held) => {
                let short = || DriverError::Refused("the device's answer was too short".to_owned());
                return Ok(members
                    .iter()
                    .map(|span| held.part(group.span, *span).ok_or_else(short))
                    .collect());
            }
            Err(Failure::Lost(reason)) => return Err(DriverError::Lost(reason)),
            Err(refused) => DriverError::from(refused),
        };
        if let [span] = members.as_slice() {
            self.alone.insert(*span);
            return Ok(vec![Err(refused)]);
        }
        // One of them is to blame: each is asked for by itself, this time and the bad one from now on.
        let mut answers = Vec::new();
        for span in &members {
            answers.push(match self.line.read(self.unit, self.timeout, *span).await {
                Ok(held) => held.part(*span, *span).ok_or_else(|| refused.clone()),
                Err(Failure::Lost(reason)) => return Err(DriverError::Lost(reason)),
                Err(failure) => {
                    self.alone.insert(*span);
                    Err(failure.into())
                }
            });
        }
        if answers.iter().all(Result::is_ok) {
            // None is: then it was too much at once for this device.
            let half = (group.span.n / 2).max(1);
            let limits = &mut self.limits;
            if group.span.table.is_bits() { limits.coils = half } else { limits.registers = half }
        }
        Ok(answers)
    }
}

impl From<Failure> for DriverError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Lost(reason) => Self::Lost(reason),
            refused @ (Failure::Exception(_) | Failure::Wrong(_)) => Self::Refused(refused.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
