//! A changed size of a Pod that runs: granted, carried out and told; or kept waiting with the reason.

use k8s_openapi::api::core::v1::ContainerStatus;
use tonic::Code;

use super::*;
use crate::edged::cri::RuntimeError;

fn sized(cpu: &str, memory: &str, policy: serde_json::Value, generation: i64) -> Arc<Pod> {
    let mut body = json!({"metadata": {"generation": generation}, "spec": {"containers": [{
        "name": "app", "image": "i:1", "imagePullPolicy": "IfNotPresent", "resizePolicy": policy,
        "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}}]}});
    for (key, value) in [("name", "web"), ("namespace", "default"), ("uid", "u1")] {
        body["metadata"][key] = json!(value);
    }
    body["spec"]["nodeName"] = json!("edge-1");
    Arc::new(serde_json::from_value(body).unwrap())
}

fn app(status: &PodStatus) -> &ContainerStatus {
    &status.container_statuses.as_ref().unwrap()[0]
}

/// What the status says that it has and was granted: `request`, `limit`, `allocated`.
fn memory(status: &PodStatus) -> [String; 3] {
    let app = app(status);
    let of =
        |list: Option<&BTreeMap<String, Quantity>>| list.map_or(String::new(), |l| l["memory"].0.clone());
    let resources = app.resources.as_ref();
    [
        of(resources.and_then(|r| r.requests.as_ref())),
        of(resources.and_then(|r| r.limits.as_ref())),
        of(app.allocated_resources.as_ref()),
    ]
}

fn condition(status: &PodStatus, type_: &str) -> Option<(String, String)> {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == type_)?;
    assert_eq!(found.status, "True");
    Some((found.reason.clone().unwrap_or_default(), found.message.clone().unwrap_or_default()))
}

fn is_settled(status: &PodStatus, generation: i64) -> bool {
    status.observed_generation == Some(generation)
        && condition(status, "PodResizePending").is_none()
        && condition(status, "PodResizeInProgress").is_none()
}

fn said(reason: &'static str) -> impl Fn(&Report) -> Option<String> {
    move |report| event(report).filter(|(found, _)| found == reason).map(|(_, message)| message)
}

#[tokio::test]
async fn a_running_container_is_resized_in_place() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![sized("100m", "64Mi", json!(null), 1)]);
    let status = edged.running().await;
    assert_eq!(memory(&status), ["64Mi", "64Mi", "64Mi"]);
    edged.news.send(News::PodPut(sized("200m", "96Mi", json!(null), 2))).await.unwrap();
    edged.wait("ResizeStarted", said("ResizeStarted")).await;
    let under_way = |s: &PodStatus| condition(s, "PodResizeInProgress").is_some();
    let status = edged.status("under way", under_way).await;
    assert_eq!(memory(&status), ["64Mi", "64Mi", "96Mi"], "granted and not there yet");
    let message = edged.wait("ResizeCompleted", said("ResizeCompleted")).await;
    assert!(message.starts_with("Pod resize completed: {") && message.contains("96Mi"), "{message}");
    let status = edged.status("resized", |s| is_settled(s, 2)).await;
    assert_eq!(memory(&status), ["96Mi", "96Mi", "96Mi"]);
    assert_eq!(app(&status).restart_count, 0);
    let id = machine.runtime.container_named("app").unwrap();
    let now = machine.runtime.container_status(&id).await.unwrap().resources.unwrap().linux.unwrap();
    assert_eq!((now.cpu_shares, now.memory_limit_in_bytes), (204, 96 << 20));
    edged.end().await;

    // A start of edged does not do it again, from what was told or from what was noted.
    let n_updates = machine.n_calls("update_resources");
    assert_eq!(n_updates, 1);
    let mut stored = (*sized("200m", "96Mi", json!(null), 2)).clone();
    stored.status = Some(status);
    let edged = machine.start(vec![Arc::new(stored)]);
    let looked = machine.n_calls("list_containers");
    until("looked at again", || machine.n_calls("list_containers") > looked + 3).await;
    assert_eq!(machine.n_calls("update_resources"), n_updates);
    edged.end().await;
    // Killed before it was told: the note on the container is older, and what it asks for is done again.
    let edged = machine.start(vec![sized("200m", "96Mi", json!(null), 2)]);
    until("done again", || machine.n_calls("update_resources") == n_updates + 1).await;
    assert_eq!(machine.n_calls("create_container"), 1);
    edged.end().await;
}

#[tokio::test]
async fn a_policy_asks_for_a_new_start() {
    let machine = Machine::new();
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let mut edged = machine.start(vec![sized("100m", "64Mi", policy.clone(), 1)]);
    edged.running().await;
    // CPU is not memory.
    edged.news.send(News::PodPut(sized("200m", "64Mi", policy.clone(), 2))).await.unwrap();
    let status = edged.status("resized", |s| is_settled(s, 2)).await;
    assert_eq!(app(&status).restart_count, 0);
    edged.news.send(News::PodPut(sized("200m", "96Mi", policy, 3))).await.unwrap();
    let killing = |report: &Report| {
        event(report).filter(|e| e.0 == "Killing" && e.1 == "Container app resize requires restart")
    };
    edged.wait("Killing", killing).await;
    let status = edged.status("resized", |s| is_settled(s, 3) && is_ready(s)).await;
    assert_eq!((app(&status).restart_count, memory(&status)[1].as_str()), (1, "96Mi"));
    assert_eq!(machine.n_calls("update_resources"), 1);
    edged.end().await;
}

#[tokio::test]
async fn what_does_not_fit_waits_and_says_why() {
    let machine = Machine::new();
    let mut other = (*sized("100m", "1536Mi", json!(null), 1)).clone();
    (other.metadata.uid, other.metadata.name) = (Some("u2".into()), Some("other".into()));
    let mut edged = machine.start(vec![sized("100m", "64Mi", json!(null), 1), Arc::new(other)]);
    edged.running().await;
    until("both run", || machine.n_calls("start_container") == 2).await;
    // More than the node has, ever.
    edged.news.send(News::PodPut(sized("100m", "3Gi", json!(null), 2))).await.unwrap();
    let pending = |s: &PodStatus| condition(s, "PodResizePending").map(|found| (found, s.clone()));
    let status = edged.status("Infeasible", |s| pending(s).is_some()).await;
    let ((reason, message), _) = pending(&status).unwrap();
    assert_eq!(reason, "Infeasible");
    assert_eq!(
        message,
        "Node didn't have enough capacity: memory, requested: 3221225472, capacity: 2147483648"
    );
    assert_eq!(memory(&status), ["64Mi", "64Mi", "64Mi"], "it keeps what it has");
    // Not beside the other one.
    edged.news.send(News::PodPut(sized("100m", "1Gi", json!(null), 3))).await.unwrap();
    edged.wait("ResizeDeferred", said("ResizeDeferred")).await;
    let deferred = |s: &PodStatus| pending(s).is_some_and(|((reason, _), _)| reason == "Deferred");
    edged.status("Deferred", deferred).await;
    assert_eq!(machine.n_calls("update_resources"), 0);
    // The other one goes, and there is room.
    edged.news.send(News::PodDeleted("default/pod/other".parse().unwrap(), None)).await.unwrap();
    let status = edged.status("resized", |s| is_settled(s, 3)).await;
    assert_eq!(memory(&status), ["1Gi", "1Gi", "1Gi"]);
    edged.end().await;
}

#[tokio::test]
async fn a_runtime_that_refuses_is_told_and_asked_again() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![sized("100m", "64Mi", json!(null), 1)]);
    edged.running().await;
    let busy = RuntimeError::Refused { code: Code::Unknown, message: "device or resource busy".into() };
    machine.runtime.fail_next("update_resources", busy);
    edged.news.send(News::PodPut(sized("100m", "32Mi", json!(null), 2))).await.unwrap();
    let failed = |s: &PodStatus| condition(s, "PodResizeInProgress").is_some_and(|found| found.0 == "Error");
    let status = edged.status("the error", failed).await;
    let (_, message) = condition(&status, "PodResizeInProgress").unwrap();
    assert!(message.contains("device or resource busy"), "{message}");
    assert_eq!(memory(&status), ["64Mi", "64Mi", "32Mi"]);
    let status = edged.status("resized", |s| is_settled(s, 2)).await;
    assert_eq!(memory(&status)[1], "32Mi");
    edged.end().await;
}
