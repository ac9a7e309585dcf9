//! Whole streams of frames through a [`Rewriter`], in pieces of any size.

use proptest::prelude::*;

use super::*;
use crate::authority::hpack::Field;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    Head { length: payload.len(), kind, flags, stream: stream.to_be_bytes() }.write(&mut frame);
    frame.put_slice(payload);
    frame.to_vec()
}

fn begun(frames: &[Vec<u8>]) -> Vec<u8> {
    [&PREFACE[..], &frames.concat()].concat()
}

/// Feeds the stream in pieces and takes what comes out after each.
fn rewritten(stream: &[u8], piece: usize) -> Result<Vec<u8>, FrameError> {
    let (mut rewriter, mut input, mut all) = (Rewriter::new(), BytesMut::new(), Vec::new());
    for piece in stream.chunks(piece) {
        input.put_slice(piece);
        loop {
            let mut output = BytesMut::new();
            rewriter.advance(&mut input, &mut output)?;
            assert!(output.len() < 2 * ENOUGH + MAX_BLOCK, "one step gives more than it should");
            if output.is_empty() {
                break;
            }
            all.extend_from_slice(&output);
        }
        assert!(input.len() < HEAD + MAX_FRAME, "waits for more than one frame");
    }
    Ok(all)
}

/// Frames after the preface, as (kind, flags, stream, payload).
fn frames(stream: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut rest = stream.strip_prefix(&PREFACE[..]).unwrap();
    let mut frames = Vec::new();
    while let Some((raw, after)) = rest.split_first_chunk::<HEAD>() {
        let head = Head::read(raw);
        let (payload, after) = after.split_at(head.length);
        frames.push((head.kind, head.flags, u32::from_be_bytes(head.stream), payload.to_vec()));
        rest = after;
    }
    assert!(rest.is_empty());
    frames
}

/// The fields of a block, read by someone who has seen no other block.
fn fields(block: &[u8]) -> Vec<(String, String)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let fields = Decoder::new(0).decode(block).unwrap();
    fields.iter().map(|field| (text(&field.name), text(&field.value))).collect()
}

fn block(authority: &[u8]) -> Bytes {
    let field = |name: &'static str, value: &[u8]| Field {
        name: Bytes::from_static(name.as_bytes()),
        value: Bytes::copy_from_slice(value),
        secret: false,
    };
    hpack::encode(&[
        field(":method", b"POST"),
        field(":scheme", b"http"),
        field(":path", b"/v1beta1.DeviceManagerService/MapperRegister"),
        field(":authority", authority),
        field("te", b"trailers"),
    ])
}

#[test]
fn an_authority_that_can_be_parsed_stays_and_any_other_is_localhost() {
    fn check(sent: &[u8], expected: &str) {
        let stream = begun(&[frame(HEADERS, END_HEADERS, 1, &block(sent))]);
        for piece in [1, 7, stream.len()] {
            let out = frames(&rewritten(&stream, piece).unwrap());
            let [(HEADERS, END_HEADERS, 1, payload)] = &out[..] else { panic!("{out:?}") };
            let found = fields(payload);
            assert_eq!(found[3], (":authority".to_owned(), expected.to_owned()), "{sent:?}");
            assert_eq!((found.len(), found[4].0.as_str()), (5, "te"));
        }
    }
    check(b"localhost", "localhost");
    check(b"127.0.0.1:8080", "127.0.0.1:8080");
    check(b"[::1]:80", "[::1]:80");
    check(b"edge.example.org", "edge.example.org");
    check(b"%2Fetc%2Fkubeedge%2Fdmi.sock", "localhost");
    check(b"/etc/kubeedge/dmi.sock", "localhost");
    check(b"unix:///etc/kubeedge/dmi.sock", "localhost");
    check(b"", "localhost");
    check(b"two words", "localhost");
    check(b"\xff\xfe", "localhost");
    check(b"a\0b", "localhost");
}

/// What the second block of a Go client looks like: it only points at fields of the first.
#[test]
fn a_block_may_point_at_an_earlier_one() {
    let coded = crate::authority::huffman::encode(b"/tmp/x.sock");
    let first = [&[0x83, 0x86, 0x41, 0x80 | coded.len() as u8][..], &coded].concat();
    let stream = begun(&[
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &first),
        frame(HEADERS, END_HEADERS | END_STREAM, 3, &[0x83, 0x86, 0xbe]),
    ]);
    let expected = [(":method", "POST"), (":scheme", "http"), (":authority", "localhost")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (at, (kind, flags, stream, payload)) in frames(&rewritten(&stream, 5).unwrap()).iter().enumerate() {
        assert_eq!((*kind, *flags, *stream), (HEADERS, END_HEADERS | END_STREAM, 2 * at as u32 + 1));
        assert_eq!(fields(payload), expected);
    }
}

/// Recorded: three MapperRegister calls of grpc-go 1.67.1 with KubeEdge's code, dialled as its mapper-framework does.
#[test]
fn a_recorded_go_client_is_understood() {
    let sent = [
        &b"\x83\x86\x45\xa0\x63\xb8\x63\x2a\x46\x15\xef\x97\xb9\x88\x5d\x03\xa8\x73\x16\xcd\xc5\xb3\xb9\x88\x56\x34\x0e\xba\xcb\x66\xd2\xcc\x64\x24\xb6\x7f\x41\x94\x54\x58\x4a\x92\x2a\x2c\x3d\x6d\x8c\xa5\x92\x62\xaa\x2c\x32\x52\x65\xd0\x72\x75\x5f\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x4d\x65\x64\x7a\x8a\x9a\xca\xc8\xb4\xc7\x60\x2b\xb8\xea\xe1\x40\x02\x74\x65\x86\x4d\x83\x35\x05\xb1\x1f\x40\x89\x9a\xca\xc8\xb2\x4d\x49\x4f\x6a\x7f\x86\x71\xf7\xda\x03\xb6\xff"[..],
        b"\x83\x86\xc3\xc2\xc1\xc0\xbf\x7e\x86\x71\xf7\xdf\x65\xdb\x7f",
        b"\x83\x86\xc4\xc3\xc2\xc1\xc0\x7e\x86\x71\xf7\xdf\x79\xab\x7f",
    ];
    let stream = begun(&[1, 3, 5].map(|n| frame(HEADERS, END_HEADERS, n, sent[n as usize / 2])));
    let mut decoder = Decoder::new(TABLE_SIZE);
    let out = frames(&rewritten(&stream, 50).unwrap());
    assert_eq!(out.len(), sent.len());
    for ((.., payload), sent) in out.iter().zip(sent) {
        let was = decoder.decode(sent).unwrap();
        assert_eq!(was[3].value, "%2Fetc%2Fkubeedge%2Fdmi.sock");
        let found = fields(payload);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            [":method", ":scheme", ":path", ":authority", "content-type", "user-agent", "te", "grpc-timeout"];
        assert_eq!(names, expected);
        assert_eq!(found[2].1, "/v1beta1.DeviceManagerService/MapperRegister");
        assert_eq!((found[3].1.as_str(), found[5].1.as_str()), ("localhost", "grpc-go/1.67.1"));
        assert!(found[7].1.starts_with("69") && found[7].1.ends_with('u'), "{found:?}");
    }
}

#[test]
fn other_frames_pass_as_they_are() {
    let stream = begun(&[
        frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]),
        frame(4, 1, 0, &[]),
        frame(8, 0, 0, &[0, 1, 0, 0]),
        frame(0, PADDED | END_STREAM, 1, &[2, b'd', 0, 0]),
        frame(0, 0, 3, &[7; 100_000]),
        frame(6, 0, 0, b"12345678"),
        frame(0xbe, 0xff, 77, b"unknown"),
        frame(7, 0, 0, &[0; 8]),
    ]);
    for piece in [1, 9, 4096, stream.len()] {
        assert_eq!(rewritten(&stream, piece), Ok(stream.clone()));
    }
    // Half a frame, as a dying client leaves it.
    let cut = &stream[..stream.len() - 3];
    assert_eq!(rewritten(cut, 10).as_deref(), Ok(cut));
}

#[test]
fn padding_goes_and_priority_stays() {
    let inner = block(b"/x");
    let priority = [0x80, 0, 0, 9, 200];
    let padded = [&[3_u8][..], &priority, &inner, &[0, 0, 0]].concat();
    let flags = END_HEADERS | END_STREAM | PADDED | PRIORITY;
    let out = frames(&rewritten(&begun(&[frame(HEADERS, flags, 5, &padded)]), 3).unwrap());
    let [(HEADERS, found, 5, payload)] = &out[..] else { panic!("{out:?}") };
    assert_eq!(*found, END_HEADERS | END_STREAM | PRIORITY);
    assert_eq!(payload[..5], priority);
    assert_eq!(fields(&payload[5..])[3].1, "localhost");
}

/// In pieces in, and in frames of the size that everyone takes out.
#[test]
fn a_block_may_come_in_many_frames() {
    let mut whole = block(b"/x").to_vec();
    for n in 0..5 {
        let field = Field {
            name: Bytes::from(format!("long-{n}")),
            value: Bytes::from(vec![b'v'; 9000]),
            secret: false,
        };
        whole.extend_from_slice(&hpack::encode(&[field]));
    }
    let mut sent = vec![frame(HEADERS, END_STREAM | PRIORITY, 1, &[0, 0, 0, 0, 7])];
    sent.extend(whole.chunks(1000).map(|piece| frame(CONTINUATION, 0, 1, piece)));
    sent.push(frame(CONTINUATION, END_HEADERS, 1, &[]));
    sent.push(frame(0, END_STREAM, 1, b"after"));
    let mut out = frames(&rewritten(&begun(&sent), 1500).unwrap());
    assert_eq!(out.pop(), Some((0, END_STREAM, 1, b"after".to_vec())));
    let kinds: Vec<_> = out.iter().map(|(kind, flags, ..)| (*kind, *flags)).collect();
    let expected = [(HEADERS, END_STREAM | PRIORITY), (CONTINUATION, 0), (CONTINUATION, END_HEADERS)];
    assert_eq!(kinds, expected);
    assert!(out.iter().all(|(.., payload)| payload.len() <= MAX_FRAME));
    let joined: Vec<u8> = out.iter().flat_map(|(.., payload)| payload.clone()).collect();
    let found = fields(&joined[5..]);
    assert_eq!((found.len(), found[3].1.as_str(), found[9].1.len()), (10, "localhost", 9000));
}

#[test]
fn what_ends_a_connection() {
    fn check(sent: &[Vec<u8>], expected: FrameError) {
        let stream = begun(sent);
        for piece in [1, stream.len()] {
            assert_eq!(rewritten(&stream, piece), Err(expected), "{sent:02x?}");
        }
    }
    let open = frame(HEADERS, 0, 1, &[0x83]);
    check(&[frame(HEADERS, END_HEADERS, 1, &[0; MAX_FRAME + 1])], FrameError::FrameTooLarge(MAX_FRAME + 1));
    check(&[frame(HEADERS, END_HEADERS | PADDED, 1, &[])], FrameError::FrameTooShort);
    check(&[frame(HEADERS, END_HEADERS | PADDED, 1, &[2, 0])], FrameError::FrameTooShort);
    check(&[frame(HEADERS, END_HEADERS | PRIORITY, 1, &[0; 4])], FrameError::FrameTooShort);
    check(&[frame(CONTINUATION, END_HEADERS, 1, &[])], FrameError::NotBegun);
    check(&[open.clone(), frame(CONTINUATION, END_HEADERS, 3, &[])], FrameError::Interrupted);
    check(&[open.clone(), frame(0, 0, 1, &[])], FrameError::Interrupted);
    check(&[open.clone(), open.clone()], FrameError::Interrupted);
    check(&[frame(HEADERS, END_HEADERS, 1, &[0xbe])], HpackError::NoSuchField(62).into());
    // Many small frames, and frames with nothing in them.
    let endless = |frames: Vec<Vec<u8>>| [vec![open.clone()], frames].concat();
    check(&endless(vec![frame(CONTINUATION, 0, 1, &[0x83; 10_000]); 7]), FrameError::BlockTooLarge);
    check(&endless(vec![frame(CONTINUATION, 0, 1, &[]); 8000]), FrameError::BlockTooLarge);

    for other in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSN"] {
        assert_eq!(rewritten(other, 1), Err(FrameError::Preface));
    }
    assert_eq!(rewritten(b"PRI * HT", 1), Ok(Vec::new()));
}

/// What was good before an error still reaches the server.
#[test]
fn frames_before_an_error_are_handed_on() {
    let good = begun(&[frame(6, 0, 0, b"12345678")]);
    let mut input = BytesMut::from(&good[..]);
    input.put_slice(&frame(CONTINUATION, 0, 1, &[]));
    let mut output = BytesMut::new();
    assert_eq!(Rewriter::new().advance(&mut input, &mut output), Err(FrameError::NotBegun));
    assert_eq!(output, good);
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = proptest::collection::vec(any::<u8>(), 0..40);
    let kind = prop_oneof![Just(HEADERS), Just(CONTINUATION), 0_u8..12];
    (kind, any::<u8>(), 0_u32..4, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), piece in 1_usize..50) {
        let _ = rewritten(&[&PREFACE[..], &bytes].concat(), piece);
    }

    #[test]
    fn pieces_do_not_matter(sent in proptest::collection::vec(any_frame(), 0..10), piece in 1_usize..60) {
        let stream = begun(&sent);
        prop_assert_eq!(rewritten(&stream, piece), rewritten(&stream, stream.len()));
    }

    #[test]
    fn every_authority_that_comes_out_can_be_parsed(sent in proptest::collection::vec(any::<u8>(), 0..30)) {
        let stream = begun(&[frame(HEADERS, END_HEADERS, 1, &block(&sent))]);
        let out = frames(&rewritten(&stream, 10).unwrap());
        let found = fields(&out[0].3);
        prop_assert!(found[3].1.parse::<Authority>().is_ok());
        if let Ok(good) = Authority::try_from(&sent[..]) {
            prop_assert_eq!(good.as_str(), &found[3].1);
        }
    }
}
