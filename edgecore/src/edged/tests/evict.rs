//! Pods that this Node ends or does not take.

use super::*;
use crate::edged::evicted::{Cause, Eviction, Life};

fn eviction() -> Eviction {
    let message = "The node was low on resource: memory. ".into();
    Eviction { message, grace_secs: 1, cause: Cause::Shortage }
}

fn is_failed(status: &PodStatus) -> bool {
    status.phase.as_deref() == Some("Failed")
}

/// Why the pod ended, by its status.
fn words(status: &PodStatus) -> (Option<&str>, Option<&str>, bool) {
    let target = status.conditions.iter().flatten().find(|one| one.type_ == "DisruptionTarget");
    let is_target = target.is_some_and(|one| one.reason.as_deref() == Some("TerminationByKubelet"));
    (status.reason.as_deref(), status.message.as_deref(), is_target)
}

async fn wait_for_life(edged: &Started, life: Life) {
    let wait = async {
        while edged.keeper.pods().await.first().map(|kept| kept.life) != Some(life) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never {life:?}"));
}

#[tokio::test]
async fn an_evicted_pod_ends_soon_and_leaves_nothing_on_the_disk() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    edged.running().await;
    wait_for_life(&edged, Life::Active).await;
    edged.keeper.evict("u1", eviction()).await;
    let event = edged
        .wait("the event", |report| match report {
            Report::Event { body, .. } => {
                let event: serde_json::Value = serde_json::from_slice(body).ok()?;
                (event["reason"] == "Evicted").then_some(event)
            }
            _ => None,
        })
        .await;
    assert_eq!((&event["type"], &event["message"]), (&json!("Warning"), &json!(eviction().message)));
    let status = edged.status("failed", is_failed).await;
    assert_eq!(words(&status), (Some("Evicted"), Some(&*eviction().message), true));
    let main = &status.container_statuses.as_ref().unwrap()[0];
    assert!(main.state.as_ref().unwrap().terminated.is_some() && !is_ready(&status));
    wait_for_life(&edged, Life::Over).await;
    // A second was asked for; nobody gets less than two.
    assert_eq!(machine.runtime.graces(), [2]);
    assert!(
        machine.runtime.list_containers().await.unwrap().is_empty(),
        "its layers would fill the disk still"
    );
    assert_eq!(machine.files.n("tear down u1"), 1);

    // The next life of edgecore does nothing to it, and says the same.
    let mut status = status;
    while let Ok(report) = edged.reports.try_recv() {
        if let Report::PodStatus { status: told, .. } = report {
            status = serde_json::from_slice(&told).unwrap();
        }
    }
    assert_eq!(words(&status), (Some("Evicted"), Some(&*eviction().message), true));
    edged.end().await;
    let mut stored = (*web()).clone();
    stored.status = Some(status);
    let mut edged = machine.start(vec![Arc::new(stored)]);
    wait_for_life(&edged, Life::Over).await;
    assert!(edged.reports.try_recv().is_err());
    assert_eq!(machine.n_calls("run_sandbox"), 1);
    edged.end().await;
}

#[tokio::test]
async fn an_eviction_that_was_cut_short_goes_on() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    let mut status = edged.running().await;
    edged.end().await;
    // Killed after the decision was told, before anything ended.
    status.reason = Some("Evicted".into());
    status.message = Some("why".into());
    let mut stored = (*web()).clone();
    stored.status = Some(status);
    let mut edged = machine.start(vec![Arc::new(stored)]);
    let status = edged.status("failed", is_failed).await;
    assert_eq!(words(&status), (Some("Evicted"), Some("why"), false));
    wait_for_life(&edged, Life::Over).await;
    assert_eq!(machine.n_calls("create_container"), 1);
    edged.end().await;
}

#[tokio::test]
async fn a_pull_without_end_holds_up_no_eviction() {
    let machine = Machine::new();
    machine.runtime.hold("pull_image");
    let containers = json!({"containers": [{"name": "app", "image": "far:1"}]});
    let mut edged = machine.start(vec![Arc::new(pod("u1", containers))]);
    until("a pull", || machine.n_calls("pull_image") > 0).await;
    edged.keeper.evict("u1", eviction()).await;
    let status = edged.status("failed", is_failed).await;
    assert_eq!(words(&status).0, Some("Evicted"));
    wait_for_life(&edged, Life::Over).await;
    edged.end().await;
}

#[tokio::test]
async fn a_node_that_is_short_takes_no_new_pod_and_keeps_the_old() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    edged.running().await;
    edged.keeper.short_of(Pressures { memory: true, ..Pressures::default() }).await;
    // The word came before the pod.
    assert_eq!(edged.keeper.pods().await.len(), 1);
    let mut new = pod("u2", json!({}));
    new.metadata.name = Some("new".into());
    edged.news.send(News::PodPut(Arc::new(new))).await.unwrap();
    let status = edged.status("refused", is_failed).await;
    let why = "Pod was rejected: The node had condition: [MemoryPressure]. ";
    assert_eq!(words(&status), (Some("Evicted"), Some(why), false));
    // The old one is told again, as by every change in the cloud.
    edged.news.send(News::PodPut(web())).await.unwrap();
    edged.keeper.short_of(Pressures::default()).await;
    assert_eq!(edged.keeper.pods().await.len(), 2);
    let mut late = pod("u3", json!({}));
    late.metadata.name = Some("late".into());
    edged.news.send(News::PodPut(Arc::new(late))).await.unwrap();
    edged.running().await;
    assert_eq!(machine.n_calls("run_sandbox"), 2);
    edged.end().await;
}

#[tokio::test]
async fn pods_that_have_ended_give_their_disk_back() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![Arc::new(pod("u1", json!({"restartPolicy": "Never"})))]);
    edged.running().await;
    let id = machine.runtime.container_named("app").unwrap();
    machine.runtime.exit_container(&id, 0, "Completed");
    let ended = edged.status("succeeded", |status| status.phase.as_deref() == Some("Succeeded")).await;
    wait_for_life(&edged, Life::Over).await;
    assert_eq!(machine.runtime.list_containers().await.unwrap().len(), 1, "for its logs");
    edged.keeper.strip().await;
    until("it is gone", || machine.n_calls("remove_container") == 1).await;
    wait_for_life(&edged, Life::Over).await;
    // How it ended is known still.
    let mut touched = pod("u1", json!({"restartPolicy": "Never"}));
    touched.metadata.generation = Some(7);
    edged.news.send(News::PodPut(Arc::new(touched))).await.unwrap();
    let told = edged.status("told again", |status| status.observed_generation == Some(7)).await;
    let code = |status: &PodStatus| {
        let main = status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
        main.terminated.map(|ended| ended.exit_code)
    };
    assert_eq!((told.phase.as_deref(), code(&told)), (Some("Succeeded"), code(&ended)));
    edged.end().await;
}
