//! DeviceController with scripted neighbours: when a node is told what, and what an API server that comes and goes is told.

use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use hyper::{Request, Response};
use ke_run::shutdown::Trigger;
use ke_run::telemetry::Metrics;
use kube::client::Body;
use serde_json::{Value, json};

use ke_wire::{Down, Kind};

use super::super::DeviceController;
use super::super::object::{SeenDevice, SeenModel};
use super::*;
use crate::device_inbox::DeviceInbox;
use crate::node_queue::QueueOrder;

/// What the API server was sent, and whether it answers.
#[derive(Default)]
struct Server {
    calls: Vec<(String, Value)>,
    version: u64,
    is_away: bool,
}

struct Bench {
    server: Arc<Mutex<Server>>,
    events: mpsc::Sender<WatchEvent>,
    inbox: DeviceInbox,
    orders: mpsc::Receiver<QueueOrder>,
    _trigger: Trigger,
}

fn api(server: &Arc<Mutex<Server>>) -> ApiServer {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let what = format!("{} {}", request.method(), request.uri().path());
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut server = server.lock().unwrap();
            if server.is_away {
                return Ok::<_, tower::BoxError>(
                    Response::builder().status(503).body(Body::empty()).unwrap(),
                );
            }
            server.version += 1;
            server.calls.push((what, serde_json::from_slice(&body).unwrap_or_default()));
            let answer = json!({"metadata": {"resourceVersion": (1000 + server.version).to_string()}});
            Ok(Response::new(Body::from(answer.to_string().into_bytes())))
        }
    });
    ApiServer::new(kube::Client::new(service, "default"))
}

fn bench() -> Bench {
    let server = Arc::<Mutex<Server>>::default();
    let (queues, orders) = NodeQueues::channel();
    let (events, event) = mpsc::channel(64);
    let (inbox, said) = DeviceInbox::channel();
    let (trigger, stop) = Shutdown::new();
    let mut metrics = Metrics::new();
    let controller = DeviceController::new(
        kube::Client::new(
            tower::service_fn(|_: Request<Body>| async {
                Ok::<_, tower::BoxError>(Response::new(Body::empty()))
            }),
            "default",
        ),
        queues,
        mpsc::channel(1).1,
        None,
        &mut metrics,
    );
    let DeviceController { queues, numbers, .. } = controller;
    let running = Running::new(api(&server), queues, None, numbers);
    tokio::spawn(running.run(event, said, stop));
    Bench { server, events, inbox, orders, _trigger: trigger }
}

fn device(name: &str, version: u64, node: &str, status: Value) -> WatchEvent {
    let object = json!({"metadata": {"name": name, "namespace": "plant", "uid": name, "resourceVersion": version.to_string()},
        "spec": {"nodeName": node, "deviceModelRef": {"name": "oven"}, "protocol": {"protocolName": "modbus"},
            "properties": [{"name": "heat", "visitors": {"configData": {"offset": 1}}}]},
        "status": status});
    WatchEvent::Device(Box::new(SeenDevice::new(object).unwrap()))
}

fn model() -> WatchEvent {
    let object = json!({"metadata": {"name": "oven", "namespace": "plant", "uid": "oven", "resourceVersion": "1"},
        "spec": {"properties": [{"name": "heat", "type": "FLOAT"}]}});
    WatchEvent::Model(Box::new(SeenModel::new(object).unwrap()))
}

fn node() -> NodeName {
    "e1".parse().unwrap()
}

fn report(id: &str, device: &str, value: &str) -> FromEdge {
    let report = json!({"timestamp": unix_ms(), "twin": {"heat": {"actual": {"value": value}}}});
    FromEdge::Said(
        node(),
        Box::new(AboutDevices::Twins {
            id: id.parse().unwrap(),
            device: DeviceId { namespace: "plant".parse().unwrap(), name: device.parse().unwrap() },
            report: serde_json::from_value(report).unwrap(),
        }),
    )
}

impl Bench {
    async fn see(&self, events: Vec<WatchEvent>) {
        for event in events {
            self.events.send(event).await.unwrap();
        }
    }

    async fn all_known(&self, devices: Vec<WatchEvent>) {
        self.see(vec![
            WatchEvent::ListStarted(Kind::DeviceModel),
            model(),
            WatchEvent::ListDone(Kind::DeviceModel),
        ])
        .await;
        self.see(vec![WatchEvent::ListStarted(Kind::Device)]).await;
        self.see(devices).await;
        self.see(vec![WatchEvent::ListDone(Kind::Device)]).await;
    }

    /// The orders until nothing more comes for ten (virtual) seconds.
    async fn told(&mut self) -> String {
        let mut told = Vec::new();
        while let Ok(Some(order)) = tokio::time::timeout(Duration::from_secs(10), self.orders.recv()).await {
            told.push(match order {
                QueueOrder::Put(_, put) => format!("+{}", put.key),
                QueueOrder::Again(_, put) => format!("++{}", put.key),
                QueueOrder::Delete(_, gone) => format!("-{}", gone.key),
                QueueOrder::HandOver(_, share) => format!("all {share:?}"),
                QueueOrder::Synced(_, share) => format!("synced {share:?}"),
                QueueOrder::Say(_, message) => match *message {
                    Down::Membership { added, removed, .. } => {
                        format!("membership +{} -{}", added.len(), removed.len())
                    }
                    Down::MembershipAll { devices, .. } => format!("membership of {}", devices.len()),
                    Down::TwinConfirmed { to, .. } => format!("confirmed {to}"),
                    other => format!("{other:?}"),
                },
                other => format!("{other:?}"),
            });
        }
        told.join(", ")
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.server.lock().unwrap().calls).into_iter().map(|(what, _)| what).collect()
    }
}

const ALL: &str = "membership of 1, all Models, all Devices, +plant/devicemodel/oven, +plant/device/a, synced Devices, \
                   synced Models";

#[tokio::test(start_paused = true)]
async fn a_node_is_told_all_once_all_is_known_and_changes_from_then_on() {
    let mut bench = bench();
    bench.inbox.tell(FromEdge::Connected(node())).await;
    bench.see(vec![device("a", 2, "e1", json!({}))]).await;
    assert_eq!(bench.told().await, "");
    bench.all_known(vec![device("a", 2, "e1", json!({})), device("b", 3, "e2", json!({}))]).await;
    assert_eq!(bench.told().await, ALL);
    bench.see(vec![device("c", 4, "e1", json!({}))]).await;
    assert_eq!(bench.told().await, "membership +1 -0, +plant/devicemodel/oven, +plant/device/c");
    bench.see(vec![device("c", 5, "e2", json!({})), device("a", 6, "e1", json!({"state": "online"}))]).await;
    assert_eq!(
        bench.told().await,
        "membership +0 -1, -plant/device/c",
        "the model is still used, and a status is no change"
    );
    bench.inbox.repeat_all();
    assert_eq!(bench.told().await, ALL);
    bench.inbox.tell(FromEdge::Forgotten(node())).await;
    assert_eq!(bench.told().await, ALL);
    bench.inbox.tell(FromEdge::Disconnected(node())).await;
    assert_eq!(bench.told().await, "");
    bench.see(vec![device("d", 7, "e1", json!({}))]).await;
    assert_eq!(bench.told().await, "", "a node without a link gets all when it is back");
}

#[tokio::test(start_paused = true)]
async fn an_edge_that_asks_gets_everything_once_whatever_it_has_confirmed() {
    let mut bench = bench();
    bench.all_known(vec![device("a", 2, "e1", json!({}))]).await;
    bench.inbox.tell(FromEdge::Connected(node())).await;
    assert_eq!(bench.told().await, ALL);
    for (asked, expected) in [
        ("1", "confirmed 1, membership of 1, ++plant/devicemodel/oven, ++plant/device/a"),
        ("2", "confirmed 2"),
    ] {
        let detail = AboutDevices::WhichAreMine(asked.parse().unwrap());
        bench.inbox.tell(FromEdge::Said(node(), Box::new(detail))).await;
        assert_eq!(bench.told().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_report_is_confirmed_once_it_is_stored_in_both_places() {
    let mut bench = bench();
    // It comes before anything is known.
    bench.inbox.tell(report("early", "a", "25")).await;
    assert_eq!(bench.told().await, "");
    bench.all_known(vec![device("a", 2, "e1", json!({}))]).await;
    assert_eq!(bench.told().await, "confirmed early");
    let mut calls = std::mem::take(&mut bench.server.lock().unwrap().calls);
    calls.sort_by(|a, b| a.0.cmp(&b.0));
    let [(patch, device), (create, status)] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(patch, "PATCH /apis/devices.kubeedge.io/v1beta1/namespaces/plant/devices/a");
    assert_eq!(create, "POST /apis/devices.kubeedge.io/v1beta1/namespaces/plant/devicestatuses");
    assert_eq!(device["status"]["twins"][0]["reported"]["value"], "25");
    assert_eq!(status["status"]["twins"][0]["reported"]["value"], "25", "the first report shows its value");
    assert_eq!(status["metadata"]["ownerReferences"][0]["uid"], "a");

    bench.server.lock().unwrap().is_away = true;
    bench.inbox.tell(report("1", "a", "26")).await;
    bench.inbox.tell(report("2", "a", "27")).await;
    assert_eq!(bench.told().await, "", "nothing is confirmed while nothing is stored");
    bench.server.lock().unwrap().is_away = false;
    assert_eq!(bench.told().await, "confirmed 1, confirmed 2");
    assert_eq!(bench.calls().len(), 2, "both places, once");
}

#[tokio::test(start_paused = true)]
async fn reports_about_devices_of_others_have_no_effect_and_an_end() {
    let mut bench = bench();
    bench.all_known(vec![device("a", 2, "e2", json!({}))]).await;
    bench.told().await;
    bench.calls();
    bench.inbox.tell(report("theirs", "a", "25")).await;
    bench.inbox.tell(report("nobodys", "x", "25")).await;
    assert_eq!(bench.told().await, "confirmed theirs, confirmed nobodys");
    assert_eq!(bench.calls(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_problem_is_a_condition_and_one_event() {
    let mut bench = bench();
    bench.all_known(vec![device("a", 2, "e1", json!({}))]).await;
    bench.told().await;
    bench.calls();
    bench
        .see(vec![WatchEvent::ModelRemoved(DeviceId {
            namespace: "plant".parse().unwrap(),
            name: "oven".parse().unwrap(),
        })])
        .await;
    bench.told().await;
    let calls = std::mem::take(&mut bench.server.lock().unwrap().calls);
    let [(_, device), (path, event)] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(device["status"]["conditions"][0]["type"], "ModelMissing");
    assert_eq!(path, "POST /api/v1/namespaces/plant/events");
    assert_eq!((&event["reason"], &event["involvedObject"]["name"]), (&json!("ModelMissing"), &json!("a")));
    bench.see(vec![model()]).await;
    bench.told().await;
    let calls = std::mem::take(&mut bench.server.lock().unwrap().calls);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].1["status"]["conditions"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn a_bad_object_stops_no_other_and_is_told_once() {
    let mut bench = bench();
    bench.inbox.tell(FromEdge::Connected(node())).await;
    let bad = json!({"metadata": {"name": "bad", "namespace": "plant", "uid": "x", "resourceVersion": "1"},
        "spec": {"properties": [{"name": "t", "type": {}}]}});
    let unusable = || {
        let id = DeviceId { namespace: "plant".parse().unwrap(), name: "bad".parse().unwrap() };
        let why = SeenModel::new(bad.clone()).unwrap_err();
        WatchEvent::Unusable(Kind::DeviceModel, Some(id), "x".to_owned(), why)
    };
    bench.see(vec![unusable()]).await;
    bench.all_known(vec![device("a", 2, "e1", json!({}))]).await;
    bench.see(vec![unusable()]).await;
    assert_eq!(bench.told().await, ALL);
    let calls = std::mem::take(&mut bench.server.lock().unwrap().calls);
    let events: Vec<_> = calls.iter().filter(|(what, _)| what.ends_with("/events")).collect();
    assert_eq!(events.len(), 1);
    assert_eq!(
        (&events[0].1["reason"], &events[0].1["involvedObject"]["kind"]),
        (&json!("Unreadable"), &json!("DeviceModel"))
    );
}
