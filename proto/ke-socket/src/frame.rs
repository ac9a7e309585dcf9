//! Pure: WebSocket frames as bytes and back, for the one tunnel whose text is no text.
//!
//! KubeEdge sends bytes in text frames. Libraries refuse such text, as RFC 6455 wants it; this reader takes what comes, in whole
//! messages of a bounded size, and is as strict as the RFC in all else. It answers nothing: whoever drives the socket does.
//! Used by `tunnel.rs`.

/// Most bytes of a control frame, by the RFC.
const MAX_CONTROL: usize = 125;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// Which end of a connection this is. A client's frames are masked, a server's are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It was dialled.
    Server,
    /// It dialled.
    Client,
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A whole message, text or binary.
    Message(Vec<u8>),
    /// To be answered with a pong that holds the same.
    Ping(Vec<u8>),
    /// The other end lives.
    Pong,
    /// The other end is done; the text is what it says about it.
    Close(String),
}

/// What to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message, called text as KubeEdge wants it.
    Text,
    /// Is the other end there?
    Ping,
    /// This end is.
    Pong,
    /// This end is done.
    Close,
}

/// Why bytes are no frames. The connection is of no use after it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Extensions were not agreed on.
    #[error("a frame uses an extension that nobody offered")]
    Extension,
    /// Reserved by the RFC.
    #[error("a frame is of the unknown kind {0}")]
    Kind(u8),
    /// A client's frame as it is, or a server's with a mask.
    #[error("a frame that must be masked is not, or the other way round")]
    Mask,
    /// Too long, or in pieces.
    #[error("a control frame is in pieces or longer than {MAX_CONTROL} bytes")]
    Control,
    /// A piece of no message, or a message within another.
    #[error("the pieces of a message are out of order")]
    Order,
    /// More than this end takes.
    #[error("a message is longer than {0} bytes")]
    Length(usize),
}

/// Reads frames from bytes as they come. Holds at most one message and one control frame.
#[derive(Debug)]
pub struct FrameReader {
    role: Role,
    max_message: usize,
    head: Vec<u8>,
    frame: Option<Frame>,
    /// Of which frames have come.
    message: Option<Vec<u8>>,
    control: Vec<u8>,
}

/// The frame of which bytes are missing.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: u8,
    is_last: bool,
    mask: [u8; 4],
    n_read: usize,
    n_missing: usize,
}

impl FrameReader {
    /// `role`: of the end that reads.
    #[must_use]
    pub fn new(role: Role, max_message: usize) -> Self {
        Self { role, max_message, head: Vec::new(), frame: None, message: None, control: Vec::new() }
    }

    /// Takes bytes from the front until something is whole. `None`: all are taken, and more are needed.
    pub fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Received>, FrameError> {
        loop {
            let mut frame = match self.frame {
                Some(frame) => frame,
                None => match self.read_head(bytes)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            let (taken, rest) = bytes.split_at(frame.n_missing.min(bytes.len()));
            *bytes = rest;
            let into = if frame.kind >= CLOSE {
                &mut self.control
            } else {
                self.message.get_or_insert_with(Vec::new)
            };
            let mask = frame.mask.iter().cycle().skip(frame.n_read % 4);
            into.extend(taken.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
            frame.n_read += taken.len();
            frame.n_missing -= taken.len();
            if frame.n_missing > 0 {
                self.frame = Some(frame);
                return Ok(None);
            }
            self.frame = None;
            if let Some(received) = self.finish(frame) {
                return Ok(Some(received));
            }
        }
    }

    fn read_head(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
        loop {
            if let Some(head) = Head::of(&self.head) {
                self.head.clear();
                return self.frame_of(head).map(Some);
            }
            let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
            self.head.push(*first);
            *bytes = rest;
        }
    }

    fn frame_of(&self, head: Head) -> Result<Frame, FrameError> {
        let Head { first, mask, length } = head;
        let (is_last, kind) = (first & 0x80 != 0, first & 0x0f);
        if first & 0x70 != 0 {
            return Err(FrameError::Extension);
        }
        if mask.is_some() != (self.role == Role::Server) {
            return Err(FrameError::Mask);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let n_before = self.message.as_ref().map(Vec::len);
        match kind {
            CLOSE | PING | PONG if is_last && length <= MAX_CONTROL => {}
            CLOSE | PING | PONG => return Err(FrameError::Control),
            CONTINUATION if n_before.is_none() => return Err(FrameError::Order),
            TEXT | BINARY if n_before.is_some() => return Err(FrameError::Order),
            CONTINUATION | TEXT | BINARY => {
                if length > self.max_message.saturating_sub(n_before.unwrap_or_default()) {
                    return Err(FrameError::Length(self.max_message));
                }
            }
            _ => return Err(FrameError::Kind(kind)),
        }
        Ok(Frame { kind, is_last, mask: mask.unwrap_or_default(), n_read: 0, n_missing: length })
    }

    fn finish(&mut self, frame: Frame) -> Option<Received> {
        match frame.kind {
            CLOSE => {
                let control = std::mem::take(&mut self.control);
                let text = control.get(2..).unwrap_or_default();
                Some(Received::Close(String::from_utf8_lossy(text).into_owned()))
            }
            PING => Some(Received::Ping(std::mem::take(&mut self.control))),
            PONG => {
                self.control.clear();
                Some(Received::Pong)
            }
            _ if frame.is_last => self.message.take().map(Received::Message),
            _ => None,
        }
    }
}

/// The first bytes of a frame.
struct Head {
    first: u8,
    mask: Option<[u8; 4]>,
    length: u64,
}

impl Head {
    /// `None`: there is more to come.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (first, rest) = bytes.split_first()?;
        let (second, rest) = rest.split_first()?;
        let (length, rest) = match second & 0x7f {
            126 => rest.split_at_checked(2)?,
            127 => rest.split_at_checked(8)?,
            _ => rest.split_at(0),
        };
        let length = match length {
            [] => u64::from(second & 0x7f),
            long => long.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)),
        };
        let mask = match second & 0x80 {
            0 => None,
            _ => Some(rest.get(..4)?.try_into().ok()?),
        };
        Some(Self { first: *first, mask, length })
    }
}

/// Appends one frame. `mask`: a client's, fresh by chance each time; a server has none. A control frame is cut to its limit.
pub fn write(kind: Kind, payload: &[u8], mask: Option<[u8; 4]>, into: &mut Vec<u8>) {
    let (number, max) = match kind {
        Kind::Text => (TEXT, usize::MAX),
        Kind::Close => (CLOSE, MAX_CONTROL),
        Kind::Ping => (PING, MAX_CONTROL),
        Kind::Pong => (PONG, MAX_CONTROL),
    };
    let payload = payload.get(..payload.len().min(max)).unwrap_or_default();
    into.push(0x80 | number);
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let length = payload.len() as u64;
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => into.push(mask_bit | short),
        (_, Ok(middle)) => {
            into.push(mask_bit | 126);
            into.extend(middle.to_be_bytes());
        }
        _ => {
            into.push(mask_bit | 127);
            into.extend(length.to_be_bytes());
        }
    }
    into.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
    let mask = mask.unwrap_or_default();
    into.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
