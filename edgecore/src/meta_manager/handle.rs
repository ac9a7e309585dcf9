//! What the rest of the edge may ask MetaManager, and what it is told.

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret, Service};
use ke_api::device::{Device, DeviceModel};
use ke_wire::{DeviceId, Namespace, ObjectKey, ObjectName, Refusal, Uid};

/// Told after the store holds it. A reader that was away reads the store instead.
#[derive(Clone, Debug)]
pub enum News {
    /// A Pod of this node came or changed.
    PodPut(Arc<Pod>),
    /// A Pod is gone from the cloud; `None` when a peer did not say which of that name.
    PodDeleted(ObjectKey, Option<Uid>),
    /// A ConfigMap or Secret came, changed or went.
    ConfigChanged(ObjectKey),
    /// This machine's Node changed in the cloud.
    NodePut(Arc<Node>),
}

/// A Device or model of this node, told to DeviceTwin after the store holds it; `None`: it is gone.
#[derive(Clone, Debug)]
pub enum DeviceNews {
    /// A Device.
    Device(DeviceId, Option<Arc<Device>>),
    /// A model.
    Model(DeviceId, Option<Arc<DeviceModel>>),
}

/// Why an object cannot be had now.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// The cloud says no: it is not there (`refusal.reason` is `NotFound`), or this node may not read it.
    #[error("{0}")]
    Refused(Refusal),
    /// Not held here and the cloud is away. Worth asking again.
    #[error("{0} is not on this node and the cloud is not reachable")]
    Offline(String),
    /// Held, but it cannot be read.
    #[error("{0}")]
    Broken(String),
}

/// Objects a Pod may need, from the store or, where it has none, from the cloud.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// The ConfigMap as the store holds it; asked from the cloud and kept when it holds none.
    async fn config_map(
        &self,
        namespace: &Namespace,
        name: &ObjectName,
    ) -> Result<Arc<ConfigMap>, LookupError>;
    /// The Secret as the store holds it; asked from the cloud and kept when it holds none.
    async fn secret(&self, namespace: &Namespace, name: &ObjectName) -> Result<Arc<Secret>, LookupError>;
    /// The Services that a Pod of this namespace may see, as the cloud says them now; while it is away, or one of KubeEdge's,
    /// as it said them last. None, where it never did.
    async fn services(&self, namespace: &Namespace) -> Vec<Service>;
    /// Under which of the runtime's handlers Pods of this RuntimeClass run: as the cloud says it now; while it is away, as it
    /// said it last. KubeEdge's cloud says nothing of classes: there, the class's name is the handler's.
    async fn runtime_handler(&self, class: &ObjectName) -> Result<String, LookupError>;
    /// A token for this service account and request. A kept one serves until four fifths of its life are over, and
    /// longer, even expired, while the cloud is away: an application that starts offline must find its file.
    async fn token(
        &self,
        namespace: &Namespace,
        account: &ObjectName,
        request: TokenRequest,
    ) -> Result<TokenRequest, LookupError>;
}
