//! DeviceTwin: what each device of this node should be and is.
//!
//! MetaManager tells it of Devices and models, mappers report through the DMI, local programs over MQTT. What is said is
//! merged (`merge.rs`), on disk (`store.rs`), and then answered, published and reported; a burst shares one commit. Which
//! mapper must be told what is `catalogue.rs`'s and `delivery.rs`'s business. It never talks to a field bus.

mod catalogue;
mod delivery;
mod discovery;
mod dmi;
mod live;
mod mapper;
mod mapping;
pub mod merge;
mod payload;
mod presence;
mod record;
mod serving;
mod store;
mod twins;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ke_api::device::Device;
use ke_run::config::Within;
use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use ke_wire::{DeviceId, DeviceRef, MessageId, NodeName, ToldCondition};
use prometheus_client::metrics::counter::Counter;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::Status;

use crate::db::{Db, DbError};
use crate::edge_hub::handle::{Cloud, Membership};
use crate::event_bus::{Bus, Heard};
use crate::event_bus::{DeviceTopic, Topic};
use crate::meta_manager::DeviceNews;
use crate::report_queue::{DeviceReports, Limits, keep};
use catalogue::{Catalogue, Difference};
use dmi::{Ask, Named, Registration};
pub use live::{Live, live};
use mapper::Found;
use merge::Alphabet;
use presence::{Answers, Presence, Unserved};
use record::Registered;
use serving::{Served, until};
use twins::{Effects, Moment, TwinError, Twins};

/// Reports that share one commit at most.
const BATCH: usize = 512;
/// Devices that come one after the other are looked at together: does anybody serve them?
const LOOK: Duration = Duration::from_secs(1);

/// `modules.deviceTwin`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeviceTwinConfig {
    /// Whether this node has devices.
    pub enable: bool,
    /// Folder of the socket `dmi.sock` that mappers call; a path that ends in `.sock` means its folder.
    pub dmi_sock_path: PathBuf,
    /// Device reports kept while the cloud is away. 100 to 1,000,000; the oldest beyond are dropped and counted. 10,000 are
    /// about 4 MB on disk. Not in KubeEdge, which keeps none.
    pub max_kept_reports: Within<100, 1_000_000>,
    /// Age at which a kept report is dropped. Seconds, 60 to 31,536,000 (a year). Not in KubeEdge.
    pub max_kept_reports_age_secs: Within<60, 31_536_000>,
    /// Whether values from MQTT are limited to letters, digits and `-_.,:/@#`, 512 bytes, as on KubeEdge's nodes. Without,
    /// any text of at most 64 KiB. Not in KubeEdge.
    pub strict_mqtt_values: bool,
}

impl Default for DeviceTwinConfig {
    fn default() -> Self {
        Self {
            enable: true,
            dmi_sock_path: "/etc/kubeedge/dmi.sock".into(),
            max_kept_reports: Within::of::<10_000>(),
            max_kept_reports_age_secs: Within::of::<604_800>(),
            strict_mqtt_values: true,
        }
    }
}

/// The module cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DeviceTwinError {
    /// Mappers could not call.
    #[error("listen for mappers on {path}: {source}; see modules.deviceTwin.dmiSockPath")]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The store does not answer.
    #[error("read devices from the store: {0}")]
    Read(#[from] DbError),
}

/// What the module needs.
pub struct Parts {
    /// Its section of the configuration.
    pub config: DeviceTwinConfig,
    /// This node.
    pub node: NodeName,
    /// The store.
    pub db: Db,
    /// Stored models and Devices.
    pub held: Vec<DeviceNews>,
    /// What comes after those.
    pub news: mpsc::Receiver<DeviceNews>,
    /// Membership messages of the cloud.
    pub membership: mpsc::Receiver<Membership>,
    /// What MQTT clients say.
    pub heard: mpsc::Receiver<Heard>,
    /// Where results are published.
    pub bus: Bus,
    /// Told when a report is on disk.
    pub reports: DeviceReports,
    /// Told of what mappers find.
    pub cloud: Cloud,
    /// What it counts.
    pub counters: Counters,
}

/// What the module counts.
#[derive(Clone, Debug)]
pub struct Counters {
    reports: Counter,
    /// Reports that the cloud never gets.
    pub dropped: Counter,
}

impl Counters {
    /// Registers them.
    #[must_use]
    pub fn new(metrics: &mut Metrics) -> Self {
        Self {
            reports: metrics
                .counter("device_twin_reports", "Values and states reported by mappers and MQTT clients"),
            dropped: metrics
                .counter("device_twin_reports_dropped", "Device reports that the cloud never gets"),
        }
    }
}

/// The module. `run` it.
pub struct DeviceTwin {
    config: DeviceTwinConfig,
    db: Db,
    news: mpsc::Receiver<DeviceNews>,
    membership: mpsc::Receiver<Membership>,
    heard: mpsc::Receiver<Heard>,
    asks: mpsc::Receiver<Ask>,
    asking: mpsc::Sender<Ask>,
    bus: Bus,
    reports: DeviceReports,
    twins: Twins,
    catalogue: Catalogue,
    mappers: HashMap<String, Served>,
    cloud: Cloud,
    presence: Presence,
    /// What was last told of devices that nobody serves.
    unserved: BTreeMap<DeviceId, Unserved>,
    /// Devices that somebody reports on, over MQTT or without a registration: those lack no mapper.
    spoken_for: HashSet<DeviceId>,
    /// When the devices are looked at again.
    look: Option<Instant>,
    found: mpsc::Receiver<Found>,
    finding: mpsc::Sender<Found>,
    counters: Counters,
}

/// Something said about a device, and who waits until it is on disk.
enum Said {
    Heard(Heard),
    Report(Named, merge::Told, oneshot::Sender<Result<(), Status>>),
    State(Named, ToldCondition, String, oneshot::Sender<Result<(), Status>>),
}

enum Event {
    Said,
    News(DeviceNews),
    Membership(Membership),
    Register(Registration),
    Found(Found),
    Look,
    Stop,
}

impl DeviceTwin {
    /// Reads what an earlier run left.
    pub async fn new(parts: Parts) -> Result<Self, DeviceTwinError> {
        let Parts { config, node, db, held, news, membership, heard, bus, reports, cloud, counters } = parts;
        let alphabet = if config.strict_mqtt_values { Alphabet::KubeEdge } else { Alphabet::Open };
        let devices = db.call(|connection| store::all(connection)).await?;
        // Full: mappers' calls wait, as they wait for the disk.
        let (asking, asks) = mpsc::channel(BATCH);
        // Full: mappers' tasks find it out again a little later.
        let (finding, found) = mpsc::channel(16);
        let mut module = Self {
            twins: Twins::new(node.clone(), alphabet, devices),
            config,
            db,
            news,
            membership,
            heard,
            asks,
            asking,
            bus,
            reports,
            catalogue: Catalogue::default(),
            mappers: HashMap::new(),
            cloud,
            presence: Presence::new(node),
            unserved: BTreeMap::new(),
            spoken_for: HashSet::new(),
            look: Some(Instant::now()),
            found,
            finding,
            counters,
        };
        for news in held {
            module.on_news(news).await;
        }
        for mapper in module.db.call(|connection| store::mappers(connection)).await? {
            let protocol = mapper.protocol.clone();
            let held = module.db.call(move |connection| store::held(connection, &protocol)).await?;
            module.serve_mapper(&mapper, held, Answers::NotKnown);
        }
        Ok(module)
    }

    /// Runs until shutdown. Errors: the socket cannot be made.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), DeviceTwinError> {
        let path = dmi::socket_path(&self.config.dmi_sock_path);
        let listener = ke_dmi::socket::listen(&path)
            .map_err(|source| DeviceTwinError::Listen { path: path.clone(), source })?;
        tracing::info!(socket = %path.display(), "mappers may register");
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(dmi::serve(listener, self.asking.clone(), self.cloud.clone(), shutdown.clone()));
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let event = tokio::select! {
                () = shutdown.wait() => Event::Stop,
                Some(ask) = self.asks.recv() => self.sorted(ask, &mut batch),
                Some(heard) = self.heard.recv() => {
                    batch.push(Said::Heard(heard));
                    Event::Said
                }
                Some(news) = self.news.recv() => Event::News(news),
                Some(membership) = self.membership.recv() => Event::Membership(membership),
                Some(found) = self.found.recv() => Event::Found(found),
                () = until(self.look) => Event::Look,
            };
            match event {
                Event::Said => {
                    let registration = self.fill(&mut batch);
                    self.on_said(&mut batch).await;
                    if let Some(registration) = registration {
                        self.on_register(registration).await;
                    }
                }
                Event::News(news) => self.on_news(news).await,
                Event::Membership(membership) => self.on_membership(membership).await,
                Event::Register(registration) => self.on_register(registration).await,
                Event::Found(found) => self.on_found(found).await,
                Event::Look => self.on_look().await,
                Event::Stop => return Ok(()),
            }
        }
    }

    fn sorted(&self, ask: Ask, batch: &mut Vec<Said>) -> Event {
        match ask {
            Ask::Report { device, twin, reply } => batch.push(Said::Report(device, twin, reply)),
            Ask::State { device, state, why, reply } => batch.push(Said::State(device, state, why, reply)),
            Ask::Rival { mapper, reply } => {
                let is_rival = |other: &Registered| {
                    (other.protocol == mapper.protocol || other.name == mapper.name)
                        && other.address != mapper.address
                };
                let mut others = self.mappers.values().map(|served| &served.registered);
                // Nobody waits for it any more: nothing is lost.
                let _ = reply.send(Ok(others.find(|other| is_rival(other)).cloned()));
            }
            Ask::Register(registration) => return Event::Register(registration),
        }
        Event::Said
    }

    /// Whatever else is said already shares the commit; a registration ends the batch.
    fn fill(&mut self, batch: &mut Vec<Said>) -> Option<Registration> {
        while batch.len() < BATCH {
            if let Ok(heard) = self.heard.try_recv() {
                batch.push(Said::Heard(heard));
            } else if let Ok(ask) = self.asks.try_recv() {
                if let Event::Register(registration) = self.sorted(ask, batch) {
                    return Some(registration);
                }
            } else {
                break;
            }
        }
        None
    }

    async fn on_said(&mut self, batch: &mut Vec<Said>) {
        let mut effects = Vec::with_capacity(batch.len());
        let mut waiting = Vec::new();
        let mut kept = Vec::new();
        for said in batch.drain(..) {
            let at = moment();
            match said {
                Said::Heard(Heard { topic, payload, kept: told }) => {
                    if let Topic::Device(id, DeviceTopic::TwinUpdate | DeviceTopic::StateUpdate) = &topic {
                        self.note_spoken_for(id);
                    }
                    effects.push(self.twins.heard(&topic, &payload, &at));
                    kept.push(told);
                }
                Said::Report(device, twin, reply) => {
                    let done = self.named(&device).and_then(|id| {
                        self.note_spoken_for(&id);
                        self.twins.reported(&id, &twin, &at)
                    });
                    match done {
                        Ok(done) => {
                            effects.push(done);
                            waiting.push(reply);
                        }
                        Err(error) => drop(reply.send(Err(status(&device, &error)))),
                    }
                }
                Said::State(device, state, why, reply) => {
                    let done = self.named(&device).and_then(|id| {
                        // Its mapper's word stands until something else is found out.
                        self.unserved.remove(&id);
                        self.twins.state(&id, &at.event_id, &state, &why, &at)
                    });
                    match done {
                        Ok(done) => {
                            effects.push(done);
                            waiting.push(reply);
                        }
                        Err(error) => drop(reply.send(Err(status(&device, &error)))),
                    }
                }
            }
        }
        match self.settle(effects).await {
            Ok(()) => {
                for reply in waiting {
                    let _ = reply.send(Ok(()));
                }
                for told in kept {
                    let _ = told.send(());
                }
            }
            Err(error) => {
                tracing::error!(%error, "the store refused what devices reported");
                for reply in waiting {
                    let _ = reply
                        .send(Err(Status::unavailable(format!("the report could not be stored: {error}"))));
                }
                // Dropped without a word: the publisher gets no acknowledgement and sends again.
            }
        }
    }

    /// Stores what follows in one commit, then tells everybody.
    async fn settle(&mut self, effects: Vec<Effects>) -> Result<(), DbError> {
        let mut rows = Vec::new();
        let mut reports = Vec::new();
        let mut published: Vec<(Topic, Bytes)> = Vec::new();
        for one in effects {
            rows.extend(one.rows);
            reports.extend(one.report);
            published.extend(one.published);
        }
        let n_reports = reports.len();
        if !rows.is_empty() || n_reports > 0 {
            let limits = Limits {
                n_reports: self.config.max_kept_reports.to_u32(),
                age_secs: self.config.max_kept_reports_age_secs.to_u32(),
            };
            let now_ms = now_ms();
            let stored = self.db.call(move |connection| {
                let transaction = connection.transaction()?;
                for row in &rows {
                    store::keep(&transaction, row)?;
                }
                let n_dropped = keep(&transaction, &reports, limits, now_ms)?;
                transaction.commit()?;
                Ok(n_dropped)
            });
            match stored.await {
                Ok(n_dropped) => {
                    self.twins.keep();
                    if n_dropped > 0 {
                        self.counters.dropped.inc_by(u64::try_from(n_dropped).unwrap_or_default());
                        tracing::warn!(
                            n_dropped,
                            "more device reports wait for the cloud than modules.deviceTwin.maxKeptReports, or for longer \
                             than maxKeptReportsAgeSecs; the oldest are dropped"
                        );
                    }
                }
                Err(error) => {
                    self.twins.undo();
                    return Err(error);
                }
            }
        }
        if n_reports > 0 {
            self.counters.reports.inc_by(u64::try_from(n_reports).unwrap_or_default());
            self.reports.nudge();
        }
        for (topic, payload) in published {
            self.bus.publish(topic.to_string(), payload);
        }
        Ok(())
    }

    async fn on_news(&mut self, news: DeviceNews) {
        let at = moment();
        let (effects, differences) = match news {
            DeviceNews::Device(id, Some(device)) => {
                let description =
                    device.metadata.labels.as_ref().and_then(|labels| labels.get("description"));
                let mut effects = Vec::new();
                if let Some(before) = self.catalogue.device(&id) {
                    if before.metadata.uid == device.metadata.uid {
                        let gone =
                            property_names(before).difference(&property_names(&device)).cloned().collect();
                        effects.push(self.twins.forget(&id, gone));
                    } else {
                        // Deleted and made anew while nobody could say so.
                        effects.push(self.twins.remove(&id, &at));
                    }
                }
                effects.push(self.twins.add(&id, description.map_or("", String::as_str), &at));
                (effects, self.catalogue.set_device(&id, Some(device)))
            }
            DeviceNews::Device(id, None) => {
                self.unserved.remove(&id);
                self.spoken_for.remove(&id);
                (vec![self.twins.remove(&id, &at)], self.catalogue.set_device(&id, None))
            }
            DeviceNews::Model(id, model) => (Vec::new(), self.catalogue.set_model(&id, model)),
        };
        self.settle_own(effects).await;
        self.look.get_or_insert_with(|| Instant::now() + LOOK);
        for Difference { protocol, key, wanted } in differences {
            match self.mappers.get(&protocol) {
                // The task takes changes also while a call is under way: this waits for no mapper.
                Some(served) => drop(served.changes.send((key, wanted)).await),
                None => tracing::info!(protocol, ?key, "no mapper of this protocol has registered yet"),
            }
        }
    }

    async fn on_membership(&mut self, membership: Membership) {
        let at = moment();
        let (added, removed): (Vec<DeviceRef>, Vec<DeviceId>) = match membership {
            Membership::Changed { added, removed } => {
                (added, removed.into_iter().map(|device| device.id).collect())
            }
            Membership::All(devices) => {
                let is_here = |id: &DeviceId| devices.iter().any(|device| device.id == *id);
                let gone = self.twins.ids().into_iter().filter(|id| !is_here(id)).collect();
                (devices, gone)
            }
        };
        let mut effects: Vec<Effects> =
            added.iter().map(|device| self.twins.add(&device.id, &device.description, &at)).collect();
        effects.extend(removed.iter().map(|id| self.twins.remove(id, &at)));
        self.settle_own(effects).await;
    }

    /// For what comes from our own store or the cloud: nobody can be asked to say it again.
    async fn settle_own(&mut self, effects: Vec<Effects>) {
        if let Err(error) = self.settle(effects).await {
            tracing::error!(%error, "a device that came or went is not on disk; the next start or connection repairs it");
        }
    }

    fn named(&self, device: &Named) -> Result<DeviceId, TwinError> {
        if device.namespace.is_empty() {
            return self.twins.named(&device.name).ok_or(TwinError::Unknown);
        }
        match (device.namespace.parse(), device.name.parse()) {
            (Ok(namespace), Ok(name)) => Ok(DeviceId { namespace, name }),
            _ => Err(TwinError::Unknown),
        }
    }
}

fn status(device: &Named, error: &TwinError) -> Status {
    let Named { namespace, name } = device;
    match error {
        TwinError::Unknown | TwinError::UnknownToGet(_) => {
            Status::not_found(format!("device {namespace}/{name} is not on this node"))
        }
        error => Status::invalid_argument(format!("device {namespace}/{name}: {error}")),
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    i64::try_from(since).unwrap_or(i64::MAX)
}

fn property_names(device: &Device) -> BTreeSet<String> {
    device.spec.properties.iter().map(|property| property.name.clone()).collect()
}

fn moment() -> Moment {
    let now_ms = now_ms();
    let now =
        time::OffsetDateTime::from_unix_timestamp(now_ms / 1000).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let now_text = now.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
    Moment { now_ms, now_text, event_id: MessageId::fresh().to_string() }
}

#[cfg(test)]
mod tests;
