//! What Edged knows of the pods of this machine. Does nothing itself; the files beside it are what it does.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use k8s_openapi::api::core::v1::Pod;
use ke_wire::{ObjectKey, Uid};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::admission::{Refusal, refused};
use super::cri::Events;
use super::desired::{Desired, DesiredPod, desired};
use super::door::{Door, Origin};
use super::evicted::{Care, Life};
use super::hold_upgrade::as_released;
use super::keeper::{Ask, Keeper};
use super::observer::Listings;
use super::periods::Period;
use super::preemption::waiting::Waiting;
use super::pressure::Pressures;
use super::status::Facts;
use super::worker::Shared;
use crate::meta_manager::News;

/// Runs this machine's pods.
pub struct Edged {
    pub(super) shared: Arc<Shared>,
    pub(super) facts: watch::Sender<Facts>,
    pub(super) host_ips: watch::Receiver<Vec<IpAddr>>,
    pub(super) device_changes: watch::Receiver<u64>,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) pods: HashMap<Uid, Entry>,
    pub(super) door: Door,
    /// The folder of static pods was read once, and its pods are among ours.
    pub(super) knows_statics: bool,
    /// Pods in the cloud that show static ones.
    pub(super) mirrors: BTreeMap<ObjectKey, Arc<Pod>>,
    /// Workers, the observer, and reports on their way.
    pub(super) tasks: JoinSet<()>,
    /// Whose worker a task is, by the Pod's uid.
    pub(super) workers: HashMap<Id, Uid>,
    pub(super) seen: BTreeMap<Uid, Vec<(String, i32)>>,
    pub(super) events: Option<Events>,
    pub(super) observer_work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pub(super) look_at: Instant,
    /// A look under way: a runtime that hangs must not hold up everything else.
    pub(super) look: Option<Look>,
    pub(super) busy_until: Instant,
    pub(super) store_is_full: watch::Receiver<bool>,
    /// While the machine goes down: the pods that were told to end, by uid.
    pub(super) going_down: Option<BTreeMap<Uid, Period>>,
    pub(super) has_looked: bool,
    pub(super) directories_adopted: bool,
    /// The runtime has answered once.
    pub(super) met: bool,
    pub(super) keeper: Keeper,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) pressures: Pressures,
    pub(super) waiting: Waiting,
}

/// What a look shows; and where the runtime's events were asked for with it, those, if it has any.
pub(super) type Seen = (Listings, Option<Option<Events>>);

/// A look; `None` comes of it when the runtime is away.
pub(super) type Look = Pin<Box<dyn Future<Output = Option<Seen>> + Send>>;

/// One Pod with its worker.
pub(super) struct Entry {
    pub(super) desired: watch::Sender<DesiredPod>,
    pub(super) wake: Arc<Notify>,
    pub(super) config_changed: mpsc::Sender<()>,
    pub(super) care: watch::Sender<Care>,
    pub(super) life: watch::Receiver<Life>,
    /// ConfigMaps and Secrets that it uses.
    pub(super) uses: BTreeSet<ObjectKey>,
    pub(super) key: Option<ObjectKey>,
    pub(super) origin: Origin,
    /// It is not run.
    pub(super) refusal: Option<Refusal>,
    /// It waits for its release: no worker yet.
    pub(super) is_held: bool,
    /// It is over, as its worker told.
    pub(super) has_ended: Arc<AtomicBool>,
}

impl Entry {
    pub(super) fn new(wanted: DesiredPod, uses: BTreeSet<ObjectKey>, key: Option<ObjectKey>) -> Self {
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

    pub(super) fn is_removed(&self) -> bool {
        matches!(self.desired.borrow().want, Desired::Removed(_))
    }

    /// The Pod's new version. One that was refused stays refused, even while the cloud does not know it yet.
    pub(super) fn change(&self, pod: &Arc<Pod>) {
        let has_ended =
            |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed");
        let pod = match &self.refusal {
            Some(refusal) if !has_ended(pod) => Arc::new(refused(pod, refusal)),
            _ => Arc::clone(pod),
        };
        let pod = if self.is_held { pod } else { as_released(&pod) };
        self.desired.send_replace(desired(pod));
    }
}
