//! Connections as they come: the one loop of every port and socket that serves each connection in a task of its own.
//!
//! It knows nothing of what is said on them, and hears no end of a connection but its task's. Called by who listens.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::shutdown::Shutdown;

/// After a connection could not be taken, most likely for want of file descriptors: others need the next ones more.
const AGAIN: Duration = Duration::from_millis(100);

/// Something that connections come to.
pub trait Listener {
    /// A connection.
    type Stream;

    /// The next one. Dropping the future loses none.
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// How much is served.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What listens, for the log: "the admin port".
    pub name: &'static str,
    /// Connections at once. More wait with the kernel, unread.
    pub n_connections: usize,
    /// After this long a connection is broken off, whatever it does. `None`: it ends when it ends.
    pub time: Option<Duration>,
}

/// Serves each connection in a task of its own until `stop`, which ends no task.
pub async fn serve<L, S>(
    listener: &L,
    limits: Limits,
    stop: &Shutdown,
    mut served: impl FnMut(L::Stream) -> S,
) where
    L: Listener,
    S: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.n_connections));
    let mut is_told = false;
    loop {
        let next = async {
            // Never closed.
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.next().await?, place))
        };
        let next = tokio::select! {
            next = next => next,
            () = stop.wait() => return,
        };
        let (stream, place) = match next {
            Ok(next) => next,
            Err(error) => {
                // Once for all that fail in a row.
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(%error, "accept a connection to {}", limits.name);
                }
                tokio::time::sleep(AGAIN).await;
                continue;
            }
        };
        is_told = false;
        let served = served(stream);
        tokio::spawn(async move {
            match limits.time {
                Some(limit) => drop(tokio::time::timeout(limit, served).await),
                None => served.await,
            }
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::mpsc;

    use super::*;

    /// Hands out what it holds, then nothing.
    struct Scripted(Mutex<Vec<io::Result<u32>>>);

    impl Listener for Scripted {
        type Stream = u32;

        async fn next(&self) -> io::Result<u32> {
            let next = self.0.lock().unwrap().pop();
            match next {
                Some(next) => next,
                None => std::future::pending().await,
            }
        }
    }

    /// Runs it over `script` (the last first); tells which came, each of which stays for ever.
    fn run(script: Vec<io::Result<u32>>, limits: Limits) -> (mpsc::UnboundedReceiver<u32>, impl Sized) {
        let (trigger, stop) = Shutdown::new();
        let (come, came) = mpsc::unbounded_channel();
        let running = tokio::spawn(async move {
            let listener = Scripted(Mutex::new(script));
            serve(&listener, limits, &stop, |stream| {
                let _ = come.send(stream);
                std::future::pending()
            })
            .await;
        });
        (came, (trigger, running))
    }

    async fn soon(came: &mut mpsc::UnboundedReceiver<u32>) -> Option<u32> {
        tokio::time::timeout(Duration::from_secs(1), came.recv()).await.ok().flatten()
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_at_once_and_each_only_so_long() {
        let limits = Limits { name: "a test", n_connections: 2, time: Some(Duration::from_secs(30)) };
        let (mut came, _running) = run(vec![Ok(3), Ok(2), Ok(1)], limits);
        assert_eq!((soon(&mut came).await, soon(&mut came).await), (Some(1), Some(2)));
        assert_eq!(soon(&mut came).await, None, "both places are taken");
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(soon(&mut came).await, Some(3), "the first was broken off");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_fails_takes_no_place() {
        let failed = || Err(io::Error::other("too many open files"));
        let limits = Limits { name: "a test", n_connections: 1, time: None };
        let (mut came, _running) = run(vec![Ok(1), failed(), failed()], limits);
        assert_eq!(soon(&mut came).await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_told() {
        let (trigger, stop) = Shutdown::new();
        let serving = tokio::spawn(async move {
            let limits = Limits { name: "a test", n_connections: 1, time: None };
            serve(&Scripted(Mutex::default()), limits, &stop, |_| async {}).await;
        });
        trigger.stop();
        serving.await.unwrap();
    }
}
