//! What a Pod's worker has: what all share, what it hears by, and what it remembers. Does nothing itself; the files beside it
//! are what it does.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use ke_wire::Uid;
use tokio::sync::{Notify, mpsc, watch};

use crate::edged::admission::Refusal;
use crate::edged::backoff::Backoffs;
use crate::edged::desired::DesiredPod;
use crate::edged::door::Arrival;
use crate::edged::events::Recorder;
use crate::edged::evicted::{Care, Eviction, Life};
use crate::edged::hands::Hands;
use crate::edged::hooks::Done;
use crate::edged::inspector::Inspector;
use crate::edged::observed::{StartFailure, Volumes};
use crate::edged::observer::Observer;
use crate::edged::plan::Action;
use crate::edged::probes::{ProbeCounts, Probes};
use crate::edged::resize::{Resizer, Room};
use crate::edged::status::Facts;
use crate::edged::told::Told;
use crate::report_queue::Reports;
use crate::static_pods::MirrorPairs;

/// What all workers share.
pub(in crate::edged) struct Shared {
    pub(in crate::edged) hands: Hands,
    pub(in crate::edged) observer: Observer,
    pub(in crate::edged) reports: Reports,
    pub(in crate::edged) facts: watch::Receiver<Facts>,
    pub(in crate::edged) probe_counts: ProbeCounts,
    pub(in crate::edged) room: Room,
    /// Under which uid the cloud knows a static pod.
    pub(in crate::edged) mirror_pairs: watch::Receiver<MirrorPairs>,
}

/// What the worker hears from outside.
pub(in crate::edged) struct Ears {
    /// What the store says; the newest only.
    pub(in crate::edged) desired: watch::Receiver<DesiredPod>,
    /// Something in the runtime changed, or a file that the Pod uses.
    pub(in crate::edged) wake: Arc<Notify>,
    /// What else is to be done about the Pod.
    pub(in crate::edged) care: watch::Receiver<Care>,
    /// How far it is, told to whoever wants to know.
    pub(in crate::edged) life: watch::Sender<Life>,
    /// A ConfigMap or Secret that the Pod uses changed. Full (one waits already): both are served by one look.
    pub(in crate::edged) config_changed: mpsc::Receiver<()>,
}

/// One Pod's worker.
pub(in crate::edged) struct Worker {
    pub(in crate::edged) shared: Arc<Shared>,
    pub(in crate::edged) ears: Ears,
    pub(in crate::edged) uid: Uid,
    pub(in crate::edged) recorder: Recorder,
    pub(in crate::edged) memory: Memory,
    pub(in crate::edged) arrival: Arrival,
}

/// What this process remembers of the Pod. Losing it costs calls, never correctness.
#[derive(Default)]
pub(in crate::edged) struct Memory {
    pub(super) inspector: Inspector,
    /// Where the Pod is reached; none while it has no sandbox that is ready.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) probes: Probes,
    pub(super) volumes: Volumes,
    pub(super) refresh_at: Option<Timestamp>,
    /// Labels and annotations that the mounted files were written from, as a hash.
    pub(super) written_from: u64,
    pub(super) backoffs: Backoffs,
    pub(super) failures: BTreeMap<String, StartFailure>,
    pub(super) hold: Option<Timestamp>,
    pub(super) n_failed: u32,
    /// How often in a row its files could not be brought up to date while it ran.
    pub(super) n_stale: u32,
    pub(super) cleaned: bool,
    pub(super) gone_reported: bool,
    /// Whether the Pod has the devices that it asks for.
    pub(super) admission: Admission,
    pub(super) told: Told,
    /// Uid under which it was told last; a static pod's mirror may be made anew.
    pub(super) told_as: Option<Uid>,
    pub(super) resizer: Resizer,
    /// Containers whose preStop hook has ended.
    pub(super) hooks_done: Done,
    pub(super) forgotten: bool,
    pub(super) evicted: Option<Arc<Eviction>>,
    /// What the last step did.
    pub(super) did: Option<Vec<Action>>,
}

/// What became of a Pod's devices in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Admission {
    #[default]
    NotAsked,
    Admitted,
    Refused(Refusal),
}

/// What of a running Pod may change under files that are mounted: `downwardAPI` shows labels and annotations.
pub(super) fn tags_of(pod: &Pod) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&pod.metadata.labels, &pod.metadata.annotations).hash(&mut hasher);
    hasher.finish()
}
