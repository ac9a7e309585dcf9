//! The SDK between a node and a driver that misbehaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use mapper_sdk::testing::messages::{CreateDeviceModelRequest, DeviceMethod, RegisterDeviceRequest};
use mapper_sdk::testing::{FakeEdge, device, model, property};
use mapper_sdk::{
    Connection, DeviceSettings, Driver, DriverError, PropertyName, PropertySettings, Sample, Shutdown,
    Updates, Value, async_trait,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Every property shows `number`. A device with `hangs: true` never answers; one with `pushes: true` sends by itself.
struct Scripted {
    number: Arc<AtomicI64>,
}

#[async_trait]
impl Driver for Scripted {
    fn protocol(&self) -> &str {
        "scripted"
    }

    fn call_limit(&self) -> Duration {
        Duration::from_millis(200)
    }

    async fn connect(&self, device: &DeviceSettings) -> Result<Box<dyn Connection>, DriverError> {
        if device.protocol.flag(&["hangs"])?.unwrap_or(false) {
            std::future::pending::<()>().await;
        }
        let pushes = device.protocol.flag(&["pushes"])?.unwrap_or(false);
        Ok(Box::new(Line { number: Arc::clone(&self.number), pushes }))
    }
}

struct Line {
    number: Arc<AtomicI64>,
    pushes: bool,
}

#[async_trait]
impl Connection for Line {
    async fn read(&mut self, properties: &[&PropertySettings]) -> Result<Vec<Sample>, DriverError> {
        let number = self.number.load(Ordering::Relaxed);
        Ok(properties.iter().map(|_| Ok(Value::Int(number))).collect())
    }

    async fn write(&mut self, _: &PropertySettings, value: &Value) -> Result<(), DriverError> {
        if let Value::Int(number) = value {
            self.number.store(*number, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn subscribe(
        &mut self,
        properties: &[&PropertySettings],
        updates: Updates,
    ) -> Result<Vec<PropertyName>, DriverError> {
        if !self.pushes {
            return Ok(Vec::new());
        }
        let names: Vec<PropertyName> = properties.iter().map(|property| property.name.clone()).collect();
        let first = names.first().cloned().ok_or_else(|| DriverError::Refused("nothing there".to_owned()))?;
        tokio::spawn(async move { updates.send(first, Ok(Value::Int(77))).await });
        Ok(names)
    }
}

#[tokio::test]
async fn no_device_and_no_node_holds_up_another() {
    let directory = tempfile::tempdir().unwrap();
    let edge = FakeEdge::start(directory.path()).unwrap();
    let make = |name: &str, protocol: serde_json::Value| {
        let mut device = device("n", name, "m", protocol, vec![property("p", json!({}))]);
        let method = DeviceMethod {
            name: "set".to_owned(),
            description: String::new(),
            property_names: vec!["p".to_owned()],
        };
        device.spec.as_mut().unwrap().methods.push(method);
        device
    };
    let devices = vec![
        make("dead", json!({"hangs": "true"})),
        make("good", json!({})),
        make("loud", json!({"pushes": true})),
    ];
    // The models come later: all devices wait.
    edge.hand_out(Vec::new(), devices);
    let number = Arc::new(AtomicI64::new(1));
    let (trigger, stop) = Shutdown::new();
    let mut config = edge.config();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    config.common.http_port = Some(mapper_sdk::config::Port(port));
    let mapper = tokio::spawn(mapper_sdk::run_until(Scripted { number: Arc::clone(&number) }, config, stop));
    edge.until(|seen| seen.registrations.first().map(|_| ())).await.unwrap();
    let mut client = edge.mapper().unwrap();
    let m = model("n", "m", &[("p", "INT", "ReadWrite")]);
    client.create_device_model(CreateDeviceModelRequest { model: Some(m) }).await.unwrap();

    edge.until(|seen| (seen.value("n/good", "p")? == ("1", "")).then_some(())).await.unwrap();
    edge.until(|seen| (seen.value("n/loud", "p")? == ("77", "")).then_some(())).await.unwrap();
    edge.until(|seen| (seen.state("n/dead")? == "offline").then_some(())).await.unwrap();
    edge.until(|seen| (seen.state("n/loud")? == "online").then_some(())).await.unwrap();

    // Busy as a Go node is; the newest value arrives once it is not.
    edge.refuse_reports(Some("fail to report device status because of too many request: good"));
    for next in 2..=5 {
        number.store(next, Ordering::Relaxed);
    }
    edge.until(|seen| (seen.n_refused > 0).then_some(())).await.unwrap();
    edge.refuse_reports(None);
    edge.until(|seen| (seen.value("n/good", "p")? == ("5", "")).then_some(())).await.unwrap();

    // Over REST, to both: one answers, one says why not.
    let get = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let written = get("/api/v1/devicemethod/n/good/set/p/42").await;
    assert!(written.contains(r#""Message":"Write data 42 to device n/good successfully.""#), "{written}");
    assert!(get("/api/v1/device/n/good/p").await.contains(r#""Value":"42""#));
    edge.until(|seen| (seen.value("n/good", "p")? == ("42", "")).then_some(())).await.unwrap();
    let methods = get("/api/v1/devicemethod/n/good").await;
    assert!(
        methods.contains(r#""Path":"/api/v1/devicemethod/n/good/set/{propertyName}/{data}""#),
        "{methods}"
    );
    let refused = get("/api/v1/devicemethod/n/good/set/p/much").await;
    assert!(
        refused.starts_with("HTTP/1.1 500") && refused.contains("Write data error")
            || refused.contains("no INT")
    );
    assert!(get("/metrics").await.contains("mapper_devices 3"));

    // Another protocol's device is refused by name.
    let mut foreign = make("foreign", json!({}));
    foreign.spec.as_mut().unwrap().protocol.as_mut().unwrap().protocol_name = "modbus".to_owned();
    let error = client.register_device(RegisterDeviceRequest { device: Some(foreign) }).await.unwrap_err();
    assert!(error.message().contains("modbus"), "{error}");

    trigger.stop();
    mapper.await.unwrap().unwrap();
}
