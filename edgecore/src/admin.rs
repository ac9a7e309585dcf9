//! Health and metrics over HTTP, on loopback unless configured otherwise.
//!
//! `/healthz` says that the process runs, `/readyz` that the runtime answers and the store opened (the cloud may be away:
//! that is no fault of this node), `/node` that the cloud calls this Node Ready, `/metrics` what was counted. It changes
//! nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ke_run::accept::{self, Limits};
use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::edge_hub::{Cloud, LinkState};
use crate::edged::Runtime;
use crate::node::Standing;

/// A scraper and a prober; more at once wait.
const MAX_CONNECTIONS: usize = 8;
/// One connection may live this long.
const CONNECTION_LIMIT: Duration = Duration::from_secs(30);

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken or not this machine's.
    #[error("admin.bindAddress: listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
}

/// The module.
pub struct Admin {
    listener: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Metrics,
    connected: Gauge,
    tasks: Gauge,
    cloud: Cloud,
    runtime: Arc<dyn Runtime>,
    standing: watch::Receiver<Standing>,
}

impl Admin {
    /// Takes the address now, so that a port in use is found before anything else starts.
    pub async fn bind(
        address: SocketAddr,
        mut metrics: Metrics,
        cloud: Cloud,
        runtime: Arc<dyn Runtime>,
        standing: watch::Receiver<Standing>,
    ) -> Result<Self, AdminError> {
        let listener =
            TcpListener::bind(address).await.map_err(|error| AdminError::Listen(address, error))?;
        let connected = metrics.gauge("edgecore_cloud_connected", "1 while the link to the cloud stands");
        let tasks = metrics.gauge("edgecore_tasks", "Tasks of this process that have not ended");
        Ok(Self {
            listener,
            shared: Arc::new(Shared { metrics, connected, tasks, cloud, runtime, standing }),
        })
    }

    /// What `/metrics` shows, for who shows it elsewhere too. `None`: it cannot be written.
    pub fn numbers(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let shared = Arc::clone(&self.shared);
        move || shared.numbers()
    }

    /// Serves until shutdown.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), AdminError> {
        let limits =
            Limits { name: "the admin port", n_connections: MAX_CONNECTIONS, time: Some(CONNECTION_LIMIT) };
        let served = |stream| {
            let shared = Arc::clone(&self.shared);
            async move {
                let answer = service_fn(|request| {
                    let shared = Arc::clone(&shared);
                    async move { Ok::<_, std::convert::Infallible>(shared.answer(&request).await) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
                // Whoever breaks off hurts only himself.
                let _ = connection.await;
            }
        };
        accept::serve(&self.listener, limits, &shutdown, served).await;
        Ok(())
    }
}

impl Shared {
    fn numbers(&self) -> Option<String> {
        self.connected.set(i64::from(*self.cloud.state().borrow() != LinkState::Away));
        let n_tasks = Handle::current().metrics().num_alive_tasks();
        self.tasks.set(i64::try_from(n_tasks).unwrap_or(i64::MAX));
        self.metrics.encode().ok()
    }

    async fn answer(&self, request: &Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/healthz" | "/livez" => text(StatusCode::OK, "ok"),
            "/readyz" => match self.runtime.version().await {
                Ok(_) => text(StatusCode::OK, "ok"),
                Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &format!("container runtime: {error}")),
            },
            "/node" => {
                let away = *self.cloud.state().borrow() == LinkState::Away;
                match &*self.standing.borrow() {
                    _ if away => text(StatusCode::SERVICE_UNAVAILABLE, "the cloud is away"),
                    Standing::Unknown => {
                        text(StatusCode::SERVICE_UNAVAILABLE, "the cloud was told nothing yet")
                    }
                    Standing::Told { unready: Some(why) } => text(StatusCode::SERVICE_UNAVAILABLE, why),
                    Standing::Told { unready: None } => text(StatusCode::OK, "Ready"),
                }
            }
            "/metrics" => match self.numbers() {
                Some(body) => {
                    let mut response = text(StatusCode::OK, &body);
                    let kind = hyper::header::HeaderValue::from_static(Metrics::CONTENT_TYPE);
                    response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
                    response
                }
                None => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"),
            },
            _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz, /node and /metrics here"),
        }
    }
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body.as_bytes())));
    *response.status_mut() = status;
    response
}
