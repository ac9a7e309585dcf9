//! A node that holds one pod of two containers, of which `app` runs, and callers of it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ke_cri::v1;
use ke_run::shutdown::{Shutdown, Trigger};
use ke_wire::{Change, MessageId, Origin, Put, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::db::{Db, Synchronous};
use crate::edge_hub::Cloud;
use crate::edged::logs::Endings;
use crate::edged::{
    CONTAINER_NAME, Driver, FakeRuntime, Layout, POD_NAME, POD_NAMESPACE, POD_UID, ProbeCounts, Runtime,
};
use crate::kubelet_server::{Gauge, KubeletHandle, KubeletServer, Machine, Sources};
use crate::meta_manager::{Meta, MetaManager, Pushed};
use crate::report_queue::{Report, ReportQueue, Reports};
use crate::static_pods::StaticSet;

/// For what comes at once.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Bench {
    folder: tempfile::TempDir,
    pub(super) runtime: FakeRuntime,
    pub(crate) handle: KubeletHandle,
    pub(super) server: Option<KubeletServer>,
    /// The one that runs.
    pub(super) container: String,
    pub(super) sandbox: String,
    meta: Meta,
    pub(super) static_pods: watch::Sender<Option<StaticSet>>,
    reports: Reports,
    pub(super) shutdown: Shutdown,
    _stop: Trigger,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&folder.path().join("edgecore.db"), Synchronous::Off).unwrap();
        let (stop, shutdown) = Shutdown::new();
        let (cloud, _inbox) = Cloud::channel();
        let (news, _) = mpsc::channel(8);
        let (device_news, _) = mpsc::channel(8);
        let (nodes, _) = watch::channel(None);
        let name = "edge-1".parse().unwrap();
        let (meta, manager) = MetaManager::new(db.clone(), name, cloud, news, device_news, nodes);
        tokio::spawn(manager.run(shutdown.clone()));
        let (reports, _outbox, queue) = ReportQueue::new(db.clone()).await.unwrap();
        tokio::spawn(queue.run(shutdown.clone()));

        let pod = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u1"},
            "spec": {"nodeName": "edge-1", "containers": [{"name": "app"}, {"name": "side", "tty": true}]},
        });
        hold(&meta, "shop/pod/web", &pod).await;
        let (static_pods, static_set) = watch::channel(Some(StaticSet::default()));

        let runtime = FakeRuntime::new();
        runtime.add_image("web:1", "");
        let (sandbox, container) = run_container(&runtime, ["shop", "web", "u1"], "app").await;
        let sources = Sources {
            meta: meta.clone(),
            static_pods: static_set,
            db,
            runtime: Arc::new(runtime.clone()),
            pod_logs_root: folder.path().join("logs"),
            endings: Endings::new(Arc::new(runtime.clone())),
            gauge: Arc::new(Gauge::new(Machine {
                node_name: "edge-1".into(),
                n_cpus: 1,
                memory_bytes: 1 << 30,
                root_dir: folder.path().into(),
                pod_logs_root: folder.path().join("logs"),
                layout: Layout { driver: Driver::Cgroupfs, root: "/".into(), per_qos: false },
                cgroups: folder.path().join("cgroup"),
                proc: "/proc".into(),
                volume_period: Duration::from_secs(60),
            })),
            probes: ProbeCounts::of_one_success("shop", "web", "u1", "app"),
            numbers: Box::new(|| Some("# EOF\n".to_owned())),
        };
        let (handle, server) = KubeletServer::new(Some(([127, 0, 0, 1], 0).into()), sources);
        let bench = Self {
            folder,
            runtime,
            handle,
            server: Some(server),
            container,
            sandbox,
            meta,
            static_pods,
            reports,
            shutdown,
            _stop: stop,
        };
        bench.status(json!({"name": "app", "restartCount": 0, "state": {"running": {}}})).await;
        fs::create_dir_all(bench.logs()).unwrap();
        bench.log_line("2026-01-31T12:00:00Z stdout F one\n2026-01-31T12:00:01Z stderr F two\n");
        bench
    }

    /// The cloud wants this pod here.
    pub(super) async fn hold(&self, key: &str, pod: &Value) {
        hold(&self.meta, key, pod).await;
    }

    /// The status of `app`; `side` waits.
    pub(super) async fn status(&self, mut app: Value) {
        let more = json!({"image": "", "imageID": "", "ready": true, "containerID": format!("fake://{}", self.container)});
        app.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let side = json!({
            "name": "side", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": "ContainerCreating"}},
        });
        let status = json!({"phase": "Running", "containerStatuses": [app, side]}).to_string().into();
        let (namespace, name, uid) = ("shop".parse(), "web".parse(), "u1".parse());
        let (namespace, name, uid) = (namespace.unwrap(), name.unwrap(), uid.unwrap());
        self.reports.send(Report::PodStatus { namespace, name, uid, status }).await;
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.folder.path().join("logs/shop_web_u1/app")
    }

    pub(crate) fn log_line(&self, line: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.logs().join("0.log")).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }

    /// A connection that asks this. `more` goes behind the first headers; one that has an empty line is all there is.
    pub(super) async fn ask_open(&self, method: &str, path: &str, more: &str) -> Caller {
        let end = if more.contains("\r\n\r\n") { "" } else { "\r\n" };
        self.say(&format!("{method} {path} HTTP/1.1\r\nHost: edge\r\n{more}{end}")).await
    }

    pub(super) async fn say(&self, text: &str) -> Caller {
        let (near, far) = tokio::io::duplex(4096);
        let handle = self.handle.clone();
        let served = tokio::spawn(async move { handle.serve(far).await });
        let mut caller = Caller { stream: near, held: Vec::new(), served };
        // One that reads no further closes.
        let _ = caller.stream.write_all(text.as_bytes()).await;
        caller
    }

    /// Status and everything behind the head.
    pub(super) async fn ask(&self, method: &str, path: &str, more: &str) -> (u16, String) {
        let mut caller = self.ask_open(method, path, more).await;
        let head = caller.head().await;
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        assert!(head.to_lowercase().contains("\r\nconnection: close\r\n"), "{head}");
        (code, caller.end().await)
    }

    pub(super) async fn check(&self, method: &str, path: &str, code: u16, expected: &str) {
        self.check_with(method, path, "", code, expected).await;
    }

    pub(super) async fn check_with(&self, method: &str, path: &str, more: &str, code: u16, expected: &str) {
        let (got, text) = self.ask(method, path, more).await;
        assert!(got == code && text.contains(expected), "{method} {path}: {got} {text}");
    }
}

async fn hold(meta: &Meta, key: &str, pod: &Value) {
    let put = Put {
        id: MessageId::fresh(),
        key: key.parse().unwrap(),
        version: Version::new(1),
        change: Change::Updated,
        origin: Origin::EdgeController,
        body: pod.to_string().into(),
    };
    meta.apply(Pushed::Put(put)).await.unwrap();
}

/// Starts a container of the pod (namespace, name, uid), in a sandbox of its own; gives the sandbox's id and its own.
pub(super) async fn run_container(runtime: &FakeRuntime, pod: [&str; 3], name: &str) -> (String, String) {
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let [pod_namespace, pod_name, uid] = pod;
    let labels = [
        label(POD_UID, uid),
        label(POD_NAMESPACE, pod_namespace),
        label(POD_NAME, pod_name),
        label(CONTAINER_NAME, name),
    ];
    let metadata = v1::PodSandboxMetadata {
        name: pod_name.into(),
        namespace: pod_namespace.into(),
        uid: uid.into(),
        attempt: 0,
    };
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(metadata),
        labels: labels.clone().into(),
        ..Default::default()
    };
    let sandbox_id = runtime.run_sandbox(&sandbox, "").await.unwrap();
    let config = v1::ContainerConfig {
        image: Some(v1::ImageSpec { image: "web:1".into(), ..Default::default() }),
        labels: labels.into(),
        ..Default::default()
    };
    let id = runtime.create_container(&sandbox_id, &config, &sandbox).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    (sandbox_id, id)
}

/// How far this process has read a file that it has open.
pub(crate) fn position(path: &Path) -> u64 {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let ours = open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path));
    let positions = ours.map(|entry| {
        let info = fs::read_to_string(Path::new("/proc/self/fdinfo").join(entry.file_name())).unwrap();
        let position = info.lines().find_map(|line| line.strip_prefix("pos:")).unwrap();
        position.trim().parse().unwrap()
    });
    positions.max().unwrap()
}

/// Whoever asks.
pub(super) struct Caller {
    pub(super) stream: DuplexStream,
    held: Vec<u8>,
    served: JoinHandle<()>,
}

impl Caller {
    /// The answer's head.
    pub(super) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Reads on until `text` has come.
    pub(super) async fn expect(&mut self, text: &str) {
        self.until(text).await;
    }

    pub(super) async fn until(&mut self, text: &str) -> String {
        loop {
            let found = self.held.windows(text.len()).position(|window| window == text.as_bytes());
            if let Some(at) = found {
                let rest = self.held.split_off(at + text.len());
                return String::from_utf8(std::mem::replace(&mut self.held, rest)).unwrap();
            }
            let mut block = [0; 1024];
            let n_read = timeout(PATIENCE, self.stream.read(&mut block)).await.unwrap().unwrap();
            assert!(n_read > 0, "no {text:?} in {:?}", String::from_utf8_lossy(&self.held));
            self.held.extend_from_slice(&block[..n_read]);
        }
    }

    /// What comes before the other side ends the stream.
    pub(super) async fn end(mut self) -> String {
        let read = timeout(PATIENCE, self.stream.read_to_end(&mut self.held)).await.unwrap();
        read.unwrap();
        timeout(PATIENCE, self.served).await.unwrap().unwrap();
        String::from_utf8(self.held).unwrap()
    }

    /// Breaks off. What is given ends when nobody serves it any more.
    pub(super) fn go(self) -> JoinHandle<()> {
        self.served
    }
}
