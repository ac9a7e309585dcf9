//! Pure: where the last lines of a log file begin. The file is given in blocks, the last one first, so that the end of a long
//! log costs little. A line of the application may be several of the file; `line.rs` says which. Called by `mod.rs`.

use super::line::{MAX_HEAD, Mark, mark};

/// Looks for the beginning of the last `n` lines, from the end of the file.
#[derive(Debug)]
pub(super) struct TailScan {
    wanted: u64,
    found: u64,
    /// Where the line begins that was looked at last: the end of the one before.
    below: u64,
    is_last: bool,
    /// The first bytes after what was seen so far.
    after: Vec<u8>,
}

impl TailScan {
    /// `wanted` is at least 1.
    pub(super) fn new(wanted: u64, length: u64) -> Self {
        Self { wanted, found: 0, below: length, is_last: true, after: Vec::new() }
    }

    /// The block that ends where the one before began; `at` is where it begins in the file. Gives the place once it is found.
    pub(super) fn feed(&mut self, block: &[u8], at: u64) -> Option<u64> {
        for (index, byte) in block.iter().enumerate().rev() {
            let begin = at.saturating_add(index as u64).saturating_add(1);
            if *byte != b'\n' || (self.is_last && begin >= self.below) {
                continue;
            }
            if self.line(block.get(index + 1..).unwrap_or_default(), begin) {
                return Some(self.below);
            }
        }
        if at == 0 && self.below > 0 && self.line(block, 0) {
            return Some(self.below);
        }
        let head = block.iter().chain(&self.after).take(MAX_HEAD);
        self.after = head.copied().collect();
        None
    }

    /// How many lines the file lacks, once all of it was fed.
    pub(super) fn missing(&self) -> u64 {
        self.wanted.saturating_sub(self.found)
    }

    /// A line of the file. True: it belongs to what is not wanted, and `below` is the answer.
    fn line(&mut self, block: &[u8], begin: u64) -> bool {
        let head: Vec<u8> = block.iter().chain(&self.after).take(MAX_HEAD).copied().collect();
        // A piece at the very end is a line that is still being written.
        if mark(&head) == Mark::Full || self.is_last {
            if self.found == self.wanted {
                return true;
            }
            self.found += 1;
        }
        self.is_last = false;
        self.below = begin;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, wanted: u64, expected: Result<&str, u64>) {
        for size in [1, 3, 50, 4096] {
            let mut scan = TailScan::new(wanted, file.len() as u64);
            let mut end = file.len();
            let mut found = None;
            while end > 0 && found.is_none() {
                let begin = end.saturating_sub(size);
                found = scan.feed(&file.as_bytes()[begin..end], begin as u64);
                end = begin;
            }
            let got = found.map(|at| &file[usize::try_from(at).unwrap()..]).ok_or_else(|| scan.missing());
            assert_eq!(got, expected, "{wanted} lines, blocks of {size}");
        }
    }

    #[test]
    fn lines_are_counted_from_the_end() {
        let (a, b, c) = ("t stdout F a\n", "t stdout P b\nt stdout P b\nt stdout F b\n", "t stdout F \n");
        let file = [a, b, c].concat();
        check(&file, 1, Ok(c));
        check(&file, 2, Ok(&[b, c].concat()));
        check(&file, 3, Err(0));
        check(&file, 5, Err(2));
        check("", 1, Err(1));
        check("x", 1, Err(0));
        check("\n\n", 1, Ok("\n"));
        check("t stdout F a\n\nt stdout P b\n", 2, Ok("\nt stdout P b\n"));
    }

    #[test]
    fn a_line_without_its_end_is_one() {
        check("t stdout F a\nt stdout P b\n", 1, Ok("t stdout P b\n"));
        check("t stdout F a\nt stdout F b", 1, Ok("t stdout F b"));
        check("t stdout F a\nt stdout P b\nt stdout P c\n", 1, Ok("t stdout P b\nt stdout P c\n"));
    }
}
