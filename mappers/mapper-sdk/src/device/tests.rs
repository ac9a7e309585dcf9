//! One device, beside a fake edge node where what the cluster sees counts, and alone where it does not.

use std::sync::Mutex;

use ke_run::telemetry::Metrics;
use serde_json::{Value as Json, json};

use super::*;
use crate::async_trait;
use crate::driver::DeviceName;
use crate::link::Edge;
use crate::push::address::Url;
use crate::push::secrets::Secrets;
use crate::push::settings::{Form, Push, To};
use crate::settings::Settings;
use crate::testing::{FakeEdge, RunningMapper};
use crate::value::Kind;

type Sent = Result<(String, Result<Value, DriverError>), DriverError>;

/// Its `heat` and `spare` are sent when the test says so; all else is read and written.
#[derive(Clone)]
struct Press {
    inside: Arc<Mutex<Inside>>,
    sent: Arc<tokio::sync::Mutex<mpsc::Receiver<Sent>>>,
}

#[derive(Default)]
struct Inside {
    /// Writes end the connection.
    is_deaf: bool,
    /// Reads, too.
    is_away: bool,
    /// `connect`, `read NAME` and `write NAME`, in order.
    calls: Vec<String>,
}

impl Press {
    fn new() -> (Self, mpsc::Sender<Sent>) {
        let (send, sent) = mpsc::channel(8);
        (Self { inside: Arc::default(), sent: Arc::new(tokio::sync::Mutex::new(sent)) }, send)
    }

    fn calls(&self) -> Vec<String> {
        self.inside.lock().unwrap().calls.clone()
    }
}

#[async_trait]
impl Driver for Press {
    type Connection = Press;

    fn protocol(&self) -> &'static str {
        "press"
    }

    async fn connect(&self, _: &Device) -> Result<Press, DriverError> {
        self.inside.lock().unwrap().calls.push("connect".into());
        Ok(self.clone())
    }
}

#[async_trait]
impl Connection for Press {
    async fn read_one(&mut self, property: &Property) -> Result<Value, DriverError> {
        let mut inside = self.inside.lock().unwrap();
        inside.calls.push(format!("read {}", property.name));
        if inside.is_away {
            return Err(DriverError::Lost("no answer".into()));
        }
        Ok(Value::Int(7))
    }

    async fn write(&mut self, property: &Property, _: &Value) -> Result<(), DriverError> {
        let mut inside = self.inside.lock().unwrap();
        inside.calls.push(format!("write {}", property.name));
        if inside.is_deaf {
            return Err(DriverError::Lost("no answer to a write".into()));
        }
        Ok(())
    }

    fn is_pushed(&self, property: &Property) -> bool {
        matches!(property.name.as_str(), "heat" | "spare")
    }

    async fn pushed(&mut self) -> Sent {
        match self.sent.lock().await.recv().await {
            Some(sent) => sent,
            None => std::future::pending().await,
        }
    }
}

fn value(name: &str, value: i64) -> Sent {
    Ok((name.into(), Ok(Value::Int(value))))
}

fn bad(name: &str, why: &str) -> Sent {
    Ok((name.into(), Err(DriverError::Refused(why.into()))))
}

/// A press with these properties, driven.
async fn driven(press: &Press, properties: Json) -> (FakeEdge, RunningMapper) {
    let edge = FakeEdge::start();
    let of_model = |name| json!({"name": name, "type": "INT", "accessMode": "ReadWrite"});
    let of_model: Vec<Json> = ["heat", "spare", "force", "speed", "limit"].map(of_model).into();
    edge.put_model(
        &json!({"metadata": {"name": "press", "namespace": "plant"}, "spec": {"properties": of_model}}),
    );
    edge.put_device(&json!({"metadata": {"name": "press-1", "namespace": "plant"}, "spec": {
        "deviceModelRef": {"name": "press"}, "protocol": {"protocolName": "press"},
        "properties": properties}}))
        .await;
    let mapper = edge.run(press.clone());
    (edge, mapper)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_device_sends_may_turn_bad() {
    let (press, send) = Press::new();
    let heat =
        json!({"name": "heat", "reportToCloud": true, "visitors": {"configData": {"heartbeatSecs": 1}}});
    let (edge, _mapper) = driven(&press, json!([heat, {"name": "spare"}])).await;
    // Nobody asked for it.
    send.send(bad("spare", "worn out")).await.unwrap();
    send.send(value("heat", 1)).await.unwrap();
    edge.wait_reported("press-1", "heat", "1").await;
    assert_eq!(edge.states("press-1"), ["online"]);
    edge.wait("a sign of life", || edge.reported().len() == 2).await;
    send.send(bad("heat", "the sensor is loose")).await.unwrap();
    edge.wait_state("press-1", "unhealthy").await;
    send.send(value("heat", 2)).await.unwrap();
    edge.wait_state("press-1", "online").await;
    edge.wait_reported("press-1", "heat", "2").await;
    assert_eq!(press.calls(), ["connect"]);
    send.send(Err(DriverError::Lost("unplugged".into()))).await.unwrap();
    edge.wait("to be connected anew", || press.calls().len() == 2).await;
    assert!(edge.states("press-1").contains(&"offline".into()));
}

fn property(name: &str, settings: Json) -> Property {
    let Json::Object(settings) = settings else { panic!() };
    Property {
        name: name.into(),
        kind: Kind::Int,
        is_writable: false,
        minimum: None,
        maximum: None,
        settings: Settings::new(settings),
        collect_cycle: Duration::from_secs(1),
        report_cycle: Duration::from_secs(1),
        report_to_cloud: false,
        desired: None,
    }
}

/// The task of a device with one property, which is pushed to some place every second if `is_told_elsewhere`.
fn task(property: Property, is_told_elsewhere: bool) -> (DeviceTask<Press>, watch::Sender<Description>) {
    let to = To::Http(Form(Url::parse("http://127.0.0.1:9", 80).unwrap()));
    let push = Push { property: property.name.clone(), kind: Kind::Int, cycle: property.report_cycle, to };
    let pushes: Vec<Push> = is_told_elsewhere.then_some(push).into_iter().collect();
    let device = Device {
        name: DeviceName { namespace: "plant".into(), name: "press-1".into() },
        settings: Settings::default(),
        properties: vec![property],
        methods: vec![],
        state_cycle: None,
    };
    let description = Description { device: Arc::new(device), pushes: pushes.into() };
    let (describe, descriptions) = watch::channel(description);
    let (_, asked) = mpsc::channel(1);
    let counters = Counters::new(&mut Metrics::new());
    let reports = Reports::new(&Edge::new("/nowhere".into()), counters.clone());
    let targets = Arc::new(Targets::new(Secrets::default()));
    let (press, _) = Press::new();
    let limit = Duration::from_secs(5);
    let task = DeviceTask::new(Arc::new(press), limit, descriptions, asked, reports, targets, counters);
    (task, describe)
}

#[tokio::test]
async fn what_turned_bad_is_not_told_elsewhere() {
    let (mut task, describe) = task(property("heat", json!({})), true);
    task.adopt(true);
    task.sent("heat", Ok(Value::Int(1)));
    assert!(task.pushes.next_due().is_some());
    task.sent("heat", Err(DriverError::Refused("loose".into())));
    assert_eq!((task.pushes.next_due(), task.problems.len()), (None, 1));
    // Nobody wants it any more: then it is no problem.
    describe.send_modify(|description| description.pushes = Vec::new().into());
    assert!(!task.adopt(false));
    assert!(task.problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_ignores_writes_is_read() {
    let (press, _send) = Press::new();
    press.inside.lock().unwrap().is_deaf = true;
    let wanted = |name| json!({"name": name, "collectCycle": 20, "desired": {"value": "1"}});
    let properties = json!([wanted("force"), wanted("limit"), {"name": "speed", "reportToCloud": true}]);
    let (edge, _mapper) = driven(&press, properties).await;
    // The first try is before anything was read; the second wish would be, too.
    edge.wait_reported("press-1", "speed", "7").await;
    edge.wait_state("press-1", "unhealthy").await;
    edge.wait("the other wish to be tried", || press.calls().contains(&"write limit".into())).await;
    // Whether force may hold what is wanted already, its write, and what the next connection does first.
    let expected = ["connect", "read force", "write force", "connect", "read speed"];
    assert_eq!(press.calls()[..5], expected);
    // Both are tried again.
    press.inside.lock().unwrap().is_deaf = false;
    edge.wait_state("press-1", "online").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_away_fails_no_wishes() {
    let (press, _send) = Press::new();
    press.inside.lock().unwrap().is_away = true;
    let wanted = json!({"name": "force", "desired": {"value": "1"}});
    let (edge, _mapper) = driven(&press, json!([wanted, {"name": "speed", "reportToCloud": true}])).await;
    // The fourth connection comes after the wish's pause.
    edge.wait("tries", || press.calls().iter().filter(|call| *call == "connect").count() > 3).await;
    assert!(press.calls()[2..].iter().all(|call| ["connect", "read speed"].contains(&call.as_str())));
    assert_eq!(press.calls()[1], "read force");
    press.inside.lock().unwrap().is_away = false;
    edge.wait_state("press-1", "online").await;
    assert!(press.calls().contains(&"write force".into()));
}

#[tokio::test(start_paused = true)]
async fn what_a_device_sends_has_a_heartbeat() {
    let mut heat = property("heat", json!({"heartbeatSecs": 60}));
    heat.report_to_cloud = true;
    let (mut task, _describe) = task(heat, false);
    task.adopt(true);
    let mut check = async |sent: Option<Result<i64, &str>>, wait_secs: u64, expected_secs: Option<u64>| {
        match sent {
            Some(Ok(value)) => task.sent("heat", Ok(Value::Int(value))),
            Some(Err(why)) => task.sent("heat", Err(DriverError::Refused(why.into()))),
            None => {}
        }
        tokio::time::advance(Duration::from_secs(wait_secs)).await;
        task.tell_heartbeats();
        let next = task.bands["heat"].next_heartbeat();
        assert_eq!(next, expected_secs.map(Duration::from_secs), "{sent:?} {wait_secs}");
    };
    check(None, 10, None).await;
    check(Some(Ok(1)), 59, Some(70)).await;
    // Unchanged and not told; then by time.
    check(Some(Ok(1)), 0, Some(70)).await;
    check(None, 1, Some(130)).await;
    check(Some(Ok(2)), 10, Some(130)).await;
    // Not known any more, and then again.
    check(Some(Err("loose")), 60, None).await;
    check(Some(Ok(2)), 0, Some(200)).await;
}
