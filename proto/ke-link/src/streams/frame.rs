//! Frames of streams as bytes and back: pure, and the only place that knows their layout.
//!
//! One binary WebSocket message is one frame: a byte that says which, four bytes of stream id (big endian, as all numbers
//! here), and the rest by type. proto/README.md has the table.

use bytes::{BufMut, Bytes, BytesMut};

use super::{Reset, ResetCode, StreamId};

/// Data of one frame, bytes. A message that comes while one is being written waits for no more than this.
pub const MAX_DATA: usize = 16 << 10;
/// Text of a reset, bytes. One sentence; what is longer is cut.
pub const MAX_TEXT: usize = 256;

const HEAD: usize = 5;
const OPEN: u8 = 1;
const DATA: u8 = 2;
const FIN: u8 = 3;
const RESET: u8 = 4;
const WINDOW: u8 = 5;
const HEARD: u8 = 6;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A stream begins. The kind as its number: what this side does not know it refuses.
    Open(StreamId, u8),
    /// Bytes of a stream: 1 to `MAX_DATA`.
    Data(StreamId, &'a [u8]),
    /// The sender of this says nothing more on the stream.
    Fin(StreamId),
    /// The stream is over in both directions.
    Reset(StreamId, Reset),
    /// So many bytes more of the stream will be taken.
    Window(StreamId, u32),
    /// So many bytes of data, of whatever streams, have arrived since this was last said. Its stream id is 0.
    Heard(u32),
}

/// Why bytes are no frame. The link cannot go on: nobody knows what was meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The type is none of those in the table.
    #[error("a frame of the unknown type {0}")]
    Type(u8),
    /// Shorter or longer than its type allows.
    #[error("a frame of type {0} with {1} bytes after its head")]
    Length(u8, usize),
    /// Zero where a stream is meant, another number where none is.
    #[error("a frame of type {0} with the stream id {1}")]
    Id(u8, u32),
}

impl Frame<'_> {
    pub(super) fn encode(&self) -> Bytes {
        let rest = match self {
            Self::Data(_, data) => data.len(),
            Self::Reset(..) => 1 + MAX_TEXT,
            _ => 4,
        };
        let mut bytes = BytesMut::with_capacity(HEAD + rest);
        let head = |bytes: &mut BytesMut, kind: u8, id: StreamId| {
            bytes.put_u8(kind);
            bytes.put_u32(id.0);
        };
        match self {
            Self::Open(id, kind) => {
                head(&mut bytes, OPEN, *id);
                bytes.put_u8(*kind);
            }
            Self::Data(id, data) => {
                head(&mut bytes, DATA, *id);
                bytes.put_slice(data);
            }
            Self::Fin(id) => head(&mut bytes, FIN, *id),
            Self::Reset(id, Reset { code, text }) => {
                head(&mut bytes, RESET, *id);
                bytes.put_u8(code.number());
                bytes.put_slice(sentence(text).as_bytes());
            }
            Self::Window(id, more) => {
                head(&mut bytes, WINDOW, *id);
                bytes.put_u32(*more);
            }
            Self::Heard(more) => {
                head(&mut bytes, HEARD, StreamId(0));
                bytes.put_u32(*more);
            }
        }
        bytes.freeze()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
        let Some((&[kind, a, b, c, d], rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Err(FrameError::Length(bytes.first().copied().unwrap_or(0), 0));
        };
        let id = StreamId(u32::from_be_bytes([a, b, c, d]));
        let wrong_length = || FrameError::Length(kind, rest.len());
        let number = || <[u8; 4]>::try_from(rest).map(u32::from_be_bytes).map_err(|_| wrong_length());
        let frame = match (kind, rest) {
            (OPEN, [number]) => Frame::Open(id, *number),
            (DATA, data) if (1..=MAX_DATA).contains(&data.len()) => Frame::Data(id, data),
            (FIN, []) => Frame::Fin(id),
            (RESET, [code, text @ ..]) if text.len() <= MAX_TEXT => {
                let text = sentence(&String::from_utf8_lossy(text));
                Frame::Reset(id, Reset { code: ResetCode::from_number(*code), text })
            }
            (WINDOW, _) => Frame::Window(id, number()?),
            (HEARD, _) => Frame::Heard(number()?),
            (OPEN..=RESET, _) => return Err(wrong_length()),
            (unknown, _) => return Err(FrameError::Type(unknown)),
        };
        if (id.0 == 0) != matches!(frame, Frame::Heard(_)) {
            return Err(FrameError::Id(kind, id.0));
        }
        Ok(frame)
    }
}

/// At most `MAX_TEXT` bytes on one line: it ends up in logs and in front of people.
fn sentence(text: &str) -> String {
    let mut line: String = text.chars().map(|sign| if sign.is_control() { ' ' } else { sign }).collect();
    line.truncate(line.floor_char_boundary(MAX_TEXT));
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_has_its_bytes() {
        let check = |frame: Frame<'_>, bytes: &[u8]| {
            assert_eq!(frame.encode(), bytes, "{frame:?}");
            assert_eq!(Frame::decode(bytes), Ok(frame));
        };
        let refused = Reset { code: ResetCode::Refused, text: "nobody".into() };
        check(Frame::Open(StreamId(1), 1), b"\x01\0\0\0\x01\x01");
        check(Frame::Data(StreamId(0x0102_0304), b"hi"), b"\x02\x01\x02\x03\x04hi");
        check(Frame::Fin(StreamId(3)), b"\x03\0\0\0\x03");
        check(Frame::Reset(StreamId(3), refused), b"\x04\0\0\0\x03\x02nobody");
        check(Frame::Window(StreamId(3), 65536), b"\x05\0\0\0\x03\0\x01\0\0");
        check(Frame::Heard(32768), b"\x06\0\0\0\0\0\0\x80\0");
    }

    #[test]
    fn what_is_no_frame() {
        let check = |bytes: &[u8], expected| assert_eq!(Frame::decode(bytes), Err(expected), "{bytes:?}");
        check(b"", FrameError::Length(0, 0));
        check(b"\x02\0\0\0", FrameError::Length(2, 0));
        check(b"\x00\0\0\0\x01", FrameError::Type(0));
        check(b"\x07\0\0\0\x01", FrameError::Type(7));
        check(b"{\"header\":{}}", FrameError::Type(b'{'));
        check(b"\x01\0\0\0\x01", FrameError::Length(1, 0));
        check(b"\x01\0\0\0\x01\x01\x01", FrameError::Length(1, 2));
        check(b"\x02\0\0\0\x01", FrameError::Length(2, 0));
        check(b"\x03\0\0\0\x01\0", FrameError::Length(3, 1));
        check(b"\x04\0\0\0\x01", FrameError::Length(4, 0));
        check(b"\x05\0\0\0\x01\0\0\x01", FrameError::Length(5, 3));
        check(b"\x06\0\0\0\0\0", FrameError::Length(6, 1));
        check(b"\x02\0\0\0\0hi", FrameError::Id(2, 0));
        check(b"\x06\0\0\0\x01\0\0\0\x01", FrameError::Id(6, 1));
        let long = [&b"\x02\0\0\0\x01"[..], &[0; MAX_DATA + 1]].concat();
        check(&long, FrameError::Length(2, MAX_DATA + 1));
        let long = [&b"\x04\0\0\0\x01\x01"[..], &[b'a'; MAX_TEXT + 1]].concat();
        check(&long, FrameError::Length(4, MAX_TEXT + 2));
    }

    #[test]
    fn a_reset_says_one_line() {
        let check = |text: &str, expected: &str| {
            let reset = Reset { code: ResetCode::Refused, text: text.into() };
            let bytes = Frame::Reset(StreamId(1), reset).encode();
            let Ok(Frame::Reset(_, read)) = Frame::decode(&bytes) else { panic!("{bytes:?}") };
            assert_eq!(read.text, expected);
        };
        check("two\nlines\u{1b}[31m", "two lines [31m");
        check(&"ä".repeat(200), &"ä".repeat(128));
        // Bytes that are no text, and a number of a later version.
        let Ok(Frame::Reset(_, read)) = Frame::decode(b"\x04\0\0\0\x01\xfe\xff") else { panic!() };
        assert_eq!((read.code, read.text.as_str()), (ResetCode::Other, "\u{fffd}"));
    }
}
