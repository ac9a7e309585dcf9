//! Byte streams over a link: beside messages, behind messages, and without leaving anything behind.

use std::pin::pin;
use std::task::Poll;

use ke_link::streams::shared::{LinkStreams, RawStream};
use ke_link::streams::{FIRST_WINDOW, HEADER, LINK_WINDOW, Role};
use ke_socket::stream::LinkStream;
use ke_wire::{Change, MessageId, Origin, Question, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use super::*;
use crate::node_queue::{Desired, QueueOrder};
use crate::tunnels::NoTunnel;

fn config_map(name: &str, n_bytes: usize) -> Desired {
    let body = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"x":"{}"}}}}"#,
        "x".repeat(n_bytes)
    );
    Desired {
        key: format!("default/configmap/{name}").parse().unwrap(),
        uid: format!("uid-{name}").parse().unwrap(),
        version: Version::new(7),
        change: Change::Updated,
        origin: Origin::EdgeController,
        body: body.into(),
    }
}

fn name(node: &str) -> NodeName {
    node.parse().unwrap()
}

/// An edge that offers streams: its socket, and what the cloud answered to the offer.
async fn dial_offering(bench: &Bench, node: &str, offer: Option<&str>) -> (Edge, Option<String>) {
    let identity = Identity::signed_by(&bench.authority, node);
    let stream = tls(bench.messages, &bench.authority, Some(&identity)).await.unwrap();
    shake(bench, node, offer, stream).await
}

async fn shake(
    bench: &Bench,
    node: &str,
    offer: Option<&str>,
    stream: TlsStream<TcpStream>,
) -> (Edge, Option<String>) {
    let mut request = format!("wss://{}/cluster/any/events", bench.messages).into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.append("node_id", node.parse().unwrap());
    headers.append("ConnectionUse", "msg".parse().unwrap());
    if let Some(offer) = offer {
        headers.append(HEADER, offer.parse().unwrap());
    }
    let (socket, answer) = soon("handshake", tokio_tungstenite::client_async(request, stream)).await.unwrap();
    (Edge(socket), answer.headers().get(HEADER).map(|value| value.to_str().unwrap().to_owned()))
}

/// The edge's end: moves frames, hands each stream to `serve`, and gives each message away.
async fn drive<F: Future<Output = ()> + Send + 'static>(
    mut edge: Edge,
    streams: LinkStreams,
    serve: impl Fn(RawStream) -> F,
    messages: mpsc::Sender<String>,
) {
    loop {
        let received = {
            let mut ready = pin!(std::future::poll_fn(|cx| streams.poll_ready(cx)));
            tokio::select! {
                received = edge.0.next() => Some(received),
                () = &mut ready => None,
            }
        };
        match received {
            Some(Some(Ok(Message::Binary(frame)))) => {
                if let Some(stream) = streams.handle_bytes(&frame).unwrap() {
                    tokio::spawn(serve(stream));
                }
            }
            Some(Some(Ok(Message::Text(text)))) => {
                let Down::Put(put) = kubeedge::decode_down(text.as_bytes(), 64 << 20).unwrap() else {
                    continue;
                };
                messages.send(put.key.name.to_string()).await.unwrap();
            }
            Some(Some(Ok(_))) => {}
            Some(_) => return,
            None => edge.0.send(Message::Binary(streams.next_frame().unwrap())).await.unwrap(),
        }
    }
}

async fn read(stream: &RawStream, into: &mut [u8]) -> usize {
    std::future::poll_fn(|cx| stream.poll_read(cx, into)).await.unwrap_or(0)
}

async fn write(stream: &RawStream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match std::future::poll_fn(|cx| stream.poll_write(cx, bytes)).await {
            Ok(n_taken) => bytes = &bytes[n_taken..],
            Err(_) => return false,
        }
    }
    true
}

/// Says again what it hears, and ends when that ends.
async fn echo(stream: RawStream) {
    let mut bytes = [0; 5000];
    loop {
        let n_read = read(&stream, &mut bytes).await;
        if n_read == 0 {
            return stream.finish();
        }
        if !write(&stream, &bytes[..n_read]).await {
            return;
        }
    }
}

/// A container that logs and never ends.
async fn log(stream: RawStream) {
    while write(&stream, &[b'.'; 1000]).await {}
}

struct Driven {
    messages: mpsc::Receiver<String>,
    opener: ke_link::streams::shared::StreamOpener,
    task: tokio::task::JoinHandle<()>,
}

async fn driven<F: Future<Output = ()> + Send + 'static>(
    bench: &mut Bench,
    node: &str,
    serve: impl Fn(RawStream) -> F + Send + 'static,
) -> Driven {
    let identity = Identity::signed_by(&bench.authority, node);
    driven_as(bench, &identity, node, serve).await
}

async fn driven_as<F: Future<Output = ()> + Send + 'static>(
    bench: &mut Bench,
    identity: &Identity,
    node: &str,
    serve: impl Fn(RawStream) -> F + Send + 'static,
) -> Driven {
    let stream = tls(bench.messages, &bench.authority, Some(identity)).await.unwrap();
    let (edge, answer) = shake(bench, node, Some("1"), stream).await;
    assert_eq!(answer.as_deref(), Some("1"));
    bench.connected_node().await;
    let streams = LinkStreams::new(Role::Edge);
    let opener = streams.opener();
    let (sender, messages) = mpsc::channel(64);
    let task = tokio::spawn(drive(edge, streams, serve, sender));
    Driven { messages, opener, task }
}

async fn settled(what: &str, is_settled: impl Fn() -> bool) {
    soon(what, async {
        while !is_settled() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_node_has_streams_only_if_its_edgecore_offered_them() {
    let mut bench = bench(|_| {}).await;
    let away = bench.tunnels.connect(&name("edge-a")).unwrap_err();
    assert_eq!(away, NoTunnel::NotConnected(name("edge-a")));
    // As a Go edge, and as one that knows a later version only.
    for offer in [None, Some("2")] {
        let (mut edge, answer) = dial_offering(&bench, "edge-a", offer).await;
        assert_eq!(answer, None);
        bench.connected_node().await;
        let none = bench.tunnels.connect(&name("edge-a")).unwrap_err();
        assert_eq!(none, NoTunnel::NoStreams(name("edge-a")));
        // A message in a binary frame is read all the same, as before there were streams.
        let ask = Up::Ask {
            id: MessageId::fresh(),
            question: Question::Get("default/secret/other".parse().unwrap()),
        };
        edge.0.send(Message::binary(kubeedge::encode_up(&ask, 0))).await.unwrap();
        assert!(matches!(edge.hear().await, Down::Answer { .. }));
        drop(edge);
        assert!(matches!(soon("the end", bench.said.recv()).await, Some(FromNode::Disconnected(_))));
    }
    let away = bench.tunnels.connect(&name("edge-a")).unwrap_err();
    assert_eq!(away, NoTunnel::NotConnected(name("edge-a")));
}

#[tokio::test]
async fn bytes_go_both_ways_and_end_each_way() {
    let mut bench = bench(|_| {}).await;
    let edge = driven(&mut bench, "edge-a", echo).await;
    let stream = bench.tunnels.connect(&name("edge-a")).unwrap();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let sent: Vec<u8> = (0..3_000_000_u32).map(|at| (at / 7) as u8).collect();
    let mut received = Vec::new();
    let sending = async {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    };
    soon("all of it", async { tokio::join!(sending, reader.read_to_end(&mut received)).1.unwrap() }).await;
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
    assert_eq!(bench.tunnels.n_streams(&name("edge-a")), 1);
    drop((reader, writer));
    settled("both ends to forget it", || edge.opener.n_streams() == 0).await;
    assert_eq!(bench.tunnels.n_streams(&name("edge-a")), 0);
}

#[tokio::test]
async fn of_200_logs_one_reader_stalls_and_an_update_comes() {
    let mut bench = bench(|_| {}).await;
    let mut edge = driven(&mut bench, "edge-a", log).await;
    let mut streams: Vec<LinkStream> =
        (0..200).map(|_| bench.tunnels.connect(&name("edge-a")).unwrap()).collect();
    // All of them fill their windows; nobody reads yet.
    settled("200 full windows", || bench.tunnels.n_held_bytes(&name("edge-a")) == 200 * FIRST_WINDOW).await;
    bench.queues.tell(QueueOrder::Put(name("edge-a"), config_map("while-all-stall", 10))).await;
    assert_eq!(soon("the update", edge.messages.recv()).await.unwrap(), "while-all-stall");
    // 199 readers go on; the first one never reads.
    let mut readers = JoinSet::new();
    for mut stream in streams.drain(1..) {
        readers.spawn(async move {
            let mut bytes = vec![0; 100_000];
            stream.read_exact(&mut bytes).await.unwrap();
            assert!(bytes.iter().all(|byte| *byte == b'.'));
            stream
        });
    }
    bench.queues.tell(QueueOrder::Put(name("edge-a"), config_map("while-199-read", 10))).await;
    assert_eq!(soon("the update", edge.messages.recv()).await.unwrap(), "while-199-read");
    streams.extend(soon("what the others read", readers.join_all()).await);
    let mut first = [0; FIRST_WINDOW];
    soon("what waited", streams[0].read_exact(&mut first)).await.unwrap();
    drop(streams);
    settled("both ends to forget them", || edge.opener.n_streams() == 0).await;
    assert_eq!(bench.tunnels.n_streams(&name("edge-a")), 0);
    assert_eq!(bench.tunnels.n_held_bytes(&name("edge-a")), 0);
}

/// What the next frame is: the name of a put object, or the type of a stream's frame and its length.
async fn next_frame(edge: &mut Edge) -> Result<String, (u8, usize)> {
    match soon("a frame", edge.0.next()).await {
        Some(Ok(Message::Text(text))) => match kubeedge::decode_down(text.as_bytes(), 64 << 20).unwrap() {
            Down::Put(put) => Ok(put.key.name.to_string()),
            other => panic!("{other:?}"),
        },
        Some(Ok(Message::Binary(frame))) => Err((frame[0], frame.len())),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn of_a_message_and_a_frame_the_message_is_written_first() {
    let mut bench = bench(|_| {}).await;
    let (mut edge, _) = dial_offering(&bench, "edge-a", Some("1")).await;
    bench.connected_node().await;
    // Fewer than may be unacknowledged; each round tosses a coin about which of the two the link sees first.
    for round in 0..14 {
        // Neither line waits, and this thread runs all tasks in the order in which they were woken: first the queue, then
        // the link, which so finds both.
        let object = format!("round-{round}");
        bench.queues.tell(QueueOrder::Put(name("edge-a"), config_map(&object, 10))).await;
        let stream = bench.tunnels.connect(&name("edge-a")).unwrap();
        assert_eq!(next_frame(&mut edge).await.expect("the stream went first"), object);
        assert_eq!(next_frame(&mut edge).await, Err((1, 6)));
        drop(stream);
        assert!(matches!(next_frame(&mut edge).await, Err((4, _))));
    }
}

/// An edge with a small buffer, so that cloudcore cannot finish a large message while it does not read.
async fn narrow(bench: &mut Bench, identity: &Identity) -> Edge {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let stream = socket.connect(bench.messages).await.unwrap();
    let stream = tls_over(stream, bench.messages, &bench.authority, Some(identity)).await.unwrap();
    let (edge, _) = shake(bench, "edge-a", Some("1"), stream).await;
    bench.connected_node().await;
    edge
}

#[tokio::test]
async fn two_ends_that_both_write_do_not_wait_for_each_other() {
    let mut bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");
    let mut edge = narrow(&mut bench, &identity).await;
    bench.queues.tell(QueueOrder::Put(name("edge-a"), config_map("large", 12 << 20))).await;
    soon("its first bytes", edge.0.get_ref().get_ref().0.readable()).await.unwrap();
    // The edge has much to say itself, and reads nothing before it has said it.
    let route = r#""header":{"msg_id":"1"},"route":{"operation":"levitate","resource":"default/pod/a"}"#;
    let said = format!(r#"{{{route},"content":"{}"}}"#, "x".repeat(7 << 20));
    soon("saying it", edge.0.send(Message::text(said))).await.unwrap();
    assert_eq!(next_frame(&mut edge).await.unwrap(), "large");
}

#[tokio::test]
async fn messages_that_come_during_a_write_go_before_200_streams() {
    let mut bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");
    let mut edge = narrow(&mut bench, &identity).await;
    let mut witness = driven(&mut bench, "edge-z", echo).await;

    bench.queues.tell(QueueOrder::Put(name("edge-a"), config_map("large", 12 << 20))).await;
    soon("its first bytes", edge.0.get_ref().get_ref().0.readable()).await.unwrap();
    // Stuck in the middle of it: now 200 streams have something to say, and after them three objects are ordered.
    let mut streams = Vec::new();
    for _ in 0..200 {
        let mut stream = bench.tunnels.connect(&name("edge-a")).unwrap();
        let written = std::future::poll_fn(|cx| {
            Poll::Ready(tokio::io::AsyncWrite::poll_write(
                std::pin::Pin::new(&mut stream),
                cx,
                &[b'x'; 1 << 20],
            ))
        });
        assert!(!matches!(written.await, Poll::Ready(Err(_))));
        streams.push(stream);
    }
    for object in ["one", "two", "three"] {
        bench.queues.tell(QueueOrder::Put(name("edge-a"), config_map(object, 10))).await;
    }
    // Orders are taken in turn: once this one arrived, those before it are in their node's queue.
    bench.queues.tell(QueueOrder::Put(name("edge-z"), config_map("witness", 10))).await;
    assert_eq!(soon("the witness", witness.messages.recv()).await.unwrap(), "witness");

    let mut objects = Vec::new();
    for _ in 0..4 {
        objects.push(next_frame(&mut edge).await.expect("a stream's frame went first"));
    }
    assert_eq!(objects[0], "large");
    objects.sort();
    assert_eq!(objects, ["large", "one", "three", "two"]);
    // The edge says nothing of having heard, so no more than the link's window comes, and then a message still does.
    let (mut n_opened, mut n_data) = (0, 0);
    while n_opened < 200 || n_data + FIRST_WINDOW <= LINK_WINDOW {
        match next_frame(&mut edge).await {
            Err((1, _)) => n_opened += 1,
            Err((2, length)) => n_data += length - 5,
            other => panic!("{other:?}"),
        }
    }
    assert!(bench.tunnels.n_held_bytes(&name("edge-a")) > 4 * LINK_WINDOW, "most of it waits");
    bench.queues.tell(QueueOrder::Put(name("edge-a"), config_map("behind-the-window", 10))).await;
    assert_eq!(next_frame(&mut edge).await.unwrap(), "behind-the-window");
    assert_eq!((n_opened, n_data), (200, LINK_WINDOW));
}

#[tokio::test]
async fn a_link_that_is_cut_ends_its_streams_with_an_error() {
    let mut bench = bench(|_| {}).await;
    let edge = driven(&mut bench, "edge-a", echo).await;
    let mut stream = bench.tunnels.connect(&name("edge-a")).unwrap();
    stream.write_all(b"are you there?").await.unwrap();
    let mut echoed = [0; 14];
    soon("the echo", stream.read_exact(&mut echoed)).await.unwrap();
    edge.task.abort();
    let error = soon("the end", stream.read(&mut echoed)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    assert!(error.to_string().contains("the link between cloud and edge ended"), "{error}");
    assert!(stream.write_all(b"and now?").await.is_err());
    settled("the node to be gone", || bench.tunnels.connect(&name("edge-a")).is_err()).await;
    assert_eq!(bench.tunnels.connect(&name("edge-a")).unwrap_err(), NoTunnel::NotConnected(name("edge-a")));
    assert_eq!(edge.opener.n_streams(), 0);
}

#[tokio::test]
async fn of_1000_streams_half_of_them_aborted_nothing_is_left() {
    let mut bench = bench(|_| {}).await;
    let edge = driven(&mut bench, "edge-a", echo).await;
    for round in 0..20 {
        let mut users = JoinSet::new();
        for n in 0..50 {
            let mut stream = bench.tunnels.connect(&name("edge-a")).unwrap();
            users.spawn(async move {
                let said = vec![b'a'; 1 + 700 * n];
                if n % 2 == 0 {
                    // Let go in the middle: at once, after some bytes, with bytes unread.
                    let _ = stream.write(&said[..said.len() / (1 + n % 3)]).await;
                    if n % 4 == 0 {
                        let _ = stream.read(&mut [0; 100]).await;
                    }
                    return;
                }
                let (mut reader, mut writer) = tokio::io::split(stream);
                let mut heard = Vec::new();
                let saying = async {
                    writer.write_all(&said).await.unwrap();
                    writer.shutdown().await.unwrap();
                };
                let ((), n_heard) = tokio::join!(saying, reader.read_to_end(&mut heard));
                assert_eq!(n_heard.unwrap(), said.len());
            });
        }
        soon(&format!("round {round}"), users.join_all()).await;
    }
    settled("nothing left", || edge.opener.n_streams() + bench.tunnels.n_streams(&name("edge-a")) == 0).await;
    assert_eq!((edge.opener.n_held_bytes(), bench.tunnels.n_held_bytes(&name("edge-a"))), (0, 0));
    let counted = bench.stream_metrics.encode().unwrap();
    let has = |line: &str| assert!(counted.lines().any(|found| found == line), "{line} is not in\n{counted}");
    has("cloudcore_opened_streams_total 1000");
    has("cloudcore_open_streams 0");
    has("cloudcore_reset_streams_total 500");
}

#[tokio::test]
async fn a_node_that_breaks_the_rules_of_streams_loses_its_link_and_no_other() {
    let mut bench = bench(|_| {}).await;
    let good = driven(&mut bench, "edge-b", echo).await;
    for frame in [&b"garbage"[..], b"\x02\0\0\0\x01data of no stream", b"\x06\0\0\0\0\0\0\0\x01", b""] {
        let (mut edge, _) = dial_offering(&bench, "edge-a", Some("1")).await;
        bench.connected_node().await;
        edge.0.send(Message::binary(frame.to_vec())).await.unwrap();
        let farewell = edge.farewell().await;
        assert!(farewell.starts_with("1008 "), "{farewell}");
        assert!(matches!(soon("the end", bench.said.recv()).await, Some(FromNode::Disconnected(_))));
    }
    // A stream of the edge's own making is refused and nothing more.
    let (mut edge, _) = dial_offering(&bench, "edge-a", Some("1")).await;
    bench.connected_node().await;
    edge.0.send(Message::binary(b"\x01\0\0\0\x02\x01".to_vec())).await.unwrap();
    assert_eq!(next_frame(&mut edge).await, Err((4, 6 + "the cloud takes no streams".len())));

    let mut stream = bench.tunnels.connect(&name("edge-b")).unwrap();
    stream.write_all(b"still?").await.unwrap();
    soon("the echo", stream.read_exact(&mut [0; 6])).await.unwrap();
    assert_eq!(good.opener.n_streams(), 1);
}

#[tokio::test]
async fn a_refusal_reaches_whoever_reads_and_the_newest_link_is_used() {
    let mut bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");
    let _old = driven_as(&mut bench, &identity, "edge-a", echo).await;
    let mut of_old = bench.tunnels.connect(&name("edge-a")).unwrap();
    let refuse = async |stream: RawStream| stream.refuse("this edgecore serves no kubelet");
    let _new = driven_as(&mut bench, &identity, "edge-a", refuse).await;
    let error = soon("the end", of_old.read(&mut [0; 9])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
    let mut stream = bench.tunnels.connect(&name("edge-a")).unwrap();
    let error = soon("the refusal", stream.read(&mut [0; 9])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(error.to_string(), "the stream to node edge-a ended: this edgecore serves no kubelet");
}
