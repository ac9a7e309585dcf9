//! Health, readiness and metrics over plain HTTP, for Kubernetes' probes and Prometheus.
//!
//! It changes nothing and tells no names of objects. Started by `main.rs`, which binds the port.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ke_run::accept::{self, Limits};
use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::runtime::Handle;

/// Probes and scrapes come one by one; more at once is somebody's mistake and waits.
const CONNECTIONS: usize = 32;
/// A connection carries one request.
const CONNECTION_TIME: Duration = Duration::from_secs(30);

/// What must be so before this process takes work.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, bool>>>);

/// One of those things.
#[derive(Clone, Debug)]
pub struct Gate {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// Waits for one more thing, named for people.
    #[must_use]
    pub fn gate(&self, name: &'static str) -> Gate {
        let gate = Gate { readiness: self.clone(), name };
        gate.set(false);
        gate
    }

    /// What is not so yet.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().filter(|(_, is_open)| !**is_open).map(|(name, _)| *name).collect()
    }
}

impl Gate {
    /// It is so.
    pub fn open(&self) {
        self.set(true);
    }

    /// It is not so any more.
    pub fn close(&self) {
        self.set(false);
    }

    fn set(&self, is_open: bool) {
        self.readiness.0.lock().unwrap_or_else(PoisonError::into_inner).insert(self.name, is_open);
    }
}

/// The module. `run` it.
pub struct Admin {
    listener: TcpListener,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    tasks: Gauge,
}

impl Admin {
    /// Serves on this socket.
    #[must_use]
    pub fn new(listener: TcpListener, readiness: Readiness, mut metrics: Metrics) -> Self {
        let tasks = metrics.gauge("cloudcore_tasks", "Tasks of this process that have not ended");
        Self { listener, readiness, metrics: Arc::new(metrics), tasks }
    }

    /// Runs until asked to stop.
    pub async fn run(self, stop: Shutdown) -> Result<(), Infallible> {
        let limits =
            Limits { name: "the admin port", n_connections: CONNECTIONS, time: Some(CONNECTION_TIME) };
        let served = |socket| {
            let (readiness, metrics) = (self.readiness.clone(), Arc::clone(&self.metrics));
            let n_tasks = Handle::current().metrics().num_alive_tasks();
            self.tasks.set(i64::try_from(n_tasks).unwrap_or(i64::MAX));
            async move {
                let serve = service_fn(|request: Request<hyper::body::Incoming>| {
                    let answer = answer(request.method(), request.uri().path(), &readiness, &metrics);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let mut server = hyper::server::conn::http1::Builder::new();
                let connection = server.keep_alive(false).serve_connection(TokioIo::new(socket), serve);
                // Whoever breaks off hurts only himself.
                let _ = connection.await;
            }
        };
        accept::serve(&self.listener, limits, &stop, served).await;
        Ok(())
    }
}

fn answer(method: &Method, path: &str, readiness: &Readiness, metrics: &Metrics) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    let missing = readiness.missing();
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/healthz" | "/livez") => (StatusCode::OK, TEXT, "ok".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") if missing.is_empty() => {
            (StatusCode::OK, TEXT, "ok".to_owned())
        }
        (&Method::GET | &Method::HEAD, "/readyz") => {
            (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("waiting for: {}", missing.join(", ")))
        }
        (&Method::GET | &Method::HEAD, "/metrics") => match metrics.encode() {
            Ok(text) => (StatusCode::OK, Metrics::CONTENT_TYPE, text),
            Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the numbers cannot be printed".to_owned()),
        },
        (_, "/healthz" | "/livez" | "/readyz" | "/metrics") => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET".to_owned())
        }
        _ => (StatusCode::NOT_FOUND, TEXT, "there are /livez, /readyz and /metrics".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn probes_and_numbers() {
        let readiness = Readiness::default();
        let caches = readiness.gate("caches");
        let mut metrics = Metrics::new();
        metrics.counter("orders", "orders").inc();
        let ask = async |method: Method, path: &str| {
            let response = answer(&method, path, &readiness, &metrics);
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(body.to_vec()).unwrap())
        };
        assert_eq!(ask(Method::GET, "/livez").await, (200, "ok".to_owned()));
        assert_eq!(ask(Method::GET, "/readyz").await, (503, "waiting for: caches".to_owned()));
        caches.open();
        assert_eq!(ask(Method::GET, "/readyz").await, (200, "ok".to_owned()));
        let (status, numbers) = ask(Method::GET, "/metrics").await;
        assert!(status == 200 && numbers.contains("orders_total 1"), "{numbers}");
        assert_eq!(ask(Method::POST, "/metrics").await.0, 405);
        assert_eq!(ask(Method::GET, "/secret").await.0, 404);
    }

    #[tokio::test]
    async fn serves_and_stops() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (trigger, stop) = Shutdown::new();
        let running = tokio::spawn(Admin::new(listener, Readiness::default(), Metrics::new()).run(stop));
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("ok"), "{text}");
        trigger.stop();
        running.await.unwrap().unwrap();
    }
}
