//! Pure: which pods make room for a critical one. The order is the kubelet's: as few Guaranteed pods as possible, then as few
//! Burstable ones, then BestEffort ones; within a class whoever comes nearest to what is still missing, and of equals the one
//! that asks for less.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::super::admission::request;
use super::super::evicted::is_critical;
use super::super::resources::{Qos, qos};

/// A resource and how much of it has to become free; more than nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) resource: String,
    pub(super) amount: i64,
}

/// Fractions are counted in billionths: exact, and the same on every machine.
const WHOLE: i128 = 1_000_000_000;

/// The pods that are to end for `newcomer`. Of equals the last goes first. Errors: even all of them would not be enough, with
/// what would be missing still.
pub(super) fn choose(
    newcomer: &Pod,
    others: &[Arc<Pod>],
    missing: &[Missing],
) -> Result<Vec<Arc<Pod>>, Vec<Missing>> {
    let class = |class: Qos| -> Vec<Arc<Pod>> {
        let lower = others.iter().filter(|other| is_lower(newcomer, other) && qos(other) == class);
        lower.cloned().collect()
    };
    let [best_effort, burstable, guaranteed] = [Qos::BestEffort, Qos::Burstable, Qos::Guaranteed].map(class);
    // What a class has to give is what the two others leave.
    let of_guaranteed = nearest(&guaranteed, without(missing, &[&best_effort, &burstable]))?;
    let of_burstable = nearest(&burstable, without(missing, &[&best_effort, &of_guaranteed]))?;
    let of_best_effort = nearest(&best_effort, without(missing, &[&of_burstable, &of_guaranteed]))?;
    Ok([of_best_effort, of_burstable, of_guaranteed].concat())
}

/// The words of a kubelet for what is missing.
pub(super) fn words(missing: &[Missing]) -> String {
    let each = missing.iter().map(|one| format!("(res: {}, q: {}), ", one.resource, one.amount));
    format!("[{}]", each.collect::<String>())
}

/// Whether `pod` may be ended for `newcomer`.
fn is_lower(newcomer: &Pod, pod: &Pod) -> bool {
    if is_critical(newcomer) && !is_critical(pod) {
        return true;
    }
    let priority = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.priority);
    matches!((priority(newcomer), priority(pod)), (Some(newcomer), Some(pod)) if newcomer > pod)
}

/// What is missing still when these are gone.
fn without(missing: &[Missing], gone: &[&[Arc<Pod>]]) -> Vec<Missing> {
    let left = |one: &Missing| {
        let freed = gone.iter().copied().flatten().map(|pod| request(pod, &one.resource));
        let amount = one.amount.saturating_sub(freed.fold(0, i64::saturating_add));
        (amount > 0).then(|| Missing { resource: one.resource.clone(), amount })
    };
    missing.iter().filter_map(left).collect()
}

fn nearest(pods: &[Arc<Pod>], mut missing: Vec<Missing>) -> Result<Vec<Arc<Pod>>, Vec<Missing>> {
    let mut pods = pods.to_vec();
    let mut chosen = Vec::new();
    while !missing.is_empty() {
        let key = |pod: &Arc<Pod>| (distance(pod, &missing), request(pod, "memory"), request(pod, "cpu"));
        // `min_by_key` gives the first of equals.
        let Some((index, _)) = pods.iter().enumerate().rev().min_by_key(|(_, pod)| key(pod)) else {
            return Err(missing);
        };
        let pod = pods.remove(index);
        missing = without(&missing, &[&[Arc::clone(&pod)]]);
        chosen.push(pod);
    }
    Ok(chosen)
}

/// How far the pod's end would be from enough: the sum of the squares of what is missing still, each as a share.
fn distance(pod: &Pod, missing: &[Missing]) -> i128 {
    let square = |one: &Missing| {
        let left = i128::from(one.amount.saturating_sub(request(pod, &one.resource)).max(0));
        let share = left * WHOLE / i128::from(one.amount.max(1));
        share * share
    };
    missing.iter().map(square).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, priority: Option<i32>, resources: Value) -> Arc<Pod> {
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": resources}]});
        let body = json!({"metadata": {"name": name, "uid": name}, "spec": spec});
        Arc::new(serde_json::from_value(body).unwrap())
    }

    /// Asks for CPU and memory.
    fn burstable(name: &str, cpu: &str, memory: &str) -> Arc<Pod> {
        pod(name, None, json!({"requests": {"cpu": cpu, "memory": memory}}))
    }

    fn guaranteed(name: &str, cpu: &str, memory: &str) -> Arc<Pod> {
        let amounts = json!({"cpu": cpu, "memory": memory});
        pod(name, None, json!({"requests": amounts.clone(), "limits": amounts}))
    }

    fn best_effort(name: &str) -> Arc<Pod> {
        pod(name, None, json!({}))
    }

    const MI: i64 = 1 << 20;

    #[test]
    fn who_makes_room() {
        let critical = pod("new", Some(2_000_000_000), json!({}));
        let check = |others: &[Arc<Pod>], missing: &[(&str, i64)], expected: Result<&[&str], &str>| {
            let missing: Vec<Missing> = missing
                .iter()
                .map(|(resource, amount)| Missing { resource: (*resource).to_owned(), amount: *amount })
                .collect();
            let found = choose(&critical, others, &missing);
            let names = |pods: Vec<Arc<Pod>>| -> Vec<String> {
                pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
            };
            let expected = expected.map(|names| names.iter().map(|&name| name.to_owned()).collect());
            let found = found.map(names).map_err(|missing| words(&missing));
            assert_eq!(found, expected.map_err(str::to_owned), "{missing:?}");
        };
        let cpu = |amount| [("cpu", amount)];
        check(&[], &[], Ok(&[]));
        check(&[], &cpu(1), Err("[(res: cpu, q: 1), ]"));
        // BestEffort pods have nothing but their place to give.
        check(&[best_effort("b")], &cpu(1), Err("[(res: cpu, q: 1), ]"));
        check(
            &[best_effort("b"), burstable("u", "1", "1Mi"), guaranteed("g", "1", "1Mi")],
            &[("pods", 1)],
            Ok(&["b"]),
        );
        // Lower classes first, even if more pods go.
        let small =
            [burstable("u1", "300m", "1Mi"), burstable("u2", "300m", "1Mi"), guaranteed("g", "2", "1Mi")];
        check(&small, &cpu(600), Ok(&["u2", "u1"]));
        // A Guaranteed one only for what the others lack; then those are spared that are not needed any more.
        check(&small, &cpu(700), Ok(&["g"]));
        check(&small, &cpu(2100), Ok(&["u2", "g"]));
        check(&small, &cpu(2700), Err("[(res: cpu, q: 100), ]"));
        // One that is enough goes before one that is nearly enough; of two that are enough the lesser one.
        let sizes = [burstable("s", "900m", "1Mi"), burstable("m", "1", "2Mi"), burstable("l", "2", "9Mi")];
        check(&sizes, &cpu(1000), Ok(&["m"]));
        check(&sizes, &cpu(1100), Ok(&["l"]));
        // By shares: half of the CPU counts as much as half of the memory.
        let mixed = [burstable("c", "600m", "1Mi"), burstable("r", "1m", "500Mi")];
        check(&mixed, &[("cpu", 601), ("memory", 501 * MI)], Ok(&["c", "r"]));
        check(&mixed, &[("cpu", 600), ("memory", MI)], Ok(&["c"]));
        // Of equals the last.
        check(&[burstable("a", "1", "1Mi"), burstable("b", "1", "1Mi")], &cpu(10), Ok(&["b"]));
        // Others that are critical stay, but for those of a lower priority.
        let system = [
            pod("same", Some(2_000_000_000), json!({"requests": {"cpu": "1"}})),
            pod("higher", Some(2_000_001_000), json!({"requests": {"cpu": "1"}})),
        ];
        check(&system, &cpu(1), Err("[(res: cpu, q: 1), ]"));
        let node_critical = pod("new", Some(2_000_001_000), json!({}));
        let missing = [Missing { resource: "cpu".into(), amount: 1 }];
        assert_eq!(choose(&node_critical, &system, &missing), Ok(vec![Arc::clone(&system[0])]));
    }
}
