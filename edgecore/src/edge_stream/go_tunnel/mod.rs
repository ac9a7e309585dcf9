//! The tunnel to a cloudcore of KubeEdge, which has no streams on its link: dialled while such a one holds the link, again and
//! again.
//!
//! Each stream that the cloud opens goes to this machine's kubelet, whatever address the cloud says. Started by `main.rs`.

mod config;
mod exchange;
mod greeting;

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ke_run::backoff::Backoff;
use ke_run::shutdown::Shutdown;
use ke_socket::tunnel::{End, Limits, Session};
use ke_wire::NodeName;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;

pub use config::EdgeStreamConfig;

use crate::config::EdgeHubConfig;
use crate::edge_hub::{LinkState, Peer, dial_stream_port};

/// What Go's edge takes, too.
const PING: Duration = Duration::from_secs(5);
/// Input of commands that the runtime has not taken yet, of one and of all. More: the stream ends.
const HELD_OF_STREAM: usize = 4 << 20;
const HELD: usize = 8 << 20;
/// A cloud looks for the Node for 2 min before it reads; a machine that joins is faster than its Node.
const FIRST_LIMIT: Duration = Duration::from_secs(150);
/// A cloud that offers no tunnels is asked this rarely in the end.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Takes one end of a connection to this machine's kubelet. It must not wait: it starts a task.
pub type ToKubelet = Arc<dyn Fn(DuplexStream) + Send + Sync>;

/// The module. `run` it.
pub struct EdgeTunnel {
    /// Its own.
    pub config: EdgeStreamConfig,
    /// The link's: where the cloud is, by default.
    pub hub: EdgeHubConfig,
    /// Which node this is.
    pub node: NodeName,
    /// Its addresses, the one to say first.
    pub addresses: watch::Receiver<Vec<IpAddr>>,
    /// Whose cloud holds the link. While it is away, a tunnel that stands goes on.
    pub link: watch::Receiver<LinkState>,
    /// Serves what comes.
    pub kubelet: ToKubelet,
}

impl EdgeTunnel {
    /// Runs until shutdown.
    pub async fn run(self, stop: Shutdown) -> Result<(), Infallible> {
        if !self.config.enable {
            stop.wait().await;
            return Ok(());
        }
        let backoff = Backoff::full_jitter(Duration::from_secs(2), LONGEST_PAUSE);
        let mut attempt = 0_u32;
        loop {
            let mut link = self.link.clone();
            tokio::select! {
                () = is(&mut link, Peer::KubeEdge) => {}
                () = stop.wait() => return Ok(()),
            }
            let start = Instant::now();
            let ended = tokio::select! {
                ended = self.one_tunnel() => ended,
                () = is(&mut link, Peer::Isthmus) => {
                    tracing::info!("the cloud opens streams on the link: the tunnel is ended");
                    attempt = 0;
                    continue;
                }
                () = stop.wait() => return Ok(()),
            };
            match ended {
                Ok(why) => tracing::warn!(why, "the tunnel for logs and exec ended; dialling again"),
                // Clouds that offer none are no trouble of this machine's: told once.
                Err(why) if attempt == 0 => tracing::warn!(
                    server = %self.config.server(&self.hub),
                    why,
                    "no tunnel for logs and exec to this KubeEdge cloud (modules.edgeStream); trying again"
                ),
                Err(why) => tracing::debug!(why, attempt, "no tunnel for logs and exec"),
            }
            attempt = if start.elapsed() > LONGEST_PAUSE { 0 } else { attempt.saturating_add(1) };
            tokio::select! {
                () = tokio::time::sleep(backoff.delay(attempt, by_chance())) => {}
                () = stop.wait() => return Ok(()),
            }
        }
    }

    /// Ok: why it ended. Err: why there was none.
    async fn one_tunnel(&self) -> Result<String, String> {
        let limit = self.config.handshake_timeout.secs();
        let dialled = tokio::time::timeout(limit, Box::pin(self.dial())).await;
        let (stream, rest) = dialled.map_err(|_| format!("it did not answer within {limit:?}"))??;
        tracing::info!(server = %self.config.server(&self.hub), "a tunnel for logs and exec stands");
        let limits = Limits {
            first: FIRST_LIMIT,
            read: self.config.read_deadline.secs(),
            write: self.config.write_deadline.secs(),
            ping: Some(PING),
            held_of_stream: HELD_OF_STREAM,
            held: HELD,
        };
        let (_, session) = Session::new(stream, rest, self.end(), limits);
        Ok(session.run().await)
    }

    fn end(&self) -> End {
        let kubelet = Arc::clone(&self.kubelet);
        let accept = move |stream, reached, request| {
            let kubelet = Arc::clone(&kubelet);
            // As many as a tunnel carries; each ends with it.
            tokio::spawn(async move {
                if let Err(error) = exchange::serve(stream, reached, request, &*kubelet).await {
                    tracing::debug!(%error, ?reached, "a stream of the tunnel");
                }
            });
        };
        End::Edge { accept: Box::new(accept), mask: by_chance_bytes }
    }

    async fn dial(&self) -> Result<(TlsStream<TcpStream>, Vec<u8>), String> {
        let server = self.config.server(&self.hub);
        let files = self.config.files(&self.hub);
        let stream =
            dial_stream_port(&files, &self.node, &server).await.map_err(|error| error.to_string())?;
        let address = self.addresses.borrow().first().copied();
        let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        greet(stream, &server.to_string(), &self.node, address).await
    }
}

/// Returns once a cloud of this maker is connected; never, when nobody tells any more.
async fn is(link: &mut watch::Receiver<LinkState>, wanted: Peer) {
    if link.wait_for(|link| link.peer() == Some(wanted)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Becomes a WebSocket. Out: what was read beyond the answer, too.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    server: &str,
    node: &NodeName,
    address: IpAddr,
) -> Result<(S, Vec<u8>), String> {
    let mut key = [0; 16];
    SystemRandom::new().fill(&mut key).map_err(|_| "this machine gives no random numbers".to_owned())?;
    let key = STANDARD.encode(key);
    let asking = async {
        stream.write_all(greeting::request(server, node, address, &key).as_bytes()).await?;
        stream.flush().await
    };
    asking.await.map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    loop {
        if let Some(end) = greeting::end(&answer) {
            let rest = answer.split_off(end);
            greeting::judge(&answer, &key)?;
            return Ok((stream, rest));
        }
        if answer.len() > greeting::MAX_ANSWER {
            return Err("its answer has no end".to_owned());
        }
        match stream.read_buf(&mut answer).await {
            Ok(1..) => {}
            Ok(0) => return Err("it closed the connection instead of answering".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Uniform in 0..1, so that many edges of one cloud do not dial in step.
fn by_chance() -> f64 {
    f64::from(u32::from_le_bytes(by_chance_bytes())) / f64::from(u32::MAX)
}

/// What hides the shape of frames from proxies; TLS hides the rest, so that bytes which are none by chance do no harm.
fn by_chance_bytes() -> [u8; 4] {
    let mut bytes = [0; 4];
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
