//! Pure: the messages that write values.
//!
//! In a JSON template a value stands as JSON, so that no text can break out of it; in any other it stands as it is.

use mapper_sdk::value::Value;
use serde_json::Value as Json;

const PLACE: &str = "${value}";

/// A message with places for the value. Without a template the value is the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// What stands before each place, and how a value is written there.
    parts: Vec<(String, Form)>,
    end: String,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// As it is.
    Plain,
    /// As a JSON value.
    Json,
    /// As a part of a JSON text.
    JsonText,
}

/// Bytes that are no text cannot stand in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value is no text and cannot stand in a JSON template")]
pub struct NotText;

impl Default for Template {
    fn default() -> Self {
        Self { parts: vec![(String::new(), Form::Plain)], end: String::new() }
    }
}

impl Template {
    /// `None`: there is no place for the value, or what begins as JSON is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut pieces: Vec<&str> = text.split(PLACE).collect();
        let end = pieces.pop().filter(|_| !pieces.is_empty())?;
        let is_json = serde_json::from_str::<Json>(&text.replace(PLACE, "0")).is_ok();
        if !is_json && text.trim_start().starts_with(['{', '[']) {
            return None;
        }
        let mut quotes = Quotes::default();
        let parts = pieces.into_iter().map(|before| {
            quotes.read(before);
            let form = match (is_json, quotes.is_inside) {
                (false, _) => Form::Plain,
                (true, false) => Form::Json,
                (true, true) => Form::JsonText,
            };
            (before.to_owned(), form)
        });
        Some(Self { parts: parts.collect(), end: end.to_owned() })
    }

    /// The message for a value.
    pub fn render(&self, value: &Value) -> Result<Vec<u8>, NotText> {
        let mut message = Vec::new();
        for (before, form) in &self.parts {
            message.extend_from_slice(before.as_bytes());
            match (form, value) {
                (Form::Plain, Value::Bytes(bytes)) => message.extend_from_slice(bytes),
                (Form::Plain, value) => message.extend_from_slice(value.to_string().as_bytes()),
                (Form::Json, value) => message.extend_from_slice(in_json(value)?.as_bytes()),
                (Form::JsonText, value) => {
                    let quoted = Json::from(text(value)?).to_string();
                    let inside = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
                    message.extend_from_slice(inside.unwrap_or_default().as_bytes());
                }
            }
        }
        message.extend_from_slice(self.end.as_bytes());
        Ok(message)
    }
}

fn text(value: &Value) -> Result<String, NotText> {
    match value {
        Value::Bytes(bytes) => String::from_utf8(bytes.clone()).map_err(|_| NotText),
        value => Ok(value.to_string()),
    }
}

fn in_json(value: &Value) -> Result<String, NotText> {
    let is_bare = match value {
        Value::Int(_) | Value::Bool(_) => true,
        Value::Float(_) | Value::Double(_) => value.number().is_some_and(f64::is_finite),
        Value::Text(_) | Value::Bytes(_) => false,
    };
    let text = text(value)?;
    Ok(if is_bare { text } else { Json::from(text).to_string() })
}

/// Whether a place in JSON is inside of a text.
#[derive(Default)]
struct Quotes {
    is_inside: bool,
}

impl Quotes {
    fn read(&mut self, text: &str) {
        let mut is_escaped = false;
        for character in text.chars() {
            match character {
                _ if is_escaped => is_escaped = false,
                '\\' if self.is_inside => is_escaped = true,
                '"' => self.is_inside = !self.is_inside,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mapper_sdk::value::Kind;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages() {
        let check = |template: &str, value: Value, expected: &str| {
            let message = Template::parse(template).unwrap().render(&value).unwrap();
            assert_eq!(String::from_utf8(message).unwrap(), expected, "{template}");
        };
        let text = |text: &str| Value::Text(text.to_owned());
        check(r#"{"cmd":"set","value":${value}}"#, Value::Int(-3), r#"{"cmd":"set","value":-3}"#);
        check(r#"{"value":${value}}"#, Value::Float(25.3), r#"{"value":25.3}"#);
        check(r#"{"value":${value}}"#, Value::Double(1e21), r#"{"value":1000000000000000000000}"#);
        check(r#"{"value":${value}}"#, Value::Bool(true), r#"{"value":true}"#);
        check(r#"{"value":${value}}"#, text("a\"b\\\n"), r#"{"value":"a\"b\\\n"}"#);
        check(r#"{"value":"${value}"}"#, text("a\",\"x\":1"), r#"{"value":"a\",\"x\":1"}"#);
        check(r#"{"v":"is \"${value}\" now","n":${value}}"#, Value::Int(1), r#"{"v":"is \"1\" now","n":1}"#);
        check(r#"["${value}", 1]"#, Value::Bytes(b"ok".to_vec()), r#"["ok", 1]"#);
        check("${value}", text("ü"), "\"ü\"");
        check("SET ${value};", text("a\"b"), "SET a\"b;");
        check("set=${value}&again=${value}", Value::Bool(false), "set=false&again=false");
        assert_eq!(Template::default().render(&text("ü")), Ok("ü".as_bytes().to_vec()));
        assert_eq!(Template::default().render(&Value::Bytes(vec![0xff])), Ok(vec![0xff]));
        let broken = Template::parse("[${value}]").unwrap().render(&Value::Bytes(vec![0xff]));
        assert_eq!(broken, Err(NotText));
    }

    #[test]
    fn what_is_no_template() {
        for text in ["", "on", "$value", r#"{"value":${value}"#, "[${value},]", r#"{"value":"${value}}"#] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_out_of_json(text: String) {
            for template in [r#"{"a":${value},"b":1}"#, r#"{"a":"${value}","b":1}"#] {
                let message = Template::parse(template).unwrap().render(&Value::Text(text.clone())).unwrap();
                let json: Json = serde_json::from_slice(&message).unwrap();
                prop_assert_eq!(json, serde_json::json!({"a": text, "b": 1}));
            }
        }

        #[test]
        fn numbers_come_back(number in -1e300_f64..1e300) {
            let message = Template::parse("[${value}]").unwrap().render(&Value::Double(number)).unwrap();
            let path = crate::payload::Path::parse("$[0]");
            prop_assert_eq!(crate::payload::Message::new(&message).value(path.as_ref(), Kind::Double), Ok(Value::Double(number)));
        }

        #[test]
        fn any_template_is_answered(text in "[{}$\"\\\\\\[\\]:a]{0,8}(\\$\\{value\\})?[{}\"\\\\\\]:a]{0,8}", bytes: Vec<u8>) {
            if let Some(template) = Template::parse(&text) {
                let _ = template.render(&Value::Bytes(bytes));
                let _ = template.render(&Value::Double(f64::NAN));
            }
        }
    }
}
