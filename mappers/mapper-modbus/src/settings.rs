//! Pure: the keys of a Modbus manifest, and a property's registers to its value and back.
//!
//! Manifests that were published for KubeEdge's mappers work as they are. Errors name the key.

use std::time::Duration;

use mapper_sdk::pipeline::{Encoding, Pipeline, PipelineError};
use mapper_sdk::{Kind, PropertySettings, SettingError, Settings, Value};

use crate::group::Limits;

/// The four kinds of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    Coil,
    DiscreteInput,
    Input,
    Holding,
}

impl Table {
    pub(crate) fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::DiscreteInput)
    }
}

/// Neighbouring registers or coils.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) table: Table,
    pub(crate) offset: u16,
    pub(crate) n: u16,
}

impl Span {
    /// The first offset behind it.
    pub(crate) fn end(&self) -> u32 {
        u32::from(self.offset) + u32::from(self.n)
    }
}

/// Where a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp { host: String, port: u16 },
    Rtu(Serial),
}

/// A serial line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Serial {
    pub(crate) path: String,
    pub(crate) baud: u32,
    pub(crate) data_bits: u8,
    pub(crate) parity: Parity,
    pub(crate) stop_bits: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parity {
    None,
    Even,
    Odd,
}

/// A device's `protocol.configData`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceKeys {
    pub(crate) target: Target,
    pub(crate) unit: u8,
    /// Of one answer.
    pub(crate) timeout: Duration,
    pub(crate) limits: Limits,
}

impl DeviceKeys {
    pub(crate) fn of(settings: &Settings) -> Result<Self, SettingError> {
        let host = settings.text(&["ip", "host"]);
        let path = settings.text(&["serialPort", "serialName"]);
        let mode =
            settings.text(&["communicateMode", "commType", "mode"]).map(|mode| mode.to_ascii_uppercase());
        let is_tcp = match mode.as_deref() {
            Some("TCP") => true,
            Some("RTU") => false,
            Some(_) => return Err(SettingError::new("communicateMode", "must be TCP or RTU")),
            None => host.is_some() || path.is_none(),
        };
        let port = "a port, 1 to 65535";
        let target = if is_tcp {
            let host =
                host.ok_or_else(|| SettingError::new("ip", "must be set, or serialPort for a serial line"))?;
            Target::Tcp { host, port: settings.number(&["port"], port)?.unwrap_or(502) }
        } else {
            let path =
                path.ok_or_else(|| SettingError::new("serialPort", "must be set, such as /dev/ttyUSB0"))?;
            Target::Rtu(Self::serial(settings, path)?)
        };
        let number = settings.real(&["timeout"])?.filter(|number| *number > 0.0).unwrap_or(5.0);
        let seconds = if number < 100.0 { number } else { number / 1000.0 };
        let gap = settings.number(&["maxGap"], "a whole number, 0 to 124")?.unwrap_or(0);
        Ok(Self {
            target,
            unit: settings.number(&["slaveID", "unitID"], "a whole number, 0 to 255")?.unwrap_or(1),
            // Above this the SDK would give up first.
            timeout: Duration::try_from_secs_f64(seconds.min(60.0))
                .map_err(|_| SettingError::new("timeout", "must be a number"))?,
            limits: Limits { gap, ..Limits::default() },
        })
    }

    fn serial(settings: &Settings, path: String) -> Result<Serial, SettingError> {
        let allowed = |key: &str, number: u8, allowed: &[u8], text: &str| {
            if allowed.contains(&number) { Ok(number) } else { Err(SettingError::new(key, text)) }
        };
        let data_bits = settings.number(&["dataBits"], "5, 6, 7 or 8")?.unwrap_or(8);
        let stop_bits = settings.number(&["stopBits"], "1 or 2")?.unwrap_or(1);
        let parity = settings.text(&["parity"]).unwrap_or_default().to_ascii_lowercase();
        Ok(Serial {
            path,
            baud: settings.number(&["baudRate"], "a whole number, such as 9600")?.unwrap_or(9600),
            data_bits: allowed("dataBits", data_bits, &[5, 6, 7, 8], "must be 5, 6, 7 or 8")?,
            parity: match parity.as_str() {
                "" | "none" | "n" => Parity::None,
                "even" | "e" => Parity::Even,
                "odd" | "o" => Parity::Odd,
                _ => return Err(SettingError::new("parity", "must be none, even or odd")),
            },
            stop_bits: allowed("stopBits", stop_bits, &[1, 2], "must be 1 or 2")?,
        })
    }
}

/// A property's `visitors.configData`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) span: Span,
    pipeline: Pipeline,
    /// Decimals that a scaled whole number can have; the rest would be noise of binary fractions.
    decimals: Option<usize>,
}

impl Point {
    pub(crate) fn of(property: &PropertySettings) -> Result<Self, SettingError> {
        let visitor = &property.visitor;
        let register = visitor.text(&["register"]).unwrap_or_default().to_ascii_lowercase();
        let table = match register.strip_suffix("register").unwrap_or(&register) {
            "coil" => Table::Coil,
            "discreteinput" => Table::DiscreteInput,
            "input" => Table::Input,
            "holding" | "" => Table::Holding,
            _ => {
                let text = "must be CoilRegister, DiscreteInputRegister, InputRegister or HoldingRegister";
                return Err(SettingError::new("register", text));
            }
        };
        let offset = visitor.number(&["offset"], "a whole number, 0 to 65535, counted from 0")?.unwrap_or(0);
        let n: u16 = visitor.number(&["limit"], "a whole number, 1 or more")?.unwrap_or(1);
        let span = Span { table, offset, n };
        if span.end() > 65536 {
            return Err(SettingError::new("limit", "reaches beyond the last register, 65535"));
        }
        let kind = match visitor.text(&["dataType"]) {
            Some(text) => Kind::of_model(&text).ok_or_else(|| {
                SettingError::new("dataType", "must be int, float, double, string, boolean or bytes")
            })?,
            None => property.kind,
        };
        let is_signed = visitor.flag(&["signed"])?.unwrap_or(false);
        let whole = if is_signed { Encoding::Signed } else { Encoding::Unsigned };
        let encoding = match kind {
            _ if table.is_bits() => Encoding::Unsigned,
            Kind::Float | Kind::Double if n >= 2 => Encoding::Float,
            Kind::Int | Kind::Bool | Kind::Float | Kind::Double => whole,
            Kind::Text | Kind::Bytes => Encoding::Raw,
        };
        let refused = |text: &str| Err(SettingError::new("limit", text));
        match encoding {
            _ if table.is_bits() && !(1..=64).contains(&n) => {
                return refused("must be 1 to 64 for coils and inputs");
            }
            Encoding::Float if n != 2 && n != 4 => return refused("must be 1, 2 or 4 for FLOAT and DOUBLE"),
            Encoding::Unsigned | Encoding::Signed if !table.is_bits() && !(1..=4).contains(&n) => {
                return refused("must be 1 to 4 for INT and BOOLEAN");
            }
            _ if !(1..=123).contains(&n) => return refused("must be 1 to 123"),
            _ => {}
        }
        let scale = visitor.real(&["scale"])?.filter(|scale| *scale != 0.0).unwrap_or(1.0);
        let added = visitor.real(&["valueOffset"])?.unwrap_or(0.0);
        let mask = match visitor.text(&["mask"]) {
            None => None,
            Some(text) => {
                let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
                    Some(digits) => u64::from_str_radix(digits, 16).ok(),
                    None => text.parse().ok(),
                };
                Some(number.ok_or_else(|| {
                    SettingError::new("mask", "must be a whole number, such as 255 or 0xff")
                })?)
            }
        };
        let shift = visitor.number(&["shift"], "a whole number, 0 to 63")?.unwrap_or(0);
        if shift > 63 {
            return Err(SettingError::new("shift", "must be a whole number, 0 to 63"));
        }
        let is_scaled = (scale, added) != (1.0, 0.0) && encoding != Encoding::Float;
        Ok(Self {
            span,
            decimals: is_scaled.then(|| decimals(scale).max(decimals(added))),
            pipeline: Pipeline {
                swaps_bytes: visitor.flag(&["isSwap"])?.unwrap_or(false) && !table.is_bits(),
                swaps_registers: visitor.flag(&["isRegisterSwap"])?.unwrap_or(false) && !table.is_bits(),
                encoding,
                mask,
                shift,
                scale,
                offset: added,
                ..Pipeline::plain(encoding, property.kind)
            },
        })
    }

    /// The value of what its span holds.
    pub(crate) fn decode(&self, held: &Held) -> Result<Value, PipelineError> {
        let value = self.pipeline.read(&held.bytes())?;
        let Some(decimals) = self.decimals else { return Ok(value) };
        let rounded = |number: f64| format!("{number:.decimals$}").parse().unwrap_or(number);
        Ok(match value {
            Value::Double(number) => Value::Double(rounded(number)),
            other => other,
        })
    }

    /// Whether writing needs what the span holds now: only some of its bits change.
    pub(crate) fn keeps_bits(&self) -> bool {
        self.pipeline.mask.is_some()
    }

    /// What the span must hold to show this value.
    pub(crate) fn encode(&self, value: &Value, current: &Held) -> Result<Held, PipelineError> {
        let bytes = match value {
            // A STRING property whose registers are a number.
            Value::Text(text) if self.pipeline.encoding != Encoding::Raw => {
                let number = Kind::Int.parse(text).or_else(|_| Kind::Double.parse(text));
                let number = number.map_err(|_| PipelineError::Type(format!("{text:?}")))?;
                self.pipeline.write(&number, &current.bytes())?
            }
            value => self.pipeline.write(value, &current.bytes())?,
        };
        Ok(Held::from_bytes(&bytes, self.span))
    }
}

/// How many decimals a number is written with.
fn decimals(number: f64) -> usize {
    number.to_string().split_once('.').map_or(0, |(_, fraction)| fraction.len())
}

/// The content of a span, as the protocol has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    Bits(Vec<bool>),
    Words(Vec<u16>),
}

impl Held {
    pub(crate) fn zero(span: Span) -> Self {
        let n = usize::from(span.n);
        if span.table.is_bits() { Self::Bits(vec![false; n]) } else { Self::Words(vec![0; n]) }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bits(bits) => bits.len(),
            Self::Words(words) => words.len(),
        }
    }

    /// The part that belongs to `inner`. `None`: the answer was too short.
    pub(crate) fn part(&self, outer: Span, inner: Span) -> Option<Self> {
        let from = usize::from(inner.offset.checked_sub(outer.offset)?);
        let range = from..from + usize::from(inner.n);
        Some(match self {
            Self::Bits(bits) => Self::Bits(bits.get(range)?.to_vec()),
            Self::Words(words) => Self::Words(words.get(range)?.to_vec()),
        })
    }

    /// Big end first; of bits the first is the lowest.
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Words(words) => words.iter().flat_map(|word| word.to_be_bytes()).collect(),
            Self::Bits(bits) => {
                let number = bits.iter().rev().fold(0_u64, |number, bit| (number << 1) | u64::from(*bit));
                let n_bytes = bits.len().div_ceil(8);
                number.to_be_bytes().into_iter().skip(8_usize.saturating_sub(n_bytes)).collect()
            }
        }
    }

    fn from_bytes(bytes: &[u8], span: Span) -> Self {
        if span.table.is_bits() {
            let number = bytes.iter().fold(0_u64, |number, byte| (number << 8) | u64::from(*byte));
            return Self::Bits(
                (0..span.n).map(|bit| number.checked_shr(bit.into()).unwrap_or(0) & 1 == 1).collect(),
            );
        }
        let word = |pair: &[u8]| pair.iter().fold(0_u16, |word, byte| (word << 8) | u16::from(*byte));
        Self::Words(bytes.chunks(2).map(word).collect())
    }
}

#[cfg(test)]
mod tests {
    use mapper_sdk::testing;
    use serde_json::{Value as Json, json};

    use super::*;

    #[test]
    fn devices() {
        let check = |settings: Json, expected: &str| {
            let told = match DeviceKeys::of(&Settings::from_json(settings.clone())) {
                Ok(keys) => match keys.target {
                    Target::Tcp { host, port } => {
                        format!("{host}:{port} unit {} {:?}", keys.unit, keys.timeout)
                    }
                    Target::Rtu(line) => format!(
                        "{} {} {}{:?}{} unit {}",
                        line.path, line.baud, line.data_bits, line.parity, line.stop_bits, keys.unit
                    ),
                },
                Err(error) => error.to_string(),
            };
            assert_eq!(told, expected, "{settings}");
        };
        check(json!({"ip": "10.0.0.5"}), "10.0.0.5:502 unit 1 5s");
        check(json!({"Host": "plc", "PORT": "1502", "unitid": "7", "timeout": 3}), "plc:1502 unit 7 3s");
        check(json!({"ip": "plc", "timeout": 250}), "plc:502 unit 1 250ms");
        check(
            json!({"serialName": "/dev/ttyS0", "baudRate": "19200", "parity": "E", "stopBits": 2, "slaveID": 3.0}),
            "/dev/ttyS0 19200 8Even2 unit 3",
        );
        check(json!({"communicateMode": "rtu"}), "serialPort: must be set, such as /dev/ttyUSB0");
        check(json!({}), "ip: must be set, or serialPort for a serial line");
        check(json!({"mode": "udp"}), "communicateMode: must be TCP or RTU");
        check(json!({"ip": "x", "port": 70000}), "port: must be a port, 1 to 65535");
        check(json!({"serialPort": "x", "parity": "mark"}), "parity: must be none, even or odd");
    }

    fn point(kind: &str, visitor: Json) -> Result<Point, SettingError> {
        Point::of(&testing::settings_of("p", kind, visitor))
    }

    #[test]
    fn registers_to_values_and_back() {
        let check = |kind: &str, visitor: Json, words: &[u16], expected: &str| {
            let point = point(kind, visitor.clone()).unwrap();
            let held = Held::Words(words.to_vec());
            let value = point.decode(&held).unwrap();
            assert_eq!(value.to_string(), expected, "{kind} {visitor}");
            assert_eq!(point.encode(&value, &Held::zero(point.span)).unwrap(), held, "{kind} {visitor}");
        };
        check("INT", json!({}), &[0xffff], "65535");
        check("INT", json!({"signed": "true"}), &[0xffff], "-1");
        check("INT", json!({"limit": 2}), &[1, 2], "65538");
        check("INT", json!({"limit": "2", "isRegisterSwap": true}), &[2, 1], "65538");
        check("INT", json!({"isSwap": true}), &[0x0100], "1");
        check("INT", json!({"limit": 4, "signed": true}), &[0xffff, 0xffff, 0xffff, 0xfffe], "-2");
        check("FLOAT", json!({"scale": 0.1}), &[253], "25.3");
        check("DOUBLE", json!({"scale": 0.1}), &[3], "0.3");
        check("DOUBLE", json!({"scale": 0.01, "valueOffset": -40}), &[6530], "25.3");
        check("FLOAT", json!({"scale": 0}), &[7], "7");
        check("FLOAT", json!({"limit": 2}), &[0x41ca, 0x6666], "25.3");
        check("DOUBLE", json!({"limit": 4}), &[0x4039, 0x4ccc, 0xcccc, 0xcccd], "25.3");
        check("BOOLEAN", json!({}), &[1], "true");
        check("STRING", json!({"limit": 2}), &[0x4142, 0x4300], "ABC");
        check("STRING", json!({"dataType": "int"}), &[12], "12");
        let nibble = point("INT", json!({"mask": "0xf0", "shift": 4})).unwrap();
        assert_eq!(nibble.decode(&Held::Words(vec![0xab])).unwrap(), Value::Int(10));
        assert_eq!(nibble.encode(&Value::Int(1), &Held::Words(vec![0xab])).unwrap(), Held::Words(vec![0x1b]));
        assert!(nibble.encode(&Value::Int(16), &Held::Words(vec![0])).is_err());
    }

    #[test]
    fn coils() {
        let coil = point("BOOLEAN", json!({"register": "coil"})).unwrap();
        assert_eq!(coil.decode(&Held::Bits(vec![true])).unwrap(), Value::Bool(true));
        assert_eq!(coil.encode(&Value::Bool(true), &Held::zero(coil.span)).unwrap(), Held::Bits(vec![true]));
        let row = point("INT", json!({"register": "CoilRegister", "limit": 10})).unwrap();
        let held = Held::from_bytes(&[0x02, 0x05], row.span);
        assert_eq!(row.decode(&held).unwrap(), Value::Int(0x205));
        assert_eq!(row.encode(&Value::Int(0x205), &Held::zero(row.span)).unwrap(), held);
    }

    #[test]
    fn refusals_name_the_key() {
        let check = |kind: &str, visitor: Json, key: &str| {
            assert_eq!(point(kind, visitor.clone()).unwrap_err().key, key, "{kind} {visitor}");
        };
        check("INT", json!({"register": "40001"}), "register");
        check("INT", json!({"offset": 70000}), "offset");
        check("INT", json!({"offset": 65535, "limit": 2}), "limit");
        check("INT", json!({"limit": 5}), "limit");
        check("INT", json!({"limit": 0}), "limit");
        check("FLOAT", json!({"limit": 3}), "limit");
        check("INT", json!({"register": "coil", "limit": 65}), "limit");
        check("INT", json!({"mask": "x"}), "mask");
        check("INT", json!({"shift": 64}), "shift");
        check("INT", json!({"dataType": "stream"}), "dataType");
    }
}
