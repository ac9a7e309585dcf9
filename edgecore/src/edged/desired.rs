//! What is wanted of one Pod: the store's word, in the form that plan and status decide with. Pure.
//!
//! Edged makes one whenever the store says something new; a Pod's worker sees the newest only.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::container::spec_hash_text;
use super::pod_spec::inits;

/// What Kubernetes gives a Pod that names no grace period.
pub(super) const DEFAULT_GRACE_SECS: i64 = 30;

/// What the store says about a Pod.
#[derive(Clone, Debug)]
pub enum Desired {
    /// It runs.
    Run(Arc<Pod>),
    /// It has a deletion timestamp: end it, then say that it is gone.
    Terminate(Arc<Pod>),
    /// The store has it no longer, or never had it (`None`: found in the runtime only).
    Removed(Option<Arc<Pod>>),
}

/// A Pod as it should be.
#[derive(Clone, Debug)]
pub struct DesiredPod {
    /// What the store says.
    pub want: Desired,
    /// Hash of each container's spec, by container name, as `container.rs` notes it on the containers it makes.
    pub hashes: BTreeMap<String, String>,
}

impl DesiredPod {
    /// The Pod, where it is known.
    #[must_use]
    pub fn pod(&self) -> Option<&Arc<Pod>> {
        match &self.want {
            Desired::Run(pod) | Desired::Terminate(pod) => Some(pod),
            Desired::Removed(pod) => pod.as_ref(),
        }
    }

    /// Seconds from the decision to end a container to its kill. Kubernetes gives at least two after the stop signal; 0
    /// as it was asked for means that no hook runs.
    #[must_use]
    pub fn grace_secs(&self) -> Option<i64> {
        let pod = self.pod()?;
        let asked = pod.metadata.deletion_grace_period_seconds;
        let written = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        Some(asked.or(written).unwrap_or(DEFAULT_GRACE_SECS))
    }
}

/// What the store's Pod asks for.
pub(super) fn desired(pod: Arc<Pod>) -> DesiredPod {
    let spec = pod.spec.as_ref();
    let containers = spec.into_iter().flat_map(|spec| inits(spec).iter().chain(&spec.containers));
    let hashes = containers.map(|c| (c.name.clone(), spec_hash_text(c))).collect();
    let want = match pod.metadata.deletion_timestamp {
        Some(_) => Desired::Terminate(pod),
        None => Desired::Run(pod),
    };
    DesiredPod { want, hashes }
}
