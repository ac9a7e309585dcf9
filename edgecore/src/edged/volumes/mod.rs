//! Volumes of pods on this machine's disk, and the mounts that show them to containers.
//!
//! Directories, names and modes are the kubelet's, so that pods of a kubelet or a Go edgecore are taken over as they
//! are. Every call may be repeated, also after a kill at any point: what is there is looked at, nothing is remembered.
//! Never writes a Secret to a disk, never deletes through a mount, never follows a link out of a pod's directory.
//! Called by edged only.

mod atomic;
mod content;
mod disk;
mod host_path;
mod hosts;
mod layout;
mod mount_table;
mod mounts;
mod projected;
mod removal;
mod subpath;
mod user_ids;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use ke_cri::v1::Mount;
use ke_wire::Uid;

use self::content::Content;
use self::disk::Disk;
use self::layout::Layout;
use super::fields::PodFacts;
use super::pod_files::{FilesError, IdRange, PodFiles};
use super::sources::SourceError;
use crate::meta_manager::Objects;

pub use self::mount_table::{MountPoint, Mounter, SystemMounter};
pub use self::mounts::MountError;
pub(super) use self::mounts::{part as sub_path, propagation};

/// Why a pod's volumes are not ready: the message of the event `FailedMount`. Never holds data of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VolumeError {
    /// This node has no such volumes. Only another pod helps.
    #[error("volume \"{volume}\" is of type {kind}, which this node does not support")]
    Unsupported {
        /// Name in the pod.
        volume: String,
        /// The source's key in the pod's spec.
        kind: String,
    },
    /// A ConfigMap, a Secret or a key of one is not there. It may be made any moment.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {what}")]
    NotFound {
        /// Name in the pod.
        volume: String,
        /// Kubernetes' words.
        what: String,
    },
    /// Not held here and the cloud is away.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {what}")]
    Offline {
        /// Name in the pod.
        volume: String,
        /// What is not held.
        what: String,
    },
    /// The pod's wish cannot be met as this machine is now: wrong kind of file, bad path, lookup refused.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {what}")]
    Refused {
        /// Name in the pod.
        volume: String,
        /// Kubernetes' words where it has some.
        what: String,
    },
    /// The disk or the kernel said no.
    #[error("{0}")]
    Disk(String),
}

impl VolumeError {
    fn of_source(volume: &str, error: SourceError) -> Self {
        let volume = volume.to_owned();
        match error {
            SourceError::NotFound(what) => Self::NotFound { volume, what },
            SourceError::Offline(what) => Self::Offline { volume, what },
            SourceError::Refused(what) => Self::Refused { volume, what },
        }
    }

    fn refused(volume: &str, what: impl Into<String>) -> Self {
        Self::Refused { volume: volume.to_owned(), what: what.into() }
    }
}

/// What writing a pod's volumes came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prepared {
    /// A file that containers see is new or has changed.
    pub changed: bool,
    /// When a token among them wants to be renewed. May be in the past: the cloud was away.
    pub renew_at: Option<Timestamp>,
}

/// All pods' volumes below one directory.
#[derive(Clone)]
pub struct Volumes {
    disk: Arc<Disk>,
    turns: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
    objects: Arc<dyn Objects>,
}

/// Takes down every mount in the pods' directory and deletes it: for a machine that stops being a node. Gone already:
/// success. Blocks.
pub(super) fn remove_all(pods: &std::path::Path) -> std::io::Result<()> {
    removal::remove(pods, &SystemMounter)
}

impl Volumes {
    /// `root` is `rootDirectory` of the configuration, `/var/lib/kubelet` by default; pods lie in `root/pods`.
    #[must_use]
    pub fn new(root: PathBuf, objects: Arc<dyn Objects>) -> Self {
        Self::with_mounter(root, objects, Arc::new(SystemMounter))
    }

    /// The same with somebody else making the mounts.
    #[must_use]
    pub fn with_mounter(root: PathBuf, objects: Arc<dyn Objects>, mounter: Arc<dyn Mounter>) -> Self {
        Self { disk: Arc::new(Disk { layout: Layout::new(root), mounter }), turns: Arc::default(), objects }
    }

    /// Makes all volumes of a pod, or brings them up to date. All are tried; the first error is returned.
    pub async fn prepare(&self, pod: &Pod, facts: &PodFacts) -> Result<Prepared, VolumeError> {
        let mut contents = Vec::new();
        let mut first_error = None;
        let mut prepared = Prepared::default();
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        // Images lie with the runtime.
        for volume in volumes.filter(|volume| volume.image.is_none()) {
            match content::content(pod, volume, self.objects.as_ref(), facts).await {
                Ok(content) => contents.push((volume.name.clone(), content)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        prepared.renew_at = contents.iter().filter_map(|(_, content)| content.renew_at()).min();
        let (disk, uid) = (Arc::clone(&self.disk), pod.metadata.uid.clone().unwrap_or_default());
        let group = projected::fs_group(pod);
        let work = {
            let uid = uid.clone();
            move || apply(&disk, &uid, group, &contents)
        };
        let (changed, error) = self.in_turn(&uid, work).await?;
        prepared.changed = changed;
        first_error.or(error).map_or(Ok(prepared), Err)
    }

    /// What one start of `container` gets mounted: its volumes, the hosts file, a new termination message file.
    /// The pod's volumes must have been prepared. `env` are the container's variables, for `subPathExpr`.
    pub async fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        env: &[(String, String)],
        facts: &PodFacts,
    ) -> Result<Vec<Mount>, MountError> {
        let (disk, pod, container) = (Arc::clone(&self.disk), pod.clone(), container.clone());
        let (env, facts) = (env.to_vec(), facts.clone());
        let work = move || mounts::mounts(&disk, &pod, &container, &env, &facts);
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(MountError::Failed(format!("make mounts: {error}"))),
        }
    }

    /// The ids of the machine that a pod with users of its own has.
    pub async fn own_ids(&self, uid: &str) -> Result<IdRange, VolumeError> {
        let (disk, of) = (Arc::clone(&self.disk), uid.to_owned());
        // One after the other: two pods must not find the same ids free.
        self.in_turn(user_ids::FILE, move || user_ids::own_ids(&disk.layout, &of, &user_ids::space()?)).await
    }

    /// Takes a dead pod's mounts down and deletes its directory. Gone already: success.
    pub async fn tear_down(&self, uid: &Uid) -> Result<(), VolumeError> {
        let (disk, of) = (Arc::clone(&self.disk), uid.clone());
        self.in_turn(uid.as_str(), move || {
            let dir = disk.layout.pod(of.as_str()).map_err(VolumeError::Disk)?;
            removal::remove(dir.path(), disk.mounter.as_ref())
                .map_err(|error| VolumeError::Disk(format!("remove {}: {error}", dir.path().display())))
        })
        .await
    }

    /// Uids of the pods that have a directory here.
    pub async fn on_disk(&self) -> Result<Vec<Uid>, VolumeError> {
        let disk = Arc::clone(&self.disk);
        blocking(move || {
            disk.layout.pods().map_err(|error| VolumeError::Disk(format!("list pod directories: {error}")))
        })
        .await
    }

    /// Work on one pod's directory, one after the other: whoever waited for a write may have stopped waiting, the write goes
    /// on, and a removal beside it would leave a Secret's mount behind.
    async fn in_turn<T: Send + 'static>(
        &self,
        uid: &str,
        work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            // Those of pods that nobody works on are of no more use.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(uid.to_owned()).or_default())
        };
        let turn = turn.lock_owned().await;
        blocking(move || {
            let _turn = turn;
            work()
        })
        .await
    }
}

fn apply(
    disk: &Disk,
    uid: &str,
    group: Option<u32>,
    contents: &[(String, Content)],
) -> Result<(bool, Option<VolumeError>), VolumeError> {
    let dir = disk.layout.pod(uid).map_err(VolumeError::Disk)?;
    dir.create().map_err(|error| VolumeError::Disk(format!("make {}: {error}", dir.path().display())))?;
    let (mut changed, mut first_error) = (false, None);
    for (volume, content) in contents {
        match disk.write(&dir, volume, content, group) {
            Ok(fresh) => changed |= fresh,
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    Ok((changed, first_error))
}

/// Disks, and network file systems behind host paths, may take their time: not on the threads that serve everybody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
) -> Result<T, VolumeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(VolumeError::Disk(format!("work on volumes: {error}"))),
    }
}

/// An error of `what` on `path`, in words.
fn on_path(what: &str, path: &std::path::Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {}: {error}", path.display()))
}

#[async_trait]
impl PodFiles for Volumes {
    async fn prepare(&self, pod: &Pod, facts: &PodFacts) -> Result<Option<Timestamp>, FilesError> {
        let prepared = Volumes::prepare(self, pod, facts).await;
        prepared.map(|prepared| prepared.renew_at).map_err(|error| FilesError(error.to_string()))
    }

    async fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        env: &[(String, String)],
        facts: &PodFacts,
    ) -> Result<Vec<Mount>, FilesError> {
        Volumes::mounts(self, pod, container, env, facts).await.map_err(|error| FilesError(error.to_string()))
    }

    async fn own_ids(&self, pod_uid: &str) -> Result<IdRange, FilesError> {
        Volumes::own_ids(self, pod_uid).await.map_err(|error| FilesError(error.to_string()))
    }

    async fn given_ids(&self, pod_uid: &str) -> Result<Option<IdRange>, FilesError> {
        let (disk, uid) = (Arc::clone(&self.disk), pod_uid.to_owned());
        let given = blocking(move || user_ids::given_ids(&disk.layout, &uid)).await;
        given.map_err(|error| FilesError(error.to_string()))
    }

    async fn tear_down(&self, pod_uid: &Uid) -> Result<(), FilesError> {
        Volumes::tear_down(self, pod_uid).await.map_err(|error| FilesError(error.to_string()))
    }

    async fn on_disk(&self) -> Vec<Uid> {
        Volumes::on_disk(self).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the folders of dead pods cannot be found");
            Vec::new()
        })
    }
}

#[cfg(test)]
mod tests;
