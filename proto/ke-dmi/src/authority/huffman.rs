//! Pure: the Huffman code of header compression (RFC 7541, appendix B). Called by `hpack.rs`.

/// The code, by length in bits: the bytes that have a code of this length, in the order of their codes. The code is
/// canonical, so this is all there is to know: codes of one length follow one another, and the first code of the next
/// length is the one after the last, filled up with zeros. After the last comes "end of string", which never occurs.
const CODE: &[(u32, &[u8])] = &[
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b"!\"()?"),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\x00$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, b"\\\xc3\xd0"),
    (20, b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2"),
    (21, b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6"),
    (22, b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4\xc6\xe4\xe8\xe9"),
    (
        23,
        b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef",
    ),
    (24, b"\x09\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed"),
    (25, b"\xc7\xcf\xea\xeb"),
    (26, b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff"),
    (27, b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe"),
    (
        28,
        b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9",
    ),
    (30, b"\x0a\x0d\x16"),
];

/// The text behind a code, or nothing if these bytes are no code. The last byte is filled up with ones, fewer than 8.
pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
    // The shortest code has 5 bits.
    let mut text = Vec::with_capacity(coded.len() * 8 / 5);
    let mut bits = Bits { rest: coded, held: 0, n_held: 0 };
    loop {
        match bits.next_byte() {
            Next::Byte(byte) => text.push(byte),
            Next::End => return Some(text),
            Next::NoCode => return None,
        }
    }
}

enum Next {
    Byte(u8),
    End,
    NoCode,
}

/// Bits not yet decoded: `n_held` in the low end of `held`, at most 37, and those of `rest`.
struct Bits<'a> {
    rest: &'a [u8],
    held: u64,
    n_held: u32,
}

impl Bits<'_> {
    fn next_byte(&mut self) -> Next {
        while self.n_held < 30
            && let Some((first, rest)) = self.rest.split_first()
        {
            self.rest = rest;
            self.held = (self.held << 8) | u64::from(*first);
            self.n_held += 8;
        }
        let (mut first_code, mut last_length) = (0_u64, 0);
        for (length, bytes) in CODE {
            first_code <<= length - last_length;
            last_length = *length;
            if *length > self.n_held {
                return self.ending();
            }
            // Never below `first_code`: a smaller one would have been found among the shorter codes.
            let code = self.held >> (self.n_held - length);
            let place = code.saturating_sub(first_code);
            if let Some(byte) = usize::try_from(place).ok().and_then(|place| bytes.get(place)) {
                self.n_held -= length;
                self.held &= (1 << self.n_held) - 1;
                return Next::Byte(*byte);
            }
            first_code += bytes.len() as u64;
        }
        Next::NoCode
    }

    /// What is left is too short for any code: it has to be the filling.
    fn ending(&self) -> Next {
        let filling = (1 << self.n_held) - 1;
        if self.n_held < 8 && self.held == filling { Next::End } else { Next::NoCode }
    }
}

/// As other programs write it. Ours does not code: who reads it is in the same process.
#[cfg(test)]
pub(super) fn encode(text: &[u8]) -> Vec<u8> {
    let (mut held, mut n_held, mut coded) = (0_u64, 0, Vec::new());
    for byte in text {
        let (code, length) = code_of(*byte);
        held = (held << length) | code;
        n_held += length;
        while n_held >= 8 {
            n_held -= 8;
            coded.push((held >> n_held) as u8);
        }
        held &= (1 << n_held) - 1;
    }
    if n_held > 0 {
        coded.push(((held << (8 - n_held)) | (0xff >> n_held)) as u8);
    }
    coded
}

#[cfg(test)]
fn code_of(byte: u8) -> (u64, u32) {
    let (mut first_code, mut last_length) = (0_u64, 0);
    for (length, bytes) in CODE {
        first_code <<= length - last_length;
        last_length = *length;
        if let Some(place) = bytes.iter().position(|candidate| *candidate == byte) {
            return (first_code + place as u64, *length);
        }
        first_code += bytes.len() as u64;
    }
    panic!("no code for {byte}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One line of appendix B for the first byte of each length, and the last of all.
    #[test]
    fn codes_are_those_of_the_standard() {
        fn check(byte: u8, code: u64, length: u32) {
            assert_eq!(code_of(byte), (code, length), "{byte}");
        }
        check(b'0', 0x0, 5);
        check(b' ', 0x14, 6);
        check(b':', 0x5c, 7);
        check(b'&', 0xf8, 8);
        check(b'!', 0x3f8, 10);
        check(b'\'', 0x7fa, 11);
        check(b'#', 0xffa, 12);
        check(0, 0x1ff8, 13);
        check(b'^', 0x3ffc, 14);
        check(b'<', 0x7ffc, 15);
        check(b'\\', 0x7fff0, 19);
        check(128, 0xfffe6, 20);
        check(153, 0x1f_ffdc, 21);
        check(129, 0x3f_ffd2, 22);
        check(1, 0x7f_ffd8, 23);
        check(9, 0xff_ffea, 24);
        check(199, 0x1ff_ffec, 25);
        check(192, 0x3ff_ffe0, 26);
        check(203, 0x7ff_ffde, 27);
        check(2, 0xfff_ffe2, 28);
        check(10, 0x3fff_fffc, 30);
        check(22, 0x3fff_fffe, 30);
        check(b'z', 0x7b, 7);
        check(b'u', 0x2d, 6);
        check(b't', 0x9, 5);
        check(255, 0x3ff_ffee, 26);
        check(254, 0x7ff_fff0, 27);
        check(249, 0xfff_fffe, 28);
    }

    #[test]
    fn every_byte_has_one_code() {
        let mut all: Vec<u8> = CODE.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..=255).collect::<Vec<u8>>());
        for (length, bytes) in CODE {
            assert!(bytes.is_sorted(), "{length}");
        }
        let every: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&every)), Some(every));
    }

    #[test]
    fn only_a_short_filling_of_ones_ends_a_text() {
        fn check(coded: &[u8], expected: Option<&[u8]>) {
            assert_eq!(decode(coded).as_deref(), expected, "{coded:02x?}");
        }
        check(b"", Some(b""));
        check(b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff", Some(b"www.example.com"));
        check(b"\x07", Some(b"0"));
        check(b"\x00", None);
        check(b"\x06", None);
        check(b"\xff", None);
        check(b"\x07\xff", None);
        check(b"\xff\xff\xff\xff", None);
        check(b"\xff\xff\xff\xfc", None);
        check(b"\xff\xff\xff\xf3", Some(b"\n"));
        check(b"\xff\xff\xff\xff\xff\xff\xff\xff", None);
    }

    proptest! {
        #[test]
        fn any_text_survives(text in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(decode(&encode(&text)), Some(text));
        }

        #[test]
        fn no_bytes_panic(coded in proptest::collection::vec(any::<u8>(), 0..100)) {
            // What has a meaning has only one form.
            if let Some(text) = decode(&coded) {
                prop_assert_eq!(encode(&text), coded);
            }
        }
    }
}
