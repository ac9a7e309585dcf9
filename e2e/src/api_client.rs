//! The API server as somebody sees it who opens streams by the hundred: followed logs, commands, a change of one object.
//!
//! One task a stream: two hundred kubectls would use the machine up before what is measured does. It judges nothing. Called by
//! `make bench`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::Request;

use crate::cluster::Cluster;

/// An answer's head.
const MAX_HEAD: usize = 64 << 10;

pub type Connection = TlsStream<TcpStream>;

/// Comes as a cluster administrator. Each request has a connection of its own.
#[derive(Clone)]
pub struct ApiClient {
    address: SocketAddr,
    tls: TlsConnector,
}

impl ApiClient {
    /// With a certificate of the cluster's authority.
    pub fn new(cluster: &Cluster) -> Result<Self> {
        // A second install fails and changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let name = "many-streams";
        let files = cluster.ca().issue(name, name, &["system:masters"], &[])?;
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&cluster.ca().files.cert).context("read the cluster's CA")?)?;
        let certificate =
            CertificateDer::from_pem_file(&files.cert).context("read the client's certificate")?;
        let key = PrivateKeyDer::from_pem_file(&files.key).context("read the client's key")?;
        let config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, cluster.port()));
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// `receive_buffer`: bytes that the kernel keeps for a reader that does not read; `None`: as many as it likes.
    async fn connect(&self, receive_buffer: Option<u32>) -> Result<Connection> {
        let socket = TcpSocket::new_v4().context("open a socket")?;
        if let Some(n_bytes) = receive_buffer {
            socket.set_recv_buffer_size(n_bytes).context("set the receive buffer")?;
        }
        let stream = socket.connect(self.address).await.context("reach the API server")?;
        stream.set_nodelay(true).context("set no delay")?;
        let name = ServerName::from(self.address.ip());
        self.tls.connect(name, stream).await.context("TLS with the API server")
    }

    /// A GET whose body follows on the connection as it is, to its end.
    pub async fn follow(&self, path: &str, receive_buffer: Option<u32>) -> Result<Connection> {
        let mut stream = self.connect(receive_buffer).await?;
        // An older version of HTTP: the body is not in pieces.
        let head = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
        stream.write_all(head.as_bytes()).await.context("ask the API server")?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            ensure!(answer.len() < MAX_HEAD, "the API server's head has no end");
            answer.push(stream.read_u8().await.context("read the API server's head")?);
        }
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer.contains(" 200 "), "{path}: {answer}");
        Ok(stream)
    }

    /// Lays `patch` over an object, JSON over JSON.
    pub async fn patch(&self, path: &str, patch: &str) -> Result<()> {
        let mut stream = self.connect(None).await?;
        let request = format!(
            "PATCH {path} HTTP/1.0\r\nHost: {}\r\nContent-Type: application/merge-patch+json\r\nContent-Length: {}\r\n\r\n{patch}",
            self.address,
            patch.len()
        );
        stream.write_all(request.as_bytes()).await.context("ask the API server")?;
        let mut answer = Vec::new();
        // Whether it says goodbye is no matter once it has answered.
        let _ = stream.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer.lines().next().is_some_and(|line| line.contains(" 200 ")), "{path}: {answer}");
        Ok(())
    }

    /// A stream into a container as kubectl opens it: `path` with its query.
    pub async fn upgrade(&self, path: &str) -> Result<WebSocketStream<Connection>> {
        let stream = self.connect(None).await?;
        let request = Request::get(format!("wss://{}{path}", self.address))
            .header("Host", self.address.to_string())
            .header("Upgrade", "websocket")
            .header("Connection", "Upgrade")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key())
            .header("Sec-WebSocket-Protocol", "v5.channel.k8s.io")
            .body(())?;
        let (stream, _) = tokio_tungstenite::client_async(request, stream).await.context("open a stream")?;
        Ok(stream)
    }
}
