//! The port on loopback with real TLS, between the cloud's end and an edge's end as a Go edge has it.

use std::net::IpAddr;
use std::sync::Mutex as StdMutex;

use ke_run::telemetry::Metrics;
use ke_socket::tunnel::{Limits, Stream};
use ke_wire::tunnel::{KubeletRequest, Reached};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;

use super::*;
use crate::gate::Pin;
use crate::gate::testing::{MemorySecrets, config as hub_config};
use crate::tunnels;

/// Nothing on loopback takes this long.
const LIMIT: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

const EXEC: &str = "POST /exec/shop/web/c?command=cat HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
/// How a node goes on in another protocol.
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";

/// All nodes are held by this.
struct Held(StdMutex<Holder>);

#[async_trait]
impl Pins for Held {
    async fn get(&self, _: &NodeName) -> Result<Holder, String> {
        Ok(self.0.lock().unwrap().clone())
    }
    async fn set(&self, _: &NodeName, _: &Pin) -> Result<(), String> {
        panic!("a tunnel changes no pin")
    }
    async fn tell_refused(&self, _: &NodeName, _: &str) {}
}

struct Bench {
    authority: Authority,
    address: SocketAddr,
    ways: Ways,
    pins: Arc<Held>,
    _serving: JoinHandle<()>,
}

type Served = (Stream, Reached, KubeletRequest);
type Pair = (CertificateDer<'static>, KeyPair);

async fn bench() -> Bench {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = Authority::open(&hub_config(), &MemorySecrets::default()).await.unwrap();
    let mut metrics = Metrics::new();
    let go = GoTunnels::new(&mut metrics);
    let tunnels = Tunnels::new(tunnels::counters(&mut metrics));
    let config = CloudStreamConfig {
        address: IpAddr::from([127, 0, 0, 1]),
        tunnel_port: ke_run::config::Within::of::<0>(),
        ..CloudStreamConfig::default()
    };
    let pins = Arc::new(Held(StdMutex::new(Holder::Edge)));
    let port = TunnelPort::bind(&config, &authority, Arc::clone(&pins) as _, go.clone()).unwrap();
    let address = port.address().unwrap();
    let (_trigger, stop) = Shutdown::new();
    let serving = tokio::spawn(async move {
        let _trigger = _trigger;
        port.run(stop).await.unwrap();
    });
    Bench { authority, address, ways: Ways { tunnels, go }, pins, _serving: serving }
}

impl Bench {
    /// As a machine gets it when it joins.
    fn certificate(&self, node: &str) -> Pair {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        let csr = params.serialize_request(&key).unwrap();
        let signed = self.authority.sign(&node.parse().unwrap(), csr.der()).unwrap();
        (CertificateDer::from(signed.certificate), key)
    }

    async fn ask(&self, (certificate, key): &Pair, name: &str) -> (ClientStream<TcpStream>, String) {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.ca().clone()).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let tls = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate.clone()], key)
            .unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let host = ServerName::from(IpAddr::from([127, 0, 0, 1]));
        let mut stream = TlsConnector::from(Arc::new(tls)).connect(host, stream).await.unwrap();
        let request = format!(
            "GET /v1/kubeedge/connect HTTP/1.1\r\nHost: cloud:10004\r\nUser-Agent: Go-http-client/1.1\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sessionhostnameoverride: {name}\r\nSessioninternalip: 10.0.0.7\r\nUpgrade: websocket\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("an answer", stream.read_u8()).await.unwrap());
        }
        (stream, String::from_utf8(head).unwrap())
    }

    /// A tunnel of this node; what comes to it comes out.
    async fn tunnel(&self, pair: &Pair, node: &str) -> (mpsc::UnboundedReceiver<Served>, JoinHandle<String>) {
        let (stream, answer) = self.ask(pair, node).await;
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let (sender, served) = mpsc::unbounded_channel();
        let accept = move |stream, reached, request| drop(sender.send((stream, reached, request)));
        let end = End::Edge { accept: Box::new(accept), mask: || [9, 8, 7, 6] };
        let limits = Limits { ping: Some(Duration::from_secs(5)), ..LIMITS };
        let (_, session) = Session::new(stream, Vec::new(), end, limits);
        (served, tokio::spawn(session.run()))
    }

    async fn dial(&self, node: &str) -> Result<Box<dyn ByteStream>, DialError> {
        Dial::dial(&self.ways, &node.parse().unwrap()).await
    }

    async fn request(&self, head: &str) -> Box<dyn ByteStream> {
        self.say(&format!("{head} HTTP/1.1\r\nHost: node\r\n\r\n")).await
    }

    /// Dials until the node has a tunnel.
    async fn say(&self, text: &str) -> Box<dyn ByteStream> {
        let dialling = async {
            loop {
                match self.dial("edge-1").await {
                    Ok(stream) => break stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        let mut stream = soon("a tunnel", dialling).await;
        stream.write_all(text.as_bytes()).await.unwrap();
        stream
    }
}

async fn all(stream: &mut Box<dyn ByteStream>) -> String {
    let mut bytes = Vec::new();
    soon("the end of an answer", stream.read_to_end(&mut bytes)).await.unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn a_node_is_asked_for_logs_and_numbers() {
    let bench = bench().await;
    let (mut served, _) = bench.tunnel(&bench.certificate("edge-1"), "edge-1").await;
    for (path, reached, content_type) in [
        ("/containerLogs/shop/web/c?tailLines=3", Reached::Logs, "text/plain; charset=utf-8"),
        ("/stats/summary", Reached::Metrics, "application/json"),
    ] {
        let mut client = bench.request(&format!("GET {path}")).await;
        let (stream, asked, request) = soon("a stream", served.recv()).await.unwrap();
        assert_eq!((asked, &*request.target), (reached, path));
        stream.writer().send(b"one\n").await.unwrap();
        stream.writer().send(b"two\xff\n").await.unwrap();
        drop(stream);
        let answer = all(&mut client).await;
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n");
        assert!(answer.starts_with(&head), "{answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body, "4\r\none\n\r\n5\r\ntwo\u{fffd}\n\r\n0\r\n\r\n");
    }
    // Whoever goes stops the node.
    let client = bench.request("GET /containerLogs/shop/web/c?follow=true").await;
    let (mut stream, ..) = soon("a stream", served.recv()).await.unwrap();
    drop(client);
    assert_eq!(soon("an end", stream.receive()).await, None);
    // A log that is cut off does not end as a whole one does.
    let mut client = bench.request("GET /containerLogs/shop/web/c?follow=true").await;
    let (stream, ..) = soon("a stream", served.recv()).await.unwrap();
    stream.writer().send(b"one\n").await.unwrap();
    assert_eq!(soon("a first byte", client.read_u8()).await.unwrap(), b'H');
    bench.ways.go.nodes().clear();
    let answer = all(&mut client).await;
    assert!(answer.ends_with("\r\n\r\n4\r\none\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_node_runs_commands() {
    let bench = bench().await;
    let (mut served, _) = bench.tunnel(&bench.certificate("edge-1"), "edge-1").await;
    let mut client = bench.say(&format!("{EXEC}first")).await;
    let (mut stream, reached, request) = soon("a stream", served.recv()).await.unwrap();
    assert_eq!((reached, request.method.as_deref()), (Reached::Exec, Some("POST")));
    assert_eq!(request.header["Upgrade"], ["SPDY/3.1"]);
    let early = tokio::time::timeout(Duration::from_millis(300), stream.receive()).await;
    assert!(early.is_err(), "nothing of the client's before the node has left HTTP: {early:?}");
    stream.writer().send(SWITCHED).await.unwrap();
    let mut head = vec![0; SWITCHED.len()];
    soon("the answer", client.read_exact(&mut head)).await.unwrap();
    assert_eq!(head, SWITCHED);
    assert_eq!(soon("what came with the head", stream.receive()).await.unwrap(), b"first");
    let big: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    let (mut reads, mut writes) = tokio::io::split(client);
    let sent = big.clone();
    let writing = tokio::spawn(async move {
        writes.write_all(&sent).await.unwrap();
        writes
    });
    let mut came = Vec::new();
    while came.len() < big.len() {
        let bytes = soon("input", stream.receive()).await.unwrap();
        stream.writer().send(&bytes).await.unwrap();
        came.extend(bytes);
    }
    assert_eq!(came, big);
    drop(stream);
    let mut back = Vec::new();
    soon("output", reads.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, big);
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn a_second_request_after_a_refused_upgrade_does_not_reach_the_node() {
    let bench = bench().await;
    let (mut served, _) = bench.tunnel(&bench.certificate("edge-1"), "edge-1").await;
    for refused in ["HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"] {
        let mut client = bench.say(EXEC).await;
        let second = b"POST /run/kube-system/x/c?cmd=id HTTP/1.1\r\nHost: node\r\n\r\n";
        // With the head, and after the answer.
        client.write_all(second).await.unwrap();
        let (mut stream, ..) = soon("a stream", served.recv()).await.unwrap();
        for piece in refused.as_bytes().chunks(5) {
            stream.writer().send(piece).await.unwrap();
        }
        let mut answer = vec![0; refused.len()];
        soon("the answer", client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(answer, refused.as_bytes());
        client.write_all(second).await.unwrap();
        let came = tokio::time::timeout(Duration::from_millis(300), stream.receive()).await;
        assert!(came.is_err(), "{came:?}");
        drop(client);
        assert_eq!(soon("the end", stream.receive()).await, None);
    }
}

#[tokio::test]
async fn what_the_tunnel_cannot_carry_is_told() {
    let bench = bench().await;
    let error = bench.dial("edge-1").await.err().unwrap();
    assert_eq!(error.to_string(), "node edge-1 is not connected to this cloudcore");
    let (_served, _) = bench.tunnel(&bench.certificate("edge-1"), "edge-1").await;
    let answer = all(&mut bench.request("POST /portForward/shop/web").await).await;
    assert!(answer.starts_with("HTTP/1.1 501 ") && answer.contains("no port-forward"), "{answer}");
}

#[tokio::test]
async fn a_tunnel_is_the_machine_s_whose_name_it_says_and_the_newest_counts() {
    let bench = bench().await;
    let (one, other) = (bench.certificate("edge-1"), bench.certificate("edge-2"));
    let (_, answer) = bench.ask(&other, "edge-1").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    // Another machine had the name before, or has it now.
    let key = ClientCertificate::read(&bench.certificate("edge-1").0).unwrap().fingerprint;
    *bench.pins.0.lock().unwrap() = Holder::Pinned(Pin::new([10, 0, 0, 1].into(), key));
    let (_, answer) = bench.ask(&one, "edge-1").await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let key = ClientCertificate::read(&one.0).unwrap().fingerprint;
    *bench.pins.0.lock().unwrap() = Holder::Pinned(Pin::new([10, 0, 0, 1].into(), key));
    let (_first, first_ended) = bench.tunnel(&one, "edge-1").await;
    let (mut second, _) = bench.tunnel(&one, "edge-1").await;
    soon("the end of the first", first_ended).await.unwrap();
    let _client = bench.request("GET /healthz").await;
    let (_, reached, request) = soon("a stream", second.recv()).await.unwrap();
    assert_eq!((reached, &*request.target), (Reached::Logs, "/healthz"));
}

#[tokio::test]
async fn who_does_not_read_loses_his_log_and_nobody_else_waits() {
    let bench = bench().await;
    let (mut served, _) = bench.tunnel(&bench.certificate("edge-1"), "edge-1").await;
    let mut stuck = bench.request("GET /containerLogs/shop/web/c?follow=true").await;
    let (firehose, ..) = soon("a stream", served.recv()).await.unwrap();
    let flood = tokio::spawn(async move {
        let mut n_sent = 0_usize;
        // As a Go edge cuts it.
        while firehose.writer().send(&[b'x'; 256]).await.is_ok() {
            n_sent += 256;
        }
        n_sent
    });
    let start = std::time::Instant::now();
    for _ in 0..20 {
        let mut client = bench.request("GET /containerLogs/shop/db/c").await;
        let (stream, ..) = soon("a stream", served.recv()).await.unwrap();
        stream.writer().send(b"line\n").await.unwrap();
        drop(stream);
        assert!(all(&mut client).await.ends_with("5\r\nline\n\r\n0\r\n\r\n"));
    }
    let took = start.elapsed();
    let n_sent = soon("the end of the flood", flood).await.unwrap();
    println!("20 logs beside a reader that is stuck: {took:?}; it was sent {n_sent} bytes");
    assert!(took < Duration::from_secs(20), "{took:?}");
    let answer = all(&mut stuck).await;
    assert!(!answer.ends_with("0\r\n\r\n") && answer.len() > LIMITS.held_of_stream / 2, "{}", answer.len());
    soon("the count", async {
        while bench.ways.go.0.cut.get() != 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_says_nothing_is_not_waited_for() {
    let (above, below) = duplex(64 << 10);
    let end = End::Cloud { ids: Arc::new(AtomicU64::new(1)) };
    let limits = Limits { first: Duration::from_secs(3600), ..LIMITS };
    let (tunnel, session) = Session::new(above, Vec::new(), end, limits);
    tokio::spawn(session.run());
    let check = async |request: &str, expected: &str| {
        let (mut ours, theirs) = duplex(BUFFER);
        let (node, tunnel) = ("edge-1".parse().unwrap(), tunnel.clone());
        tokio::spawn(exchange::serve(node, tunnel, theirs, Counter::default()));
        ours.write_all(request.as_bytes()).await.unwrap();
        let mut first = vec![0; expected.len()];
        ours.read_exact(&mut first).await.unwrap();
        assert_eq!(String::from_utf8(first).unwrap(), expected);
    };
    check("GET /containerLogs/a/b/c HTTP/1.1\r\n\r\n", "HTTP/1.1 504 ").await;
    check("GET /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 504 ").await;
    check("GET /containerLogs/a/b/c?follow=true HTTP/1.1\r\n\r\n", "HTTP/1.1 200 ").await;
    let exec = "POST /exec/a/b/c HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n";
    check(exec, "HTTP/1.1 504 ").await;
    drop(below);
}

#[tokio::test]
async fn what_a_node_said_before_it_ended_a_command_comes_to_a_slow_reader() {
    let bench = bench().await;
    let (mut served, _) = bench.tunnel(&bench.certificate("edge-1"), "edge-1").await;
    let client = bench.say(EXEC).await;
    let (stream, ..) = soon("a stream", served.recv()).await.unwrap();
    let said = [SWITCHED, &vec![7; 400_000]].concat();
    stream.writer().send(&said).await.unwrap();
    drop(stream);
    // Input that nobody takes any more, while most of the output is still under way.
    let (mut reads, mut writes) = tokio::io::split(client);
    let writing = tokio::spawn(async move {
        while writes.write_all(b"input").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let (mut got, mut some) = (Vec::new(), [0; 4096]);
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let n_read = soon("output", reads.read(&mut some)).await.unwrap();
        if n_read == 0 {
            break;
        }
        got.extend_from_slice(&some[..n_read]);
    }
    assert_eq!(got.len(), said.len());
    soon("the end of the input", writing).await.unwrap();
}
