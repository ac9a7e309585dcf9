//! RPM's one structure, for signatures and headers alike: tags with typed values, and a trailer that says that all of it
//! belongs together. Pure.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

pub(super) enum Value {
    Int16(Vec<u16>),
    Int32(Vec<u32>),
    Text(String),
    Texts(Vec<String>),
    /// In the first of the languages that tag 100 lists.
    Translated(String),
}

pub(super) struct Header {
    /// The tag of the region, which is the whole of it.
    region: u32,
    values: BTreeMap<u32, Value>,
}

const MAGIC: [u8; 8] = [0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0];
/// Bytes of an entry of the index, and of the trailer, which looks like one.
const ENTRY: u32 = 16;
/// Types by RPM's numbers.
const INT16: u32 = 3;
const INT32: u32 = 4;
const TEXT: u32 = 6;
const BINARY: u32 = 7;
const TEXTS: u32 = 8;
const TRANSLATED: u32 = 9;

impl Header {
    pub(super) fn of_region(region: u32) -> Self {
        Self { region, values: BTreeMap::new() }
    }

    pub(super) fn put(&mut self, tag: u32, value: Value) {
        self.values.insert(tag, value);
    }

    pub(super) fn bytes(&self) -> Result<Vec<u8>> {
        let n_entries = number(self.values.len() + 1)?;
        let mut index = Vec::new();
        let mut data = Vec::new();
        for (tag, value) in &self.values {
            data.resize(data.len().next_multiple_of(value.alignment()), 0);
            index.extend_from_slice(&entry(*tag, value.kind(), number(data.len())?, number(value.count())?));
            value.append(&mut data);
        }
        let trailer_at = number(data.len())?;
        // Backwards from the data: where the index of this region starts.
        data.extend_from_slice(&entry(self.region, BINARY, (n_entries * ENTRY).wrapping_neg(), ENTRY));
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&n_entries.to_be_bytes());
        bytes.extend_from_slice(&number(data.len())?.to_be_bytes());
        bytes.extend_from_slice(&entry(self.region, BINARY, trailer_at, ENTRY));
        bytes.append(&mut index);
        bytes.append(&mut data);
        Ok(bytes)
    }
}

impl Value {
    fn kind(&self) -> u32 {
        match self {
            Self::Int16(_) => INT16,
            Self::Int32(_) => INT32,
            Self::Text(_) => TEXT,
            Self::Texts(_) => TEXTS,
            Self::Translated(_) => TRANSLATED,
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Int16(numbers) => numbers.len(),
            Self::Int32(numbers) => numbers.len(),
            Self::Texts(texts) => texts.len(),
            Self::Text(_) | Self::Translated(_) => 1,
        }
    }

    fn alignment(&self) -> usize {
        match self {
            Self::Int16(_) => 2,
            Self::Int32(_) => 4,
            Self::Text(_) | Self::Texts(_) | Self::Translated(_) => 1,
        }
    }

    fn append(&self, data: &mut Vec<u8>) {
        let mut text = |text: &String| {
            data.extend_from_slice(text.as_bytes());
            data.push(0);
        };
        match self {
            Self::Text(value) | Self::Translated(value) => text(value),
            Self::Texts(values) => values.iter().for_each(text),
            Self::Int16(numbers) => data.extend(numbers.iter().flat_map(|number| number.to_be_bytes())),
            Self::Int32(numbers) => data.extend(numbers.iter().flat_map(|number| number.to_be_bytes())),
        }
    }
}

fn entry(tag: u32, kind: u32, offset: u32, count: u32) -> [u8; ENTRY as usize] {
    let mut bytes = [0; ENTRY as usize];
    for (place, number) in bytes.chunks_exact_mut(4).zip([tag, kind, offset, count]) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    bytes
}

fn number(size: usize) -> Result<u32> {
    u32::try_from(size).context("a header of 4 GiB or more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_aligned_and_the_region_counts_itself() {
        let mut header = Header::of_region(63);
        header.put(1001, Value::Int32(vec![7]));
        header.put(1000, Value::Text("ab".to_owned()));
        header.put(1002, Value::Int16(vec![1, 2]));
        let expected = [
            "8eade80100000000",                 // magic
            "000000040000001c",                 // four entries, 28 bytes of data
            "0000003f000000070000000c00000010", // the region, whose trailer is at 12
            "000003e8000000060000000000000001", // a text at 0
            "000003e9000000040000000400000001", // a number at 4, after a gap
            "000003ea000000030000000800000002", // two short ones at 8
            "6162000000000007",                 // "ab", a gap, 7
            "00010002",                         // 1, 2
        ]
        .concat();
        let bytes = header.bytes().unwrap();
        let (front, trailer) = bytes.split_at(bytes.len() - 16);
        assert_eq!(crate::sha256::hex(front), expected);
        assert_eq!(crate::sha256::hex(trailer), "0000003f00000007ffffffc000000010");
    }
}
