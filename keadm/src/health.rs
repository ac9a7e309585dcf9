//! Whether edgecore is as well as it should be: after a change as it was before, after a join Ready.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::host::Host;

/// How often it is asked.
const LOOK: Duration = Duration::from_millis(250);
/// After a change it must be well for so long at a stretch: a program that ends soon after it started is started again every
/// 10 s.
pub(crate) const STEADY: Duration = Duration::from_secs(12);
/// A word on what is waited for.
const TELL: Duration = Duration::from_secs(10);

/// How well edgecore must be: as well as it was before. A node whose cloud is away can be upgraded, and is asked no more than
/// that its store is open and its runtime answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bar {
    /// It answers at all: before, it did not, or something else was wrong.
    Runs,
    /// The container runtime answers it.
    Works,
    /// The cloud calls the Node Ready.
    Ready,
}

impl Bar {
    /// As edgecore stands now.
    pub(crate) fn now(host: &dyn Host, address: SocketAddr) -> Self {
        let is_good = |bar: Self| matches!(host.get(address, bar.path()), Ok((200, _)));
        [Self::Ready, Self::Works].into_iter().find(|bar| is_good(*bar)).unwrap_or(Self::Runs)
    }

    fn path(self) -> &'static str {
        match self {
            Self::Runs => "/healthz",
            Self::Works => "/readyz",
            Self::Ready => "/node",
        }
    }
}

impl Bar {
    fn missed(self) -> &'static str {
        match self {
            Self::Runs => "edgecore does not run",
            Self::Works => "edgecore does not run, or the container runtime does not answer it,",
            Self::Ready => "the node is not Ready",
        }
    }
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runs => "edgecore runs",
            Self::Works => "edgecore runs and the container runtime answers",
            Self::Ready => "the node is Ready",
        })
    }
}

/// Until edgecore has been well for `steady`. It has `limit` to become so.
pub(crate) fn wait(
    host: &dyn Host,
    address: SocketAddr,
    bar: Bar,
    limit: Duration,
    steady: Duration,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    let begin = host.elapsed();
    let (mut told, mut good_since) = (begin, None);
    loop {
        let why = match host.get(address, bar.path()) {
            Ok((200, _)) => None,
            Ok((_, why)) => Some(why),
            Err(error) => Some(format!("edgecore does not answer at {address}: {error}")),
        };
        let now = host.elapsed();
        match why {
            None => {
                let since = *good_since.get_or_insert(now);
                if now.saturating_sub(since) >= steady {
                    return Ok(());
                }
            }
            Some(why) => {
                good_since = None;
                if now.saturating_sub(begin) >= limit {
                    bail!("{} after {} s: {why}", bar.missed(), limit.as_secs());
                }
                if now.saturating_sub(told) >= TELL {
                    told = now;
                    say(&format!("  still waiting until {bar}: {why}"));
                }
            }
        }
        host.sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    fn address() -> SocketAddr {
        "127.0.0.1:1".parse().unwrap()
    }

    #[test]
    fn nobody_must_be_better_than_before() {
        let check = |answers: &[u16], expected: Bar| {
            let host = FakeHost::new(&[]);
            *host.node.borrow_mut() = answers.iter().map(|status| (*status, String::new())).collect();
            assert_eq!(Bar::now(&host, address()), expected, "{answers:?}");
        };
        check(&[200], Bar::Ready);
        check(&[503, 200], Bar::Works);
        check(&[503], Bar::Runs);
        check(&[], Bar::Runs);
    }

    #[test]
    fn once_is_not_enough() {
        let check = |answers: &[u16], expected: bool| {
            let host = FakeHost::new(&[]);
            *host.node.borrow_mut() = answers.iter().map(|status| (*status, "why".to_owned())).collect();
            let limit = Duration::from_secs(30);
            let done = wait(&host, address(), Bar::Ready, limit, STEADY, &mut |_| {});
            assert_eq!(done.is_ok(), expected, "{answers:?}: {done:?}");
        };
        check(&[503, 200], true);
        check(&[200, 200, 503, 200], true);
        check(&[200, 200, 503], false);
        check(&[], false);
    }
}
