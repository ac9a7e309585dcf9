//! Edged: runs this machine's pods through its container runtime.
//!
//! [`Edged::run`] hears what the store says and what the runtime shows, and keeps one worker for each Pod. It never talks
//! to the cloud (that is `report_queue`), never reads the store (that is `meta_manager`), and decides nothing about
//! containers (that is `plan.rs`).
//!
//! The way of a Pod from the cloud to its containers: here its `News` comes in, `arrivals.rs` lets the Pod in,
//! `workers.rs` starts its worker, `worker.rs` takes it step by step through `plan.rs` (which decides) and `hands.rs` (which
//! calls the runtime, `cri.rs`); `status.rs` and `worker/telling.rs` lead back up.
//!
//! The files take from below only. At the bottom stand words: `pod_spec.rs`, `desired.rs`, `failure_reason.rs`, `observed.rs`, `verdict.rs`. On
//! them stand decisions, which are pure: `admission`, `outcome.rs`, `plan.rs`, `status.rs`, `resize`. On these stand those
//! who do it: `hands.rs`, `hooks.rs`, `probes`; then a Pod's worker, what Edged knows (`state.rs`) and does, and this file.

pub mod admission;
mod arrivals;
mod asked;
pub mod backoff;
pub mod cgroups;
mod config_error;
pub mod container;
pub mod cri;
pub mod cri_fake;
pub mod desired;
mod devices;
mod door;
pub mod env;
mod events;
pub mod evicted;
pub mod expand;
pub mod failure_reason;
pub mod fields;
mod hands;
pub mod hold_upgrade;
mod hooks;
pub mod image_folder;
pub mod image_gc;
mod image_volumes;
pub mod images;
mod inspector;
pub mod keeper;
mod termination_message;
pub mod remove_pods;
pub mod log_links;
pub mod log_rotation;
pub mod logs;
mod looking;
pub mod node_shutdown;
pub mod observed;
mod observer;
pub mod outcome;
pub mod periods;
pub mod plan;
mod pod_files;
pub mod pod_spec;
pub mod pods_room;
mod pods_slice;
mod preemption;
pub mod pressure;
pub mod probes;
pub mod pull_secrets;
mod read_only;
pub mod resize;
pub mod resources;
mod runtime_handler;
pub mod sandbox;
pub mod security;
mod service_env;
pub mod sources;
mod state;
mod statics;
pub mod status;
mod told;
mod unsupported;
mod user_namespace;
pub mod verdict;
pub mod volumes;
mod worker;
mod workers;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use ke_run::shutdown::Shutdown;
use ke_wire::{ObjectKey, Uid};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use self::cgroups::PodCgroups;
pub use self::cgroups::{CgroupName, Driver, Layout};
pub use self::container::{CONTAINER_NAME, OUR_HASH, POD_UID, runs_for};
#[cfg(test)]
pub(crate) use self::container::{POD_NAME, POD_NAMESPACE};
pub use self::cri::{CriClient, Runtime, RuntimeError};
pub use self::cri_fake::FakeRuntime;
pub use self::desired::{Desired, DesiredPod};
pub use self::devices::{Extras, NoDevices, PodDevices};
pub use self::door::Door;
use self::door::Origin;
pub(crate) use self::events::{Occurrence, Recorder, Severity};
pub use self::evicted::{Cause, Eviction, Life, is_critical, priority};
pub use self::hands::Settings;
use self::hands::{Hands, N_HEAVY};
use self::hold_upgrade::Release;
pub use self::hold_upgrade::{Holds, Which};
pub(crate) use self::image_folder::images as images_of_folder;
#[cfg(test)]
pub(crate) use self::image_folder::note_images;
pub use self::image_gc::{Disk, GcPolicy, ImageLedger};
use self::images::Images;
pub(crate) use self::keeper::Ask;
pub use self::keeper::{Keeper, Kept};
use self::looking::meet_runtime;
use self::observer::Observer;
pub use self::periods::{Period, periods};
pub use self::pod_files::{FilesError, IdRange, PodFiles};
pub use self::pod_spec::{RestartPolicy, inits, restart_policy};
use self::preemption::waiting::Waiting;
pub use self::pressure::Pressures;
pub use self::probes::ProbeCounts;
use self::resize::Room;
pub use self::resources::{Qos, pod_limit, pod_request};
pub use self::state::Edged;
use self::state::Seen;
use self::status::Facts;
use self::worker::Shared;
use crate::meta_manager::{News, Objects};
use crate::report_queue::Reports;

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

enum Event {
    News(Option<News>),
    Runtime(Result<String, RuntimeError>),
    RuntimeSilent,
    Ended(Id),
    Ask(Ask),
    Addresses,
    Devices,
    StaticPods,
    Release(Release),
    Look,
    Looked(Option<Seen>),
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
            mirror_pairs: parts.door.mirror_pairs.subscribe(),
        });
        let now = Instant::now();
        let (keeper, asks) = Keeper::channel();
        let mut edged = Self {
            shared,
            facts,
            host_ips: parts.host_ips,
            device_changes,
            news: parts.news,
            pods: HashMap::new(),
            door: parts.door,
            knows_statics: false,
            mirrors: BTreeMap::new(),
            tasks: JoinSet::new(),
            workers: HashMap::new(),
            seen: BTreeMap::new(),
            events: None,
            observer_work: Some(Box::pin(observer_work)),
            look_at: now,
            look: None,
            busy_until: now,
            store_is_full: parts.store_is_full,
            going_down: None,
            has_looked: false,
            directories_adopted: false,
            met: false,
            keeper,
            asks,
            pressures: Pressures::default(),
            waiting: Waiting::default(),
        };
        edged.put_all(parts.pods);
        edged
    }

    /// How many probes were made: for who serves the kubelet's `/metrics/probes`.
    #[must_use]
    pub fn probe_counts(&self) -> ProbeCounts {
        self.shared.probe_counts.clone()
    }

    /// For who keeps the machine in health, and who ends its pods when it goes down.
    #[must_use]
    pub fn keeper(&self) -> Keeper {
        self.keeper.clone()
    }

    /// Runs until it is told to stop. Containers go on: whoever starts edgecore again finds and adopts them.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), EdgedError> {
        if let Some(work) = self.observer_work.take() {
            self.tasks.spawn(work);
        }
        // Container ids in statuses carry the runtime's name: no worker starts before it is known. What MetaManager tells
        // meanwhile is kept, since it waits for us when the channel is full.
        let (runtime, observer) = (self.shared.hands.runtime.clone(), self.shared.observer.clone());
        let meeting = async {
            let name = meet_runtime(runtime).await;
            (name, observer.first_look().await)
        };
        tokio::pin!(meeting);
        let (runtime_name, listings) = loop {
            tokio::select! {
                met = &mut meeting => break met,
                () = shutdown.wait() => return Ok(()),
                news = self.news.recv() => match news {
                    Some(news) => self.on_news(news),
                    None => return Err(EdgedError::Deaf),
                },
                Some(ask) = self.asks.recv() => self.on_ask(ask),
            }
        };
        let host_ips = self.host_ips.borrow_and_update().clone();
        self.facts.send_replace(Facts { host_ips, runtime_name });
        self.adopt_statics(&listings);
        self.met = true;
        self.weigh_classes();
        let uids: Vec<Uid> = self.pods.keys().cloned().collect();
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
                Event::Ended(task) => self.on_ended(task),
                Event::Ask(ask) => self.on_ask(ask),
                Event::Addresses => self.on_addresses(),
                Event::Devices => self.on_devices(),
                Event::StaticPods => {
                    self.busy();
                    self.on_folder().await;
                }
                Event::Release(release) => self.on_release(release),
                Event::Look => self.look = Some(self.begin_look()),
                Event::Looked(seen) => self.on_looked(seen).await,
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
        let is_looking = self.look.is_some();
        let looked = async {
            match &mut self.look {
                Some(look) => look.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.wait() => Event::Stop,
            news = self.news.recv() => Event::News(news),
            event = runtime_event => event,
            Some(ended) = self.tasks.join_next_with_id() => Event::Ended(match ended {
                Ok((task, ())) => task,
                Err(error) => error.id(),
            }),
            Some(ask) = self.asks.recv() => Event::Ask(ask),
            Ok(()) = self.host_ips.changed() => Event::Addresses,
            Ok(()) = self.device_changes.changed() => Event::Devices,
            Ok(()) = self.door.static_pods.changed() => Event::StaticPods,
            Some(release) = self.door.releases.recv() => Event::Release(release),
            seen = looked => Event::Looked(seen),
            () = sleep_until(self.look_at), if !is_looking => Event::Look,
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

    fn on_pod_deleted(&mut self, key: &ObjectKey, uid: Option<&Uid>) {
        self.on_mirror_deleted(key, uid.map(Uid::as_str));
        let ours = self.pods.iter().filter(|(_, entry)| entry.origin == Origin::Cloud);
        let gone = ours.filter(|(known, entry)| match uid {
            Some(uid) => uid == *known,
            None => entry.key.as_ref() == Some(key),
        });
        let gone: Vec<Uid> = gone.map(|(uid, _)| uid.clone()).collect();
        for uid in gone {
            self.remove(&uid);
        }
    }

    pub(super) fn remove(&mut self, uid: &Uid) {
        self.busy();
        if let Some(entry) = self.pods.get(uid) {
            entry.desired.send_modify(|desired| desired.want = Desired::Removed(desired.pod().cloned()));
        }
        self.begin(uid);
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
}

#[cfg(test)]
mod tests;
