//! Tunnels of KubeEdge's edgecores: the port where they ask for one, and the way through it.
//!
//! Our own edgecores need none, their streams go over the link. One node has one tunnel, its newest. The API server sees no
//! difference, but that no ports are forwarded: KubeEdge has no message for that. Started by `main.rs`; `CloudStream` dials.

mod exchange;
mod greeting;
mod request;
mod told;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use ke_socket::tunnel::{End, Limits, Session, Tunnel};
use ke_wire::NodeName;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncWriteExt, duplex};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::told::Told;
use super::connection::{Refusal, read_head};
use super::crowd::{Crowd, Guest};
use super::dial::{ByteStream, Dial, DialError};
use crate::config::CloudStreamConfig;
use crate::gate::{
    self, Authority, ClientCertificate, ClientCertificates, Holder, ListenError, Pins, Port, handshake,
};
use crate::tunnels::{NoTunnel, Tunnels};

/// Handshakes at once: a fleet may come back together, every two seconds until it is let in.
const PARALLEL_HANDSHAKES: usize = 64;
/// From the end of TLS to the end of the request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Bytes between a connection of the API server and its stream.
const BUFFER: usize = 16 << 10;
/// A Go edge pings every 5 s. What it sends cannot be held back; 8 MiB is a second of a fast link, or a log that somebody
/// stopped looking at.
const LIMITS: Limits = Limits {
    first: Duration::from_secs(30),
    read: Duration::from_secs(30),
    write: Duration::from_secs(30),
    ping: None,
    held_of_stream: 8 << 20,
    held: 32 << 20,
};

/// Cloneable handle to the tunnels of this process.
#[derive(Clone)]
pub struct GoTunnels(Arc<Inner>);

struct Inner {
    nodes: Mutex<HashMap<NodeName, Entry>>,
    n_attached: AtomicU64,
    /// Numbers of streams, of all tunnels, as a Go cloud counts them.
    ids: Arc<AtomicU64>,
    told: Mutex<Told>,
    n_tunnels: Gauge,
    cut: Counter,
}

struct Entry {
    number: u64,
    tunnel: Tunnel,
    /// Dropped with the entry, by which an older tunnel's task ends.
    _stays: oneshot::Sender<()>,
}

impl GoTunnels {
    /// None yet.
    #[must_use]
    pub fn new(metrics: &mut Metrics) -> Self {
        Self(Arc::new(Inner {
            nodes: Mutex::default(),
            n_attached: AtomicU64::new(0),
            ids: Arc::new(AtomicU64::new(1)),
            told: Mutex::default(),
            n_tunnels: metrics.gauge("cloud_stream_kubeedge_tunnels", "Tunnels of KubeEdge's edgecores now"),
            cut: metrics.counter(
                "cloud_stream_cut_streams",
                "Streams of KubeEdge's tunnels that were ended since their readers were behind",
            ),
        }))
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeName, Entry>> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node's newest tunnel is this one until it ends.
    async fn carry(&self, node: NodeName, stream: TlsStream<TcpStream>, rest: Vec<u8>, from: SocketAddr) {
        let number = self.0.n_attached.fetch_add(1, Ordering::Relaxed);
        let end = End::Cloud { ids: Arc::clone(&self.0.ids) };
        let (tunnel, session) = Session::new(stream, rest, end, LIMITS);
        let (stays, replaced) = oneshot::channel();
        let before = self.nodes().insert(node.clone(), Entry { number, tunnel, _stays: stays });
        drop(before);
        self.0.n_tunnels.inc();
        tracing::info!(%node, %from, "a tunnel of KubeEdge's edgecore stands");
        let why = tokio::select! {
            why = session.run() => why,
            _ = replaced => "a newer one took its place".to_owned(),
        };
        self.0.n_tunnels.dec();
        let mut nodes = self.nodes();
        if nodes.get(&node).is_some_and(|entry| entry.number == number) {
            nodes.remove(&node);
        }
        drop(nodes);
        tracing::info!(%node, why, "a tunnel of KubeEdge's edgecore has ended");
    }

    fn dial(&self, node: &NodeName) -> Option<Box<dyn ByteStream>> {
        let tunnel = self.nodes().get(node)?.tunnel.clone();
        let (ours, theirs) = duplex(BUFFER);
        // Ends with the client's half.
        tokio::spawn(exchange::serve(node.clone(), tunnel, theirs, self.0.cut.clone()));
        Some(Box::new(ours))
    }
}

/// Both ways to a node: over its link, or where its edgecore has no streams there, by KubeEdge's tunnel.
pub struct Ways {
    /// Links.
    pub tunnels: Tunnels,
    /// KubeEdge's tunnels.
    pub go: GoTunnels,
}

#[async_trait]
impl Dial for Ways {
    async fn dial(&self, node: &NodeName) -> Result<Box<dyn ByteStream>, DialError> {
        let why = match self.tunnels.connect(node) {
            Ok(stream) => return Ok(Box::new(stream)),
            Err(why) => why,
        };
        match why {
            NoTunnel::TooMany(_) => Err(DialError(why.to_string())),
            // A tunnel may come to another cloudcore than the link.
            NoTunnel::NoStreams(_) | NoTunnel::NotConnected(_) => {
                self.go.dial(node).ok_or_else(|| DialError(why.to_string()))
            }
        }
    }
}

/// The port for them. `run` it.
pub struct TunnelPort {
    port: Port,
    tunnels: GoTunnels,
    pins: Arc<dyn Pins>,
}

impl TunnelPort {
    /// Takes the port now, so that one in use is found at the start.
    pub fn bind(
        config: &CloudStreamConfig,
        authority: &Authority,
        pins: Arc<dyn Pins>,
        tunnels: GoTunnels,
    ) -> Result<Self, ListenError> {
        let (key, port) = ("modules.cloudStream.tunnelPort", config.tunnel_port.to_u16());
        let port = Port::bind(key, config.address, port, authority, ClientCertificates::Required)?;
        Ok(Self { port, tunnels, pins })
    }

    /// Where they ask.
    pub fn address(&self) -> Option<SocketAddr> {
        self.port.address().ok()
    }

    /// Serves until shutdown.
    pub async fn run(self, stop: Shutdown) -> Result<(), std::convert::Infallible> {
        let crowd = Crowd::new(PARALLEL_HANDSHAKES);
        loop {
            let accepted = tokio::select! {
                accepted = self.port.accept() => accepted,
                () = stop.wait() => return Ok(()),
            };
            let Some((stream, from)) = accepted else { continue };
            let Some(guest) = crowd.enter(from.ip()) else {
                tracing::debug!(%from, "closed: too many of its source wait to be judged");
                continue;
            };
            let (tls, tunnels, pins) = (self.port.tls(), self.tunnels.clone(), Arc::clone(&self.pins));
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = Box::pin(serve(tls, stream, from, guest, tunnels, pins)) => {}
                    () = stop.wait() => {}
                }
            });
        }
    }
}

async fn serve(
    tls: TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
    guest: Guest,
    tunnels: GoTunnels,
    pins: Arc<dyn Pins>,
) {
    let turn = guest.turn().await;
    let greeted = Box::pin(greet(tls, stream, from, &*pins)).await;
    match greeted {
        Ok((stream, node, rest)) => {
            drop(turn);
            tunnels.carry(node, stream, rest, from).await;
        }
        // Probes and scanners; a node whose certificate is not of this authority says so in its own log.
        Err(NotGreeted::Tls(why)) => tracing::debug!(%from, why, "TLS on the port for tunnels"),
        Err(NotGreeted::Refused(who, why)) => {
            if tunnels.told().is_due(&who, Instant::now()) {
                tracing::warn!(%from, who, why, "a tunnel was refused; said of each once a minute at most");
            }
        }
    }
}

/// Why there is no tunnel.
enum NotGreeted {
    /// It did not get as far as to say who it is.
    Tls(String),
    /// Who, by the name of the certificate or else the address, and why.
    Refused(String, String),
}

async fn greet(
    tls: TlsAcceptor,
    stream: TcpStream,
    from: SocketAddr,
    pins: &dyn Pins,
) -> Result<(TlsStream<TcpStream>, NodeName, Vec<u8>), NotGreeted> {
    let mut stream = handshake(&tls, stream).await.map_err(NotGreeted::Tls)?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let Some(certificate) = shown.first().and_then(ClientCertificate::read) else {
        return Err(NotGreeted::Refused(from.ip().to_string(), "the certificate cannot be read".to_owned()));
    };
    let judged = judged(&mut stream, &certificate, from, pins).await;
    match judged {
        Ok((node, rest)) => Ok((stream, node, rest)),
        Err(why) => Err(NotGreeted::Refused(certificate.common_name, why)),
    }
}

/// Which node it is, and what came behind its request; it is answered then.
async fn judged(
    stream: &mut TlsStream<TcpStream>,
    certificate: &ClientCertificate,
    from: SocketAddr,
    pins: &dyn Pins,
) -> Result<(NodeName, Vec<u8>), String> {
    let read = tokio::time::timeout(HEAD_LIMIT, read_head(stream)).await;
    let (head, rest) = match read {
        Ok(Ok(Some(read))) => read,
        Ok(Ok(None)) => return Err("it said nothing".to_owned()),
        Ok(Err(refusal)) => return Err(refuse(stream, refusal).await),
        Err(_) => return Err(format!("its request did not come within {HEAD_LIMIT:?}")),
    };
    let judged = match greeting::judge(&head, certificate) {
        Ok(judged) => is_its_name(&judged.0, certificate, from, pins).await.map(|()| judged),
        Err(refused) => Err(refused),
    };
    let (node, answer) = match judged {
        Ok(judged) => judged,
        Err((status, text)) => return Err(refuse(stream, Refusal::new(status, text)).await),
    };
    let answering = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.flush().await
    };
    match tokio::time::timeout(HEAD_LIMIT, answering).await {
        Ok(Ok(())) => Ok((node, rest)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not take the answer".to_owned()),
    }
}

/// The same key as the link's: a certificate of a machine that had the name before is good for nothing.
async fn is_its_name(
    node: &NodeName,
    certificate: &ClientCertificate,
    from: SocketAddr,
    pins: &dyn Pins,
) -> Result<(), greeting::Refused> {
    let holder: Holder = pins.get(node).await.map_err(|why| (503, why))?;
    gate::judge(node, &holder, &certificate.fingerprint, from.ip()).map(drop).map_err(|why| (403, why))
}

async fn refuse(stream: &mut TlsStream<TcpStream>, refusal: Refusal) -> String {
    let telling = async {
        let _ = stream.write_all(&refusal.bytes()).await;
        let _ = stream.shutdown().await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(2), telling).await;
    refusal.to_string()
}

#[cfg(test)]
mod tests;
