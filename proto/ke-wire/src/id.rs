//! Names and identifiers as newtypes that only parse valid text, so that nothing behind the rim checks again.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no identifier of the wanted sort.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: {why}")]
pub struct InvalidId {
    what: &'static str,
    text: String,
    why: &'static str,
}

/// Longest text of a Kubernetes object name (DNS-1123 subdomain).
const MAX_SUBDOMAIN: usize = 253;
/// Longest text of a DNS-1123 label, hence of a namespace.
const MAX_LABEL: usize = 63;
/// Message ids are UUIDs from both known peers; anything up to this length is taken.
const MAX_OPAQUE: usize = 128;

/// Names that Kubernetes checks as path segments (roles, events of odd clients) may hold more than a subdomain.
fn path_segment(text: &str) -> Option<&'static str> {
    match text {
        "" => Some("it is empty"),
        "." | ".." => Some("it is a path"),
        _ if text.len() > MAX_SUBDOMAIN => Some("it is longer than 253 bytes"),
        _ if text.contains(['/', '%']) => Some("it holds '/' or '%'"),
        _ if text.chars().any(char::is_control) => Some("it holds a control character"),
        _ => None,
    }
}

fn subdomain(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.len() > MAX_SUBDOMAIN {
        return Some("it is longer than 253 bytes");
    }
    let good_end = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    let good = |part: &str| {
        good_end(part) && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if text.split('.').all(good) {
        None
    } else {
        Some(
            "lower case letters, digits, '-' and '.' only, each part beginning and ending with a letter or digit",
        )
    }
}

fn label(text: &str) -> Option<&'static str> {
    if text.len() > MAX_LABEL {
        return Some("it is longer than 63 bytes");
    }
    if text.contains('.') {
        return Some("it holds a dot");
    }
    subdomain(text)
}

fn opaque(text: &str) -> Option<&'static str> {
    match text {
        "" => Some("it is empty"),
        _ if text.len() > MAX_OPAQUE => Some("it is longer than 128 bytes"),
        _ if text.chars().any(|c| c.is_control() || c == '/') => Some("it holds a control character or '/'"),
        _ => None,
    }
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                match $check(text) {
                    None => Ok(Self(text.into())),
                    Some(why) => {
                        let text = text.chars().take(64).collect();
                        Err(InvalidId { what: $what, text, why })
                    }
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

identifier! {
    /// Name of a Node and of the edge machine behind it.
    NodeName, "node name", subdomain
}
identifier! {
    /// Kubernetes namespace.
    Namespace, "namespace", label
}
identifier! {
    /// Name of an object within its kind and scope.
    ObjectName, "object name", path_segment
}
identifier! {
    /// `metadata.uid` of an object: two objects of one name have different ones.
    Uid, "uid", opaque
}
identifier! {
    /// Id of one message. A retransmission keeps it; an answer or acknowledgement names it.
    MessageId, "message id", opaque
}

/// A Device or DeviceModel by its place in the cluster. As text, also in topics and membership: `<namespace>/<name>`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: ObjectName,
}

impl FromStr for DeviceId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = |why| InvalidId { what: "device", text: text.chars().take(64).collect(), why };
        let (namespace, name) = text.split_once('/').ok_or_else(|| invalid("not <namespace>/<name>"))?;
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for DeviceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DeviceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl MessageId {
    /// A fresh random id (UUID version 4), as both known peers make them.
    #[must_use]
    pub fn fresh() -> Self {
        Self(uuid::Uuid::new_v4().to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_kubernetes_takes() {
        let check = |text: &str, expected: bool| {
            assert_eq!(text.parse::<NodeName>().is_ok(), expected, "node name {text:?}");
        };
        check("edge-1", true);
        check("edge-1.plant.example", true);
        check("", false);
        check("Edge", false);
        check("-edge", false);
        check("edge..1", false);
        check("a/b", false);
        check(&"a".repeat(254), false);
    }

    #[test]
    fn namespaces_are_labels_and_names_are_no_paths() {
        assert!("kube-system".parse::<Namespace>().is_ok());
        assert!("a.b".parse::<Namespace>().is_err());
        assert!("system:node:edge-1".parse::<ObjectName>().is_ok());
        assert!("..".parse::<ObjectName>().is_err());
        assert!("a/b".parse::<ObjectName>().is_err());
    }

    #[test]
    fn devices_are_named_by_two_parts() {
        let check = |text: &str, expected: bool| {
            let device = text.parse::<DeviceId>();
            assert_eq!(device.is_ok(), expected, "{text:?}: {device:?}");
            if let Ok(device) = device {
                assert_eq!(device.to_string(), text);
            }
        };
        check("plant/oven-1", true);
        check("oven-1", false);
        check("plant/", false);
        check("/oven-1", false);
        check("plant/oven/1", false);
        check("a.b/oven", false);
    }
}
