//! Who has come and is not judged yet: how many at once, of one source and of all.
//!
//! Anybody may dial these ports, say nothing and hold a turn for 20 s. So a source has few turns, and waits for its own; the API
//! server, which is another source, comes in meanwhile. It knows no protocol. Used by `mod.rs` and `go_tunnels`.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of one source, at once. The API server has a hundred answers in the time in which a stranger holds one turn.
pub(super) const TURNS_OF_SOURCE: usize = 32;
/// Connections of one source that wait beside; more are closed.
pub(super) const MAX_OF_SOURCE: usize = 1024;
/// Of all sources: each costs a file descriptor.
pub(super) const MAX_OF_ALL: usize = 4096;

/// Cloneable.
#[derive(Clone)]
pub(super) struct Crowd(Arc<Inner>);

struct Inner {
    turns: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    n_all: usize,
    sources: HashMap<IpAddr, Source>,
}

struct Source {
    n_here: usize,
    turns: Arc<Semaphore>,
}

/// One connection; it has gone, or is judged, when this is dropped.
pub(super) struct Guest {
    crowd: Crowd,
    source: IpAddr,
    turns: Arc<Semaphore>,
}

/// One that is being judged.
pub(super) struct Turn {
    _guest: Guest,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Crowd {
    /// `n_turns`: of all sources at once.
    pub(super) fn new(n_turns: usize) -> Self {
        Self(Arc::new(Inner { turns: Arc::new(Semaphore::new(n_turns)), state: Mutex::default() }))
    }

    /// Somebody has come; `None`: he is to be sent away, there are too many. Never waits, so that a port always accepts.
    pub(super) fn enter(&self, from: IpAddr) -> Option<Guest> {
        let source = source(from);
        let mut state = self.state();
        let n_all = state.n_all;
        let entry = state
            .sources
            .entry(source)
            .or_insert_with(|| Source { n_here: 0, turns: Arc::new(Semaphore::new(TURNS_OF_SOURCE)) });
        if n_all >= MAX_OF_ALL || entry.n_here >= MAX_OF_SOURCE {
            if entry.n_here == 0 {
                state.sources.remove(&source);
            }
            return None;
        }
        entry.n_here = entry.n_here.saturating_add(1);
        let turns = Arc::clone(&entry.turns);
        state.n_all = n_all.saturating_add(1);
        Some(Guest { crowd: self.clone(), source, turns })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Waits for a turn: first among those of his source, so that many of one do not stand before all others.
    pub(super) async fn turn(self) -> Turn {
        // Neither is ever closed.
        let of_source = Arc::clone(&self.turns).acquire_owned().await.ok();
        let of_all = Arc::clone(&self.crowd.0.turns).acquire_owned().await.ok();
        Turn { _guest: self, _permits: [of_source, of_all] }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut state = self.crowd.state();
        state.n_all = state.n_all.saturating_sub(1);
        if let Some(source) = state.sources.get_mut(&self.source) {
            source.n_here = source.n_here.saturating_sub(1);
            if source.n_here == 0 {
                state.sources.remove(&self.source);
            }
        }
    }
}

/// One machine has as many IPv6 addresses as it likes; its network is one source.
fn source(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const MOMENT: Duration = Duration::from_secs(1);

    #[test]
    fn what_one_source_is() {
        let check = |from: &str, expected: &str| {
            assert_eq!(source(from.parse().unwrap()), expected.parse::<IpAddr>().unwrap(), "{from}");
        };
        check("192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
        check("2001:db8:1:3::", "2001:db8:1:3::");
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_holds_all_its_turns_keeps_out_itself_alone() {
        let crowd = Crowd::new(2 * TURNS_OF_SOURCE);
        let (stranger, server) = ([192, 0, 2, 66].into(), [10, 0, 0, 1].into());
        let mut held = Vec::new();
        for _ in 0..TURNS_OF_SOURCE {
            held.push(timeout(MOMENT, crowd.enter(stranger).unwrap().turn()).await.unwrap());
        }
        let waiting: Vec<_> = (TURNS_OF_SOURCE..MAX_OF_SOURCE)
            .map(|_| tokio::spawn(crowd.enter(stranger).unwrap().turn()))
            .collect();
        tokio::time::sleep(MOMENT).await;
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        assert!(crowd.enter(stranger).is_none());
        let turn = timeout(MOMENT, crowd.enter(server).unwrap().turn()).await;
        assert!(turn.is_ok(), "another source has its own");
        // Each that ends lets in the next.
        held.pop();
        tokio::time::sleep(MOMENT).await;
        assert_eq!(waiting.iter().filter(|waiting| waiting.is_finished()).count(), 1);
        assert!(crowd.enter(stranger).is_some());
        for waiting in waiting {
            waiting.abort();
        }
        drop((held, turn));
        tokio::time::sleep(MOMENT).await;
        let state = crowd.state();
        assert_eq!((state.n_all, state.sources.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_are_bounded_too() {
        let crowd = Crowd::new(TURNS_OF_SOURCE);
        let enter = |n: usize| crowd.enter([10, 0, (n / 256) as u8, (n % 256) as u8].into());
        let held: Vec<_> = (0..MAX_OF_ALL).map(|n| enter(n).unwrap()).collect();
        assert!(enter(MAX_OF_ALL).is_none());
        assert_eq!(crowd.state().sources.len(), MAX_OF_ALL, "who is sent away leaves nothing");
        drop(held);
        assert!(enter(MAX_OF_ALL).is_some());
    }
}
