//! Questions over a real unix socket, with a store and a runtime in memory.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ke_cri::v1;
use ke_wire::{Change, MessageId, Origin, Put, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::db::{Db, Synchronous};
use crate::edge_hub::Cloud;
use crate::edged::{CONTAINER_NAME, FakeRuntime, POD_NAME, POD_NAMESPACE, POD_UID, RuntimeError};
use crate::meta_manager::{MetaManager, Pushed};
use crate::report_queue::{Report, ReportQueue};

struct Bench {
    folder: tempfile::TempDir,
    runtime: FakeRuntime,
    db: Db,
    meta: Meta,
    stop: ke_run::shutdown::Trigger,
}

impl Bench {
    /// A node that holds one pod of two containers, of which `app` runs, and one device.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&folder.path().join("edgecore.db"), Synchronous::Off).unwrap();
        let (stop, shutdown) = Shutdown::new();
        let (cloud, _inbox) = Cloud::channel();
        let (news, _) = mpsc::channel(8);
        let (device_news, _) = mpsc::channel(8);
        let (nodes, _) = watch::channel(None);
        let (meta, manager) =
            MetaManager::new(db.clone(), "edge-1".parse().unwrap(), cloud, news, device_news, nodes);
        tokio::spawn(manager.run(shutdown.clone()));
        let (reports, _outbox, queue) = ReportQueue::new(db.clone()).await.unwrap();
        tokio::spawn(queue.run(shutdown.clone()));
        let runtime = FakeRuntime::new();
        let bench = Self { folder, runtime, db, meta, stop };

        bench
            .hold(
                "shop/pod/web",
                json!({
                    "metadata": {"name": "web", "namespace": "shop", "uid": "u1", "labels": {"app": "web"}},
                    "spec": {"nodeName": "edge-1", "containers": [{"name": "app"}, {"name": "side"}]},
                }),
            )
            .await;
        bench
            .hold(
                "plant/device/oven-1",
                json!({
                    "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
                    "metadata": {"name": "oven-1", "namespace": "plant", "uid": "u2"}, "spec": {},
                }),
            )
            .await;
        let id = bench.run_container().await;
        let status = json!({"phase": "Running", "containerStatuses": [{
            "name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "containerID": format!("fake://{id}"), "state": {"running": {}},
        }]});
        let (namespace, name, uid) = ("shop".parse(), "web".parse(), "u1".parse());
        let status = status.to_string().into();
        let (namespace, name, uid) = (namespace.unwrap(), name.unwrap(), uid.unwrap());
        reports.send(Report::PodStatus { namespace, name, uid, status }).await;
        let logs = bench.folder.path().join("logs/shop_web_u1/app");
        fs::create_dir_all(&logs).unwrap();
        fs::write(
            logs.join("0.log"),
            "2026-01-31T12:00:00Z stdout F one\n2026-01-31T12:00:01Z stdout F two\n",
        )
        .unwrap();

        let (holds, mut releases) = Holds::channel("edge-1".parse().unwrap());
        let sources = Sources {
            meta: bench.meta.clone(),
            static_pods: watch::channel(Some(StaticSet::default())).1,
            db: bench.db.clone(),
            runtime: Arc::new(bench.runtime.clone()),
            pod_logs_root: bench.folder.path().join("logs"),
            holds,
        };
        // An Edged that holds `web` and nothing else.
        tokio::spawn(async move {
            while let Some(release) = releases.recv().await {
                release.answer(&["shop/pod/web".parse().unwrap()]);
            }
        });
        // What a killed run left.
        drop(std::os::unix::net::UnixListener::bind(bench.socket()).unwrap());
        let control = Control::bind(&bench.socket(), sources).unwrap();
        tokio::spawn(control.run(shutdown));
        bench
    }

    async fn hold(&self, key: &str, body: Value) {
        let put = Put {
            id: MessageId::fresh(),
            key: key.parse().unwrap(),
            version: Version::new(1),
            change: Change::Updated,
            origin: Origin::EdgeController,
            body: body.to_string().into(),
        };
        self.meta.apply(Pushed::Put(put)).await.unwrap();
    }

    async fn run_container(&self) -> String {
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let sandbox = v1::PodSandboxConfig::default();
        let sandbox_id = self.runtime.run_sandbox(&sandbox, "").await.unwrap();
        self.runtime.add_image("web:1", "");
        let config = v1::ContainerConfig {
            image: Some(v1::ImageSpec { image: "web:1".into(), ..Default::default() }),
            labels: [
                label(POD_UID, "u1"),
                label(POD_NAMESPACE, "shop"),
                label(POD_NAME, "web"),
                label(CONTAINER_NAME, "app"),
            ]
            .into(),
            ..Default::default()
        };
        let id = self.runtime.create_container(&sandbox_id, &config, &sandbox).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("edgecore.sock")
    }

    /// Status and body; a connection for each.
    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = tokio::net::UnixStream::connect(self.socket()).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: e\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    async fn check(&self, method: &str, path: &str, body: &str, code: u16, expected: &str) {
        let (got, text) = self.ask(method, path, body).await;
        assert!(got == code && text.contains(expected), "{method} {path}: {got} {text}");
    }
}

#[tokio::test]
async fn questions_are_answered_without_a_cloud() {
    let bench = Bench::start().await;
    let pods = "/api/v1/namespaces/shop/pods";
    let mode = fs::metadata(bench.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    bench.check("GET", pods, "", 200, r#""phase":"Running""#).await;
    bench.check("GET", "/api/v1/pods?labelSelector=app%3Dweb", "", 200, r#""kind":"PodList""#).await;
    bench.check("GET", "/api/v1/pods?labelSelector=app%3Ddb", "", 200, r#""items":[]"#).await;
    bench.check("GET", "/api/v1/pods?labelSelector=a%20b", "", 400, "none of a=b").await;
    bench.check("GET", "/api/v1/namespaces/other/pods", "", 200, r#""items":[]"#).await;
    bench.check("GET", &format!("{pods}/web"), "", 200, r#""apiVersion":"v1""#).await;
    bench.check("GET", &format!("{pods}/no"), "", 404, "this node has no pod no in namespace shop").await;
    bench.check("GET", "/api/v1/namespaces/shop/events", "", 200, r#""items":[]"#).await;
    bench.check("GET", "/api/v1/secrets", "", 404, "there is no /api/v1/secrets here").await;
    let devices = "/apis/devices.kubeedge.io/v1beta1/namespaces/plant/devices";
    bench.check("GET", devices, "", 200, r#""kind":"DeviceList""#).await;
    bench.check("GET", &format!("{devices}/oven-1"), "", 200, r#""name":"oven-1""#).await;
    bench.check("GET", &format!("{devices}/no"), "", 404, "no device no").await;

    let log = format!("{pods}/web/log?container=app");
    bench.check("GET", &format!("{pods}/web/log"), "", 400, "choose one with -c: app, side").await;
    bench.check("GET", &log, "", 200, "one\ntwo\n").await;
    bench.check("GET", &format!("{log}&tailLines=x"), "", 400, "tailLines").await;
    bench.check("GET", &format!("{log}&previous=true"), "", 400, "no previous log").await;
    bench.check("GET", &format!("{pods}/web/log?container=side"), "", 400, "not been started").await;
    let (_, tail) = bench.ask("GET", &format!("{log}&tailLines=1&timestamps=true"), "").await;
    assert!(tail.contains("2026-01-31T12:00:01Z two\n") && !tail.contains("one"), "{tail}");
    bench.stop.stop();
}

#[tokio::test]
async fn commands_run_and_containers_are_ended() {
    let bench = Bench::start().await;
    let pod = "/api/v1/namespaces/shop/pods/web";
    bench.runtime.set_exec("date", 3, "today");
    let exec = format!("{pod}/exec");
    let (code, body) = bench.ask("POST", &exec, r#"{"container": "app", "command": ["date"]}"#).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["exitCode"]), (200, &json!(3)));
    assert_eq!(body["stdout"], BASE64_STANDARD.encode("today"));
    bench.check("POST", &exec, r#"{"container": "side", "command": ["date"]}"#, 409, "does not run").await;
    bench.check("POST", &exec, r#"{"command": []}"#, 400, "the command is empty").await;
    bench.check("POST", &exec, "date", 400, "is no {").await;
    let slow = r#"{"container": "app", "command": ["date"], "timeoutSeconds": 0}"#;
    bench.check("POST", &exec, slow, 400, "expected 1 to").await;
    let limit = RuntimeError::Timeout { call: "ExecSync", after: Duration::from_secs(60) };
    bench.runtime.fail_next("exec_sync", limit);
    let date = r#"{"container": "app", "command": ["date"]}"#;
    bench.check("POST", &exec, date, 504, "did not end within 60 s").await;

    let restart = format!("{pod}/restart");
    bench.check("POST", &restart, "", 200, r#"[{"name":"app","then":"it is started again"}]"#).await;
    assert!(bench.runtime.changes().last().unwrap().starts_with("stop_container"));
    bench.check("POST", &restart, "", 409, "nothing to restart").await;
    bench.runtime.go_away();
    bench.check("POST", &restart, "", 503, "away").await;
    bench.stop.stop();
}

#[tokio::test]
async fn held_pods_are_released() {
    let bench = Bench::start().await;
    let (pod, node) = ("/api/v1/pods/unhold-upgrade", "/api/v1/nodes/unhold-upgrade");
    let released = r#"{"released":[{"name":"web","namespace":"shop"}]}"#;
    bench.check("POST", pod, "shop/web", 200, released).await;
    bench.check("POST", pod, "\"shop/web\"\n", 200, released).await;
    bench.check("POST", pod, "shop/no", 404, "no pod no").await;
    bench.check("POST", pod, "web", 400, "no <namespace>/<pod>").await;
    bench.check("POST", node, "", 200, released).await;
    bench.check("POST", node, "edge-1", 200, released).await;
    bench.check("POST", node, "edge-2", 400, "this node is edge-1, not edge-2").await;
    bench.stop.stop();
}

#[tokio::test]
async fn a_socket_that_somebody_answers_at_is_left_alone() {
    let bench = Bench::start().await;
    let sources = Sources {
        meta: bench.meta.clone(),
        static_pods: watch::channel(Some(StaticSet::default())).1,
        db: bench.db.clone(),
        runtime: Arc::new(bench.runtime.clone()),
        pod_logs_root: bench.folder.path().into(),
        holds: Holds::channel("edge-1".parse().unwrap()).0,
    };
    let error = Control::bind(&bench.socket(), sources).err().unwrap();
    assert!(error.to_string().contains("in use"), "{error}");
    bench.stop.stop();
}
