//! Pure: what is said of an evicted Pod, in the kubelet's words.

use k8s_openapi::api::core::v1::Pod;

use super::judge::Seen;
use crate::config::{Limit, Signal};
use crate::edged::inits;
use crate::kubelet_server::{ContainerFigures, PodFigures};
use crate::quantity::{Amount, amount_in};

/// The kubelet's name of what runs out.
pub(super) fn resource(signal: Signal) -> &'static str {
    match signal {
        Signal::Memory => "memory",
        Signal::Disk | Signal::ImageDisk => "ephemeral-storage",
        Signal::Inodes | Signal::ImageInodes => "inodes",
        Signal::Pids => "pids",
    }
}

/// Why this Pod goes: what the Node is short of, and which of its containers use more than they asked for.
pub(super) fn low_on(limit: &Limit, seen: &Seen, pod: &Pod, figures: Option<&PodFigures>) -> String {
    let resource = resource(limit.signal);
    let mut said = format!("The node was low on resource: {resource}. ");
    if let Some(capacity) = seen.get(&limit.signal) {
        let number = if matches!(limit.signal, Signal::Memory | Signal::Disk | Signal::ImageDisk) {
            bytes
        } else {
            count
        };
        let (threshold, free) = (number(limit.threshold.of(capacity.whole)), number(capacity.free));
        said += &format!("Threshold quantity: {threshold}, available: {free}. ");
    }
    let (Some(spec), Some(figures)) = (&pod.spec, figures) else { return said };
    let requests = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    if let (Signal::Memory, Some(request)) = (limit.signal, requests.and_then(|all| all.get(resource))) {
        let used = bytes(figures.memory.and_then(|memory| memory.working_set_bytes).unwrap_or(0));
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        said += &format!(
            "Pod {name} was using {used}, request is {}, has larger consumption of {resource}. ",
            request.0
        );
    }
    for one in &figures.containers {
        let mut all = spec.containers.iter().chain(inits(spec));
        let Some(container) = all.find(|container| container.name == one.name) else { continue };
        let Some(used) = used(one, limit.signal) else { continue };
        let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let asked = amount_in(requests, resource).unwrap_or_default();
        if Amount::of_units(i64::try_from(used).unwrap_or(i64::MAX)) > asked {
            let request =
                requests.and_then(|all| all.get(resource)).map_or("0", |request| request.0.as_str());
            let (name, used) = (&one.name, bytes(used));
            said += &format!(
                "Container {name} was using {used}, request is {request}, has larger consumption of {resource}. "
            );
        }
    }
    said
}

fn used(container: &ContainerFigures, signal: Signal) -> Option<u64> {
    match signal {
        Signal::Memory => container.memory?.working_set_bytes,
        Signal::Disk | Signal::ImageDisk => {
            Some(container.written?.used_bytes?.saturating_add(container.logs?.used_bytes?))
        }
        Signal::Inodes | Signal::ImageInodes | Signal::Pids => None,
    }
}

/// As Kubernetes writes sizes: the largest binary unit that loses nothing.
pub(super) fn bytes(number: u64) -> String {
    scaled(number, 1024, &["", "Ki", "Mi", "Gi", "Ti", "Pi"])
}

/// As it writes counts.
fn count(number: u64) -> String {
    scaled(number, 1000, &["", "k", "M", "G", "T", "P"])
}

fn scaled(mut number: u64, step: u64, units: &[&str]) -> String {
    let mut units = units.iter().copied();
    let mut unit = units.next().unwrap_or_default();
    while number > 0 && number.is_multiple_of(step) {
        let Some(next) = units.next() else { break };
        (number, unit) = (number / step, next);
    }
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::judge::Capacity;
    use super::*;
    use crate::config::Threshold;
    use crate::kubelet_server::{Disk, Memory};

    #[test]
    fn numbers() {
        for (number, size, amount) in [
            (0, "0", "0"),
            (1023, "1023", "1023"),
            (1536 << 20, "1536Mi", "1610612736"),
            (3000, "3000", "3k"),
            (1 << 60, "1024Pi", "1152921504606846976"),
        ] {
            assert_eq!((bytes(number), count(number)), (size.to_owned(), amount.to_owned()));
        }
    }

    #[test]
    fn messages() {
        let pod = json!({"metadata": {"name": "web"}, "spec": {
            "initContainers": [{"name": "side", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "resources": {"requests": {"memory": "1Mi", "ephemeral-storage": "1Gi"}}}]}});
        let mut pod: Pod = serde_json::from_value(pod).unwrap();
        let container = |name: &str, memory: u64, disk: u64| ContainerFigures {
            name: name.into(),
            memory: Some(Memory { working_set_bytes: Some(memory), ..Memory::default() }),
            written: Some(Disk { used_bytes: Some(disk), ..Disk::default() }),
            logs: Some(Disk { used_bytes: Some(0), ..Disk::default() }),
            ..ContainerFigures::default()
        };
        let figures = PodFigures {
            containers: vec![container("app", 2 << 20, 4096), container("side", 5000, 2048)],
            memory: Some(Memory { working_set_bytes: Some(3 << 20), ..Memory::default() }),
            ..PodFigures::default()
        };
        let limit = |signal, threshold| Limit { signal, threshold, grace: None, reclaim: None };
        let seen = Seen::from([
            (Signal::Memory, Capacity { free: 50 << 20, whole: 1 << 30 }),
            (Signal::Inodes, Capacity { free: 12_000, whole: 1_000_000 }),
            (Signal::Disk, Capacity { free: 5000, whole: 100_000 }),
        ]);
        let memory = limit(Signal::Memory, Threshold::Amount(100 << 20));
        assert_eq!(
            low_on(&memory, &seen, &pod, Some(&figures)),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container app was using 2Mi, \
             request is 1Mi, has larger consumption of memory. Container side was using 5000, request is 0, has larger \
             consumption of memory. "
        );
        let disk = limit(Signal::Disk, Threshold::Percent(10.0));
        assert_eq!(
            low_on(&disk, &seen, &pod, Some(&figures)),
            "The node was low on resource: ephemeral-storage. Threshold quantity: 10000, available: 5000. Container side was \
             using 2Ki, request is 0, has larger consumption of ephemeral-storage. "
        );
        let inodes = limit(Signal::Inodes, Threshold::Percent(5.0));
        assert_eq!(
            low_on(&inodes, &seen, &pod, Some(&figures)),
            "The node was low on resource: inodes. Threshold quantity: 50k, available: 12k. "
        );
        if let Some(spec) = &mut pod.spec {
            spec.resources = serde_json::from_value(json!({"requests": {"memory": "1Gi"}})).unwrap();
        }
        assert!(
            low_on(&memory, &Seen::new(), &pod, Some(&figures)).starts_with(
                "The node was low on resource: memory. Pod web was using 3Mi, request is 1Gi, has larger consumption of memory. "
            )
        );
        assert_eq!(
            low_on(&disk, &Seen::new(), &pod, None),
            "The node was low on resource: ephemeral-storage. "
        );
    }
}
