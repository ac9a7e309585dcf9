//! The whole EdgeHub against a scripted cloud with real TLS: byte streams beside messages, and nothing left behind.

mod slow_reader;

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};

use futures_util::{SinkExt, StreamExt};
use ke_link::streams::shared::{LinkStreams, RawStream, StreamOpener};
use ke_link::streams::{FIRST_WINDOW, HEADER, ResetCode, Role, StreamKind};
use ke_run::config::HostPort;
use ke_run::shutdown::Trigger;
use ke_run::telemetry::Metrics;
use ke_socket::stream::LinkStream;
use ke_wire::{Change, Down, MessageId, Origin, Put, Up, Version, kubeedge};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request as Hello, Response};

use super::*;
use crate::db::{Db, Synchronous};
use crate::edge_stream::{self, StreamHandler};
use crate::meta_manager::MetaManager;
use crate::report_queue::{DeviceReportQueue, ReportQueue};

/// Nothing on loopback takes this long.
const LIMIT: Duration = Duration::from_secs(60);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

/// EdgeHub with what it needs, and the port that it dials.
struct Bench {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    cloud: Cloud,
    metrics: Metrics,
    trigger: Trigger,
    _folder: tempfile::TempDir,
    /// What nobody reads here must stay open all the same.
    _ends: Box<dyn std::any::Any>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.trigger.stop();
    }
}

/// Writes the node's files into the folder; gives the cloud's TLS.
fn credentials(folder: &Path) -> TlsAcceptor {
    let signed = |name: &str, alternative: &[String], issuer: &Issuer<'_, KeyPair>| {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(alternative).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.signed_by(&key, issuer).unwrap(), key)
    };
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_file = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(ca, ca_key);
    let (certificate, key) = signed("system:node:edge-a", &[], &issuer);
    for (file, text) in [("ca", ca_file), ("crt", certificate.pem()), ("key", key.serialize_pem())] {
        std::fs::write(folder.join(file), text).unwrap();
    }
    let (certificate, key) = signed("cloud", &["127.0.0.1".to_owned()], &issuer);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn bench(handler: Option<StreamHandler>) -> Bench {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let acceptor = credentials(folder.path());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = EdgeHubConfig {
        tls_ca_file: folder.path().join("ca"),
        tls_cert_file: folder.path().join("crt"),
        tls_private_key_file: folder.path().join("key"),
        rotate_certificates: false,
        ..EdgeHubConfig::default()
    };
    config.websocket.server = HostPort::new("127.0.0.1", listener.local_addr().unwrap().port());
    let node: NodeName = "edge-a".parse().unwrap();
    let (db, _) = Db::open(&folder.path().join("store"), Synchronous::Off).unwrap();
    let (cloud, inbox) = Cloud::channel();
    let (news, mut told) = mpsc::channel(16);
    // Nobody here wants to know of a ConfigMap; one that is not read holds the next one up.
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    let (device_news, devices_told) = mpsc::channel(16);
    let (nodes, node_told) = watch::channel(None);
    let (meta, meta_manager) =
        MetaManager::new(db.clone(), node.clone(), cloud.clone(), news, device_news, nodes);
    let (reports, outbox, report_queue) = ReportQueue::new(db.clone()).await.unwrap();
    let mut metrics = Metrics::new();
    let (device_reports, device_outbox, device_queue) =
        DeviceReportQueue::new(db, metrics.counter("dropped", "Dropped"));
    let (membership, memberships) = mpsc::channel(16);
    let devices = DeviceEnds { outbox: device_outbox, membership };
    let mut hub = EdgeHub::new(config, node, Joined::Before, inbox, meta, outbox, devices);
    if let Some(handler) = handler {
        hub = hub.with_streams(EdgeStreams::new(handler, edge_stream::counters(&mut metrics)));
    }
    let (trigger, stop) = Shutdown::new();
    tokio::spawn(meta_manager.run(stop.clone()));
    tokio::spawn(report_queue.run(stop.clone()));
    tokio::spawn(device_queue.run(stop.clone()));
    tokio::spawn(hub.run(stop));
    let ends = Box::new((devices_told, node_told, reports, device_reports, memberships));
    Bench { listener, acceptor, cloud, metrics, trigger, _folder: folder, _ends: ends }
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Ours,
    Go,
}

impl Bench {
    /// The next link of the edge, and whether it offered streams.
    async fn accept(&self, cloud: Peer) -> (Socket, bool) {
        let (stream, _) = soon("the edge", self.listener.accept()).await.unwrap();
        let stream = self.acceptor.accept(stream).await.unwrap();
        let mut has_offered = false;
        #[expect(clippy::result_large_err, reason = "the library's type")]
        let check = |hello: &Hello, mut answer: Response| -> Result<Response, ErrorResponse> {
            let offer = hello.headers().get(HEADER).cloned();
            has_offered = offer.is_some();
            if let Some(offer) = offer.filter(|_| cloud == Peer::Ours) {
                answer.headers_mut().insert(HEADER, offer);
            }
            Ok(answer)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, check).await.unwrap();
        (socket, has_offered)
    }

    fn counted(&self, line: &str) {
        let text = self.metrics.encode().unwrap();
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

/// The cloud's end: moves frames, sends these objects, and notes which of them were acknowledged.
struct Driven {
    opener: StreamOpener,
    objects: mpsc::Sender<Put>,
    acknowledged: Arc<Mutex<BTreeSet<String>>>,
    task: tokio::task::JoinHandle<()>,
}

fn driven(mut socket: Socket) -> Driven {
    let streams = LinkStreams::new(Role::Cloud);
    let opener = streams.opener();
    let (objects, mut to_send) = mpsc::channel::<Put>(16);
    let acknowledged = Arc::<Mutex<BTreeSet<String>>>::default();
    let noted = Arc::clone(&acknowledged);
    let task = tokio::spawn(async move {
        loop {
            let mut ready = pin!(std::future::poll_fn(|cx| streams.poll_ready(cx)));
            tokio::select! {
                received = socket.next() => match received {
                    Some(Ok(Message::Binary(frame))) => assert!(streams.handle_bytes(&frame).unwrap().is_none()),
                    Some(Ok(Message::Text(text))) => {
                        if let Ok(Up::Ack { to, .. }) = kubeedge::decode_up(text.as_bytes(), 1 << 20) {
                            noted.lock().unwrap().insert(to.to_string());
                        }
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                },
                Some(put) = to_send.recv() => {
                    let frame = String::from_utf8(kubeedge::encode_down(&Down::Put(put), 0)).unwrap();
                    socket.send(Message::text(frame)).await.unwrap();
                }
                () = &mut ready => {
                    socket.send(Message::Binary(streams.next_frame().unwrap())).await.unwrap();
                }
            }
        }
    });
    Driven { opener, objects, acknowledged, task }
}

impl Driven {
    /// Sends a ConfigMap and waits until the edge has it on disk.
    async fn update(&self, name: &str) {
        let id = MessageId::fresh();
        let put = Put {
            id: id.clone(),
            key: format!("default/configmap/{name}").parse().unwrap(),
            version: Version::new(1),
            change: Change::Updated,
            origin: Origin::EdgeController,
            body: format!(
                r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"default","uid":"u-{name}","resourceVersion":"1"}}}}"#
            )
            .into(),
        };
        self.objects.send(put).await.unwrap();
        settled(name, || self.acknowledged.lock().unwrap().contains(&id.to_string())).await;
    }
}

async fn settled(what: &str, is_settled: impl Fn() -> bool) {
    soon(what, async {
        while !is_settled() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn read(stream: &RawStream, into: &mut [u8]) -> Result<usize, ke_link::streams::Reset> {
    soon("bytes", std::future::poll_fn(|cx| stream.poll_read(cx, into))).await
}

async fn write(stream: &RawStream, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let n_taken = soon("room", std::future::poll_fn(|cx| stream.poll_write(cx, bytes))).await.unwrap();
        bytes = &bytes[n_taken..];
    }
}

fn serving<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(LinkStream) -> F + Send + Sync + 'static,
) -> Option<StreamHandler> {
    Some(Arc::new(move |stream| drop(tokio::spawn(serve(stream)))))
}

async fn echo(stream: LinkStream) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    if tokio::io::copy(&mut reader, &mut writer).await.is_ok() {
        let _ = writer.shutdown().await;
    }
}

async fn log(mut stream: LinkStream) {
    while stream.write_all(&[b'.'; 1000]).await.is_ok() {}
}

#[tokio::test]
async fn streams_are_offered_and_used_only_if_the_cloud_takes_the_offer() {
    let nothing = bench(None).await;
    assert!(!nothing.accept(Peer::Ours).await.1);

    let bench = bench(serving(echo)).await;
    let (mut socket, has_offered) = bench.accept(Peer::Go).await;
    assert!(has_offered);
    // A frame that nobody agreed on is a message that is none, as it was before there were streams.
    socket.send(Message::binary(b"\x01\0\0\0\x01\x01".to_vec())).await.unwrap();
    let closed = async {
        while let Some(Ok(message)) = socket.next().await {
            assert!(!message.is_binary(), "a Go cloud was sent {message:?}");
        }
    };
    soon("the end of the link", closed).await;
    bench.counted("edgecore_opened_streams_total 0");
}

#[tokio::test]
async fn each_stream_goes_to_the_handler_and_ends_each_way() {
    let bench = bench(serving(echo)).await;
    let cloud = driven(bench.accept(Peer::Ours).await.0);
    let stream = cloud.opener.open(StreamKind::Kubelet).unwrap();
    let sent: Vec<u8> = (0..2_000_000_u32).map(|at| (at / 7) as u8).collect();
    let mut received = Vec::<u8>::new();
    let sending = async {
        write(&stream, &sent).await;
        stream.finish();
    };
    let receiving = async {
        let mut bytes = vec![0; 9000];
        loop {
            match read(&stream, &mut bytes).await.unwrap() {
                0 => return,
                n_read => received.extend(&bytes[..n_read]),
            }
        }
    };
    tokio::join!(sending, receiving);
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    drop(stream);
    settled("the edge to forget it", || bench.metrics.encode().unwrap().contains("edgecore_open_streams 0"))
        .await;
    bench.counted("edgecore_opened_streams_total 1");
    bench.counted("edgecore_reset_streams_total 0");
    bench.counted("edgecore_stream_bytes_down_total 2000000");
    bench.counted("edgecore_stream_bytes_up_total 2000000");
}

#[tokio::test]
async fn while_nobody_serves_the_cloud_is_told_so() {
    let bench = bench(Some(edge_stream::refuse())).await;
    let cloud = driven(bench.accept(Peer::Ours).await.0);
    let stream = cloud.opener.open(StreamKind::Kubelet).unwrap();
    let reset = read(&stream, &mut [0; 9]).await.unwrap_err();
    assert_eq!(
        (reset.code, reset.text.as_str()),
        (ResetCode::Refused, "this edgecore serves nothing by streams yet")
    );
    cloud.update("still-works").await;
}

#[tokio::test]
async fn of_200_logs_that_nobody_reads_none_delays_an_update() {
    let bench = bench(serving(log)).await;
    let cloud = driven(bench.accept(Peer::Ours).await.0);
    let streams: Vec<RawStream> = (0..200).map(|_| cloud.opener.open(StreamKind::Kubelet).unwrap()).collect();
    settled("200 full windows", || cloud.opener.n_held_bytes() == 200 * FIRST_WINDOW).await;
    cloud.update("while-all-stall").await;
    // One of them is read; it goes on as if it were alone.
    let mut bytes = vec![0; 50_000];
    let mut n_read = 0;
    while n_read < 1_000_000 {
        n_read += read(&streams[7], &mut bytes).await.unwrap();
    }
    cloud.update("while-199-stall").await;
    drop(streams);
    settled("the edge to forget them", || {
        bench.metrics.encode().unwrap().contains("edgecore_open_streams 0")
    })
    .await;
    bench.counted("edgecore_reset_streams_total 200");
    settled("the cloud to forget them", || cloud.opener.n_streams() == 0).await;
}

#[tokio::test]
async fn of_a_message_and_a_frame_the_message_is_written_first() {
    let (sender, mut handed) = mpsc::channel(1);
    let handler: StreamHandler = Arc::new(move |stream| sender.try_send(stream).unwrap());
    let bench = bench(Some(handler)).await;
    let (mut socket, _) = bench.accept(Peer::Ours).await;
    let streams = LinkStreams::new(Role::Cloud);
    let _open = streams.opener().open(StreamKind::Kubelet).unwrap();
    socket.send(Message::Binary(streams.next_frame().unwrap())).await.unwrap();
    let mut stream: LinkStream = soon("the stream", handed.recv()).await.unwrap();
    // Each round tosses a coin about which of the two the link sees first.
    for round in 0..20 {
        let topic = format!("round-{round}");
        // Neither line waits, so the link, which is another task of this thread, finds both.
        let upload = Up::MqttUpload { id: MessageId::fresh(), topic: topic.clone(), payload: "x".into() };
        bench.cloud.tell(upload).await.unwrap();
        let written = std::future::poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"frame"));
        assert_eq!(written.await.unwrap(), 5);
        let mut told = Vec::new();
        while told.len() < 2 {
            match soon("a frame", socket.next()).await {
                Some(Ok(Message::Binary(_))) => told.push("frame"),
                Some(Ok(Message::Text(text))) if text.contains(&topic) => told.push("message"),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, ["message", "frame"], "{topic}");
    }
}

#[tokio::test]
async fn a_link_that_is_cut_ends_its_streams_and_the_next_one_has_its_own() {
    let (sender, mut ended) = mpsc::channel(1);
    let bench = bench(serving(move |mut stream: LinkStream| {
        let sender = sender.clone();
        async move {
            let error = stream.read(&mut [0; 9]).await.unwrap_err();
            let _ = sender.send(error.kind()).await;
        }
    }))
    .await;
    for _ in 0..2 {
        let cloud = driven(bench.accept(Peer::Ours).await.0);
        let stream = cloud.opener.open(StreamKind::Kubelet).unwrap();
        cloud.update("opened-before-this").await;
        cloud.task.abort();
        assert_eq!(soon("the end", ended.recv()).await, Some(std::io::ErrorKind::ConnectionAborted));
        drop(stream);
        assert_eq!(cloud.opener.n_streams(), 0);
    }
    bench.counted("edgecore_open_streams 0");
}

#[tokio::test]
async fn of_1000_streams_half_of_them_aborted_nothing_is_left() {
    let bench = bench(serving(echo)).await;
    let cloud = driven(bench.accept(Peer::Ours).await.0);
    for round in 0..20 {
        let mut users = JoinSet::new();
        for n in 0..50 {
            let stream = cloud.opener.open(StreamKind::Kubelet).unwrap();
            users.spawn(async move {
                write(&stream, &vec![b'a'; 1 + 300 * n]).await;
                if n % 2 == 0 {
                    return;
                }
                stream.finish();
                let (mut bytes, mut n_heard) = (vec![0; 4096], 0);
                while let n_read @ 1.. = read(&stream, &mut bytes).await.unwrap() {
                    n_heard += n_read;
                }
                assert_eq!(n_heard, 1 + 300 * n);
            });
        }
        soon(&format!("round {round}"), users.join_all()).await;
    }
    settled("nothing left", || {
        cloud.opener.n_streams() == 0 && bench.metrics.encode().unwrap().contains("edgecore_open_streams 0\n")
    })
    .await;
    bench.counted("edgecore_opened_streams_total 1000");
    bench.counted("edgecore_reset_streams_total 500");
    cloud.update("still-works").await;
}
