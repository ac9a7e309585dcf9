//! The recorded KubeEdge trace, and lines written by hand for what it does not show, are read and printed again.
//!
//! A line of `by-hand.jsonl` says what it must become (`expect`: a variant's name somewhere in the message, or `!`
//! and the name of an error) and, with `"again": false`, that it is printed in another form than it came.

use ke_wire::kubeedge::{DecodeError, FRAME_LIMIT, decode_down, decode_up, encode_down, encode_up};
use serde_json::Value;

const TRACE: &str = include_str!("data/trace-v1.23.1.jsonl");
const BY_HAND: &str = include_str!("data/by-hand.jsonl");

struct Line {
    down: bool,
    why: String,
    expect: String,
    again: bool,
    msg: Value,
}

fn lines(text: &str) -> Vec<Line> {
    let lines = text.lines().enumerate().filter_map(|(n, line)| {
        let line: Value = serde_json::from_str(line).unwrap();
        let dir = line["dir"].as_str().unwrap();
        (dir != "handshake").then(|| Line {
            down: dir == "down",
            why: format!("line {}: {}", n + 1, line["why"].as_str().unwrap_or("recorded")),
            expect: line["expect"].as_str().unwrap_or_default().to_owned(),
            again: line["again"].as_bool().unwrap_or(true),
            msg: line["msg"].clone(),
        })
    });
    lines.collect()
}

/// Reads, prints, reads again: the message's text for people, and its frame.
fn round(line: &Line, frame: &[u8]) -> Result<(String, Vec<u8>), DecodeError> {
    let timestamp = line.msg["header"]["timestamp"].as_i64().unwrap();
    if line.down {
        let message = decode_down(frame, FRAME_LIMIT)?;
        let printed = encode_down(&message, timestamp);
        assert_eq!(decode_down(&printed, FRAME_LIMIT).as_ref(), Ok(&message), "{}", line.why);
        Ok((format!("{message:?}"), printed))
    } else {
        let message = decode_up(frame, FRAME_LIMIT)?;
        let printed = encode_up(&message, timestamp);
        assert_eq!(decode_up(&printed, FRAME_LIMIT).as_ref(), Ok(&message), "{}", line.why);
        Ok((format!("{message:?}"), printed))
    }
}

fn check(line: &Line) {
    let frame = serde_json::to_vec(&line.msg).unwrap();
    match (round(line, &frame), line.expect.strip_prefix('!')) {
        (Err(error), Some(expected)) => {
            assert!(format!("{error:?}").starts_with(expected), "{}: {error:?}", line.why);
            assert!(!error.is_fatal(), "{}", line.why);
        }
        (Ok((message, printed)), None) => {
            assert!(message.contains(&line.expect), "{}: {message}", line.why);
            assert_eq!(printed.last(), Some(&b'\n'), "{}", line.why);
            if line.again {
                let printed: Value = serde_json::from_slice(&printed).unwrap();
                assert_eq!(printed, line.msg, "{}", line.why);
            }
        }
        (result, _) => panic!("{}: {result:?}", line.why),
    }
}

#[test]
fn the_recorded_trace_goes_round() {
    let lines = lines(TRACE);
    assert!(lines.len() > 100);
    lines.iter().for_each(check);
}

#[test]
fn lines_by_hand_go_round() {
    lines(BY_HAND).iter().for_each(check);
}

#[test]
fn what_follows_the_first_document_is_ignored() {
    for line in lines(BY_HAND).iter().filter(|line| line.again && !line.expect.starts_with('!')) {
        let mut frame = serde_json::to_vec(&line.msg).unwrap();
        frame.extend_from_slice(b"\n\0 rest }");
        assert!(round(line, &frame).is_ok(), "{}", line.why);
    }
}

#[test]
fn only_what_is_no_json_or_too_large_ends_the_link() {
    let check = |frame: &str, limit: usize, fatal: bool| {
        let errors = [decode_down(frame.as_bytes(), limit).err(), decode_up(frame.as_bytes(), limit).err()];
        for error in errors {
            assert_eq!(error.as_ref().unwrap().is_fatal(), fatal, "{frame}: {error:?}");
        }
    };
    for frame in ["", "no", "{", "[1,", r#"{"header":{"msg_id":1,}}"#, "{\"header\":{},\"content\":\u{1}}"] {
        check(frame, FRAME_LIMIT, true);
    }
    for frame in ["1", "null", "[]", "{}", r#"{"header":{"msg_id":""}}"#, r#"{"header":{"msg_id":5}}"#] {
        check(frame, FRAME_LIMIT, false);
    }
    check(r#"{"header":{"msg_id":"a"}}"#, 10, true);
}

#[test]
fn errors_hold_nothing_of_the_content() {
    let frame = r#"{"header":{"msg_id":"a"},"route":{"source":"metaserver","operation":"null","resource":"null"},
        "content":{"ID":"x","Key":"k","Verb":"hunter2","Option":{"password":"hunter2"}}}"#;
    let error = decode_up(frame.as_bytes(), FRAME_LIMIT).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

/// Both decoders on everything: a frame may come from anywhere.
fn must_not_panic(frame: &[u8]) {
    if let Ok(message) = decode_down(frame, FRAME_LIMIT) {
        let _ = encode_down(&message, 0);
    }
    if let Ok(message) = decode_up(frame, FRAME_LIMIT) {
        let _ = encode_up(&message, 0);
    }
}

#[test]
fn cut_and_damaged_lines_do_no_harm() {
    for line in lines(BY_HAND).iter().chain(&lines(TRACE)) {
        let frame = serde_json::to_vec(&line.msg).unwrap();
        for place in 0..frame.len() {
            let cut = &frame[..place];
            let error = if line.down {
                decode_down(cut, FRAME_LIMIT).err()
            } else {
                decode_up(cut, FRAME_LIMIT).err()
            };
            assert!(error.unwrap().is_fatal(), "{} cut at {place}", line.why);
        }
        // Every place of the envelope; of a long content only some.
        let dense = 0..frame.len().min(300);
        let sparse = (300..frame.len()).step_by((frame.len() / 40).max(1));
        for place in dense.chain(sparse) {
            let byte = [b'"', b'{', b'0', 0xff, b'/'][place % 5];
            let mut damaged = frame.clone();
            damaged[place] = byte;
            must_not_panic(&damaged);
        }
    }
}
