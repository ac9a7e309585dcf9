//! How Go prints what serde prints otherwise: byte slices as base64 text, unset lists and maps as null.
//!
//! Used by the typed contents of messages, never by the bodies of Kubernetes objects.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serializer};

/// A value, or its default in place of null.
pub(crate) fn null_is_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Standard base64 of some bytes.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes behind a standard base64 text.
pub(crate) fn from_base64(text: &str) -> Option<Bytes> {
    STANDARD.decode(text).ok().map(Bytes::from)
}

fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        None => Ok(Bytes::new()),
        Some(text) => from_base64(&text).ok_or_else(|| serde::de::Error::custom("not base64")),
    }
}

/// No bytes are an empty text.
pub(crate) mod base64_text {
    use super::{Bytes, Deserializer, Serializer, read, to_base64};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_base64(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        read(deserializer)
    }
}

/// No bytes are null.
pub(crate) mod base64_or_null {
    use super::{Bytes, Deserializer, Serializer, read, to_base64};

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        if bytes.is_empty() {
            serializer.serialize_none()
        } else {
            serializer.serialize_str(&to_base64(bytes))
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        read(deserializer)
    }
}
