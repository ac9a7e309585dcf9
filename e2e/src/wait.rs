//! Waiting for something to become true, with an error that tells the last state seen.
//!
//! It never sleeps for luck: every wait names what it waits for and has a deadline. Called by every story.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What one look at the world found.
pub enum Seen<T> {
    Yes(T),
    /// Not yet; the text is the state, shown when time runs out.
    NotYet(String),
}

/// Looks again and again until `look` says yes.
/// Errors: the deadline passed; the text holds `what` and the last state (an error of `look` counts as a state).
pub fn eventually<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Result<Seen<T>>) -> Result<T> {
    let start = Instant::now();
    // Short waits want quick looks, long waits should not spend the machine on looking.
    let pause = (deadline / 200).clamp(Duration::from_millis(20), Duration::from_millis(250));
    loop {
        let state = match look() {
            Ok(Seen::Yes(value)) => return Ok(value),
            Ok(Seen::NotYet(state)) => state,
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() >= deadline {
            bail!("waited {:.0} s for {what}; last seen: {state}", deadline.as_secs_f64());
        }
        std::thread::sleep(pause);
    }
}

/// `eventually` for a plain question; `state` is asked only for the error.
pub fn until(deadline: Duration, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    eventually(deadline, what, || Ok(if holds()? { Seen::Yes(()) } else { Seen::NotYet("not yet".into()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_last_state() {
        let mut n = 0;
        let error = eventually::<()>(Duration::from_millis(60), "three pods", || {
            n += 1;
            Ok(Seen::NotYet("two pods".into()))
        })
        .unwrap_err();
        assert!(error.to_string().contains("three pods; last seen: two pods"), "{error}");
        assert!(n > 1);
    }
}
