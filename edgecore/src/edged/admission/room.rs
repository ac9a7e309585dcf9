//! Pure: what a Pod asks for and this Node has too little of.
//!
//! What counts is what the node itself offers (`Gate.allocatable`), and extended resources that somebody wrote into the
//! Node's status. Those of device plugins are not looked at here: their devices are counted one by one where they are
//! handed out (`device_plugin`), as with a kubelet, and a Pod that finds too few is refused there.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::super::pod_spec::inits;
use super::super::resources::pod_request;
use super::{Gate, Refusal};
use crate::quantity::{Amount, amount_in};
use crate::resource_name::is_extended_resource;

/// `maxPods` as the kubelet calls it where something is missing.
const PODS: &str = "pods";

/// A resource of which too little is left. Thousandths of a core, bytes, pods, or pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Its name in a request; `pods` for `maxPods`.
    pub resource: String,
    /// What the Pod asks for.
    pub requested: i64,
    /// What the others ask for.
    pub used: i64,
    /// What there is.
    pub capacity: i64,
}

impl Lack {
    /// How much others would have to give up.
    #[must_use]
    pub fn missing(&self) -> i64 {
        self.requested.saturating_sub(self.capacity.saturating_sub(self.used))
    }

    /// What becomes of a Pod for which nobody makes room.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let Self { resource, requested, used, capacity } = self;
        Refusal {
            reason: format!("OutOf{resource}"),
            message: format!(
                "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        }
    }
}

/// Everything that is missing, pods first, then the common resources. `is_plugins`: whether device plugins offer a resource.
#[must_use]
pub fn lacks(pod: &Pod, others: &[Arc<Pod>], gate: &Gate, is_plugins: &dyn Fn(&str) -> bool) -> Vec<Lack> {
    let mut lacks = Vec::new();
    let n_others = i64::try_from(others.len()).unwrap_or(i64::MAX);
    let max_pods = i64::from(gate.max_pods);
    if n_others >= max_pods {
        lacks.push(Lack { resource: PODS.into(), requested: 1, used: n_others, capacity: max_pods });
    }
    let status = gate.node.as_deref().and_then(|node| node.status.as_ref());
    let of_node = status.and_then(|status| status.allocatable.as_ref());
    for resource in asked_for(pod) {
        let written = of_node.filter(|_| is_extended_resource(resource) && !is_plugins(resource));
        let offered = amount_in(Some(&gate.allocatable), resource).or_else(|| amount_in(written, resource));
        let requested = pod_request(pod, resource);
        let Some(capacity) = offered.filter(|_| !requested.is_zero()) else { continue };
        let used = others.iter().map(|other| pod_request(other, resource)).sum::<Amount>();
        if requested + used > capacity {
            let number = |amount: Amount| number(amount, resource);
            let (requested, used, capacity) = (number(requested), number(used), number(capacity));
            lacks.push(Lack { resource: resource.to_owned(), requested, used, capacity });
        }
    }
    lacks
}

/// What a Pod asks for of a resource, in the numbers of a [`Lack`].
#[must_use]
pub fn request(pod: &Pod, resource: &str) -> i64 {
    if resource == PODS { 1 } else { number(pod_request(pod, resource), resource) }
}

/// Thousandths of a core, as everywhere.
fn number(amount: Amount, resource: &str) -> i64 {
    if resource == "cpu" { amount.millis() } else { amount.units() }
}

/// The resources that the Pod names, the common ones first.
fn asked_for(pod: &Pod) -> Vec<&str> {
    let common = ["cpu", "memory", "ephemeral-storage"];
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = inits(spec).iter().chain(&spec.containers);
    let parts = containers.filter_map(|container| container.resources.as_ref()).chain(&spec.resources);
    let named = parts.flat_map(|part| part.requests.iter().chain(&part.limits));
    let named: BTreeSet<&str> = named.flat_map(|list| list.keys().map(String::as_str)).collect();
    common.into_iter().chain(named.into_iter().filter(|name| !common.contains(name))).collect()
}
