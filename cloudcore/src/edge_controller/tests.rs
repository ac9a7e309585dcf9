//! The two halves of EdgeController with scripted neighbours: when a node is told what, and which questions wait.

use std::sync::Mutex;
use std::time::Duration;

use hyper::{Request, Response};
use ke_run::shutdown::Trigger;
use ke_wire::{Kind, NodeName, Question, Version};
use kube::client::Body;
use prometheus_client::metrics::counter::Counter;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::handle::LinkNews;
use super::observed::{Observed, WatchEvent};
use super::placer::REFILL_PAUSE;
use super::*;
use crate::node_queue::{QueueOrder, Share};

/// A server that takes a moment for each answer and notes when it begins and ends.
fn slow_server(seen: &Arc<Mutex<Vec<String>>>) -> ApiServer {
    let seen = Arc::clone(seen);
    let service = tower::service_fn(move |request: Request<Body>| {
        let seen = Arc::clone(&seen);
        async move {
            let name = request.uri().path().split('/').nth(6).unwrap_or("").to_owned();
            seen.lock().unwrap().push(format!("{name} begins"));
            tokio::time::sleep(Duration::from_secs(1)).await;
            seen.lock().unwrap().push(format!("{name} ends"));
            let body =
                json!({"metadata": {"name": name, "namespace": "shop", "uid": "c", "resourceVersion": "9"}});
            Ok::<_, tower::BoxError>(Response::new(Body::from(body.to_string().into_bytes())))
        }
    });
    ApiServer::new(kube::Client::new(service, "default"))
}

struct Bench {
    events: mpsc::Sender<WatchEvent>,
    news: mpsc::Sender<LinkNews>,
    passes: mpsc::Sender<()>,
    orders: mpsc::Receiver<QueueOrder>,
    _fixes: mpsc::Receiver<tolerate::Order>,
    _trigger: Trigger,
}

fn placing() -> Bench {
    let (queues, orders) = NodeQueues::channel();
    let (events, event) = mpsc::channel(64);
    let (news, new) = mpsc::channel(64);
    let (passes, pass) = mpsc::channel(1);
    let (fixes, fix) = mpsc::channel(64);
    let (trigger, stop) = Shutdown::new();
    let placer = Placer {
        api: slow_server(&Arc::default()),
        queues,
        devices: DeviceInbox::channel().0,
        graph: Graph::default(),
        endpoints: KubeletEndpoints::off(),
        policy: Policy { stay: Stay::Forever, admission_secs: 300 },
        orders: fixes,
        ranges: mpsc::channel(1).0,
        complete: state::channel(false).0,
        links: HashMap::new(),
        fetches: JoinSet::new(),
        permits: Arc::new(Semaphore::new(FETCHES)),
        n_orders: Counter::default(),
    };
    tokio::spawn(placer.run(event, new, pass, stop));
    Bench { events, news, passes, orders, _fixes: fix, _trigger: trigger }
}

impl Bench {
    async fn see(&self, events: Vec<WatchEvent>) {
        for event in events {
            self.events.send(event).await.unwrap();
        }
    }

    /// The orders until nothing more comes for ten (virtual) seconds.
    async fn told(&mut self) -> String {
        let mut told = Vec::new();
        while let Ok(Some(order)) = tokio::time::timeout(Duration::from_secs(10), self.orders.recv()).await {
            told.push(match order {
                QueueOrder::Put(node, put) => format!("{node} +{}", put.key),
                QueueOrder::Delete(node, gone) => format!("{node} -{}", gone.key),
                QueueOrder::HandOver(node, Share::Workload) => format!("{node} all follows"),
                QueueOrder::Synced(node, Share::Workload) => format!("{node} synced"),
                QueueOrder::Forget(node) => format!("{node} forget"),
                QueueOrder::NodeGone(node) => format!("{node} gone"),
                other => format!("{other:?}"),
            });
        }
        told.join(", ")
    }

    async fn news(&mut self, news: LinkNews) -> String {
        self.news.send(news).await.unwrap();
        self.told().await
    }
}

fn node(name: &str) -> NodeName {
    name.parse().unwrap()
}

fn seen(kind: Kind, name: &str, version: u64, spec: Value) -> WatchEvent {
    let object = json!({"metadata": {"name": name, "namespace": "shop", "uid": name,
        "resourceVersion": version.to_string(), "labels": {"v": version.to_string()}}, "spec": spec});
    WatchEvent::Applied(Observed::new(&kind, object).unwrap())
}

fn lists() -> Vec<WatchEvent> {
    let objects = [seen(Kind::Node, "e1", 1, json!({})), seen(Kind::Pod, "a", 2, json!({"nodeName": "e1"}))];
    let mut events = Vec::new();
    for kind in super::observed::WATCHED {
        events.push(WatchEvent::ListStarted(kind.clone()));
        events.extend(
            objects
                .iter()
                .filter(|event| matches!(event, WatchEvent::Applied(object) if object.key.kind == kind))
                .cloned(),
        );
        events.push(WatchEvent::ListDone(kind));
    }
    events
}

const ALL: &str = "e1 all follows, e1 +null/node/e1, e1 +shop/pod/a, e1 synced";

#[tokio::test(start_paused = true)]
async fn a_node_is_told_all_once_all_is_known_and_changes_from_then_on() {
    let mut bench = placing();
    assert_eq!(bench.news(LinkNews::Connected(node("e1"))).await, "");
    bench.see(lists()).await;
    assert_eq!(bench.told().await, ALL);
    let references = json!({"nodeName": "e1", "volumes": [{"configMap": {"name": "c"}}]});
    bench.see(vec![seen(Kind::Pod, "b", 5, references)]).await;
    assert_eq!(bench.told().await, "e1 +shop/pod/b, e1 +shop/configmap/c");
    bench.passes.send(()).await.unwrap();
    assert_eq!(
        bench.told().await,
        "e1 all follows, e1 +null/node/e1, e1 +shop/configmap/c, e1 +shop/pod/a, e1 +shop/pod/b, e1 synced"
    );
    assert_eq!(bench.news(LinkNews::Disconnected(node("e1"))).await, "");
    bench.see(vec![seen(Kind::Pod, "a", 6, json!({"nodeName": "e1"}))]).await;
    assert_eq!(bench.told().await, "", "a node without a link gets all when it is back");
}

#[tokio::test(start_paused = true)]
async fn what_is_still_being_read_holds_the_mark_back() {
    let mut bench = placing();
    bench.see(lists()).await;
    let references = json!({"nodeName": "e1", "volumes": [{"configMap": {"name": "c"}}]});
    bench.see(vec![seen(Kind::Pod, "b", 5, references)]).await;
    // The read takes a second; the link comes in its midst.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let told = bench.news(LinkNews::Connected(node("e1"))).await;
    assert_eq!(
        told,
        "e1 all follows, e1 +null/node/e1, e1 +shop/configmap/c, e1 +shop/pod/a, e1 +shop/pod/b, e1 synced"
    );
}

#[tokio::test(start_paused = true)]
async fn an_old_link_that_ends_late_takes_nothing_from_the_new_one() {
    let mut bench = placing();
    bench.see(lists()).await;
    assert_eq!(bench.news(LinkNews::Connected(node("e1"))).await, ALL);
    assert_eq!(bench.news(LinkNews::Connected(node("e1"))).await, ALL);
    assert_eq!(bench.news(LinkNews::Disconnected(node("e1"))).await, "");
    bench.see(vec![seen(Kind::Pod, "a", 6, json!({"nodeName": "e1"}))]).await;
    assert_eq!(bench.told().await, "e1 +shop/pod/a");
}

#[tokio::test(start_paused = true)]
async fn a_wiped_node_is_refilled_once_a_minute_at_most() {
    let mut bench = placing();
    bench.see(lists()).await;
    assert_eq!(bench.news(LinkNews::Connected(node("e1"))).await, ALL);
    let refilled = format!("e1 forget, {ALL}");
    assert_eq!(bench.news(LinkNews::RegisteredAnew(node("e1"))).await, refilled);
    assert_eq!(bench.news(LinkNews::RegisteredAnew(node("e1"))).await, "");
    tokio::time::sleep(REFILL_PAUSE).await;
    assert_eq!(bench.news(LinkNews::RegisteredAnew(node("e1"))).await, refilled);
    assert_eq!(bench.news(LinkNews::RegisteredAnew(node("e2"))).await, "");
}

#[tokio::test(start_paused = true)]
async fn questions_about_one_object_wait_for_one_another_and_others_do_not() {
    let seen = Arc::default();
    let (news, _told) = mpsc::channel(8);
    let answers = Answers {
        endpoints: KubeletEndpoints::off(),
        services: services::Services::default(),
        api: slow_server(&seen),
        graph: Graph::default(),
        api_server_ca: String::new(),
        address: String::new(),
        news: news.clone(),
        numbers: Numbers::default(),
    };
    let (upstream, inbox) = Upstream::channel();
    let (trigger, stop) = Shutdown::new();
    let running = tokio::spawn(lanes::run(answers, inbox, news, stop));
    let mut replies = Vec::new();
    for name in ["a", "a", "b"] {
        let (reply, answer) = oneshot::channel();
        let patch = r#"{"status":{}}"#.to_owned();
        let question = Question::PatchPodStatus {
            namespace: "shop".parse().unwrap(),
            name: name.parse().unwrap(),
            patch,
        };
        upstream.tell(FromNode::Ask(node("e1"), question, reply)).await;
        replies.push(answer);
    }
    for reply in replies {
        assert_eq!(reply.await.unwrap().1, Some(Version::new(9)));
    }
    let seen = seen.lock().unwrap().clone();
    let of_a: Vec<&str> = seen.iter().filter(|line| line.starts_with('a')).map(String::as_str).collect();
    assert_eq!(of_a, ["a begins", "a ends", "a begins", "a ends"]);
    assert_eq!(seen.iter().position(|line| line == "b begins"), Some(1), "{seen:?}");
    trigger.stop();
    running.await.unwrap();
}
