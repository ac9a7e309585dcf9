//! What the SDK calls: connects, reads what is due in few requests, writes.
//!
//! Never reconnects or retries by itself: the SDK does, when a connection is lost.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use mapper_sdk::value::Value;
use mapper_sdk::{Connection, Device, Driver, DriverError, Property, SettingError};
use tokio::sync::Semaphore;
use tokio_modbus::ExceptionCode;

use crate::codec::{Codec, Data};
use crate::group::{Grouping, Request, Span};
use crate::settings::{self, Way};
use crate::wire::{Wire, WireError};

/// Modbus over TCP and serial lines.
#[derive(Debug, Default)]
pub struct Modbus {
    /// Whose turn it is on each serial line, by device file. As many as the manifests name.
    lines: Mutex<BTreeMap<PathBuf, Arc<Semaphore>>>,
}

impl Modbus {
    fn turn(&self, path: &str) -> Arc<Semaphore> {
        // One line may have several names: /dev/serial/by-id has links.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lines.entry(path).or_insert_with(|| Arc::new(Semaphore::new(1))))
    }
}

#[async_trait]
impl Driver for Modbus {
    type Connection = ModbusConnection;

    fn protocol(&self) -> &'static str {
        "modbus"
    }

    async fn connect(&self, device: &Device) -> Result<ModbusConnection, DriverError> {
        let protocol = settings::protocol(&device.settings)?;
        let wire = match &protocol.way {
            Way::Tcp { host, port } => Wire::over_tcp(&protocol, host, *port).await?,
            Way::Rtu(line) => Wire::over_line(&protocol, line, self.turn(&line.path))?,
        };
        Ok(ModbusConnection { wire, codecs: BTreeMap::new(), grouping: Grouping::default() })
    }
}

/// One unit that was reached.
pub struct ModbusConnection {
    wire: Wire,
    /// By the property's name; a connection lives no longer than its manifest.
    codecs: BTreeMap<String, Result<Codec, SettingError>>,
    grouping: Grouping,
}

#[async_trait]
impl Connection for ModbusConnection {
    async fn read(
        &mut self,
        properties: &[&Property],
    ) -> Result<Vec<Result<Value, DriverError>>, DriverError> {
        let codecs: Vec<Result<Codec, SettingError>> =
            properties.iter().map(|property| self.codec(property)).collect();
        // Properties whose settings are wrong ask for nothing.
        let asked: Vec<(usize, Span)> = codecs
            .iter()
            .enumerate()
            .filter_map(|(place, codec)| Some((place, codec.as_ref().ok()?.span)))
            .collect();
        let spans: Vec<Span> = asked.iter().map(|(_, span)| *span).collect();

        let mut found: BTreeMap<usize, Result<Data, DriverError>> = BTreeMap::new();
        for request in self.grouping.requests(&spans) {
            for (member, data) in self.ask(&request, &spans).await? {
                if let Some((place, _)) = asked.get(member) {
                    found.insert(*place, data);
                }
            }
        }
        Ok(codecs
            .into_iter()
            .enumerate()
            .map(|(place, codec)| {
                let codec = codec?;
                let data = found
                    .remove(&place)
                    .unwrap_or_else(|| Err(DriverError::Refused(format!("{}: not read", codec.span))))?;
                codec.read(&data).map_err(|error| refused(codec.span, &error))
            })
            .collect())
    }

    async fn write(&mut self, property: &Property, value: &Value) -> Result<(), DriverError> {
        let codec = self.codec(property)?;
        codec.check_writable()?;
        let current =
            if codec.reads_first() { self.wire.read(codec.span).await? } else { Data::zeros(codec.span) };
        let data = codec.write(value, &current).map_err(|error| refused(codec.span, &error))?;
        Ok(self.wire.write(codec.span, &data).await?)
    }

    /// Each request has the device's `timeout`, and on a line waits for as many others as there are units.
    fn has_limit(&self) -> bool {
        true
    }
}

fn refused(span: Span, why: &dyn std::fmt::Display) -> DriverError {
    DriverError::Refused(format!("{span}: {why}"))
}

impl ModbusConnection {
    fn codec(&mut self, property: &Property) -> Result<Codec, SettingError> {
        if let Some(codec) = self.codecs.get(&property.name) {
            return codec.clone();
        }
        let codec = Codec::of(property);
        self.codecs.insert(property.name.clone(), codec.clone());
        codec
    }

    /// Each member's data. A request that is refused as a whole is asked again member by member, so that one bad address
    /// does not take its neighbours down.
    async fn ask(
        &mut self,
        request: &Request,
        spans: &[Span],
    ) -> Result<Vec<(usize, Result<Data, DriverError>)>, DriverError> {
        let members: Vec<(usize, Span)> =
            request.members.iter().filter_map(|member| Some((*member, *spans.get(*member)?))).collect();
        let code = match self.wire.read(request.span).await {
            Ok(data) => {
                let part = |span| {
                    let nothing = || DriverError::Refused(format!("{span}: not in the answer"));
                    data.part(request.span, span).ok_or_else(nothing)
                };
                return Ok(members.into_iter().map(|(member, span)| (member, part(span))).collect());
            }
            Err(WireError::Exception(code, _)) => code,
            Err(lost) => return Err(lost.into()),
        };
        // A device that is busy is so for all; and what was asked alone was refused alone.
        let is_busy = matches!(code, ExceptionCode::ServerDeviceBusy | ExceptionCode::Acknowledge);
        if is_busy || members.iter().all(|(_, span)| *span == request.span) {
            let refused = |span| Err(WireError::Exception(code, span).into());
            return Ok(members.into_iter().map(|(member, span)| (member, refused(span))).collect());
        }
        self.ask_apart(code, members).await
    }

    async fn ask_apart(
        &mut self,
        code: ExceptionCode,
        members: Vec<(usize, Span)>,
    ) -> Result<Vec<(usize, Result<Data, DriverError>)>, DriverError> {
        let mut answers = Vec::with_capacity(members.len());
        let mut bad = Vec::new();
        for (member, span) in &members {
            let answer = match self.wire.read(*span).await {
                Ok(data) => Ok(data),
                Err(refusal @ WireError::Exception(..)) => {
                    bad.push(*span);
                    Err(refusal.into())
                }
                Err(lost) => return Err(lost.into()),
            };
            answers.push((*member, answer));
        }
        // Where all are bad the device may be in trouble for a while: that teaches nothing about addresses.
        let is_lasting = code == ExceptionCode::IllegalDataAddress || bad.len() < members.len();
        if is_lasting {
            // None is bad alone: it was something between them.
            let apart = if bad.is_empty() { members.iter().map(|(_, span)| *span).collect() } else { bad };
            apart.into_iter().for_each(|span| self.grouping.set_apart(span));
        }
        Ok(answers)
    }
}
