//! Who may ask what, and requests that are none.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::bench::Bench;

/// Starts the loopback port of `bench`.
async fn port(bench: &mut Bench) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (server, stop) = (bench.server.take().unwrap(), bench.shutdown.clone());
    tokio::spawn(server.accept(listener, stop));
    address
}

async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_port_shows_no_container() {
    let mut bench = Bench::start().await;
    let address = port(&mut bench).await;
    for (method, path) in [
        ("GET", "/containerLogs/shop/web/app"),
        ("POST", "/exec/shop/web/app?output=1&command=ls"),
        ("GET", "/attach/shop/web/u1/app?output=1"),
        ("POST", "/portForward/shop/web"),
        ("POST", "/run/shop/web/app?cmd=ls"),
        // Nor whether there is one.
        ("GET", "/containerLogs/shop/no/app"),
    ] {
        let answer = ask(address, method, path).await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("keadm ctl"), "{path}: {answer}");
    }
    assert!(bench.runtime.streams().is_empty());
    let answer = ask(address, "GET", "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
    for (path, kind, expected) in [
        ("/pods", "application/json", r#""kind":"PodList""#),
        ("/pods", "application/json", r#""phase":"Running""#),
        ("/runningpods/", "application/json", r#""containers":[{"image":"web:1","name":"app""#),
        ("/stats/summary", "application/json", r#""podRef":{"name":"web","namespace":"shop","uid":"u1"}"#),
        ("/stats/summary?only_cpu_and_memory=true", "application/json", r#""nodeName":"edge-1""#),
        ("/metrics", "openmetrics", "# EOF"),
        ("/metrics", "openmetrics", "\nkubelet_running_pods 1\n"),
        ("/metrics", "openmetrics", "\nprocess_resident_memory_bytes "),
        ("/metrics/resource", "version=0.0.4", "node_memory_working_set_bytes "),
        ("/metrics/resource", "version=0.0.4", "resource_scrape_error 0\n"),
        ("/metrics/cadvisor", "version=0.0.4", "machine_cpu_cores 1\n"),
        (
            "/metrics/probes",
            "version=0.0.4",
            "prober_probe_total{container=\"app\",namespace=\"shop\",pod=\"web\",pod_uid=\"u1\",probe_type=\"Readiness\",result=\"successful\"} 1\n",
        ),
    ] {
        let answer = ask(address, "GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        assert!(answer.contains(kind) && answer.contains(expected), "{path}: {answer}");
    }
    bench.runtime.go_away();
    let answer = ask(address, "GET", "/metrics/resource").await;
    assert!(answer.contains("resource_scrape_error 1\n") && answer.contains("node_cpu"), "{answer}");
    assert!(ask(address, "GET", "/runningpods").await.starts_with("HTTP/1.1 500 "));
    assert!(ask(address, "GET", "/secrets").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn requests_that_are_none() {
    let bench = Bench::start().await;
    bench.check("GET", "/", 404, "404 page not found").await;
    bench.check("GET", "/containerLogs/../../etc/passwd", 404, "").await;
    bench.check("GET", "/containerLogs/shop/web/..", 404, "container \"..\" not found").await;
    bench.check("DELETE", "/pods", 405, "Method Not Allowed").await;
    let giant = format!("X-Giant: {}\r\n", "x".repeat(1 << 20));
    let words = "&command=x".repeat(7_000);
    for (request, status) in [
        (format!("GET /healthz HTTP/1.1\r\nHost: e\r\n{giant}\r\n"), " 431 "),
        (format!("GET /healthz HTTP/1.1\r\nHost: e\r\n{}\r\n", "X: y\r\n".repeat(1000)), " 431 "),
        (format!("POST /exec/shop/web/app?output=1{words} HTTP/1.1\r\nHost: e\r\n\r\n"), " 414 "),
        ("GET /heal\0thz HTTP/1.1\r\n\r\n".to_owned(), " 400 "),
        ("\u{16}\u{3}\u{1}\0\0\r\n\r\n".to_owned(), " 400 "),
    ] {
        let answer = bench.say(&request).await.end().await;
        assert!(answer.starts_with("HTTP/1.1") && answer.contains(status), "{status}: {answer}");
    }
    // Half a head, then nothing.
    let served = bench.say("GET /healthz HT").await.go();
    served.await.unwrap();
}

#[tokio::test]
async fn a_stream_that_was_handed_over_carries_one_request() {
    let bench = Bench::start().await;
    let twice = "GET /healthz HTTP/1.1\r\nHost: e\r\n\r\n".repeat(2);
    let answer = bench.say(&twice).await.end().await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 1, "{answer}");
}
