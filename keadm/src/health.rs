//! Whether edgecore is as well as it should be: after a change as it was before, after a join Ready.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::host::Host;
use crate::wait::{Patience, until_steady};

/// How often it is asked.
const LOOK: Duration = Duration::from_millis(250);
/// After a change it must be well for so long at a stretch: a program that ends soon after it started is started again every
/// 10 s. So long is cloudcore watched, too: the kubelet starts one again at once, and then after 10 s and more.
pub(crate) const STEADY: Duration = Duration::from_secs(12);

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
    let patience = Patience { deadline: host.elapsed().saturating_add(limit), steady, every: LOOK };
    let mut tell = |why: &str| say(&format!("  still waiting until {bar}: {why}"));
    let done = until_steady(host, patience, &mut tell, || match host.get(address, bar.path()) {
        Ok((200, _)) => Ok(()),
        Ok((_, why)) => Err(why),
        Err(error) => Err(format!("edgecore does not answer at {address}: {error}")),
    });
    done.map_err(|why| anyhow!("{} after {} s: {why}", bar.missed(), limit.as_secs()))
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
