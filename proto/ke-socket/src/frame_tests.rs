//! Frames by the RFC's own examples, what is none, and any bytes in any pieces.

use proptest::prelude::*;

use super::*;

const MAX: usize = 1 << 16;

/// All of it, given in pieces of this many bytes.
fn read(role: Role, bytes: &[u8], n_at_once: usize) -> Result<Vec<Received>, FrameError> {
    let mut reader = FrameReader::new(role, MAX);
    let mut all = Vec::new();
    for mut piece in bytes.chunks(n_at_once) {
        while let Some(received) = reader.read(&mut piece)? {
            all.push(received);
        }
        assert!(piece.is_empty(), "what is not taken is lost");
    }
    Ok(all)
}

#[test]
fn frames_have_their_bytes() {
    let check = |role, bytes: &[u8], expected: &[Received]| {
        for n_at_once in [1, 2, 3, bytes.len()] {
            assert_eq!(read(role, bytes, n_at_once).as_deref(), Ok(expected), "{bytes:?}");
        }
    };
    let message = |text: &str| Received::Message(text.as_bytes().to_vec());
    // The RFC's own examples (section 5.7).
    check(Role::Client, b"\x81\x05Hello", &[message("Hello")]);
    check(Role::Server, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", &[message("Hello")]);
    check(Role::Client, b"\x01\x03Hel\x80\x02lo", &[message("Hello")]);
    check(Role::Client, b"\x89\x05Hello", &[Received::Ping(b"Hello".to_vec())]);
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    check(Role::Server, pong, &[Received::Pong]);
    // A ping between the pieces of a message, and binary.
    check(
        Role::Client,
        b"\x02\x03Hel\x89\x01p\x00\x01l\x80\x01o",
        &[Received::Ping(b"p".to_vec()), message("Hello")],
    );
    // What no library takes: text that is none.
    check(Role::Client, b"\x81\x03\xff\x00\xfe", &[Received::Message(vec![0xff, 0, 0xfe])]);
    check(Role::Client, b"\x88\x00", &[Received::Close(String::new())]);
    check(Role::Client, b"\x88\x05\x03\xe8bye", &[Received::Close("bye".into())]);
    check(Role::Client, b"\x81\x00\x8a\x00", &[message(""), Received::Pong]);
    let long = [b"\x81\x7e\x01\x00".as_slice(), &[b'x'; 256]].concat();
    check(Role::Client, &long, &[Received::Message(vec![b'x'; 256])]);
    let padded = b"\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x02hi";
    check(Role::Client, padded, &[message("hi")]);
    check(Role::Client, b"\x81\x05Hel", &[]);
    check(Role::Client, b"\x81", &[]);
}

#[test]
fn what_is_no_frame() {
    let check = |role, bytes: &[u8], expected: FrameError| {
        assert_eq!(read(role, bytes, 1), Err(expected), "{bytes:?}");
    };
    check(Role::Client, b"\xc1\x00", FrameError::Extension);
    check(Role::Client, b"\x83\x00", FrameError::Kind(3));
    check(Role::Client, b"\x8b\x00", FrameError::Kind(11));
    check(Role::Server, b"\x81\x00", FrameError::Mask);
    check(Role::Client, b"\x81\x80\x00\x00\x00\x00", FrameError::Mask);
    check(Role::Client, b"\x09\x00", FrameError::Control);
    check(Role::Client, b"\x89\x7e\x00\x7e", FrameError::Control);
    check(Role::Client, b"\x80\x00", FrameError::Order);
    check(Role::Client, b"\x01\x00\x81\x00", FrameError::Order);
    // Known by its head: nothing of it is kept.
    check(Role::Client, b"\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x01", FrameError::Length(MAX));
    check(Role::Client, b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff", FrameError::Length(MAX));
    check(Role::Client, b"\x01\x01x\x80\x7f\x00\x00\x00\x00\x00\x01\x00\x00", FrameError::Length(MAX));
}

#[test]
fn a_control_frame_is_cut_to_its_limit() {
    let mut bytes = Vec::new();
    write(Kind::Close, &[b'x'; 300], None, &mut bytes);
    assert_eq!(bytes.len(), 2 + MAX_CONTROL);
    assert_eq!(read(Role::Client, &bytes, 7).map(|all| all.len()), Ok(1));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        payloads in proptest::collection::vec((0..3_u8, proptest::collection::vec(any::<u8>(), 0..70_000)), 0..4),
        mask in proptest::option::of(any::<[u8; 4]>()),
        n_at_once in 1..9000_usize,
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (kind, mut payload) in payloads {
            payload.truncate(if kind == 0 { MAX } else { MAX_CONTROL });
            let (kind, received) = match kind {
                0 => (Kind::Text, Received::Message(payload.clone())),
                1 => (Kind::Ping, Received::Ping(payload.clone())),
                _ => (Kind::Pong, Received::Pong),
            };
            write(kind, &payload, mask, &mut bytes);
            expected.push(received);
        }
        let role = if mask.is_some() { Role::Server } else { Role::Client };
        prop_assert_eq!(read(role, &bytes, n_at_once), Ok(expected));
    }

    /// Neither a panic nor a message above the limit, whatever comes and however it is cut.
    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
        n_at_once in 1..64_usize,
    ) {
        for role in [Role::Server, Role::Client] {
            let (whole, cut) = (read(role, &bytes, bytes.len().max(1)), read(role, &bytes, n_at_once));
            if let Ok(all) = &whole {
                prop_assert!(all.iter().all(|one| !matches!(one, Received::Message(bytes) if bytes.len() > MAX)));
            }
            prop_assert_eq!(whole, cut);
        }
    }
}
