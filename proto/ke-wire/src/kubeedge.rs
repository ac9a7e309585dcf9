//! KubeEdge dialect: JSON envelope and resource strings to [`Down`] and [`Up`] and back, nowhere else.

use crate::{Down, Up};

/// Largest frame that is read unless the caller says otherwise. Lists for local API clients come as base64 of the
/// whole list.
pub const FRAME_LIMIT: usize = 64 * 1024 * 1024;

/// Why a frame is no message of this dialect.
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
}

impl DecodeError {
    /// Whether the link must be closed. Every other error concerns this one message.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::NotJson(_) | Self::TooLarge { .. })
    }
}

/// One frame that an edge reads.
#[must_use]
pub fn encode_down(_message: &Down, _timestamp_ms: i64) -> Vec<u8> {
    Vec::new()
}

/// One frame that a cloud reads.
#[must_use]
pub fn encode_up(_message: &Up, _timestamp_ms: i64) -> Vec<u8> {
    Vec::new()
}

/// What a frame from the cloud says.
pub fn decode_down(frame: &[u8], limit: usize) -> Result<Down, DecodeError> {
    Err(DecodeError::TooLarge { size: frame.len(), limit })
}

/// What a frame from an edge says.
pub fn decode_up(frame: &[u8], limit: usize) -> Result<Up, DecodeError> {
    Err(DecodeError::TooLarge { size: frame.len(), limit })
}
