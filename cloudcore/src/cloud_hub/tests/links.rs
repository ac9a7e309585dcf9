//! The message port: who gets in, what goes through, and what ends a link.

use ke_wire::{About, AckRoute, Answer, Change, MessageId, Origin, Question, Version};

use super::*;
use crate::node_queue::{Desired, QueueOrder};

fn secret(name: &str) -> Desired {
    Desired {
        key: format!("default/secret/{name}").parse().unwrap(),
        uid: format!("uid-{name}").parse().unwrap(),
        version: Version::new(7),
        change: Change::Updated,
        origin: Origin::EdgeController,
        body: r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#.into(),
    }
}

impl Bench {
    pub(super) async fn connected_node(&mut self) -> String {
        match soon("news of a link", self.said.recv()).await {
            Some(FromNode::Connected(node)) => node.to_string(),
            other => panic!("{other:?}"),
        }
    }

    async fn disconnected_node(&mut self) -> String {
        match soon("news of a link's end", self.said.recv()).await {
            Some(FromNode::Disconnected(node)) => node.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_object_goes_down_and_its_acknowledgement_into_the_ledger() {
    let mut bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");
    let mut edge = dial(&bench, &identity, "edge-a").await.unwrap();
    assert_eq!(bench.connected_node().await, "edge-a");
    let node: NodeName = "edge-a".parse().unwrap();
    bench.queues.tell(QueueOrder::Put(node.clone(), secret("edge-a"))).await;
    let Down::Put(put) = edge.hear().await else { panic!("a push") };
    assert_eq!((put.key.to_string().as_str(), put.version), ("default/secret/edge-a", Version::new(7)));
    assert!(bench.ledger.load(&node).await.unwrap().is_empty(), "not before the node says so");
    let about = About::Object(put.key.clone());
    let route = AckRoute::AsReceived(Origin::EdgeController);
    edge.say(&Up::Ack { id: MessageId::fresh(), to: put.id, about, route }).await;
    // The next question is read after the acknowledgement.
    let id = MessageId::fresh();
    edge.say(&Up::Ask { id: id.clone(), question: Question::ApiServerCa }).await;
    match soon("the question", bench.said.recv()).await {
        Some(FromNode::Ask(_, Question::ApiServerCa, answer)) => {
            answer.send((Answer::Pem("pem".into()), None)).unwrap();
        }
        other => panic!("{other:?}"),
    }
    let Down::Answer { to, answer, .. } = edge.hear().await else { panic!("an answer") };
    assert_eq!((to, answer), (id, Answer::Pem("pem".into())));
    let held = bench.ledger.load(&node).await.unwrap();
    assert_eq!(held["uid-edge-a"].version, Version::new(7));
}

#[tokio::test]
async fn what_nobody_here_takes_is_counted_and_goes_no_further() {
    let mut bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");
    let mut edge = dial(&bench, &identity, "edge-a").await.unwrap();
    bench.connected_node().await;
    edge.say(&Up::SetWatches { id: MessageId::fresh(), watches: BTreeMap::new() }).await;
    // Read after it.
    edge.say(&Up::Ask { id: MessageId::fresh(), question: Question::ApiServerCa }).await;
    let next = soon("the question", bench.said.recv()).await;
    assert!(matches!(next, Some(FromNode::Ask(_, Question::ApiServerCa, _))), "{next:?}");
    assert_eq!((bench.counters.dropped.get(), bench.counters.refused.get()), (1, 0));
}

#[tokio::test]
async fn another_nodes_secret_is_forbidden_and_the_link_goes_on() {
    let mut bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-b");
    let mut edge = dial(&bench, &identity, "edge-b").await.unwrap();
    bench.connected_node().await;
    let mut ask = async |key: &str| {
        let question = Question::Get(key.parse().unwrap());
        edge.say(&Up::Ask { id: MessageId::fresh(), question }).await;
        match edge.hear().await {
            Down::Answer { answer: Answer::Refused(refusal), .. } => refusal.code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask("default/secret/edge-a").await, 403);
    assert_eq!(ask("default/configmap/edge-a").await, 403);
    assert!(bench.said.try_recv().is_err(), "EdgeController is not even asked");
}

#[tokio::test]
async fn bad_frames_end_the_link_with_a_reason_or_are_passed_over() {
    let mut bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");
    let huge = "x".repeat(100_000_000);
    for (frame, reason) in
        [("no json", "1008 close the link"), (&huge, "1009 a message of the node is longer")]
    {
        let edge = dial(&bench, &identity, "edge-a").await.unwrap();
        bench.connected_node().await;
        let (mut sink, stream) = edge.0.split();
        // Cloudcore hangs up before all of it is through.
        let sending = async { drop(sink.send(Message::text(frame)).await) };
        let ((), farewell) = tokio::join!(sending, farewell(stream));
        assert!(farewell.starts_with(reason), "{farewell}");
        bench.disconnected_node().await;
    }

    let mut edge = dial(&bench, &identity, "edge-a").await.unwrap();
    bench.connected_node().await;
    let unknown = r#"{"header":{"msg_id":"1"},"route":{"operation":"levitate","resource":"default/pod/a"}}"#;
    edge.0.send(Message::text(unknown)).await.unwrap();
    edge.say(&Up::Ask {
        id: MessageId::fresh(),
        question: Question::Get("null/node/other".parse().unwrap()),
    })
    .await;
    assert!(matches!(edge.hear().await, Down::Answer { .. }), "the link goes on");
}

#[tokio::test]
async fn strangers_stay_outside() {
    let bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");

    let edge = dial(&bench, &identity, "edge-b").await.unwrap();
    let farewell = edge.farewell().await;
    assert!(farewell.contains("the certificate is for system:nodes/system:node:edge-a"), "{farewell}");

    let edge = dial(&bench, &identity, "Not A Name").await.unwrap();
    let farewell = edge.farewell().await;
    assert!(farewell.contains("node_id"), "{farewell}");

    let headers = [("node_id", "edge-a"), ("ConnectionUse", "str")];
    let refused = dial_with(bench.messages, &bench.authority, &identity, &headers).await.err().unwrap();
    assert!(matches!(&refused, tungstenite::Error::Http(answer) if answer.status() == 400), "{refused}");

    let other = Authority::open(&config(), &MemorySecrets::default()).await.unwrap();
    let foreign = Identity::signed_by(&other, "edge-a");
    assert!(dial(&bench, &foreign, "edge-a").await.is_err(), "a certificate of another CA");
    let stream = tls(bench.messages, &bench.authority, None).await;
    if let Ok(mut stream) = stream {
        // In TLS 1.3 the server's refusal comes after the client's handshake.
        let read = soon("a refusal", tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1])).await;
        assert!(!matches!(read, Ok(1..)), "no certificate at all");
    }
}

#[tokio::test]
async fn headers_may_be_repeated_and_both_families_reach_one_port() {
    let mut bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");
    let headers = [("node_id", "edge-a"), ("ConnectionUse", "msg"), ("ConnectionUse", "msg")];
    let _edge = dial_with(bench.messages, &bench.authority, &identity, &headers).await.unwrap();
    assert_eq!(bench.connected_node().await, "edge-a");
    let port = bench.messages.port();
    if tokio::net::TcpListener::bind("[::1]:0").await.is_ok() {
        let to = SocketAddr::new("::1".parse().unwrap(), port);
        let identity = Identity::signed_by(&bench.authority, "edge-6");
        let headers = [("node_id", "edge-6"), ("ConnectionUse", "msg")];
        let _edge = dial_with(to, &bench.authority, &identity, &headers).await.unwrap();
        assert_eq!(bench.connected_node().await, "edge-6");
    }
}

#[tokio::test]
async fn a_new_connection_replaces_the_old_one_also_at_the_limit() {
    let mut bench = bench(|config| config.node_limit = Within::of::<1>()).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");
    let old = dial(&bench, &identity, "edge-a").await.unwrap();
    bench.connected_node().await;
    let mut new = dial(&bench, &identity, "edge-a").await.unwrap();
    bench.connected_node().await;
    assert_eq!(old.farewell().await, "1000 the node connected anew");
    bench.disconnected_node().await;

    let other = Identity::signed_by(&bench.authority, "edge-b");
    let farewell = dial(&bench, &other, "edge-b").await.unwrap().farewell().await;
    assert!(farewell.contains("nodeLimit"), "{farewell}");

    bench.queues.tell(QueueOrder::Put("edge-a".parse().unwrap(), secret("edge-a"))).await;
    assert!(matches!(new.hear().await, Down::Put(_)), "the new link is served");
}

#[tokio::test]
async fn a_name_belongs_to_the_first_key_until_the_node_is_deleted() {
    let mut bench = bench(|_| {}).await;
    let first = Identity::signed_by(&bench.authority, "edge-a");
    let second = Identity::signed_by(&bench.authority, "edge-a");
    let edge = dial(&bench, &first, "edge-a").await.unwrap();
    bench.connected_node().await;
    // Already before the Node exists, and on the Node from its registration on.
    let farewell = dial(&bench, &second, "edge-a").await.unwrap().farewell().await;
    assert!(farewell.contains("belongs to another machine, last seen at 127.0.0.1"), "{farewell}");
    drop(edge);
    bench.disconnected_node().await;

    bench.nodes.exist("edge-a");
    let edge = dial(&bench, &first, "edge-a").await.unwrap();
    bench.connected_node().await;
    soon("the pin", async {
        while bench.nodes.keys("edge-a").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(edge);
    bench.disconnected_node().await;
    assert_eq!(bench.nodes.keys("edge-a"), BTreeSet::from([first.fingerprint.clone()]));
    dial(&bench, &second, "edge-a").await.unwrap().farewell().await;
    assert_eq!(bench.nodes.told.lock().unwrap().len(), 1, "one event for both refusals");

    bench.nodes.delete("edge-a");
    let _edge = dial(&bench, &second, "edge-a").await.unwrap();
    assert_eq!(bench.connected_node().await, "edge-a");
}

#[tokio::test]
async fn everybody_hears_that_cloudcore_stops() {
    let mut bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");
    let edge = dial(&bench, &identity, "edge-a").await.unwrap();
    bench.connected_node().await;
    bench.trigger.stop();
    assert_eq!(edge.farewell().await, "1001 cloudcore stops");
    soon("the end of the hub", bench.ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_deleted_node_ends_its_link() {
    let mut bench = bench(|_| {}).await;
    let identity = Identity::signed_by(&bench.authority, "edge-a");
    let edge = dial(&bench, &identity, "edge-a").await.unwrap();
    bench.connected_node().await;
    bench.queues.tell(QueueOrder::NodeGone("edge-a".parse().unwrap())).await;
    assert_eq!(edge.farewell().await, "1000 the Node was deleted");
}
