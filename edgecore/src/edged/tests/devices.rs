//! Devices of plugins in a Pod's life: asked for once, put into the container, given back; a Pod that is refused has failed.

use k8s_openapi::api::core::v1::ResourceStatus;

use super::*;
use crate::edged::Extras;

/// Gives everybody the same, or refuses.
#[derive(Default)]
struct Plugins {
    refuses: Option<&'static str>,
    calls: Mutex<Vec<String>>,
}

impl Plugins {
    fn note(&self, call: &str) {
        self.calls.lock().unwrap().push(call.to_owned());
    }

    fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

#[async_trait]
impl PodDevices for Plugins {
    async fn admit(&self, pod: &Pod, running: &BTreeSet<String>) -> Result<(), String> {
        let running: Vec<&str> = running.iter().map(String::as_str).collect();
        self.note(&format!("admit {} [{}]", pod.metadata.uid.as_deref().unwrap(), running.join(" ")));
        self.refuses.map_or(Ok(()), |why| Err(why.to_owned()))
    }
    async fn for_start(&self, _: &Pod, container: &Container) -> Result<Extras, String> {
        self.note(&format!("start {}", container.name));
        let mount = v1::Mount { container_path: "/driver".into(), ..v1::Mount::default() };
        let envs = vec![("GPU".to_owned(), "1".to_owned()), ("OWN".to_owned(), "plugin".to_owned())];
        Ok(Extras { envs, mounts: vec![mount], ..Extras::default() })
    }
    async fn release(&self, pod_uid: &str) -> Result<(), String> {
        self.note(&format!("release {pod_uid}"));
        Ok(())
    }
    fn holders(&self) -> BTreeSet<String> {
        ["lost".to_owned()].into()
    }
    fn changes(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }
    fn health(&self, _: &str, _: &str) -> Vec<ResourceStatus> {
        vec![ResourceStatus { name: "example.com/gpu".into(), ..ResourceStatus::default() }]
    }
    fn serves(&self, resource: &str) -> bool {
        resource == "example.com/gpu"
    }
}

fn machine(plugins: &Arc<Plugins>) -> Machine {
    Machine { devices: plugins.clone(), ..Machine::new() }
}

#[tokio::test]
async fn devices_are_asked_for_once_and_given_back() {
    let plugins = Arc::new(Plugins::default());
    let machine = machine(&plugins);
    let spec = json!({"containers": [{"name": "app", "image": "i:1", "imagePullPolicy": "IfNotPresent",
        "args": ["$(GPU)"], "env": [{"name": "OWN", "value": "pod"}]}]});
    let mut edged = machine.start(vec![Arc::new(pod("u1", spec.clone()))]);
    let status = edged.running().await;
    let shown = status.container_statuses.unwrap()[0].allocated_resources_status.clone().unwrap();
    assert_eq!(shown[0].name, "example.com/gpu");
    let id = machine.runtime.container_named("app").unwrap();
    let config = machine.runtime.container_config(&id).unwrap();
    let envs: Vec<String> = config
        .envs
        .iter()
        .map(|env| format!("{}={}", env.key, String::from_utf8_lossy(&env.value)))
        .collect();
    assert_eq!(envs, ["GPU=1", "OWN=plugin", "OWN=pod"], "the last of a name counts");
    assert_eq!(config.args, ["1"]);
    assert_eq!(config.mounts[0].container_path, "/driver");
    until("what nobody has any more is given back", || plugins.calls().contains(&"release lost".to_owned()))
        .await;
    edged.end().await;

    // Another edgecore: it says what runs. Then the Pod goes.
    let edged = machine.start(vec![Arc::new(pod("u1", spec))]);
    until("asked by the next edgecore", || plugins.calls().contains(&"admit u1 [app]".to_owned())).await;
    edged.news.send(News::PodDeleted("default/pod/web".parse().unwrap(), None)).await.unwrap();
    until("given back", || plugins.calls().contains(&"release u1".to_owned())).await;
    let calls = plugins.calls();
    let n = |call: &str| calls.iter().filter(|one| *one == call).count();
    assert_eq!((n("admit u1 []"), n("admit u1 [app]"), n("start app")), (1, 1, 1), "{calls:?}");
    let gone = machine.runtime.list_containers().await.unwrap().is_empty();
    until("nothing runs", || gone || machine.n_calls("remove_container") > 0).await;
    edged.end().await;
}

#[tokio::test]
async fn a_pod_that_is_refused_has_failed() {
    let plugins = Arc::new(Plugins { refuses: Some("too few"), ..Plugins::default() });
    let machine = machine(&plugins);
    let mut edged = machine.start(vec![web()]);
    let said = edged
        .wait("the event", |report| event(report).filter(|(reason, _)| reason == "UnexpectedAdmissionError"));
    assert_eq!(said.await.1, "Allocate failed due to too few, which is unexpected");
    let status = edged.status("Failed", |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!(status.reason.as_deref(), Some("UnexpectedAdmissionError"));
    let message = "Pod was rejected: Allocate failed due to too few, which is unexpected";
    assert_eq!(status.message.as_deref(), Some(message));
    edged.end().await;
    assert_eq!(machine.n_calls("run_sandbox"), 0);

    // A Pod that has failed is not asked about again.
    let stored = Pod { status: Some(status), ..(*web()).clone() };
    let n_asked = plugins.calls().len();
    let edged = machine.start(vec![Arc::new(stored)]);
    until("given back", || plugins.calls().iter().filter(|call| *call == "release u1").count() > 0).await;
    assert!(!plugins.calls()[n_asked..].iter().any(|call| call.starts_with("admit")));
    edged.end().await;
    assert_eq!(machine.n_calls("run_sandbox"), 0);
}

#[tokio::test]
async fn whoever_bound_it_a_pod_without_its_devices_is_refused() {
    let plugins = Arc::new(Plugins { refuses: Some("too few"), ..Plugins::default() });
    let machine = machine(&plugins);
    let limits = json!({"limits": {"example.com/gpu": "9"}, "requests": {"example.com/gpu": "9"}});
    let asking = |uid: &str, name: &str| {
        let app =
            json!({"name": "app", "image": "i:1", "imagePullPolicy": "IfNotPresent", "resources": limits});
        let mut pod = pod(uid, json!({"containers": [app], "priority": 2_000_001_000}));
        pod.metadata.name = Some(name.into());
        pod
    };
    // Written with its node's name, then a static one with its mirror.
    let mut edged = machine.start(Vec::new());
    edged.news.send(News::PodPut(Arc::new(asking("u2", "direct")))).await.unwrap();
    let refused = edged.status("refused", |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!(refused.reason.as_deref(), Some("UnexpectedAdmissionError"));
    let mut file = asking("h1", "static");
    file.metadata.annotations = Some([("kubernetes.io/config.source".to_owned(), "file".to_owned())].into());
    let mut mirror = file.clone();
    mirror.metadata.uid = Some("m1".into());
    mirror.metadata.annotations.as_mut().unwrap().insert(MIRROR.to_owned(), "h1".to_owned());
    edged.files.send_replace(Arc::new([(pod_key(&file).unwrap(), Arc::new(file))].into()));
    edged.news.send(News::PodPut(Arc::new(mirror))).await.unwrap();
    let refused = edged.status("refused", |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!(refused.reason.as_deref(), Some("UnexpectedAdmissionError"));
    assert_eq!(machine.n_calls("run_sandbox"), 0);
    edged.end().await;
}
