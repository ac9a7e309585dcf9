//! What a pod may use, in the kernel's numbers. Pure.
//!
//! The formulas are the kubelet's, so that a pod moved here from it behaves as before. `cgroups.rs` applies the pod's
//! numbers, `container.rs` hands the containers' to the runtime.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use ke_cri::v1::{HugepageLimit, LinuxContainerResources};

use super::pod_spec::is_sidecar;
use crate::quantity::{Amount, amount_in};

/// Weight of something that asked for no CPU; also the kernel's least.
pub const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// CPU quota is counted in windows of 100 ms unless `cpuCFSQuotaPeriod` says otherwise. Microseconds.
pub const QUOTA_PERIOD: i64 = 100_000;
/// The kernel refuses quotas below 1 ms.
const MIN_QUOTA: i64 = 1000;
const NODE_CRITICAL: &str = "system-node-critical";

/// Quality of service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Qos {
    /// Every container has equal requests and limits of CPU and memory.
    Guaranteed,
    /// Something is asked for.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

impl Qos {
    /// As `status.qosClass` spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// How this node turns CPU limits into quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuQuota {
    /// `cpuCFSQuota`.
    pub enforced: bool,
    /// `cpuCFSQuotaPeriod`, microseconds.
    pub period: i64,
}

impl Default for CpuQuota {
    fn default() -> Self {
        Self { enforced: true, period: QUOTA_PERIOD }
    }
}

/// Limits of a pod's cgroup. `None` leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodResources {
    /// Relative weight, 2 to 262144.
    pub cpu_shares: i64,
    /// Quota and period in microseconds. A quota of -1 is no limit.
    pub cpu_quota: Option<(i64, i64)>,
    /// Bytes; -1 is no limit.
    pub memory_limit: Option<i64>,
}

#[derive(Clone, Copy)]
enum Side {
    Requests,
    Limits,
}

/// Milli-cores to shares.
#[must_use]
pub fn shares(millis: i64) -> i64 {
    (millis.max(0).saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Milli-cores to quota within `period`, both microseconds; 0 for no limit.
#[must_use]
pub fn quota(millis: i64, period: i64) -> i64 {
    if millis <= 0 { 0 } else { (millis.saturating_mul(period) / 1000).max(MIN_QUOTA) }
}

/// cgroup v1 shares (2 to 262144) to cgroup v2 weight (1 to 10000), linear as runc does it.
#[must_use]
pub fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(MIN_SHARES, MAX_SHARES) - MIN_SHARES) * 9999 / (MAX_SHARES - MIN_SHARES)
}

/// The class of a pod. What the API server wrote into the status counts, else the spec decides.
#[must_use]
pub fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
        Some("Guaranteed") => return Qos::Guaranteed,
        Some("Burstable") => return Qos::Burstable,
        Some("BestEffort") => return Qos::BestEffort,
        _ => {}
    }
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let parts: Vec<Option<&ResourceRequirements>> = match pod_level(spec) {
        Some(resources) => vec![Some(resources)],
        None => all_containers(spec).map(|container| container.resources.as_ref()).collect(),
    };
    let asked = |part: Option<&ResourceRequirements>, resource| {
        !(amount(part, resource, Side::Requests).is_zero() && amount(part, resource, Side::Limits).is_zero())
    };
    if !parts.iter().any(|part| asked(*part, "cpu") || asked(*part, "memory")) {
        return Qos::BestEffort;
    }
    let exact = |part: Option<&ResourceRequirements>, resource| {
        let limit = amount(part, resource, Side::Limits);
        !limit.is_zero() && limit == amount(part, resource, Side::Requests)
    };
    if parts.iter().all(|part| exact(*part, "cpu") && exact(*part, "memory")) {
        return Qos::Guaranteed;
    }
    Qos::Burstable
}

/// What a pod asks for of `cpu` or `memory` in total: its containers together, or its heaviest moment of
/// initialisation if that is more, and the overhead of its runtime class.
#[must_use]
pub fn pod_request(pod: &Pod, resource: &str) -> Amount {
    pod_amount(pod, resource, Side::Requests)
}

/// What a pod may use in total; zero when nothing is limited.
#[must_use]
pub fn pod_limit(pod: &Pod, resource: &str) -> Amount {
    pod_amount(pod, resource, Side::Limits)
}

/// The limits of the pod's own cgroup.
#[must_use]
pub fn pod_resources(pod: &Pod, cpu: CpuQuota) -> PodResources {
    let class = qos(pod);
    if class == Qos::BestEffort {
        return PodResources { cpu_shares: MIN_SHARES, ..PodResources::default() };
    }
    // One container without a limit leaves the pod without one.
    let declared = |resource: &str| {
        let Some(spec) = &pod.spec else { return false };
        pod_level(spec).is_some_and(|level| !amount(Some(level), resource, Side::Limits).is_zero())
            || all_containers(spec).all(|c| !amount(c.resources.as_ref(), resource, Side::Limits).is_zero())
    };
    let limit_of = |resource: &str| Some(pod_limit(pod, resource)).filter(|_| declared(resource));
    PodResources {
        cpu_shares: shares(pod_request(pod, "cpu").millis()),
        cpu_quota: limit_of("cpu")
            .map(|limit| (if cpu.enforced { quota(limit.millis(), cpu.period) } else { -1 }, cpu.period)),
        memory_limit: limit_of("memory").map(Amount::units),
    }
}

/// The limits of one container. `memory_capacity` is the machine's, in bytes.
#[must_use]
pub fn container_resources(
    pod: &Pod,
    container: &Container,
    cpu: CpuQuota,
    memory_capacity: i64,
) -> LinuxContainerResources {
    let own = container.resources.as_ref();
    let level = pod.spec.as_ref().and_then(pod_level);
    // Without a limit of its own a container may use what its pod may.
    let limit = |resource: &str| match amount(own, resource, Side::Limits) {
        Amount::ZERO => amount(level, resource, Side::Limits),
        limit => limit,
    };
    let cpu_limit = limit("cpu");
    let requested = own.and_then(|own| amount_in(own.requests.as_ref(), "cpu")).unwrap_or(cpu_limit);
    LinuxContainerResources {
        cpu_shares: shares(requested.millis()),
        cpu_period: if cpu.enforced { cpu.period } else { 0 },
        cpu_quota: if cpu.enforced { quota(cpu_limit.millis(), cpu.period) } else { 0 },
        memory_limit_in_bytes: limit("memory").units(),
        oom_score_adj: oom_score_adj(pod, container, memory_capacity),
        hugepage_limits: hugepage_limits(own),
        ..LinuxContainerResources::default()
    }
}

/// Huge pages that a container asks for, by their size as the runtime names it: `2MB`. Only these are limited: a machine
/// without the kernel's controller for them runs everything else all the same.
fn hugepage_limits(own: Option<&ResourceRequirements>) -> Vec<HugepageLimit> {
    let limits = own.and_then(|own| own.limits.as_ref());
    let limit = |name: &String| {
        let size = name.strip_prefix("hugepages-")?;
        let limit = u64::try_from(amount_in(limits, name)?.units()).ok()?;
        Some(HugepageLimit { page_size: size.replace('i', "B"), limit })
    };
    limits.into_iter().flat_map(|limits| limits.keys()).filter_map(limit).collect()
}

/// Who the kernel kills first when memory runs out: 1000 is first, -997 nearly never. Between the classes, who uses
/// less than it asked for is safer.
#[must_use]
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let Some(spec) = &pod.spec else { return 1000 };
    if spec.priority_class_name.as_deref() == Some(NODE_CRITICAL) {
        return -997;
    }
    match qos(pod) {
        Qos::Guaranteed => return -997,
        Qos::BestEffort => return 1000,
        Qos::Burstable => {}
    }
    let request =
        |container: &Container| amount(container.resources.as_ref(), "memory", Side::Requests).units();
    // What the pod asked for beyond its containers is shared out evenly.
    let extra = match pod_level(spec).map(|level| amount(Some(level), "memory", Side::Requests)) {
        Some(total) if !total.is_zero() => {
            let asked = containers_amount(spec, "memory", Side::Requests).units();
            let n_containers = spec.containers.len() + sidecars(spec).count();
            (total.units() - asked).max(0) / i64::try_from(n_containers).unwrap_or(1).max(1)
        }
        _ => 0,
    };
    let capacity = i128::from(memory_capacity.max(1));
    let score = |bytes: i64| {
        let score = 1000 - 1000 * i128::from(bytes.saturating_add(extra)) / capacity;
        i64::try_from(score).unwrap_or(i64::MIN)
    };
    let mut adjust = score(request(container));
    if sidecars(spec).any(|sidecar| sidecar.name == container.name) {
        // A sidecar must not die before the containers it serves.
        adjust = adjust.min(score(spec.containers.iter().map(request).min().unwrap_or(0)));
    }
    // Stays clear of Guaranteed below and BestEffort above.
    adjust.clamp(3, 999)
}

fn pod_amount(pod: &Pod, resource: &str, side: Side) -> Amount {
    let Some(spec) = &pod.spec else { return Amount::ZERO };
    let level =
        pod_level(spec).map(|level| amount(Some(level), resource, side)).filter(|amount| !amount.is_zero());
    let total = level.unwrap_or_else(|| containers_amount(spec, resource, side));
    let overhead = amount_in(spec.overhead.as_ref(), resource).unwrap_or_default();
    match side {
        // No limit plus overhead is still no limit.
        Side::Limits if total.is_zero() => Amount::ZERO,
        _ => total + overhead,
    }
}

/// Sidecars run beside everything that comes after them; other init containers run one at a time before the rest.
fn containers_amount(spec: &PodSpec, resource: &str, side: Side) -> Amount {
    let of = |container: &Container| amount(container.resources.as_ref(), resource, side);
    let mut beside = Amount::ZERO;
    let mut peak = Amount::ZERO;
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            beside = beside + of(container);
            peak = peak.max(beside);
        } else {
            peak = peak.max(beside + of(container));
        }
    }
    let running = beside + spec.containers.iter().map(of).sum();
    running.max(peak)
}

/// A request that is not stated is the limit, as the API server would have written it.
fn amount(resources: Option<&ResourceRequirements>, resource: &str, side: Side) -> Amount {
    let Some(resources) = resources else { return Amount::ZERO };
    let limit = amount_in(resources.limits.as_ref(), resource);
    match side {
        Side::Limits => limit,
        Side::Requests => amount_in(resources.requests.as_ref(), resource).or(limit),
    }
    .unwrap_or_default()
}

/// The pod's own resources, when it has some of CPU or memory.
fn pod_level(spec: &PodSpec) -> Option<&ResourceRequirements> {
    spec.resources.as_ref().filter(|resources| {
        ["cpu", "memory"].iter().any(|resource| !amount(Some(resources), resource, Side::Requests).is_zero())
    })
}

fn all_containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn sidecars(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().filter(|container| is_sidecar(container))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    fn container(requests: Value, limits: Value) -> Value {
        json!({"name": "c", "resources": {"requests": requests, "limits": limits}})
    }

    #[test]
    fn kernel_numbers() {
        let check = |millis: i64, expected: (i64, i64, i64)| {
            assert_eq!(
                (shares(millis), quota(millis, QUOTA_PERIOD), weight(shares(millis))),
                expected,
                "{millis}"
            );
        };
        check(0, (2, 0, 1));
        check(1, (2, 1000, 1));
        check(10, (10, 1000, 1));
        check(100, (102, 10_000, 4));
        check(1000, (1024, 100_000, 39));
        check(1500, (1536, 150_000, 59));
        check(1_000_000, (262_144, 100_000_000, 10_000));
    }

    #[test]
    fn classes_and_pod_cgroups() {
        let check = |containers: Value, class: Qos, shares: i64, quota: Option<i64>, memory: Option<i64>| {
            let pod = pod(json!({"containers": containers}));
            let expected = PodResources {
                cpu_shares: shares,
                cpu_quota: quota.map(|quota| (quota, QUOTA_PERIOD)),
                memory_limit: memory,
            };
            assert_eq!((qos(&pod), pod_resources(&pod, CpuQuota::default())), (class, expected), "{pod:?}");
        };
        let full =
            || container(json!({"cpu": "100m", "memory": "1Ki"}), json!({"cpu": "100m", "memory": "1Ki"}));
        check(json!([full(), full()]), Qos::Guaranteed, 204, Some(20_000), Some(2048));
        check(
            json!([container(json!({}), json!({"cpu": "1", "memory": "5"}))]),
            Qos::Guaranteed,
            1024,
            Some(100_000),
            Some(5),
        );
        check(json!([container(json!({}), json!({}))]), Qos::BestEffort, 2, None, None);
        check(json!([container(json!({"cpu": "0"}), json!({}))]), Qos::BestEffort, 2, None, None);
        check(json!([full(), container(json!({}), json!({}))]), Qos::Burstable, 102, None, None);
        check(
            json!([container(json!({"cpu": "100m"}), json!({"cpu": "200m"}))]),
            Qos::Burstable,
            102,
            Some(20_000),
            None,
        );
        check(json!([container(json!({"memory": "1Gi"}), json!({}))]), Qos::Burstable, 2, None, None);
    }

    #[test]
    fn init_containers_and_overhead() {
        let check = |spec: Value, millis: i64| {
            assert_eq!(pod_request(&pod(spec.clone()), "cpu").millis(), millis, "{spec}")
        };
        let with = |cpu: &str, policy: Option<&str>| json!({"name": "c", "restartPolicy": policy, "resources": {"requests": {"cpu": cpu}}});
        check(json!({"containers": [with("1", None)], "initContainers": [with("3", None)]}), 3000);
        check(json!({"containers": [with("1", None)], "initContainers": [with("300m", None)]}), 1000);
        check(json!({"containers": [with("1", None)], "initContainers": [with("1", Some("Always"))]}), 2000);
        check(
            json!({"containers": [with("1", None)],
                   "initContainers": [with("1", Some("Always")), with("2", None)]}),
            3000,
        );
        check(json!({"containers": [with("1", None)], "overhead": {"cpu": "250m"}}), 1250);
        check(json!({"containers": [with("1", None)], "resources": {"requests": {"cpu": "4"}}}), 4000);
    }

    #[test]
    fn oom_scores() {
        const GIB: i64 = 1 << 30;
        let check = |spec: Value, expected: i64| {
            let pod = pod(spec.clone());
            let container = pod.spec.as_ref().unwrap().containers[0].clone();
            assert_eq!(oom_score_adj(&pod, &container, 10 * GIB), expected, "{spec}");
        };
        let memory = |text: &str| container(json!({"memory": text}), json!({}));
        check(json!({"containers": [container(json!({}), json!({}))]}), 1000);
        check(json!({"containers": [container(json!({}), json!({"cpu": "1", "memory": "1Gi"}))]}), -997);
        check(json!({"containers": [memory("1Gi")]}), 900);
        check(json!({"containers": [memory("1")]}), 999);
        check(json!({"containers": [memory("20Gi")]}), 3);
        check(json!({"priorityClassName": "system-node-critical", "containers": [memory("1Gi")]}), -997);
    }

    #[test]
    fn containers() {
        let pod = pod(
            json!({"containers": [container(json!({"cpu": "250m"}), json!({"cpu": "500m", "memory": "64Mi"}))]}),
        );
        let one = &pod.spec.as_ref().unwrap().containers[0];
        let resources = container_resources(&pod, one, CpuQuota::default(), 1 << 40);
        assert_eq!((resources.cpu_shares, resources.cpu_quota, resources.cpu_period), (256, 50_000, 100_000));
        assert_eq!((resources.memory_limit_in_bytes, resources.oom_score_adj), (64 << 20, 999));
        assert!(resources.hugepage_limits.is_empty());
        let huge: Container = serde_json::from_value(container(
            json!({}),
            json!({"hugepages-2Mi": "4Mi", "hugepages-1Gi": "1Gi", "memory": "1Gi"}),
        ))
        .unwrap();
        let mut limits: Vec<(String, u64)> = container_resources(&pod, &huge, CpuQuota::default(), 1 << 40)
            .hugepage_limits
            .into_iter()
            .map(|limit| (limit.page_size, limit.limit))
            .collect();
        limits.sort();
        assert_eq!(limits, [("1GB".to_owned(), 1 << 30), ("2MB".to_owned(), 4 << 20)]);
        let off = container_resources(&pod, one, CpuQuota { enforced: false, period: 100_000 }, 1 << 40);
        assert_eq!((off.cpu_quota, off.cpu_period), (0, 0));
    }
}
