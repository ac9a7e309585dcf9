//! What is printed: the standard library's macros end the process in the middle of whatever it does when nobody reads them any
//! more (`keadm init | head`). These stand in their place in all of keadm, and go on.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write as _};
use std::sync::Mutex;

use anyhow::anyhow;

use crate::failure::Failure;

/// Why something was not printed; the first such error.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

/// As the standard library's, but nobody who listens is no reason to end.
macro_rules! print {
    ($($words:tt)*) => { $crate::out::print(format_args!($($words)*)) };
}

macro_rules! println {
    ($($words:tt)*) => { $crate::out::print(format_args!("{}\n", format_args!($($words)*))) };
}

macro_rules! eprintln {
    ($($words:tt)*) => { $crate::out::warn(format_args!($($words)*)) };
}

pub(crate) fn print(words: Arguments<'_>) {
    note(io::stdout().write_fmt(words));
}

pub(crate) fn warn(words: Arguments<'_>) {
    // There is nobody to tell.
    let _ = writeln!(io::stderr(), "{words}");
}

/// Errors: something was not printed although somebody waits for it, as on a full disk. What was to be done is done.
pub(crate) fn end() -> Result<(), Failure> {
    note(io::stdout().flush());
    let lost = LOST.lock().ok().and_then(|mut lost| lost.take());
    let untold = |error| anyhow!("what was typed is done, but not everything could be printed: {error}");
    lost.map_or(Ok(()), |error| Err(Failure::Halfway(untold(error))))
}

fn note(printed: io::Result<()>) {
    let Err(error) = printed else { return };
    // Whoever read it has seen enough.
    if error.kind() == ErrorKind::BrokenPipe {
        return;
    }
    if let Ok(mut lost) = LOST.lock() {
        lost.get_or_insert(error);
    }
}
