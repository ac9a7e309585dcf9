//! Who is let in, and to which node.

use super::*;

#[tokio::test]
async fn who_may_is_judged_as_a_kubelet_does() {
    let mut bench = bench(&free_ports(2)).await;
    let port = bench.node("edge-1");
    let stranger = Bench::pair(&bench.strangers, "kube-apiserver-kubelet-client", &["system:masters"]);
    let nobody = Bench::pair(&bench.clients, "nobody", &["visitors"]);
    let one = Bench::pair(&bench.clients, "one", &[]);
    let unclear = Bench::pair(&bench.clients, "unclear", &[]);
    let master = bench.master();
    let (exec, metrics) = (get("/exec/shop/web/c?command=id"), get("/metrics/resource"));
    bench.check(port, None, &exec, 401, "Unauthorized").await;
    bench.check(port, Some(&stranger), &exec, 401, "Unauthorized").await;
    bench
        .check(port, Some(&master), &exec, 200, "edge-1: GET /exec/shop/web/c?command=id HTTP/1.1\r\n")
        .await;
    let text = "Forbidden (user=nobody, verb=get, resource=nodes, subresource(s)=[proxy])";
    bench.check(port, Some(&nobody), &exec, 403, text).await;
    bench.check(port, Some(&nobody), &get("/pods"), 403, "subresource(s)=[pods proxy])").await;
    bench.check(port, Some(&one), &exec, 200, "edge-1: ").await;
    bench.check(port, Some(&one), &get("/pods"), 200, "edge-1: ").await;
    bench.check(port, Some(&one), &metrics, 403, "subresource(s)=[metrics])").await;
    let text = "Authorization error (user=unclear, verb=get, resource=nodes, subresource=proxy)";
    bench.check(port, Some(&unclear), &exec, 500, text).await;

    // metrics-server has a token, and a certificate of nobody's is no hindrance.
    bench.check(port, None, &with_token("/metrics/resource", "good"), 200, "edge-1: ").await;
    bench.check(port, Some(&stranger), &with_token("/metrics/resource", "good"), 200, "edge-1: ").await;
    bench.check(port, None, &with_token("/exec/shop/web/c", "good"), 403, "user=metrics").await;
    bench.check(port, None, &with_token("/metrics/resource", "bad"), 401, "Unauthorized").await;
    bench.check(port, None, &with_token("/metrics/resource", "unclear"), 401, "Unauthorized").await;
}

#[tokio::test]
async fn what_was_asked_is_not_asked_again_at_once() {
    let mut bench = bench(&free_ports(2)).await;
    let (first, second) = (bench.node("edge-1"), bench.node("edge-2"));
    let one = Bench::pair(&bench.clients, "one", &[]);
    let exec = get("/exec/shop/web/c");
    let asked = |bench: &Bench| std::mem::take(&mut *bench.script.asked.lock().unwrap());
    bench.check(first, Some(&one), &exec, 200, "edge-1: ").await;
    assert_eq!(asked(&bench), ["one get proxy ", "one get proxy edge-1"]);
    bench.check(first, Some(&one), &exec, 200, "edge-1: ").await;
    assert_eq!(asked(&bench), [""; 0]);
    // Who may it on all nodes is asked for once for all.
    bench.check(first, None, &with_token("/metrics/resource", "good"), 200, "edge-1: ").await;
    assert_eq!(asked(&bench), ["token good", "metrics get metrics "]);
    bench.check(second, None, &with_token("/metrics/resource", "good"), 200, "edge-2: ").await;
    assert_eq!(asked(&bench), [""; 0]);
    // That of the API server is its own rule.
    let master = bench.master();
    bench.check(first, Some(&master), &exec, 200, "edge-1: ").await;
    assert_eq!(asked(&bench), [""; 0]);
}

#[tokio::test]
async fn a_request_goes_to_its_node_and_to_no_other() {
    let mut bench = bench(&free_ports(2)).await;
    let (first, second) = (bench.node("edge-1"), bench.node("edge-2"));
    let third = bench.node("edge-3");
    assert_eq!(third, bench.shared, "no port is left for it");
    let (master, shared) = (bench.master(), bench.shared);
    let master = Some(&master);
    // By the node's own port, whatever the path is about.
    bench.check(first, master, &get("/stats/summary"), 200, "edge-1: GET /stats/summary").await;
    bench.check(second, master, &get("/stats/summary"), 200, "edge-2: GET /stats/summary").await;
    bench.check(first, master, &get("/containerLogs/shop/web/c?follow=true"), 200, "edge-1: ").await;
    let text = "pod db in namespace shop is on node edge-2, not on edge-1";
    bench.check(first, master, &get("/containerLogs/shop/db/c"), 404, text).await;
    bench
        .check(first, master, &get("/containerLogs/shop/gone/c"), 404, "no pod gone in namespace shop")
        .await;
    bench.check(first, master, &get("/stats/../exec/shop/db/c"), 400, "not in its plain form").await;
    // By the shared one, where the path must say.
    bench.check(shared, master, &get("/containerLogs/shop/db/c"), 200, "edge-2: ").await;
    bench.check(shared, master, &get("/portForward/shop/web"), 200, "edge-1: ").await;
    bench.check(shared, master, &get("/stats/summary"), 404, "modules.cloudStream.kubeletPorts").await;
    bench.check(shared, master, &get("/exec/shop/gone/c"), 404, "no pod gone").await;
    bench.check(shared, master, &get("/exec/shop"), 404, "must name namespace and pod").await;
    // Whoever may one node learns nothing of others there.
    let one = Bench::pair(&bench.clients, "one", &[]);
    bench.check(shared, Some(&one), &get("/exec/shop/web/c"), 200, "edge-1: ").await;
    bench.check(shared, Some(&one), &get("/exec/shop/db/c"), 403, "Forbidden (user=one").await;
    bench.check(shared, Some(&one), &get("/exec/shop/gone/c"), 403, "Forbidden (user=one").await;
    // Two Nodes that say the same: neither is served until it is settled.
    let says = |port: u16| json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    bench.endpoints.seen(&name("edge-1"), &says(first));
    bench.endpoints.seen(&name("edge-0"), &says(first));
    bench.check(first, master, &get("/stats/summary"), 404, "this port is shared").await;
    bench.endpoints.gone(&name("edge-0"));
    bench.check(first, master, &get("/stats/summary"), 200, "edge-1: ").await;
    // A Node that is gone is nobody; who comes next has the port.
    bench.endpoints.gone(&name("edge-1"));
    bench.check(first, master, &get("/stats/summary"), 404, "this port is shared").await;
    assert_eq!(bench.node("edge-3"), first);
    bench.check(first, master, &get("/stats/summary"), 200, "edge-3: ").await;
}

#[tokio::test]
async fn ports_are_open_before_a_node_says_them() {
    let ports = free_ports(3);
    let mut sorted = ports.clone();
    sorted.sort_unstable();
    // Somebody else has the first.
    let _taken = std::net::TcpListener::bind(("127.0.0.1", sorted[0])).unwrap();
    let mut bench = bench(&ports).await;
    let master = bench.master();
    assert_eq!(bench.node("edge-1"), sorted[1]);
    bench.check(sorted[1], Some(&master), &get("/healthz"), 200, "edge-1: ").await;
    // What a Node remembers from before is open once it is seen.
    let object = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": sorted[2]}}}});
    bench.endpoints.seen(&name("edge-2"), &object);
    bench.check(sorted[2], Some(&master), &get("/healthz"), 200, "edge-2: ").await;
    assert_eq!(bench.node("edge-2"), sorted[2]);
    // One that remembers a port which cannot be had here gets another, or the shared one.
    let object = json!({"status": {"daemonEndpoints": {"kubeletEndpoint": {"Port": sorted[0]}}}});
    bench.endpoints.seen(&name("edge-3"), &object);
    assert_eq!(bench.node("edge-3"), bench.shared);
}

#[tokio::test]
async fn a_node_that_cannot_be_reached_is_named() {
    let mut bench = bench(&free_ports(2)).await;
    let (away, silent) = (bench.node("edge-9"), bench.node("edge-8"));
    let master = bench.master();
    let text = "node edge-9 cannot be reached: it is not connected to cloudcore";
    bench.check(away, Some(&master), &get("/stats/summary"), 502, text).await;
    let text = "node edge-8 cannot be reached: its tunnel was not opened within 4s";
    bench.check(silent, Some(&master), &get("/stats/summary"), 502, text).await;
    // Open, and nobody reads: a head larger than what a stream holds by itself.
    let mut stuck = bench.connect(bench.shared, Some(&master)).await;
    let long = get(&format!("/exec/shop/web/c?{}", "x".repeat(60_000)));
    stuck.write_all(long.as_bytes()).await.unwrap();
    let mut answer = String::new();
    soon("an answer", stuck.read_to_string(&mut answer)).await.unwrap();
    let text = "node edge-1 cannot be reached: it did not take the request within 4s";
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.ends_with(text), "{answer}");
}

#[tokio::test]
async fn heads_that_are_too_long_too_slow_or_none() {
    let mut bench = bench(&[]).await;
    let (port, master) = (bench.shared, bench.master());
    let master = Some(&master);
    let long = format!("GET /exec/shop/web/c?{} HTTP/1.1\r\n\r\n", "x".repeat(70_000));
    bench.check(port, master, &long, 431, "larger than 64 KiB").await;
    let fits = format!("GET /exec/shop/web/c?{} HTTP/1.1\r\n\r\n", "x".repeat(60_000));
    bench.check(port, master, &fits, 200, "edge-1: GET /exec/shop/web/c?xxx").await;
    bench.check(port, master, "GET /pods HTTP/1.1\r\nHost: a\r\n", 408, "did not come within 4s").await;
    bench.check(port, master, "nonsense\r\n\r\n", 400, "cannot be read").await;
    bench.check(port, master, "GET /pods HTTP/1.0\r\n\r\n", 400, "HTTP/1.1").await;

    // Byte by byte is fine, if it is done in time.
    let mut stream = bench.connect(port, master).await;
    for byte in get("/exec/shop/db/c").bytes() {
        stream.write_all(&[byte]).await.unwrap();
    }
    let (node, mut theirs) = soon("a stream", bench.dialled.recv()).await.unwrap();
    assert_eq!(node.as_str(), "edge-2");
    assert!(head_at(&mut theirs).await.starts_with("GET /exec/shop/db/c"));
    // Nothing said, nothing answered, and not for ever.
    let mut stream = bench.connect(port, None).await;
    let mut answer = Vec::new();
    soon("a hang-up", stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{answer:?}");
}
