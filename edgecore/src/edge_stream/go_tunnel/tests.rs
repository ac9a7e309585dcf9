//! The module against a cloud that is KubeEdge's by what it says: TLS on loopback, and the cloud's end of the tunnel.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use ke_run::config::HostPort;
use ke_socket::tunnel::{Over, Stream, Tunnel};
use ke_wire::tunnel::{KubeletRequest, Reached};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::RootCertStore;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

/// Nothing on loopback takes this long.
const LIMIT: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

struct Cloud {
    listener: TcpListener,
    tls: TlsAcceptor,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
}

/// A cloud, and the files of the node edge-1 in `folder`.
async fn cloud(folder: &Path) -> Cloud {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (ca_key, server_key, node_key) = (key(), key(), key());
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "KubeEdge");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(params, ca_key);
    let mut params = CertificateParams::default();
    params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
    let server = params.signed_by(&server_key, &issuer).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, "system:node:edge-1");
    let node = params.signed_by(&node_key, &issuer).unwrap();
    std::fs::write(folder.join("ca"), ca.pem()).unwrap();
    std::fs::write(folder.join("cert"), node.pem()).unwrap();
    std::fs::write(folder.join("key"), node_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let tls = rustls::ServerConfig::builder()
        .with_client_cert_verifier(WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap())
        .with_single_cert(
            vec![server.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der())),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Cloud { listener, tls: TlsAcceptor::from(Arc::new(tls)) }
}

impl Cloud {
    /// The next tunnel that is asked for.
    async fn tunnel(&self) -> (Tunnel, JoinHandle<String>) {
        let (stream, _) = soon("a connection", self.listener.accept()).await.unwrap();
        let mut stream = self.tls.accept(stream).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("a request", stream.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let value = |name: &str| {
            let line = head.lines().find(|line| line.to_lowercase().starts_with(name)).unwrap_or_default();
            line.split_once(": ").unwrap_or_default().1.to_owned()
        };
        assert!(head.starts_with("GET /v1/kubeedge/connect HTTP/1.1\r\n"), "{head}");
        assert_eq!(
            (&*value("sessionhostnameoverride"), &*value("sessioninternalip")),
            ("edge-1", "10.0.0.7")
        );
        let key = value("sec-websocket-key");
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let answer = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        let limits = Limits {
            first: LIMIT,
            read: LIMIT,
            write: LIMIT,
            ping: None,
            held_of_stream: 1 << 20,
            held: 1 << 20,
        };
        let end = End::Cloud { ids: Arc::new(AtomicU64::new(1)) };
        let (tunnel, session) = Session::new(stream, Vec::new(), end, limits);
        (tunnel, tokio::spawn(session.run()))
    }
}

struct Bench {
    cloud: Cloud,
    says: watch::Sender<LinkState>,
    kubelet: mpsc::UnboundedReceiver<DuplexStream>,
    _folder: tempfile::TempDir,
    _running: JoinHandle<Result<(), Infallible>>,
}

fn connected(peer: Peer) -> LinkState {
    LinkState::Connected { number: 1, peer }
}

async fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let cloud = cloud(folder.path()).await;
    let (says, told) = watch::channel(LinkState::Away);
    let (sender, kubelet) = mpsc::unbounded_channel();
    let module = EdgeTunnel {
        config: EdgeStreamConfig {
            tls_tunnel_ca_file: Some(folder.path().join("ca")),
            server: Some(HostPort::new("127.0.0.1", cloud.listener.local_addr().unwrap().port())),
            ..EdgeStreamConfig::default()
        },
        hub: EdgeHubConfig {
            tls_cert_file: folder.path().join("cert"),
            tls_private_key_file: folder.path().join("key"),
            ..EdgeHubConfig::default()
        },
        node: "edge-1".parse().unwrap(),
        addresses: watch::channel(vec![[10, 0, 0, 7].into()]).1,
        link: told,
        kubelet: Arc::new(move |stream| sender.send(stream).unwrap()),
    };
    let (trigger, stop) = Shutdown::new();
    let running = tokio::spawn(async move {
        let _trigger = trigger;
        module.run(stop).await
    });
    Bench { cloud, says, kubelet, _folder: folder, _running: running }
}

fn request(target: &str, header: &[(&str, &str)], method: Option<&str>) -> KubeletRequest {
    let header = header.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]));
    KubeletRequest { target: target.into(), header: header.collect(), method: method.map(str::to_owned) }
}

async fn all(stream: &mut Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = soon("data", stream.receive()).await {
        bytes.extend(piece);
    }
    bytes
}

/// To the end of a head.
async fn head_at(kubelet: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("a head at the kubelet", kubelet.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_kubeedge_cloud_gets_logs_without_their_head() {
    let mut bench = bench().await;
    bench.says.send_replace(connected(Peer::KubeEdge));
    let (tunnel, _) = bench.cloud.tunnel().await;
    for reached in [Reached::Logs, Reached::Metrics] {
        let asked = request("/containerLogs/a/b/c?follow=true", &[("Accept-Encoding", "gzip")], None);
        let mut stream = tunnel.open(reached, asked).await.unwrap();
        let mut kubelet = soon("a request", bench.kubelet.recv()).await.unwrap();
        let head = head_at(&mut kubelet).await.to_lowercase();
        assert!(head.starts_with("get /containerlogs/a/b/c?follow=true http/1.1\r\n"), "{head}");
        assert!(!head.contains("gzip"), "{head}");
        kubelet
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
            .await
            .unwrap();
        // At once, not with the end.
        assert_eq!(soon("a line", stream.receive()).await.unwrap(), b"one\n");
        kubelet.write_all(b"3\r\n\xff\x00\n\r\n0\r\n\r\n").await.unwrap();
        assert_eq!(all(&mut stream).await, b"\xff\x00\n");
        assert_eq!(stream.over(), Some(Over::Removed));
    }
    // The cloud does not want any more.
    let stream = tunnel.open(Reached::Logs, request("/containerLogs/a/b/c", &[], None)).await.unwrap();
    let mut kubelet = soon("a request", bench.kubelet.recv()).await.unwrap();
    head_at(&mut kubelet).await;
    drop(stream);
    let mut rest = Vec::new();
    soon("the end at the kubelet", kubelet.read_to_end(&mut rest)).await.unwrap();
}

#[tokio::test]
async fn a_kubeedge_cloud_runs_commands_byte_for_byte() {
    let mut bench = bench().await;
    bench.says.send_replace(connected(Peer::KubeEdge));
    let (tunnel, _) = bench.cloud.tunnel().await;
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
    let asked = request("/exec/a/b/c?command=cat", &upgrade, Some("POST"));
    let mut stream = tunnel.open(Reached::Exec, asked.clone()).await.unwrap();
    let mut kubelet = soon("a request", bench.kubelet.recv()).await.unwrap();
    let head = head_at(&mut kubelet).await;
    assert!(head.starts_with("POST /exec/a/b/c?command=cat HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("\r\nUpgrade: SPDY/3.1\r\n"), "{head}");
    let answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x80\x03";
    kubelet.write_all(answer).await.unwrap();
    let mut came = Vec::new();
    while came.len() < answer.len() {
        came.extend(soon("an answer", stream.receive()).await.unwrap());
    }
    assert_eq!(came, answer);
    stream.writer().send(b"\xff input").await.unwrap();
    let mut input = [0; 7];
    soon("input", kubelet.read_exact(&mut input)).await.unwrap();
    assert_eq!(&input, b"\xff input");
    kubelet.write_all(b"the last words").await.unwrap();
    drop(kubelet);
    assert_eq!(all(&mut stream).await, b"the last words");

    let stream = tunnel.open(Reached::Attach, asked).await.unwrap();
    let mut kubelet = soon("a request", bench.kubelet.recv()).await.unwrap();
    head_at(&mut kubelet).await;
    drop(stream);
    assert_eq!(soon("the end at the kubelet", kubelet.read(&mut [0; 8])).await.unwrap(), 0);

    // What could be two requests reaches no kubelet, and the cloud is told.
    let two = request("/exec/a/b/c", &[("X", "y\r\nZ: z")], Some("POST"));
    let mut stream = tunnel.open(Reached::Exec, two).await.unwrap();
    assert_eq!(all(&mut stream).await, b"");
    assert_eq!(stream.over(), Some(Over::Removed));
}

#[tokio::test]
async fn a_tunnel_is_there_while_the_cloud_needs_it() {
    let mut bench = bench().await;
    let nobody = tokio::time::timeout(Duration::from_millis(300), bench.cloud.listener.accept()).await;
    assert!(nobody.is_err(), "nobody said yet what the cloud is");
    bench.says.send_replace(connected(Peer::KubeEdge));
    let (_, first) = bench.cloud.tunnel().await;
    first.abort();
    // Lost: it is dialled again.
    let (tunnel, second) = bench.cloud.tunnel().await;
    bench.says.send_replace(LinkState::Away);
    // The link may break alone: the tunnel serves, also after the module has seen it.
    for _ in 0..2 {
        let stream = tunnel.open(Reached::Logs, request("/containerLogs/a/b/c", &[], None)).await.unwrap();
        let mut kubelet = soon("a request", bench.kubelet.recv()).await.unwrap();
        head_at(&mut kubelet).await;
        drop(stream);
        let mut rest = Vec::new();
        soon("the end at the kubelet", kubelet.read_to_end(&mut rest)).await.unwrap();
    }
    bench.says.send_replace(connected(Peer::Isthmus));
    soon("the end of the tunnel", second).await.unwrap();
    let nobody = tokio::time::timeout(Duration::from_secs(3), bench.cloud.listener.accept()).await;
    assert!(nobody.is_err(), "the link has streams");
}
