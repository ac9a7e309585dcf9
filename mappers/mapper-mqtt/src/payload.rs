//! Pure: the value in a message's bytes.
//!
//! Without a path a message is the value, as text; with one it is JSON, and the value stands at the path. What is no value
//! of the property's type is an error that says why; nothing is rounded or cut to fit.

use std::cell::OnceCell;
use std::fmt;

use mapper_sdk::value::{Kind, NoValue, Value};
use serde_json::Value as Json;

/// A text in an error is not longer than this.
const QUOTED: usize = 80;
/// Whole numbers below this are the same as 64-bit floats.
const EXACT: f64 = 9e15;

/// Why a message has no value for a property. Texts are for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Bytes.
    #[error("the message is no text")]
    NotText,
    /// A path needs JSON.
    #[error("the message is no JSON ({0}); without path it is taken whole")]
    NotJson(String),
    /// The path leads nowhere.
    #[error("the message has nothing at {0}")]
    Nothing(String),
    /// `null` stands there.
    #[error("the message says null")]
    Null,
    /// An object or a list stands there.
    #[error("there is a JSON {0}, no {1}; set path to where in it the value is, such as {2}")]
    Structure(&'static str, Kind, String),
    /// Of another type.
    #[error(transparent)]
    NoValue(#[from] NoValue),
    /// Of another type, and too long to tell.
    #[error("a text of {0} bytes is no {1}")]
    Long(usize, Kind),
}

/// Where in a JSON message a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A member of an object; digits are also a place in a list.
    Name(String),
    /// A place in a list; from its end if negative.
    Index(i64),
}

impl Path {
    /// `$.sensors[0].temp`, `sensors.0.temp` or `$['odd.name']`. `None`: none of these; nothing that could find several
    /// values is understood.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (mut rest, mut is_first) = match text.strip_prefix('$') {
            Some(rest) if rest.is_empty() || rest.starts_with(['.', '[']) => (rest, false),
            _ => (text, true),
        };
        if is_first && rest.is_empty() {
            return None;
        }
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = if let Some(inside) = rest.strip_prefix('[') {
                in_brackets(inside)?
            } else {
                let name = if is_first { rest } else { rest.strip_prefix('.')? };
                let (name, after) = name.split_at(name.find(['.', '[']).unwrap_or(name.len()));
                if name.is_empty() || name.contains(['*', '?', '(', ']', '@', '\'', '"']) {
                    return None;
                }
                (Step::Name(name.to_owned()), after)
            };
            steps.push(step);
            (rest, is_first) = (after, false);
        }
        Some(Self(steps))
    }

    fn find<'a>(&self, json: &'a Json) -> Option<&'a Json> {
        self.0.iter().try_fold(json, |json, step| match (step, json) {
            (Step::Name(name), Json::Object(members)) => members.get(name),
            (Step::Name(name), Json::Array(items)) => items.get(name.parse::<usize>().ok()?),
            (Step::Index(index), Json::Array(items)) => {
                let from_end = usize::try_from(index.unsigned_abs()).ok()?;
                items.get(if *index < 0 { items.len().checked_sub(from_end)? } else { from_end })
            }
            _ => None,
        })
    }
}

/// What stands in brackets, and what comes after them.
fn in_brackets(inside: &str) -> Option<(Step, &str)> {
    match inside.chars().next().filter(|quote| matches!(quote, '\'' | '"')) {
        Some(quote) => {
            let (name, after) = inside.get(1..)?.split_once(quote)?;
            Some((Step::Name(name.to_owned()), after.strip_prefix(']')?))
        }
        None => {
            let (index, after) = inside.split_once(']')?;
            Some((Step::Index(index.trim().parse().ok()?), after))
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        self.0.iter().try_for_each(|step| match step {
            Step::Name(name) if !name.is_empty() && !name.contains(['.', '[', ' ', '\'', '"']) => {
                write!(f, ".{name}")
            }
            Step::Name(name) if name.contains('\'') => write!(f, "[\"{name}\"]"),
            Step::Name(name) => write!(f, "['{name}']"),
            Step::Index(index) => write!(f, "[{index}]"),
        })
    }
}

/// What came on a topic. Several properties may look into it; it is read as JSON once.
pub struct Message<'a> {
    bytes: &'a [u8],
    json: OnceCell<Result<Json, String>>,
}

impl<'a> Message<'a> {
    /// Of a message's payload.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, json: OnceCell::new() }
    }

    /// The value in it.
    pub fn value(&self, path: Option<&Path>, kind: Kind) -> Result<Value, PayloadError> {
        if let Some(path) = path {
            let json = self.json().map_err(|why| PayloadError::NotJson(why.to_owned()))?;
            let found = path.find(json).ok_or_else(|| PayloadError::Nothing(path.to_string()))?;
            return of_json(found, &path.to_string(), kind);
        }
        if kind == Kind::Bytes {
            return Ok(Value::Bytes(self.bytes.to_vec()));
        }
        let text = std::str::from_utf8(self.bytes).map_err(|_| PayloadError::NotText)?;
        // Numbers in quotes, truths for numbers; and an object is told as one.
        of_text(text, kind).or_else(|error| self.json().map_or(Err(error), |json| of_json(json, "$", kind)))
    }

    fn json(&self) -> Result<&Json, &str> {
        let json =
            self.json.get_or_init(|| serde_json::from_slice(self.bytes).map_err(|error| error.to_string()));
        json.as_ref().map_err(String::as_str)
    }
}

fn of_text(text: &str, kind: Kind) -> Result<Value, PayloadError> {
    if kind == Kind::Bool {
        match text.trim().to_ascii_lowercase().as_str() {
            "on" | "yes" => return Ok(Value::Bool(true)),
            "off" | "no" => return Ok(Value::Bool(false)),
            _ => {}
        }
    }
    kind.parse(text).map_err(|error| match text.len() {
        n_bytes if n_bytes > QUOTED => PayloadError::Long(n_bytes, kind),
        _ => error.into(),
    })
}

fn of_json(json: &Json, place: &str, kind: Kind) -> Result<Value, PayloadError> {
    let structure = |what, inner: &str| Err(PayloadError::Structure(what, kind, format!("{place}{inner}")));
    match (json, kind) {
        (Json::Null, _) => Err(PayloadError::Null),
        (Json::String(text), _) => of_text(text, kind),
        (_, Kind::Text | Kind::Bytes) => of_text(&json.to_string(), kind),
        (Json::Object(_), _) => structure("object", ".temperature"),
        (Json::Array(_), _) => structure("list", "[0]"),
        (Json::Bool(is), Kind::Int | Kind::Float | Kind::Double) => {
            of_text(if *is { "1" } else { "0" }, kind)
        }
        (Json::Bool(is), Kind::Bool) => Ok(Value::Bool(*is)),
        (Json::Number(number), _) => match (number.as_i64(), number.as_f64(), kind) {
            // 21.0 is a whole number, and is the truth's 1.0 too.
            (None, Some(float), Kind::Int | Kind::Bool) if float.fract() == 0.0 && float.abs() < EXACT => {
                of_text(&float.to_string(), kind)
            }
            _ => of_text(&number.to_string(), kind),
        },
    }
}

#[cfg(test)]
mod tests;
