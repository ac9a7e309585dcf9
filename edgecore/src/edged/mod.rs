//! Edged: runs this machine's pods through its container runtime.
//!
//! [`Edged::run`] hears what the store says and what the runtime shows, and keeps one worker for each Pod. It never talks
//! to the cloud (that is `report_queue`), never reads the store (that is `meta_manager`), and decides nothing about
//! containers (that is `plan.rs`).

pub mod admission;
pub mod backoff;
pub mod cgroups;
mod config_error;
pub mod container;
pub mod cri;
pub mod cri_fake;
mod devices;
pub mod env;
pub mod evicted;
mod events;
pub mod expand;
pub mod fields;
mod hands;
pub mod holds;
mod hooks;
pub mod image_folder;
pub mod image_gc;
pub mod image_name;
pub mod images;
mod inspector;
pub mod keeper;
mod last_words;
pub mod leaving;
pub mod log_rotation;
pub mod logs;
pub mod node_shutdown;
pub mod observed;
mod observer;
pub mod plan;
pub mod pressure;
pub mod probes;
pub mod pull_secrets;
pub mod resize;
mod resizing;
pub mod resources;
pub mod sandbox;
pub mod security;
mod service_env;
pub mod sources;
pub mod status;
mod statics;
mod told;
mod unsupported;
pub mod volumes;
mod worker;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use ke_cri::v1::ContainerState;
use ke_run::shutdown::Shutdown;
use ke_wire::{Kind, ObjectKey, Uid};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use self::admission::Applicant;
use self::cgroups::PodCgroups;
pub use self::cgroups::{CgroupName, Driver, Layout};
use self::container::spec_hash_text;
pub use self::container::{CONTAINER_NAME, POD_NAME, POD_NAMESPACE, POD_UID};
use self::cri::Events;
pub use self::cri::{CriClient, Runtime, RuntimeError};
pub use self::cri_fake::FakeRuntime;
pub use self::devices::{Extras, NoDevices, PodDevices};
use self::events::Subject;
pub(crate) use self::events::{Occurrence, Recorder, Severity};
use self::evicted::Care;
pub use self::evicted::{Eviction, Life, is_critical, priority};
pub use self::hands::{FilesError, OUR_HASH, PodFiles, Settings};
use self::hands::{Hands, N_HEAVY};
pub use self::holds::{Holds, Which};
pub(crate) use self::image_folder::images as images_of_folder;
#[cfg(test)]
pub(crate) use self::image_folder::note_images;
pub use self::image_gc::{Disk, GcPolicy, ImageLedger};
pub use self::image_name::ImageName;
use self::images::Images;
pub use self::images::PullPolicy;
pub(crate) use self::keeper::Ask;
pub use self::keeper::{Keeper, Kept};
use self::node_shutdown::{EndGroup, Ender, ended, group, turned_away};
pub use self::node_shutdown::{Period, periods};
use self::observer::{Listings, Observer};
pub use self::plan::{Desired, DesiredPod, RestartPolicy, inits, restart_policy};
pub use self::pressure::Pressures;
pub use self::probes::ProbeCounts;
use self::resize::Room;
use self::resources::qos;
pub use self::resources::{Qos, pod_limit, pod_request};
pub use self::statics::Door;
use self::statics::{Arrival, Origin};
use self::status::Facts;
use self::worker::{Ears, Memory, Shared, Worker};
use crate::meta_manager::{News, Objects};
use crate::report_queue::Reports;
use crate::static_pods;

/// How often the runtime is asked what it runs. containerd before 1.7 tells nothing by itself; two lists cost it about a
/// millisecond. Shortly after a change the next one is near.
const QUIET: Duration = Duration::from_secs(1);
const BUSY: Duration = Duration::from_millis(200);
/// How long a change makes the machine busy.
const BUSY_FOR: Duration = Duration::from_secs(3);

/// What Edged needs from the rest of edgecore.
pub struct Parts {
    /// This machine's settings for pods.
    pub settings: Settings,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Its images.
    pub images: Images,
    /// Volumes and environment.
    pub files: Arc<dyn PodFiles>,
    /// Devices of plugins.
    pub devices: Arc<dyn PodDevices>,
    /// ConfigMaps and Secrets.
    pub objects: Arc<dyn Objects>,
    /// `None` where this machine offers none that may be written.
    pub cgroups: Option<PodCgroups>,
    /// Where statuses and events go.
    pub reports: Reports,
    /// What MetaManager tells.
    pub news: mpsc::Receiver<News>,
    /// Every Pod in the store.
    pub pods: Vec<Arc<Pod>>,
    /// Pods that are new, and this machine's own.
    pub door: Door,
    /// Whether the store holds all that the cloud wants: only then is removed what the runtime has beyond it.
    pub store_is_full: watch::Receiver<bool>,
    /// This machine's addresses, the preferred one first.
    pub host_ips: watch::Receiver<Vec<IpAddr>>,
}

/// Why Edged ends before it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum EdgedError {
    /// MetaManager is gone.
    #[error("nobody tells edged about pods any more")]
    Deaf,
}

/// Runs this machine's pods.
pub struct Edged {
    shared: Arc<Shared>,
    facts: watch::Sender<Facts>,
    host_ips: watch::Receiver<Vec<IpAddr>>,
    device_changes: watch::Receiver<u64>,
    news: mpsc::Receiver<News>,
    pods: HashMap<String, Entry>,
    door: Door,
    /// Pods in the cloud that show static ones.
    mirrors: BTreeMap<ObjectKey, Arc<Pod>>,
    workers: JoinSet<String>,
    seen: BTreeMap<String, Vec<(String, i32)>>,
    events: Option<Events>,
    observer_work: Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>,
    look_at: Instant,
    busy_until: Instant,
    store_is_full: watch::Receiver<bool>,
    ender: Ender,
    ends: mpsc::Receiver<EndGroup>,
    /// While the machine goes down: the pods that were told to end, by uid.
    going_down: Option<BTreeMap<String, Period>>,
    has_looked: bool,
    directories_adopted: bool,
    /// The runtime has answered once.
    met: bool,
    keeper: Keeper,
    asks: mpsc::Receiver<Ask>,
    pressures: Pressures,
}

/// One Pod with its worker.
struct Entry {
    desired: watch::Sender<DesiredPod>,
    wake: Arc<Notify>,
    config_changed: mpsc::Sender<()>,
    care: watch::Sender<Care>,
    life: watch::Receiver<Life>,
    /// ConfigMaps and Secrets that it uses.
    uses: BTreeSet<ObjectKey>,
    key: Option<ObjectKey>,
    origin: Origin,
    /// It is not run.
    refusal: Option<admission::Refusal>,
    /// It waits for its release: no worker yet.
    is_held: bool,
    /// It is over, as its worker told.
    has_ended: Arc<AtomicBool>,
}

enum Event {
    News(Option<News>),
    Runtime(Result<String, RuntimeError>),
    RuntimeSilent,
    Ended(String),
    Ask(Ask),
    Addresses,
    Devices,
    EndGroup(EndGroup),
    StaticPods,
    Release(holds::Release),
    Look,
    Stop,
}

impl Edged {
    /// An Edged for these pods; nothing happens before `run`.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let (observer, observer_work) = Observer::new(parts.runtime.clone());
        let device_changes = parts.devices.changes();
        let (facts, facts_seen) = watch::channel(Facts::default());
        let hands = Hands {
            settings: parts.settings,
            runtime: parts.runtime,
            images: parts.images,
            files: parts.files,
            devices: parts.devices,
            objects: parts.objects,
            cgroups: parts.cgroups,
            heavy: Semaphore::new(N_HEAVY),
        };
        let shared = Arc::new(Shared {
            room: Room::new(&hands.settings.allocatable),
            hands,
            observer,
            reports: parts.reports,
            facts: facts_seen,
            probe_counts: ProbeCounts::default(),
            seats: parts.door.seats.subscribe(),
        });
        let now = Instant::now();
        let (keeper, asks) = Keeper::channel();
        let (ender, ends) = Ender::channel();
        let mut edged = Self {
            shared,
            facts,
            host_ips: parts.host_ips,
            device_changes,
            news: parts.news,
            pods: HashMap::new(),
            door: parts.door,
            mirrors: BTreeMap::new(),
            workers: JoinSet::new(),
            seen: BTreeMap::new(),
            events: None,
            observer_work: Some(Box::pin(observer_work)),
            look_at: now,
            busy_until: now,
            store_is_full: parts.store_is_full,
            ender,
            ends,
            going_down: None,
            has_looked: false,
            directories_adopted: false,
            met: false,
            keeper,
            asks,
            pressures: Pressures::default(),
        };
        edged.put_all(parts.pods);
        edged
    }

    /// How many probes were made: for who serves the kubelet's `/metrics/probes`.
    #[must_use]
    pub fn probe_counts(&self) -> ProbeCounts {
        self.shared.probe_counts.clone()
    }

    /// For who keeps the machine in health.
    #[must_use]
    pub fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }

    /// For who ends pods when the machine goes down.
    #[must_use]
    pub fn ender(&self) -> Ender {
        self.ender.clone()
    }

    /// Runs until it is told to stop. Containers go on: whoever starts edgecore again finds and adopts them.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), EdgedError> {
        if let Some(work) = self.observer_work.take() {
            self.workers.spawn(async move {
                work.await;
                String::new()
            });
        }
        // Container ids in statuses carry the runtime's name: no worker starts before it is known. What MetaManager tells
        // meanwhile is kept, since it waits for us when the channel is full.
        let meeting = meet_runtime(self.shared.hands.runtime.clone());
        tokio::pin!(meeting);
        let runtime_name = loop {
            tokio::select! {
                name = &mut meeting => break name,
                () = shutdown.wait() => return Ok(()),
                news = self.news.recv() => match news {
                    Some(news) => self.on_news(news),
                    None => return Err(EdgedError::Deaf),
                },
            }
        };
        let host_ips = self.host_ips.borrow_and_update().clone();
        self.facts.send_replace(Facts { host_ips, runtime_name });
        self.met = true;
        self.weigh_classes();
        let uids: Vec<String> = self.pods.keys().cloned().collect();
        for uid in uids {
            self.start_worker(&uid);
        }
        loop {
            match self.next_event(&shutdown).await {
                Event::News(Some(news)) => self.on_news(news),
                Event::News(None) => return Err(EdgedError::Deaf),
                Event::Runtime(Ok(uid)) => self.wake(&uid),
                // The stream is gone with its runtime; the next look that works opens another one.
                Event::Runtime(Err(_)) | Event::RuntimeSilent => {
                    (self.events, self.has_looked) = (None, false)
                }
                Event::Ended(uid) => self.on_ended(&uid),
                Event::Ask(ask) => self.on_ask(ask),
                Event::Addresses => self.on_addresses(),
                Event::Devices => self.on_devices(),
                Event::EndGroup(ask) => self.on_end_group(ask).await,
                Event::StaticPods => {
                    self.busy();
                    self.on_static_pods();
                }
                Event::Release(release) => self.on_release(release),
                Event::Look => self.on_look().await,
                Event::Stop => return Ok(()),
            }
        }
    }

    async fn next_event(&mut self, shutdown: &Shutdown) -> Event {
        let runtime_event = async {
            match &mut self.events {
                Some(events) => match events.next().await {
                    Some(Ok(event)) => {
                        let metadata = event.pod_sandbox_status.and_then(|status| status.metadata);
                        Event::Runtime(Ok(metadata.map(|metadata| metadata.uid).unwrap_or_default()))
                    }
                    Some(Err(error)) => Event::Runtime(Err(error)),
                    None => Event::RuntimeSilent,
                },
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.wait() => Event::Stop,
            news = self.news.recv() => Event::News(news),
            event = runtime_event => event,
            Some(ended) = self.workers.join_next() => Event::Ended(ended.unwrap_or_default()),
            Some(ask) = self.asks.recv() => Event::Ask(ask),
            Ok(()) = self.host_ips.changed() => Event::Addresses,
            Ok(()) = self.device_changes.changed() => Event::Devices,
            Some(ask) = self.ends.recv() => Event::EndGroup(ask),
            Ok(()) = self.door.static_pods.changed() => Event::StaticPods,
            Some(release) = self.door.releases.recv() => Event::Release(release),
            () = sleep_until(self.look_at) => Event::Look,
        }
    }

    fn on_news(&mut self, news: News) {
        match news {
            News::PodPut(pod) => {
                self.put(pod);
            }
            News::PodDeleted(key, uid) => self.on_pod_deleted(&key, uid.as_ref()),
            News::ConfigChanged(key) => {
                for entry in self.pods.values().filter(|entry| entry.uses.contains(&key)) {
                    let _ = entry.config_changed.try_send(());
                }
            }
            News::NodePut(node) => self.door.gate.node = Some(node),
        }
    }

    fn put(&mut self, pod: Arc<Pod>) {
        if static_pods::is_mirror(&pod) {
            return self.on_mirror(pod);
        }
        let pod = self.judged(pod);
        let Some((uid, entry)) = self.entry(&pod) else { return };
        self.busy();
        // Another Pod of this name: the one before is gone from the cloud, whether we were told or not.
        let replaced = self.pods.iter().filter(|(other, known)| {
            **other != uid && known.key == entry.key && known.origin == Origin::Cloud
        });
        let replaced: Vec<String> = replaced.map(|(other, _)| other.clone()).collect();
        for other in replaced {
            self.remove(&other);
        }
        match self.pods.get_mut(&uid) {
            Some(known) => {
                known.uses = entry.uses;
                known.key = entry.key;
                known.change(&pod);
                if known.is_held && !holds::is_to_wait(&pod) {
                    self.begin(&uid);
                }
            }
            None => self.let_in(uid, entry, &pod, Applicant::of(&pod)),
        }
    }

    /// As it is, unless the machine goes down.
    fn judged(&self, pod: Arc<Pod>) -> Arc<Pod> {
        let (Some(down), None) = (&self.going_down, &pod.metadata.deletion_timestamp) else { return pod };
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        match down.get(uid) {
            Some(period) => Arc::new(ended(&pod, *period, Timestamp::now())),
            None if !self.pods.contains_key(uid) => Arc::new(turned_away(&pod)),
            None => pod,
        }
    }

    /// Tells the pods of a group to end, and says how many still run.
    async fn on_end_group(&mut self, ask: EndGroup) {
        self.busy();
        let down = self.going_down.get_or_insert_default();
        let mut members = Vec::new();
        for (uid, entry) in &self.pods {
            let known = entry.desired.borrow().clone();
            let Some(pod) = known.pod() else { continue };
            let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
            if group(&ask.periods, priority) != ask.group {
                continue;
            }
            members.push(uid.as_str());
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            let is_over = matches!(phase, Some("Succeeded" | "Failed"));
            if let (Desired::Run(pod), false, Some(period)) =
                (&known.want, is_over, ask.periods.get(ask.group))
            {
                down.insert(uid.clone(), *period);
                let pod = Arc::new(ended(pod, *period, Timestamp::now()));
                entry.desired.send_replace(desired(pod));
            }
        }
        let is_running = |uid: &&&str, listings: &Listings| {
            listings.get(**uid).is_some_and(|listing| {
                listing.containers.iter().any(|one| one.state() == ContainerState::ContainerRunning)
            })
        };
        // A runtime that is away ends nothing: its pods count as there.
        let n_left = match self.shared.observer.look().await {
            Ok(listings) => members.iter().filter(|uid| is_running(uid, &listings)).count(),
            Err(_) => members.len(),
        };
        let _ = ask.n_left.send(n_left);
    }

    fn on_pod_deleted(&mut self, key: &ObjectKey, uid: Option<&Uid>) {
        self.on_mirror_deleted(key, uid.map(Uid::as_str));
        let ours = self.pods.iter().filter(|(_, entry)| entry.origin == Origin::Cloud);
        let gone = ours.filter(|(known, entry)| match uid {
            Some(uid) => uid.as_str() == known.as_str(),
            None => entry.key.as_ref() == Some(key),
        });
        let gone: Vec<String> = gone.map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.remove(&uid);
        }
    }

    fn remove(&mut self, uid: &str) {
        self.busy();
        if let Some(entry) = self.pods.get(uid) {
            entry.desired.send_modify(|desired| desired.want = Desired::Removed(desired.pod().cloned()));
        }
        self.begin(uid);
    }

    /// A worker ends when its Pod is forgotten. One that broke is started again.
    fn on_ended(&mut self, uid: &str) {
        let Some(entry) = self.pods.get(uid) else { return };
        if matches!(entry.desired.borrow().want, Desired::Removed(_)) {
            let was = entry.origin;
            self.pods.remove(uid);
            self.seen.remove(uid);
            self.weigh_classes();
            if was == Origin::File {
                self.on_static_pods();
            }
        } else {
            self.start_worker(uid);
        }
    }

    fn on_ask(&mut self, ask: Ask) {
        match ask {
            Ask::Pods(answer) => {
                let kept = |entry: &Entry| {
                    let pod = entry.desired.borrow().pod()?.clone();
                    let (life, is_evicted) = (*entry.life.borrow(), entry.care.borrow().evicted.is_some());
                    Some(Kept { pod, life, is_evicted })
                };
                // Who asked may have gone.
                let _ = answer.send(self.pods.values().filter_map(kept).collect());
            }
            Ask::Evict(uid, eviction) => {
                if let Some(entry) = self.pods.get(&uid) {
                    entry.care.send_modify(|care| {
                        care.evicted.get_or_insert(Arc::new(eviction));
                    });
                }
                self.busy();
            }
            Ask::Strip => {
                let has_ended = |entry: &&Entry| matches!(*entry.life.borrow(), Life::Ending | Life::Over);
                for entry in self.pods.values().filter(has_ended) {
                    entry.care.send_modify(|care| care.strip = true);
                }
            }
            Ask::Short(pressures) => self.pressures = pressures,
        }
    }

    fn on_addresses(&mut self) {
        let host_ips = self.host_ips.borrow_and_update().clone();
        self.facts.send_modify(|facts| facts.host_ips = host_ips);
        for entry in self.pods.values() {
            entry.wake.notify_one();
        }
    }

    /// Statuses say how the devices are.
    fn on_devices(&mut self) {
        for uid in self.shared.hands.devices.holders() {
            self.wake(&uid);
        }
    }

    async fn on_look(&mut self) {
        if let Ok(listings) = self.shared.observer.look().await {
            self.compare(&listings);
            if self.events.is_none() && !std::mem::replace(&mut self.has_looked, true) {
                // Asked once after the first look: a runtime without events never gets any.
                self.events = self.shared.hands.runtime.events().await.ok().flatten();
            }
            if *self.store_is_full.borrow() && !std::mem::replace(&mut self.directories_adopted, true) {
                self.adopt_directories().await;
            }
        }
        let now = Instant::now();
        let wait = if now < self.busy_until { BUSY } else { QUIET };
        self.look_at = now + wait;
    }

    /// Wakes the workers of pods that changed, and gives pods that nobody asks for a worker that removes them.
    fn compare(&mut self, listings: &Listings) {
        for (uid, listing) in listings.iter() {
            let fingerprint = listing.fingerprint();
            if self.seen.get(uid) == Some(&fingerprint) {
                continue;
            }
            let is_known = self.pods.contains_key(uid);
            // The folder of static pods is whole, whatever the store is.
            let is_static = listing.sandboxes.iter().any(|one| {
                one.annotations.get(static_pods::SOURCE).is_some_and(|from| from == static_pods::FROM_FILE)
            });
            if !is_known && !is_static && !*self.store_is_full.borrow() {
                continue;
            }
            self.seen.insert(uid.clone(), fingerprint);
            self.busy();
            if is_known {
                self.wake(uid);
                continue;
            }
            let labels = listing
                .sandboxes
                .first()
                .map(|sandbox| &sandbox.labels)
                .or(listing.containers.first().map(|container| &container.labels));
            let label = |key: &str| labels.and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
            tracing::info!(pod = %label(POD_NAME), namespace = %label(POD_NAMESPACE), uid = %uid, "a pod that the store does not have is removed");
            self.add_orphan(uid);
        }
        let gone: Vec<String> =
            self.seen.keys().filter(|uid| !listings.contains_key(*uid)).cloned().collect();
        for uid in gone {
            self.seen.remove(&uid);
            self.wake(&uid);
        }
    }

    /// Directories and devices of pods of which neither the store nor the runtime knows anything: removed the same way.
    async fn adopt_directories(&mut self) {
        let mut uids = self.shared.hands.files.on_disk().await;
        uids.extend(self.shared.hands.devices.holders());
        for uid in uids {
            if !self.pods.contains_key(&uid) {
                self.add_orphan(&uid);
            }
        }
    }

    /// Burstable pods together weigh what they ask for, against best-effort ones and the rest of the machine.
    fn weigh_classes(&self) {
        let Some(cgroups) = &self.shared.hands.cgroups else { return };
        let asked = self.pods.values().filter_map(|entry| {
            let desired = entry.desired.borrow();
            let pod = desired.pod().filter(|pod| qos(pod) == Qos::Burstable)?;
            Some(pod_request(pod, "cpu").millis())
        });
        if let Err(error) = cgroups.ensure_classes(asked.fold(0, i64::saturating_add)) {
            tracing::warn!(%error, "the cgroups of the pod classes are not as they should be");
        }
    }

    fn add_orphan(&mut self, uid: &str) {
        let wanted = DesiredPod { want: Desired::Removed(None), hashes: BTreeMap::new() };
        self.pods.insert(uid.to_owned(), Entry::new(wanted, BTreeSet::new(), None));
        self.start_worker(uid);
    }

    /// An entry for a Pod of this machine; `None` for one that is not ours or that has no usable names.
    fn entry(&self, pod: &Arc<Pod>) -> Option<(String, Entry)> {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if node != Some(self.shared.hands.settings.node_name.as_str()) {
            return None;
        }
        let uid = pod.metadata.uid.clone()?;
        let key = pod_key(pod);
        if key.is_none() {
            tracing::warn!(%uid, "a pod has no usable namespace and name and is not run");
        }
        let key = Some(key?);
        Some((uid, Entry::new(desired(pod.clone()), uses(pod), key)))
    }

    fn start_worker(&mut self, uid: &str) {
        let Some(entry) = self.pods.get_mut(uid).filter(|entry| self.met && !entry.is_held) else { return };
        // One waiting word is enough: it makes the worker look at everything that changed.
        let (config_changed, changes) = mpsc::channel(1);
        entry.config_changed = config_changed;
        let desired = entry.desired.subscribe();
        let (life, seen) = watch::channel(Life::default());
        entry.life = seen;
        let care = entry.care.subscribe();
        if let Desired::Run(pod) = &desired.borrow().want {
            self.shared.room.expect(uid, pod);
        }
        let subject = desired.borrow().pod().map_or_else(
            || Subject { namespace: String::new(), name: String::new(), uid: uid.to_owned() },
            |pod| Subject {
                namespace: pod.metadata.namespace.clone().unwrap_or_default(),
                name: pod.metadata.name.clone().unwrap_or_default(),
                uid: uid.to_owned(),
            },
        );
        let worker = Worker {
            shared: self.shared.clone(),
            ears: Ears { desired, wake: entry.wake.clone(), care, life, config_changed: changes },
            uid: uid.to_owned(),
            recorder: Recorder::new(&self.shared.hands.settings.node_name, subject),
            memory: Memory::default(),
            arrival: Arrival {
                origin: entry.origin,
                refusal: entry.refusal.clone(),
                has_ended: Arc::clone(&entry.has_ended),
            },
        };
        let uid = uid.to_owned();
        self.workers.spawn(async move {
            worker.run().await;
            uid
        });
    }

    fn wake(&mut self, uid: &str) {
        if let Some(entry) = self.pods.get(uid) {
            entry.wake.notify_one();
        }
    }

    fn busy(&mut self) {
        let now = Instant::now();
        self.busy_until = now + BUSY_FOR;
        self.look_at = self.look_at.min(now + BUSY);
    }
}

/// Waits for a runtime that starts after edgecore, as is normal at boot; gives its name.
async fn meet_runtime(runtime: Arc<dyn Runtime>) -> String {
    let mut wait = BUSY;
    loop {
        match runtime.version().await {
            Ok(version) => return version.runtime_name,
            Err(error) if wait == BUSY => {
                tracing::warn!(%error, "the container runtime does not answer yet; pods wait for it");
            }
            Err(_) => {}
        }
        tokio::time::sleep(wait).await;
        wait = wait.saturating_mul(2).min(Duration::from_secs(5));
    }
}

impl Entry {
    fn new(wanted: DesiredPod, uses: BTreeSet<ObjectKey>, key: Option<ObjectKey>) -> Self {
        // Replaced when the worker starts.
        let (config_changed, _) = mpsc::channel(1);
        Self {
            desired: watch::Sender::new(wanted),
            wake: Arc::default(),
            config_changed,
            care: watch::Sender::default(),
            life: watch::channel(Life::default()).1,
            uses,
            key,
            origin: Origin::Cloud,
            refusal: None,
            is_held: false,
            has_ended: Arc::default(),
        }
    }
}

/// What the store's Pod asks for.
fn desired(pod: Arc<Pod>) -> DesiredPod {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| inits(spec).iter().chain(&spec.containers));
    let hashes = containers.map(|c| (c.name.clone(), spec_hash_text(c))).collect();
    let want = match pod.metadata.deletion_timestamp {
        Some(_) => Desired::Terminate(pod),
        None => Desired::Run(pod),
    };
    DesiredPod { want, hashes }
}

fn pod_key(pod: &Pod) -> Option<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref()?.parse().ok()?;
    let name = pod.metadata.name.as_deref()?.parse().ok()?;
    Some(ObjectKey::namespaced(Kind::Pod, namespace, name))
}

/// The ConfigMaps and Secrets that a Pod's volumes, environment and image pulls name.
fn uses(pod: &Pod) -> BTreeSet<ObjectKey> {
    let mut names: Vec<(Kind, &str)> = Vec::new();
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    for volume in spec.volumes.iter().flatten() {
        names.extend(volume.config_map.iter().map(|v| (Kind::ConfigMap, v.name.as_str())));
        names.extend(volume.secret.iter().filter_map(|v| Some((Kind::Secret, v.secret_name.as_deref()?))));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            names.extend(source.config_map.iter().map(|v| (Kind::ConfigMap, v.name.as_str())));
            names.extend(source.secret.iter().map(|v| (Kind::Secret, v.name.as_str())));
        }
    }
    let ephemerals = spec.ephemeral_containers.iter().flatten().map(|one| (&one.env, &one.env_from));
    let containers = inits(spec).iter().chain(&spec.containers).map(|one| (&one.env, &one.env_from));
    for (env, env_from) in containers.chain(ephemerals) {
        for from in env_from.iter().flatten() {
            names.extend(from.config_map_ref.iter().map(|r| (Kind::ConfigMap, r.name.as_str())));
            names.extend(from.secret_ref.iter().map(|r| (Kind::Secret, r.name.as_str())));
        }
        for source in env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            names.extend(source.config_map_key_ref.iter().map(|r| (Kind::ConfigMap, r.name.as_str())));
            names.extend(source.secret_key_ref.iter().map(|r| (Kind::Secret, r.name.as_str())));
        }
    }
    names.extend(spec.image_pull_secrets.iter().flatten().map(|r| (Kind::Secret, r.name.as_str())));
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let key = |(kind, name): (Kind, &str)| {
        Some(ObjectKey::namespaced(kind, namespace.parse().ok()?, name.parse().ok()?))
    };
    names.into_iter().filter_map(key).collect()
}

#[cfg(test)]
mod tests;
