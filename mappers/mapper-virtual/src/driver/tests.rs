//! The mapper beside a fake edge node, as every driver can be tested.

use mapper_sdk::testing::FakeEdge;
use serde_json::{Value as Json, json};

use super::Virtual;

fn model(properties: &Json) -> Json {
    json!({"metadata": {"name": "toy", "namespace": "plant"}, "spec": {"properties": properties}})
}

fn device(properties: &Json) -> Json {
    json!({"metadata": {"name": "toy-1", "namespace": "plant"}, "spec": {
        "deviceModelRef": {"name": "toy"}, "protocol": {"protocolName": "virtual"}, "properties": properties,
    }})
}

fn property(name: &str, settings: Json, desired: &str) -> Json {
    json!({"name": name, "collectCycle": 10, "reportToCloud": true, "desired": {"value": desired},
        "visitors": {"protocolName": "virtual", "configData": settings}})
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_and_set_points() {
    let edge = FakeEdge::start();
    edge.put_model(&model(&json!([
        {"name": "count", "type": "INT", "accessMode": "ReadOnly"},
        {"name": "chance", "type": "DOUBLE", "accessMode": "ReadOnly"},
        {"name": "wave", "type": "FLOAT", "accessMode": "ReadOnly"},
        {"name": "limit", "type": "FLOAT", "accessMode": "ReadWrite"},
        {"name": "label", "type": "STRING", "accessMode": "ReadWrite"},
    ])));
    let properties = json!([
        property("count", json!({"signal": "Counter"}), ""),
        property("chance", json!({"signal": "random", "seed": 7, "low": 10, "high": "20"}), ""),
        property("wave", json!({"signal": "sine", "low": -1, "high": 1, "periodSecs": 1}), ""),
        property("limit", json!({}), "25.3"),
        property("label", json!({}), ""),
    ]);
    edge.put_device(&device(&properties)).await;
    let _mapper = edge.run(Virtual);
    for (property, value) in [("count", "3"), ("limit", "25.3"), ("label", "")] {
        edge.wait_reported("toy-1", property, value).await;
    }
    edge.wait_state("toy-1", "online").await;
    let numbers = |property: &str| -> Vec<f64> {
        let reported = edge.reported().into_iter().filter(|told| told.property == property);
        reported.map(|told| told.value.parse().unwrap()).collect()
    };
    assert!(numbers("chance").iter().all(|number| (10.0..=20.0).contains(number)));
    assert!(numbers("wave").iter().all(|number| (-1.0..=1.0).contains(number)));
    // The seed makes the numbers.
    assert_eq!(numbers("chance")[0].to_string(), "13.898297484009131");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_told_and_mended() {
    let edge = FakeEdge::start();
    edge.put_model(&model(&json!([{"name": "count", "type": "INT", "accessMode": "ReadOnly"}])));
    edge.put_device(&device(&json!([property("count", json!({"signal": "sinus"}), "")]))).await;
    let _mapper = edge.run(Virtual);
    edge.wait_state("toy-1", "unhealthy").await;
    edge.put_device(&device(&json!([property("count", json!({"signal": "counter"}), "")]))).await;
    edge.wait_reported("toy-1", "count", "1").await;
}
