//! A runtime that goes away in the middle of things and comes back: nothing is done twice, nothing is blamed.

use super::*;
use crate::edged::cri::RuntimeError;

fn cut() -> RuntimeError {
    RuntimeError::Unavailable("the container runtime broke off".into())
}

/// Every word of a kind that would tell the user of something wrong with the Pod.
fn warnings(edged: &mut Started) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Ok(report) = edged.reports.try_recv() {
        if let Report::Event { body, .. } = &report {
            let body: serde_json::Value = serde_json::from_slice(body).unwrap();
            found.extend(event(&report).filter(|_| body["type"] == "Warning"));
        }
    }
    found
}

#[tokio::test]
async fn a_start_that_was_cut_is_done_once_and_not_blamed() {
    for method in ["run_sandbox", "image_status", "create_container", "start_container"] {
        let machine = Machine::new();
        machine.runtime.fail_next(method, cut());
        let mut edged = machine.start(Vec::new());
        edged.news.send(News::PodPut(web())).await.unwrap();
        let running = |report: &Report| match report {
            Report::PodStatus { status, .. } => serde_json::from_slice(status).ok().filter(is_ready),
            Report::Event { body, .. } => {
                let body: serde_json::Value = serde_json::from_slice(body).unwrap();
                let is_ours = body["reason"] == "MissingClusterDNS";
                assert!(is_ours || body["type"] != "Warning", "{method}: {body}");
                None
            }
            Report::PodGone { .. } => None,
        };
        let status: PodStatus = edged.wait(method, running).await;
        assert_eq!(status.container_statuses.unwrap()[0].restart_count, 0, "{method}");
        assert_eq!(machine.runtime.list_sandboxes().await.unwrap().len(), 1, "{method}");
        assert_eq!(machine.runtime.list_containers().await.unwrap().len(), 1, "{method}");
        edged.end().await;
    }
}

#[tokio::test]
async fn a_stop_that_was_cut_runs_its_hook_once() {
    let machine = Machine::new();
    let mut pod = probed("lifecycle", json!({"preStop": {"exec": {"command": ["part"]}}}));
    let mut edged = machine.start(vec![Arc::new(pod.clone())]);
    edged.running().await;
    machine.runtime.fail_next("stop_container", cut());
    pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    edged.news.send(News::PodPut(Arc::new(pod))).await.unwrap();
    edged.wait("PodGone", |r| matches!(r, Report::PodGone { .. }).then_some(())).await;
    assert_eq!(machine.n_calls("stop_container"), 2, "asked again");
    let hooks = machine.runtime.changes().iter().filter(|call| call.ends_with("part")).count();
    assert_eq!(hooks, 1);
    edged.end().await;
}

#[tokio::test]
async fn a_hook_that_could_not_be_asked_is_asked_again() {
    let machine = Machine::new();
    let mut pod = probed("lifecycle", json!({"preStop": {"exec": {"command": ["part"]}}}));
    let mut edged = machine.start(vec![Arc::new(pod.clone())]);
    edged.running().await;
    for method in ["exec_sync", "stop_container"] {
        machine.runtime.fail_next(method, cut());
    }
    pod.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    edged.news.send(News::PodPut(Arc::new(pod))).await.unwrap();
    edged.wait("PodGone", |r| matches!(r, Report::PodGone { .. }).then_some(())).await;
    let hooks = machine.runtime.changes().iter().filter(|call| call.ends_with("part")).count();
    assert_eq!(hooks, 2);
    edged.end().await;
}

#[tokio::test]
async fn probes_that_could_not_be_asked_count_for_nothing() {
    let machine = Machine::new();
    machine.runtime.set_exec("alive", 0, "");
    let probe = json!({"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1});
    let mut edged = machine.start(vec![Arc::new(probed("livenessProbe", probe))]);
    edged.running().await;
    machine.runtime.go_away();
    let asked = machine.n_calls("exec_sync");
    until("asked while it is away", || machine.n_calls("exec_sync") > asked + 3).await;
    machine.runtime.heal();
    let asked = machine.n_calls("exec_sync");
    until("asked again", || machine.n_calls("exec_sync") > asked + 1).await;
    assert_eq!((machine.n_calls("stop_container"), machine.n_calls("create_container")), (0, 1));
    for (reason, message) in warnings(&mut edged) {
        let is_unknown = message.contains("errored and resulted in unknown state");
        assert!(reason == "Unhealthy" && is_unknown, "{reason}: {message}");
    }
    edged.end().await;
}

/// A list that takes minutes: whoever keeps the machine, and the end of the process, do not wait for it.
#[tokio::test]
async fn a_runtime_that_hangs_keeps_nobody_waiting() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    edged.running().await;
    machine.runtime.hold("list_sandboxes");
    let before = machine.n_calls("list_sandboxes");
    until("a look hangs", || machine.n_calls("list_sandboxes") > before).await;
    let kept = tokio::time::timeout(PATIENCE, edged.keeper.pods()).await;
    assert_eq!(kept.expect("an answer").len(), 1);
    machine.runtime.release("list_sandboxes");
    edged.end().await;
}
