//! Exec, attach and port-forward against a streaming server of the test.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::bench::{Bench, PATIENCE};
use crate::edged::RuntimeError;
use tonic::Code;

const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
                    X-Stream-Protocol-Version: v3.channel.k8s.io\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
                      X-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";

struct Streaming(TcpListener);

impl Streaming {
    /// Where `bench`'s runtime promises streams from now on.
    async fn of(bench: &Bench) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        bench.runtime.set_streaming(&format!("http://{}", listener.local_addr().unwrap()));
        Self(listener)
    }

    /// The next connection, and its head.
    async fn next(&self) -> (TcpStream, String) {
        let (mut stream, _) = timeout(PATIENCE, self.0.accept()).await.unwrap().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        (stream, String::from_utf8(head).unwrap())
    }
}

#[tokio::test]
async fn the_head_goes_to_the_runtime_and_bytes_go_both_ways() {
    let bench = Bench::start().await;
    let streaming = Streaming::of(&bench).await;
    let path = "/exec/shop/web/app?command=sh&command=-c&command=echo+%24X%3B&input=1&output=1&tty=1";
    // The first bytes of the other protocol come with the head.
    let more = format!("Authorization: Bearer of-the-cloud\r\n{SPDY}\r\nearly");
    let mut caller = bench.ask_open("POST", path, &more).await;
    let (mut runtime, head) = streaming.next().await;
    let expected = format!("POST /exec/{} HTTP/1.1\r\n", bench.container);
    assert!(head.starts_with(&expected), "{head}");
    for line in SPDY.trim().split("\r\n") {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
    }
    let host = format!("\r\nHost: {}\r\n", streaming.0.local_addr().unwrap());
    assert!(head.contains(&host) && !head.contains("of-the-cloud"), "{head}");
    let asked = bench.runtime.streams().join("");
    assert!(
        asked.contains(
            r#"cmd: ["sh", "-c", "echo $X;"], tty: true, stdin: true, stdout: true, stderr: false"#
        ),
        "{asked}"
    );

    runtime.write_all(SWITCH.as_bytes()).await.unwrap();
    let head = caller.head().await;
    for line in SWITCH.trim().split("\r\n") {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert!(!head.to_lowercase().contains("close"), "{head}");
    let mut early = [0; 5];
    runtime.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    for n in 0..100_u32 {
        let (there, back) = (format!("<{n}>").repeat(100), format!("[{n}]").repeat(100));
        caller.stream.write_all(there.as_bytes()).await.unwrap();
        let mut got = vec![0; there.len()];
        runtime.read_exact(&mut got).await.unwrap();
        assert_eq!(got, there.as_bytes());
        runtime.write_all(back.as_bytes()).await.unwrap();
        assert_eq!(caller.until(&back).await, back);
    }
    // The last words come although the runtime has gone.
    runtime.write_all(b"bye").await.unwrap();
    drop(runtime);
    assert_eq!(caller.end().await, "bye");
}

#[tokio::test]
async fn a_caller_who_goes_ends_the_stream() {
    let bench = Bench::start().await;
    let streaming = Streaming::of(&bench).await;
    for _ in 0..20 {
        let mut caller = bench.ask_open("POST", "/exec/shop/web/u1/app?output=1&command=top", SPDY).await;
        let (mut runtime, _) = streaming.next().await;
        runtime.write_all(SWITCH.as_bytes()).await.unwrap();
        caller.head().await;
        let served = caller.go();
        let mut rest = Vec::new();
        timeout(PATIENCE, runtime.read_to_end(&mut rest)).await.unwrap().unwrap();
        timeout(PATIENCE, served).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_reader_who_stops_stops_the_writer() {
    let bench = Bench::start().await;
    let streaming = Streaming::of(&bench).await;
    let mut caller = bench.ask_open("POST", "/exec/shop/web/app?output=1&command=yes", SPDY).await;
    let (mut runtime, _) = streaming.next().await;
    runtime.write_all(SWITCH.as_bytes()).await.unwrap();
    caller.head().await;
    let (block, mut n_taken) = (vec![b'y'; 64 << 10], 0_usize);
    // The kernel's buffers of one connection, and little more.
    while let Ok(written) = timeout(Duration::from_millis(500), runtime.write(&block)).await {
        n_taken += written.unwrap();
        assert!(n_taken < 64 << 20, "{n_taken} bytes were taken and nobody read any");
    }
    // Nothing of it is lost.
    let mut got = vec![0; n_taken];
    timeout(PATIENCE, caller.stream.read_exact(&mut got)).await.unwrap().unwrap();
    assert!(got.iter().all(|byte| *byte == b'y'));
}

#[tokio::test]
async fn attach_and_port_forward_are_streams_too() {
    let bench = Bench::start().await;
    let streaming = Streaming::of(&bench).await;
    let websocket = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: a2V5\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: v5.channel.k8s.io, v4.channel.k8s.io\r\n";
    let attach = format!("/attach/{}", bench.container);
    let forward = format!("/portforward/{}", bench.sandbox);
    for (method, path, more, wanted, asked) in [
        (
            "GET",
            "/attach/shop/web/app?output=1&error=1",
            websocket,
            &attach,
            "tty: false, stdout: true, stderr: true",
        ),
        ("POST", "/portForward/shop/web", SPDY, &forward, "port: []"),
        ("POST", "/portForward/shop/web/u1", SPDY, &forward, "port: []"),
        ("GET", "/portForward/shop/web?port=80,8080", websocket, &forward, "port: [80, 8080]"),
    ] {
        let mut caller = bench.ask_open(method, path, more).await;
        let (mut runtime, head) = streaming.next().await;
        assert!(head.starts_with(&format!("{method} {wanted} HTTP/1.1\r\n")), "{head}");
        for line in more.trim().split("\r\n") {
            assert!(head.contains(line), "{line} in {head}");
        }
        let last = bench.runtime.streams().pop().unwrap();
        assert!(last.contains(asked), "{last}");
        runtime.write_all(SWITCH.as_bytes()).await.unwrap();
        runtime.write_all(b"first").await.unwrap();
        caller.head().await;
        caller.expect("first").await;
        drop(runtime);
        caller.end().await;
    }
    bench.check_with("GET", "/portForward/shop/web?port=x", websocket, 400, "parse \"x\" as a port").await;
    bench.check_with("GET", "/portForward/shop/web", websocket, 400, "\"port\" is required").await;
}

#[tokio::test]
async fn what_the_runtime_refuses_is_passed_on() {
    let bench = Bench::start().await;
    let streaming = Streaming::of(&bench).await;
    for (answer, code, text) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 13\r\n\r\nno such token", 404, "no such token"),
        (
            "HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nspdy?\r\n0\r\n\r\n",
            400,
            "spdy?",
        ),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\nlater", 503, "later"),
        ("no HTTP at all\r\n\r\n", 500, "streaming server"),
        ("", 500, "streaming server"),
    ] {
        let caller = bench.ask_open("POST", "/exec/shop/web/app?output=1&command=ls", SPDY).await;
        let (mut runtime, _) = streaming.next().await;
        runtime.write_all(answer.as_bytes()).await.unwrap();
        drop(runtime);
        let got = caller.end().await;
        assert!(got.starts_with(&format!("HTTP/1.1 {code} ")) && got.contains(text), "{answer}: {got}");
    }
}

#[tokio::test]
async fn what_cannot_be_a_stream_is_told() {
    let bench = Bench::start().await;
    let exec = "/exec/shop/web/app?output=1&command=ls";
    let check = async |path: &str, code: u16, expected: &str| {
        bench.check_with("POST", path, SPDY, code, expected).await;
    };
    bench.check("POST", exec, 400, "Upgrade request required").await;
    check("/exec/shop/web/app?command=ls", 400, "at least 1 of stdin, stdout, stderr").await;
    check("/exec/shop/no/app?output=1", 404, "pod does not exist").await;
    check("/exec/shop/web/u2/app?output=1", 404, "pod does not exist").await;
    check("/exec/shop/web/side?output=1", 500, "container not found (\"side\")").await;
    check("/exec/shop/web/no?output=1", 500, "container not found (\"no\")").await;
    check("/attach/shop/web/side?output=1", 500, "container not found (\"side\")").await;
    check("/portForward/shop/no", 404, "pod does not exist").await;
    // Nobody listens where the runtime says.
    check(exec, 500, "reach the container runtime's streaming server").await;
    bench.runtime.set_streaming("http://192.0.2.1:1");
    check(exec, 500, "no address of this machine alone").await;
    let full = RuntimeError::Refused { code: Code::ResourceExhausted, message: "too many".into() };
    bench.runtime.fail_next("exec_url", full);
    check(exec, 429, "too many").await;
    // It went between two questions.
    bench.runtime.fail_next("exec_url", RuntimeError::NotFound("container gone".into()));
    check(exec, 404, "container gone").await;
    bench.runtime.exit_container(&bench.container, 0, "Completed");
    check(exec, 500, "container not found (\"app\")").await;
    bench.runtime.kill_sandbox(&bench.sandbox);
    check("/portForward/shop/web", 500, "failed to find sandboxID for pod web").await;
    bench.runtime.go_away();
    check(exec, 500, "away").await;
}
