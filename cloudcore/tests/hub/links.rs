//! What a link carries, and how links of one node follow each other.

use bytes::Bytes;
use cloudcore::node_queue::{Desired, Gone, Held, Ledger, QueueOrder, Share};
use ke_run::config::Within;
use ke_wire::{About, AckRoute, Change, Down, MessageId, NodeName, Origin, Up, Version};

use crate::bench::{Bench, Link, PATIENCE, closed, receive, say};

fn desired(name: &str, version: u64) -> Desired {
    Desired {
        key: format!("default/configmap/{name}").parse().unwrap(),
        uid: format!("uid-{name}").parse().unwrap(),
        version: Version::new(version),
        change: Change::Updated,
        origin: Origin::EdgeController,
        body: Bytes::from_static(b"{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\"}"),
    }
}

fn gone(name: &str) -> Gone {
    let Desired { key, uid, origin, body, .. } = desired(name, 0);
    Gone { key, uid, version: None, origin, body }
}

/// Takes the next push, acknowledges it and says what it was.
async fn take(link: &mut Link) -> String {
    let (id, key, what) = match receive(link).await {
        Down::Put(put) => (put.id, put.key.clone(), format!("put {} {}", put.key.name, put.version)),
        Down::Delete(delete) => (delete.id, delete.key.clone(), format!("delete {}", delete.key.name)),
        other => panic!("{other:?}"),
    };
    let route = AckRoute::AsReceived(Origin::EdgeController);
    say(link, &Up::Ack { id: MessageId::fresh(), to: id, about: About::Object(key), route }).await;
    what
}

async fn wait_ledger(bench: &Bench, node: &NodeName, expected: &[(&str, u64)]) {
    let mut seen = Vec::new();
    let waiting = async {
        loop {
            let held = bench.ledger.load(node).await.unwrap();
            seen = held.values().map(|held| (held.key.name.to_string(), held.version.number())).collect();
            seen.sort();
            if seen.iter().map(|(name, version)| (name.as_str(), *version)).eq(expected.iter().copied()) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let outcome = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(outcome.is_ok(), "the ledger holds {seen:?}, not {expected:?}");
}

#[tokio::test]
async fn an_order_arrives_and_its_acknowledgement_is_noted() {
    let mut bench = Bench::start().await;
    let node: NodeName = "edge-a".parse().unwrap();
    let (_, mut link) = bench.join("edge-a").await;
    bench.orders.tell(QueueOrder::Put(node.clone(), desired("one", 7))).await;
    assert_eq!(take(&mut link).await, "put one 7");
    wait_ledger(&bench, &node, &[("one", 7)]).await;
    bench.orders.tell(QueueOrder::Delete(node.clone(), gone("one"))).await;
    assert_eq!(take(&mut link).await, "delete one");
    wait_ledger(&bench, &node, &[]).await;
    assert_eq!(bench.counted("cloudcore_delivered_objects_total"), 2);
}

#[tokio::test]
async fn what_vanished_while_the_node_was_away_is_deleted() {
    let mut bench = Bench::start().await;
    let node: NodeName = "edge-a".parse().unwrap();
    for name in ["kept", "vanished"] {
        let Desired { key, uid, version, .. } = desired(name, 5);
        bench.ledger.confirmed(&node, &uid, Held { key, version }).await;
    }
    let (_, mut link) = bench.join("edge-a").await;
    bench.orders.tell(QueueOrder::HandOver(node.clone(), Share::Workload)).await;
    bench.orders.tell(QueueOrder::Put(node.clone(), desired("kept", 5))).await;
    bench.orders.tell(QueueOrder::Put(node.clone(), desired("new", 6))).await;
    bench.orders.tell(QueueOrder::Synced(node.clone(), Share::Workload)).await;
    let mut told = [take(&mut link).await, take(&mut link).await];
    told.sort();
    assert_eq!(told, ["delete vanished", "put new 6"]);
    wait_ledger(&bench, &node, &[("kept", 5), ("new", 6)]).await;
}

#[tokio::test]
async fn the_newest_link_of_a_key_replaces_the_one_before() {
    let mut bench = Bench::start().await;
    bench.nodes.known.lock().unwrap().insert("edge-a".into());
    let (machine, mut first) = bench.join("edge-a").await;
    bench.wait_pinned("edge-a").await;
    let mut second = bench.connect(&machine, "edge-a").await.unwrap();
    assert!(closed(&mut first).await.contains("connected anew"));
    let mut told = [bench.news().await, bench.news().await];
    told.sort();
    assert_eq!(told, ["connected edge-a", "disconnected edge-a"], "EdgeController counts links");
    bench.orders.tell(QueueOrder::Put("edge-a".parse().unwrap(), desired("one", 1))).await;
    assert_eq!(take(&mut second).await, "put one 1");
    second.close(None).await.unwrap();
    assert_eq!(bench.news().await, "disconnected edge-a");
    assert_eq!(bench.counted("cloudcore_connected_nodes"), 0);
}

#[tokio::test]
async fn another_key_does_not_take_the_name() {
    let mut bench = Bench::start().await;
    // Enrolled before the first machine registered, so it has a certificate of that name.
    let other = bench.enrol("edge-a").await;
    let (_, mut first) = bench.join("edge-a").await;
    bench.nodes.known.lock().unwrap().insert("edge-a".into());
    bench.register(&mut first, "edge-a").await;
    bench.wait_pinned("edge-a").await;
    let mut second = bench.connect(&other, "edge-a").await.unwrap();
    let why = closed(&mut second).await;
    assert!(
        why.starts_with("1008") && why.contains("belongs to another machine, last seen at 127.0.0.1"),
        "{why}"
    );
    let told = bench.nodes.refusals.lock().unwrap().concat();
    assert!(told.contains("last seen at 127.0.0.1; the one at 127.0.0.1 has another key"), "{told}");
    bench.orders.tell(QueueOrder::Put("edge-a".parse().unwrap(), desired("one", 1))).await;
    assert_eq!(take(&mut first).await, "put one 1");
}

#[tokio::test]
async fn the_node_limit_counts_nodes() {
    let mut bench = Bench::with(|config| config.node_limit = Within::of::<1>()).await;
    let (machine, mut first) = bench.join("edge-a").await;
    let other = bench.enrol("edge-b").await;
    let mut refused = bench.connect(&other, "edge-b").await.unwrap();
    let why = closed(&mut refused).await;
    assert!(why.contains("nodeLimit"), "{why}");
    // A node that comes back before its old link is noticed to be dead is no further node.
    let mut second = bench.connect(&machine, "edge-a").await.unwrap();
    assert!(closed(&mut first).await.contains("connected anew"));
    second.close(None).await.unwrap();
    let mut told = [bench.news().await, bench.news().await, bench.news().await];
    told.sort();
    assert_eq!(told, ["connected edge-a", "disconnected edge-a", "disconnected edge-a"]);
    let _link = bench.connect(&other, "edge-b").await.unwrap();
    assert_eq!(bench.news().await, "connected edge-b");
}

#[tokio::test]
async fn a_deleted_node_loses_its_session_and_its_records() {
    let mut bench = Bench::start().await;
    let node: NodeName = "edge-a".parse().unwrap();
    let (_, mut link) = bench.join("edge-a").await;
    bench.orders.tell(QueueOrder::Put(node.clone(), desired("one", 1))).await;
    take(&mut link).await;
    wait_ledger(&bench, &node, &[("one", 1)]).await;
    bench.orders.tell(QueueOrder::NodeGone(node.clone())).await;
    assert!(closed(&mut link).await.contains("the Node was deleted"));
    assert_eq!(bench.news().await, "disconnected edge-a");
    wait_ledger(&bench, &node, &[]).await;
}
