//! What the fleet keeps, and what it does not lose.

use std::sync::atomic::{AtomicI64, Ordering};

use ke_run::telemetry::Metrics;
use serde_json::json;

use super::*;
use crate::driver::{Connection, Device, DriverError, Property};
use crate::push::secrets::Secrets;
use crate::testing::FakeEdge;
use crate::{Value, async_trait};

/// Its only value. Below 0 the driver panics.
#[derive(Clone, Default)]
struct Shaky(Arc<AtomicI64>);

#[async_trait]
impl Driver for Shaky {
    type Connection = Shaky;

    fn protocol(&self) -> &'static str {
        "shaky"
    }

    async fn connect(&self, _: &Device) -> Result<Shaky, DriverError> {
        Ok(self.clone())
    }
}

#[async_trait]
impl Connection for Shaky {
    async fn read_one(&mut self, _: &Property) -> Result<Value, DriverError> {
        // Each value is given once, and then there is only panic.
        let value = self.0.load(Ordering::SeqCst);
        assert!(value >= 0, "a driver's fault");
        if value > 1 {
            self.0.store(-1, Ordering::SeqCst);
        }
        Ok(Value::Int(value))
    }

    async fn write(&mut self, _: &Property, _: &Value) -> Result<(), DriverError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_edge_outlives_a_panic() {
    let (mut edge, shaky) = (FakeEdge::start(), Shaky::default());
    edge.put_model(&json!({"metadata": {"name": "m", "namespace": "plant"},
        "spec": {"properties": [{"name": "heat", "type": "INT"}]}}));
    edge.put_device(&json!({"metadata": {"name": "d", "namespace": "plant"}, "spec": {
        "deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "shaky"},
        "properties": [{"name": "heat", "collectCycle": 20, "reportToCloud": true}]}}))
        .await;
    let _mapper = edge.run(shaky.clone());
    edge.wait_reported("d", "heat", "0").await;
    edge.stop().await;
    shaky.0.store(5, Ordering::SeqCst);
    edge.wait("the driver to panic", || shaky.0.load(Ordering::SeqCst) < 0).await;
    // While it was away, and then the driver was gone.
    edge.wait("its connection to go", || Arc::strong_count(&shaky.0) == 2).await;
    edge.listen();
    edge.wait_reported("d", "heat", "5").await;
}

fn model(name: &str) -> dmi::DeviceModel {
    dmi::DeviceModel { name: name.into(), namespace: "plant".into(), spec: None }
}

fn device(name: &str, model: &str) -> dmi::Device {
    let spec = dmi::DeviceSpec { device_model_reference: model.into(), ..Default::default() };
    dmi::Device { name: name.into(), namespace: "plant".into(), spec: Some(spec), status: None }
}

fn fleet() -> (Fleet<Shaky>, mpsc::Sender<News>) {
    let (send, news) = mpsc::channel(1);
    let counters = Counters::new(&mut Metrics::new());
    let (edge, targets) = (Edge::new("/nowhere".into()), Targets::new(Secrets::default()));
    let driver = Arc::new(Shaky::default());
    (Fleet::new(driver, edge, targets, counters, Duration::from_secs(5), news), send)
}

#[tokio::test]
async fn a_registration_s_answer_is_all_there_is_but_for_what_is_newer() {
    let (mut fleet, _send) = fleet();
    let name = |name: &str| manifest::name("plant", name);
    for number in 0..5 {
        fleet.on_news(News::Model(model(&format!("old-{number}"))));
        fleet.on_news(News::Device(Box::new(device(&format!("old-{number}"), "old-0"))));
        fleet.on_news(News::DeviceGone(name(&format!("gone-{number}"))));
    }
    // Nothing is noted that nobody will look at.
    assert_eq!((fleet.touched.as_ref(), fleet.running.len(), fleet.models.len()), (None, 5, 5));

    fleet.on_news(News::Registering);
    fleet.on_news(News::Model(model("new")));
    fleet.on_news(News::Device(Box::new(device("new", "new"))));
    fleet.on_news(News::DeviceGone(name("old-1")));
    // old-1 went after the answer was written, old-2 has a model that the answer lacks.
    let device_list = vec![device("old-1", "old-0"), device("old-2", "old-0"), device("late", "late")];
    let answer = dmi::MapperRegisterResponse { model_list: vec![model("late")], device_list };
    fleet.on_news(News::Registered(answer));
    assert_eq!(fleet.running.keys().collect::<Vec<_>>(), [&name("late"), &name("new"), &name("old-2")]);
    assert_eq!(fleet.models.keys().collect::<Vec<_>>(), [&name("late"), &name("new"), &name("old-0")]);
    assert_eq!(fleet.touched, None);
}
