//! TLS clients of this machine, and TCP to a server by name. Used by the link (`dial.rs`) and by enrolment
//! (`identity.rs`); it reads no files.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::proxy;

/// Dial, TLS and handshake together have this long.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(20);

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

/// Certificate, key and CA as rustls takes them.
pub(super) struct Credentials {
    pub(super) ca: CertificateDer<'static>,
    pub(super) certificate: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// A TLS client that trusts this CA and shows these credentials, if any.
pub(super) fn client(
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

/// TCP, through a proxy where the environment names one, then TLS. Every address of the name is tried in turn.
pub(super) async fn stream(
    host: &str,
    port: u16,
    server_name: ServerName<'static>,
    tls: Arc<rustls::ClientConfig>,
) -> Result<TlsStream<TcpStream>, DialError> {
    let server = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let proxy = proxy::to(host, |name| std::env::var(name).ok());
    let proxy = proxy.map_err(|why| DialError::Connect(server.clone(), std::io::Error::other(why)))?;
    let first = proxy.as_ref().map_or((host, port), |proxy| (&*proxy.host, proxy.port));
    let blame = |error| proxy::blame(proxy.as_ref(), error);
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(first)
        .await
        .map_err(|error| DialError::Connect(server.clone(), blame(error)))?
        .collect();
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(mut stream) => {
                let _ = stream.set_nodelay(true);
                if let Some(proxy) = &proxy {
                    let led = proxy::tunnel(&mut stream, proxy, &server).await;
                    led.map_err(|error| DialError::Connect(server.clone(), error))?;
                }
                return TlsConnector::from(tls).connect(server_name, stream).await.map_err(|source| {
                    let hint = hint(&source);
                    DialError::Tls { server, source, hint }
                });
            }
            Err(error) => last = error,
        }
    }
    Err(DialError::Connect(server, blame(last)))
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
            ". The cloud has another CA than the one this machine joined, or somebody stands between. If it is the cloud's new one, \
             type: `keadm reset edge` here, `kubectl delete node NAME` in the cloud, then `keadm join` with a new token"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cloud_with_another_ca_says_what_to_type() {
        let bad = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let said = hint(&std::io::Error::other(bad));
        for step in ["`keadm reset edge`", "`kubectl delete node NAME`", "`keadm join` with a new token"] {
            assert!(said.contains(step), "no {step} in {said}");
        }
    }
}
