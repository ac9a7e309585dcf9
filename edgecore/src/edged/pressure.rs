//! Pure: what this Node is short of, and which pods it therefore does not take.
//!
//! `eviction` finds out, the Node tells it to the cloud, edged refuses by it.

use k8s_openapi::api::core::v1::{Pod, Toleration};

use super::evicted::is_critical;
use super::resources::{Qos, qos};

/// What a Node is short of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressures {
    /// `MemoryPressure`
    pub memory: bool,
    /// `DiskPressure`
    pub disk: bool,
    /// `PIDPressure`
    pub pids: bool,
}

const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// Why this Node does not take a pod that is new to it, in the kubelet's words; `None`: it does. Critical pods are always
/// taken. A shortage of memory alone keeps out only pods that ask for none and do not tolerate it.
#[must_use]
pub fn refuses_under_pressure(pod: &Pod, pressures: Pressures) -> Option<String> {
    let Pressures { memory, disk, pids } = pressures;
    if !(memory || disk || pids) || is_critical(pod) {
        return None;
    }
    if !(disk || pids) && (qos(pod) != Qos::BestEffort || tolerates_memory_pressure(pod)) {
        return None;
    }
    let all = [(memory, "MemoryPressure"), (disk, "DiskPressure"), (pids, "PIDPressure")];
    let names: Vec<&str> = all.into_iter().filter(|(is_short, _)| *is_short).map(|(_, name)| name).collect();
    Some(format!("The node had condition: [{}]. ", names.join(" ")))
}

fn tolerates_memory_pressure(pod: &Pod) -> bool {
    let tolerates = |one: &Toleration| {
        let key = one.key.as_deref().unwrap_or_default();
        let is_exists = one.operator.as_deref() == Some("Exists");
        let fits = match key {
            "" => is_exists,
            // The taint has no value.
            MEMORY_TAINT => is_exists || one.value.as_deref().unwrap_or_default().is_empty(),
            _ => false,
        };
        fits && matches!(one.effect.as_deref(), None | Some("" | "NoSchedule"))
    };
    pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten()).any(tolerates)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn who_is_refused() {
        let check = |spec: Value, pressures: (bool, bool, bool), expected: Option<&str>| {
            let mut body = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c"}]}});
            for (key, value) in spec.as_object().unwrap() {
                body["spec"][key] = value.clone();
            }
            let pod: Pod = serde_json::from_value(body).unwrap();
            let (memory, disk, pids) = pressures;
            let found = refuses_under_pressure(&pod, Pressures { memory, disk, pids });
            assert_eq!(found.as_deref(), expected, "{spec} {pressures:?}");
        };
        let asks = json!({"containers": [{"name": "c", "resources": {"requests": {"memory": "1Mi"}}}]});
        let critical = json!({"priority": 2_000_000_000});
        let tolerates = |toleration: Value| json!({"tolerations": [toleration]});
        check(json!({}), (false, false, false), None);
        check(json!({}), (true, false, false), Some("The node had condition: [MemoryPressure]. "));
        check(
            json!({}),
            (true, true, false),
            Some("The node had condition: [MemoryPressure DiskPressure]. "),
        );
        check(asks.clone(), (true, false, false), None);
        check(asks.clone(), (false, true, false), Some("The node had condition: [DiskPressure]. "));
        check(asks, (false, false, true), Some("The node had condition: [PIDPressure]. "));
        check(critical, (true, true, true), None);
        let key = MEMORY_TAINT;
        check(tolerates(json!({"operator": "Exists"})), (true, false, false), None);
        check(
            tolerates(json!({"key": key, "operator": "Exists", "effect": "NoSchedule"})),
            (true, false, false),
            None,
        );
        check(tolerates(json!({"key": key})), (true, false, false), None);
        let none = Some("The node had condition: [MemoryPressure]. ");
        check(
            tolerates(json!({"key": key, "operator": "Exists", "effect": "NoExecute"})),
            (true, false, false),
            none,
        );
        check(tolerates(json!({"key": key, "value": "x"})), (true, false, false), none);
        let disk = Some("The node had condition: [DiskPressure]. ");
        check(tolerates(json!({"operator": "Exists"})), (false, true, false), disk);
    }
}
