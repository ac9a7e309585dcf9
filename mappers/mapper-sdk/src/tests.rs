//! A whole mapper with a tiny driver beside a fake edge node.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::testing::FakeEdge;
use crate::{Connection, Device, Driver, DriverError, Property, Value, async_trait};

mod kubeedge;

/// A device that the test looks into.
#[derive(Clone, Default)]
struct Oven(Arc<Mutex<Inside>>);

#[derive(Default)]
struct Inside {
    is_unplugged: bool,
    held: BTreeMap<String, Value>,
    written: Vec<String>,
    n_connects: usize,
}

impl Oven {
    fn there(&self) -> Result<std::sync::MutexGuard<'_, Inside>, DriverError> {
        let inside = self.0.lock().unwrap();
        if inside.is_unplugged {
            return Err(DriverError::Lost("no answer".into()));
        }
        Ok(inside)
    }

    fn unplug(&self, is_unplugged: bool) {
        self.0.lock().unwrap().is_unplugged = is_unplugged;
    }

    fn written(&self) -> Vec<String> {
        self.0.lock().unwrap().written.clone()
    }
}

#[async_trait]
impl Driver for Oven {
    type Connection = Oven;

    fn protocol(&self) -> &'static str {
        "oven"
    }

    async fn connect(&self, device: &Device) -> Result<Oven, DriverError> {
        if device.settings.text(&["hangs"]).is_some() {
            std::future::pending::<()>().await;
        }
        assert!(device.settings.text(&["panics"]).is_none(), "a driver's fault");
        self.there()?.n_connects += 1;
        Ok(self.clone())
    }
}

#[async_trait]
impl Connection for Oven {
    async fn read(
        &mut self,
        properties: &[&Property],
    ) -> Result<Vec<Result<Value, DriverError>>, DriverError> {
        let inside = self.there()?;
        let value =
            |property: &&Property| Ok(inside.held.get(&property.name).cloned().unwrap_or(Value::Int(0)));
        Ok(properties.iter().map(value).collect())
    }

    async fn write(&mut self, property: &Property, value: &Value) -> Result<(), DriverError> {
        let mut inside = self.there()?;
        inside.written.push(format!("{}={value}", property.name));
        inside.held.insert(property.name.clone(), value.clone());
        Ok(())
    }
}

fn edge() -> FakeEdge {
    let edge = FakeEdge::start();
    edge.put_model(&json!({"metadata": {"name": "oven", "namespace": "plant"}, "spec": {"properties": [
        {"name": "heat", "type": "INT", "accessMode": "ReadOnly"},
        {"name": "limit", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "400"},
    ]}}));
    edge
}

fn device(name: &str, settings: serde_json::Value, desired: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "namespace": "plant"}, "spec": {
        "deviceModelRef": {"name": "oven"},
        "protocol": {"protocolName": "oven", "configData": settings},
        "stateReport": {"reportToCloud": true, "reportCycle": 60000},
        "methods": [{"name": "setLimit", "description": "", "propertyNames": ["limit"]}],
        "properties": [
            {"name": "heat", "collectCycle": 20, "reportToCloud": true},
            {"name": "limit", "collectCycle": 20, "reportToCloud": true, "desired": {"value": desired}},
        ],
    }})
}

fn oven(desired: &str) -> serde_json::Value {
    device("oven-1", json!({}), desired)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desired_value_is_written_once_and_told_when_it_is() {
    let (edge, oven_1) = (edge(), Oven::default());
    edge.put_device(&oven("")).await;
    let mapper = edge.run(oven_1.clone());
    edge.wait_reported("oven-1", "limit", "0").await;
    edge.wait_state("oven-1", "online").await;
    assert!(
        oven_1.written().is_empty() && edge.reported().iter().all(|told| told.observed_desired.is_empty())
    );
    // Both properties of one round go together.
    assert_eq!(edge.rounds()[0], ["heat", "limit"]);

    edge.put_device(&oven("20")).await;
    edge.wait_reported("oven-1", "limit", "20").await;
    let told = edge.reported().into_iter().find(|told| told.value == "20").unwrap();
    assert_eq!(told.observed_desired, "20");

    // More than the model allows, and no number at all.
    edge.put_device(&oven("401")).await;
    edge.wait_state("oven-1", "unhealthy").await;
    edge.put_device(&oven("22")).await;
    edge.wait_state("oven-1", "online").await;
    edge.wait_reported("oven-1", "limit", "22").await;
    assert_eq!(oven_1.written(), ["limit=20", "limit=22"]);
    // For a desired value alone nothing was connected anew.
    assert_eq!(oven_1.0.lock().unwrap().n_connects, 1);

    // Another process sees that the device has it.
    mapper.stop().await;
    edge.clear();
    let _mapper = edge.run(oven_1.clone());
    edge.wait_reported("oven-1", "limit", "22").await;
    assert_eq!(edge.reported().last().unwrap().observed_desired, "22");
    assert_eq!(oven_1.written().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_is_offline_until_it_is_back() {
    let (edge, oven_1) = (edge(), Oven::default());
    edge.put_device(&oven("20")).await;
    let _mapper = edge.run(oven_1.clone());
    edge.wait_reported("oven-1", "limit", "20").await;
    oven_1.unplug(true);
    edge.wait_state("oven-1", "offline").await;
    edge.put_device(&oven("30")).await;
    edge.clear();
    oven_1.unplug(false);
    edge.wait_reported("oven-1", "limit", "30").await;
    edge.wait_state("oven-1", "online").await;
    assert_eq!(oven_1.written(), ["limit=20", "limit=30"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_comes_back_is_registered_at_and_hears_what_it_missed() {
    let (mut edge, oven_1) = (edge(), Oven::default());
    edge.put_device(&oven("20")).await;
    edge.put_device(&device("oven-2", json!({}), "")).await;
    let _mapper = edge.run(oven_1.clone());
    edge.wait_reported("oven-1", "limit", "20").await;
    edge.wait_reported("oven-2", "limit", "20").await;
    edge.stop().await;
    edge.clear();
    oven_1.0.lock().unwrap().held.insert("heat".into(), Value::Int(78));
    edge.forget_device("plant", "oven-2");
    edge.listen();
    edge.wait("to be registered at again", || edge.n_registrations() == 2).await;
    edge.wait_reported("oven-1", "heat", "78").await;
    // Driver and one device: the other is no longer driven.
    edge.wait("the other device to go", || Arc::strong_count(&oven_1.0) == 3).await;
    assert_eq!(oven_1.written(), ["limit=20"]);
    // A new socket without a broken connection is enough.
    let n_before = edge.n_registrations();
    edge.listen();
    edge.wait("to be registered at again", || edge.n_registrations() > n_before).await;
}

/// The answer's status line and body.
async fn get(at: std::net::SocketAddr, path: &str) -> (String, String) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: m\r\nX-Correlation-ID: 7\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("x-correlation-id: 7"), "{head}");
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_ask_over_rest() {
    let (edge, oven_1) = (edge(), Oven::default());
    edge.put_device(&oven("20")).await;
    let mapper = edge.run(oven_1.clone());
    edge.wait_reported("oven-1", "limit", "20").await;
    let json = async |path: &str| -> serde_json::Value {
        let (status, body) = get(mapper.http, path).await;
        assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
        serde_json::from_str(&body).unwrap()
    };
    // Somebody turned the knob: reading does not turn it back.
    oven_1.0.lock().unwrap().held.insert("limit".into(), Value::Int(33));
    let found = json("/api/v1/device/plant/oven-1/limit").await;
    assert_eq!((&found["apiVersion"], &found["statusCode"]), (&json!("v1"), &json!(200)));
    let data = &found["Data"];
    assert_eq!(
        (&data["DeviceName"], &data["PropertyName"], &data["Namespace"], &data["Value"], &data["Type"]),
        (&json!("oven-1"), &json!("limit"), &json!("plant"), &json!("33"), &json!("int"))
    );
    let methods = json("/api/v1/devicemethod/plant/oven-1").await;
    let expected = json!([{"Name": "setLimit",
        "Path": "/api/v1/devicemethod/plant/oven-1/setLimit/{propertyName}/{data}",
        "Parameters": [{"PropertyName": "limit", "ValueType": "int"}]}]);
    assert_eq!(methods["Data"]["Methods"], expected);
    let written = json("/api/v1/devicemethod/plant/oven-1/setLimit/limit/44").await;
    assert_eq!(written["Message"], "Write data 44 to device plant/oven-1 successfully.");
    assert_eq!(oven_1.written(), ["limit=20", "limit=44"]);
    assert_eq!(json("/api/v1/meta/model/plant/oven-1").await["properties"][1]["dataType"], "INT");
    let (_, metrics) = get(mapper.http, "/metrics").await;
    assert!(
        metrics.contains("mapper_devices 1\n") && metrics.contains("mapper_writes_total 1\n"),
        "{metrics}"
    );
    assert!(json("/api/v1/ping").await["Message"].as_str().unwrap().starts_with("This is v1 API"));
    let check = async |path: &str, status: &str, text: &str| {
        assert_eq!(get(mapper.http, path).await, (format!("HTTP/1.1 {status}"), text.to_owned()), "{path}");
    };
    let error = "500 Internal Server Error";
    let text = "Write device data error: limit: 401 is outside of what the model allows: 0 to 400";
    check("/api/v1/devicemethod/plant/oven-1/setLimit/limit/401", error, text).await;
    let text = "Write device data error: the method setLimit does not set heat";
    check("/api/v1/devicemethod/plant/oven-1/setLimit/heat/1", error, text).await;
    let text = "Get device data error: there is no device plant/oven-9 here";
    check("/api/v1/device/plant/oven-9/limit", error, text).await;
    let text = "Get device data error: property none is not in the device";
    check("/api/v1/device/plant/oven-1/none", error, text).await;
    check("/api/v2", "404 Not Found", "404 page not found").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_do_not_feel_each_other() {
    let (edge, oven_1) = (edge(), Oven::default());
    edge.put_device(&device("hangs", json!({"hangs": true}), "")).await;
    edge.put_device(&device("panics", json!({"panics": true}), "")).await;
    let _mapper = edge.run(oven_1.clone());
    edge.wait("to be registered at", || edge.n_registrations() == 1).await;
    edge.put_device(&oven("1")).await;
    edge.wait_reported("oven-1", "limit", "1").await;
    edge.remove_device("plant", "oven-1").await;
    edge.remove_device("plant", "oven-1").await;
    edge.wait_state("hangs", "offline").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_taken_as_kubectl_takes_them() {
    let edge = FakeEdge::start();
    edge.apply(
        "kind: Device\nmetadata: {name: oven-1}\nspec:\n  deviceModelRef: {name: oven}\n  \
         protocol: {protocolName: oven}\n  \
         properties: [{name: limit, collectCycle: 20, reportToCloud: true, desired: {value: '7'}}]\n---\n\
         kind: DeviceModel\nmetadata: {name: oven}\nspec: {properties: [{name: limit, type: INT}]}\n",
    )
    .await;
    let _mapper = edge.run(Oven::default());
    edge.wait_reported("oven-1", "limit", "7").await;
}
