//! Sockets to the cloud: TCP, TLS and the WebSocket handshake become one `Conn`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ke_run::config::HostPort;
use ke_wire::NodeName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::identity::{Credentials, Identity};
use crate::config::EdgeHubConfig;

/// One connection to the cloud that carries messages.
pub(super) type Conn = WebSocketStream<TlsStream<TcpStream>>;

/// Dial, TLS and handshake together have this long.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// Largest message that is read. Lists for the local API are the largest.
const MAX_MESSAGE: usize = 64 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address is none.
    #[error("modules.edgeHub.websocket.server: {0:?} is no address; it has the form cloud.example:10000")]
    Address(String),
    /// Name look-up or TCP failed.
    #[error("connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// TLS failed: the certificate of one side is not accepted by the other.
    #[error("TLS with {server}: {source}{hint}")]
    Tls { server: String, source: std::io::Error, hint: &'static str },
    /// The cloud did not take the connection over.
    #[error("{0} refused the connection: {1}")]
    Refused(String, String),
    /// Too slow.
    #[error("{0} did not answer within {limit} s", limit = CONNECT_LIMIT.as_secs())]
    Timeout(String),
    /// The files of this machine do not make a TLS client.
    #[error("the certificate files cannot be used: {0}")]
    Files(String),
}

/// Opens the link.
pub(super) async fn websocket(
    config: &EdgeHubConfig,
    node: &NodeName,
    identity: &Identity,
) -> Result<Conn, DialError> {
    let HostPort { host, port } = &config.websocket.server;
    let server = config.websocket.server.to_string();
    let bad_address = || DialError::Address(server.clone());
    let server_name = ServerName::try_from(host.clone()).map_err(|_| bad_address())?;
    let credentials = identity.credentials().map_err(DialError::Files)?;
    let ca = credentials.ca.clone();
    let tls = tls(&ca, Some(credentials))?;
    let connect = async {
        let stream = tls_stream(host, *port, server_name, tls).await?;
        let request = Request::get(format!("wss://{server}/{}/{node}/events", config.project_id))
            .header("Host", &server)
            .header("Upgrade", "websocket")
            .header("Connection", "Upgrade")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key())
            .header("Node_id", node.as_str())
            .header("Project_id", &config.project_id)
            .header("ConnectionUse", "msg")
            .body(())
            .map_err(|_| bad_address())?;
        let limits = WebSocketConfig::default()
            // The default of 128 KiB is zero-filled on each read and costs that much memory.
            .read_buffer_size(8 << 10)
            .write_buffer_size(0)
            .max_write_buffer_size(8 << 20)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        // Boxed: the handshake's state must not live as long as the connection.
        let (conn, _) = Box::pin(tokio_tungstenite::client_async_with_config(request, stream, Some(limits)))
            .await
            .map_err(|error| DialError::Refused(server.clone(), error.to_string()))?;
        Ok(conn)
    };
    match tokio::time::timeout(CONNECT_LIMIT, connect).await {
        Ok(done) => done,
        Err(_) => Err(DialError::Timeout(server.clone())),
    }
}

/// A TLS client that trusts this CA and shows these credentials, if any.
pub(super) fn tls(
    ca: &CertificateDer<'static>,
    credentials: Option<Credentials>,
) -> Result<Arc<rustls::ClientConfig>, DialError> {
    let files = |error: rustls::Error| DialError::Files(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone()).map_err(files)?;
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let config = match credentials {
        Some(credentials) => {
            builder.with_client_auth_cert(credentials.certificate, credentials.key).map_err(files)?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// A TLS client for the one request whose answer is checked against the hash in the join token.
pub(super) fn tls_trusting_anybody() -> Arc<rustls::ClientConfig> {
    let config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAnybody))
        .with_no_client_auth();
    Arc::new(config)
}

#[derive(Debug)]
struct TrustAnybody;

impl ServerCertVerifier for TrustAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// TCP, then TLS. Every address of the name is tried in turn.
pub(super) async fn tls_stream(
    host: &str,
    port: u16,
    server_name: ServerName<'static>,
    tls: Arc<rustls::ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let server = format!("{host}:{port}");
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| DialError::Connect(server.clone(), error))?
        .collect();
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                let _ = stream.set_nodelay(true);
                return TlsConnector::from(tls).connect(server_name, stream).await.map_err(|source| {
                    let hint = hint(&source);
                    DialError::Tls { server, source, hint }
                });
            }
            Err(error) => last = error,
        }
    }
    Err(DialError::Connect(server, last))
}

fn hint(error: &std::io::Error) -> &'static str {
    use rustls::CertificateError as Bad;
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(Bad::NotValidYet | Bad::NotValidYetContext { .. })) => {
            ". Is this machine's clock right?"
        }
        Some(rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. })) => {
            ". The cloud's certificate has ended, or this machine's clock is ahead"
        }
        Some(rustls::Error::InvalidCertificate(
            Bad::NotValidForName | Bad::NotValidForNameContext { .. },
        )) => {
            ". The cloud's certificate does not name this address: add it to modules.cloudHub.advertiseAddress or dnsNames there"
        }
        Some(rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature)) => {
            ". The cloud has another CA than the one this machine joined: join again with a new token"
        }
        _ => "",
    }
}

/// Host and port of `host`, `host:port`, `[v6]:port` or `[v6]`.
pub(super) fn split_authority(text: &str, default_port: u16) -> Option<(String, u16)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (host, rest.strip_prefix(':'))
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        Some(port) => port.parse().ok()?,
        None => default_port,
    };
    let plausible = !host.is_empty() && !host.contains(['/', ' ', '@']);
    plausible.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities() {
        let check = |text: &str, expected: Option<(&str, u16)>| {
            assert_eq!(
                split_authority(text, 10000),
                expected.map(|(host, port)| (host.to_owned(), port)),
                "{text}"
            );
        };
        check("cloud.example:10000", Some(("cloud.example", 10000)));
        check("cloud.example", Some(("cloud.example", 10000)));
        check("10.0.0.1:1", Some(("10.0.0.1", 1)));
        check("[fd00::1]:1", Some(("fd00::1", 1)));
        check("[fd00::1]", Some(("fd00::1", 10000)));
        check("cloud.example:x", None);
        check(":1", None);
        check("a/b:1", None);
    }
}
