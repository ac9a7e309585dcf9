//! CloudStream: the kubelets of edge nodes, as far as the API server and metrics-server see.
//!
//! They dial what a Node shows: an address of this process and a port of the node's own. Here ends their TLS, here is judged who
//! they are and what they may, and which node it is for; from the head of their request on it is bytes through that node's
//! tunnel. It reads no API object for a request: where pods are is EdgeController's graph. Started by `main.rs`.

mod client;
mod connection;
mod crowd;
mod dial;
mod go_tunnels;
mod head;
mod places;
mod pump;
mod review;
mod route;
mod serving;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::server::NoServerSessionStorage;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub use dial::{ByteStream, Dial, DialError};
pub use go_tunnels::{GoTunnels, TunnelPort, Ways};

use self::client::{AnyCertificate, TrustedClients};
use self::connection::{Counters, Desk, Limits, Pods};
use self::crowd::Crowd;
use self::places::Places;
use self::review::{ApiReviews, Judge, Reviews};
use self::serving::Serving;
use crate::config::{CloudStreamConfig, KubeletAddress};
use crate::edge_controller::{EdgeControllerHandle, Graph};
use crate::gate::{Authority, ListenError, Port};
use crate::kubelet_endpoints::KubeletEndpoints;

/// Connections that are judged at once, on all ports; a stranger holds his turn for 20 s at most.
const MAX_UNJUDGED: usize = 512;

/// Handles that CloudStream needs of the rest of the process.
pub struct Parts {
    /// What the API server is asked by.
    pub client: kube::Client,
    /// Where pods are.
    pub graph: Graph,
    /// When that is known.
    pub edge_controller: EdgeControllerHandle,
    /// Ways to nodes.
    pub dial: Arc<dyn Dial>,
    /// Signs a certificate where the cluster does not.
    pub authority: Arc<Authority>,
}

/// The module. `run` it.
pub struct CloudStream {
    config: CloudStreamConfig,
    endpoints: KubeletEndpoints,
    shared: Port,
    serving: Arc<Serving>,
    addresses: Vec<IpAddr>,
    counters: Counters,
}

impl CloudStream {
    /// Takes the shared port now, so that one in use is found at the start. `found`: where this process is reached, should the
    /// configuration not say. The handle is EdgeController's.
    pub fn bind(
        config: CloudStreamConfig,
        found: Option<IpAddr>,
        metrics: &mut Metrics,
    ) -> Result<(KubeletEndpoints, Self), ListenError> {
        let serving = Arc::<Serving>::default();
        let tls = tls(&serving)?;
        let port = config.stream_port.to_u16();
        let shared = Port::with_tls("modules.cloudStream.streamPort", config.address, port, tls.clone())?;
        let port = shared.address().map_or(port, |address| address.port());
        // Refused while the file was read, if it is wrong.
        let shown = match config.address_shown() {
            Ok(KubeletAddress::Fixed(address)) => Some(address),
            Ok(KubeletAddress::Own) => None,
            Ok(KubeletAddress::Found) | Err(_) => found,
        };
        let mut addresses: Vec<IpAddr> = shown.into_iter().chain(found).collect();
        addresses.dedup();
        let endpoints =
            KubeletEndpoints::new(shown, config.ports().unwrap_or_default(), port, config.address, tls);
        let counters = Counters {
            served: metrics
                .counter("cloud_stream_requests", "Requests of the API server that went to a node"),
            refused: metrics.counter("cloud_stream_refused_requests", "Requests that went to no node"),
            open: metrics.gauge("cloud_stream_open_streams", "Streams between clients and nodes now"),
        };
        Ok((endpoints.clone(), Self { config, endpoints, shared, serving, addresses, counters }))
    }

    /// Where nodes without a port of their own are served.
    pub fn shared_address(&self) -> Option<SocketAddr> {
        self.shared.address().ok()
    }

    /// Serves until shutdown.
    pub async fn run(self, parts: Parts, stop: Shutdown) -> Result<(), CloudStreamError> {
        let Self { config, endpoints, shared, serving, addresses, counters } = self;
        let Parts { client, graph, edge_controller, dial, authority } = parts;
        let instead = serving
            .show_own(&config, &authority, addresses.first().copied())
            .map_err(|why| CloudStreamError::Certificate(why.to_string()))?;
        // Who dials now waits a moment: a pod that is not known yet would be told to be nobody's.
        tokio::select! {
            () = stop.wait() => return Ok(()),
            () = edge_controller.wait_complete() => {}
        }
        let trusted = TrustedClients::default();
        let desk = Arc::new(Desk {
            trusted: trusted.clone(),
            judge: Judge::new(ApiReviews { client: client.clone() }),
            pods: Arc::new(graph) as Arc<dyn Pods>,
            endpoints: endpoints.clone(),
            dial,
            places: Places::new(counters.open.clone()),
            counters,
            limits: Limits::default(),
        });
        let signing = async {
            if addresses.is_empty() {
                std::future::pending::<()>().await;
            }
            serving.keep_signed(client.clone(), addresses, instead, stop.clone()).await;
        };
        tokio::select! {
            () = accept_all(desk, endpoints, shared) => {}
            () = trusted.follow(client.clone(), stop.clone()) => {}
            () = signing => {}
            () = stop.wait() => {}
        }
        // Streams end with the process; their clients ask again elsewhere.
        if stop.is_triggered() { Ok(()) } else { Err(CloudStreamError::Ended) }
    }
}

/// The module cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum CloudStreamError {
    /// Nothing can be shown to the API server.
    #[error("no certificate for modules.cloudStream: {0}")]
    Certificate(String),
    /// One of its tasks ended by itself.
    #[error("a task of cloud_stream ended by itself")]
    Ended,
}

/// Accepts on the shared port and on each that is opened. Does not end.
async fn accept_all<R: Reviews>(desk: Arc<Desk<R>>, endpoints: KubeletEndpoints, shared: Port) {
    let crowd = Crowd::new(MAX_UNJUDGED);
    let mut ports = JoinSet::new();
    let number = shared.address().map_or(0, |address| address.port());
    ports.spawn(accept(Arc::clone(&desk), shared, number, crowd.clone()));
    loop {
        for (number, port) in endpoints.opened().await {
            ports.spawn(accept(Arc::clone(&desk), port, number, crowd.clone()));
        }
    }
}

async fn accept<R: Reviews>(desk: Arc<Desk<R>>, port: Port, number: u16, crowd: Crowd) {
    loop {
        let Some((stream, from)) = port.accept().await else { continue };
        let Some(guest) = crowd.enter(from.ip()) else {
            tracing::debug!(%from, port = number, "closed: too many of its source wait to be judged");
            continue;
        };
        let (desk, tls) = (Arc::clone(&desk), port.tls());
        tokio::spawn(async move {
            let turn = guest.turn().await;
            desk.serve(stream, tls, from, number, turn).await;
        });
    }
}

fn tls(serving: &Arc<Serving>) -> Result<TlsAcceptor, ListenError> {
    let algorithms = default_provider().signature_verification_algorithms;
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(Arc::new(AnyCertificate(algorithms)))
        .with_cert_resolver(Arc::clone(serving) as _);
    // With h2 one connection would carry many requests, of which only one is judged.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Each client shows its certificate each time.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests;
