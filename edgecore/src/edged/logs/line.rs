//! Pure: the lines of a container's log file as the runtime writes them, and what of them is shown.
//!
//! `2026-01-31T12:00:00.000000001Z stdout F words`: time, stream, `F` for the end of a line or `P` for a piece that goes on in
//! the next one, the piece. Takes bytes in blocks of any size and never holds a whole line: those have no longest length.
//! What is no such line is shown as it is. Called by `mod.rs`; `tail.rs` asks it for marks.

use k8s_openapi::jiff::Timestamp;

use super::options::LogStream;

/// Time, stream and marks need some 40 bytes.
pub(super) const MAX_HEAD: usize = 128;

/// Whether a piece ends its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Full,
    Partial,
}

/// Blocks of a log file in, what is shown out.
#[derive(Debug)]
pub(in crate::edged) struct Decoder {
    since: Option<Timestamp>,
    timestamps: bool,
    stream: Option<LogStream>,
    place: Place,
    /// Of the line that is being read, up to its third blank.
    head: Vec<u8>,
    /// The next piece begins a line of the application.
    is_new: bool,
}

/// Where in a line the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    Shown(Mark),
    Hidden,
}

impl Decoder {
    pub(in crate::edged) fn new(
        since: Option<Timestamp>,
        timestamps: bool,
        stream: Option<LogStream>,
    ) -> Self {
        Self { since, timestamps, stream, place: Place::Head, head: Vec::new(), is_new: true }
    }

    /// The file's next bytes.
    pub(in crate::edged) fn feed(&mut self, mut bytes: &[u8], shown: &mut Vec<u8>) {
        while !bytes.is_empty() {
            bytes = match self.place {
                Place::Head => self.head(bytes, shown),
                Place::Shown(_) | Place::Hidden => self.body(bytes, shown),
            };
        }
    }

    /// The file ended, perhaps within a line (the power did too): the next one begins with a line.
    pub(in crate::edged) fn end_file(&mut self, shown: &mut Vec<u8>) {
        if self.place != Place::Head || !self.head.is_empty() {
            self.feed(b"\n", shown);
        }
    }

    fn head<'a>(&mut self, bytes: &'a [u8], shown: &mut Vec<u8>) -> &'a [u8] {
        for (at, byte) in bytes.iter().enumerate() {
            let is_end = *byte == b'\n';
            let is_third = *byte == b' ' && self.head.iter().filter(|byte| **byte == b' ').count() == 2;
            if is_end || is_third || self.head.len() >= MAX_HEAD {
                let is_known = self.begin(shown);
                // The blank is part of the head; a newline, or the byte after what is no head, is for the body.
                let used = if is_third && is_known { at + 1 } else { at };
                return bytes.get(used..).unwrap_or_default();
            }
            self.head.push(*byte);
        }
        &[]
    }

    /// The head is whole. Says whether it is one.
    fn begin(&mut self, shown: &mut Vec<u8>) -> bool {
        let head = std::mem::take(&mut self.head);
        let Some((time, text, stream)) = time(&head) else {
            shown.extend_from_slice(&head);
            self.place = Place::Shown(Mark::Full);
            return false;
        };
        if self.since.is_some_and(|since| time < since) || self.stream.is_some_and(|wanted| wanted != stream)
        {
            self.place = Place::Hidden;
            return true;
        }
        if self.timestamps && self.is_new {
            shown.extend_from_slice(text.as_bytes());
            shown.push(b' ');
        }
        self.place = Place::Shown(mark(&head));
        true
    }

    fn body<'a>(&mut self, bytes: &'a [u8], shown: &mut Vec<u8>) -> &'a [u8] {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (piece, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        if let Place::Shown(mark) = self.place {
            shown.extend_from_slice(piece);
            if end.is_some() {
                self.is_new = mark == Mark::Full;
                if self.is_new {
                    shown.push(b'\n');
                }
            }
        }
        if end.is_some() {
            self.place = Place::Head;
        }
        rest.get(1..).unwrap_or_default()
    }
}

/// What a line's first bytes, and perhaps some after it, say of its end. What is no log line ends itself.
pub(super) fn mark(head: &[u8]) -> Mark {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match line.split(|byte| *byte == b' ').nth(2).and_then(|marks| marks.first()) {
        Some(b'P') => Mark::Partial,
        _ => Mark::Full,
    }
}

/// Time and stream, if this is the head of a log line.
fn time(head: &[u8]) -> Option<(Timestamp, &str, LogStream)> {
    let mut words = head.split(|byte| *byte == b' ');
    let text = std::str::from_utf8(words.next()?).ok()?;
    let stream = match words.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    let is_marked = matches!(words.next()?.first()?, b'P' | b'F');
    let time = text.parse().ok()?;
    is_marked.then_some((time, text, stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same whatever the blocks are.
    fn check(since: Option<&str>, timestamps: bool, file: &str, expected: &str) {
        for size in [1, 2, 7, 40, 4096] {
            let decoder = Decoder::new(since.map(|since| since.parse().unwrap()), timestamps, None);
            assert_eq!(decoded(decoder, file, size), expected, "blocks of {size}");
        }
    }

    fn decoded(mut decoder: Decoder, file: &str, size: usize) -> String {
        let mut shown = Vec::new();
        for block in file.as_bytes().chunks(size) {
            decoder.feed(block, &mut shown);
        }
        decoder.end_file(&mut shown);
        String::from_utf8(shown).unwrap()
    }

    const A: &str = "2026-01-31T12:00:00.000000001Z stdout F one\n";
    const B: &str = "2026-01-31T12:00:01.5Z stderr P tw\n2026-01-31T12:00:01.6Z stderr F o  \n";
    const C: &str = "2026-01-31T12:00:02Z stdout F \n2026-01-31T12:00:03+02:00 stdout F:x  three\n";

    #[test]
    fn pieces_are_joined() {
        check(None, false, &[A, B, C].concat(), "one\ntwo  \n\n three\n");
        check(None, false, "", "");
        check(None, false, "2026-01-31T12:00:02Z stdout F\n", "\n");
    }

    #[test]
    fn one_stream_is_shown() {
        let check = |stream: LogStream, expected: &str| {
            let decoder = Decoder::new(None, false, Some(stream));
            assert_eq!(decoded(decoder, &[A, B, C].concat(), 5), expected, "{stream:?}");
        };
        check(LogStream::Stdout, "one\n\n three\n");
        check(LogStream::Stderr, "two  \n");
    }

    #[test]
    fn a_line_begins_with_its_time_once() {
        check(
            None,
            true,
            &[A, B].concat(),
            "2026-01-31T12:00:00.000000001Z one\n2026-01-31T12:00:01.5Z two  \n",
        );
    }

    #[test]
    fn what_is_older_is_hidden() {
        check(Some("2026-01-31T12:00:01Z"), false, &[A, B].concat(), "two  \n");
        check(Some("2026-01-31T12:00:00.000000001Z"), false, A, "one\n");
        check(Some("2027-01-01T00:00:00Z"), false, &[A, B, C].concat(), "");
    }

    #[test]
    fn what_is_no_log_line_is_shown_as_it_is() {
        let long = format!("{}\n", "x".repeat(3 * MAX_HEAD));
        check(None, true, &long, &long);
        check(None, false, "{\"log\":\"a b c d\"}\n", "{\"log\":\"a b c d\"}\n");
        check(None, false, "no time here at all\n", "no time here at all\n");
        check(
            None,
            false,
            &format!("\n2026-01-31T12:00:00Z std F a\n{A}"),
            "\n2026-01-31T12:00:00Z std F a\none\n",
        );
    }

    #[test]
    fn a_file_that_ends_within_a_line_ends_it() {
        check(None, false, "2026-01-31T12:00:00Z stdout F on", "on\n");
        check(None, false, "2026-01-31T12:00:00Z std", "2026-01-31T12:00:00Z std\n");
        check(None, false, "2026-01-31T12:00:00Z stdout P on", "on");
    }
}
