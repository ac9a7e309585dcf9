//! The examples of RFC 7541, appendix C, what is no header block, and random ones.

use proptest::prelude::*;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn fields(lines: &str) -> Vec<Field> {
    let field = |line: &str| {
        let (name, value) = line.trim().split_once(": ").unwrap();
        let (name, value) =
            (Bytes::copy_from_slice(name.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
        Field { secret: &name[..] == b"password", name, value }
    };
    lines.lines().filter(|line| !line.trim().is_empty()).map(field).collect()
}

/// Blocks of one connection with what they say, and the table after each: number of fields and size.
fn check(limit: usize, blocks: &[(&str, &str, (usize, usize))]) {
    let mut decoder = Decoder::new(limit);
    for (hex, expected, table) in blocks {
        assert_eq!(decoder.decode(&bytes(hex)), Ok(fields(expected)), "{hex}");
        assert_eq!(decoder.table.measured(), *table, "{hex}");
        // What is written is read alike by a reader that knows nothing.
        let written = encode(&fields(expected));
        assert_eq!(Decoder::new(0).decode(&written), Ok(fields(expected)), "{hex}");
    }
}

#[test]
fn numbers_of_appendix_c_1() {
    fn check(block: &[u8], bits: u32, expected: Result<usize, HpackError>) {
        let (first, mut rest) = (block[0], &block[1..]);
        assert_eq!(number(first, bits, &mut rest), expected, "{block:02x?}");
    }
    check(&[0x0a], 5, Ok(10));
    check(&[0xea], 5, Ok(10));
    check(&[0x1f, 0x9a, 0x0a], 5, Ok(1337));
    check(&[0x2a], 8, Ok(42));
    check(&[0x7f, 0], 7, Ok(127));
    check(&[0x7f, 0x80, 0x80, 0], 7, Ok(127));
    check(&[0x7f], 7, Err(HpackError::Truncated));
    check(&[0x7f, 0x80], 7, Err(HpackError::Truncated));
    check(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0], 7, Err(HpackError::Number));
    check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 7, Err(HpackError::Number));
}

#[test]
fn single_fields_of_appendix_c_2() {
    let all = [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            "custom-key: custom-header",
            (1, 55),
        ),
        ("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path", (0, 0)),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret", (0, 0)),
        ("82", ":method: GET", (0, 0)),
    ];
    for one in all {
        check(4096, &[one]);
    }
}

const REQUESTS: [&str; 3] = [
    ":method: GET
     :scheme: http
     :path: /
     :authority: www.example.com",
    ":method: GET
     :scheme: http
     :path: /
     :authority: www.example.com
     cache-control: no-cache",
    ":method: GET
     :scheme: https
     :path: /index.html
     :authority: www.example.com
     custom-key: custom-value",
];

#[test]
fn requests_of_appendix_c_3_and_c_4() {
    check(
        4096,
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", REQUESTS[0], (1, 57)),
            ("8286 84be 5808 6e6f 2d63 6163 6865", REQUESTS[1], (2, 110)),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                REQUESTS[2],
                (3, 164),
            ),
        ],
    );
    check(
        4096,
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", REQUESTS[0], (1, 57)),
            ("8286 84be 5886 a8eb 1064 9cbf", REQUESTS[1], (2, 110)),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", REQUESTS[2], (3, 164)),
        ],
    );
}

/// A table of 256 bytes, from which fields fall out.
#[test]
fn responses_of_appendix_c_5_and_c_6() {
    let responses = [
        ":status: 302
         cache-control: private
         date: Mon, 21 Oct 2013 20:13:21 GMT
         location: https://www.example.com",
        ":status: 307
         cache-control: private
         date: Mon, 21 Oct 2013 20:13:21 GMT
         location: https://www.example.com",
        ":status: 200
         cache-control: private
         date: Mon, 21 Oct 2013 20:13:22 GMT
         location: https://www.example.com
         content-encoding: gzip
         set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ];
    check(
        256,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
                 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70
                 6c65 2e63 6f6d",
                responses[0],
                (4, 222),
            ),
            ("4803 3330 37c1 c0bf", responses[1], (4, 222)),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d
                 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049
                 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e
                 3d31",
                responses[2],
                (3, 215),
            ),
        ],
    );
    check(
        256,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
                 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                responses[0],
                (4, 222),
            ),
            ("4883 640e ffc1 c0bf", responses[1], (4, 222)),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab
                 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f
                 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                responses[2],
                (3, 215),
            ),
        ],
    );
}

#[test]
fn a_table_can_shrink_and_grow_at_the_start_of_a_block() {
    let mut decoder = Decoder::new(4096);
    assert!(decoder.decode(&bytes("4001 6101 62")).is_ok());
    // To nothing and back to 4096: the field is gone.
    assert_eq!(decoder.decode(&bytes("20 3fe1 1f 82")), Ok(fields(":method: GET")));
    assert_eq!(decoder.decode(&bytes("be")), Err(HpackError::NoSuchField(62)));
    // A field as large as the table stays, a larger one empties it.
    let mut decoder = Decoder::new(34);
    assert!(decoder.decode(&bytes("4001 6101 62 be")).is_ok());
    assert_eq!(decoder.decode(&bytes("4001 6102 6262 be")), Err(HpackError::NoSuchField(62)));
}

#[test]
fn what_is_no_header_block() {
    fn check(hex: &str, expected: HpackError) {
        assert_eq!(Decoder::new(4096).decode(&bytes(hex)), Err(expected), "{hex}");
    }
    check("80", HpackError::NoSuchField(0));
    check("be", HpackError::NoSuchField(62));
    check("7e 01 61", HpackError::NoSuchField(62));
    check("ffff ff7f", HpackError::NoSuchField(2_097_278));
    check("40", HpackError::Truncated);
    check("40 05 61", HpackError::Truncated);
    check("40 01 61", HpackError::Truncated);
    check("00 ff", HpackError::Truncated);
    check("00 81 00 01 61", HpackError::Huffman);
    check("82 20", HpackError::LateResize);
    check("3fe2 1f", HpackError::TableTooLarge(4097));
    check("7fff ffff ffff ffff", HpackError::Number);
}

/// 64 bytes that stand for 260 KB.
#[test]
fn a_small_block_does_not_become_a_large_one() {
    let mut block = vec![0x40, 1, b'a'];
    put_text(&[b'x'; 4000], &mut block);
    let mut decoder = Decoder::new(4096);
    assert_eq!(decoder.decode(&block).map(|fields| fields.len()), Ok(1));
    assert_eq!(decoder.decode(&[0xbe; 16]).map(|fields| fields.len()), Ok(16));
    assert_eq!(decoder.decode(&[0xbe; 64]), Err(HpackError::TooLarge));
}

/// A sender that picks any of the standard's forms. Refers to no table of its own: indexes are tested above.
fn sent(fields: &[(Vec<u8>, Vec<u8>, u8)]) -> (Vec<u8>, Vec<Field>) {
    let (mut block, mut expected) = (Vec::new(), Vec::new());
    for (name, value, form) in fields {
        let secret = form % 3 == 1;
        block.push([0x40, 0x10, 0x00][usize::from(form % 3)]);
        for text in [name, value] {
            if form & 0x80 == 0 {
                put_text(text, &mut block);
            } else {
                let coded = huffman::encode(text);
                let start = block.len();
                put_text(&coded, &mut block);
                block[start] |= 0x80;
            }
        }
        expected.push(Field { name: name.clone().into(), value: value.clone().into(), secret });
    }
    (block, expected)
}

proptest! {
    #[test]
    fn every_form_is_read(all in proptest::collection::vec(
        (proptest::collection::vec(any::<u8>(), 0..40), proptest::collection::vec(any::<u8>(), 0..300), any::<u8>()), 0..20,
    )) {
        let (block, expected) = sent(&all);
        let mut decoder = Decoder::new(4096);
        prop_assert_eq!(decoder.decode(&block), Ok(expected.clone()));
        prop_assert_eq!(Decoder::new(0).decode(&encode(&expected)), Ok(expected));
    }

    #[test]
    fn no_bytes_panic(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6)) {
        let mut decoder = Decoder::new(4096);
        for block in blocks {
            let _ = decoder.decode(&block);
            let (count, size) = decoder.table.measured();
            prop_assert!(size <= 4096 && count * 32 <= size);
        }
    }
}
