//! The evictor on a runtime in memory and files as the kernel would show them, with a scripted edged.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use k8s_openapi::api::core::v1::Pod;
use ke_cri::v1;
use serde_json::{Value, json};

use super::*;
use crate::config::Threshold;
use crate::edged::{Ask, CONTAINER_NAME, Driver, FakeRuntime, Layout, POD_UID};
use crate::kubelet_server::Machine;
use crate::report_queue::Report;

/// An edged that does what it is told at once.
#[derive(Clone, Default)]
struct Edged {
    pods: Arc<Mutex<Vec<Kept>>>,
    evicted: Arc<Mutex<Vec<(String, Eviction)>>>,
    words: Arc<Mutex<Vec<String>>>,
    /// Pods take so long to end; no time by default.
    ends_within: Arc<Mutex<Duration>>,
}

impl Edged {
    fn become_of(&self, uid: &String, life: Life) {
        let mut pods = self.pods.lock().unwrap();
        for kept in pods.iter_mut().filter(|kept| kept.pod.metadata.uid.as_ref() == Some(uid)) {
            (kept.life, kept.is_evicted) = (life, true);
        }
    }

    async fn serve(self, mut asks: tokio::sync::mpsc::Receiver<Ask>) {
        while let Some(ask) = asks.recv().await {
            match ask {
                Ask::Pods(answer) => {
                    let _ = answer.send(self.pods.lock().unwrap().clone());
                }
                Ask::Evict(uid, eviction) => {
                    let wait = *self.ends_within.lock().unwrap();
                    self.become_of(&uid, if wait.is_zero() { Life::Over } else { Life::Ending });
                    let (edged, ending) = (self.clone(), uid.clone());
                    tokio::spawn(async move {
                        sleep(wait).await;
                        edged.become_of(&ending, Life::Over);
                    });
                    self.evicted.lock().unwrap().push((uid, eviction));
                }
                Ask::Strip => self.words.lock().unwrap().push("strip".into()),
                Ask::Short(pressures) => self.words.lock().unwrap().push(format!("{pressures:?}")),
                Ask::EndGroup(_) => self.words.lock().unwrap().push("end".into()),
            }
        }
    }
}

struct Bench {
    edged: Edged,
    runtime: FakeRuntime,
    stats: Vec<v1::ContainerStats>,
    reports: tokio::sync::mpsc::Receiver<Report>,
    pressures: watch::Receiver<Option<Pressures>>,
    evictor: Evictor,
    folder: tempfile::TempDir,
}

const KIB: u64 = 1 << 10;

/// What is free of 1000 KiB.
fn free_memory(folder: &Path, free: u64) {
    fs::write(folder.join("proc/meminfo"), format!("MemTotal: 1000 kB\nMemFree: {free} kB\n")).unwrap();
}

impl Bench {
    fn new(limits: Vec<Limit>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("proc")).unwrap();
        free_memory(folder.path(), 1000);
        let gauge = Gauge::new(Machine {
            node_name: "edge-1".into(),
            n_cpus: 1,
            memory_bytes: 1000 * KIB,
            root_dir: folder.path().into(),
            pod_logs_root: folder.path().join("logs"),
            layout: Layout { driver: Driver::Cgroupfs, root: "/".into(), per_qos: false },
            cgroups: folder.path().join("cgroup"),
            proc: folder.path().join("proc"),
            volume_period: Duration::ZERO,
        });
        let (keeper, asks) = Keeper::channel();
        let (edged, runtime) = (Edged::default(), FakeRuntime::new());
        runtime.add_image("docker.io/library/i:1", "");
        tokio::spawn(edged.clone().serve(asks));
        let (reports, received) = Reports::channel();
        let (tell, pressures) = watch::channel(None);
        let evictor = Evictor::new(Parts {
            limits,
            transition: Duration::from_secs(300),
            max_grace_secs: 20,
            images: GcPolicy { min_age: Duration::ZERO, ..GcPolicy::default() },
            sandbox_image: String::new(),
            image_folder: folder.path().join("images"),
            node_name: "edge-1".into(),
            runtime: Arc::new(runtime.clone()),
            gauge: Arc::new(gauge),
            keeper,
            reports,
            pressures: tell,
        });
        Self { edged, runtime, stats: Vec::new(), reports: received, pressures, evictor, folder }
    }

    /// A pod that runs and uses so much memory.
    async fn add(&mut self, uid: &str, memory: u64, spec: Value) {
        let mut body = json!({"metadata": {"name": uid, "namespace": "shop", "uid": uid},
            "spec": {"containers": [{"name": "app", "image": "i:1"}]}});
        for (key, value) in spec.as_object().unwrap() {
            body["spec"][key] = value.clone();
        }
        let pod: Pod = serde_json::from_value(body).unwrap();
        self.edged.pods.lock().unwrap().push(Kept {
            pod: Arc::new(pod),
            life: Life::Active,
            is_evicted: false,
        });
        let labels = [(POD_UID.to_owned(), uid.to_owned()), (CONTAINER_NAME.to_owned(), "app".to_owned())];
        let metadata = v1::PodSandboxMetadata {
            name: uid.into(),
            uid: uid.into(),
            namespace: "shop".into(),
            attempt: 0,
        };
        let sandbox = v1::PodSandboxConfig {
            metadata: Some(metadata),
            labels: labels.clone().into(),
            ..Default::default()
        };
        let sandbox_id = self.runtime.run_sandbox(&sandbox, "").await.unwrap();
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "docker.io/library/i:1".into(), ..Default::default() }),
            labels: labels.into(),
            ..Default::default()
        };
        let id = self.runtime.create_container(&sandbox_id, &config, &sandbox).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        let number = |value| Some(v1::UInt64Value { value });
        self.stats.push(v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes { id, ..Default::default() }),
            memory: Some(v1::MemoryUsage {
                timestamp: 5,
                working_set_bytes: number(memory),
                ..Default::default()
            }),
            ..Default::default()
        });
        self.runtime.set_stats(self.stats.clone());
    }

    fn evicted(&self) -> Vec<String> {
        self.edged.evicted.lock().unwrap().iter().map(|(uid, _)| uid.clone()).collect()
    }

    fn node_events(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Ok(Report::Event { body, .. }) = self.reports.try_recv() {
            let event: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(event["involvedObject"]["kind"], "Node");
            said.push(format!(
                "{}: {}",
                event["reason"].as_str().unwrap(),
                event["message"].as_str().unwrap()
            ));
        }
        said
    }
}

fn limit(signal: Signal, amount: u64) -> Limit {
    Limit { signal, threshold: Threshold::Amount(amount), grace: None, reclaim: None }
}

fn asks(memory: &str) -> Value {
    json!({"containers": [{"name": "app", "image": "i:1", "resources": {"requests": {"memory": memory}}}]})
}

#[tokio::test(start_paused = true)]
async fn one_pod_goes_at_a_time_and_the_worst_first() {
    let mut bench = Bench::new(vec![limit(Signal::Memory, 100 * KIB)]);
    bench.add("modest", 300 * KIB, asks("400Ki")).await;
    bench.add("greedy", 200 * KIB, asks("100Ki")).await;
    bench.add("critical", 400 * KIB, json!({"priority": 2_000_001_000})).await;
    assert_eq!(bench.evictor.pass().await, Pass::Calm);
    assert_eq!(*bench.pressures.borrow(), Some(Pressures::default()));
    assert!(bench.evicted().is_empty());

    free_memory(bench.folder.path(), 99);
    assert_eq!(bench.evictor.pass().await, Pass::Evicted(vec!["greedy".into()], AT_ONCE_SECS));
    bench.evictor.wait_for_end(&["greedy".into()], AT_ONCE_SECS).await;
    assert_eq!(*bench.pressures.borrow(), Some(Pressures { memory: true, ..Pressures::default() }));
    let (_, eviction) = bench.edged.evicted.lock().unwrap()[0].clone();
    assert_eq!(
        (eviction.message.as_str(), eviction.grace_secs, eviction.cause),
        (
            "The node was low on resource: memory. Threshold quantity: 100Ki, available: 99Ki. Container app was using 200Ki, \
             request is 100Ki, has larger consumption of memory. ",
            1,
            Cause::Shortage
        )
    );
    assert_eq!(bench.node_events(), ["EvictionThresholdMet: Attempting to reclaim memory"]);
    assert_eq!(bench.evictor.pass().await, Pass::Evicted(vec!["modest".into()], AT_ONCE_SECS));
    // Nobody is left but one that is spared.
    assert_eq!(bench.evictor.pass().await, Pass::Calm);
    bench.evictor.keeper.pods().await;
    assert_eq!(bench.evicted(), ["greedy", "modest"]);

    // Relief: nobody goes, and what is told stays for a while.
    free_memory(bench.folder.path(), 500);
    assert_eq!(bench.evictor.pass().await, Pass::Calm);
    assert!(bench.pressures.borrow().is_some_and(|pressures| pressures.memory));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_is_nobodys_fault() {
    let mut bench = Bench::new(vec![limit(Signal::Memory, 100 * KIB)]);
    bench.add("one", 300 * KIB, json!({})).await;
    free_memory(bench.folder.path(), 1);
    bench.runtime.go_away();
    assert_eq!(bench.evictor.pass().await, Pass::Calm);
    assert!(
        bench.pressures.borrow().is_some_and(|pressures| pressures.memory),
        "the Node says it all the same"
    );
    bench.runtime.heal();
    assert_eq!(bench.evictor.pass().await, Pass::Evicted(vec!["one".into()], AT_ONCE_SECS));
}

#[tokio::test(start_paused = true)]
async fn images_go_before_pods() {
    // More than any disk has.
    let mut bench = Bench::new(vec![limit(Signal::Disk, u64::MAX)]);
    bench.add("one", 1, json!({})).await;
    bench.runtime.add_image("docker.io/library/unused:1", "");
    assert_eq!(
        bench.evictor.pass().await,
        Pass::Evicted(vec!["one".into()], AT_ONCE_SECS),
        "the disk is full still"
    );
    bench.evictor.keeper.pods().await;
    assert!(bench.edged.words.lock().unwrap().iter().any(|word| word == "strip"));
    let tags: Vec<String> =
        bench.runtime.list_images().await.unwrap().into_iter().flat_map(|image| image.repo_tags).collect();
    assert_eq!(tags, ["docker.io/library/i:1"]);
    assert_eq!(bench.node_events(), ["EvictionThresholdMet: Attempting to reclaim ephemeral-storage"]);
}

#[tokio::test(start_paused = true)]
async fn a_volume_beyond_its_limit_costs_its_pod() {
    let mut bench = Bench::new(Vec::new());
    let volumes = json!({"volumes": [{"name": "scratch", "emptyDir": {"sizeLimit": "64Ki"}}]});
    bench.add("full", 1, volumes.clone()).await;
    bench.add("empty", 1, volumes).await;
    assert_eq!(bench.evictor.pass().await, Pass::Calm);
    let volume = bench.folder.path().join("pods/full/volumes/kubernetes.io~empty-dir/scratch");
    fs::create_dir_all(&volume).unwrap();
    fs::write(volume.join("file"), vec![7; 100_000]).unwrap();
    // Sizes come by later than the look that asks for them.
    let (mut pass, begun) = (Pass::Calm, std::time::Instant::now());
    while pass == Pass::Calm {
        assert!(begun.elapsed().as_secs() < 20, "the volume was not measured");
        std::thread::sleep(Duration::from_millis(5));
        pass = bench.evictor.pass().await;
    }
    assert_eq!(pass, Pass::Evicted(vec!["full".into()], AT_ONCE_SECS));
    // Words come one after the other: the one before was heard when this is answered.
    bench.evictor.keeper.pods().await;
    let (_, eviction) = bench.edged.evicted.lock().unwrap()[0].clone();
    assert_eq!(eviction.message, "Usage of EmptyDir volume \"scratch\" exceeds the limit \"64Ki\". ");
    assert!(eviction.cause == Cause::Itself && bench.node_events().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_uses_its_time_is_waited_for() {
    let soft = Limit { grace: Some(Duration::from_secs(1)), ..limit(Signal::Memory, 100 * KIB) };
    let mut bench = Bench::new(vec![soft]);
    bench.evictor.max_grace_secs = 60;
    bench.add("slow", 300 * KIB, json!({})).await;
    bench.add("next", 200 * KIB, json!({})).await;
    *bench.edged.ends_within.lock().unwrap() = Duration::from_secs(80);
    free_memory(bench.folder.path(), 99);
    assert_eq!(bench.evictor.pass().await, Pass::Calm, "it has patience");
    sleep(Duration::from_secs(2)).await;
    let Pass::Evicted(uids, grace_secs) = bench.evictor.pass().await else { panic!("nobody is evicted") };
    assert_eq!((uids.as_slice(), grace_secs), (["slow".to_owned()].as_slice(), 60));
    let begun = Instant::now();
    bench.evictor.wait_for_end(&uids, grace_secs).await;
    assert_eq!(begun.elapsed().as_secs(), 80);
    assert_eq!(patience(AT_ONCE_SECS), Duration::from_secs(40));
}
