//! Pure: header blocks to fields and back (RFC 7541). Called by `frames.rs` for every block of one connection, in order:
//! a block may refer to fields of earlier ones.
//!
//! Reading knows all of the standard. Writing never refers to anything, so that the reader's state stays empty.

use bytes::{Buf, Bytes};

use super::huffman;
use super::table::{Table, size};

/// Largest decoded block, as the standard measures it. A few bytes can stand for thousands, so the result is what
/// needs a limit. gRPC peers send some hundred bytes.
pub(super) const MAX_FIELDS: usize = 64 * 1024;

/// One header field. Nothing here is checked: the server behind does that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Bytes,
    pub(super) value: Bytes,
    /// Whether the sender forbids that anyone keeps it in a table.
    pub(super) secret: bool,
}

/// Why a block cannot be read. The connection is lost then: nobody knows what later blocks refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    #[error("a header block ends in the middle of a field")]
    Truncated,
    #[error("a number in a header block is too large")]
    Number,
    #[error("a header block refers to field {0}, which was never sent")]
    NoSuchField(usize),
    #[error("a header block has text that is not in Huffman code")]
    Huffman,
    #[error("a header table of {0} bytes was asked for")]
    TableTooLarge(usize),
    #[error("a header table changes its size in the middle of a header block")]
    LateResize,
    #[error("the headers are larger than {MAX_FIELDS} bytes")]
    TooLarge,
}

/// The reading end of one connection's header compression.
pub(super) struct Decoder {
    table: Table,
    /// What the reader has promised; the sender may use less.
    limit: usize,
}

impl Decoder {
    pub(super) fn new(limit: usize) -> Self {
        Self { table: Table::new(limit), limit }
    }

    /// All fields of one block, in its order.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, HpackError> {
        let mut rest = block;
        let mut fields = Vec::new();
        let mut total = 0;
        while rest.has_remaining() {
            let first = rest.get_u8();
            let (name, value, kept) = if first & 0x80 != 0 {
                let (name, value) = self.field(number(first, 7, &mut rest)?)?;
                (name, value, Kept::NotAgain)
            } else if first & 0x40 != 0 {
                let (name, value) = self.literal(number(first, 6, &mut rest)?, &mut rest)?;
                (name, value, Kept::InTable)
            } else if first & 0x20 != 0 {
                self.resize(number(first, 5, &mut rest)?, fields.is_empty())?;
                continue;
            } else {
                let (name, value) = self.literal(number(first, 4, &mut rest)?, &mut rest)?;
                (name, value, if first & 0x10 != 0 { Kept::Never } else { Kept::NotAgain })
            };
            if let Kept::InTable = kept {
                self.table.insert(name.clone(), value.clone());
            }
            total += size(&name, &value);
            if total > MAX_FIELDS {
                return Err(HpackError::TooLarge);
            }
            fields.push(Field { name, value, secret: matches!(kept, Kept::Never) });
        }
        Ok(fields)
    }

    fn field(&self, index: usize) -> Result<(Bytes, Bytes), HpackError> {
        self.table.get(index).ok_or(HpackError::NoSuchField(index))
    }

    /// The name is a known one, or follows when the index is 0.
    fn literal(&self, index: usize, rest: &mut &[u8]) -> Result<(Bytes, Bytes), HpackError> {
        let name = if index == 0 { text(rest)? } else { self.field(index)?.0 };
        Ok((name, text(rest)?))
    }

    fn resize(&mut self, limit: usize, at_start: bool) -> Result<(), HpackError> {
        if limit > self.limit {
            return Err(HpackError::TableTooLarge(limit));
        }
        if !at_start {
            return Err(HpackError::LateResize);
        }
        self.table.set_limit(limit);
        Ok(())
    }
}

enum Kept {
    InTable,
    NotAgain,
    Never,
}

/// A number that begins in the low `bits` of `first`; larger ones go on in 7 bits a byte. Five more bytes hold 32 bits
/// and more than any number here can mean.
fn number(first: u8, bits: u32, rest: &mut &[u8]) -> Result<usize, HpackError> {
    let largest = 0xff_u8 >> (8 - bits);
    let mut number = u64::from(first & largest);
    if first & largest < largest {
        return usize::try_from(number).map_err(|_| HpackError::Number);
    }
    for shift in [0, 7, 14, 21, 28] {
        let byte = rest.try_get_u8().map_err(|_| HpackError::Truncated)?;
        number += u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return usize::try_from(number).map_err(|_| HpackError::Number);
        }
    }
    Err(HpackError::Number)
}

fn text(rest: &mut &[u8]) -> Result<Bytes, HpackError> {
    let first = rest.try_get_u8().map_err(|_| HpackError::Truncated)?;
    let length = number(first, 7, rest)?;
    let (text, after) = rest.split_at_checked(length).ok_or(HpackError::Truncated)?;
    *rest = after;
    if first & 0x80 == 0 {
        return Ok(Bytes::copy_from_slice(text));
    }
    huffman::decode(text).map(Bytes::from).ok_or(HpackError::Huffman)
}

/// A block that any reader understands without having read another: every name and value in full. At most
/// [`MAX_FIELDS`] long for what [`Decoder::decode`] returned.
pub(super) fn encode(fields: &[Field]) -> Bytes {
    let mut block = Vec::new();
    for field in fields {
        block.push(if field.secret { 0x10 } else { 0 });
        put_text(&field.name, &mut block);
        put_text(&field.value, &mut block);
    }
    block.into()
}

fn put_text(text: &[u8], block: &mut Vec<u8>) {
    let mut length = text.len();
    if length < 0x7f {
        block.push(length as u8);
    } else {
        block.push(0x7f);
        length -= 0x7f;
        while length >= 0x80 {
            block.push(length as u8 | 0x80);
            length >>= 7;
        }
        block.push(length as u8);
    }
    block.extend_from_slice(text);
}

#[cfg(test)]
#[path = "hpack_tests.rs"]
mod tests;
