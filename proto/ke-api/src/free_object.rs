//! A JSON object whose members nobody declares: connection settings, access settings, statuses of others.
//!
//! It keeps every member as it came. Used in the device resources.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Any JSON object. The API server neither checks nor prunes what is in it. Passwords may be in it: printed, it shows its keys.
#[derive(Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct FreeObject(pub Map<String, Value>);

impl FreeObject {
    /// The member of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for FreeObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FreeObject")?;
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl From<Map<String, Value>> for FreeObject {
    fn from(members: Map<String, Value>) -> Self {
        Self(members)
    }
}

impl JsonSchema for FreeObject {
    fn schema_name() -> Cow<'static, str> {
        "FreeObject".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
    }
}

/// For `skip_serializing_if`: what equals its default is left out, as Go's `omitempty` does.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// For `deserialize_with`: Go writers send `null` where they mean nothing.
pub(crate) fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_printed() {
        let settings: FreeObject = serde_json::from_str(r#"{"user": "eva", "password": "s3cret"}"#).unwrap();
        assert_eq!(format!("{settings:?}"), r#"FreeObject{"password", "user"}"#);
    }
}
