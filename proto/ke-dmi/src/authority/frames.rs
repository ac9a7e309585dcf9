//! Pure: what a client sends on an HTTP/2 connection (RFC 9113), with every `:authority` made one that can be parsed.
//!
//! Header blocks are decoded and written anew, all else passes as it is. What is wrong with other frames is not judged
//! here: the server behind does that. Called by the connection in `mod.rs`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::hpack::{self, Decoder, HpackError};
use crate::http::uri::Authority;

/// How every client begins.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x01;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// Bytes that [`PRIORITY`] puts before the block.
const PRIORITY_LENGTH: usize = 5;

/// Largest frame of a header block, to and from here: what every peer accepts unless told otherwise. A server that
/// allows larger frames gets larger data, not larger header frames.
const MAX_FRAME: usize = 16_384;
/// Largest header block as sent, frame heads counted, so that empty frames do not go on for ever either.
const MAX_BLOCK: usize = 64 * 1024;
/// The standard's table size. A server behind must not offer a larger one; tonic's never does.
const TABLE_SIZE: usize = 4096;
/// With this much to read, the rest of the input can wait. One header block may come on top.
const ENOUGH: usize = 16 * 1024;
/// Stands in for what is no authority. No service here looks at it.
const LOCALHOST: &[u8] = b"localhost";

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("the client does not speak HTTP/2")]
    Preface,
    #[error("a header frame of {0} bytes is larger than {MAX_FRAME}")]
    FrameTooLarge(usize),
    #[error("a header block is larger than {MAX_BLOCK} bytes")]
    BlockTooLarge,
    #[error("a header frame is shorter than its padding and priority")]
    FrameTooShort,
    #[error("another frame comes in the middle of a header block")]
    Interrupted,
    #[error("a header block goes on that never began")]
    NotBegun,
    #[error(transparent)]
    Hpack(#[from] HpackError),
}

/// One connection, client to server.
pub(super) struct Rewriter {
    at: At,
    decoder: Decoder,
}

enum At {
    Preface,
    /// A frame head is next, outside a header block.
    Head,
    /// So many bytes belong to a frame that passes.
    Passing(usize),
    /// A header block is not complete: only its next frame may come.
    Block(Block),
}

struct Block {
    /// As on the wire, its reserved bit cleared.
    stream: [u8; 4],
    /// END_STREAM and PRIORITY, if the first frame has them.
    flags: u8,
    priority: Bytes,
    fragments: BytesMut,
    /// All that was sent for it so far.
    cost: usize,
}

struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Rewriter {
    pub(super) fn new() -> Self {
        Self { at: At::Preface, decoder: Decoder::new(TABLE_SIZE) }
    }

    /// Takes from the front of `input` and appends to `output`, until the input has no complete piece any more or there
    /// is [`ENOUGH`] output. So an empty output means: more input is needed. After an error nothing more may be asked;
    /// what is in `output` by then is good. The largest `input` that waits for more is one header frame.
    pub(super) fn advance(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<(), FrameError> {
        while output.len() < ENOUGH {
            let moved = match &mut self.at {
                At::Preface => self.preface(input, output)?,
                At::Passing(0) => {
                    self.at = At::Head;
                    true
                }
                At::Passing(left) => {
                    let piece = input.split_to(input.len().min(*left).min(ENOUGH));
                    output.put_slice(&piece);
                    *left -= piece.len();
                    !piece.is_empty()
                }
                At::Head | At::Block(_) => self.frame(input, output)?,
            };
            if !moved {
                break;
            }
        }
        Ok(())
    }

    fn preface(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<bool, FrameError> {
        if input.iter().zip(PREFACE).any(|(sent, expected)| sent != expected) {
            return Err(FrameError::Preface);
        }
        if input.len() < PREFACE.len() {
            return Ok(false);
        }
        output.put_slice(&input.split_to(PREFACE.len()));
        self.at = At::Head;
        Ok(true)
    }

    /// Takes a whole header frame, or the head of any other. `false` if it has not arrived yet.
    fn frame(&mut self, input: &mut BytesMut, output: &mut BytesMut) -> Result<bool, FrameError> {
        let Some(raw) = input.first_chunk::<HEAD>() else { return Ok(false) };
        let head = Head::read(raw);
        match (&self.at, head.kind) {
            (At::Block(block), CONTINUATION) if block.stream == head.stream => {}
            (At::Block(_), _) => return Err(FrameError::Interrupted),
            (_, CONTINUATION) => return Err(FrameError::NotBegun),
            (_, HEADERS) => {}
            _ => {
                output.put_slice(&input.split_to(HEAD));
                self.at = At::Passing(head.length);
                return Ok(true);
            }
        }
        if head.length > MAX_FRAME {
            return Err(FrameError::FrameTooLarge(head.length));
        }
        if input.len() < HEAD + head.length {
            return Ok(false);
        }
        input.advance(HEAD);
        let payload = input.split_to(head.length);
        let mut block = match std::mem::replace(&mut self.at, At::Head) {
            At::Block(block) => block.go_on(&payload),
            _ => Block::begin(&head, payload)?,
        };
        block.cost += HEAD + head.length;
        if block.cost > MAX_BLOCK {
            return Err(FrameError::BlockTooLarge);
        }
        if head.flags & END_HEADERS == 0 {
            self.at = At::Block(block);
        } else {
            self.finish(&block, output)?;
        }
        Ok(true)
    }

    fn finish(&mut self, block: &Block, output: &mut BytesMut) -> Result<(), FrameError> {
        let mut fields = self.decoder.decode(&block.fragments)?;
        for field in &mut fields {
            if field.name.as_ref() == b":authority" && Authority::try_from(field.value.as_ref()).is_err() {
                field.value = Bytes::from_static(LOCALHOST);
            }
        }
        block.write(hpack::encode(&fields), output);
        Ok(())
    }
}

impl Head {
    fn read(raw: &[u8; HEAD]) -> Self {
        let [high, middle, low, kind, flags, s0, s1, s2, s3] = *raw;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        Self { length, kind, flags, stream: [s0 & 0x7f, s1, s2, s3] }
    }

    fn write(&self, output: &mut BytesMut) {
        output.put_uint(self.length as u64, 3);
        output.put_u8(self.kind);
        output.put_u8(self.flags);
        output.put_slice(&self.stream);
    }
}

impl Block {
    /// The payload of HEADERS is: length of the padding, priority, fragment, padding. Padding is dropped.
    fn begin(head: &Head, payload: BytesMut) -> Result<Self, FrameError> {
        let mut payload = payload.freeze();
        let mut padding = 0;
        if head.flags & PADDED != 0 {
            padding = usize::from(payload.try_get_u8().map_err(|_| FrameError::FrameTooShort)?);
        }
        let mut priority = Bytes::new();
        if head.flags & PRIORITY != 0 {
            if payload.len() < PRIORITY_LENGTH {
                return Err(FrameError::FrameTooShort);
            }
            priority = payload.split_to(PRIORITY_LENGTH);
        }
        payload.truncate(payload.len().checked_sub(padding).ok_or(FrameError::FrameTooShort)?);
        let flags = head.flags & (END_STREAM | PRIORITY);
        Ok(Self { stream: head.stream, flags, priority, fragments: BytesMut::from(payload), cost: 0 })
    }

    fn go_on(mut self, payload: &[u8]) -> Self {
        self.fragments.put_slice(payload);
        self
    }

    /// The block as frames of this stream, with `encoded` in place of the fragments.
    fn write(&self, mut encoded: Bytes, output: &mut BytesMut) {
        let mut lead: &[u8] = &self.priority;
        let (mut kind, mut flags) = (HEADERS, self.flags);
        loop {
            let piece = encoded.split_to(encoded.len().min(MAX_FRAME - lead.len()));
            if encoded.is_empty() {
                flags |= END_HEADERS;
            }
            Head { length: lead.len() + piece.len(), kind, flags, stream: self.stream }.write(output);
            output.put_slice(lead);
            output.put_slice(&piece);
            if encoded.is_empty() {
                return;
            }
            lead = &[];
            (kind, flags) = (CONTINUATION, 0);
        }
    }
}

#[cfg(test)]
#[path = "frames_tests.rs"]
mod tests;
