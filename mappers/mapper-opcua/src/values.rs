//! Variants of OPC-UA to values and back. Reading goes by what the property is to be, writing by what the node is. Pure.

use std::str::FromStr;

use mapper_sdk::value::{Kind, Value};
use opcua::types::{ByteString, DateTime, Guid, LocalizedText, UAString, Variant, VariantScalarTypeId};

/// Why a variant is no value of the property, or a value none of the node. A sentence that follows the node's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoFit(String);

/// What the property is worth when the node holds this.
pub fn value_of(variant: &Variant, kind: Kind) -> Result<Value, NoFit> {
    let no = |what: &str| Err(NoFit(format!("{what}, and the property is {kind}")));
    match variant {
        Variant::Empty => Err(NoFit("has no value yet".to_owned())),
        Variant::Variant(inside) => value_of(inside, kind),
        Variant::DataValue(inside) => value_of(inside.value.as_ref().unwrap_or(&Variant::Empty), kind),
        Variant::Boolean(is) => of_whole(i128::from(*is), *is, kind),
        Variant::SByte(number) => of_whole(i128::from(*number), *number != 0, kind),
        Variant::Byte(number) => of_whole(i128::from(*number), *number != 0, kind),
        Variant::Int16(number) => of_whole(i128::from(*number), *number != 0, kind),
        Variant::UInt16(number) => of_whole(i128::from(*number), *number != 0, kind),
        Variant::Int32(number) => of_whole(i128::from(*number), *number != 0, kind),
        Variant::UInt32(number) => of_whole(i128::from(*number), *number != 0, kind),
        Variant::Int64(number) => of_whole(i128::from(*number), *number != 0, kind),
        Variant::UInt64(number) => of_whole(i128::from(*number), *number != 0, kind),
        // Not by way of 64 bits: 25.3 would grow digits.
        Variant::Float(number) if kind == Kind::Float && number.is_finite() => Ok(Value::Float(*number)),
        Variant::Float(number) if kind == Kind::Text => Ok(Value::Text(Value::Float(*number).to_string())),
        Variant::Float(number) => of_real(f64::from(*number), kind),
        Variant::Double(number) => of_real(*number, kind),
        Variant::ByteString(bytes) => match kind {
            Kind::Bytes => Ok(Value::Bytes(bytes.as_ref().to_vec())),
            Kind::Text => std::str::from_utf8(bytes.as_ref())
                .map(|text| Value::Text(text.to_owned()))
                .or_else(|_| no("holds bytes that are no text")),
            _ => no("holds bytes"),
        },
        Variant::Array(array) => match kind {
            Kind::Text => Ok(Value::Text(list(&array.values)?)),
            Kind::Bytes => {
                let byte = |value: &Variant| match value {
                    Variant::Byte(byte) => Some(*byte),
                    _ => None,
                };
                let bytes: Option<Vec<u8>> = array.values.iter().map(byte).collect();
                bytes
                    .map(Value::Bytes)
                    .ok_or_else(|| NoFit("holds an array; only one of bytes is BYTES".to_owned()))
            }
            _ => Err(NoFit(format!(
                "holds an array of {}; give the property the type STRING to get it as a JSON list",
                array.values.len()
            ))),
        },
        other => match text_of(other) {
            Some(text) => kind.parse(&text).map_err(|error| NoFit(format!("holds a text: {error}"))),
            None => Err(NoFit("holds a structure, which no property can be".to_owned())),
        },
    }
}

/// What to write into a node of this type.
pub fn variant_of(value: &Value, into: VariantScalarTypeId) -> Result<Variant, NoFit> {
    use VariantScalarTypeId as Id;
    let no_fit = || NoFit(format!("is {into:?}, into which {:?} does not go", value.to_string()));
    Ok(match into {
        Id::Boolean => Variant::Boolean(match value {
            Value::Bool(is) => *is,
            Value::Text(text) => {
                matches!(Kind::Bool.parse(text).map_err(|_| no_fit())?, Value::Bool(true))
            }
            Value::Bytes(_) => return Err(no_fit()),
            _ => match value.number() {
                Some(1.0) => true,
                Some(0.0) => false,
                _ => return Err(no_fit()),
            },
        }),
        Id::SByte => Variant::SByte(whole(value).ok_or_else(no_fit)?),
        Id::Byte => Variant::Byte(whole(value).ok_or_else(no_fit)?),
        Id::Int16 => Variant::Int16(whole(value).ok_or_else(no_fit)?),
        Id::UInt16 => Variant::UInt16(whole(value).ok_or_else(no_fit)?),
        Id::Int32 => Variant::Int32(whole(value).ok_or_else(no_fit)?),
        Id::UInt32 => Variant::UInt32(whole(value).ok_or_else(no_fit)?),
        Id::Int64 => Variant::Int64(whole(value).ok_or_else(no_fit)?),
        Id::UInt64 => Variant::UInt64(whole(value).ok_or_else(no_fit)?),
        // Through text, which has a single's digits and no more.
        Id::Float => match Kind::Float.parse(&number_text(value).ok_or_else(no_fit)?) {
            Ok(Value::Float(number)) => Variant::Float(number),
            _ => return Err(no_fit()),
        },
        Id::Double => match Kind::Double.parse(&number_text(value).ok_or_else(no_fit)?) {
            Ok(Value::Double(number)) => Variant::Double(number),
            _ => return Err(no_fit()),
        },
        Id::String => Variant::String(UAString::from(text(value).ok_or_else(no_fit)?)),
        Id::LocalizedText => {
            Variant::LocalizedText(Box::new(LocalizedText::new("", &text(value).ok_or_else(no_fit)?)))
        }
        Id::DateTime => {
            let parsed = DateTime::parse_from_rfc3339(&text(value).ok_or_else(no_fit)?);
            let time = parsed.map_err(|_| {
                NoFit(format!(
                    "is a time, and {:?} is none; an example: 2026-11-21T12:00:00Z",
                    value.to_string()
                ))
            })?;
            Variant::DateTime(Box::new(time))
        }
        Id::Guid => {
            Variant::Guid(Box::new(Guid::from_str(&text(value).ok_or_else(no_fit)?).map_err(|_| no_fit())?))
        }
        Id::ByteString => Variant::ByteString(ByteString::from(match value {
            Value::Bytes(bytes) => bytes.clone(),
            Value::Text(text) => text.clone().into_bytes(),
            _ => return Err(no_fit()),
        })),
        _ => return Err(NoFit(format!("is {into:?}, which properties cannot write"))),
    })
}

fn of_whole(number: i128, is_true: bool, kind: Kind) -> Result<Value, NoFit> {
    let too_large = || NoFit(format!("holds {number}, which is too large for INT"));
    Ok(match kind {
        Kind::Int => Value::Int(i64::try_from(number).map_err(|_| too_large())?),
        Kind::Bool => Value::Bool(is_true),
        // Every whole number reads as one of these.
        Kind::Float | Kind::Double => {
            kind.parse(&number.to_string()).map_err(|error| NoFit(error.to_string()))?
        }
        Kind::Text => Value::Text(number.to_string()),
        Kind::Bytes => Value::Bytes(number.to_string().into_bytes()),
    })
}

fn of_real(number: f64, kind: Kind) -> Result<Value, NoFit> {
    if !number.is_finite() {
        return Err(NoFit(format!("holds {number}, which is no number")));
    }
    let refused = |error: mapper_sdk::value::NoValue| NoFit(error.to_string());
    match kind {
        Kind::Double => Ok(Value::Double(number)),
        Kind::Float => kind.parse(&number.to_string()).map_err(refused),
        Kind::Int => kind
            .parse(&(number.round() + 0.0).to_string())
            .map_err(|_| NoFit(format!("holds {number}, which is too large for INT"))),
        Kind::Bool => Ok(Value::Bool(number != 0.0)),
        Kind::Text => Ok(Value::Text(Value::Double(number).to_string())),
        Kind::Bytes => Ok(Value::Bytes(Value::Double(number).to_string().into_bytes())),
    }
}

fn text_of(variant: &Variant) -> Option<String> {
    Some(match variant {
        Variant::String(text) => text.as_ref().to_owned(),
        Variant::XmlElement(xml) => xml.to_string(),
        Variant::LocalizedText(text) => text.text.as_ref().to_owned(),
        Variant::QualifiedName(name) => name.name.as_ref().to_owned(),
        Variant::DateTime(time) => time.to_rfc3339(),
        Variant::Guid(guid) => guid.to_string(),
        Variant::NodeId(id) => id.to_string(),
        Variant::ExpandedNodeId(id) => id.to_string(),
        Variant::StatusCode(code) => code.to_string(),
        _ => return None,
    })
}

/// An array as a JSON list: numbers and truths as they are, everything else as text.
fn list(values: &[Variant]) -> Result<String, NoFit> {
    let item = |value: &Variant| -> Result<serde_json::Value, NoFit> {
        Ok(match value {
            Variant::Boolean(is) => (*is).into(),
            Variant::Float(number) => {
                serde_json::Value::from_str(&Value::Float(*number).to_string()).unwrap_or_default()
            }
            Variant::Double(number) => (*number).into(),
            Variant::Empty => serde_json::Value::Null,
            value => match value_of(value, Kind::Int) {
                Ok(Value::Int(number)) if value.is_numeric() => number.into(),
                _ => value_of(value, Kind::Text)?.to_string().into(),
            },
        })
    };
    let items: Result<Vec<_>, _> = values.iter().map(item).collect();
    Ok(serde_json::Value::Array(items?).to_string())
}

/// A whole number in the node's range; a fraction is never cut off.
fn whole<N: FromStr>(value: &Value) -> Option<N> {
    number_text(value)?.parse().ok()
}

/// A number's decimals without an exponent, and without a fraction where there is none.
fn number_text(value: &Value) -> Option<String> {
    match value {
        Value::Bool(is) => Some(u8::from(*is).to_string()),
        Value::Bytes(_) => None,
        Value::Text(text) => Some(text.trim().to_owned()),
        number => Some(number.to_string()),
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).ok(),
        value => Some(value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn read() {
        let check = |variant: Variant, kind: Kind, expected: Result<Value, &str>| {
            let got = value_of(&variant, kind).map_err(|error| error.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{variant:?} as {kind}");
        };
        let text = |text: &str| Ok(Value::Text(text.to_owned()));
        check(Variant::Double(21.5), Kind::Double, Ok(Value::Double(21.5)));
        check(Variant::Float(25.3), Kind::Float, Ok(Value::Float(25.3)));
        check(Variant::Float(25.3), Kind::Text, text("25.3"));
        check(Variant::Double(25.3), Kind::Float, Ok(Value::Float(25.3)));
        check(Variant::Double(-2.5), Kind::Int, Ok(Value::Int(-3)));
        check(Variant::Double(-0.2), Kind::Int, Ok(Value::Int(0)));
        check(
            Variant::Double(1e300),
            Kind::Int,
            Err(
                "holds 1000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000, which is too large for INT",
            ),
        );
        check(Variant::Double(f64::NAN), Kind::Double, Err("holds NaN, which is no number"));
        check(Variant::Float(f32::INFINITY), Kind::Float, Err("holds inf, which is no number"));
        check(
            Variant::UInt64(u64::MAX),
            Kind::Int,
            Err("holds 18446744073709551615, which is too large for INT"),
        );
        check(Variant::UInt64(u64::MAX), Kind::Text, text("18446744073709551615"));
        check(Variant::Byte(7), Kind::Bool, Ok(Value::Bool(true)));
        check(Variant::Boolean(true), Kind::Int, Ok(Value::Int(1)));
        check(Variant::Int16(-5), Kind::Double, Ok(Value::Double(-5.0)));
        check(Variant::from("größe"), Kind::Text, text("größe"));
        check(Variant::from("12"), Kind::Int, Ok(Value::Int(12)));
        check(
            Variant::from("warm"),
            Kind::Double,
            Err("holds a text: \"warm\" is no DOUBLE; an example: 25.3"),
        );
        check(Variant::LocalizedText(Box::new(LocalizedText::new("en", "on"))), Kind::Text, text("on"));
        check(
            Variant::DateTime(Box::new(DateTime::ymd_hms(2026, 11, 21, 12, 0, 0))),
            Kind::Text,
            text("2026-11-21T12:00:00.000Z"),
        );
        check(
            Variant::ByteString(ByteString::from(vec![0, 255])),
            Kind::Bytes,
            Ok(Value::Bytes(vec![0, 255])),
        );
        check(
            Variant::ByteString(ByteString::from(vec![0, 255])),
            Kind::Text,
            Err("holds bytes that are no text, and the property is STRING"),
        );
        check(
            Variant::ByteString(ByteString::from(vec![1])),
            Kind::Int,
            Err("holds bytes, and the property is INT"),
        );
        check(Variant::Empty, Kind::Int, Err("has no value yet"));
        check(Variant::Variant(Box::new(Variant::Int32(3))), Kind::Int, Ok(Value::Int(3)));
        check(Variant::from(vec![1_i32, 2]), Kind::Text, text("[1,2]"));
        check(Variant::from(vec![0.1_f32, 2.0]), Kind::Text, text("[0.1,2]"));
        check(Variant::from(vec!["a".to_owned(), "1".to_owned()]), Kind::Text, text("[\"a\",\"1\"]"));
        check(Variant::from(vec![1_u8, 2]), Kind::Bytes, Ok(Value::Bytes(vec![1, 2])));
        check(
            Variant::from(vec![1_i32, 2]),
            Kind::Int,
            Err("holds an array of 2; give the property the type STRING to get it as a JSON list"),
        );
    }

    #[test]
    fn written() {
        use VariantScalarTypeId as Id;
        let check = |value: Value, into: Id, expected: Result<Variant, &str>| {
            let got = variant_of(&value, into).map_err(|error| error.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{value:?} into {into:?}");
        };
        let text = |text: &str| Value::Text(text.to_owned());
        check(Value::Int(55), Id::Int16, Ok(Variant::Int16(55)));
        check(Value::Int(-1), Id::UInt32, Err("is UInt32, into which \"-1\" does not go"));
        check(Value::Int(300), Id::Byte, Err("is Byte, into which \"300\" does not go"));
        check(Value::Int(1), Id::Boolean, Ok(Variant::Boolean(true)));
        check(Value::Int(2), Id::Boolean, Err("is Boolean, into which \"2\" does not go"));
        check(text("off"), Id::Boolean, Err("is Boolean, into which \"off\" does not go"));
        check(text("FALSE"), Id::Boolean, Ok(Variant::Boolean(false)));
        check(Value::Double(20.0), Id::Int64, Ok(Variant::Int64(20)));
        check(Value::Double(20.5), Id::Int64, Err("is Int64, into which \"20.5\" does not go"));
        check(Value::Double(20.1), Id::Float, Ok(Variant::Float(20.1)));
        check(Value::Float(20.1), Id::Double, Ok(Variant::Double(20.1)));
        check(
            Value::Double(1e300),
            Id::Float,
            Err(&format!("is Float, into which \"1{}\" does not go", "0".repeat(300))),
        );
        check(Value::Bool(true), Id::Byte, Ok(Variant::Byte(1)));
        check(text(" 12 "), Id::UInt16, Ok(Variant::UInt16(12)));
        check(text("a \"b\" ü"), Id::String, Ok(Variant::from("a \"b\" ü")));
        check(Value::Int(5), Id::String, Ok(Variant::from("5")));
        check(
            text("an"),
            Id::LocalizedText,
            Ok(Variant::LocalizedText(Box::new(LocalizedText::new("", "an")))),
        );
        check(
            text("2026-11-21T12:00:00Z"),
            Id::DateTime,
            Ok(Variant::DateTime(Box::new(DateTime::ymd_hms(2026, 11, 21, 12, 0, 0)))),
        );
        check(
            text("noon"),
            Id::DateTime,
            Err("is a time, and \"noon\" is none; an example: 2026-11-21T12:00:00Z"),
        );
        check(Value::Bytes(vec![1]), Id::ByteString, Ok(Variant::ByteString(ByteString::from(vec![1]))));
        check(Value::Bytes(vec![49]), Id::Int32, Err("is Int32, into which \"1\" does not go"));
        check(Value::Int(1), Id::ExtensionObject, Err("is ExtensionObject, which properties cannot write"));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(whole: i64, single in -1e30_f32..1e30, double in -1e300_f64..1e300, text: String) {
            use VariantScalarTypeId as Id;
            let back = |value: Value, into, kind| value_of(&variant_of(&value, into).unwrap(), kind);
            prop_assert_eq!(back(Value::Int(whole), Id::Int64, Kind::Int), Ok(Value::Int(whole)));
            prop_assert_eq!(back(Value::Float(single), Id::Float, Kind::Float), Ok(Value::Float(single)));
            prop_assert_eq!(back(Value::Double(double), Id::Double, Kind::Double), Ok(Value::Double(double)));
            prop_assert_eq!(back(Value::Text(text.clone()), Id::String, Kind::Text), Ok(Value::Text(text)));
        }
    }
}
