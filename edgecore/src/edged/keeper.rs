//! Edged's handle for who keeps the machine: which pods are here, end this one or all of those, take no more of these.
//!
//! It only carries words. `eviction` and `node_shutdown.rs` hold it; `asked.rs` answers.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, oneshot};

use super::evicted::{Eviction, Life};
use super::periods::Period;
use super::pressure::Pressures;

/// One Pod of this machine.
#[derive(Clone, Debug)]
pub struct Kept {
    /// As the store has it.
    pub pod: Arc<Pod>,
    /// How far it is.
    pub life: Life,
    /// Whether it was evicted already.
    pub is_evicted: bool,
}

/// A word to edged.
pub(crate) enum Ask {
    Pods(oneshot::Sender<Vec<Kept>>),
    Evict(String, Eviction),
    Strip,
    Short(Pressures),
    EndGroup(EndGroup),
}

/// End the pods of this group, or say how many are left.
pub(crate) struct EndGroup {
    pub(crate) periods: Vec<Period>,
    pub(crate) group: usize,
    pub(crate) n_left: oneshot::Sender<usize>,
}

/// Talks to edged. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keeper(mpsc::Sender<Ask>);

impl Keeper {
    /// A handle and edged's end. Full: who asks waits until edged has time.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Ask>) {
        let (sender, receiver) = mpsc::channel(16);
        (Self(sender), receiver)
    }

    /// Every Pod of this machine; none when edged has stopped.
    pub async fn pods(&self) -> Vec<Kept> {
        let (answer, pods) = oneshot::channel();
        let _ = self.0.send(Ask::Pods(answer)).await;
        pods.await.unwrap_or_default()
    }

    /// Ends a Pod for good. Its status says why.
    pub async fn evict(&self, uid: &str, eviction: Eviction) {
        let _ = self.0.send(Ask::Evict(uid.to_owned(), eviction)).await;
    }

    /// Removes the dead containers of pods that have ended.
    pub async fn strip(&self) {
        let _ = self.0.send(Ask::Strip).await;
    }

    /// What the Node is short of from now on.
    pub async fn short_of(&self, pressures: Pressures) {
        let _ = self.0.send(Ask::Short(pressures)).await;
    }
    /// While the machine goes down: ends the pods of this group, and says how many are left. `None`: edged has stopped.
    pub(super) async fn n_left(&self, periods: &[Period], group: usize) -> Option<usize> {
        let (n_left, answer) = oneshot::channel();
        let ask = EndGroup { periods: periods.to_vec(), group, n_left };
        self.0.send(Ask::EndGroup(ask)).await.ok()?;
        answer.await.ok()
    }
}
