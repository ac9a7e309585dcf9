//! Whether this node takes a Pod that is new to it. Pure: [`judge`] looks at the Pod, the others and the node, and gives the
//! refusal in the kubelet's words or none.
//!
//! Asked once, where a Pod is first heard of (`arrivals.rs`): what a node has accepted it never refuses later, whatever changes.
//! A refused Pod is shown as `Failed` with the reason and runs nothing. For lack of room no critical Pod is refused here:
//! others are ended for it (`preemption`). Order and words are the kubelet's, since people and programs look for them.

mod affinity;
mod room;
mod sysctls;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerPort, Node, Pod, PodSpec, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

pub use self::room::{Lack, lacks, request};
pub use self::sysctls::{AllowedSysctls, BadPattern};
use super::evicted::is_critical;
use super::pod_spec::{inits, is_sidecar};

/// What a kubelet calls it when it cannot give a Pod what it would have to take from somewhere first: devices, or others' room.
pub const UNEXPECTED_ADMISSION: &str = "UnexpectedAdmissionError";
const OS_LABEL: &str = "kubernetes.io/os";
const LINUX: &str = "linux";
/// Taints that say that the node was away: it takes a Pod, so it is there, and the taint is about to go.
const AWAY_TAINTS: [&str; 2] = ["node.kubernetes.io/unreachable", "node.kubernetes.io/not-ready"];

/// What a node looks at before it takes a Pod.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The Node as the cloud last said; `None` before the first word of it. For labels, taints and extended resources.
    pub node: Option<Arc<Node>>,
    /// What may be asked for in total, by resource. One that is neither in it nor an extended one in the Node's status is
    /// not this node's to give, and is not looked at.
    pub allocatable: BTreeMap<String, Quantity>,
    /// `maxPods`.
    pub max_pods: u32,
    /// Kernel settings that a Pod may have.
    pub sysctls: AllowedSysctls,
    /// Whether AppArmor is on.
    pub has_apparmor: bool,
}

/// Why a Pod is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The word in status and event.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// Who asks to be let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applicant {
    /// A Pod that a scheduler placed here, on newer knowledge of the Node than ours.
    Scheduled,
    /// A Pod that was written with its node's name.
    Direct,
    /// A Pod of this machine's own folder: it gets in if the machine can run it at all.
    Static,
}

impl Applicant {
    /// Of a Pod from the cloud.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref());
        let is_placed =
            |c: &k8s_openapi::api::core::v1::PodCondition| c.type_ == "PodScheduled" && c.status == "True";
        if conditions.unwrap_or_default().iter().any(is_placed) { Self::Scheduled } else { Self::Direct }
    }
}

/// Whether this node accepted the Pod before, or it has ended: nothing is left to judge.
#[must_use]
pub fn is_settled(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref());
    // Only a node writes a start time.
    status.is_some_and(|status| status.start_time.is_some()) || matches!(phase, Some("Failed" | "Succeeded"))
}

/// The Pod as one that was refused. All that follows, the end of its status included, follows from that.
#[must_use]
pub fn refused(pod: &Pod, refusal: &Refusal) -> Pod {
    let mut pod = pod.clone();
    let status = pod.status.get_or_insert_default();
    status.phase = Some("Failed".into());
    status.reason = Some(refusal.reason.clone());
    status.message = Some(format!("Pod was rejected: {}", refusal.message));
    pod
}

/// `None`: the node takes it. `others`: the Pods that run here or are to run; `lacks`: what there is too little of beside them.
#[must_use]
pub fn judge(
    pod: &Pod,
    applicant: Applicant,
    others: &[Arc<Pod>],
    gate: &Gate,
    lacks: &[Lack],
) -> Option<Refusal> {
    let spec = pod.spec.as_ref()?;
    let refuse = |reason: &str, message: String| Some(Refusal { reason: reason.to_owned(), message });
    if let Some(why) = gate.sysctls.forbidden(spec) {
        return refuse("SysctlForbidden", format!("forbidden sysctl: {why}"));
    }
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(OS_LABEL));
    if label.is_some_and(|os| os != LINUX) {
        let text = "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return refuse("PodOSSelectorNodeLabelDoesNotMatch", text.to_owned());
    }
    if spec.os.as_ref().is_some_and(|os| os.name != LINUX) {
        let text = "Failed to admit pod as the OS field doesn't match node OS";
        return refuse("PodOSNotSupported", text.to_owned());
    }
    if let Some(lack) = lacks.first().filter(|_| !is_critical(pod)) {
        return Some(lack.refusal());
    }
    if applicant != Applicant::Static {
        let predicate = |name: &str, why: &str| refuse(name, format!("Predicate {name} failed: {why}"));
        let node = gate.node.as_deref().filter(|_| applicant == Applicant::Direct);
        if node.is_some_and(|node| !affinity::matches(spec, node)) {
            return predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector");
        }
        if port_is_taken(spec, others) {
            return predicate("NodePorts", "node(s) didn't have free ports for the requested pod ports");
        }
        if node.is_some_and(|node| !is_tolerated(spec, node)) {
            return predicate("TaintToleration", "node(s) had taints that the pod didn't tolerate");
        }
    }
    if !gate.has_apparmor && wants_apparmor(spec) {
        return refuse("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host".into());
    }
    None
}

/// Ports of the machine that a Pod takes.
fn host_ports(spec: &PodSpec) -> impl Iterator<Item = &ContainerPort> {
    let sidecars = inits(spec).iter().filter(|init| is_sidecar(init));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    ports.filter(|port| port.host_port.is_some_and(|port| port > 0))
}

fn port_is_taken(spec: &PodSpec, others: &[Arc<Pod>]) -> bool {
    let address = |port: &ContainerPort| {
        port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".to_owned())
    };
    let protocol = |port: &ContainerPort| port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
    let clash = |one: &ContainerPort, other: &ContainerPort| {
        let (one_at, other_at) = (address(one), address(other));
        one.host_port == other.host_port
            && protocol(one) == protocol(other)
            && (one_at == other_at || one_at == "0.0.0.0" || other_at == "0.0.0.0")
    };
    let taken = || others.iter().filter_map(|other| other.spec.as_ref()).flat_map(host_ports);
    host_ports(spec).any(|port| taken().any(|other| clash(port, other)))
}

/// Whether the Pod tolerates the taints of the Node that end pods.
fn is_tolerated(spec: &PodSpec, node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let matters = |taint: &&Taint| taint.effect == "NoExecute" && !AWAY_TAINTS.contains(&taint.key.as_str());
    taints.iter().filter(matters).all(|taint| {
        spec.tolerations.iter().flatten().any(|toleration| {
            let key = toleration.key.as_deref().unwrap_or_default();
            let effect = toleration.effect.as_deref().unwrap_or_default();
            let is_meant =
                (key.is_empty() || key == taint.key) && (effect.is_empty() || effect == taint.effect);
            let value = taint.value.as_deref().unwrap_or_default();
            is_meant
                && match toleration.operator.as_deref() {
                    Some("Exists") => true,
                    // Without a key only `Exists` is meant for all.
                    Some("Equal" | "") | None => {
                        !key.is_empty() && toleration.value.as_deref().unwrap_or_default() == value
                    }
                    Some(_) => false,
                }
        })
    })
}

fn wants_apparmor(spec: &PodSpec) -> bool {
    let of_pod = spec.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
    inits(spec).iter().chain(&spec.containers).any(|container| {
        let own = container.security_context.as_ref().and_then(|context| context.app_armor_profile.as_ref());
        own.or(of_pod).is_some_and(|profile| profile.type_ != "Unconfined")
    })
}

#[cfg(test)]
mod tests;
