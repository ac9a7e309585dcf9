//! Join token and certificate request in, node certificate out: the HTTPS port.
//!
//! `GET /ca.crt`, `GET /edge.crt` (with a body), `GET /node/{name}`; paths, headers and status codes are KubeEdge's, which
//! Go edges and keadm read. It never sees a private key. Bodies are bounded; every refusal is one sentence.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ke_run::shutdown::Shutdown;
use ke_wire::{NodeName, join_tokens};
use tokio::sync::Semaphore;

use super::admit;
use crate::gate::{
    self, Authority, ClientCertificate, Holder, Pin, Pins, Port, Secrets, Shown, Told, unix_now,
};

/// A request is a few hundred bytes.
const MAX_BODY: usize = 1 << 20;
/// Joins handled at once; more wait in the socket's queue.
const MAX_CONNECTIONS: usize = 256;
/// One connection may live this long: a join is three requests.
const CONNECTION_LIMIT: Duration = Duration::from_secs(60);

/// Whether a Node exists; so that tests need no cluster.
#[async_trait]
pub trait NodeLookup: Send + Sync + 'static {
    /// Whether it is there.
    async fn exists(&self, node: &NodeName) -> Result<bool, String>;
}

/// What enrolment needs.
pub struct Enrolment {
    pub(super) authority: Arc<Authority>,
    pub(super) secrets: Arc<dyn Secrets>,
    pub(super) pins: Arc<dyn Pins>,
    pub(super) nodes: Arc<dyn NodeLookup>,
    pub(super) told: Arc<Told>,
}

impl Enrolment {
    /// Serves the port until shutdown.
    pub(super) async fn run(self: Arc<Self>, port: Port, shutdown: Shutdown) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = port.accept() => accepted,
                () = shutdown.wait() => return,
            };
            let Some((stream, from)) = accepted else { continue };
            let (enrolment, tls) = (Arc::clone(&self), port.tls());
            tokio::spawn(async move {
                let _permit = permit;
                if tokio::time::timeout(CONNECTION_LIMIT, enrolment.serve(stream, tls, from)).await.is_err() {
                    tracing::debug!(%from, "an enrolment connection took too long");
                }
            });
        }
    }

    async fn serve(
        self: Arc<Self>,
        stream: tokio::net::TcpStream,
        tls: tokio_rustls::TlsAcceptor,
        from: SocketAddr,
    ) {
        let stream = match gate::handshake(&tls, stream).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%from, error, "TLS on the enrolment port");
                return;
            }
        };
        let client = gate::client_certificate(&stream);
        let answer = service_fn(|request| {
            let (enrolment, client) = (Arc::clone(&self), client.clone());
            async move { Ok::<_, std::convert::Infallible>(enrolment.answer(request, client, from.ip()).await) }
        });
        let _ =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        client: Option<ClientCertificate>,
        from: IpAddr,
    ) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here");
        }
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/ca.crt" => bytes(self.authority.ca()),
            "/edge.crt" => self.certificate(request, client, from).await,
            _ => match path.strip_prefix("/node/") {
                Some(name) => self.node(name).await,
                None => text(StatusCode::NOT_FOUND, "there are /ca.crt, /edge.crt and /node/{name} here"),
            },
        }
    }

    async fn node(&self, name: &str) -> Response<Full<Bytes>> {
        let Ok(node) = name.parse::<NodeName>() else {
            return text(StatusCode::BAD_REQUEST, "nodename parameter is required");
        };
        match self.nodes.exists(&node).await {
            Ok(true) => text(StatusCode::OK, "Node founded"),
            Ok(false) => text(StatusCode::NOT_FOUND, "Node not found"),
            Err(error) => {
                tracing::warn!(%node, error, "look for a Node");
                text(StatusCode::INTERNAL_SERVER_ERROR, "Failed to query node information")
            }
        }
    }

    async fn certificate(
        &self,
        request: Request<Incoming>,
        client: Option<ClientCertificate>,
        from: IpAddr,
    ) -> Response<Full<Bytes>> {
        let header = |name: &str| {
            request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        let Ok(node) = header("Nodename").parse::<NodeName>() else {
            return text(
                StatusCode::BAD_REQUEST,
                "the header Nodename must hold a node name: lower case letters, digits, '-' and '.'",
            );
        };
        // A certificate wins over a token, as in KubeEdge: it proves more.
        let renewed = match &client {
            Some(certificate) => match admit::may_connect(certificate, &node) {
                Ok(()) => Some(certificate.fingerprint.clone()),
                Err(why) => {
                    let why = format!("failed to verify the certificate for edgenode: {node}, err: {why}");
                    return self.refuse(&node, from, StatusCode::UNAUTHORIZED, why);
                }
            },
            None => {
                let authorization = header("Authorization");
                let shown = match check_authorization(&self.authority, &authorization) {
                    Ok(shown) => shown,
                    Err(error) => return self.refuse(&node, from, StatusCode::UNAUTHORIZED, error),
                };
                match self.revocation(&shown).await {
                    Ok(None) => {}
                    Ok(Some(why)) => {
                        let why = format!("token validation failure, err: {why}");
                        return self.refuse(&node, from, StatusCode::UNAUTHORIZED, why);
                    }
                    Err(error) => {
                        tracing::warn!(%node, error, "read the list of join tokens");
                        return text(
                            StatusCode::SERVICE_UNAVAILABLE,
                            "whether this token was revoked cannot be read now; try again",
                        );
                    }
                }
                None
            }
        };
        let csr = match Limited::new(request.into_body(), MAX_BODY).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => {
                return self.refuse(
                    &node,
                    from,
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "the request body is larger than 1 MiB".into(),
                );
            }
        };
        let signed = match self.authority.sign(&node, &csr) {
            Ok(signed) => signed,
            Err(error) => {
                return self.refuse(&node, from, StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
            }
        };
        let holder = match self.pins.get(&node).await {
            Ok(holder) => holder,
            Err(error) => {
                tracing::warn!(%node, error, "read the node's key");
                return text(StatusCode::INTERNAL_SERVER_ERROR, "the Node cannot be read now; try again");
            }
        };
        let verdict = match (renewed, holder) {
            // Both keys count until the machine shows the new one: this answer may be lost on its way.
            (Some(old), Holder::Pinned(pin)) if pin.keys.contains(&old) => {
                let both = Pin { address: from.to_string(), keys: vec![old, signed.fingerprint.clone()] };
                self.pins.set(&node, &both).await
            }
            (_, holder) => match gate::judge(&node, &holder, &signed.fingerprint, from) {
                // The name is taken when the machine connects with its certificate, not by asking for one.
                Ok(_) => Ok(()),
                Err(why) => {
                    if self.told.is_due(&node, Instant::now()) {
                        self.pins.tell_refused(&node, &why).await;
                    }
                    return self.refuse(&node, from, StatusCode::CONFLICT, why);
                }
            },
        };
        match verdict {
            Ok(()) => {
                tracing::info!(%node, %from, "signed a node certificate");
                bytes(&signed.certificate)
            }
            Err(error) => {
                tracing::warn!(%node, error, "note the node's key");
                text(StatusCode::INTERNAL_SERVER_ERROR, "the Node cannot be written now; try again")
            }
        }
    }

    /// Why this token was taken back, asked anew each time: machines enrol rarely, and a revoked token must open nothing
    /// from that moment on.
    async fn revocation(&self, shown: &Shown) -> Result<Option<&'static str>, String> {
        let Some(id) = &shown.id else { return Ok(None) };
        let list = self.secrets.get(join_tokens::SECRET).await?;
        Ok(join_tokens::refusal(list.as_ref(), id, shown.made_by.as_deref()))
    }

    fn refuse(
        &self,
        node: &NodeName,
        from: IpAddr,
        status: StatusCode,
        why: String,
    ) -> Response<Full<Bytes>> {
        tracing::warn!(%node, %from, why, "refused to sign a node certificate");
        text(status, &why)
    }
}

fn check_authorization(authority: &Authority, header: &str) -> Result<Shown, String> {
    if header.is_empty() {
        return Err("token validation failure, token is empty".into());
    }
    let Some((_, jwt)) = header.split_once(' ') else {
        return Err("token validation failure, token cannot be split".into());
    };
    authority.check_token(jwt, unix_now()).map_err(|error| error.to_string())
}

fn bytes(body: &[u8]) -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::copy_from_slice(body)))
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = bytes(body.as_bytes());
    *response.status_mut() = status;
    response
}
