//! The link between edgecore and cloudcore as a TCP proxy that a story can cut, freeze, delay and heal.
//!
//! It moves bytes and counts them; it neither reads nor keeps them (they are TLS). One `Wire` stands before one
//! port of cloudcore. Called by stories.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::net::connect_unspec;

/// How long a pump waits for bytes before it looks at the state of the link again.
const LOOK: Duration = Duration::from_millis(20);
const CHUNK: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    EdgeToCloud,
    CloudToEdge,
}

/// How an open connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// RST: the peer learns at once that nothing will come any more.
    Reset,
    /// FIN, after what was on its way.
    Close,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// New connections are reset at once.
    refuses: bool,
    /// Bytes of that direction vanish; sockets stay open, and new ones are accepted into the void.
    swallows_up: bool,
    swallows_down: bool,
    /// Only of connections with a smaller number, where set.
    swallows_below: Option<u64>,
    /// Held back on its way, each direction.
    delay: Duration,
}

impl State {
    fn swallows(&self, number: u64, direction: Direction) -> bool {
        let frozen = match direction {
            Direction::EdgeToCloud => self.swallows_up,
            Direction::CloudToEdge => self.swallows_down,
        };
        frozen && self.swallows_below.is_none_or(|below| number < below)
    }
}

/// What went through since the start.
#[derive(Debug, Default)]
pub struct Counts {
    pub connections: AtomicU64,
    pub bytes_up: AtomicU64,
    pub bytes_down: AtomicU64,
    pub bytes_swallowed: AtomicU64,
}

struct Shared {
    target: Mutex<SocketAddr>,
    state: Mutex<State>,
    /// Both ends of each open connection; closed ones are taken out by the next accept.
    open: Mutex<Vec<(TcpStream, TcpStream)>>,
    counts: Counts,
    /// The `Wire` was dropped.
    gone: AtomicBool,
}

pub struct Wire {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Wire {
    /// Listens on a port of 127.0.0.1 of its own and connects to `target`, which need not listen yet.
    pub fn new(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).context("listen for the wire")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: Mutex::new(target),
            state: Mutex::default(),
            open: Mutex::default(),
            counts: Counts::default(),
            gone: AtomicBool::new(false),
        });
        let listening = Arc::clone(&shared);
        thread::Builder::new().name("wire".into()).spawn(move || {
            for edge in listener.incoming().flatten() {
                // The last knock comes from `drop`.
                if listening.gone.load(Ordering::Relaxed) {
                    return;
                }
                listening.take_in(edge);
            }
        })?;
        Ok(Self { shared, address })
    }

    /// What edgecore is given instead of cloudcore's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections elsewhere: another cloudcore, another port.
    pub fn retarget(&self, target: SocketAddr) {
        *locked(&self.shared.target) = target;
    }

    /// Ends open connections and refuses new ones until `heal`.
    pub fn cut(&self, how: Cut) {
        locked(&self.shared.state).refuses = true;
        self.drop_open(how);
    }

    /// Ends open connections; the next dial gets through.
    pub fn drop_open(&self, how: Cut) {
        for (edge, cloud) in locked(&self.shared.open).drain(..) {
            for end in [&edge, &cloud] {
                match how {
                    Cut::Reset => reset(end),
                    Cut::Close => drop(end.shutdown(Shutdown::Both)),
                }
            }
        }
    }

    /// A half-open or one-way link: bytes of these directions vanish, and nobody is told.
    pub fn freeze(&self, directions: &[Direction]) {
        let mut state = locked(&self.shared.state);
        state.swallows_up = directions.contains(&Direction::EdgeToCloud);
        state.swallows_down = directions.contains(&Direction::CloudToEdge);
        state.swallows_below = None;
    }

    /// The same for the connections that are open now; the next dial gets a whole one.
    pub fn freeze_open(&self, directions: &[Direction]) {
        self.freeze(directions);
        locked(&self.shared.state).swallows_below =
            Some(self.shared.counts.connections.load(Ordering::Relaxed));
    }

    /// Every byte arrives this much later, in each direction.
    pub fn delay(&self, by: Duration) {
        locked(&self.shared.state).delay = by;
    }

    /// New connections are whole again. Those that lost bytes are reset: a stream with a hole must not go on.
    pub fn heal(&self) {
        let before = std::mem::take(&mut *locked(&self.shared.state));
        if before.swallows_up || before.swallows_down {
            self.drop_open(Cut::Reset);
        }
    }

    /// Connections open now.
    pub fn n_open(&self) -> usize {
        locked(&self.shared.open).iter().filter(|(edge, _)| edge.peer_addr().is_ok()).count()
    }

    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.drop_open(Cut::Reset);
        self.shared.gone.store(true, Ordering::Relaxed);
        TcpStream::connect(self.address).ok();
    }
}

impl Shared {
    fn take_in(self: &Arc<Self>, edge: TcpStream) {
        let refuses = locked(&self.state).refuses;
        let target = *locked(&self.target);
        // A void accepts too: the kernel of a dead path's far end would not answer, but time out all the same.
        let cloud =
            if refuses { None } else { TcpStream::connect_timeout(&target, Duration::from_secs(5)).ok() };
        let Some(cloud) = cloud else {
            reset(&edge);
            return;
        };
        let number = self.counts.connections.fetch_add(1, Ordering::Relaxed);
        for end in [&edge, &cloud] {
            end.set_nodelay(true).ok();
            end.set_read_timeout(Some(LOOK)).ok();
        }
        let copies = (|| {
            Ok::<_, std::io::Error>((
                edge.try_clone()?,
                cloud.try_clone()?,
                edge.try_clone()?,
                cloud.try_clone()?,
            ))
        })();
        let Ok((edge_in, cloud_in, edge_kept, cloud_kept)) = copies else { return };
        let mut open = locked(&self.open);
        open.retain(|(edge, _)| edge.peer_addr().is_ok());
        open.push((edge_kept, cloud_kept));
        drop(open);
        for (from, to, direction) in
            [(edge_in, cloud, Direction::EdgeToCloud), (cloud_in, edge, Direction::CloudToEdge)]
        {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.pump(number, from, to, direction));
        }
    }

    /// Moves one direction of one connection until either end is gone.
    fn pump(&self, number: u64, mut from: TcpStream, mut to: TcpStream, direction: Direction) {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => continue,
                Err(_) => {
                    reset(&to);
                    break;
                }
            };
            let state = *locked(&self.state);
            let count = match direction {
                Direction::EdgeToCloud => &self.counts.bytes_up,
                Direction::CloudToEdge => &self.counts.bytes_down,
            };
            if state.swallows(number, direction) {
                self.counts.bytes_swallowed.fetch_add(n as u64, Ordering::Relaxed);
                continue;
            }
            if !state.delay.is_zero() {
                thread::sleep(state.delay);
            }
            if to.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
                break;
            }
            count.fetch_add(n as u64, Ordering::Relaxed);
        }
        // In a frozen direction the end of a connection vanishes like its bytes.
        let start = Instant::now();
        loop {
            let swallows = locked(&self.state).swallows(number, direction);
            if !swallows || to.peer_addr().is_err() || start.elapsed() > Duration::from_secs(600) {
                break;
            }
            thread::sleep(LOOK);
        }
        to.shutdown(Shutdown::Write).ok();
        from.shutdown(Shutdown::Read).ok();
    }
}

/// Sends RST now. Closing would send FIN first, and only once every copy of the socket is closed.
fn reset(socket: &TcpStream) {
    connect_unspec(socket).ok();
}

/// A panic of another story's thread does not make the state less true.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends back what it gets.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut reader = client.try_clone().unwrap();
                    std::io::copy(&mut reader, &mut client).ok();
                });
            }
        });
        address
    }

    fn dial(wire: &Wire) -> TcpStream {
        let socket = TcpStream::connect(wire.address()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    fn said_back(socket: &mut TcpStream, text: &[u8]) -> std::io::Result<bool> {
        socket.write_all(text)?;
        let mut answer = vec![0; text.len()];
        socket.read_exact(&mut answer)?;
        Ok(answer == text)
    }

    #[test]
    fn bytes_pass_and_are_counted() {
        let wire = Wire::new(echo()).unwrap();
        let mut socket = dial(&wire);
        assert!(said_back(&mut socket, b"hello").unwrap());
        assert_eq!(wire.counts().bytes_up.load(Ordering::Relaxed), 5);
        assert_eq!(wire.n_open(), 1);
        wire.delay(Duration::from_millis(60));
        let start = Instant::now();
        assert!(said_back(&mut socket, b"later").unwrap());
        assert!(start.elapsed() >= Duration::from_millis(120));
    }

    #[test]
    fn a_cut_ends_and_refuses_until_healed() {
        let wire = Wire::new(echo()).unwrap();
        for (how, expected) in [(Cut::Reset, Some(ErrorKind::ConnectionReset)), (Cut::Close, None)] {
            let mut socket = dial(&wire);
            assert!(said_back(&mut socket, b"a").unwrap());
            wire.cut(how);
            let end = socket.read(&mut [0; 1]);
            assert_eq!(end.as_ref().err().map(std::io::Error::kind), expected, "{how:?}: {end:?}");
            let mut refused = dial(&wire);
            assert!(said_back(&mut refused, b"b").is_err());
            wire.heal();
            assert!(said_back(&mut dial(&wire), b"c").unwrap());
        }
    }

    #[test]
    fn a_frozen_link_says_nothing() {
        let wire = Wire::new(echo()).unwrap();
        for directions in [&[Direction::EdgeToCloud][..], &[Direction::CloudToEdge]] {
            let mut socket = dial(&wire);
            assert!(said_back(&mut socket, b"a").unwrap());
            wire.freeze(directions);
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            let silence = said_back(&mut socket, b"b").unwrap_err();
            assert_eq!(silence.kind(), ErrorKind::WouldBlock, "neither end nor answer");
            wire.heal();
            assert!(said_back(&mut dial(&wire), b"c").unwrap());
        }
        assert_eq!(wire.counts().bytes_swallowed.load(Ordering::Relaxed), 2);
    }
}
