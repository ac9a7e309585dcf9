//! Pure: host, runtime and measurements to Node, NodeStatus and Lease.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::jiff::Timestamp;
use ke_api::node::{EDGE_LABEL, LEASE_NAMESPACE};
use ke_api::pod_network::{MANAGED, POD_NETWORK};
use ke_wire::NodeName;
use serde_json::{Value, json};

use super::host::Host;
use super::room::{allocatable, huge_pages, kib};
use crate::config::{EvictionHard, Reserved};
use crate::device_plugin::Amounts;
use crate::edged::Pressures;
use crate::pod_network;

/// The runtime's word for pods' network.
pub(super) const NETWORK_READY: &str = "NetworkReady";

/// The version that the Node shows. Its form is read by programs that look for the KubeEdge version a node speaks.
const KUBELET_VERSION: &str = concat!("v1.32.10-kubeedge-v1.23.1+isthmus-", env!("CARGO_PKG_VERSION"));

/// What the configuration says about this Node.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Labels beyond the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Taints that the Node is registered with.
    pub taints: Vec<Taint>,
    /// How many pods may run.
    pub max_pods: u32,
    /// How often status is looked at.
    pub status_period: Duration,
    /// How often it is told when nothing changed.
    pub report_period: Duration,
    /// Without a renewal for this long the control plane holds the node for lost.
    pub lease_duration: Duration,
    /// What pods do not get, since its lack would make the Node short.
    pub eviction_hard: EvictionHard,
    /// What pods do not get.
    pub reserved: Reserved,
    /// Port told as the kubelet's.
    pub kubelet_port: u16,
    /// Whether the cloud is asked for a range of pod addresses, since pods' network is made here.
    pub asks_for_pod_range: bool,
}

/// What the container runtime says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuntimeState {
    /// `containerd://1.7`; empty when it does not answer.
    pub(super) version: String,
    /// Why it is not ready.
    pub(super) unready: Option<String>,
}

/// The Node as it is registered. Shape: `v1 Node` without `apiVersion` and `kind`, as Go edges send it.
pub(super) fn node_object(name: &NodeName, config: &NodeConfig, host: &Host, status: Value) -> Value {
    let mut labels = BTreeMap::from([
        ("beta.kubernetes.io/arch".to_owned(), host.architecture.to_owned()),
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), host.architecture.to_owned()),
        ("kubernetes.io/hostname".to_owned(), name.to_string()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("node-role.kubernetes.io/agent".to_owned(), String::new()),
        (EDGE_LABEL.to_owned(), String::new()),
    ]);
    labels.extend(config.labels.clone());
    let mut spec = json!({});
    if let (false, Ok(taints)) = (config.taints.is_empty(), serde_json::to_value(&config.taints)) {
        spec = json!({"taints": taints});
    }
    let mut annotations =
        BTreeMap::from([("volumes.kubernetes.io/controller-managed-attach-detach", "true")]);
    if config.asks_for_pod_range {
        annotations.insert(POD_NETWORK, MANAGED);
    }
    json!({
        "metadata": {
            "name": name.as_str(),
            "creationTimestamp": null,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": spec,
        "status": status,
    })
}

/// Whether the Node in the cloud does not say yet that it asks for a range.
pub(super) fn is_to_ask(config: &NodeConfig, known: &Node) -> bool {
    let said = known.metadata.annotations.as_ref().and_then(|all| all.get(POD_NETWORK));
    config.asks_for_pod_range && said.is_none_or(|word| word != MANAGED)
}

/// Whether the configuration has labels that the Node in the cloud has not, or has otherwise. One that was taken out of the
/// configuration stays on the Node: others may have set it.
pub(super) fn lacks_labels(config: &NodeConfig, known: &Node) -> bool {
    let held = |name: &str| known.metadata.labels.as_ref().and_then(|all| all.get(name));
    config.labels.iter().any(|(name, value)| held(name) != Some(value))
}

/// Why a runtime that says this of one of its conditions is not ready. `known`: this Node as the cloud has it.
pub(super) fn runtime_unready(
    config: &NodeConfig,
    known: Option<&Node>,
    condition: &str,
    message: &str,
) -> String {
    let has_range = known.is_some_and(|node| !pod_network::ranges(node).is_empty());
    if condition == NETWORK_READY && config.asks_for_pod_range && !has_range {
        return "pods have no network yet: waiting for the cloud to give this Node a range of pod addresses \
                (spec.podCIDR, or the annotation isthmus.io/pod-range); if it does not come, cloudcore's log says why"
            .to_owned();
    }
    format!("container runtime {condition} is not ready: {message}")
}

/// What was looked at for a status.
pub(super) struct Seen<'a> {
    pub(super) addresses: &'a [IpAddr],
    pub(super) devices: &'a BTreeMap<String, Amounts>,
    pub(super) runtime: &'a RuntimeState,
    /// `None`: not known yet, so that what was told before holds.
    pub(super) short: Option<Pressures>,
    pub(super) at: Timestamp,
}

/// The status as it is now. `before`: conditions as last known, whose transition times stay where nothing changed.
pub(super) fn node_status(
    name: &NodeName,
    config: &NodeConfig,
    host: &Host,
    seen: &Seen<'_>,
    before: Option<&[NodeCondition]>,
) -> Value {
    let pods = config.max_pods.to_string();
    let mut runtime_version = seen.runtime.version.clone();
    if runtime_version.is_empty() {
        // A field that must not be empty; the Ready condition says why nothing is known.
        runtime_version = "unknown://".to_owned();
    }
    let mut shown: Vec<Value> = seen
        .addresses
        .iter()
        .map(|address| json!({"type": "InternalIP", "address": address.to_string()}))
        .collect();
    shown.push(json!({"type": "Hostname", "address": name.as_str()}));
    json!({
        "addresses": shown,
        "capacity": with_devices(capacity(host, &pods), seen.devices, |amounts| amounts.capacity),
        "allocatable": with_devices(
            with_pods(allocatable(host, &config.eviction_hard, &config.reserved), &pods),
            seen.devices,
            |amounts| amounts.allocatable,
        ),
        "conditions": conditions(seen.runtime, seen.short, before, seen.at),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": config.kubelet_port}},
        "nodeInfo": {
            "machineID": host.machine_id,
            "systemUUID": host.system_uuid,
            "bootID": host.boot_id,
            "kernelVersion": host.kernel_version,
            "osImage": host.os_image,
            "containerRuntimeVersion": runtime_version,
            "kubeletVersion": KUBELET_VERSION,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": host.architecture,
        },
    })
}

fn capacity(host: &Host, pods: &str) -> BTreeMap<String, Quantity> {
    let all = [
        ("cpu", host.n_cpus.to_string()),
        ("memory", kib(host.memory_bytes)),
        ("ephemeral-storage", kib(host.disk_bytes)),
        ("pods", pods.to_owned()),
    ];
    let all = all.into_iter().map(|(name, amount)| (name.to_owned(), Quantity(amount)));
    all.chain(huge_pages(host)).collect()
}

/// A resource that no plugin offers any more is said to be 0: left out, the cloud's last word would stand.
fn with_devices(
    mut resources: BTreeMap<String, Quantity>,
    devices: &BTreeMap<String, Amounts>,
    which: impl Fn(&Amounts) -> usize,
) -> BTreeMap<String, Quantity> {
    resources
        .extend(devices.iter().map(|(name, amounts)| (name.clone(), Quantity(which(amounts).to_string()))));
    resources
}

fn with_pods(mut resources: BTreeMap<String, Quantity>, pods: &str) -> BTreeMap<String, Quantity> {
    resources.insert("pods".to_owned(), Quantity(pods.to_owned()));
    resources
}

fn conditions(
    runtime: &RuntimeState,
    short: Option<Pressures>,
    before: Option<&[NodeCondition]>,
    now: Timestamp,
) -> Vec<Value> {
    let was_short = |kind: &str| {
        let told = before.and_then(|all| all.iter().find(|old| old.type_ == kind));
        told.is_some_and(|old| old.status == "True")
    };
    let pressure = |kind: &str, is_short: fn(Pressures) -> bool, lacking: [&str; 2], fine: [&str; 2]| {
        let is_short = short.map_or_else(|| was_short(kind), is_short);
        let [reason, message] = if is_short { lacking } else { fine };
        (kind.to_owned(), is_short, reason.to_owned(), message.to_owned())
    };
    let ready = match &runtime.unready {
        None => ("Ready".to_owned(), true, "EdgeReady".to_owned(), "edge is posting ready status".to_owned()),
        Some(why) => ("Ready".to_owned(), false, "EdgeNotReady".to_owned(), why.clone()),
    };
    let all = [
        pressure(
            "MemoryPressure",
            |short| short.memory,
            ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
            ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
        ),
        pressure(
            "DiskPressure",
            |short| short.disk,
            ["KubeletHasDiskPressure", "kubelet has disk pressure"],
            ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
        ),
        pressure(
            "PIDPressure",
            |short| short.pids,
            ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
            ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
        ),
        ready,
    ];
    let told = |(kind, holds, reason, message): (String, bool, String, String)| {
        let status = if holds { "True" } else { "False" };
        let same = before.and_then(|all| all.iter().find(|old| old.type_ == kind && old.status == status));
        let since = same.and_then(|old| old.last_transition_time.clone()).map_or(now, |time| time.0);
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": seconds(now), "lastTransitionTime": seconds(since),
        })
    };
    all.into_iter().map(told).collect()
}

/// What an existing Node is told. Not the port, which it got when it was created: where the cloud has put another one there, by
/// which it is reached itself, that one must stay.
pub(super) fn patch(status: &Value) -> String {
    let mut status = status.clone();
    if let Some(fields) = status.as_object_mut() {
        fields.remove("daemonEndpoints");
    }
    json!({"status": status}).to_string()
}

/// Whether two statuses say the same, their times apart.
pub(super) fn says_the_same(one: &Value, other: &Value) -> bool {
    fn timeless(status: &Value) -> Value {
        let mut status = status.clone();
        for condition in status.get_mut("conditions").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(fields) = condition.as_object_mut() {
                fields.remove("lastHeartbeatTime");
                fields.remove("lastTransitionTime");
            }
        }
        status
    }
    timeless(one) == timeless(other)
}

/// The lease with a new renewal; begun when there is none. `node_uid`: so that it goes when the Node goes.
pub(super) fn lease(
    held: Option<Value>,
    name: &NodeName,
    node_uid: Option<&str>,
    duration_secs: u64,
    now: Timestamp,
) -> Value {
    let mut lease = held.unwrap_or_else(|| {
        json!({"metadata": {"name": name.as_str(), "namespace": LEASE_NAMESPACE, "creationTimestamp": null}})
    });
    if let (Some(uid), Some(metadata)) = (node_uid, lease.get_mut("metadata").and_then(Value::as_object_mut))
    {
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name.as_str(), "uid": uid}]);
        metadata.insert("ownerReferences".into(), owner);
        metadata.remove("managedFields");
    }
    if let Some(fields) = lease.as_object_mut() {
        let spec = json!({
            "holderIdentity": name.as_str(),
            "leaseDurationSeconds": duration_secs,
            "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string(),
        });
        fields.insert("spec".into(), spec);
    }
    lease
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Why a Node with this status is not Ready; `None` if it is.
pub(super) fn unready(status: &Value) -> Option<String> {
    let conditions = status.get("conditions").and_then(Value::as_array);
    let ready = conditions.into_iter().flatten().find(|one| one["type"] == "Ready");
    match ready {
        Some(ready) if ready["status"] == "True" => None,
        Some(ready) => Some(ready["message"].as_str().unwrap_or_default().to_owned()),
        None => Some("its status has no condition Ready".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    const FINE: Pressures = Pressures { memory: false, disk: false, pids: false };

    #[test]
    fn conditions_say_what_is_measured() {
        let check = |runtime: Option<&str>, short: Pressures, expected: [&str; 4]| {
            let runtime = RuntimeState { version: "x://1".into(), unready: runtime.map(str::to_owned) };
            let told = conditions(&runtime, Some(short), None, at(0));
            let told: Vec<_> = told.iter().map(|c| c["status"].as_str().unwrap()).collect();
            assert_eq!(told, expected);
        };
        check(None, FINE, ["False", "False", "False", "True"]);
        check(None, Pressures { memory: true, ..FINE }, ["True", "False", "False", "True"]);
        check(None, Pressures { disk: true, ..FINE }, ["False", "True", "False", "True"]);
        check(None, Pressures { pids: true, ..FINE }, ["False", "False", "True", "True"]);
        check(Some("no socket"), FINE, ["False", "False", "False", "False"]);
    }

    fn config(asks_for_pod_range: bool) -> NodeConfig {
        NodeConfig {
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 1,
            status_period: Duration::ZERO,
            report_period: Duration::ZERO,
            lease_duration: Duration::ZERO,
            eviction_hard: EvictionHard::default(),
            kubelet_port: 0,
            asks_for_pod_range,
            reserved: Reserved::default(),
        }
    }

    #[test]
    fn labels_that_the_node_lacks_are_told() {
        let check = |wanted: &[(&str, &str)], held: Value, expected: bool| {
            let labels = wanted.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let config = NodeConfig { labels, ..config(false) };
            let node = serde_json::from_value::<Node>(json!({"metadata": {"labels": held}})).unwrap();
            assert_eq!(lacks_labels(&config, &node), expected, "{wanted:?}");
        };
        check(&[], json!(null), false);
        check(&[("site", "hall-3")], json!(null), true);
        check(&[("site", "hall-3")], json!({"site": "hall-2"}), true);
        check(&[("site", "hall-3")], json!({"site": "hall-3", "other": "x"}), false);
        check(&[], json!({"site": "hall-3"}), false);
    }

    #[test]
    fn a_node_that_waits_for_its_range_says_so() {
        let node = |body: Value| serde_json::from_value::<Node>(body).unwrap();
        let bare = node(json!({"metadata": {}}));
        let given = node(json!({"metadata": {}, "spec": {"podCIDR": "10.208.0.0/24"}}));
        let check = |asks, known: Option<&Node>, condition: &str, expected: &str| {
            let why = runtime_unready(&config(asks), known, condition, "no CNI");
            assert!(why.contains(expected), "{why}");
        };
        check(true, Some(&bare), "NetworkReady", "waiting for the cloud");
        check(true, None, "NetworkReady", "waiting for the cloud");
        check(true, Some(&given), "NetworkReady", "NetworkReady is not ready: no CNI");
        check(true, Some(&bare), "RuntimeReady", "RuntimeReady is not ready: no CNI");
        check(false, Some(&bare), "NetworkReady", "NetworkReady is not ready: no CNI");

        let asking = node(json!({"metadata": {"annotations": {POD_NETWORK: MANAGED}}}));
        assert!(is_to_ask(&config(true), &bare) && !is_to_ask(&config(true), &asking));
        assert!(!is_to_ask(&config(false), &bare));
    }

    #[test]
    fn transition_times_stay_until_something_changes() {
        let runtime = RuntimeState { version: "x://1".into(), unready: None };
        let first = conditions(&runtime, Some(FINE), None, at(1));
        let before: Vec<NodeCondition> =
            first.iter().map(|c| serde_json::from_value(c.clone()).unwrap()).collect();
        let later = conditions(&runtime, Some(Pressures { memory: true, ..FINE }), Some(&before), at(60));
        assert_eq!(later[0]["lastTransitionTime"], "1970-01-01T00:01:00Z");
        assert_eq!(later[3]["lastTransitionTime"], "1970-01-01T00:00:01Z");
        let (one, two) = (json!({"conditions": first}), json!({"conditions": later}));
        assert!(!says_the_same(&one, &two));
        let again = conditions(&runtime, Some(FINE), Some(&before), at(90));
        assert!(says_the_same(&one, &json!({"conditions": again})));
    }

    #[test]
    fn a_lease_is_begun_and_renewed() {
        let name: NodeName = "edge-1".parse().unwrap();
        let begun = lease(None, &name, Some("u"), 40, at(1));
        assert_eq!(begun["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(begun["spec"]["renewTime"], "1970-01-01T00:00:01.000000Z");
        let mut held = begun;
        held["metadata"]["resourceVersion"] = json!("7");
        let renewed = lease(Some(held), &name, Some("u"), 40, at(11));
        assert_eq!(renewed["metadata"]["resourceVersion"], "7");
        assert_eq!(renewed["spec"]["renewTime"], "1970-01-01T00:00:11.000000Z");
    }
}
