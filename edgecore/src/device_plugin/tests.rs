//! The module against plugins on sockets of their own, over real gRPC.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use k8s_openapi::api::core::v1::Pod;
use ke_kubelet::device_plugin as api;
use ke_kubelet::device_plugin::device_plugin_server::{DevicePlugin, DevicePluginServer};
use ke_kubelet::device_plugin::registration_client::RegistrationClient;
use ke_run::shutdown::Trigger;
use serde_json::json;
use tonic::{Request, Response, Status};

use super::*;
use crate::db::Synchronous;
use crate::edged::{Extras, PodDevices};

const GPU: &str = "example.com/gpu";
const PATIENCE: Duration = Duration::from_secs(20);

/// One start of edgecore on a machine.
struct Node {
    devices: Devices,
    desk: Option<tokio::task::JoinHandle<()>>,
    stop: Trigger,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(desk) = self.desk.take() {
            desk.abort();
        }
    }
}

async fn node(folder: &Path, boot: &str) -> Node {
    let (db, _) = Db::open(&folder.join("edgecore.db"), Synchronous::Off).unwrap();
    let devices = Devices::new(db, boot.to_owned()).await.unwrap();
    let plugins = folder.join("device-plugins");
    remove_old_sockets(&plugins).unwrap();
    let desk = Desk { devices: devices.clone(), folder: plugins.clone() };
    let (stop, shutdown) = Shutdown::new();
    let serving = async move { serve(&plugins, RegistrationServer::new(desk), shutdown).await };
    let desk = Some(tokio::spawn(serving));
    Node { devices, desk, stop }
}

/// A plugin as others write it.
#[derive(Clone)]
struct Fake {
    /// Its devices; nothing once it is gone.
    list: watch::Sender<Option<Vec<(&'static str, bool)>>>,
    calls: Arc<Mutex<Vec<String>>>,
    options: api::DevicePluginOptions,
    hangs: bool,
}

struct Running {
    fake: Fake,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // What a connection of its does is no part of its task.
        self.fake.list.send_replace(None);
        self.task.abort();
    }
}

impl Fake {
    fn new(devices: &[(&'static str, bool)]) -> Self {
        Self {
            list: watch::Sender::new(Some(devices.to_vec())),
            calls: Arc::default(),
            options: api::DevicePluginOptions::default(),
            hangs: false,
        }
    }

    fn says(&self, devices: &[(&'static str, bool)]) {
        self.list.send_replace(Some(devices.to_vec()));
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    /// Serves at this socket and registers, as soon as somebody takes registrations.
    async fn start(&self, folder: &Path, endpoint: &str) -> Running {
        let folder = folder.join("device-plugins");
        let listener = ke_dmi::socket::listen(&folder.join(endpoint)).unwrap();
        let server = Server::builder().add_service(DevicePluginServer::new(self.clone()));
        let task = tokio::spawn(async move {
            server.serve_with_incoming(ke_dmi::incoming(listener)).await.unwrap();
        });
        let channel = ke_dmi::socket::channel(folder.join(KUBELET_SOCK), PATIENCE);
        let request = api::RegisterRequest {
            version: "v1beta1".into(),
            endpoint: endpoint.into(),
            resource_name: GPU.into(),
            options: None,
        };
        let opened = async {
            while !folder.join(KUBELET_SOCK).exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let opened = tokio::time::timeout(PATIENCE, opened).await;
        assert!(opened.is_ok(), "{KUBELET_SOCK} was not opened in {} within {PATIENCE:?}", folder.display());
        RegistrationClient::new(channel).register(request).await.unwrap();
        Running { fake: self.clone(), task }
    }
}

#[tonic::async_trait]
impl DevicePlugin for Fake {
    async fn get_device_plugin_options(
        &self,
        _: Request<api::Empty>,
    ) -> Result<Response<api::DevicePluginOptions>, Status> {
        Ok(Response::new(self.options))
    }

    type ListAndWatchStream = Pin<Box<dyn Stream<Item = Result<api::ListAndWatchResponse, Status>> + Send>>;

    async fn list_and_watch(
        &self,
        _: Request<api::Empty>,
    ) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let mut seen = self.list.subscribe();
        seen.mark_changed();
        let lists = stream::unfold(seen, |mut seen| async move {
            seen.changed().await.ok()?;
            let device = |(id, healthy): &(&str, bool)| api::Device {
                id: (*id).to_owned(),
                health: if *healthy { "Healthy".into() } else { "Unhealthy".into() },
                topology: None,
            };
            let devices = seen.borrow_and_update().as_ref()?.iter().map(device).collect();
            Some((Ok(api::ListAndWatchResponse { devices }), seen))
        });
        Ok(Response::new(Box::pin(lists)))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<api::PreferredAllocationRequest>,
    ) -> Result<Response<api::PreferredAllocationResponse>, Status> {
        let one = request.into_inner().container_requests.remove(0);
        let mut available = one.available_device_i_ds;
        available.sort();
        self.note(format!("prefer {} of {}", one.allocation_size, available.join(" ")));
        // The last ones.
        let device_i_ds = available.into_iter().rev().take(1).collect();
        let container_responses = vec![api::ContainerPreferredAllocationResponse { device_i_ds }];
        Ok(Response::new(api::PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(
        &self,
        request: Request<api::AllocateRequest>,
    ) -> Result<Response<api::AllocateResponse>, Status> {
        let ids = request.into_inner().container_requests.remove(0).devices_ids;
        self.note(format!("allocate {}", ids.join(" ")));
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let response = api::ContainerAllocateResponse {
            envs: [("GPUS".to_owned(), ids.join(","))].into(),
            mounts: vec![api::Mount {
                container_path: "/driver".into(),
                host_path: "/opt/driver".into(),
                read_only: true,
            }],
            devices: vec![api::DeviceSpec {
                container_path: "/dev/gpu".into(),
                host_path: "/dev/null".into(),
                permissions: "rw".into(),
            }],
            annotations: [("vendor".to_owned(), "x".to_owned())].into(),
            cdi_devices: vec![api::CdiDevice { name: format!("{GPU}=all") }],
        };
        Ok(Response::new(api::AllocateResponse { container_responses: vec![response] }))
    }

    async fn pre_start_container(
        &self,
        request: Request<api::PreStartContainerRequest>,
    ) -> Result<Response<api::PreStartContainerResponse>, Status> {
        self.note(format!("pre-start {}", request.into_inner().devices_ids.join(" ")));
        Ok(Response::new(api::PreStartContainerResponse {}))
    }
}

async fn offers(node: &Node, capacity: usize, allocatable: usize) {
    let mut amounts = node.devices.amounts();
    let expected = Amounts { capacity, allocatable };
    let seen = amounts.wait_for(|all| all.get(GPU) == Some(&expected));
    let seen = tokio::time::timeout(PATIENCE, seen).await.map(drop);
    assert!(seen.is_ok(), "{expected:?} expected, {:?}", node.devices.lock().registry.amounts());
}

fn pod(uid: &str, inits: &[(&str, u32)], mains: &[(&str, u32)]) -> Pod {
    let container =
        |(name, n): &(&str, u32)| json!({"name": name, "resources": {"limits": {GPU: n.to_string()}}});
    let list = |all: &[(&str, u32)]| all.iter().map(container).collect::<Vec<_>>();
    let spec = json!({"initContainers": list(inits), "containers": list(mains)});
    serde_json::from_value(json!({"metadata": {"name": uid, "namespace": "n", "uid": uid}, "spec": spec}))
        .unwrap()
}

async fn admit(node: &Node, pod: &Pod) -> Result<(), String> {
    node.devices.admit(pod, &BTreeSet::new()).await
}

async fn start(node: &Node, pod: &Pod, container: &str) -> Result<Extras, String> {
    let mut containers = ledger::in_order(pod);
    let (container, _) = containers.find(|(one, _)| one.name == container).unwrap();
    node.devices.for_start(pod, container).await
}

async fn gpus(node: &Node, pod: &Pod, container: &str) -> String {
    start(node, pod, container).await.unwrap().envs.remove(0).1
}

#[test]
fn a_machine_that_is_left_keeps_what_is_others() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let folders = Folders::new(&root.join("device-plugins"), root);
    folders.remove().unwrap();
    for path in ["device-plugins/kubelet.sock", "device-plugins/gpu.sock", "pod-resources/kubelet.sock"] {
        std::fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
        std::fs::write(root.join(path), "").unwrap();
    }
    std::fs::create_dir_all(root.join("plugins_registry")).unwrap();
    folders.remove().unwrap();
    let left = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(
        (left(root), left(&root.join("device-plugins"))),
        (vec!["device-plugins".into()], vec!["gpu.sock".into()])
    );
}

#[tokio::test]
async fn devices_reach_the_container_and_survive_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let first = node(folder.path(), "boot-1").await;
    let fake = Fake::new(&[("a", true), ("b", true), ("c", false)]);
    let running = fake.start(folder.path(), "dp.1").await;
    offers(&first, 3, 2).await;
    let one = pod("p1", &[], &[("main", 1)]);
    admit(&first, &one).await.unwrap();
    admit(&first, &one).await.unwrap();
    let extras = start(&first, &one, "main").await.unwrap();
    assert_eq!(running.fake.calls(), ["allocate a"], "asked once");
    assert_eq!(extras.envs, [("GPUS".to_owned(), "a".to_owned())]);
    assert!(extras.mounts[0].readonly && extras.mounts[0].host_path == "/opt/driver");
    assert_eq!(
        (extras.devices[0].container_path.as_str(), extras.devices[0].permissions.as_str()),
        ("/dev/gpu", "rw")
    );
    assert_eq!((extras.annotations.len(), extras.cdi_devices[0].name.as_str()), (1, "example.com/gpu=all"));
    // A device that falls ill while it is held is shown as ill and stays where it is.
    fake.says(&[("a", false), ("b", true)]);
    offers(&first, 2, 1).await;
    let health = first.devices.health("p1", "main");
    let shown = health[0].resources.as_ref().unwrap()[0].clone();
    assert_eq!((shown.resource_id.as_str(), shown.health.as_deref()), ("a", Some("Unhealthy")));
    let shown = pod_resources::of_pod(&first.devices, &one);
    assert_eq!(shown.containers[0].devices[0].device_ids, ["a"]);
    drop((first, running));

    // Another start: what is held is known, the Node says 0 until the plugin comes, and a start needs no plugin.
    let second = node(folder.path(), "boot-1").await;
    offers(&second, 0, 0).await;
    admit(&second, &one).await.unwrap();
    assert_eq!(gpus(&second, &one, "main").await, "a");
    let two = pod("p2", &[], &[("main", 1)]);
    let fake = Fake::new(&[("a", true), ("b", true)]);
    // It waits for the plugin, which is on its way.
    let (admitted, _running) = tokio::join!(admit(&second, &two), fake.start(folder.path(), "dp.2"));
    admitted.unwrap();
    assert_eq!((gpus(&second, &two, "main").await.as_str(), fake.calls()), ("b", vec!["allocate b".into()]));
    let three = pod("p3", &[], &[("main", 1)]);
    let why = "requested number of devices unavailable for example.com/gpu. Requested: 1, Available: 0";
    assert_eq!(admit(&second, &three).await.unwrap_err(), why);
    second.devices.release("p1").await.unwrap();
    admit(&second, &three).await.unwrap();
    assert_eq!(gpus(&second, &three, "main").await, "a");
    assert_eq!(second.devices.holders(), ["p2".to_owned(), "p3".to_owned()].into());
}

#[tokio::test]
async fn after_a_boot_the_plugin_is_asked_again_for_the_same_devices() {
    let folder = tempfile::tempdir().unwrap();
    let one = pod("p1", &[], &[("main", 1)]);
    {
        let before = node(folder.path(), "boot-1").await;
        let _running = Fake::new(&[("b", true)]).start(folder.path(), "dp.1").await;
        offers(&before, 1, 1).await;
        admit(&before, &one).await.unwrap();
    }
    let after = node(folder.path(), "boot-2").await;
    admit(&after, &one).await.unwrap();
    let why = start(&after, &one, "main").await.unwrap_err();
    assert!(why.contains("has not registered since this machine booted"), "{why}");
    let fake = Fake::new(&[("a", true), ("b", false)]);
    let _running = fake.start(folder.path(), "dp.2").await;
    offers(&after, 2, 1).await;
    let why = start(&after, &one, "main").await.unwrap_err();
    assert!(why.contains("previously allocated devices are no longer healthy"), "{why}");
    fake.says(&[("a", true), ("b", true)]);
    offers(&after, 2, 2).await;
    assert_eq!(gpus(&after, &one, "main").await, "b");
    assert_eq!(gpus(&after, &one, "main").await, "b");
    assert_eq!(fake.calls(), ["allocate b"], "once after the boot");
}

#[tokio::test]
async fn plugins_prefer_are_told_of_starts_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), "boot").await;
    let mut fake = Fake::new(&[("a", true), ("b", true), ("c", true)]);
    fake.options =
        api::DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };
    let running = fake.start(folder.path(), "dp.1").await;
    offers(&node, 3, 3).await;
    // What an init container had goes on to the main one.
    let one = pod("p1", &[("init", 1)], &[("main", 2)]);
    admit(&node, &one).await.unwrap();
    assert_eq!(gpus(&node, &one, "main").await, "a,c");
    let calls = ["prefer 1 of a b c", "allocate c", "prefer 2 of a b c", "allocate a c", "pre-start a c"];
    assert_eq!(fake.calls(), calls);
    drop(running);
    offers(&node, 3, 0).await;
    let two = pod("p2", &[], &[("main", 1)]);
    let why = admit(&node, &two).await.unwrap_err();
    assert_eq!(why, "no healthy devices present; cannot allocate unhealthy devices example.com/gpu");
    // A resource that nobody ever offered is somebody else's.
    let other: Pod = serde_json::from_value(json!({"metadata": {"uid": "o"}, "spec": {"containers": [
        {"name": "main", "resources": {"limits": {"other.com/thing": "1", "cpu": "1"}}}]}}))
    .unwrap();
    admit(&node, &other).await.unwrap();
    assert_eq!(start(&node, &other, "main").await.unwrap(), Extras::default());
}

#[tokio::test]
async fn a_plugin_that_hangs_keeps_its_device_from_others_only_while_it_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), "boot").await;
    let mut fake = Fake::new(&[("a", true)]);
    fake.hangs = true;
    let _running = fake.start(folder.path(), "dp.1").await;
    offers(&node, 1, 1).await;
    let (one, two) = (pod("p1", &[], &[("main", 1)]), pod("p2", &[], &[("main", 1)]));
    {
        let asking = admit(&node, &one);
        tokio::pin!(asking);
        let asked = tokio::time::timeout(Duration::from_millis(500), &mut asking).await;
        assert!(asked.is_err(), "{asked:?}");
        let why = admit(&node, &two).await.unwrap_err();
        assert!(why.contains("Available: 0"), "{why}");
    }
    // The Pod was deleted meanwhile: nobody waits any more.
    assert!(node.devices.lock().ledger.in_use(GPU).is_empty());
    assert!(node.devices.holders().is_empty());
}

#[tokio::test]
async fn a_plugin_that_floods_is_slowed_down() {
    let folder = tempfile::tempdir().unwrap();
    let node = node(folder.path(), "boot").await;
    let fake = Fake::new(&[("a", true)]);
    let _running = fake.start(folder.path(), "dp.1").await;
    offers(&node, 1, 1).await;
    let mut amounts = node.devices.amounts();
    let flood = async {
        for n in 0..20_000_u32 {
            fake.says(&[("a", n % 2 == 0)]);
            tokio::task::yield_now().await;
        }
    };
    let mut n_told = 0;
    tokio::select! {
        () = flood => {}
        () = async { while amounts.changed().await.is_ok() { n_told += 1; } } => {}
    }
    assert!(n_told < 100, "{n_told} changes reached the Node");
    fake.says(&[("a", true), ("b", true)]);
    offers(&node, 2, 2).await;
}
