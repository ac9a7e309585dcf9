//! Both ends on one pipe, and the edge's end against bytes written by hand.

use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;

const LIMITS: Limits = Limits {
    first: Duration::from_secs(60),
    read: Duration::from_secs(20),
    write: Duration::from_secs(5),
    ping: None,
    held_of_stream: 256 << 10,
    held: 1 << 20,
};

type Served = (Stream, Reached, KubeletRequest);

/// Streams that come to the edge.
fn edge(served: mpsc::UnboundedSender<Served>) -> End {
    let accept = move |stream, reached, request| drop(served.send((stream, reached, request)));
    End::Edge { accept: Box::new(accept), mask: || [1, 2, 3, 4] }
}

fn cloud() -> End {
    End::Cloud { ids: Arc::new(AtomicU64::new(1)) }
}

struct Pair {
    tunnel: Tunnel,
    served: mpsc::UnboundedReceiver<Served>,
    cloud: JoinHandle<String>,
    edge: JoinHandle<String>,
}

fn pair(limits: Limits) -> Pair {
    let (above, below) = duplex(4 << 10);
    let (sender, served) = mpsc::unbounded_channel();
    let (tunnel, cloud) = Session::new(above, Vec::new(), cloud(), limits);
    let (_, edge) = Session::new(below, Vec::new(), edge(sender), limits);
    Pair { tunnel, served, cloud: tokio::spawn(cloud.run()), edge: tokio::spawn(edge.run()) }
}

fn request(target: &str) -> KubeletRequest {
    KubeletRequest { target: target.into(), header: Default::default(), method: None }
}

async fn all(stream: &mut Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.receive().await {
        bytes.extend(piece);
    }
    bytes
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_end_is_told_of_the_other_s_end() {
    let mut pair = pair(LIMITS);
    let mut above = pair.tunnel.open(Reached::Exec, request("/exec/a/b/c?command=sh")).await.unwrap();
    let (mut below, reached, asked) = pair.served.recv().await.unwrap();
    assert_eq!((reached, &*asked.target), (Reached::Exec, "/exec/a/b/c?command=sh"));
    let sent: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
    above.writer().send(&sent).await.unwrap();
    let mut came = Vec::new();
    while came.len() < sent.len() {
        came.extend(below.receive().await.unwrap());
    }
    assert_eq!(came, sent);
    // All that was written before the end comes before it.
    below.writer().send(b"\xff\x00 the last words").await.unwrap();
    drop(below);
    assert_eq!(all(&mut above).await, b"\xff\x00 the last words");
    assert_eq!(above.over(), Some(Over::Removed));
    assert_eq!(above.writer().send(b"x").await, Err(Over::Removed));
    assert_eq!(pair.tunnel.n_streams(), 0);

    let above = pair.tunnel.open(Reached::Logs, request("/containerLogs/a/b/c")).await.unwrap();
    let (mut below, ..) = pair.served.recv().await.unwrap();
    drop(above);
    assert_eq!(all(&mut below).await, b"");
    assert_eq!(below.over(), Some(Over::Removed));
    pair.edge.abort();
    let why = pair.cloud.await.unwrap();
    assert!(why.contains("gone"), "{why}");
}

#[tokio::test]
async fn a_reader_that_is_behind_loses_its_own_stream_and_delays_no_other() {
    let mut pair = pair(LIMITS);
    let mut slow = pair.tunnel.open(Reached::Logs, request("/slow")).await.unwrap();
    let (mut firehose, ..) = pair.served.recv().await.unwrap();
    let mut other = pair.tunnel.open(Reached::Exec, request("/other")).await.unwrap();
    let (echo, ..) = pair.served.recv().await.unwrap();
    let writer = firehose.writer();
    let flood = tokio::spawn(async move {
        let mut n_sent = 0_usize;
        while writer.send(&[7; 1000]).await.is_ok() {
            n_sent += 1000;
        }
        n_sent
    });
    let start = std::time::Instant::now();
    for turn in 0..100_u8 {
        echo.writer().send(&[turn]).await.unwrap();
        assert_eq!(other.receive().await.unwrap(), [turn]);
    }
    let took = start.elapsed();
    // The edge is told, so that its end stops.
    assert_eq!(firehose.receive().await, None);
    let held = loop {
        if slow.over().is_some() {
            break all(&mut slow).await;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(slow.over(), Some(Over::Behind));
    drop(slow);
    let n_sent = tokio::time::timeout(Duration::from_secs(20), flood).await.unwrap().unwrap();
    assert!(held.len() <= LIMITS.held_of_stream && held.len() > LIMITS.held_of_stream / 2, "{}", held.len());
    assert!(n_sent > held.len());
    println!("100 turns beside a reader that never reads: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn what_all_streams_hold_is_bounded_too() {
    let mut pair = pair(Limits { held: 300 << 10, ..LIMITS });
    let mut streams = Vec::new();
    for _ in 0..2 {
        let above = pair.tunnel.open(Reached::Logs, request("/logs")).await.unwrap();
        let (below, ..) = pair.served.recv().await.unwrap();
        // The second one may hear of its end meanwhile.
        let _ = below.writer().send(&vec![1; 200 << 10]).await;
        streams.push((above, below));
    }
    // Nobody reads; the second one's do not fit.
    while streams[1].0.over().is_none() {
        tokio::task::yield_now().await;
    }
    assert_eq!((streams[0].0.over(), streams[1].0.over()), (None, Some(Over::Behind)));
}

#[tokio::test]
async fn streams_end_with_their_tunnel_and_are_bounded_in_number() {
    let mut pair = pair(LIMITS);
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        let above = pair.tunnel.open(Reached::Logs, request("/logs")).await.unwrap();
        streams.push((above, pair.served.recv().await.unwrap().0));
    }
    let more = pair.tunnel.open(Reached::Logs, request("/logs")).await;
    assert_eq!(more.unwrap_err(), OpenError::TooMany);
    // There is still room for data of those that are open.
    streams[0].1.writer().send(b"x").await.unwrap();
    assert_eq!(streams[0].0.receive().await.unwrap(), b"x");
    streams.pop();
    // Its end is told at both ends before the next one may come.
    let above = pair.tunnel.open(Reached::Logs, request("/logs")).await.unwrap();
    streams.push((above, pair.served.recv().await.unwrap().0));
    pair.cloud.abort();
    pair.edge.await.unwrap();
    for (above, below) in &mut streams {
        assert_eq!((all(above).await.len(), all(below).await.len()), (0, 0));
        assert_eq!((above.over(), below.over()), (Some(Over::Tunnel), Some(Over::Tunnel)));
    }
    let late = pair.tunnel.open(Reached::Logs, request("/logs")).await;
    assert_eq!(late.unwrap_err(), OpenError::Ended);
}

#[tokio::test(start_paused = true)]
async fn many_who_open_streams_at_once_wait_for_nobody_who_waits() {
    let (above, below) = duplex(4 << 10);
    let (sender, mut served) = mpsc::unbounded_channel();
    let (tunnel, cloud) = Session::new(above, Vec::new(), cloud(), LIMITS);
    let open = |_| {
        let tunnel = tunnel.clone();
        tokio::spawn(async move { tunnel.open(Reached::Logs, request("/logs")).await })
    };
    let opening: Vec<_> = (0..4000).map(open).collect();
    // All of them wait, or were told.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, edge) = Session::new(below, Vec::new(), edge(sender), LIMITS);
    let _running = [tokio::spawn(cloud.run()), tokio::spawn(edge.run())];
    let mut streams = Vec::new();
    for opening in opening {
        match opening.await.unwrap() {
            Ok(stream) => streams.push(stream),
            Err(error) => assert_eq!(error, OpenError::TooMany),
        }
    }
    assert_eq!(streams.len(), MAX_STREAMS);
    for _ in 0..MAX_STREAMS {
        served.recv().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_goes_while_he_waits_leaves_nothing() {
    // Nobody carries what is queued.
    let (above, _below) = duplex(4 << 10);
    let (tunnel, _session) = Session::new(above, Vec::new(), cloud(), LIMITS);
    let open = || tunnel.open(Reached::Logs, request("/logs"));
    for _ in 0..2 * (MAX_QUEUED + MAX_STREAMS) {
        // The stream ends, and what was said of it takes two places.
        if let Ok(opened) = tokio::time::timeout(Duration::from_secs(1), open()).await {
            opened.unwrap();
        }
    }
    assert!(tokio::time::timeout(Duration::from_secs(1), open()).await.is_err(), "the queue is full");
    assert_eq!((tunnel.n_streams(), tunnel.0.slots.available_permits()), (0, MAX_STREAMS));
}

/// The edge's end, with the cloud's bytes written by hand.
fn raw(limits: Limits) -> (DuplexStream, mpsc::UnboundedReceiver<Served>, JoinHandle<String>) {
    let (above, below) = duplex(64 << 10);
    let (sender, served) = mpsc::unbounded_channel();
    let (_, session) = Session::new(below, Vec::new(), edge(sender), limits);
    (above, served, tokio::spawn(session.run()))
}

async fn say(socket: &mut DuplexStream, message: &[u8]) {
    let mut bytes = Vec::new();
    frame::write(Kind::Text, message, None, &mut bytes);
    socket.write_all(&bytes).await.unwrap();
}

async fn hear(socket: &mut DuplexStream, frames: &mut FrameReader) -> Received {
    loop {
        let byte = [socket.read_u8().await.unwrap()];
        if let Some(received) = frames.read(&mut &byte[..]).unwrap() {
            return received;
        }
    }
}

#[tokio::test]
async fn messages_that_say_nothing_harm_nobody() {
    let (mut socket, mut served, edge) = raw(LIMITS);
    let mut frames = FrameReader::new(Role::Server, 1 << 20);
    // Of no stream, of an unknown type, no numbers.
    for message in [&b"\x05\x03data"[..], b"\x05\x04", b"\x05\x07", b"", b"\x80"] {
        say(&mut socket, message).await;
    }
    // That of an unknown type, too, is answered: whoever sent it may wait.
    assert_eq!(hear(&mut socket, &mut frames).await, Received::Message(b"\x05\x04".to_vec()));
    say(&mut socket, b"\x09\x01no json").await;
    assert_eq!(hear(&mut socket, &mut frames).await, Received::Message(b"\x09\x04".to_vec()));
    let connect = br#"{"MessID":3,"url":{"Path":"/exec/a/b/c"},"header":null,"method":"POST"}"#;
    let connect = [b"\x03\x01", &connect[..]].concat();
    say(&mut socket, &connect).await;
    let (mut stream, ..) = served.recv().await.unwrap();
    // The same number once more: the first one stays.
    say(&mut socket, &connect).await;
    assert_eq!(hear(&mut socket, &mut frames).await, Received::Message(b"\x03\x04".to_vec()));
    say(&mut socket, b"\x03\x03\xff\xfe").await;
    assert_eq!(stream.receive().await.unwrap(), b"\xff\xfe");
    // A Go cloud says it over and over until it is answered; once is enough.
    for _ in 0..3 {
        say(&mut socket, b"\x03\x04").await;
    }
    assert_eq!(stream.receive().await, None);
    drop(stream);
    assert_eq!(hear(&mut socket, &mut frames).await, Received::Message(b"\x03\x04".to_vec()));
    say(&mut socket, b"\x00\x05no such node").await;
    assert_eq!(edge.await.unwrap(), "the other end closed it: \"no such node\"");
}

fn connect(id: u8) -> Vec<u8> {
    // Below 128 a number is one byte.
    let request =
        format!(r#"{{"MessID":{id},"url":{{"Path":"/exec/a/b/c"}},"header":null,"method":"POST"}}"#);
    [&[id, 1][..], request.as_bytes()].concat()
}

#[tokio::test(start_paused = true)]
async fn a_large_log_keeps_out_neither_requests_nor_keystrokes() {
    let (mut socket, mut served, edge) = raw(LIMITS);
    let mut frames = FrameReader::new(Role::Server, 1 << 20);
    say(&mut socket, &connect(1)).await;
    let (log, ..) = served.recv().await.unwrap();
    let writer = log.writer();
    let writing = tokio::spawn(async move { writer.send(&vec![b'x'; 20 << 20]).await });
    // The other end reads nothing, and the writer has taken all that it may.
    tokio::time::sleep(Duration::from_secs(1)).await;
    say(&mut socket, &connect(2)).await;
    let (shell, ..) = served.recv().await.unwrap();
    say(&mut socket, &connect(3)).await;
    let (other, ..) = served.recv().await.unwrap();
    drop(other);
    let key = shell.writer();
    let typing = tokio::spawn(async move { key.send(b"k").await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!edge.is_finished());
    let mut n_before = 0;
    loop {
        let Received::Message(message) = hear(&mut socket, &mut frames).await else { panic!("a ping") };
        if message == b"\x02\x03k" {
            break;
        }
        n_before += message.len();
    }
    typing.await.unwrap().unwrap();
    println!("{n_before} bytes before a key");
    // The pipe's own 64 KiB, and as much as one second of a slow link.
    assert!(n_before <= (64 << 10) + 2 * QUEUE, "{n_before}");
    writing.abort();
    drop(log);
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_more_streams_than_there_are_is_refused_and_keeps_the_tunnel() {
    let (mut socket, mut served, edge) = raw(LIMITS);
    let mut frames = FrameReader::new(Role::Server, 1 << 20);
    say(&mut socket, &connect(1)).await;
    let (log, ..) = served.recv().await.unwrap();
    let writer = log.writer();
    let writing = tokio::spawn(async move { writer.send(&vec![b'x'; 20 << 20]).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    // One number over and over: it is taken, and a refusal lies in wait each time.
    for _ in 0..1000 {
        say(&mut socket, &connect(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!edge.is_finished());
    let mut n_refused = 0;
    while n_refused < 1000 {
        let Received::Message(message) = hear(&mut socket, &mut frames).await else { panic!("a ping") };
        n_refused += usize::from(message == b"\x01\x04");
    }
    // But not for ever: the log is stuck again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..=MAX_REFUSED {
        say(&mut socket, &connect(1)).await;
    }
    assert_eq!(edge.await.unwrap(), "the other end asks for too much at once");
    assert_eq!(writing.await.unwrap(), Err(Over::Tunnel));
}

#[tokio::test(start_paused = true)]
async fn an_end_that_is_silent_or_stuck_is_noticed() {
    let (mut socket, _served, edge) = raw(Limits { ping: Some(Duration::from_secs(5)), ..LIMITS });
    let mut frames = FrameReader::new(Role::Server, 1 << 20);
    for _ in 0..3 {
        assert_eq!(hear(&mut socket, &mut frames).await, Received::Ping(PING.to_vec()));
        let mut pong = Vec::new();
        frame::write(Kind::Pong, PING, None, &mut pong);
        frame::write(Kind::Ping, b"you?", None, &mut pong);
        socket.write_all(&pong).await.unwrap();
        assert_eq!(hear(&mut socket, &mut frames).await, Received::Pong);
    }
    assert_eq!(edge.await.unwrap(), "nothing came for 20s");

    // Nothing came at all: a cloud that looks for the Node first.
    let (_socket, _served, edge) = raw(LIMITS);
    assert_eq!(edge.await.unwrap(), "nothing came for 60s");

    let (above, below) = duplex(64);
    let (tunnel, session) = Session::new(above, Vec::new(), cloud(), LIMITS);
    let session = tokio::spawn(session.run());
    let _stream = tunnel.open(Reached::Logs, request("/logs")).await.unwrap();
    assert_eq!(session.await.unwrap(), "the other end took nothing for 5s");
    drop(below);
}
