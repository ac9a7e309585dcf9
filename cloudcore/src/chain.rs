//! Errors of the API client, with all that caused them, in one line.

use std::fmt::Write as _;

/// An error with its causes; where one repeats the next in its own words, once.
pub(crate) fn chain(cause: &dyn std::error::Error) -> String {
    let mut text = cause.to_string();
    let mut source = cause.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            let _ = write!(text, ": {words}");
        }
        source = cause.source();
    }
    text
}
