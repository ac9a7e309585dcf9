//! Critical pods for which others make room.

use super::*;

/// A machine that gives two cores.
fn machine() -> Machine {
    let offers = [("cpu".to_owned(), Quantity("2".to_owned()))].into();
    Machine { offers, ..Machine::new() }
}

fn asking(uid: &str, cpu: &str, more: serde_json::Value) -> Pod {
    let mut pod = pod(uid, more);
    pod.metadata.name = Some(format!("pod-{uid}"));
    let spec = pod.spec.as_mut().unwrap();
    spec.containers[0].resources = serde_json::from_value(json!({"requests": {"cpu": cpu}})).unwrap();
    pod
}

fn from_file(uid: &str, cpu: &str) -> Pod {
    let mut pod = asking(uid, cpu, json!({}));
    pod.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    pod
}

fn set(pod: Pod) -> StaticSet {
    Arc::new([(pod_key(&pod).unwrap(), Arc::new(pod))].into())
}

fn failed(status: &PodStatus) -> bool {
    status.phase.as_deref() == Some("Failed")
}

async fn starts_of(machine: &Machine) -> Vec<String> {
    let sandboxes = machine.runtime.list_sandboxes().await.unwrap();
    sandboxes.iter().map(|sandbox| sandbox.labels[POD_UID].clone()).collect()
}

#[tokio::test]
async fn a_static_pod_begins_when_others_have_ended_for_it() {
    let machine = machine();
    let mut edged = machine.start(Vec::new());
    let slow = json!({"terminationGracePeriodSeconds": 7});
    edged.news.send(News::PodPut(Arc::new(asking("u1", "1500m", slow)))).await.unwrap();
    let running = edged.running().await;
    edged.news.send(News::PodPut(Arc::new(asking("u2", "100m", json!({}))))).await.unwrap();
    edged.running().await;
    // It ends only when the test says so.
    machine.runtime.hold("stop_container");
    edged.files.send_replace(set(from_file("h1", "1")));
    let said = edged.wait("the event", |report| event(report).filter(|(reason, _)| reason == "Preempting"));
    assert_eq!(said.await.1, "Preempted in order to admit critical pod");
    until("it is being stopped", || machine.n_calls("stop_container") == 1).await;
    assert_eq!(machine.runtime.graces(), [7], "its own time to end");
    let looked = machine.n_calls("list_containers");
    until("it was looked at", || machine.n_calls("list_containers") > looked + 3).await;
    assert_eq!(machine.n_calls("run_sandbox"), 2, "the static pod waits");
    // While it waits its claim counts.
    edged.news.send(News::PodPut(Arc::new(asking("u3", "500m", json!({}))))).await.unwrap();
    let refused = edged.status("refused", failed).await;
    assert_eq!(refused.reason.as_deref(), Some("OutOfcpu"));
    machine.runtime.release("stop_container");
    let status =
        edged.status("has failed", |status| failed(status) && status.start_time == running.start_time).await;
    assert_eq!(status.reason.as_deref(), Some("Preempting"));
    assert_eq!(status.message.as_deref(), Some("Preempted in order to admit critical pod"));
    let target = status.conditions.iter().flatten().find(|one| one.type_ == "DisruptionTarget").unwrap();
    assert_eq!((target.status.as_str(), target.reason.as_deref()), ("True", Some("TerminationByKubelet")));
    until("the static pod runs", || machine.n_calls("start_container") == 3).await;
    let uids = starts_of(&machine).await;
    assert!(uids.contains(&"h1".to_owned()) && uids.contains(&"u2".to_owned()), "{uids:?}");
    let containers = machine.runtime.list_containers().await.unwrap();
    assert_eq!(containers.len(), 3, "what made room keeps its logs");
    edged.end().await;
}

#[tokio::test]
async fn nobody_ends_for_a_pod_that_would_not_fit_all_the_same() {
    let machine = machine();
    let mut edged = machine.start(Vec::new());
    edged.news.send(News::PodPut(Arc::new(asking("u1", "1", json!({}))))).await.unwrap();
    edged.running().await;
    let critical = asking("u2", "3", json!({"priority": 2_000_000_000}));
    edged.news.send(News::PodPut(Arc::new(critical))).await.unwrap();
    let status = edged.status("refused", failed).await;
    assert_eq!(status.reason.as_deref(), Some("UnexpectedAdmissionError"));
    let message = "Pod was rejected: Unexpected error while attempting to recover from admission failure: preemption: error \
                   finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]";
    assert_eq!(status.message.as_deref(), Some(message));
    // Nor for one that the machine cannot run.
    let windows = asking("u3", "2", json!({"priority": 2_000_000_000, "os": {"name": "windows"}}));
    edged.news.send(News::PodPut(Arc::new(windows))).await.unwrap();
    let status = edged.status("refused", failed).await;
    assert_eq!(status.reason.as_deref(), Some("PodOSNotSupported"));
    // Nor for one of a high priority that is not critical.
    let high = asking("u4", "2", json!({"priority": 1_999_999_999}));
    edged.news.send(News::PodPut(Arc::new(high))).await.unwrap();
    let status = edged.status("refused", failed).await;
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert_eq!(machine.n_calls("stop_container"), 0);
    edged.end().await;
}

#[tokio::test]
async fn a_start_of_edged_ends_nobody_who_was_accepted_for_what_runs() {
    let machine = machine();
    let edged = machine.start_with(Vec::new(), set(from_file("h1", "1500m")));
    until("it runs", || machine.n_calls("start_container") == 1).await;
    edged.end().await;
    // Without a cloud nothing tells that it was accepted; it has its room all the same.
    let mut other = asking("u1", "500m", json!({}));
    other.status =
        serde_json::from_value(json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z"})).unwrap();
    let before = machine.runtime.changes();
    let mut edged = machine.start_with(vec![Arc::new(other)], set(from_file("h1", "1500m")));
    edged.running().await;
    assert_eq!((machine.n_calls("stop_container"), machine.n_calls("run_sandbox")), (0, 2));
    assert!(machine.runtime.changes() > before);
    edged.end().await;
    // A kill in the middle: what was told to make room ends, and the critical one has its place.
    let mut other = asking("u1", "500m", json!({}));
    other.status = serde_json::from_value(json!({"phase": "Failed", "reason": "Preempting",
        "startTime": "2026-01-01T00:00:00Z", "message": "Preempted in order to admit critical pod"}))
    .unwrap();
    let edged = machine.start_with(vec![Arc::new(other)], set(from_file("h2", "2")));
    until("it runs", || machine.n_calls("start_container") == 3).await;
    until("the others are stopped", || machine.n_calls("stop_container") == 2).await;
    edged.end().await;
}
