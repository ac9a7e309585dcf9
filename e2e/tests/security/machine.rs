//! A machine that holds a join token and keeps to no rule: enrols, connects and says what it likes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use ke_wire::kubeedge::{FRAME_LIMIT, decode_down, encode_up};
use ke_wire::{Down, Up};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::Request;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Machine {
    ca: CertificateDer<'static>,
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

pub(crate) type Link = WebSocketStream<TlsStream<TcpStream>>;

fn named(node: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    params
}

impl Machine {
    /// Gets a certificate for this name with the join token. `ca` in DER.
    pub(crate) async fn enrol(https: SocketAddr, ca: &[u8], token: &str, node: &str) -> Result<Self> {
        let ca = CertificateDer::from(ca.to_vec());
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let request = named(node).serialize_request(&key)?.der().to_vec();
        let (_, jwt) = token.split_once('.').context("a token has parts")?;
        let mut stream = tls(https, &ca, None).await?;
        let head = format!(
            "GET /edge.crt HTTP/1.1\r\nHost: cloud\r\nConnection: close\r\nNodename: {node}\r\n\
             Authorization: Bearer {jwt}\r\nContent-Length: {}\r\n\r\n",
            request.len()
        );
        stream.write_all(&[head.as_bytes(), &request].concat()).await?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("an HTTP answer")?;
        let body = answer.get(end + 4..).unwrap_or_default().to_vec();
        Ok(Self { ca, key, certificate: body.into() })
    }

    /// With a certificate of a CA that is not cloudcore's.
    pub(crate) fn stranger(ca: &[u8], node: &str) -> Result<Self> {
        let mut other = CertificateParams::default();
        other.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        other.distinguished_name.push(DnType::CommonName, "KubeEdge");
        let issuer = rcgen::Issuer::new(other, KeyPair::generate()?);
        let key = KeyPair::generate()?;
        let mut params = named(node);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer)?.der().clone();
        Ok(Self { ca: CertificateDer::from(ca.to_vec()), key, certificate })
    }

    /// Claims this name. Errors: no WebSocket came to be.
    pub(crate) async fn connect(&self, websocket: SocketAddr, node: &str) -> Result<Link> {
        let stream = tls(websocket, &self.ca, Some(self)).await?;
        let request =
            Request::get(format!("wss://{websocket}/e632aba927ea4ac2b575ec1603d56f10/{node}/events"))
                .header("Host", "cloud")
                .header("Upgrade", "websocket")
                .header("Connection", "Upgrade")
                .header("Sec-WebSocket-Version", "13")
                .header("Sec-WebSocket-Key", generate_key())
                .header("Node_id", node)
                .header("ConnectionUse", "msg")
                .body(())?;
        Ok(tokio_tungstenite::client_async(request, stream).await?.0)
    }
}

async fn tls(
    address: SocketAddr,
    ca: &CertificateDer<'static>,
    shows: Option<&Machine>,
) -> Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.clone())?;
    let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
    let config = match shows {
        Some(machine) => {
            let key = PrivatePkcs8KeyDer::from(machine.key.serialize_der()).into();
            builder.with_client_auth_cert(vec![machine.certificate.clone()], key)?
        }
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await?;
    Ok(tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(ServerName::from(address.ip()), stream)
        .await?)
}

pub(crate) async fn say(link: &mut Link, up: &Up) -> Result<()> {
    send(link, &String::from_utf8(encode_up(up, 0))?).await
}

pub(crate) async fn send(link: &mut Link, text: &str) -> Result<()> {
    Ok(link.send(Message::text(text)).await?)
}

/// The next answer of the cloud. What it says unasked, such as which devices are here, is passed over.
pub(crate) async fn receive(link: &mut Link) -> Result<String> {
    loop {
        match tokio::time::timeout(PATIENCE, link.next()).await? {
            Some(Ok(Message::Text(text))) => {
                if let Ok(Down::Answer { .. }) = decode_down(text.as_bytes(), FRAME_LIMIT) {
                    return Ok(text.as_str().to_owned());
                }
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => bail!("the link ended: {other:?}"),
        }
    }
}

/// Waits for the end of the link; the reason, where one was given.
pub(crate) async fn closed(link: &mut Link) -> Result<String> {
    loop {
        match tokio::time::timeout(PATIENCE, link.next()).await? {
            Some(Ok(Message::Close(Some(frame)))) => return Ok(frame.reason.as_str().to_owned()),
            Some(Ok(Message::Close(None))) | None => return Ok(String::new()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Ok(error.to_string()),
        }
    }
}

/// Sends 100 MB as one frame; how many bytes went out before the cloud ended it.
pub(crate) async fn flood(link: &mut Link) -> usize {
    const SIZE: usize = 100 << 20;
    let raw = link.get_mut();
    let mut head = vec![0x82, 0x80 | 127];
    head.extend(SIZE.to_be_bytes());
    head.extend([0; 4]);
    let piece = vec![b'x'; 64 << 10];
    let mut n_sent = 0;
    let flooding = async {
        raw.write_all(&head).await?;
        while n_sent < SIZE {
            raw.write_all(&piece).await?;
            n_sent += piece.len();
        }
        raw.flush().await
    };
    let _: Result<std::io::Result<()>, _> = tokio::time::timeout(PATIENCE, flooding).await;
    n_sent
}
