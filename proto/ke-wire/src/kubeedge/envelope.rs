//! The envelope of every message, and why one cannot be read.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::MessageId;
use crate::version::Version;

/// Largest frame that is read unless the caller says otherwise. Lists for local API clients come as base64 of the
/// whole list.
pub const FRAME_LIMIT: usize = 64 * 1024 * 1024;

/// Longest piece of a message that an error repeats.
const QUOTE: usize = 128;

/// Why a frame is no message of this dialect. The texts hold nothing of a message's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not a JSON document: the link is of no use any more.
    #[error("the frame is not JSON: {0}")]
    NotJson(String),
    /// Larger than the limit: the link is of no use any more.
    #[error("the frame has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Bytes in the frame.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// JSON, but without the parts that every message has.
    #[error("the frame is JSON but no message: {0}")]
    BadEnvelope(String),
    /// One of the words that KubeEdge's connection layer keeps to itself: `ping`, `pong`, `config`.
    #[error("operation {0} belongs to the connection layer")]
    Reserved(String),
    /// No message goes this way with this route.
    #[error("nobody takes operation {operation:?} of {source_module:?} in group {group:?} on {resource:?}")]
    UnknownOperation {
        /// What is to be done.
        operation: String,
        /// The sending module.
        source_module: String,
        /// The receiving group.
        group: String,
        /// What it is about.
        resource: String,
    },
    /// The resource has not the shape that goes with the operation.
    #[error("resource {resource:?}: {why}")]
    BadResource {
        /// The resource.
        resource: String,
        /// What is wrong with it.
        why: String,
    },
    /// The content has not the shape that goes with the route.
    #[error("content of {operation:?} on {resource:?}: {why}")]
    BadContent {
        /// What is to be done.
        operation: String,
        /// What it is about.
        resource: String,
        /// What is wrong with it.
        why: String,
    },
}

impl DecodeError {
    /// Whether the link must be closed. Every other error concerns this one message.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::NotJson(_) | Self::TooLarge { .. })
    }
}

fn quote(text: &str) -> String {
    text.chars().take(QUOTE).collect()
}

/// What serde found wrong, without the value it found: values may be secret.
fn blame(error: &serde_json::Error) -> String {
    format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column())
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    header: Header<'a>,
    #[serde(borrow, default)]
    route: Route<'a>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

/// Nulls are taken for absent, as Go does.
#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    msg_id: Cow<'a, str>,
    #[serde(borrow, default)]
    parent_msg_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    resourceversion: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Route<'a> {
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow)]
    group: Option<Cow<'a, str>>,
    #[serde(borrow)]
    operation: Option<Cow<'a, str>>,
    #[serde(borrow)]
    resource: Option<Cow<'a, str>>,
}

/// One frame, taken apart.
pub(super) struct Message<'a> {
    pub(super) id: MessageId,
    pub(super) parent: Option<MessageId>,
    pub(super) version: Option<Version>,
    pub(super) source: Cow<'a, str>,
    pub(super) group: Cow<'a, str>,
    pub(super) operation: Cow<'a, str>,
    pub(super) resource: Cow<'a, str>,
    /// `None` is null.
    content: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// Takes the first JSON value of a frame apart.
    pub(super) fn read(frame: &'a [u8], limit: usize) -> Result<Self, DecodeError> {
        if frame.len() > limit {
            return Err(DecodeError::TooLarge { size: frame.len(), limit });
        }
        let mut reader = serde_json::Deserializer::from_slice(frame);
        let envelope = Envelope::deserialize(&mut reader).map_err(|error| read_error(&error, frame))?;
        let Envelope { header, route, content } = envelope;
        let bad = |why: String| DecodeError::BadEnvelope(why);
        let id = header.msg_id.parse().map_err(|_| bad("msg_id is no message id".into()))?;
        let parent = match header.parent_msg_id.as_deref() {
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| bad("parent_msg_id is no message id".into()))?),
        };
        let version = match header.resourceversion.as_deref() {
            None | Some("") => None,
            Some(text) => Some(text.parse::<Version>().map_err(|error| bad(error.to_string()))?),
        };
        let message = Self {
            id,
            parent,
            version,
            source: route.source.unwrap_or_default(),
            group: route.group.unwrap_or_default(),
            operation: route.operation.unwrap_or_default(),
            resource: route.resource.unwrap_or_default(),
            content,
        };
        match &*message.operation {
            "ping" | "pong" | "config" => Err(DecodeError::Reserved(message.operation.into_owned())),
            _ => Ok(message),
        }
    }

    /// The message that this one answers.
    pub(super) fn answered(&self) -> Result<MessageId, DecodeError> {
        self.parent.clone().ok_or_else(|| DecodeError::BadEnvelope("an answer without parent_msg_id".into()))
    }

    /// The content's own text.
    pub(super) fn raw(&self) -> &'a str {
        self.content.map_or("null", RawValue::get)
    }

    /// The content's own text, kept.
    pub(super) fn body(&self) -> Bytes {
        Bytes::copy_from_slice(self.raw().as_bytes())
    }

    /// The content's own text, kept, if it is an object.
    pub(super) fn object(&self) -> Result<Bytes, DecodeError> {
        if self.raw().starts_with('{') { Ok(self.body()) } else { Err(self.bad_content("no JSON object")) }
    }

    /// The content as a type.
    pub(super) fn parse<T: Deserialize<'a>>(&self) -> Result<T, DecodeError> {
        serde_json::from_str(self.raw()).map_err(|error| self.bad_content(blame(&error)))
    }

    /// The content as a text, if it is one.
    pub(super) fn text(&self) -> Option<String> {
        if self.raw().starts_with('"') { serde_json::from_str(self.raw()).ok() } else { None }
    }

    /// A JSON document inside a text; old and other transports send the document itself.
    pub(super) fn document(&self) -> String {
        self.text().unwrap_or_else(|| self.raw().to_owned())
    }

    pub(super) fn unknown(&self) -> DecodeError {
        DecodeError::UnknownOperation {
            operation: quote(&self.operation),
            source_module: quote(&self.source),
            group: quote(&self.group),
            resource: quote(&self.resource),
        }
    }

    pub(super) fn bad_resource(&self, why: impl ToString) -> DecodeError {
        DecodeError::BadResource { resource: quote(&self.resource), why: why.to_string() }
    }

    pub(super) fn bad_content(&self, why: impl Into<String>) -> DecodeError {
        DecodeError::BadContent {
            operation: quote(&self.operation),
            resource: quote(&self.resource),
            why: why.into(),
        }
    }

    /// A document that was inside a text, as a type.
    pub(super) fn parse_document<T: for<'d> Deserialize<'d>>(&self) -> Result<T, DecodeError> {
        serde_json::from_str(&self.document()).map_err(|error| self.bad_content(blame(&error)))
    }
}

/// A frame of the wrong shape may still be JSON; only one that is not ends the link.
fn read_error(error: &serde_json::Error, frame: &[u8]) -> DecodeError {
    if !error.is_data() {
        return DecodeError::NotJson(blame(error));
    }
    match IgnoredAny::deserialize(&mut serde_json::Deserializer::from_slice(frame)) {
        Ok(IgnoredAny) => DecodeError::BadEnvelope(blame(error)),
        Err(error) => DecodeError::NotJson(blame(&error)),
    }
}

/// What a frame carries.
pub(super) enum Content {
    Null,
    /// JSON as it is.
    Raw(Bytes),
    Text(String),
}

impl Content {
    /// "Done", "received".
    pub(super) fn ok() -> Self {
        Self::Text("OK".into())
    }

    /// A typed content. Our types have text keys and finite numbers only, so that printing them cannot fail.
    pub(super) fn of<T: Serialize>(value: &T) -> Self {
        Self::Raw(print(value).into())
    }

    /// A typed content inside a text.
    pub(super) fn document<T: Serialize>(value: &T) -> Self {
        Self::Text(String::from_utf8(print(value)).unwrap_or_default())
    }
}

/// See [`Content::of`].
pub(super) fn print<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|_| b"null".to_vec())
}

/// One frame, before it is put together. Empty texts are left out.
pub(super) struct Frame<'a> {
    pub(super) id: &'a MessageId,
    pub(super) parent: Option<&'a MessageId>,
    pub(super) version: Option<Version>,
    pub(super) source: &'a str,
    pub(super) group: &'a str,
    pub(super) operation: &'a str,
    pub(super) resource: String,
    pub(super) content: Content,
}

impl Frame<'_> {
    pub(super) fn write(&self, timestamp_ms: i64) -> Vec<u8> {
        #[derive(Serialize)]
        struct HeaderOut<'a> {
            msg_id: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            parent_msg_id: &'a str,
            timestamp: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            resourceversion: Option<String>,
        }
        #[derive(Serialize)]
        struct RouteOut<'a> {
            #[serde(skip_serializing_if = "str::is_empty")]
            source: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            group: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            operation: &'a str,
            #[serde(skip_serializing_if = "str::is_empty")]
            resource: &'a str,
        }
        let header = print(&HeaderOut {
            msg_id: self.id.as_str(),
            parent_msg_id: self.parent.map_or("", MessageId::as_str),
            timestamp: timestamp_ms,
            resourceversion: self.version.map(|version| version.to_string()),
        });
        let route = print(&RouteOut {
            source: self.source,
            group: self.group,
            operation: self.operation,
            resource: &self.resource,
        });
        let printed;
        let content: &[u8] = match &self.content {
            Content::Raw(body) if !body.is_empty() => body,
            Content::Raw(_) | Content::Null => b"null",
            Content::Text(text) => {
                printed = print(text);
                &printed
            }
        };
        let mut frame = Vec::with_capacity(header.len() + route.len() + content.len() + 40);
        for part in [&b"{\"header\":"[..], &header, b",\"route\":", &route, b",\"content\":", content, b"}\n"]
        {
            frame.extend_from_slice(part);
        }
        frame
    }
}
