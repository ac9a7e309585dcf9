//! Waiting for a cluster.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

/// How often is looked whether something is done.
const LOOK: Duration = Duration::from_millis(500);
/// A word on what is waited for.
const TELL: Duration = Duration::from_secs(10);

/// Until `look` says so; what it says meanwhile is told now and then, and at the end.
pub(crate) fn wait(
    limit: Instant,
    say: &dyn Fn(&str),
    mut look: impl FnMut() -> Result<Result<(), String>>,
) -> Result<()> {
    let mut told = Instant::now();
    loop {
        let why = match look() {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= limit {
            return Err(anyhow!("{why}")).context("the time is over");
        }
        if told.elapsed() >= TELL {
            told = Instant::now();
            say(&format!("  still waiting: {why}"));
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_the_last_word() {
        let error = wait(Instant::now(), &|_| {}, || Ok(Err("not yet".into()))).unwrap_err();
        assert_eq!(format!("{error:#}"), "the time is over: not yet");
        wait(Instant::now(), &|_| {}, || Ok(Ok(()))).unwrap();
    }
}
