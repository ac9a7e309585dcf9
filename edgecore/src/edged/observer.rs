//! One look at everything the runtime lists, shared by all who ask at the same time.
//!
//! Many pods that start together would otherwise list everything many times. Every look starts after it was asked for,
//! so that who has just done something sees it. Decides nothing. Asked by `worker.rs` and `looking.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;

use ke_cri::v1;
use tokio::sync::{mpsc, oneshot};

use super::container::POD_UID;
use super::cri::{Runtime, RuntimeError};

/// What the runtime lists of one Pod.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    pub(super) sandboxes: Vec<v1::PodSandbox>,
    pub(super) containers: Vec<v1::Container>,
}

impl Listing {
    /// Changes when something of the Pod came, went or changed its state.
    pub(super) fn fingerprint(&self) -> Vec<(String, i32)> {
        let sandboxes = self.sandboxes.iter().map(|sandbox| (sandbox.id.clone(), sandbox.state));
        let containers = self.containers.iter().map(|container| (container.id.clone(), container.state));
        let mut all: Vec<_> = sandboxes.chain(containers).collect();
        all.sort();
        all
    }
}

/// By Pod uid. Things without a Pod's labels are not ours and do not appear.
pub(super) type Listings = Arc<BTreeMap<String, Listing>>;

type Answer = oneshot::Sender<Result<Listings, RuntimeError>>;

/// Asks for looks. Cloneable.
#[derive(Clone)]
pub(super) struct Observer(mpsc::Sender<Answer>);

impl Observer {
    /// An observer and the work behind it, to be spawned. It ends when the last observer is dropped.
    pub(super) fn new(runtime: Arc<dyn Runtime>) -> (Self, impl Future<Output = ()> + Send) {
        // Full: who asks waits; all in the queue get the same look.
        let (sender, asks) = mpsc::channel(256);
        (Self(sender), serve(runtime, asks))
    }

    /// A look that begins after this call.
    pub(super) async fn look(&self) -> Result<Listings, RuntimeError> {
        let stopped = || RuntimeError::Unavailable("edged is stopping".into());
        let (answer, look) = oneshot::channel();
        self.0.send(answer).await.map_err(|_| stopped())?;
        look.await.map_err(|_| stopped())?
    }
}

async fn serve(runtime: Arc<dyn Runtime>, mut asks: mpsc::Receiver<Answer>) {
    let mut away = false;
    while let Some(first) = asks.recv().await {
        let mut waiting = vec![first];
        while let Ok(more) = asks.try_recv() {
            waiting.push(more);
        }
        let look = look(&*runtime).await;
        // Said once when it goes and once when it is back, however many pods ask meanwhile.
        match &look {
            Err(error) if !away => {
                away = true;
                tracing::warn!(%error, "the container runtime does not answer; pods are left as they are until it does");
            }
            Ok(_) if away => {
                away = false;
                tracing::info!("the container runtime answers again");
            }
            _ => {}
        }
        for answer in waiting {
            let _ = answer.send(look.clone());
        }
    }
}

async fn look(runtime: &dyn Runtime) -> Result<Listings, RuntimeError> {
    // Sandboxes first: a container that appears in between then has its sandbox in the list.
    let sandboxes = runtime.list_sandboxes().await?;
    let containers = runtime.list_containers().await?;
    let mut pods: BTreeMap<String, Listing> = BTreeMap::new();
    for sandbox in sandboxes {
        if let Some(uid) = sandbox.labels.get(POD_UID) {
            pods.entry(uid.clone()).or_default().sandboxes.push(sandbox);
        }
    }
    for container in containers {
        if let Some(uid) = container.labels.get(POD_UID) {
            pods.entry(uid.clone()).or_default().containers.push(container);
        }
    }
    Ok(Arc::new(pods))
}
