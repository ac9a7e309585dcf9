//! A real log of this node's kubelet face over the link, followed by somebody who does not read.

use super::*;
use crate::kubelet_server::bench::{Bench as Kubelet, position};

/// Milliseconds of the middle one of so many updates.
async fn update_time(cloud: &Driven, name: &str) -> f64 {
    let mut times = Vec::new();
    for number in 0..51 {
        let begun = std::time::Instant::now();
        cloud.update(&format!("{name}-{number}")).await;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    times[25]
}

#[tokio::test]
async fn a_followed_log_that_nobody_reads_delays_no_update_and_holds_little() {
    let kubelet = Kubelet::start().await;
    let lines = |n: usize| -> String {
        (0..n).map(|n| format!("2026-01-31T12:00:02Z stdout F line {n:07}\n")).collect()
    };
    kubelet.log_line(&lines(400_000));
    let handle = kubelet.handle.clone();
    let bench = bench(serving(move |stream| {
        let handle = handle.clone();
        async move { handle.serve(stream).await }
    }))
    .await;
    let cloud = driven(bench.accept(Peer::Ours).await.0);
    let alone = update_time(&cloud, "alone").await;

    let stalled = cloud.opener.open(StreamKind::Kubelet).unwrap();
    write(&stalled, b"GET /containerLogs/shop/web/app?follow=true HTTP/1.1\r\nHost: edge\r\n\r\n").await;
    settled("a full window", || cloud.opener.n_held_bytes() == FIRST_WINDOW).await;
    let beside = update_time(&cloud, "beside").await;
    println!("an update takes {alone:.2} ms, and {beside:.2} ms beside a reader that does not read");
    assert!(beside < 3.0 * alone + 20.0, "{beside} ms, and {alone} ms without");

    // However much more comes, nothing is taken from it.
    let file = kubelet.logs().join("0.log");
    let n_read = position(&file);
    assert!(n_read < 512 << 10, "{n_read} bytes of the log were read for nobody");
    kubelet.log_line(&lines(100_000));
    update_time(&cloud, "later").await;
    assert_eq!((position(&file), cloud.opener.n_held_bytes()), (n_read, FIRST_WINDOW));

    // Who reads after all gets on from there.
    let (mut bytes, mut n_heard) = (vec![0; 50_000], 0);
    while n_heard < 4_000_000 {
        n_heard += read(&stalled, &mut bytes).await.unwrap();
    }
    drop(stalled);
    settled("the edge to forget it", || bench.metrics.encode().unwrap().contains("edgecore_open_streams 0"))
        .await;
}
