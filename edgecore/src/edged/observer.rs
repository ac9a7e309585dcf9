//! One look at everything the runtime lists, shared by all who ask at the same time.
//!
//! Many pods that start together would otherwise list everything many times. Every look starts after it was asked for,
//! so that who has just done something sees it. Decides nothing. Asked by `worker.rs` and `looking.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ke_cri::v1;
use ke_wire::Uid;
use tokio::sync::{mpsc, oneshot};

use super::container::POD_UID;
use super::cri::{Runtime, RuntimeError};

/// How soon a runtime that does not list yet is asked again.
const AGAIN: Duration = Duration::from_secs(1);

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

/// By Pod uid. Things without a Pod's labels are not ours and do not appear; nor does what has a label that is no uid: no
/// Pod that was taken on is called so.
pub(super) type Listings = Arc<BTreeMap<Uid, Listing>>;

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

    /// The first look that works.
    pub(super) async fn first_look(&self) -> Listings {
        loop {
            match self.look().await {
                Ok(listings) => return listings,
                // Said where looks are made.
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
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
    let mut nobodys = BTreeSet::new();
    while let Some(first) = asks.recv().await {
        let mut waiting = vec![first];
        while let Ok(more) = asks.try_recv() {
            waiting.push(more);
        }
        let look = look(&*runtime).await.map(|(listings, strange)| {
            // Said once, however often it is seen.
            for uid in strange.difference(&nobodys) {
                tracing::warn!(
                    ?uid,
                    "the runtime has a sandbox or container whose label {POD_UID} is no uid; it is left alone"
                );
            }
            nobodys = strange;
            listings
        });
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

/// What there is, and labels that are no uid.
type Look = (Listings, BTreeSet<String>);

async fn look(runtime: &dyn Runtime) -> Result<Look, RuntimeError> {
    // Sandboxes first: a container that appears in between then has its sandbox in the list.
    let sandboxes = runtime.list_sandboxes().await?;
    let containers = runtime.list_containers().await?;
    Ok(by_pod(sandboxes, containers))
}

fn by_pod(sandboxes: Vec<v1::PodSandbox>, containers: Vec<v1::Container>) -> Look {
    let mut pods: BTreeMap<Uid, Listing> = BTreeMap::new();
    let mut strange = BTreeSet::new();
    let mut uid_of = |labels: &HashMap<String, String>| {
        let text = labels.get(POD_UID)?;
        let uid = text.parse().ok();
        if uid.is_none() {
            strange.insert(text.clone());
        }
        uid
    };
    for sandbox in sandboxes {
        if let Some(uid) = uid_of(&sandbox.labels) {
            pods.entry(uid).or_default().sandboxes.push(sandbox);
        }
    }
    for container in containers {
        if let Some(uid) = uid_of(&container.labels) {
            pods.entry(uid).or_default().containers.push(container);
        }
    }
    (Arc::new(pods), strange)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nobodys_does_not_appear() {
        let labels = |uid: Option<&str>| {
            uid.map(|uid| (POD_UID.to_owned(), uid.to_owned())).into_iter().collect::<HashMap<_, _>>()
        };
        let sandbox = |id: &str, uid| v1::PodSandbox {
            id: id.into(),
            labels: labels(uid),
            ..v1::PodSandbox::default()
        };
        let container =
            |id: &str, uid| v1::Container { id: id.into(), labels: labels(uid), ..v1::Container::default() };
        let sandboxes = vec![sandbox("s1", Some("u1")), sandbox("s2", None), sandbox("s3", Some("../x"))];
        let containers = vec![
            container("c1", Some("u1")),
            container("c2", Some("u2")),
            container("c3", None),
            container("c4", Some("")),
        ];
        let (listings, strange) = by_pod(sandboxes, containers);
        let shown: Vec<(&str, usize, usize)> = listings
            .iter()
            .map(|(uid, listing)| (uid.as_str(), listing.sandboxes.len(), listing.containers.len()))
            .collect();
        assert_eq!(shown, [("u1", 1, 1), ("u2", 0, 1)]);
        assert_eq!(strange, ["".to_owned(), "../x".to_owned()].into());
    }
}
