//! What a property is worth, and the texts that stand for it on the way to the cloud and back.

use std::fmt;

/// A value as a driver gives or takes it.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A number of the device's 32 bits: written with as few digits as it needs, not with those of 64 bits.
    Float(f32),
    /// A number.
    Double(f64),
    /// Yes or no.
    Bool(bool),
    /// Text.
    Text(String),
    /// Bytes that mean nothing to us.
    Bytes(Vec<u8>),
}

/// The types that a DeviceModel knows; streams have no values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `INT`
    Int,
    /// `FLOAT`
    Float,
    /// `DOUBLE`
    Double,
    /// `STRING`
    Text,
    /// `BOOLEAN`
    Bool,
    /// `BYTES`
    Bytes,
}

/// Why a text is no value of a type. The text itself is the user's and is quoted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind}; {hint}")]
pub struct NoValue {
    text: String,
    kind: Kind,
    hint: &'static str,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int => "INT",
            Self::Float => "FLOAT",
            Self::Double => "DOUBLE",
            Self::Text => "STRING",
            Self::Bool => "BOOLEAN",
            Self::Bytes => "BYTES",
        })
    }
}

impl Kind {
    /// The type of a DeviceModel, in any case. `None`: one that has no values, or none at all.
    #[must_use]
    pub fn of_model(name: &str) -> Option<Self> {
        Some(match name.to_ascii_uppercase().as_str() {
            "INT" | "INTEGER" => Self::Int,
            "FLOAT" => Self::Float,
            "DOUBLE" => Self::Double,
            "STRING" => Self::Text,
            "BOOLEAN" | "BOOL" => Self::Bool,
            "BYTES" => Self::Bytes,
            _ => return None,
        })
    }

    /// The value that a text stands for, as people and other mappers write it.
    pub fn parse(self, text: &str) -> Result<Value, NoValue> {
        let trimmed = text.trim();
        let no = |hint| NoValue { text: text.to_owned(), kind: self, hint };
        match self {
            Self::Int => trimmed.parse().map(Value::Int).map_err(|_| no("an example: -12; 64 bits at most")),
            Self::Float => {
                let number = trimmed.parse::<f32>().ok().filter(|number| number.is_finite());
                number.map(Value::Float).ok_or_else(|| no("an example: 25.3"))
            }
            Self::Double => {
                let number = trimmed.parse::<f64>().ok().filter(|number| number.is_finite());
                number.map(Value::Double).ok_or_else(|| no("an example: 25.3"))
            }
            Self::Bool => match trimmed.to_ascii_lowercase().as_str() {
                "true" | "t" | "1" => Ok(Value::Bool(true)),
                "false" | "f" | "0" => Ok(Value::Bool(false)),
                _ => Err(no("write true or false")),
            },
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::Bytes => Ok(Value::Bytes(text.as_bytes().to_vec())),
        }
    }
}

/// The text that goes to the cloud: numbers in plain decimals of the shortest form that reads back the same, never with an
/// exponent, which KubeEdge's edges refuse.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            // Minus zero reads like a fault.
            Self::Float(number) => write!(f, "{}", number + 0.0),
            Self::Double(number) => write!(f, "{}", number + 0.0),
            Self::Bool(is) => write!(f, "{is}"),
            Self::Text(text) => f.write_str(text),
            Self::Bytes(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
        }
    }
}

impl Value {
    /// As a number, where it is one; true is 1.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "comparing and scaling is done in 64-bit floats, as devices do"
    )]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Int(number) => Some(*number as f64),
            Self::Float(number) => Some(f64::from(*number)),
            Self::Double(number) => Some(*number),
            Self::Bool(is) => Some(f64::from(u8::from(*is))),
            Self::Text(_) | Self::Bytes(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts() {
        let check = |kind: Kind, text: &str, expected: Option<&str>| {
            assert_eq!(
                kind.parse(text).ok().map(|value| value.to_string()).as_deref(),
                expected,
                "{kind} {text:?}"
            );
        };
        check(Kind::Int, " -12 ", Some("-12"));
        check(Kind::Int, "1.5", None);
        check(Kind::Int, "9223372036854775808", None);
        check(Kind::Float, "25.3", Some("25.3"));
        check(Kind::Float, "1e6", Some("1000000"));
        check(Kind::Float, "NaN", None);
        check(Kind::Double, "1e-7", Some("0.0000001"));
        check(Kind::Double, "-0", Some("0"));
        check(Kind::Bool, "TRUE", Some("true"));
        check(Kind::Bool, "yes", None);
        check(Kind::Text, " as \"it\" is ü ", Some(" as \"it\" is ü "));
        assert_eq!(Kind::of_model("stream"), None);
        assert_eq!(
            Kind::Int.parse("x").unwrap_err().to_string(),
            "\"x\" is no INT; an example: -12; 64 bits at most"
        );
    }

    proptest! {
        #[test]
        fn numbers_read_back_the_same(int: i64, single in -1e30_f32..1e30, double in -1e300_f64..1e300) {
            prop_assert_eq!(Kind::Int.parse(&Value::Int(int).to_string()), Ok(Value::Int(int)));
            prop_assert_eq!(Kind::Float.parse(&Value::Float(single).to_string()), Ok(Value::Float(single)));
            prop_assert_eq!(Kind::Double.parse(&Value::Double(double).to_string()), Ok(Value::Double(double)));
        }
    }
}
