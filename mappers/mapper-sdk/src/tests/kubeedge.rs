//! A whole mapper beside an edge node of KubeEdge, on virtual time.

use std::time::Duration;

use super::*;

/// D72: one connection for all that a mapper tells, of all its devices.
#[tokio::test(start_paused = true)]
async fn one_connection_lasts() {
    let (mut edge, oven_1) = (edge(), Oven::default());
    edge.put_device(&oven("20")).await;
    edge.put_device(&device("oven-2", json!({}), "")).await;
    let _mapper = edge.run(oven_1);
    edge.wait("two hundred rounds", || edge.rounds().len() >= 200).await;
    assert_eq!(edge.n_connections(), 1);
    // And one more for an edge node that was away.
    edge.stop().await;
    edge.clear();
    tokio::time::sleep(Duration::from_secs(60)).await;
    edge.listen();
    edge.wait("to be registered at again", || edge.n_registrations() == 2).await;
    edge.wait("two hundred rounds more", || edge.rounds().len() >= 200).await;
    assert_eq!(edge.n_connections(), 2);
}

/// An oven beside KubeEdge's edgecore. `more`: of the property heat.
async fn beside_kubeedge(more: serde_json::Value) -> FakeEdge {
    let edge = FakeEdge::start_kubeedge();
    edge.put_model(&json!({"metadata": {"name": "oven", "namespace": "plant"}, "spec": {"properties": [
        {"name": "heat", "type": "INT"}, {"name": "phase", "type": "STRING"},
    ]}}));
    for name in ["oven-1", "oven-2", "oven-3"] {
        let oven = json!({"metadata": {"name": name, "namespace": "plant"}, "spec": {
            "deviceModelRef": {"name": "oven"},
            "protocol": {"protocolName": "oven"},
            "properties": [
                {"name": "heat", "collectCycle": 1000, "reportToCloud": true, "visitors": {"configData": more}},
                {"name": "phase", "collectCycle": 1000, "reportToCloud": true},
            ],
        }});
        edge.put_device(&oven).await;
    }
    edge
}

#[tokio::test(start_paused = true)]
async fn a_value_that_kubeedge_does_not_take_leaves_the_others() {
    let (edge, oven_1) = (beside_kubeedge(json!({})).await, Oven::default());
    let hold = |phase: &str| oven_1.0.lock().unwrap().held.insert("phase".into(), Value::Text(phase.into()));
    hold("heating up");
    let mapper = edge.run(oven_1.clone());
    edge.wait_reported("oven-3", "heat", "0").await;
    let (_, metrics) = get(mapper.http, "/metrics").await;
    assert!(!metrics.contains("mapper_left_out_values_total 0\n"), "{metrics}");
    hold("hot");
    edge.wait_reported("oven-3", "phase", "hot").await;
    assert!(edge.reported().iter().all(|told| told.value != "heating up"));
    assert_eq!(edge.n_dropped_rounds(), 0);
}
