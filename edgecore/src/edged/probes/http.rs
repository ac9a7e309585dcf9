//! One GET to a container, for probes and lifecycle hooks. HTTP/1.1, a connection for each request, no proxy; with
//! `https` nobody looks at the certificate. The caller sets the time limit by dropping the future.
//!
//! Error texts are those of Go's client, which people know from their pods' events.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, LOCATION};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::target::{HttpTarget, authority};
use crate::unchecked_tls;

/// The kubelet reads this much of an answer.
pub(super) const MAX_BODY: usize = 10 * 1024;
/// And follows this many redirects.
const MAX_REDIRECTS: usize = 10;

/// What a container answered.
#[derive(Debug)]
pub(in crate::edged) struct Answer {
    pub(in crate::edged) status: u16,
    pub(in crate::edged) body: String,
    location: Option<String>,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::edged) enum HttpError {
    /// The request cannot be written down.
    #[error("{0}")]
    Unspeakable(String),
    /// No connection, no TLS, or an answer that is none.
    #[error("{0}")]
    Failed(String),
    /// TLS was asked for and plain HTTP was spoken.
    #[error("{0}")]
    Plain(String),
}

/// Asks, and follows redirects on the same host; one to another host is the answer.
pub(in crate::edged) async fn get(target: &HttpTarget) -> Result<Answer, HttpError> {
    let mut target = target.clone();
    for _ in 0..=MAX_REDIRECTS {
        let answer = get_once(&target).await?;
        let is_redirect = matches!(answer.status, 301 | 302 | 303 | 307 | 308);
        let next = answer.location.as_deref().filter(|_| is_redirect);
        match next.and_then(|location| target.redirected(location)) {
            Some(next) => target = next,
            None => return Ok(answer),
        }
    }
    Err(HttpError::Failed(format!("Get \"{}\": stopped after {MAX_REDIRECTS} redirects", target.url())))
}

async fn get_once(target: &HttpTarget) -> Result<Answer, HttpError> {
    let url = target.url();
    let failed = |why: String| HttpError::Failed(format!("Get \"{url}\": {why}"));
    let stream = dial(&target.host, target.port).await.map_err(failed)?;
    if !target.https {
        return exchange(target, stream).await;
    }
    let name = ServerName::try_from(target.host.clone());
    let name = name.map_err(|error| HttpError::Unspeakable(format!("{}: {error}", target.host)))?;
    // A container's own certificate is nobody's business here, as with the kubelet: the question is whether it answers.
    match TlsConnector::from(unchecked_tls::client()).connect(name, stream).await {
        Ok(stream) => exchange(target, stream).await,
        Err(error) if speaks_plainly(&error) => {
            Err(HttpError::Plain(format!("Get \"{url}\": http: server gave HTTP response to HTTPS client")))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// A TCP connection, or why there is none in Go's words.
pub(super) async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
            io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
            io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
            io::ErrorKind::TimedOut => "connect: connection timed out".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {}: {why}", authority(host, port))
    })
}

async fn exchange<S>(target: &HttpTarget, stream: S) -> Result<Answer, HttpError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(target)?;
    let failed = |error: hyper::Error| HttpError::Failed(format!("Get \"{}\": {error}", target.url()));
    let (mut sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    // Both in this task: dropped together when the time is over.
    tokio::pin!(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status().as_u16();
        let location = response.headers().get(LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut body = response.into_body();
        let mut read = Vec::new();
        while read.len() < MAX_BODY {
            match body.frame().await {
                Some(frame) => {
                    read.extend_from_slice(&frame.map_err(failed)?.into_data().unwrap_or_default());
                }
                None => break,
            }
        }
        read.truncate(MAX_BODY);
        Ok(Answer { status, location, body: String::from_utf8_lossy(&read).into_owned() })
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // It carries the answer; once it has ended, what it carried is there.
        _ = &mut connection => answer.await,
    }
}

fn request(target: &HttpTarget) -> Result<hyper::Request<Empty<Bytes>>, HttpError> {
    let bad = |what: String| HttpError::Unspeakable(what);
    let mut request = hyper::Request::get(target.path.as_str())
        .body(Empty::new())
        .map_err(|error| bad(format!("path {:?}: {error}", target.path)))?;
    let headers = request.headers_mut();
    for (name, value) in &target.headers {
        let name_ok =
            HeaderName::from_bytes(name.as_bytes()).map_err(|e| bad(format!("header {name:?}: {e}")))?;
        let value = HeaderValue::from_str(value).map_err(|e| bad(format!("header {name:?}: {e}")))?;
        headers.append(name_ok, value);
    }
    if !headers.contains_key(HOST) {
        let host = HeaderValue::from_str(&target.authority());
        headers.insert(HOST, host.map_err(|error| bad(format!("{}: {error}", target.host)))?);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

fn speaks_plainly(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidMessage(_)))
}
