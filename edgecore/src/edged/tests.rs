//! Edged as a whole on a runtime in memory: what it does to it, and what it reports.

mod away;
mod bad_input;
mod evict;
mod pod_fields;
mod preempt;
mod resize;
mod shutdown;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodStatus, Secret, Service, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;
use ke_cri::v1;
use ke_run::shutdown::Trigger;
use ke_wire::{Namespace, ObjectName, Uid};
use serde_json::json;

use super::admission::{AllowedSysctls, Gate};
use super::cri_fake::FakeRuntime;
use super::fields::PodFacts;
use super::hold_upgrade::{HOLD, Holds, Which};
use super::pod_spec::pod_key;
use super::resources::CpuQuota;
use super::*;
use crate::meta_manager::LookupError;
use crate::report_queue::Report;
use crate::static_pods::{MIRROR, MirrorPairs, StaticSet};

mod statics;

/// Everything a test waits for comes within this time, or the test fails.
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Files {
    calls: Mutex<Vec<String>>,
    /// Mounts cannot be made while this is set.
    missing: Mutex<Option<String>>,
}

impl Files {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    fn n(&self, call: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|c| *c == call).count()
    }
}

#[async_trait]
impl PodFiles for Files {
    async fn prepare(&self, pod: &Pod, _: &PodFacts) -> Result<Option<Timestamp>, FilesError> {
        self.note(format!("prepare {}", pod.metadata.uid.as_deref().unwrap()));
        Ok(None)
    }
    async fn mounts(
        &self,
        _: &Pod,
        container: &Container,
        _: &[(String, String)],
        _: &PodFacts,
    ) -> Result<Vec<v1::Mount>, FilesError> {
        let mount = |wanted: &VolumeMount| v1::Mount {
            container_path: wanted.mount_path.clone(),
            host_path: format!("/disk/{}", wanted.name),
            readonly: wanted.read_only == Some(true),
            ..v1::Mount::default()
        };
        let mounts = container.volume_mounts.iter().flatten().map(mount).collect();
        self.missing.lock().unwrap().clone().map_or(Ok(mounts), |why| Err(FilesError(why)))
    }
    async fn own_ids(&self, pod_uid: &str) -> Result<IdRange, FilesError> {
        self.note(format!("own ids {pod_uid}"));
        Ok(IdRange { first: 131_072, length: 65_536 })
    }
    async fn given_ids(&self, pod_uid: &str) -> Result<Option<IdRange>, FilesError> {
        let is_given = self.n(&format!("own ids {pod_uid}")) > 0;
        Ok(is_given.then_some(IdRange { first: 131_072, length: 65_536 }))
    }
    async fn tear_down(&self, pod_uid: &Uid) -> Result<(), FilesError> {
        self.note(format!("tear down {pod_uid}"));
        Ok(())
    }
    async fn on_disk(&self) -> Vec<Uid> {
        Vec::new()
    }
}

struct NoObjects;

#[async_trait]
impl Objects for NoObjects {
    async fn config_map(&self, _: &Namespace, name: &ObjectName) -> Result<Arc<ConfigMap>, LookupError> {
        Err(LookupError::Offline(name.to_string()))
    }
    async fn secret(&self, _: &Namespace, name: &ObjectName) -> Result<Arc<Secret>, LookupError> {
        Err(LookupError::Offline(name.to_string()))
    }
    async fn services(&self, _: &Namespace) -> Vec<Service> {
        Vec::new()
    }
    /// There is one class.
    async fn runtime_handler(&self, class: &ObjectName) -> Result<String, LookupError> {
        if class.as_str() == "isolated" {
            return Ok("kata".into());
        }
        let refusal = json!({"message": "no", "reason": "NotFound", "code": 404});
        Err(LookupError::Refused(serde_json::from_value(refusal).unwrap()))
    }
    async fn token(
        &self,
        _: &Namespace,
        name: &ObjectName,
        _: TokenRequest,
    ) -> Result<TokenRequest, LookupError> {
        Err(LookupError::Offline(name.to_string()))
    }
}

/// A machine: its runtime and files outlive every Edged on it.
struct Machine {
    runtime: FakeRuntime,
    files: Arc<Files>,
    devices: Arc<dyn PodDevices>,
    /// What the node takes pods for. Nothing: it does not count.
    offers: BTreeMap<String, Quantity>,
    logs: tempfile::TempDir,
}

/// One start of Edged.
struct Started {
    news: mpsc::Sender<News>,
    reports: mpsc::Receiver<Report>,
    stop: Trigger,
    counts: ProbeCounts,
    keeper: Keeper,
    task: tokio::task::JoinHandle<Result<(), EdgedError>>,
    files: watch::Sender<Option<StaticSet>>,
    mirror_pairs: watch::Receiver<MirrorPairs>,
    holds: Holds,
    _host_ips: watch::Sender<Vec<IpAddr>>,
}

impl Machine {
    fn new() -> Self {
        let runtime = FakeRuntime::new();
        runtime.start_clock(i64::try_from(Timestamp::now().as_nanosecond()).unwrap());
        runtime.add_image("docker.io/library/i:1", "");
        runtime.add_image("i:1", "");
        Self {
            runtime,
            files: Arc::default(),
            devices: Arc::new(NoDevices),
            offers: BTreeMap::new(),
            logs: tempfile::tempdir().unwrap(),
        }
    }

    fn start(&self, pods: Vec<Arc<Pod>>) -> Started {
        self.start_with(pods, StaticSet::default())
    }

    /// `None`: nobody knows yet which pods are static.
    fn start_with(&self, pods: Vec<Arc<Pod>>, static_pods: impl Into<Option<StaticSet>>) -> Started {
        let runtime: Arc<dyn Runtime> = Arc::new(self.runtime.clone());
        let (reports, received) = Reports::channel();
        let (news, heard) = mpsc::channel(16);
        let (_host_ips, host_ips) = watch::channel(vec!["192.0.2.1".parse().unwrap()]);
        let settings = Settings {
            node_name: "edge-1".into(),
            pod_logs_root: self.logs.path().to_owned(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: None,
            cpu: CpuQuota::default(),
            seccomp_root: "/".into(),
            seccomp_default: false,
            n_cpus: 2,
            memory_capacity: 1 << 30,
            allocatable: [("cpu", "4"), ("memory", "2Gi")]
                .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
                .into(),
            n_pids: None,
        };
        let (files, static_pods) = watch::channel(static_pods.into());
        let (shown, mirror_pairs) = watch::channel(MirrorPairs::default());
        let (holds, releases) = Holds::channel("edge-1".parse().unwrap());
        let gate = Gate {
            node: None,
            allocatable: self.offers.clone(),
            max_pods: 110,
            sysctls: AllowedSysctls::default(),
            has_apparmor: false,
        };
        let edged = Edged::new(Parts {
            settings,
            images: Images::new(runtime.clone(), 1),
            runtime,
            files: self.files.clone(),
            devices: self.devices.clone(),
            objects: Arc::new(NoObjects),
            cgroups: None,
            reports,
            news: heard,
            pods,
            door: Door { static_pods, mirror_pairs: shown, gate, releases },
            store_is_full: watch::channel(true).1,
            host_ips,
        });
        let (stop, shutdown) = Shutdown::new();
        let (counts, keeper) = (edged.probe_counts(), edged.keeper());
        let task = tokio::spawn(edged.run(shutdown));
        Started { news, reports: received, stop, counts, keeper, task, files, mirror_pairs, holds, _host_ips }
    }

    fn n_calls(&self, name: &str) -> usize {
        self.runtime.calls().iter().filter(|call| call.name == name).count()
    }
}

impl Started {
    /// The first report for which `want` gives something.
    async fn wait<T>(&mut self, what: &str, want: impl Fn(&Report) -> Option<T>) -> T {
        let found = async {
            loop {
                let report = self.reports.recv().await.expect("edged runs");
                if let Some(found) = want(&report) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("no report: {what}"))
    }

    async fn status(&mut self, what: &str, want: impl Fn(&PodStatus) -> bool) -> PodStatus {
        self.wait(what, |report| match report {
            Report::PodStatus { status, .. } => {
                serde_json::from_slice(status).ok().filter(|status: &PodStatus| want(status))
            }
            _ => None,
        })
        .await
    }

    async fn running(&mut self) -> PodStatus {
        self.status("Running and ready", is_ready).await
    }

    async fn end(self) {
        self.stop.stop();
        self.task.await.unwrap().unwrap();
    }
}

fn is_ready(status: &PodStatus) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn pod(uid: &str, spec: serde_json::Value) -> Pod {
    let mut body = json!({
        "metadata": {"name": "web", "namespace": "default", "uid": uid},
        "spec": {"nodeName": "edge-1", "containers": [
            {"name": "app", "image": "i:1", "imagePullPolicy": "IfNotPresent"}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        body["spec"][key] = value.clone();
    }
    serde_json::from_value(body).unwrap()
}

fn web() -> Arc<Pod> {
    Arc::new(pod("u1", json!({})))
}

/// Polls until the machine is as wanted.
async fn until(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn a_pod_starts_and_is_deleted() {
    let machine = Machine::new();
    let mut edged = machine.start(Vec::new());
    edged.news.send(News::PodPut(web())).await.unwrap();
    let status = edged.running().await;
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.host_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(status.container_statuses.unwrap()[0].restart_count, 0);
    assert_eq!((machine.n_calls("run_sandbox"), machine.n_calls("create_container")), (1, 1));

    let mut deleted = (*web()).clone();
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    deleted.metadata.deletion_grace_period_seconds = Some(3);
    edged.news.send(News::PodPut(Arc::new(deleted))).await.unwrap();
    let last = edged.status("ended", |s| !is_ready(s) && s.phase.as_deref() != Some("Running")).await;
    assert!(last.container_statuses.unwrap()[0].state.as_ref().unwrap().terminated.is_some());
    edged.wait("PodGone", |r| matches!(r, Report::PodGone { .. }).then_some(())).await;
    assert!(machine.runtime.list_containers().await.unwrap().is_empty());
    assert!(machine.runtime.list_sandboxes().await.unwrap().is_empty());
    assert_eq!(machine.files.n("tear down u1"), 1);
    edged.end().await;
}

#[tokio::test]
async fn a_restart_of_edged_adopts_everything() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    let status = edged.running().await;
    edged.end().await;
    let before = machine.runtime.changes();
    let mut stored = (*web()).clone();
    stored.status = Some(status.clone());
    let edged = machine.start(vec![Arc::new(stored)]);
    let looked = machine.n_calls("list_containers");
    until("adopted and looked at again", || {
        machine.files.n("prepare u1") == 2 && machine.n_calls("list_containers") > looked + 3
    })
    .await;
    assert_eq!(machine.runtime.changes(), before);
    // Nothing changed, so nothing is reported.
    let mut edged = edged;
    assert!(edged.reports.try_recv().is_err());
    edged.end().await;
}

#[tokio::test]
async fn files_that_show_labels_follow_them() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    edged.running().await;
    assert_eq!(machine.files.n("prepare u1"), 1);
    let before = machine.runtime.changes();
    let mut labelled = (*web()).clone();
    labelled.metadata.labels = Some([("tier".to_owned(), "front".to_owned())].into());
    edged.news.send(News::PodPut(Arc::new(labelled))).await.unwrap();
    until("written again", || machine.files.n("prepare u1") == 2).await;
    assert_eq!(machine.runtime.changes(), before, "nothing else happens to it");
    edged.end().await;
}

#[tokio::test]
async fn after_a_cold_boot_the_pod_is_made_anew() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    let status = edged.running().await;
    edged.end().await;
    let sandbox = machine.runtime.list_sandboxes().await.unwrap()[0].id.clone();
    machine.runtime.kill_sandbox(&sandbox);
    let mut stored = (*web()).clone();
    stored.status = Some(status.clone());
    let mut edged = machine.start(vec![Arc::new(stored)]);
    let again = edged
        .status("running again", |s| {
            is_ready(s) && s.container_statuses.as_ref().is_some_and(|c| c[0].restart_count == 1)
        })
        .await;
    assert_eq!(again.start_time, status.start_time);
    assert_eq!(machine.n_calls("run_sandbox"), 2);
    edged.end().await;
}

#[tokio::test]
async fn crashes_end_in_back_off() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    edged.running().await;
    let crash = || {
        let id = machine.runtime.container_named("app").unwrap();
        machine.runtime.exit_container(&id, 1, "Error");
    };
    crash();
    let restarted =
        |s: &PodStatus| is_ready(s) && s.container_statuses.as_ref().unwrap()[0].restart_count == 1;
    edged.status("the first restart is immediate", restarted).await;
    crash();
    let waiting = |status: &PodStatus| {
        let app = &status.container_statuses.as_ref().unwrap()[0];
        let waiting = app.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.and_then(|waiting| waiting.reason.as_deref()) == Some("CrashLoopBackOff")
    };
    let status = edged.status("CrashLoopBackOff", waiting).await;
    assert_eq!(status.container_statuses.unwrap()[0].restart_count, 1);
    edged.end().await;
}

#[tokio::test]
async fn what_a_container_waits_for_starts_it_at_once() {
    let machine = Machine::new();
    *machine.files.missing.lock().unwrap() = Some("configmap \"cfg\" not found".into());
    let spec = json!({"containers": [{"name": "app", "image": "i:1", "imagePullPolicy": "IfNotPresent",
        "volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}]}],
        "volumes": [{"name": "cfg", "configMap": {"name": "cfg"}}]});
    let mut edged = machine.start(vec![Arc::new(pod("u1", spec))]);
    let refused = |status: &PodStatus| {
        let app = &status.container_statuses.as_ref().unwrap()[0];
        let waiting = app.state.as_ref().and_then(|state| state.waiting.as_ref());
        waiting.and_then(|waiting| waiting.reason.as_deref()) == Some("CreateContainerConfigError")
    };
    edged.status("CreateContainerConfigError", refused).await;
    *machine.files.missing.lock().unwrap() = None;
    let n_prepared = machine.files.n("prepare u1");
    edged.news.send(News::ConfigChanged("default/configmap/cfg".parse().unwrap())).await.unwrap();
    edged.running().await;
    assert!(machine.files.n("prepare u1") > n_prepared, "mounted files are renewed");
    edged.end().await;
}

#[tokio::test]
async fn what_the_store_does_not_have_is_removed() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    edged.running().await;
    edged.end().await;
    // Deleted in the cloud while this machine was off, and another one of its name came.
    let mut edged = machine.start(vec![Arc::new(pod("u2", json!({})))]);
    edged.running().await;
    until("the old Pod's directory is gone", || machine.files.n("tear down u1") == 1).await;
    let uids = || async {
        let left = machine.runtime.list_sandboxes().await.unwrap();
        left.into_iter().map(|s| s.metadata.unwrap().uid).collect::<Vec<_>>()
    };
    let mut left = uids().await;
    while left.len() > 1 {
        tokio::task::yield_now().await;
        left = uids().await;
    }
    assert_eq!(left, ["u2"]);
    // A force delete: gone without a word.
    edged.news.send(News::PodDeleted("default/pod/web".parse().unwrap(), None)).await.unwrap();
    until("torn down", || machine.files.n("tear down u2") == 1).await;
    edged.end().await;
}

#[tokio::test]
async fn a_runtime_that_is_away_changes_no_status() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    edged.running().await;
    machine.runtime.go_away();
    let looked = machine.n_calls("list_sandboxes");
    until("asked again", || machine.n_calls("list_sandboxes") > looked + 2).await;
    machine.runtime.heal();
    let looked = machine.n_calls("list_containers");
    until("asked again", || machine.n_calls("list_containers") > looked + 2).await;
    while let Ok(report) = edged.reports.try_recv() {
        assert!(!matches!(report, Report::PodStatus { .. }), "{report:?}");
    }
    assert_eq!(machine.n_calls("create_container"), 1);
    edged.end().await;
}

#[tokio::test]
async fn pods_of_other_machines_are_left_alone() {
    let machine = Machine::new();
    let edged = machine.start(vec![Arc::new(pod("u1", json!({"nodeName": "edge-2"})))]);
    until("looked", || machine.n_calls("list_containers") > 2).await;
    assert!(machine.runtime.changes().is_empty());
    edged.end().await;
}

#[tokio::test]
async fn what_the_control_plane_wrote_over_our_status_is_corrected() {
    let machine = Machine::new();
    let mut edged = machine.start(vec![web()]);
    let status = edged.running().await;
    edged.end().await;
    // The node was away: the node controller has written "not ready".
    let mut stored = status;
    for condition in stored.conditions.iter_mut().flatten().filter(|c| c.type_ == "Ready") {
        condition.status = "False".into();
    }
    let mut pod = (*web()).clone();
    pod.status = Some(stored);
    let mut edged = machine.start(vec![Arc::new(pod)]);
    edged.running().await;
    assert_eq!(machine.n_calls("create_container"), 1);
    edged.end().await;
}

#[tokio::test]
async fn a_deleted_pod_does_not_wait_for_its_image() {
    let machine = Machine::new();
    let spec = json!({"containers": [{"name": "app", "image": "far:1", "imagePullPolicy": "IfNotPresent"}]});
    machine.runtime.hold("pull_image");
    let far = pod("u1", spec);
    let mut edged = machine.start(vec![Arc::new(far.clone())]);
    until("pulling", || machine.n_calls("pull_image") == 1).await;
    let mut deleted = far;
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    edged.news.send(News::PodPut(Arc::new(deleted))).await.unwrap();
    edged.wait("PodGone", |r| matches!(r, Report::PodGone { .. }).then_some(())).await;
    edged.end().await;
}

/// The Pod `web` with this probe on its container, asked every second.
fn probed(kind: &str, probe: serde_json::Value) -> Pod {
    let mut app = json!({"name": "app", "image": "i:1", "imagePullPolicy": "IfNotPresent"});
    app[kind] = probe;
    pod("u1", json!({"containers": [app]}))
}

fn event(report: &Report) -> Option<(String, String)> {
    let Report::Event { body, .. } = report else { return None };
    let event: serde_json::Value = serde_json::from_slice(body).unwrap();
    let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
    Some((text("reason"), text("message")))
}

#[tokio::test]
async fn a_failed_liveness_probe_restarts_the_container() {
    let machine = Machine::new();
    machine.runtime.set_exec("alive", 1, "not any more");
    let probe = json!({"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1});
    let mut edged = machine.start(vec![Arc::new(probed("livenessProbe", probe))]);
    edged.running().await;
    let said = |reason: &'static str, message: &'static str| {
        move |report: &Report| event(report).filter(|e| *e == (reason.into(), message.into()))
    };
    edged.wait("Unhealthy", said("Unhealthy", "Liveness probe failed: not any more")).await;
    machine.runtime.set_exec("alive", 0, "");
    edged.wait("Killing", said("Killing", "Container app failed liveness probe, will be restarted")).await;
    let again = |s: &PodStatus| is_ready(s) && s.container_statuses.as_ref().unwrap()[0].restart_count == 1;
    edged.status("restarted", again).await;
    assert_eq!(machine.n_calls("stop_container"), 1);
    edged.end().await;
}

#[tokio::test]
async fn readiness_is_told_also_while_the_pod_ends() {
    let machine = Machine::new();
    let probe = json!({"exec": {"command": ["ready"]}, "periodSeconds": 1, "failureThreshold": 1});
    let web = probed("readinessProbe", probe);
    let mut edged = machine.start(vec![Arc::new(web.clone())]);
    edged.running().await;
    machine.runtime.set_exec("ready", 1, "busy");
    edged.status("unready", |s| !is_ready(s)).await;
    let counted = r#"pod_uid="u1",probe_type="Readiness",result="failed"} "#;
    assert!(edged.counts.text().contains(counted), "{}", edged.counts.text());
    machine.runtime.set_exec("ready", 0, "");
    edged.running().await;
    machine.runtime.hold("stop_container");
    let mut deleted = web;
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    edged.news.send(News::PodPut(Arc::new(deleted))).await.unwrap();
    until("it is being stopped", || machine.n_calls("stop_container") == 1).await;
    machine.runtime.set_exec("ready", 1, "leaving");
    let running_unready = |s: &PodStatus| {
        let app = &s.container_statuses.as_ref().unwrap()[0];
        !is_ready(s) && app.state.as_ref().is_some_and(|state| state.running.is_some())
    };
    edged.status("unready while it is stopped", running_unready).await;
    machine.runtime.release("stop_container");
    edged.wait("PodGone", |r| matches!(r, Report::PodGone { .. }).then_some(())).await;
    assert_eq!(machine.n_calls("stop_container"), 1, "asked once");
    edged.news.send(News::PodDeleted("default/pod/web".parse().unwrap(), None)).await.unwrap();
    let counts = edged.counts.clone();
    until("its numbers go with it", || counts.text().is_empty()).await;
    edged.end().await;
}

#[tokio::test]
async fn a_failed_post_start_hook_ends_the_container() {
    let machine = Machine::new();
    machine.runtime.set_exec("greet", 1, "secret");
    let hooks =
        json!({"postStart": {"exec": {"command": ["greet"]}}, "preStop": {"exec": {"command": ["part"]}}});
    let mut edged = machine.start(vec![Arc::new(probed("lifecycle", hooks))]);
    let said = |reason: &'static str, message: &'static str| {
        move |report: &Report| event(report).filter(|e| *e == (reason.into(), message.into()))
    };
    edged.wait("FailedPostStartHook", said("FailedPostStartHook", "PostStartHook failed")).await;
    machine.runtime.set_exec("greet", 0, "");
    edged.wait("Killing", said("Killing", "FailedPostStartHook")).await;
    let again = |s: &PodStatus| is_ready(s) && s.container_statuses.as_ref().unwrap()[0].restart_count > 0;
    edged.status("started anew", again).await;
    let hooks: Vec<String> =
        machine.runtime.changes().into_iter().filter(|c| c.starts_with("exec")).collect();
    assert!(hooks[0].ends_with("greet") && hooks[1].ends_with("part"), "{hooks:?}");
    edged.end().await;
}

mod devices;
