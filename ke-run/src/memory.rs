//! Memory that was freed goes back to the machine.
//!
//! glibc keeps what many connections and streams have held for those that may come: 1,000 `kubectl exec` left edgecore a tenth
//! larger. On a small machine somebody else needs it.

use std::time::{Duration, Instant};

/// With a few megabytes this is a matter of microseconds, so it is not worth asking whether anything was freed.
const PERIOD: Duration = Duration::from_secs(20);
/// Millions of holes take tenths of a second: of the process's time it gets one part in so many.
const SHARE: u32 = 1000;

/// Runs as long as the process.
pub(crate) async fn give_back() {
    let mut pause = PERIOD;
    loop {
        tokio::time::sleep(pause).await;
        let start = Instant::now();
        trim();
        pause = PERIOD.max(start.elapsed() * SHARE);
    }
}

/// Only glibc has to be told.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn trim() {
    // SAFETY: malloc_trim takes a number of bytes to keep and no pointer, may be called by any thread at any time (glibc marks
    // it MT-Safe), and releases only pages that no allocation lies on. What it answers, whether anything was released, is of no use.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(target_env = "gnu"))]
fn trim() {}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    use super::*;

    /// A page may be larger than this: then less is counted, on both sides of the comparison.
    const PAGE_BYTES: usize = 4096;
    const PIECE_BYTES: usize = 4096;
    const N_PIECES: usize = 16_384;

    /// Bytes of this process that lie in memory.
    fn resident_bytes() -> usize {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * PAGE_BYTES
    }

    #[test]
    fn what_lies_below_something_held_goes_back_too() {
        let pieces: Vec<Vec<u8>> = (0..N_PIECES).map(|_| vec![1; PIECE_BYTES]).collect();
        let held = resident_bytes();
        // The last piece keeps the heap from shrinking by itself.
        let last = pieces.into_iter().last();
        let freed = resident_bytes();
        trim();
        let trimmed = resident_bytes();
        assert!(trimmed + N_PIECES * PIECE_BYTES / 2 < held, "{held} held, {freed} freed, {trimmed} trimmed");
        drop(last);
    }
}
