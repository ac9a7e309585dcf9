//! Kubernetes objects as both ends see them: the resources we define, and the way from a message's body to a typed
//! object and back.
//!
//! It talks to nobody: no client, no file, no clock.

#![warn(missing_docs)]

pub mod object;
pub mod object_sync;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

pub use object_sync::{
    ClusterObjectSync, ClusterObjectSyncSpec, ObjectSync, ObjectSyncSpec, ObjectSyncStatus,
};

/// Every resource definition of ours, in the form that goes into the chart and, where it is missing, into the cluster.
#[must_use]
pub fn crds() -> Vec<CustomResourceDefinition> {
    [ObjectSync::crd(), ClusterObjectSync::crd()].into_iter().map(object_sync::as_kubeedge_has_it).collect()
}
