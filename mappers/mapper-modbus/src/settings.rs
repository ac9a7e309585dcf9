//! Pure: what manifests say about a Modbus device and its properties, with all the names that published ones use.
//!
//! Errors name the key, never the value. Called when a device is connected and when a property is first used.

use std::time::Duration;

use mapper_sdk::pipeline::Encoding;
use mapper_sdk::value::Kind;
use mapper_sdk::{Property, SettingError, Settings};

use crate::group::{Register, Span};

/// How to reach a device: its `protocol.configData`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// The way there.
    pub way: Way,
    /// Which unit there: 0 to 255; over a serial line not 0, which nobody answers.
    pub unit: u8,
    /// How long to wait for a connection, and for each answer.
    pub timeout: Duration,
}

/// TCP or a serial line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Modbus TCP.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// Modbus RTU. Adapters for RS485 must switch the direction by themselves, as nearly all do.
    Rtu(Line),
}

/// A serial line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The device file, such as `/dev/ttyUSB0`.
    pub path: String,
    /// Bits per second.
    pub baud_rate: u32,
    /// 5 to 8.
    pub data_bits: u8,
    /// The check bit.
    pub parity: Parity,
    /// 1 or 2.
    pub stop_bits: u8,
}

/// The check bit of each byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// There is none.
    None,
    /// Makes the ones even.
    Even,
    /// Makes the ones odd.
    Odd,
}

/// How registers are a property: its `visitors.configData` and its model.
#[derive(Clone, Debug, PartialEq)]
pub struct Visitor {
    /// Where it is.
    pub span: Span,
    /// How the registers are a number.
    pub encoding: Encoding,
    /// Swap the bytes of each register.
    pub swaps_bytes: bool,
    /// Take the registers in reverse.
    pub swaps_registers: bool,
    /// Bits that count.
    pub mask: Option<u64>,
    /// How far they are moved down.
    pub shift: u32,
    /// Value = number x scale + add.
    pub scale: f64,
    /// Added after scaling; `offset` is the address.
    pub add: f64,
    /// The narrower of the model's and the visitor's.
    pub minimum: Option<f64>,
    /// The narrower of the model's and the visitor's.
    pub maximum: Option<f64>,
    /// The model's type.
    pub kind: Kind,
}

const HOST: [&str; 2] = ["ip", "host"];
const SERIAL_PORT: [&str; 2] = ["serialPort", "serialName"];
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads how to reach a device.
pub fn protocol(settings: &Settings) -> Result<Protocol, SettingError> {
    let mode = settings.word(&["communicateMode", "commType", "mode"], &["TCP", "RTU"], "TCP or RTU")?;
    let host = settings.text(&HOST);
    let path = settings.text(&SERIAL_PORT);
    let is_serial = match mode {
        Some(word) => word == "RTU",
        None => host.is_none() && path.is_some(),
    };
    let way = if is_serial {
        let path = path.ok_or(SettingError::Missing {
            key: "serialPort",
            expected: "the line's device file, such as /dev/ttyUSB0",
        })?;
        Way::Rtu(line(settings, path)?)
    } else {
        let host =
            host.ok_or(SettingError::Missing { key: "ip", expected: "the device's address, or serialPort" })?;
        Way::Tcp { host, port: settings.integer(&["port"], 1, 65535, "1 to 65535")?.unwrap_or(502) }
    };
    let (least, expected) =
        if is_serial { (1, "1 to 255 on a serial line: nobody answers 0") } else { (0, "0 to 255") };
    Ok(Protocol {
        way,
        unit: settings.integer(&["slaveID", "unitID"], least, 255, expected)?.unwrap_or(1),
        timeout: timeout(settings)?,
    })
}

fn line(settings: &Settings, path: String) -> Result<Line, SettingError> {
    let words = ["none", "n", "even", "e", "odd", "o"];
    let parity = settings.word(&["parity"], &words, "none, even or odd")?;
    Ok(Line {
        path,
        baud_rate: settings.integer(&["baudRate"], 50, 4_000_000, "50 to 4000000")?.unwrap_or(9600),
        data_bits: settings.integer(&["dataBits"], 5, 8, "5 to 8")?.unwrap_or(8),
        parity: match parity {
            Some("even" | "e") => Parity::Even,
            Some("odd" | "o") => Parity::Odd,
            _ => Parity::None,
        },
        stop_bits: settings.integer(&["stopBits"], 1, 2, "1 or 2")?.unwrap_or(1),
    })
}

/// Published manifests have it in seconds or in milliseconds: nobody waits 100 s, and nobody less than 100 ms.
fn timeout(settings: &Settings) -> Result<Duration, SettingError> {
    let expected = "seconds if below 100, else milliseconds, up to 600000";
    let Some(number) = settings.number(&["timeout"], expected)? else { return Ok(DEFAULT_TIMEOUT) };
    let secs = if number < 100.0 { number } else { number / 1000.0 };
    if (0.001..=600.0).contains(&secs) {
        Ok(Duration::from_secs_f64(secs))
    } else {
        Err(SettingError::Wrong { key: "timeout", expected })
    }
}

/// Reads how registers are a property.
pub fn visitor(property: &Property) -> Result<Visitor, SettingError> {
    let settings = &property.settings;
    let span = span(settings)?;
    let encoding = encoding(settings, property.kind, span)?;
    let mask = mask(settings)?;
    let shift = settings.integer(&["shift"], 0, 63, "0 to 63")?.unwrap_or(0);
    if matches!(encoding, Encoding::Float | Encoding::Raw) {
        let expected = "left out: only whole numbers have bits to cut";
        if mask.is_some() {
            return Err(SettingError::Wrong { key: "mask", expected });
        }
        if shift > 0 {
            return Err(SettingError::Wrong { key: "shift", expected });
        }
    }
    let scale = settings.number(&["scale"], "a number")?.filter(|scale| *scale != 0.0);
    let narrower = |one: Option<f64>, other: Option<f64>, pick: fn(f64, f64) -> f64| match (one, other) {
        (Some(one), Some(other)) => Some(pick(one, other)),
        (one, other) => one.or(other),
    };
    Ok(Visitor {
        span,
        encoding,
        // One bit has no bytes to swap.
        swaps_bytes: !span.register.is_bits() && settings.truth(&["isSwap"])?.unwrap_or(false),
        swaps_registers: !span.register.is_bits() && settings.truth(&["isRegisterSwap"])?.unwrap_or(false),
        mask,
        shift,
        scale: scale.unwrap_or(1.0),
        add: settings.number(&["add"], "a number")?.unwrap_or(0.0),
        minimum: narrower(property.minimum, settings.number(&["min"], "a number")?, f64::max),
        maximum: narrower(property.maximum, settings.number(&["max"], "a number")?, f64::min),
        kind: property.kind,
    })
}

fn span(settings: &Settings) -> Result<Span, SettingError> {
    let words = [
        "coil",
        "coilregister",
        "discreteinput",
        "discreteinputregister",
        "input",
        "inputregister",
        "holding",
        "holdingregister",
    ];
    let expected = "CoilRegister, DiscreteInputRegister, InputRegister or HoldingRegister";
    let register = match settings.word(&["register"], &words, expected)? {
        Some("coil" | "coilregister") => Register::Coil,
        Some("discreteinput" | "discreteinputregister") => Register::DiscreteInput,
        Some("input" | "inputregister") => Register::Input,
        _ => Register::Holding,
    };
    let address: u16 = settings
        .integer(
            &["offset"],
            0,
            65535,
            "0 to 65535, counted from zero and without the digit for the kind of register",
        )?
        .unwrap_or(0);
    let expected = if register.is_bits() { "1 to 2000 coils" } else { "1 to 125 registers" };
    let count: u16 = settings.integer(&["limit"], 1, i64::from(register.most()), expected)?.unwrap_or(1);
    let span = Span { register, address, count };
    if span.end() > 65536 {
        return Err(SettingError::Wrong { key: "limit", expected: "less: offset and limit go beyond 65535" });
    }
    Ok(span)
}

fn encoding(settings: &Settings, kind: Kind, span: Span) -> Result<Encoding, SettingError> {
    let words = ["int", "integer", "float", "double", "string", "boolean", "bool", "bytes"];
    let expected = "int, float, double, string, boolean or bytes";
    let given = settings.word(&["dataType"], &words, expected)?.and_then(Kind::of_model);
    let is_raw = |kind: Kind| matches!(kind, Kind::Text | Kind::Bytes);
    match given {
        Some(given) if is_raw(given) && !is_raw(kind) => {
            return Err(SettingError::Wrong {
                key: "dataType",
                expected: "int, float, double or boolean, or the model's type STRING or BYTES",
            });
        }
        Some(given) if !is_raw(given) && kind == Kind::Bytes => {
            return Err(SettingError::Wrong {
                key: "dataType",
                expected: "bytes or string where the model's type is BYTES",
            });
        }
        _ => {}
    }
    let limit = |expected| Err(SettingError::Wrong { key: "limit", expected });
    let is_signed = settings.truth(&["signed"])?.unwrap_or(false);
    match given.unwrap_or(kind) {
        Kind::Text | Kind::Bytes => Ok(Encoding::Raw),
        _ if span.register.is_bits() && span.count > 64 => limit("1 to 64 coils for a number"),
        _ if span.register.is_bits() => Ok(Encoding::Unsigned),
        Kind::Float | Kind::Double if span.count >= 2 => match span.count {
            2 | 4 => Ok(Encoding::Float),
            _ => limit("2 or 4 registers for an IEEE 754 number, or 1 for a whole number that is scaled"),
        },
        _ if span.count > 4 => limit("1 to 4 registers for a whole number"),
        _ if is_signed => Ok(Encoding::Signed),
        _ => Ok(Encoding::Unsigned),
    }
}

/// People write masks in hexadecimal; JSON has no such numbers, so it is a text then.
fn mask(settings: &Settings) -> Result<Option<u64>, SettingError> {
    let expected = "a whole number above 0, such as 255 or \"0xff\"";
    let text = settings.text(&["mask"]).unwrap_or_default();
    let mask = match text.trim().strip_prefix("0x").or_else(|| text.trim().strip_prefix("0X")) {
        Some(digits) => {
            Some(u64::from_str_radix(digits, 16).map_err(|_| SettingError::Wrong { key: "mask", expected })?)
        }
        None => settings.integer(&["mask"], 1, i64::MAX, expected)?,
    };
    if mask == Some(0) { Err(SettingError::Wrong { key: "mask", expected }) } else { Ok(mask) }
}

#[cfg(test)]
mod tests;
