//! Looks at what this node and its pods use: asks the runtime for its containers, reads cgroups and `/proc`.
//!
//! It measures when it is asked, never by itself (only the sizes of volumes come by later), and never fails as a whole: what cannot be had is missing from the figures. The
//! parts that decide are pure: `kernel.rs` reads texts, `figures.rs` adds up.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ke_cri::v1;

use super::du::{VolumeSizes, now};
use super::figures::{ContainerFigures, Cpu, Disk, Figures, Memory, Network, NodeFigures, PodFigures, Rates};
use super::kernel::{self, Used, interfaces, meminfo, proc_stat};
use super::own::{self, Own, Process};
use super::summary::Scope;
use crate::edged::{CONTAINER_NAME, CgroupName, Driver, Layout, POD_UID, Qos, Runtime, RuntimeError};

/// Where figures come from, beside the runtime.
pub struct Machine {
    /// Of the Node.
    pub node_name: String,
    /// Processors.
    pub n_cpus: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Where pods' files live.
    pub root_dir: PathBuf,
    /// `podLogsDir`.
    pub pod_logs_root: PathBuf,
    /// How pods' cgroups are arranged.
    pub layout: Layout,
    /// Where Linux shows cgroups.
    pub cgroups: PathBuf,
    /// `/proc`
    pub proc: PathBuf,
    /// How old the size of a volume may be. `volumeStatsAggPeriod`.
    pub volume_period: Duration,
}

/// Measures one machine.
pub struct Gauge {
    machine: Arc<Machine>,
    rates: Mutex<Rates>,
    volumes: Arc<VolumeSizes>,
    /// The runtime's last word about its images' disk.
    images: Mutex<Option<v1::ImageFsInfoResponse>>,
}

/// How long the runtime may take to tell of its images' disk. It counts what it holds for that, and memory does not wait.
const IMAGES_WITHIN: Duration = Duration::from_secs(2);

impl Gauge {
    /// Nothing is measured yet.
    #[must_use]
    pub fn new(machine: Machine) -> Self {
        let volumes = Arc::new(VolumeSizes::new(machine.root_dir.join("pods"), machine.volume_period));
        Self { machine: Arc::new(machine), rates: Mutex::default(), volumes, images: Mutex::default() }
    }

    /// Of the machine what may run out, without a look at any pod.
    pub(crate) async fn measure_node(&self, runtime: &dyn Runtime) -> NodeFigures {
        // Here, since this is asked for all the time: the sizes are known when they are needed.
        self.volumes.refresh();
        let images = self.images(runtime).await;
        let machine = Arc::clone(&self.machine);
        let look = move || machine.look_at_node(images);
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }

    /// Where the images are. A runtime that does not say so now has not moved them: its last word holds.
    async fn images(&self, runtime: &dyn Runtime) -> Option<v1::ImageFsInfoResponse> {
        let lock = || self.images.lock().unwrap_or_else(PoisonError::into_inner);
        match tokio::time::timeout(IMAGES_WITHIN, runtime.image_fs_info()).await {
            Ok(Ok(told)) => *lock() = Some(told),
            Ok(Err(error)) => tracing::debug!(%error, "measure the disk of images"),
            Err(_) => tracing::debug!("the container runtime is slow to measure the disk of images"),
        }
        lock().clone()
    }

    /// All figures of everything.
    pub(crate) async fn measure_all(&self, runtime: &dyn Runtime) -> Figures {
        self.measure(runtime, Scope::All).await
    }

    /// All figures now.
    pub(super) async fn measure(&self, runtime: &dyn Runtime, scope: Scope) -> Figures {
        let (sandboxes, containers) = (runtime.list_sandboxes().await, runtime.list_containers().await);
        let stats = runtime.container_stats().await;
        let errors = [sandboxes.as_ref().err(), containers.as_ref().err(), stats.as_ref().err()];
        let failed: Option<&RuntimeError> = errors.into_iter().flatten().next();
        let is_whole = failed.is_none();
        if let Some(error) = failed {
            tracing::debug!(%error, "measure containers");
        }
        let images = if scope == Scope::All { self.images(runtime).await } else { None };
        let pods =
            pods(sandboxes.unwrap_or_default(), containers.unwrap_or_default(), &stats.unwrap_or_default());
        let machine = Arc::clone(&self.machine);
        if scope == Scope::All {
            self.volumes.refresh();
        }
        let volumes = Arc::clone(&self.volumes);
        let look = move || machine.look(pods, images, scope, &volumes);
        let (node, pods) = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        let mut figures = Figures { node, pods, is_whole };
        self.add_rates(&mut figures);
        figures
    }

    /// What a kubelet tells of itself.
    pub(super) async fn own(&self, runtime: &dyn Runtime) -> Own {
        let (sandboxes, containers) = (runtime.list_sandboxes().await, runtime.list_containers().await);
        let (n_pods, containers) = match (sandboxes, containers) {
            (Ok(sandboxes), Ok(containers)) => {
                let (n_pods, containers) = own::count(&sandboxes, &containers);
                (Some(n_pods), containers)
            }
            _ => (None, BTreeMap::new()),
        };
        let text = |file: &str| self.machine.proc_text(file);
        let (_, booted_at) = proc_stat(&text("stat"));
        let [stat, status, limits] = ["self/stat", "self/status", "self/limits"].map(text);
        let mut process = Process::parse(&stat, &status, &limits, booted_at);
        process.n_files = fs::read_dir(self.machine.proc.join("self/fd")).ok().map(Iterator::count);
        Own { node: self.machine.node_name.clone(), n_pods, containers, process }
    }

    fn add_rates(&self, figures: &mut Figures) {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let mut add = |of: &str, cpu: &mut Option<Cpu>| {
            if let Some(cpu) = cpu {
                let known = rates.rate(of, *cpu);
                cpu.nano_cores = cpu.nano_cores.or(known);
            }
        };
        add("node", &mut figures.node.cpu);
        add("pods", &mut figures.node.pods_cpu);
        for pod in &mut figures.pods {
            add(&pod.uid, &mut pod.cpu);
            for container in &mut pod.containers {
                add(&container.id, &mut container.cpu);
            }
        }
        rates.forget(now());
    }
}

/// What the runtime knows of pods that are up: the newest sandbox of each, and the containers that run in it.
fn pods(
    sandboxes: Vec<v1::PodSandbox>,
    containers: Vec<v1::Container>,
    stats: &[v1::ContainerStats],
) -> Vec<PodFigures> {
    let stats: HashMap<&str, &v1::ContainerStats> =
        stats.iter().filter_map(|stats| Some((stats.attributes.as_ref()?.id.as_str(), stats))).collect();
    let mut ready: Vec<v1::PodSandbox> =
        sandboxes.into_iter().filter(|one| one.state() == v1::PodSandboxState::SandboxReady).collect();
    ready.sort_by_key(|one| std::cmp::Reverse(one.created_at));
    let mut found: Vec<PodFigures> = Vec::new();
    for sandbox in ready {
        let Some(metadata) = sandbox.metadata else { continue };
        // Sandboxes that somebody else made by hand are no pods.
        if !sandbox.labels.contains_key(POD_UID) || found.iter().any(|pod| pod.uid == metadata.uid) {
            continue;
        }
        let inside = containers.iter().filter(|one| {
            one.pod_sandbox_id == sandbox.id && one.state() == v1::ContainerState::ContainerRunning
        });
        let mut inside: Vec<ContainerFigures> =
            inside.map(|one| container(one, stats.get(one.id.as_str()).copied())).collect();
        inside.sort_by(|one, other| one.name.cmp(&other.name));
        found.push(PodFigures {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            started_at: sandbox.created_at,
            containers: inside,
            ..PodFigures::default()
        });
    }
    found.sort_by(|one, other| (&one.namespace, &one.name).cmp(&(&other.namespace, &other.name)));
    found
}

fn container(listed: &v1::Container, stats: Option<&v1::ContainerStats>) -> ContainerFigures {
    let value = |value: &Option<v1::UInt64Value>| value.as_ref().map(|value| value.value);
    let cpu = stats.and_then(|stats| stats.cpu.as_ref()).and_then(|cpu| {
        let core_nanos = value(&cpu.usage_core_nano_seconds)?;
        Some(Cpu { at: cpu.timestamp, core_nanos, nano_cores: value(&cpu.usage_nano_cores) })
    });
    let memory = stats.and_then(|stats| stats.memory.as_ref()).map(|memory| Memory {
        at: memory.timestamp,
        usage_bytes: value(&memory.usage_bytes),
        working_set_bytes: value(&memory.working_set_bytes),
        available_bytes: value(&memory.available_bytes),
        rss_bytes: value(&memory.rss_bytes),
        page_faults: value(&memory.page_faults),
        major_page_faults: value(&memory.major_page_faults),
    });
    let written = stats.and_then(|stats| stats.writable_layer.as_ref()).map(|disk| Disk {
        at: disk.timestamp,
        used_bytes: value(&disk.used_bytes),
        inodes_used: value(&disk.inodes_used),
        ..Disk::default()
    });
    let name = listed.labels.get(CONTAINER_NAME).cloned();
    let image = listed.image.as_ref().map(|image| match image.user_specified_image.as_str() {
        "" => &image.image,
        _ => &image.user_specified_image,
    });
    ContainerFigures {
        name: name.unwrap_or_else(|| listed.metadata.clone().unwrap_or_default().name),
        id: listed.id.clone(),
        image: image.filter(|image| !image.is_empty()).unwrap_or(&listed.image_ref).clone(),
        started_at: listed.created_at,
        cpu,
        memory,
        written,
        logs: None,
    }
}

impl Machine {
    /// Completes what the runtime told by what the kernel shows. Blocking.
    fn look(
        &self,
        mut pods: Vec<PodFigures>,
        images: Option<v1::ImageFsInfoResponse>,
        scope: Scope,
        volumes: &VolumeSizes,
    ) -> (NodeFigures, Vec<PodFigures>) {
        for pod in &mut pods {
            self.look_at_pod(pod, scope);
            if scope == Scope::All {
                pod.volumes = volumes.of(&pod.uid);
            }
            pod.add_up();
        }
        let mut node = if scope == Scope::All { self.look_at_node(images) } else { self.look_at_memory() };
        let at = now();
        let (worked, booted) = proc_stat(&self.proc_text("stat"));
        node.booted_at = booted.map(|secs| secs.saturating_mul(1_000_000_000));
        node.cpu = cpu(self.used("").core_nanos.or(worked), at);
        if self.layout.per_qos {
            let all = self.used(&self.path(&CgroupName::root(&self.layout.root).class(Qos::Guaranteed)));
            node.pods_cpu = cpu(all.core_nanos, at);
            node.pods_memory = all.memory.map(|memory| Memory { at, ..memory });
        }
        if scope == Scope::All {
            node.network = self.network("net", at);
        }
        (node, pods)
    }

    fn look_at_memory(&self) -> NodeFigures {
        let memory = self.used("").memory.or_else(|| meminfo(&self.proc_text("meminfo")));
        let whole = self.memory_bytes;
        NodeFigures {
            name: self.node_name.clone(),
            n_cpus: self.n_cpus,
            memory_bytes: whole,
            memory: memory.map(|memory| Memory {
                at: now(),
                available_bytes: memory.working_set_bytes.map(|used| whole.saturating_sub(used)),
                ..memory
            }),
            ..NodeFigures::default()
        }
    }

    /// What may run out. Blocking.
    fn look_at_node(&self, images: Option<v1::ImageFsInfoResponse>) -> NodeFigures {
        let at = now();
        let mut node = self.look_at_memory();
        node.disk = disk(&self.root_dir, at);
        if let Some((place, used)) = images.as_ref().and_then(image_place) {
            node.image_disk = Some(Disk {
                at,
                used_bytes: used.used_bytes,
                inodes_used: used.inodes_used,
                ..disk(place, at).unwrap_or_default()
            });
            node.has_image_disk = are_apart(&self.root_dir, place);
        }
        // Whichever is reached first: every thread has an id of its own.
        let most = |file: &str| self.proc_text(&format!("sys/kernel/{file}")).trim().parse().ok();
        node.max_pid = [most("pid_max"), most("threads-max")].into_iter().flatten().min();
        let tasks = self.proc_text("loadavg");
        node.n_processes =
            tasks.split_whitespace().nth(3).and_then(|word| word.split('/').nth(1)?.parse().ok());
        node
    }

    fn look_at_pod(&self, pod: &mut PodFigures, scope: Scope) {
        let at = now();
        if self.layout.per_qos {
            let root = CgroupName::root(&self.layout.root);
            let classes = [Qos::BestEffort, Qos::Burstable, Qos::Guaranteed];
            let mut paths = classes.iter().map(|qos| self.path(&root.pod(*qos, &pod.uid)));
            if let Some(path) = paths.find(|path| self.folder(path, "memory").is_dir()) {
                let used = self.used(&path);
                pod.cpu = cpu(used.core_nanos, at);
                pod.memory = used.memory.map(|memory| Memory { at, ..memory });
                let tasks = fs::read_to_string(self.folder(&path, "pids").join("pids.current"));
                pod.n_processes = tasks.ok().and_then(|text| text.trim().parse().ok());
                if scope == Scope::All {
                    pod.network = self.pod_network(&path, at);
                }
                pod.cgroup = path;
            }
        }
        if scope == Scope::All {
            let folder = format!("{}_{}_{}", pod.namespace, pod.name, pod.uid);
            for container in &mut pod.containers {
                container.logs = files(&self.pod_logs_root.join(&folder).join(&container.name), at);
            }
        }
    }

    fn path(&self, name: &CgroupName) -> String {
        match self.layout.driver {
            Driver::Cgroupfs => name.cgroupfs(),
            Driver::Systemd => name.slice_path(),
        }
    }

    fn is_v2(&self) -> bool {
        self.cgroups.join("cgroup.controllers").exists()
    }

    /// Where a controller shows a cgroup; `path` begins with a slash or is empty.
    fn folder(&self, path: &str, controller: &str) -> PathBuf {
        let mount = if self.is_v2() { self.cgroups.clone() } else { self.cgroups.join(controller) };
        mount.join(path.trim_start_matches('/'))
    }

    fn used(&self, path: &str) -> Used {
        if self.is_v2() {
            kernel::used_v2(|file| fs::read_to_string(self.folder(path, "").join(file)).ok())
        } else {
            kernel::used_v1(|controller, file| {
                fs::read_to_string(self.folder(path, controller).join(file)).ok()
            })
        }
    }

    fn proc_text(&self, file: &str) -> String {
        fs::read_to_string(self.proc.join(file)).unwrap_or_default()
    }

    /// Of the namespace that `folder` of `/proc` shows.
    fn network(&self, folder: &str, at: i64) -> Option<Network> {
        let dev = self.proc_text(&format!("{folder}/dev"));
        let interfaces = interfaces(&dev, &self.proc_text(&format!("{folder}/route")));
        (!interfaces.is_empty()).then_some(Network { at, interfaces })
    }

    /// A pod on the machine's own network has none of its own.
    fn pod_network(&self, cgroup: &str, at: i64) -> Option<Network> {
        let process = first_process(&self.folder(cgroup, "memory"))?;
        let namespace = |process: &str| fs::read_link(self.proc.join(process).join("ns/net")).ok();
        if namespace(&process)? == namespace("self")? {
            return None;
        }
        self.network(&format!("{process}/net"), at)
    }
}

fn cpu(core_nanos: Option<u64>, at: i64) -> Option<Cpu> {
    core_nanos.map(|core_nanos| Cpu { at, core_nanos, nano_cores: None })
}

/// Any process of a pod: those of its containers stand one level below it.
fn first_process(folder: &Path) -> Option<String> {
    let below = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    below.chain([folder.to_owned()]).find_map(|folder| {
        let processes = fs::read_to_string(folder.join("cgroup.procs")).ok()?;
        processes.lines().next().map(str::to_owned)
    })
}

/// The file system that holds `path`.
fn disk(path: &Path, at: i64) -> Option<Disk> {
    let facts = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| Some(blocks.saturating_mul(facts.f_frsize));
    Some(Disk {
        at,
        available_bytes: bytes(facts.f_bavail),
        capacity_bytes: bytes(facts.f_blocks),
        used_bytes: bytes(facts.f_blocks.saturating_sub(facts.f_bfree)),
        inodes_free: Some(facts.f_favail),
        inodes: Some(facts.f_files),
        inodes_used: Some(facts.f_files.saturating_sub(facts.f_ffree)),
    })
}

/// Where images and containers are, and how much they use.
fn image_place(images: &v1::ImageFsInfoResponse) -> Option<(&Path, Disk)> {
    let first = images.image_filesystems.first()?;
    let used = |value: &Option<v1::UInt64Value>| value.as_ref().map(|value| value.value);
    let used = Disk {
        used_bytes: used(&first.used_bytes),
        inodes_used: used(&first.inodes_used),
        ..Disk::default()
    };
    Some((Path::new(&first.fs_id.as_ref()?.mountpoint), used))
}

/// Whether two places are in different file systems. What cannot be seen counts as the same.
fn are_apart(one: &Path, other: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).ok().map(|facts| facts.dev());
    matches!((device(one), device(other)), (Some(one), Some(other)) if one != other)
}

/// The files of one folder, without what is below it.
fn files(folder: &Path, at: i64) -> Option<Disk> {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.metadata().ok());
    let (mut used, mut n_files) = (0_u64, 0_u64);
    for file in entries.filter(fs::Metadata::is_file) {
        used = used.saturating_add(file.blocks().saturating_mul(512));
        n_files += 1;
    }
    Some(Disk { at, used_bytes: Some(used), inodes_used: Some(n_files), ..Disk::default() })
}

#[cfg(test)]
mod tests;
