//! What passes between client and node.

use std::time::Instant;

use super::*;
use crate::cloud_stream::places::{MAX_STREAMS_OF_NODE, MAX_STREAMS_OF_POD};

#[tokio::test]
async fn credentials_stay_here_and_one_request_is_one_stream() {
    let mut bench = bench(&free_ports(1)).await;
    let port = bench.node("edge-1");
    let request = "GET /metrics/resource HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer good\r\nConnection: keep-alive\r\n\
                   Upgrade: h2c\r\nAccept: */*\r\n\r\n";
    let head =
        "edge-1: GET /metrics/resource HTTP/1.1\r\nHost: n\r\nAccept: */*\r\nConnection: close\r\n\r\n";
    bench.check(port, None, request, 200, head).await;
    // An upgrade where a kubelet makes none is no way to a second, unjudged request.
    let request = "GET /metrics HTTP/1.1\r\nAuthorization: Bearer good\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n\
                   POST /exec/shop/web/c HTTP/1.1\r\n\r\n";
    let head = "edge-1: GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n";
    bench.check(port, None, request, 200, head).await;
}

#[tokio::test]
async fn an_upgrade_passes_untouched_both_ways() {
    let mut bench = bench(&[]).await;
    let (shared, master) = (bench.shared, bench.master());
    let mut client = bench.connect(shared, Some(&master)).await;
    let head = "POST /exec/shop/web/c?command=sh&tty=1 HTTP/1.1\r\nHost: 127.0.0.1:10351\r\nConnection: Upgrade\r\n\
                Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v5.channel.k8s.io\r\n\r\n";
    let noise: Vec<u8> = (0..300_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    // The first of it right behind the head.
    client.write_all(&[head.as_bytes(), &noise[..1000]].concat()).await.unwrap();
    let (node, mut theirs) = soon("a stream", bench.dialled.recv()).await.unwrap();
    assert_eq!(node.as_str(), "edge-1");
    assert_eq!(head_at(&mut theirs).await, head);
    let (mut client_reads, mut client_writes) = tokio::io::split(client);
    let (up, down) = (noise.clone(), noise.clone());
    let sending = tokio::spawn(async move {
        client_writes.write_all(&up[1000..]).await.unwrap();
        client_writes.shutdown().await.unwrap();
        client_writes
    });
    let (mut node_reads, mut node_writes) = tokio::io::split(theirs);
    let answering = tokio::spawn(async move {
        node_writes.write_all(&down).await.unwrap();
        node_writes.shutdown().await.unwrap();
    });
    let (mut at_node, mut at_client) = (Vec::new(), Vec::new());
    let both = async {
        tokio::join!(node_reads.read_to_end(&mut at_node), client_reads.read_to_end(&mut at_client))
    };
    let (up, down) = soon("both ways", both).await;
    up.unwrap();
    down.unwrap();
    assert!(at_node == noise && at_client == noise, "{} and {} bytes", at_node.len(), at_client.len());
    sending.await.unwrap();
    answering.await.unwrap();
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_its_node_and_nobody_else() {
    let mut bench = bench(&free_ports(2)).await;
    let (first, second) = (bench.node("edge-1"), bench.node("edge-2"));
    let master = bench.master();
    let mut client = bench.connect(first, Some(&master)).await;
    client.write_all(get("/containerLogs/shop/web/c?follow=true").as_bytes()).await.unwrap();
    let (_, mut theirs) = soon("a stream", bench.dialled.recv()).await.unwrap();
    head_at(&mut theirs).await;
    let mut n_sent = 0_usize;
    let piece = vec![b'x'; 64 << 10];
    while let Ok(sent) = tokio::time::timeout(Duration::from_millis(500), theirs.write(&piece)).await {
        n_sent += sent.unwrap();
        // What the kernel holds for both ends of a connection is some megabytes; we hold a few kilobytes.
        assert!(n_sent < 64 << 20, "{n_sent} bytes were taken for a client that reads none");
    }
    let asked = Instant::now();
    bench.check(second, Some(&master), &get("/stats/summary"), 200, "edge-2: ").await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    drop(theirs);
    let mut read = Vec::new();
    soon("the rest", client.read_to_end(&mut read)).await.unwrap();
    assert_eq!(read.len(), n_sent);
}

#[tokio::test]
async fn whoever_goes_ends_the_other() {
    let mut bench = bench(&free_ports(1)).await;
    let port = bench.node("edge-1");
    let master = bench.master();
    for client_goes in [true, false] {
        let mut client = bench.connect(port, Some(&master)).await;
        client.write_all(get("/containerLogs/shop/web/c?follow=true").as_bytes()).await.unwrap();
        let (_, mut theirs) = soon("a stream", bench.dialled.recv()).await.unwrap();
        head_at(&mut theirs).await;
        let mut rest = Vec::new();
        if client_goes {
            drop(client);
            soon("the node to hear of it", theirs.read_to_end(&mut rest)).await.unwrap();
        } else {
            drop(theirs);
            soon("the client to hear of it", client.read_to_end(&mut rest)).await.unwrap();
        }
        assert_eq!(rest, b"");
    }
    let none = async {
        while bench.counters.open.get() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("no stream to be left", none).await;
}

#[tokio::test]
async fn one_node_does_not_use_up_what_is_for_all() {
    let mut bench = bench(&free_ports(2)).await;
    let (first, second) = (bench.node("edge-1"), bench.node("edge-2"));
    let master = bench.master();
    let mut held = Vec::new();
    let logs = get("/containerLogs/shop/web/c");
    for n in 0..MAX_STREAMS_OF_NODE {
        let path = if n < MAX_STREAMS_OF_POD { "/containerLogs/shop/web/c?follow=true" } else { "/metrics" };
        if n == MAX_STREAMS_OF_POD {
            let text = "64 streams to pod web in namespace shop are open already";
            bench.check(first, Some(&master), &logs, 429, text).await;
        }
        let mut client = bench.connect(first, Some(&master)).await;
        client.write_all(get(path).as_bytes()).await.unwrap();
        let (_, theirs) = soon("a stream", bench.dialled.recv()).await.unwrap();
        held.push((client, theirs));
    }
    bench.check(first, Some(&master), &logs, 429, "256 streams to node edge-1 are open already").await;
    bench.check(second, Some(&master), &get("/stats/summary"), 200, "edge-2: ").await;
    drop(held.swap_remove(0));
    let again = async {
        while !bench.ask(first, Some(&master), &logs).await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("room for another", again).await;
}
