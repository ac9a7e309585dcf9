//! Somebody in the middle of the link, in the possession of both sides' keys: reads every message and passes it on.
//!
//! It answers the edge with cloudcore's certificate and cloudcore with the edge's, and writes down what was sent and what
//! was acknowledged: a push before the edge can have it, an acknowledgement as soon as it is here. It changes and delays
//! nothing, but pings: it answers them itself too, so that none proves that cloudcore has read what came before. Stands behind
//! a `Wire`; called by stories.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use ke_wire::kubeedge::{FRAME_LIMIT, decode_down, decode_up};
use ke_wire::{Down, Up};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivateSec1KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::acknowledged::Acknowledged;
use crate::cluster::Cluster;

pub struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
    // Dropped with the tap: its connections end.
    _runtime: tokio::runtime::Runtime,
}

/// A value that a device's report carried up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// `<namespace>/<name>`.
    pub device: String,
    pub property: String,
    pub value: String,
    /// The edge's clock, Unix milliseconds.
    pub at_ms: i64,
}

struct Shared {
    cloud: SocketAddr,
    acceptor: TlsAcceptor,
    ca: CertificateDer<'static>,
    /// The edge's certificate and key, which are there once it has joined.
    edge: (PathBuf, PathBuf),
    seen: Mutex<Acknowledged>,
    values: Mutex<Vec<Reported>>,
    /// Bytes of messages with values, by device.
    reported_bytes: Mutex<BTreeMap<String, u64>>,
    n_open: AtomicUsize,
}

impl Tap {
    /// Before `cloud`, for the edge whose certificate files these are. cloudcore has written its Secrets already.
    pub fn new(cluster: &Cluster, cloud: SocketAddr, certificate: &Path, key: &Path) -> Result<Self> {
        // A second install fails and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = CertificateDer::from(secret(cluster, "casecret", "cadata")?);
        let server = CertificateDer::from(secret(cluster, "cloudcoresecret", "cloudcoredata")?);
        let server_key = PrivateSec1KeyDer::from(secret(cluster, "cloudcoresecret", "cloudcorekeydata")?);
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![server], PrivateKeyDer::Sec1(server_key))
            .context("answer with cloudcore's certificate")?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).context("listen for the tap")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            cloud,
            acceptor: TlsAcceptor::from(Arc::new(config)),
            ca,
            edge: (certificate.into(), key.into()),
            seen: Mutex::default(),
            values: Mutex::default(),
            reported_bytes: Mutex::default(),
            n_open: AtomicUsize::new(0),
        });
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _runtime: runtime })
    }

    /// Where the edge, or the wire before it, is to dial.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What was seen until now.
    pub fn seen(&self) -> Acknowledged {
        self.with(Clone::clone)
    }

    /// Every reported value until now, in the order in which the edge sent them.
    pub fn values(&self) -> Vec<Reported> {
        self.shared.values.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes of messages that carried values of a device (`<namespace>/<name>`) up until now.
    pub fn reported_bytes(&self, device: &str) -> u64 {
        let bytes = self.shared.reported_bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.get(device).copied().unwrap_or_default()
    }

    pub fn n_acks(&self) -> usize {
        self.with(Acknowledged::n_acks)
    }

    fn with<T>(&self, look: impl FnOnce(&Acknowledged) -> T) -> T {
        look(&self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until `n_acks` of all times have been seen. Looks often: a story kills at that moment.
    pub fn wait_acks(&self, n_acks: usize, deadline: Duration) -> Result<()> {
        let start = Instant::now();
        while self.n_acks() < n_acks {
            if start.elapsed() > deadline {
                bail!(
                    "waited {} s for acknowledgement {n_acks}; {} were seen",
                    deadline.as_secs(),
                    self.n_acks()
                );
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits until the connections of an edge that was killed have been read to their end.
    pub fn wait_closed(&self, deadline: Duration) -> Result<()> {
        crate::wait::until(deadline, "the tap's connections to end", || {
            Ok(self.shared.n_open.load(Ordering::SeqCst) == 0)
        })
    }
}

fn secret(cluster: &Cluster, name: &str, key: &str) -> Result<Vec<u8>> {
    let path = format!("--output=jsonpath={{.data.{key}}}");
    let text = cluster.kubectl_ok(&["get", "secret", name, "--namespace=kubeedge", &path])?;
    // The error must not hold what it failed on.
    STANDARD.decode(text.trim()).ok().with_context(|| format!("{key} of secret {name} is no base64"))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((socket, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // Counted here: who asks after the accept must find it.
        shared.n_open.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            if let Err(error) = shared.carry(socket).await {
                // A kill in the middle of a handshake is what stories do; a tap that never works shows in the wait.
                eprintln!("tap: {error:#}");
            }
            shared.n_open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

impl Shared {
    async fn carry(&self, socket: TcpStream) -> Result<()> {
        socket.set_nodelay(true)?;
        let tls = self.acceptor.accept(socket).await.context("TLS with the edge")?;
        let mut asked = None;
        #[expect(clippy::result_large_err, reason = "the library's type")]
        let answer = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            asked = Some(request.clone());
            Ok(response)
        };
        let edge = tokio_tungstenite::accept_hdr_async(tls, answer).await.context("WebSocket of the edge")?;
        let mut request = asked.context("no request")?;
        // Another way of writing messages than KubeEdge's is not read here; without the offer nobody takes it.
        request.headers_mut().remove("Isthmus-Dialect");

        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone())?;
        let certificate =
            CertificateDer::from_pem_file(&self.edge.0).context("read the edge's certificate")?;
        let key = PrivateKeyDer::from_pem_file(&self.edge.1).context("read the edge's key")?;
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        let socket = TcpStream::connect(self.cloud).await.context("dial cloudcore")?;
        socket.set_nodelay(true)?;
        let name = ServerName::from(self.cloud.ip());
        let tls =
            TlsConnector::from(Arc::new(config)).connect(name, socket).await.context("TLS with cloudcore")?;
        let uri = format!("wss://{}{}", self.cloud, request.uri().path());
        *request.uri_mut() = uri.parse().context("the request's path")?;
        let (cloud, _) =
            tokio_tungstenite::client_async(request, tls).await.context("WebSocket of cloudcore")?;

        let (mut to_edge, mut from_edge) = edge.split();
        let (mut to_cloud, mut from_cloud) = cloud.split();
        let up = async {
            while let Some(Ok(message)) = from_edge.next().await {
                self.on_up(&message);
                // An edge that is gone may have left more to read after cloudcore has gone too.
                to_cloud.send(message).await.ok();
            }
            to_cloud.close().await.ok();
        };
        let down = async {
            while let Some(Ok(message)) = from_cloud.next().await {
                self.on_down(&message);
                if to_edge.send(message).await.is_err() {
                    // The edge's end is found by the reader above.
                    return std::future::pending().await;
                }
            }
            to_edge.close().await.ok();
        };
        tokio::select! { () = up => {}, () = down => {} }
        Ok(())
    }

    fn on_down(&self, message: &Message) {
        let Some(bytes) = bytes_of(message) else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match decode_down(bytes, FRAME_LIMIT) {
            Ok(Down::Put(put)) => seen.put(put.id, put.key, put.version.number()),
            Ok(Down::Delete(delete)) => {
                seen.delete(delete.id, delete.key, delete.uid.map(|uid| uid.as_str().to_owned()));
            }
            _ => {}
        }
    }

    fn on_up(&self, message: &Message) {
        let Some(bytes) = bytes_of(message) else { return };
        match decode_up(bytes, FRAME_LIMIT) {
            Ok(Up::Ack { to, .. }) => {
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).acknowledge(&to);
            }
            Ok(Up::TwinReport { device, report, .. }) => {
                let mut by_device = self.reported_bytes.lock().unwrap_or_else(PoisonError::into_inner);
                let sum = by_device.entry(device.to_string()).or_default();
                *sum = sum.saturating_add(bytes.len() as u64);
                drop(by_device);
                let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
                for (property, twin) in report.twin {
                    let Some(actual) = twin.and_then(|twin| twin.actual) else { continue };
                    let device = device.to_string();
                    let at_ms = actual.metadata.map_or(0, |time| time.timestamp);
                    values.push(Reported {
                        device,
                        property,
                        value: actual.value.unwrap_or_default(),
                        at_ms,
                    });
                }
            }
            _ => {}
        }
    }
}

fn bytes_of(message: &Message) -> Option<&[u8]> {
    match message {
        Message::Text(text) => Some(text.as_bytes()),
        Message::Binary(bytes) => Some(bytes),
        _ => None,
    }
}
