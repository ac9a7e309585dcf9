//! Kubernetes objects as both ends see them: the resources we define, and the way from a message's body to a typed
//! object and back.
//!
//! It talks to nobody: no client, no file, no clock.

#![warn(missing_docs)]

pub mod node;
pub mod object;
pub mod object_sync;
pub mod pod_network;
mod free_object;
pub mod push_method;
pub mod selector;
pub mod device;
pub mod device_status;
pub mod device_v1alpha2;
pub mod device_v1alpha2_protocol;
pub mod device_crds;
pub mod device_conversion;
pub mod conversion_review;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use free_object::FreeObject;
pub use object_sync::{
    ClusterObjectSync, ClusterObjectSyncSpec, ObjectSync, ObjectSyncSpec, ObjectSyncStatus,
};

/// Every resource definition of ours, in the form that goes into the chart and, where it is missing, into the cluster.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    let ledger =
        [ObjectSync::crd(), ClusterObjectSync::crd()].into_iter().map(object_sync::as_kubeedge_has_it);
    ledger.chain(device_crds::device_crds()).collect()
}
