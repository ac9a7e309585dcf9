//! How Pods come to Edged: the channels that bring them, and what a worker has to know of how its own came. Words only;
//! `arrivals.rs` and `statics.rs` let them in.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::api::core::v1::PodStatus;
use tokio::sync::{mpsc, watch};

use super::admission::{Gate, Refusal};
use super::hold_upgrade::Release;
use crate::static_pods::{MirrorPairs, StaticSet};

/// What Edged needs for Pods that are new to it.
pub struct Door {
    /// Static pods of now; `None` while nobody knows.
    pub static_pods: watch::Receiver<Option<StaticSet>>,
    /// Where static pods and mirrors are shown to whoever makes mirrors.
    pub mirror_pairs: watch::Sender<MirrorPairs>,
    /// What this node takes.
    pub gate: Gate,
    /// Wishes to release held Pods.
    pub releases: mpsc::Receiver<Release>,
}

/// Where a Pod comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Origin {
    #[default]
    Cloud,
    File,
}

/// What a worker has to know of how its Pod came.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrival {
    pub(super) origin: Origin,
    pub(super) refusal: Option<Refusal>,
    /// Set when the Pod's phase says that it is over: it takes no room any more. The cloud does not send phases back.
    pub(super) has_ended: Arc<AtomicBool>,
}

impl Arrival {
    /// What the worker found out about the Pod.
    pub(super) fn note(&self, status: &PodStatus) {
        if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
            self.has_ended.store(true, Ordering::Relaxed);
        }
    }
}
