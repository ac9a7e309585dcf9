//! Answers as the kubelet gives them: a status and, where it is none of success, a sentence as plain text. The API server puts
//! that sentence before the person who asked.

use std::fmt::Display;
use std::io;

use futures_util::{Stream, TryStreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use tonic::Code;

use crate::edged::RuntimeError;

pub(super) type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";
/// The form of Prometheus in which times are milliseconds.
pub(super) const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// How long a runtime keeps what it promised. Whoever is told that it promised too much waits so long. Seconds.
const RETRY_SECS: &str = "60";

/// Why something is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) text: String,
}

impl Refused {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(super) fn broken(why: &dyn Display) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, why.to_string())
    }

    /// What the runtime says when it is asked for a stream, with the kubelet's statuses.
    pub(super) fn runtime(error: &RuntimeError) -> Self {
        let status = match error {
            RuntimeError::NotFound(_) => StatusCode::NOT_FOUND,
            RuntimeError::Refused { code: Code::ResourceExhausted, .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }

    pub(super) fn answer(self) -> Answer {
        let mut answer = whole(TEXT, self.text);
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(RETRY_SECS));
        }
        *answer.status_mut() = self.status;
        answer
    }
}

pub(super) fn whole(kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

pub(super) fn stream(blocks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Answer {
    let mut answer = Response::new(StreamBody::new(blocks.map_ok(Frame::data)).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    answer
}
