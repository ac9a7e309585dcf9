//! What actions need of the files of pods: volumes and what is mounted with them. `volumes/` does it.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use ke_cri::v1;
use ke_wire::Uid;

use super::fields::PodFacts;

/// Volumes of pods on this machine.
#[async_trait]
pub trait PodFiles: Send + Sync + 'static {
    /// Writes the Pod's volumes, or brings them up to date. Done already: success. Gives the time at which a token in
    /// them wants to be renewed; it may have passed already, when the cloud is away.
    async fn prepare(&self, pod: &Pod, facts: &PodFacts) -> Result<Option<Timestamp>, FilesError>;
    /// What one start of a container gets mounted: its volumes, the hosts file, a new termination message file.
    async fn mounts(
        &self,
        pod: &Pod,
        container: &Container,
        env: &[(String, String)],
        facts: &PodFacts,
    ) -> Result<Vec<v1::Mount>, FilesError>;
    /// The machine's user ids for a Pod with users of its own: the same ones until it is torn down.
    async fn own_ids(&self, pod_uid: &str) -> Result<IdRange, FilesError>;
    /// Those that it was given, if it was.
    async fn given_ids(&self, pod_uid: &str) -> Result<Option<IdRange>, FilesError>;
    /// Takes the volumes of a Pod down and removes its directory. Gone already: success.
    async fn tear_down(&self, pod_uid: &Uid) -> Result<(), FilesError>;
    /// Uids of the pods that have a directory on this machine.
    async fn on_disk(&self) -> Vec<Uid>;
}

/// So many ids of the machine, from `first` on, are a Pod's 0 and up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// The machine's id of the Pod's root.
    pub first: u32,
    /// How many.
    pub length: u32,
}

/// Why a Pod's files are not as they should be; worth trying again. Never holds data of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FilesError(pub String);
