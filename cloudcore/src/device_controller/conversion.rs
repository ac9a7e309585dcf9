//! The conversion webhook: the API server asks here for devices and models in their other version.
//!
//! HTTPS, one path. The certificate is signed by cloudcore's CA at each start and the definitions are told where it is
//! served and by which CA. The conversion itself is `ke_api::conversion_review`; nothing is read, kept or remembered, so that
//! whoever reaches the port learns nothing, and its work is bounded. Objects that are asked for as they are stored never
//! come here: cloudcore stopped, v1beta1 goes on. Started by `main.rs`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use ke_api::conversion_review;
use ke_api::device_crds::WebhookPlace;
use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use prometheus_client::metrics::counter::Counter;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::definitions::{self, Webhook};
use crate::cluster;
use crate::config::ConversionConfig;
use crate::gate::{Authority, AuthorityError, ListenError, Port, ServedAs, handshake};

const PATH: &str = "/convert";
const PORT_KEY: &str = "modules.deviceController.conversion.port";
/// A list is asked for in one piece: some ten thousand devices.
const MAX_BODY: usize = 64 << 20;
/// Reviews that are held in memory at once; others wait.
const MAX_REVIEWS: usize = 4;
/// Each API server keeps a few.
const MAX_CONNECTIONS: usize = 64;
/// A connection on which nothing is asked for so long is closed.
const IDLE_LIMIT: Duration = Duration::from_secs(90);
/// The API server gives up after 30 s.
const BODY_LIMIT: Duration = Duration::from_secs(30);

/// Why there is no webhook.
#[derive(Debug, thiserror::Error)]
pub enum ConversionError {
    /// The port.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate.
    #[error("the certificate of the conversion webhook: {0}")]
    Certificate(#[from] AuthorityError),
    /// Nobody knows where it is reached.
    #[error(
        "it is not known under which address the API server reaches this process; set \
         modules.deviceController.conversion.advertise or .service"
    )]
    Nowhere,
}

/// The module. `run` it.
pub struct ConversionWebhook {
    client: kube::Client,
    server: Arc<Server>,
    port: Port,
    webhook: Webhook,
}

struct Server {
    reviews: Semaphore,
    asked: Counter,
    failed: Counter,
}

/// How the API server reaches this process.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reached {
    Service { namespace: String, name: String, port: u16 },
    Host { host: ServedAs, port: Option<u16> },
}

impl ConversionWebhook {
    /// Takes the port now, so that one in use is found at the start. `own_address` faces the API server.
    pub fn bind(
        config: &ConversionConfig,
        authority: &Authority,
        own_address: Option<IpAddr>,
        client: kube::Client,
        metrics: &mut Metrics,
    ) -> Result<Self, ConversionError> {
        let reached = Reached::new(config, own_address).ok_or(ConversionError::Nowhere)?;
        let (certificate, key) = authority.serve_as(&reached.name())?;
        let tls = ServerConfig::builder().with_no_client_auth();
        let tls = tls.with_single_cert(vec![certificate], key).map_err(ListenError::from)?;
        let tls = TlsAcceptor::from(Arc::new(tls));
        let port = Port::with_tls(PORT_KEY, config.address, config.port.to_u16(), tls)?;
        let bound = port.address().map_or(config.port.to_u16(), |address| address.port());
        let webhook = Webhook { place: reached.place(bound), ca: cluster::pem(&[authority.ca().to_vec()]) };
        let server = Arc::new(Server {
            reviews: Semaphore::new(MAX_REVIEWS),
            asked: metrics
                .counter("conversion_reviews", "Conversions of devices that the API server asked for"),
            failed: metrics.counter("conversion_failed_reviews", "Conversions that failed"),
        });
        Ok(Self { client, server, port, webhook })
    }

    /// Serves until shutdown, and tells the definitions where.
    pub async fn run(self, stop: Shutdown) -> Result<(), ConversionError> {
        let Self { client, server, port, webhook } = self;
        let serving = async {
            let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
            loop {
                let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
                let Some((stream, from)) = port.accept().await else { continue };
                let (server, tls) = (Arc::clone(&server), port.tls());
                tokio::spawn(async move {
                    let _permit = permit;
                    server.serve(stream, tls, from).await;
                });
            }
        };
        let telling = async {
            definitions::bring_up_to_date(&client, Some(&webhook)).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = stop.wait() => {}
            () = serving => {}
            () = telling => {}
        }
        Ok(())
    }
}

/// Columns for `kubectl get`, where the webhook is served by somebody else or by nobody.
pub async fn bring_definitions_up_to_date(
    client: kube::Client,
    stop: Shutdown,
) -> Result<(), ConversionError> {
    tokio::select! {
        () = stop.wait() => return Ok(()),
        () = definitions::bring_up_to_date(&client, None) => {}
    }
    stop.wait().await;
    Ok(())
}

impl Server {
    async fn serve(self: Arc<Self>, stream: TcpStream, tls: TlsAcceptor, from: SocketAddr) {
        let stream = match handshake(&tls, stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%from, error, "TLS on the port of the conversion webhook");
                return;
            }
        };
        let answer = service_fn(|request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE_LIMIT);
        let _ = http.serve_connection(TokioIo::new(stream), answer).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH || request.method() != Method::POST {
            return text(StatusCode::NOT_FOUND, "there is POST /convert here");
        }
        let Ok(_turn) = self.reviews.acquire().await else {
            return text(StatusCode::SERVICE_UNAVAILABLE, "cloudcore stops");
        };
        let body = Limited::new(request.into_body(), MAX_BODY).collect();
        let body = match tokio::time::timeout(BODY_LIMIT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "at most 64 MiB"),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        };
        self.asked.inc();
        // A long list is work for a while, and links must not wait for it.
        let answered = tokio::task::spawn_blocking(move || conversion_review::answer(&body)).await;
        match answered {
            Ok(Ok((body, failure))) => {
                if let Some(failure) = failure {
                    self.failed.inc();
                    tracing::warn!("an object of devices.kubeedge.io is not converted: {failure}");
                }
                let mut response = Response::new(Full::new(body.into()));
                let json = header::HeaderValue::from_static("application/json");
                response.headers_mut().insert(header::CONTENT_TYPE, json);
                response
            }
            Ok(Err(cause)) => {
                self.failed.inc();
                text(StatusCode::BAD_REQUEST, &cause.to_string())
            }
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the conversion broke off"),
        }
    }
}

impl Reached {
    /// `None`: nothing is configured, and nothing known.
    fn new(config: &ConversionConfig, own_address: Option<IpAddr>) -> Option<Self> {
        if let Some((namespace, name)) = config.service.trim().split_once('/') {
            let (name, port) = split_port(name);
            return Some(Self::Service {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                port: port.unwrap_or(443),
            });
        }
        let advertise = config.advertise.trim();
        let (host, port) = if advertise.is_empty() { (None, None) } else { host_and_port(advertise) };
        Some(Self::Host { host: host.or(own_address.map(ServedAs::Address))?, port })
    }

    /// What the certificate must name.
    fn name(&self) -> ServedAs {
        match self {
            Self::Service { namespace, name, .. } => ServedAs::Name(format!("{name}.{namespace}.svc")),
            Self::Host { host, .. } => host.clone(),
        }
    }

    fn place(&self, bound: u16) -> WebhookPlace {
        match self {
            Self::Service { namespace, name, port } => WebhookPlace::Service {
                namespace: namespace.clone(),
                name: name.clone(),
                port: *port,
                path: PATH.to_owned(),
            },
            Self::Host { host, port } => {
                let host = match host {
                    ServedAs::Name(name) => name.clone(),
                    ServedAs::Address(IpAddr::V6(address)) => format!("[{address}]"),
                    ServedAs::Address(IpAddr::V4(address)) => address.to_string(),
                };
                WebhookPlace::Url(format!("https://{host}:{}{PATH}", port.unwrap_or(bound)))
            }
        }
    }
}

fn split_port(text: &str) -> (&str, Option<u16>) {
    let split = text.rsplit_once(':').and_then(|(name, port)| Some((name, Some(port.parse().ok()?))));
    split.unwrap_or((text, None))
}

fn host_and_port(text: &str) -> (Option<ServedAs>, Option<u16>) {
    let address = |text: &str| text.parse::<IpAddr>().ok().map(ServedAs::Address);
    if let Some(host) = address(text.trim_matches(['[', ']'])) {
        return (Some(host), None);
    }
    let (host, port) = split_port(text);
    let name = || Some(ServedAs::Name(host.to_owned())).filter(|_| !host.is_empty());
    (address(host.trim_matches(['[', ']'])).or_else(name), port)
}

fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_api_server_finds_it() {
        let check = |service: &str, advertise: &str, expected: Option<(&str, &str)>| {
            let config = ConversionConfig {
                service: service.to_owned(),
                advertise: advertise.to_owned(),
                ..ConversionConfig::default()
            };
            let own = expected.is_some().then(|| IpAddr::from([10, 0, 0, 1]));
            let reached = Reached::new(&config, own);
            let told = reached.map(|reached| {
                let place = match reached.place(10_005) {
                    WebhookPlace::Url(url) => url,
                    WebhookPlace::Service { namespace, name, port, path } => {
                        format!("{namespace} {name} {port} {path}")
                    }
                };
                let name = match reached.name() {
                    ServedAs::Name(name) => name,
                    ServedAs::Address(address) => address.to_string(),
                };
                (place, name)
            });
            let told = told.as_ref().map(|(place, name)| (place.as_str(), name.as_str()));
            assert_eq!(told, expected);
        };
        check("", "", Some(("https://10.0.0.1:10005/convert", "10.0.0.1")));
        check("", "", None);
        check("", "cloud.example", Some(("https://cloud.example:10005/convert", "cloud.example")));
        check("", "cloud.example:443", Some(("https://cloud.example:443/convert", "cloud.example")));
        check("", "192.0.2.7:1", Some(("https://192.0.2.7:1/convert", "192.0.2.7")));
        check("", "2001:db8::1", Some(("https://[2001:db8::1]:10005/convert", "2001:db8::1")));
        check("", "[2001:db8::1]:7", Some(("https://[2001:db8::1]:7/convert", "2001:db8::1")));
        check("kubeedge/cloudcore", "x", Some(("kubeedge cloudcore 443 /convert", "cloudcore.kubeedge.svc")));
        check("kubeedge/cc:10005", "", Some(("kubeedge cc 10005 /convert", "cc.kubeedge.svc")));
    }
}
