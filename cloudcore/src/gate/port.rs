//! Ports with TLS: taken, and who comes by them as far as TLS tells.
//!
//! It decides nothing about nodes. An address may be IPv4 or IPv6; `::` and `0.0.0.0` both take connections of both.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::authority::Authority;
use super::certificate::ClientCertificate;

/// TLS and WebSocket handshake each have this long.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Connections that wait for being accepted: a whole fleet may come back at once.
const BACKLOG: u32 = 4096;

/// How long a connection is silent before it is asked whether it is there, and from one question to the next: Go's own.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Questions without an answer until it counts as gone.
const PROBES: u32 = 4;

/// Why a port cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Taken, not this machine's, or not allowed.
    #[error("{key}: listen on {address}: {source}{hint}")]
    Bind {
        /// Configuration key.
        key: &'static str,
        /// What was tried.
        address: SocketAddr,
        /// The system's words.
        source: std::io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// The certificate cannot serve.
    #[error("the server certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
    /// The CA cannot judge clients.
    #[error("the CA cannot be used: {0}")]
    Ca(#[from] rustls::server::VerifierBuilderError),
}

/// Whether a client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificates {
    Required,
    Welcome,
}

/// A bound port with its TLS.
pub(crate) struct Port {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl Port {
    pub(crate) fn bind(
        key: &'static str,
        address: IpAddr,
        port: u16,
        authority: &Authority,
        certificates: ClientCertificates,
    ) -> Result<Self, ListenError> {
        Self::with_tls(key, address, port, tls(authority, certificates)?)
    }

    /// Takes the port. `key` is the configuration key that an error names.
    pub(crate) fn with_tls(
        key: &'static str,
        address: IpAddr,
        port: u16,
        tls: TlsAcceptor,
    ) -> Result<Self, ListenError> {
        // "Every address" means both families, whichever way it is written.
        let address = if address.is_unspecified() { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { address };
        let address = SocketAddr::new(address, port);
        let listener = listen(address).or_else(|error| match address.ip() {
            // A kernel without IPv6.
            ip if ip.is_unspecified() && error.kind() != std::io::ErrorKind::AddrInUse => {
                listen(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), port))
            }
            _ => Err(error),
        });
        let listener = listener.map_err(|source| {
            let hint = match source.kind() {
                std::io::ErrorKind::AddrInUse => {
                    ". The port is in use: is another cloudcore running? `ss -ltnp` shows who"
                }
                std::io::ErrorKind::PermissionDenied => ". Ports below 1024 need root",
                _ => "",
            };
            ListenError::Bind { key, address, source, hint }
        })?;
        Ok(Self { listener, tls })
    }

    pub(crate) fn tls(&self) -> TlsAcceptor {
        self.tls.clone()
    }

    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection; `None` after an error that was logged, such as no more file descriptors.
    pub(crate) async fn accept(&self) -> Option<(TcpStream, SocketAddr)> {
        match self.listener.accept().await {
            Ok((stream, from)) => {
                let _ = stream.set_nodelay(true);
                let _ = keep_alive(&stream);
                // An IPv4 client on an IPv6 socket is told as what it is.
                Some((stream, SocketAddr::new(from.ip().to_canonical(), from.port())))
            }
            Err(error) => {
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                None
            }
        }
    }
}

/// Whoever has gone without a word is found out within [`KEEPALIVE`] times one more than [`PROBES`], however long its stream may
/// be silent, such as a followed log; and what lies between does not forget the connection.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn tls(authority: &Authority, certificates: ClientCertificates) -> Result<TlsAcceptor, ListenError> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.ca().clone())?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
    let verifier = match certificates {
        ClientCertificates::Required => verifier.build()?,
        ClientCertificates::Welcome => verifier.allow_unauthenticated().build()?,
    };
    let (certificate, key) = authority.server_pair();
    let mut config = ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)?;
    // A client that offered h2 could not upgrade to a WebSocket.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Sessions of ten thousand nodes would only fill memory; nodes reconnect rarely.
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(crate) async fn handshake(tls: &TlsAcceptor, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no handshake in time".into()),
    }
}

pub(crate) fn client_certificate(stream: &TlsStream<TcpStream>) -> Option<ClientCertificate> {
    let (_, session) = stream.get_ref();
    ClientCertificate::read(session.peer_certificates()?.first()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_goes_without_a_word_is_found_out() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let nothing = Arc::new(rustls::server::ResolvesServerCertUsingSni::new());
        let tls = ServerConfig::builder().with_no_client_auth().with_cert_resolver(nothing);
        let tls = TlsAcceptor::from(Arc::new(tls));
        let port = Port::with_tls("test", [127, 0, 0, 1].into(), 0, tls).unwrap();
        let _client = TcpStream::connect(port.address().unwrap()).await.unwrap();
        let (stream, _) = port.accept().await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KEEPALIVE);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), PROBES);
    }
}
