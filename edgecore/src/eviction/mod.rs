//! Keeps this Node from running out of memory, disk, inodes and process ids: images that nobody uses go, then pods.
//!
//! [`Evictor::run`] measures, lets the pure files decide (`judge.rs` what is short, `rank.rs` who goes, `limits.rs` who wrote more
//! than it may, `words.rs` what is said) and tells edged by its [`Keeper`]. It ends one pod at a time and waits until that one is
//! gone. It needs no cloud: edged keeps what it reports. It never touches a container itself. Started by `main.rs`; the Node says
//! by its `pressures` what it is short of.

mod images;
mod judge;
mod limits;
mod rank;
mod words;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use ke_run::shutdown::Shutdown;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use self::images::ImageCare;
use self::judge::{Judge, Seen, seen};
use self::rank::{Disks, Standing};
use crate::config::{Limit, Signal};
use crate::edged::{
    Cause, Disk, Eviction, GcPolicy, ImageLedger, Keeper, Kept, Life, Occurrence, Pressures, Recorder,
    Runtime, Severity, is_critical,
};
use crate::kubelet_server::Gauge;
use crate::kubelet_server::{Figures, NodeFigures};
use crate::report_queue::Reports;

/// How often the machine is looked at, as a kubelet does.
const LOOK: Duration = Duration::from_secs(10);
/// How often images are looked at, as a kubelet does.
const IMAGES: Duration = Duration::from_secs(300);
/// How long a pod that was evicted is waited for.
const GONE_WITHIN: Duration = Duration::from_secs(30);
const GONE_LOOK: Duration = Duration::from_millis(500);
/// How long the removal of dead containers may take before the disk is measured again.
const STRIPPED_WITHIN: Duration = Duration::from_secs(2);
/// Seconds that a pod has to end when nothing can wait.
const AT_ONCE_SECS: i64 = 1;

/// What the evictor needs.
pub struct Parts {
    /// Its thresholds.
    pub limits: Vec<Limit>,
    /// `evictionPressureTransitionPeriod`
    pub transition: Duration,
    /// `evictionMaxPodGracePeriod`
    pub max_grace_secs: i64,
    /// When images go.
    pub images: GcPolicy,
    /// `podSandboxImage`
    pub sandbox_image: String,
    /// Where image archives lie.
    pub image_folder: PathBuf,
    /// Of the Node.
    pub node_name: String,
    /// The container runtime.
    pub runtime: Arc<dyn Runtime>,
    /// Measures.
    pub gauge: Arc<Gauge>,
    /// Edged's handle.
    pub keeper: Keeper,
    /// Where events of the Node go.
    pub reports: Reports,
    /// Told what the Node is short of; `None` before the first look.
    pub pressures: watch::Sender<Option<Pressures>>,
}

/// The module.
pub struct Evictor {
    judge: Judge,
    images: ImageCare,
    max_grace_secs: i64,
    runtime: Arc<dyn Runtime>,
    gauge: Arc<Gauge>,
    keeper: Keeper,
    reports: Reports,
    recorder: Recorder,
    pressures: watch::Sender<Option<Pressures>>,
}

enum Due {
    Look,
    Images,
}

/// What one look led to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pass {
    /// Nothing is to be done before the next look.
    Calm,
    /// These pods end; the next look is due when they have.
    Evicted(Vec<String>),
}

impl Evictor {
    /// Nothing is looked at before `run`.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let images = ImageCare {
            runtime: Arc::clone(&parts.runtime),
            policy: parts.images,
            sandbox_image: parts.sandbox_image,
            folder: parts.image_folder,
            ledger: ImageLedger::default(),
        };
        Self {
            judge: Judge::new(parts.limits, parts.transition),
            images,
            max_grace_secs: parts.max_grace_secs,
            runtime: parts.runtime,
            gauge: parts.gauge,
            keeper: parts.keeper,
            reports: parts.reports,
            recorder: Recorder::of_node(&parts.node_name),
            pressures: parts.pressures,
        }
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), Infallible> {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut images = interval(IMAGES);
        images.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = tokio::select! {
                () = shutdown.wait() => return Ok(()),
                _ = look.tick() => Due::Look,
                _ = images.tick() => Due::Images,
            };
            let work = async {
                match due {
                    Due::Images => self.collect_images().await,
                    Due::Look => {
                        while let Pass::Evicted(uids) = self.pass().await {
                            self.wait_for_end(&uids).await;
                        }
                    }
                }
            };
            // Nothing here must come to an end: what is left is looked at anew by the next start.
            tokio::select! {
                () = shutdown.wait() => return Ok(()),
                () = work => {}
            }
        }
    }

    async fn pass(&mut self) -> Pass {
        let node = self.gauge.measure_node(&*self.runtime).await;
        let found = seen(&node);
        let verdict = self.judge.look(&found, Instant::now().into_std());
        self.tell(verdict.pressures).await;
        let pods: Vec<Kept> = self.keeper.pods().await.into_iter().filter(is_candidate).collect();
        let is_limited = pods.iter().any(|kept| limits::has_limits(&kept.pod));
        if verdict.starved.is_empty() && !is_limited {
            return Pass::Calm;
        }
        let figures = self.gauge.measure_all(&*self.runtime).await;
        if !figures.is_whole {
            // Of pods whose figures are missing nobody could say who is to blame.
            tracing::debug!("the container runtime does not answer: no pod is evicted now");
            return Pass::Calm;
        }
        let over = self.evict_beyond_limits(&pods, &figures).await;
        if !over.is_empty() {
            return Pass::Evicted(over);
        }
        match verdict.starved.first() {
            Some(limit) => self.relieve(limit, &found, &pods, &figures).await,
            None => Pass::Calm,
        }
    }

    async fn tell(&self, pressures: Pressures) {
        let is_news = self.pressures.send_if_modified(|known| known.replace(pressures) != Some(pressures));
        if is_news {
            self.keeper.short_of(pressures).await;
        }
    }

    async fn evict_beyond_limits(&self, pods: &[Kept], figures: &Figures) -> Vec<String> {
        let mut evicted = Vec::new();
        for kept in pods.iter().filter(|kept| !is_critical(&kept.pod)) {
            let uid = kept.pod.metadata.uid.clone().unwrap_or_default();
            let own = figures.pods.iter().find(|pod| pod.uid == uid);
            let Some(message) = own.and_then(|own| limits::beyond(&kept.pod, own, disks(&figures.node)))
            else {
                continue;
            };
            tracing::warn!(pod = %uid, %message, "a pod has written more than it may and is evicted");
            let eviction = Eviction { message, grace_secs: AT_ONCE_SECS, cause: Cause::Itself };
            self.keeper.evict(&uid, eviction).await;
            evicted.push(uid);
        }
        evicted
    }

    /// Something is short: what nobody needs goes first, then the pod that is first in the order.
    async fn relieve(&mut self, limit: &Limit, found: &Seen, pods: &[Kept], figures: &Figures) -> Pass {
        let resource = words::resource(limit.signal);
        self.say("EvictionThresholdMet", format!("Attempting to reclaim {resource}")).await;
        if self.reclaim(limit.signal, disks(&figures.node)).await {
            let node = self.gauge.measure_node(&*self.runtime).await;
            if !self.judge.is_short(&seen(&node)) {
                tracing::info!(resource, "removing what nobody needs was enough: no pod is evicted");
                return Pass::Calm;
            }
        }
        let own = |uid: &str| figures.pods.iter().find(|pod| pod.uid == uid);
        let evictable = pods.iter().filter(|kept| !is_critical(&kept.pod));
        let mut order: Vec<Standing> = evictable
            .map(|kept| {
                let uid = kept.pod.metadata.uid.as_deref().unwrap_or_default();
                rank::standing(&kept.pod, own(uid), limit.signal, disks(&figures.node))
            })
            .collect();
        rank::rank(&mut order, limit.signal);
        let first = order.first();
        let is_first = |kept: &&Kept| kept.pod.metadata.uid.as_deref() == first.map(|first| &*first.uid);
        let Some(kept) = pods.iter().find(is_first) else {
            tracing::warn!(resource, "the node is short and has no pod that could be evicted");
            return Pass::Calm;
        };
        let uid = kept.pod.metadata.uid.clone().unwrap_or_default();
        let message = words::low_on(limit, found, &kept.pod, own(&uid));
        tracing::warn!(pod = %uid, %message, "a pod is evicted");
        let grace_secs = if limit.grace.is_some() { self.max_grace_secs } else { AT_ONCE_SECS };
        self.keeper.evict(&uid, Eviction { message, grace_secs, cause: Cause::Shortage }).await;
        Pass::Evicted(vec![uid])
    }

    /// Removes dead containers and images where that may help. False: nothing of the kind is where the shortage is.
    async fn reclaim(&mut self, signal: Signal, disks: Disks) -> bool {
        let may_help = match (signal, disks) {
            (Signal::Memory | Signal::Pids, _) | (Signal::Disk | Signal::Inodes, Disks::Two) => false,
            (Signal::Disk | Signal::Inodes, Disks::One) | (Signal::ImageDisk | Signal::ImageInodes, _) => {
                true
            }
        };
        if !may_help {
            return false;
        }
        self.keeper.strip().await;
        let pods = self.keeper.pods().await;
        let is_ending = |kept: &Kept| kept.life == Life::Ending;
        let begun = Instant::now();
        // A word that every worker has heard shows as work to do, or as none.
        sleep(GONE_LOOK).await;
        while begun.elapsed() < STRIPPED_WITHIN && self.keeper.pods().await.iter().any(is_ending) {
            sleep(GONE_LOOK).await;
        }
        if let Err(error) = self.images.remove_unused(&pods).await {
            tracing::warn!(%error, "look for images that nobody uses");
        }
        true
    }

    async fn wait_for_end(&self, uids: &[String]) {
        let begun = Instant::now();
        while begun.elapsed() < GONE_WITHIN {
            sleep(GONE_LOOK).await;
            let pods = self.keeper.pods().await;
            let is_here = |kept: &Kept| {
                let uid = kept.pod.metadata.uid.as_deref().unwrap_or_default();
                kept.life != Life::Over && uids.iter().any(|waited| waited == uid)
            };
            if !pods.iter().any(is_here) {
                return;
            }
        }
        tracing::warn!(pods = ?uids, "evicted pods have not ended within {} s", GONE_WITHIN.as_secs());
    }

    async fn collect_images(&mut self) {
        let node = self.gauge.measure_node(&*self.runtime).await;
        let disk = node
            .image_disk
            .and_then(|disk| Some(Disk { capacity: disk.capacity_bytes?, available: disk.available_bytes? }));
        let pods = self.keeper.pods().await;
        match self.images.collect(disk, &pods).await {
            Ok(None) => {}
            Ok(Some(lacking)) => {
                let text = format!(
                    "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found {} \
                     bytes eligible to free.",
                    lacking.wanted, lacking.found
                );
                tracing::warn!("{text}");
                self.say("FreeDiskSpaceFailed", text).await;
            }
            // Told where the runtime is waited for.
            Err(error) => tracing::debug!(%error, "look for images that nobody uses"),
        }
    }

    async fn say(&mut self, reason: &str, message: String) {
        let severity = Severity::Warning;
        let occurrence = Occurrence { severity, reason: reason.into(), message, field: None };
        if let Some(report) = self.recorder.report(&occurrence, Timestamp::now()) {
            self.reports.send(report).await;
        }
    }
}

/// Pods of which something may run, and that are not on their way out for the same reason already.
fn is_candidate(kept: &Kept) -> bool {
    kept.life == Life::Active && !kept.is_evicted
}

fn disks(node: &NodeFigures) -> Disks {
    if node.has_image_disk { Disks::Two } else { Disks::One }
}

#[cfg(test)]
mod tests;
