//! What a follower of a log has heard: whether a line is missing, and how old each was.
//!
//! Lines carry the runtime's time stamp and a number that counts up.

use std::time::Instant;

use anyhow::{Context, Result};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;

use crate::delays::now_ms;

/// Of one follower.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The number that comes next; `None` before the first line.
    next: Option<u64>,
    /// Lines that did not come, or came again.
    pub(crate) n_wrong: u64,
    pub(crate) n_bytes: u64,
    /// When the last line was written, in milliseconds since 1970.
    last_at: f64,
    /// When a line came, and how many milliseconds after it was written.
    pub(crate) lags: Vec<(Instant, f64)>,
    rest: Vec<u8>,
}

impl Heard {
    pub(crate) fn take(&mut self, bytes: &[u8], now: Instant, now_ms: f64) -> Result<()> {
        self.n_bytes += bytes.len() as u64;
        self.rest.extend_from_slice(bytes);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        for line in String::from_utf8_lossy(&whole).lines() {
            self.line(line, now, now_ms).with_context(|| format!("a line of a log: {line:?}"))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, now: Instant, now_ms: f64) -> Result<()> {
        let mut words = line.split(' ');
        let at = OffsetDateTime::parse(words.next().unwrap_or_default(), &Rfc3339)?;
        let number: u64 = words.next().context("no number")?.parse()?;
        self.n_wrong += self.next.map_or(0, |next| next.abs_diff(number));
        self.next = Some(number + 1);
        self.last_at = at.unix_timestamp_nanos() as f64 / 1e6;
        self.lags.push((now, now_ms - self.last_at));
        Ok(())
    }
}

/// Reads until it has heard a line that was written after `end` (milliseconds since 1970; 0: not known yet).
pub(crate) async fn follow(mut log: impl AsyncRead + Unpin, end: watch::Receiver<f64>) -> Result<Heard> {
    let (mut heard, mut buffer) = (Heard::default(), vec![0; 16 << 10]);
    loop {
        let n_read = log.read(&mut buffer).await.context("a followed log broke off")?;
        let read = buffer.get(..n_read).filter(|read| !read.is_empty());
        heard.take(read.context("a followed log has ended")?, Instant::now(), now_ms())?;
        let end = *end.borrow();
        if end > 0.0 && heard.last_at > end {
            return Ok(heard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_counted() {
        let (now, mut heard) = (Instant::now(), Heard::default());
        let line = |number: u64| format!("2026-01-31T12:00:00.5Z {number} xxxx\n");
        let mut say =
            |text: &str| heard.take(text.as_bytes(), now, 1_769_860_800_750.0).map(|()| heard.n_wrong);
        assert_eq!(say(&line(7)).unwrap(), 0);
        // In pieces.
        assert_eq!(say("2026-01-31T12:").unwrap(), 0);
        assert_eq!(say("00:00.5Z 8 x\n2026").unwrap(), 0);
        assert_eq!(say(&line(9).replacen("2026", "", 1)).unwrap(), 0);
        assert_eq!(say(&line(12)).unwrap(), 2);
        assert_eq!(say(&line(12)).unwrap(), 3);
        assert!(say("no line of a log\n").is_err());
        assert_eq!(heard.lags.first(), Some(&(now, 250.0)));
    }
}
