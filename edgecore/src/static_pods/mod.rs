//! Static pods: Pods that lie as files in a folder of this machine (`staticPodPath`) and run with and without a cloud.
//!
//! [`StaticPods`] looks at the folder and says which Pods it holds now; Edged runs them like every other one. [`Mirrors`]
//! shows each of them to the cloud as a Pod of its own, the mirror, which is a picture only: whoever deletes it deletes
//! nothing here. The folder is the only truth about them, so nothing of them is kept in the store but their mirrors.

mod defaults;
mod file;
mod folder;
mod mirrors;
mod references;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use ke_run::shutdown::Shutdown;
use ke_wire::{NodeName, ObjectKey};
use tokio::sync::watch;

use self::folder::Folder;
pub use self::mirrors::{MirrorPairs, Mirrors};

/// Annotation of a static pod and of its mirror: where it comes from. Always [`FROM_FILE`] here.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// Where static pods come from.
pub const FROM_FILE: &str = "file";
/// Where all others do.
const FROM_API: &str = "api";
/// Annotation: the static pod's uid, which changes with the file's content.
pub const HASH: &str = "kubernetes.io/config.hash";
/// Annotation of a mirror: the uid of the static pod that it shows.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotation: when the file was last written.
const SEEN: &str = "kubernetes.io/config.seen";

/// How often the folder is looked at: one list of names and times. A file counts once two looks in a row saw it the same,
/// so that none is read while it is being written.
const LOOK: Duration = Duration::from_secs(1);

/// The static pods of now, by namespace and name.
pub type StaticSet = Arc<BTreeMap<ObjectKey, Arc<Pod>>>;

/// Keeps the set of static pods true to the folder.
pub struct StaticPods {
    folder: Option<Folder>,
    pods: watch::Sender<Option<StaticSet>>,
}

impl StaticPods {
    /// Reads the folder once, so that Edged starts with what is there: a static pod that it did not know would be taken for
    /// a stranger. `None`: it cannot be read yet, and nobody knows which pods are static. An empty path: no static pods.
    #[must_use]
    pub fn new(path: PathBuf, node: &NodeName) -> (watch::Receiver<Option<StaticSet>>, Self) {
        let mut folder = (!path.as_os_str().is_empty()).then(|| Folder::new(path, node.clone()));
        let first = folder.as_mut().map_or_else(|| Some(BTreeMap::new()), Folder::read_first);
        let (pods, seen) = watch::channel(first.map(Arc::new));
        (seen, Self { folder, pods })
    }

    /// Looks until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        let Some(mut folder) = self.folder.take() else {
            shutdown.wait().await;
            return Ok(());
        };
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = shutdown.wait() => return Ok(()),
            }
            // A folder may lie on a disk that hangs: not on the thread that serves everything else.
            let looked = tokio::task::spawn_blocking(move || {
                let changed = folder.look();
                (folder, changed)
            });
            let Ok((back, changed)) = looked.await else { return Ok(()) };
            folder = back;
            if let Some(pods) = changed {
                self.pods.send_replace(Some(Arc::new(pods)));
            }
        }
    }
}

/// Whether this Pod came from a file of this machine.
#[must_use]
pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE) == Some(FROM_FILE) && annotation(pod, MIRROR).is_none()
}

/// Whether this Pod is but the picture of a static one.
#[must_use]
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

/// The Pod with the uid under which the runtime knows it: a mirror's containers carry that of the static pod. For whoever
/// looks for containers or logs of a Pod from the store. Anybody who may make pods may write a mirror's annotation, with any
/// other pod's uid in it: it counts only where a static pod of this machine, of that name and that uid, stands behind it.
#[must_use]
pub fn as_run(pod: Arc<Pod>, static_pods: &StaticSet) -> Arc<Pod> {
    let Some(uid) = annotation(&pod, MIRROR) else { return pod };
    let behind = key_of(&pod).and_then(|key| static_pods.get(&key));
    let Some(uid) = behind.and_then(|behind| behind.metadata.uid.clone()).filter(|of| of == uid) else {
        return pod;
    };
    let mut pod = Arc::unwrap_or_clone(pod);
    pod.metadata.uid = Some(uid);
    Arc::new(pod)
}

/// A Pod of the store. Whoever writes into it that it came from a file gets none of a static pod's rights.
#[must_use]
pub fn as_from_api(mut pod: Arc<Pod>) -> Arc<Pod> {
    if annotation(&pod, SOURCE).is_some_and(|source| source != FROM_API)
        && let Some(annotations) = &mut Arc::make_mut(&mut pod).metadata.annotations
    {
        annotations.insert(SOURCE.to_owned(), FROM_API.to_owned());
    }
    pod
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// Namespace and name, where both are valid.
fn key_of(pod: &Pod) -> Option<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref()?.parse().ok()?;
    Some(ObjectKey::namespaced(ke_wire::Kind::Pod, namespace, pod.metadata.name.as_deref()?.parse().ok()?))
}
