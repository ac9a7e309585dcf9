//! Pods of this machine's folder with their mirrors, and Pods that the node does not take.

use super::*;

const NAME: &str = "default/pod/web";

/// The static pod `web` in the version with this uid.
fn file_pod(uid: &str) -> Pod {
    let mut pod = pod(uid, json!({}));
    pod.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    pod
}

fn set(pods: Vec<Pod>) -> StaticSet {
    Arc::new(pods.into_iter().map(|pod| (pod_key(&pod).unwrap(), Arc::new(pod))).collect())
}

/// The mirror of that version as the cloud has it.
fn mirror(of: &str, uid: &str) -> Pod {
    let mut mirror = file_pod(uid);
    mirror.metadata.annotations.as_mut().unwrap().insert(MIRROR.to_owned(), of.to_owned());
    mirror
}

fn told_as(report: &Report) -> Option<String> {
    match report {
        Report::PodStatus { uid, status, .. } => {
            let status: PodStatus = serde_json::from_slice(status).unwrap();
            is_ready(&status).then(|| uid.to_string())
        }
        _ => None,
    }
}

impl Machine {
    async fn uids(&self) -> Vec<String> {
        let sandboxes = self.runtime.list_sandboxes().await.unwrap();
        sandboxes.iter().map(|sandbox| sandbox.labels[POD_UID].clone()).collect()
    }
}

#[tokio::test]
async fn a_static_pod_runs_and_its_mirror_is_told() {
    let machine = Machine::new();
    let mut edged = machine.start(Vec::new());
    edged.files.send_replace(Some(set(vec![file_pod("h1")])));
    until("it runs", || machine.n_calls("start_container") == 1).await;
    let key: ObjectKey = NAME.parse().unwrap();
    let pairs = edged.mirror_pairs.borrow().clone();
    assert!(pairs.pods[&key].is_some() && pairs.mirrors.is_empty(), "somebody is to make a mirror");
    // Nobody to tell until there is a mirror; then all of it, and again when it was made anew.
    for uid in ["m1", "m2"] {
        edged.news.send(News::PodPut(Arc::new(mirror("h1", uid)))).await.unwrap();
        assert_eq!(edged.wait("ready as its mirror", told_as).await, uid);
        edged.news.send(News::PodDeleted(key.clone(), uid.parse().ok())).await.unwrap();
    }
    assert_eq!(machine.n_calls("run_sandbox"), 1, "the pod itself is untouched");
    assert_eq!(machine.uids().await, ["h1"]);

    // Edged starts anew with the mirror in its store: everything is adopted.
    edged.end().await;
    let mut stored = mirror("h1", "m3");
    stored.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let before = machine.runtime.changes();
    let edged = machine.start_with(vec![Arc::new(stored)], set(vec![file_pod("h1")]));
    let looked = machine.n_calls("list_containers");
    until("it was looked at", || machine.n_calls("list_containers") > looked + 3).await;
    assert_eq!(machine.runtime.changes(), before, "a mirror that is deleted ends nothing");

    // The file goes, and so does all of it; its name is free once nothing is left.
    edged.files.send_replace(Some(set(Vec::new())));
    let pairs = edged.mirror_pairs.clone();
    until("its name is free", || pairs.borrow().pods.is_empty()).await;
    assert!(machine.uids().await.is_empty());
    assert_eq!(edged.mirror_pairs.borrow().mirrors.len(), 1, "somebody is to delete the mirror");
    edged.end().await;
}

#[tokio::test]
async fn a_changed_file_ends_the_old_pod_first() {
    let machine = Machine::new();
    let edged = machine.start_with(Vec::new(), set(vec![file_pod("h1")]));
    until("the old one runs", || machine.n_calls("start_container") == 1).await;
    machine.runtime.hold("stop_container");
    edged.files.send_replace(Some(set(vec![file_pod("h2")])));
    until("the old one is being stopped", || machine.n_calls("stop_container") == 1).await;
    let key: ObjectKey = NAME.parse().unwrap();
    assert_eq!(edged.mirror_pairs.borrow().pods[&key], None);
    assert_eq!(machine.n_calls("run_sandbox"), 1, "the new one waits");
    machine.runtime.release("stop_container");
    until("the new one runs", || machine.n_calls("start_container") == 2).await;
    assert_eq!(machine.uids().await, ["h2"]);
    // A pod of the cloud with its name changes nothing for it.
    edged.news.send(News::PodPut(web())).await.unwrap();
    until("both run", || machine.n_calls("start_container") == 3).await;
    edged.news.send(News::PodDeleted(key, None)).await.unwrap();
    until("that of the cloud ends", || machine.n_calls("remove_sandbox") == 2).await;
    assert_eq!(machine.uids().await, ["h2"]);
    edged.end().await;
}

#[tokio::test]
async fn a_pod_that_is_not_taken_is_failed_and_told() {
    let machine = Machine::new();
    let mut edged = machine.start(Vec::new());
    let windows = || Arc::new(pod("u1", json!({"os": {"name": "windows"}})));
    edged.news.send(News::PodPut(windows())).await.unwrap();
    let said = edged.wait("the event", event).await;
    let text = "Failed to admit pod as the OS field doesn't match node OS";
    assert_eq!(said, ("PodOSNotSupported".to_owned(), text.to_owned()));
    let status = edged.status("Failed", |s| s.phase.as_deref() == Some("Failed")).await;
    assert_eq!(status.reason.as_deref(), Some("PodOSNotSupported"));
    assert_eq!(status.message, Some(format!("Pod was rejected: {text}")));
    assert_eq!(status.container_statuses, None, "there are none to tell of");
    // The cloud does not know it yet: it stays refused.
    edged.news.send(News::PodPut(windows())).await.unwrap();
    let looked = machine.n_calls("list_containers");
    until("it was looked at", || machine.n_calls("list_containers") > looked + 3).await;
    assert_eq!(machine.n_calls("run_sandbox"), 0);
    // What was accepted before is not asked again.
    let mut before = Arc::unwrap_or_clone(windows());
    before.metadata.uid = Some("u2".into());
    before.metadata.name = Some("old".into());
    before.status =
        serde_json::from_value(json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z"})).unwrap();
    edged.news.send(News::PodPut(Arc::new(before))).await.unwrap();
    edged.running().await;
    // Deleted, it goes.
    let mut deleted = Arc::unwrap_or_clone(windows());
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    edged.news.send(News::PodPut(Arc::new(deleted))).await.unwrap();
    edged.wait("PodGone", |r| matches!(r, Report::PodGone { .. }).then_some(())).await;
    edged.end().await;
}

#[tokio::test]
async fn a_held_pod_waits_for_its_release() {
    let machine = Machine::new();
    let held = |uid: &str, name: &str| {
        let mut held = pod(uid, json!({}));
        held.metadata.name = Some(name.into());
        held.metadata.annotations = Some([(HOLD.to_owned(), "true".to_owned())].into());
        Arc::new(held)
    };
    let says = |status: &PodStatus, word: &str| {
        status.conditions.iter().flatten().any(|c| c.type_ == "HeldUpgrade" && c.status == word)
    };
    let mut edged = machine.start(Vec::new());
    edged.news.send(News::PodPut(held("u1", "web"))).await.unwrap();
    let status = edged.status("held", |status| says(status, "True")).await;
    assert_eq!(status.start_time, None, "it has not begun");
    edged.end().await;

    // A restart, with what was told in the store: it still waits, and nothing is told twice.
    let mut stored = Arc::unwrap_or_clone(held("u1", "web"));
    stored.status = Some(status.clone());
    let mut edged = machine.start(vec![Arc::new(stored), held("u2", "api"), held("u3", "gone")]);
    let looked = machine.n_calls("list_containers");
    until("it was looked at", || machine.n_calls("list_containers") > looked + 3).await;
    assert_eq!(machine.n_calls("run_sandbox"), 0);
    let key = |name: &str| -> ObjectKey { format!("default/pod/{name}").parse().unwrap() };
    assert_eq!(edged.holds.release(Which::Pod(key("other"))).await, Some(Vec::new()));
    assert_eq!(edged.holds.release(Which::Pod(key("web"))).await, Some(vec![key("web")]));
    let status = edged.status("running", is_ready).await;
    assert!(says(&status, "False"), "{:?}", status.conditions);
    assert_eq!(machine.uids().await, ["u1"]);
    // What the cloud still says about it changes nothing.
    edged.news.send(News::PodPut(held("u1", "web"))).await.unwrap();
    // One that is deleted while it waits goes; the rest is released at once.
    let mut deleted = Arc::unwrap_or_clone(held("u3", "gone"));
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    edged.news.send(News::PodPut(Arc::new(deleted))).await.unwrap();
    edged.wait("PodGone", |r| matches!(r, Report::PodGone { .. }).then_some(())).await;
    assert_eq!(edged.holds.release(Which::All).await, Some(vec![key("api")]));
    edged.running().await;
    assert_eq!((machine.n_calls("run_sandbox"), machine.n_calls("stop_container")), (2, 0));
    edged.end().await;
}

#[tokio::test]
async fn what_has_ended_takes_no_room() {
    let machine = Machine::new();
    let mut edged = machine.start(Vec::new());
    let port = json!([{"containerPort": 80, "hostPort": 80}]);
    let server = |uid: &str, name: &str| {
        let app =
            json!({"name": "app", "image": "i:1", "imagePullPolicy": "IfNotPresent", "ports": port.clone()});
        let mut server = pod(uid, json!({"restartPolicy": "Never", "containers": [app]}));
        server.metadata.name = Some(name.into());
        Arc::new(server)
    };
    edged.news.send(News::PodPut(server("u1", "first"))).await.unwrap();
    edged.running().await;
    edged.news.send(News::PodPut(server("u2", "second"))).await.unwrap();
    let refused = edged.status("refused", |s| s.phase.as_deref() == Some("Failed")).await;
    assert_eq!(refused.reason.as_deref(), Some("NodePorts"));
    // The first ends by itself; the cloud never says so.
    let id = machine.runtime.list_containers().await.unwrap()[0].id.clone();
    machine.runtime.exit_container(&id, 0, "Completed");
    edged.status("over", |s| s.phase.as_deref() == Some("Succeeded")).await;
    edged.news.send(News::PodPut(server("u3", "third"))).await.unwrap();
    edged.running().await;
    edged.end().await;
}

/// Whoever may make Pods in the cloud makes no static ones.
#[tokio::test]
async fn a_pod_of_the_cloud_is_no_static_one_whatever_it_says() {
    let machine = Machine::new();
    let mut edged = machine.start(Vec::new());
    edged.news.send(News::PodPut(Arc::new(file_pod("u1")))).await.unwrap();
    edged.running().await;
    let critical = async |edged: &Started| -> Vec<bool> {
        edged.keeper.pods().await.iter().map(|kept| is_critical(&kept.pod)).collect()
    };
    assert_eq!(critical(&edged).await, [false]);
    let sandboxes = machine.runtime.list_sandboxes().await.unwrap();
    assert_eq!(sandboxes[0].annotations.get(crate::static_pods::SOURCE).map(String::as_str), Some("api"));
    edged.end().await;
    let edged = machine.start(vec![Arc::new(file_pod("u1"))]);
    assert_eq!(critical(&edged).await, [false]);
    edged.end().await;
}

#[tokio::test]
async fn a_static_pod_runs_again_after_the_machine_went_down() {
    let machine = Machine::new();
    let mut edged = machine.start_with(vec![Arc::new(mirror("h1", "m1"))], set(vec![file_pod("h1")]));
    edged.running().await;
    let periods = periods(Duration::from_secs(60), Duration::from_secs(30), &[]);
    node_shutdown::end_all(&edged.keeper, &periods).await;
    let is_failed = |status: &PodStatus| status.phase.as_deref() == Some("Failed");
    let status = edged.status("ended", is_failed).await;
    assert_eq!(status.reason.as_deref(), Some("Terminated"));
    // Neither a word of the cloud brings it back meanwhile, nor does a file that comes now.
    edged.news.send(News::PodPut(Arc::new(mirror("h1", "m1")))).await.unwrap();
    let mut late = file_pod("h2");
    late.metadata.name = Some("late".into());
    edged.files.send_replace(Some(set(vec![file_pod("h1"), late])));
    let looked = machine.n_calls("list_containers");
    until("it was looked at", || machine.n_calls("list_containers") > looked + 3).await;
    assert_eq!(machine.n_calls("run_sandbox"), 1);
    edged.end().await;

    // The next boot, with what was told in the store.
    let mut stored = mirror("h1", "m1");
    stored.status = Some(status);
    let mut edged = machine.start_with(vec![Arc::new(stored)], set(vec![file_pod("h1")]));
    let status = edged.running().await;
    assert_eq!((status.phase.as_deref(), status.reason), (Some("Running"), None));
    edged.end().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_ends_no_pod() {
    let machine = Machine::new();
    let edged = machine.start_with(vec![Arc::new(mirror("h1", "m1"))], set(vec![file_pod("h1")]));
    until("it runs", || machine.n_calls("start_container") == 1).await;
    edged.end().await;
    let before = machine.runtime.changes();
    let edged = machine.start_with(vec![Arc::new(mirror("h1", "m1"))], None);
    let looked = machine.n_calls("list_containers");
    until("it was looked at", || machine.n_calls("list_containers") > looked + 3).await;
    assert_eq!(machine.runtime.changes(), before);
    assert!(edged.mirror_pairs.borrow().mirrors.is_empty(), "nobody is to delete its mirror");
    // Read at last: what runs is what it was.
    edged.files.send_replace(Some(set(vec![file_pod("h1")])));
    let key: ObjectKey = NAME.parse().unwrap();
    let pairs = edged.mirror_pairs.clone();
    until("it has its name", || pairs.borrow().pods.contains_key(&key)).await;
    let looked = machine.n_calls("list_containers");
    until("it was looked at again", || machine.n_calls("list_containers") > looked + 3).await;
    assert_eq!(machine.runtime.changes(), before);
    edged.end().await;

    // Known to be gone from the first word on.
    let edged = machine.start_with(Vec::new(), None);
    edged.files.send_replace(Some(set(Vec::new())));
    until("it ends", || machine.n_calls("remove_sandbox") == 1).await;
    edged.end().await;
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_ends_the_old_pod_first() {
    let machine = Machine::new();
    let edged = machine.start_with(Vec::new(), set(vec![file_pod("h1")]));
    until("the old one runs", || machine.n_calls("start_container") == 1).await;
    edged.end().await;
    machine.runtime.hold("stop_container");
    let edged = machine.start_with(Vec::new(), set(vec![file_pod("h2")]));
    until("the old one is being stopped", || machine.n_calls("stop_container") == 1).await;
    let looked = machine.n_calls("list_containers");
    until("it was looked at", || machine.n_calls("list_containers") > looked + 3).await;
    assert_eq!(machine.n_calls("run_sandbox"), 1, "the new one waits");
    let key: ObjectKey = NAME.parse().unwrap();
    assert_eq!(edged.mirror_pairs.borrow().pods[&key], None, "its mirror goes with it");
    machine.runtime.release("stop_container");
    until("the new one runs", || machine.n_calls("start_container") == 2).await;
    assert_eq!(machine.uids().await, ["h2"]);
    edged.end().await;
}
