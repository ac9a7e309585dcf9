//! Waiting until something is as it should be, and stays so. The clock is the Host's, so that a test need not wait.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::host::Host;

/// How often a cluster is asked whether something is done.
const LOOK: Duration = Duration::from_millis(500);
/// A word on what is waited for.
const TELL: Duration = Duration::from_secs(10);

/// How long is waited, and for how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// On the Host's clock. A good stretch that has begun by then may still come to its end.
    pub(crate) deadline: Duration,
    /// It must be good for so long at a stretch; zero: once is enough.
    pub(crate) steady: Duration,
    /// Between two looks.
    pub(crate) every: Duration,
}

/// Until `look` has given the same answer for as long as is wanted. What it says meanwhile is told now and then. Errors: what it
/// said last.
pub(crate) fn until_steady<T: PartialEq>(
    host: &dyn Host,
    patience: Patience,
    tell: &mut dyn FnMut(&str),
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<(), String> {
    let (mut told, mut good) = (host.elapsed(), None::<(Duration, T)>);
    loop {
        let seen = look();
        let now = host.elapsed();
        let why = match (seen, good.take()) {
            (Ok(seen), Some((since, before))) if seen == before => {
                good = Some((since, before));
                None
            }
            // Good again, but what happened between the two looks was not.
            (Ok(seen), Some(_)) => {
                good = Some((now, seen));
                Some("it did not stay so".to_owned())
            }
            (Ok(seen), None) => {
                good = Some((now, seen));
                None
            }
            (Err(why), _) => Some(why),
        };
        match why {
            None if good.as_ref().is_some_and(|(since, _)| now.saturating_sub(*since) >= patience.steady) => {
                return Ok(());
            }
            None => {}
            Some(why) if now >= patience.deadline => return Err(why),
            Some(why) if now.saturating_sub(told) >= TELL => {
                told = now;
                tell(&why);
            }
            Some(_) => {}
        }
        host.sleep(patience.every);
    }
}

/// Until the cluster once is as `look` wants it.
pub(crate) fn wait(
    host: &dyn Host,
    deadline: Duration,
    say: &dyn Fn(&str),
    look: impl FnMut() -> Result<Result<(), String>>,
) -> Result<()> {
    wait_steady(host, deadline, Duration::ZERO, say, look)
}

/// The same, and until it has stayed so for `steady`.
pub(crate) fn wait_steady<T: PartialEq>(
    host: &dyn Host,
    deadline: Duration,
    steady: Duration,
    say: &dyn Fn(&str),
    mut look: impl FnMut() -> Result<Result<T, String>>,
) -> Result<()> {
    let patience = Patience { deadline, steady, every: LOOK };
    let mut tell = |why: &str| say(&format!("  still waiting: {why}"));
    // A cluster that does not answer may do so again.
    let look = || look().unwrap_or_else(|error| Err(format!("{error:#}")));
    until_steady(host, patience, &mut tell, look).map_err(|why| anyhow!(why)).context("the time is over")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn waiting_ends_with_the_last_word() {
        let host = FakeHost::new(&[]);
        let error = wait(&host, Duration::ZERO, &|_| {}, || Ok(Err("not yet".into()))).unwrap_err();
        assert_eq!(format!("{error:#}"), "the time is over: not yet");
        wait(&host, Duration::ZERO, &|_| {}, || Ok(Ok(()))).unwrap();
    }

    /// A look each second; the last answer holds for ever.
    fn check(answers: &[Result<u32, &str>], expected: Result<u64, &str>) {
        let host = FakeHost::new(&[]);
        let mut left = answers.iter().copied();
        let mut last = Err("nothing yet");
        let limits = [30, 12].map(Duration::from_secs);
        let [deadline, steady] = limits;
        let done = wait_steady(&host, deadline, steady, &|_| {}, || {
            last = left.next().unwrap_or(last);
            Ok(last.map_err(str::to_owned))
        });
        let done = done.map(|()| host.clock.get()).map_err(|error| format!("{error:#}"));
        assert_eq!(done, expected.map_err(|why| format!("the time is over: {why}")), "{answers:?}");
    }

    #[test]
    fn good_must_stay_so() {
        check(&[Ok(0)], Ok(12));
        check(&[Err("starts"), Err("starts"), Ok(0)], Ok(14));
        // It was started again between two looks.
        check(&[Ok(0), Ok(0), Ok(1)], Ok(14));
        check(&[Ok(0), Ok(0), Err("ended")], Err("ended"));
    }

    #[test]
    fn waiting_is_bounded() {
        // A program that becomes ready, and ends after ten seconds, again and again.
        let mut answers = Vec::new();
        for n_restarts in 0..5 {
            answers.extend([Ok(n_restarts); 10]);
            answers.push(Err("CrashLoopBackOff"));
        }
        check(&answers, Err("CrashLoopBackOff"));
        // So quickly that it is never seen to be away.
        let answers: Vec<_> = (0..40).map(Ok).collect();
        check(&answers, Err("it did not stay so"));
        // What is good when the time is over may show that it stays so.
        let mut answers = vec![Err("starts"); 29];
        answers.push(Ok(0));
        check(&answers, Ok(41));
    }
}
