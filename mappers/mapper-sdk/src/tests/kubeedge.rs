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

/// Three ovens beside KubeEdge's edgecore. `more`: of the property heat.
async fn beside_kubeedge(more: serde_json::Value) -> FakeEdge {
    with_ovens(FakeEdge::start_kubeedge(), more).await
}

async fn with_ovens(edge: FakeEdge, more: serde_json::Value) -> FakeEdge {
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
    mapper.stop().await;
    // Isthmus' takes it.
    hold("heating up");
    let edge = with_ovens(FakeEdge::start(), json!({})).await;
    let _mapper = edge.run(oven_1.clone());
    edge.wait_reported("oven-1", "phase", "heating up").await;
}

/// Virtual time jumps to the next timer whenever something comes from a socket: with this never far.
fn ticks() -> tokio::task::JoinSet<()> {
    let mut ticks = tokio::task::JoinSet::new();
    ticks.spawn(async {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    ticks
}

/// The shortest time between two reports.
fn shortest_pause(edge: &FakeEdge) -> Duration {
    let calls = edge.calls();
    let pauses = calls.iter().zip(calls.iter().skip(1)).map(|(one, next)| *next - *one);
    pauses.min().unwrap()
}

#[tokio::test(start_paused = true)]
async fn kubeedge_gets_one_report_a_second_and_the_newest_values() {
    let _ticks = ticks();
    let (edge, oven_1) = (beside_kubeedge(json!({})).await, Oven::default());
    let _mapper = edge.run(oven_1.clone());
    tokio::time::sleep(Duration::from_secs(30)).await;
    oven_1.0.lock().unwrap().held.insert("heat".into(), Value::Int(300));
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let n_before = edge.reported().len();
    tokio::time::sleep(Duration::from_secs(300)).await;
    // All that is told after that is new: nothing of before was kept.
    let told = edge.reported();
    let late = told.iter().skip(n_before).filter(|told| told.property == "heat" && told.value != "300");
    assert_eq!(late.collect::<Vec<_>>(), Vec::<&crate::testing::Reported>::new());
    let pause = shortest_pause(&edge);
    assert!((Duration::from_millis(950)..Duration::from_millis(1050)).contains(&pause), "{pause:?}");
    // In turn.
    for name in ["oven-1", "oven-2", "oven-3"] {
        let n_told = told.iter().filter(|told| told.device == name && told.property == "heat").count();
        assert!((105..=111).contains(&n_told), "{name}: {n_told} in 332 s");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_has_refused_a_report_gets_fewer_until_the_next_registration() {
    let _ticks = ticks();
    let (mut edge, oven_1) = (edge(), Oven::default());
    edge.put_device(&oven("20")).await;
    edge.put_device(&device("oven-2", json!({}), "")).await;
    let _mapper = edge.run(oven_1);
    edge.wait("a hundred rounds", || edge.rounds().len() >= 100).await;
    assert!(shortest_pause(&edge) < Duration::from_millis(100));
    edge.refuse(1);
    // One may be under way.
    tokio::time::sleep(Duration::from_secs(1)).await;
    edge.clear();
    edge.wait("ten reports", || edge.calls().len() >= 10).await;
    let pause = shortest_pause(&edge);
    assert!(pause >= Duration::from_millis(950), "{pause:?}");
    edge.stop().await;
    edge.listen();
    edge.wait("to be registered at again", || edge.n_registrations() == 2).await;
    edge.clear();
    edge.wait("a hundred rounds", || edge.rounds().len() >= 100).await;
    assert!(shortest_pause(&edge) < Duration::from_millis(100));
}

/// D1: KubeEdge's cloud makes an empty entry of a property's first report.
#[tokio::test(start_paused = true)]
async fn kubeedge_is_told_everything_twice_after_each_registration() {
    let mut edge = beside_kubeedge(json!({"reportOnChange": true})).await;
    let _mapper = edge.run(Oven::default());
    for n_registrations in 1..=2 {
        edge.wait("to be registered at", || edge.n_registrations() == n_registrations).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let reported = edge.reported();
        for name in ["oven-1", "oven-2", "oven-3"] {
            let n_told = |property: &str| {
                reported
                    .iter()
                    .filter(|told| (told.device.as_str(), told.property.as_str()) == (name, property))
                    .count()
            };
            assert_eq!(n_told("heat"), 2, "{name}, {n_registrations}");
            assert!(n_told("phase") > 2);
        }
        edge.stop().await;
        edge.clear();
        edge.listen();
    }
}
