//! Pure: figures as `/stats/summary`, in the kubelet's words. What was not measured is left out.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::figures::{ContainerFigures, Cpu, Disk, Figures, Memory, Network, PodFigures};

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    All,
    /// `only_cpu_and_memory=true`
    CpuAndMemory,
}

pub(super) fn summary(figures: &Figures, scope: Scope) -> Value {
    let node = &figures.node;
    let all = |value: Value| if scope == Scope::All { value } else { Value::Null };
    let started = node.booted_at.map(time);
    let shown = json!({
        "node": {
            "nodeName": node.name,
            "systemContainers": [{
                "name": "pods",
                "startTime": started,
                "cpu": cpu(node.pods_cpu),
                "memory": memory(node.pods_memory),
            }],
            "startTime": started,
            "cpu": cpu(node.cpu),
            "memory": memory(node.memory),
            "network": all(network(node.network.as_ref())),
            "fs": all(disk(node.disk)),
            "runtime": all(json!({"imageFs": disk(node.image_disk), "containerFs": disk(node.image_disk)})),
            "rlimit": all(json!({
                "time": node.cpu.map(|cpu| time(cpu.at)),
                "maxpid": node.max_pid,
                "curproc": node.n_processes,
            })),
        },
        "pods": figures.pods.iter().map(|of| pod(of, scope)).collect::<Vec<_>>(),
    });
    without_nulls(shown)
}

fn pod(pod: &PodFigures, scope: Scope) -> Value {
    let all = |value: Value| if scope == Scope::All { value } else { Value::Null };
    json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": time(pod.started_at),
        "containers": pod.containers.iter().map(|of| container(of, scope)).collect::<Vec<_>>(),
        "cpu": cpu(pod.cpu),
        "memory": memory(pod.memory),
        "network": all(network(pod.network.as_ref())),
        "volume": all(volumes(&pod.volumes)),
        "ephemeral-storage": all(disk(pod.on_disk())),
        "process_stats": all(json!(pod.n_processes.map(|n_processes| json!({"process_count": n_processes})))),
    })
}

fn container(container: &ContainerFigures, scope: Scope) -> Value {
    let all = |value: Value| if scope == Scope::All { value } else { Value::Null };
    json!({
        "name": container.name,
        "startTime": time(container.started_at),
        "cpu": cpu(container.cpu),
        "memory": memory(container.memory),
        "rootfs": all(disk(container.written)),
        "logs": all(disk(container.logs)),
    })
}

fn cpu(cpu: Option<Cpu>) -> Option<Value> {
    cpu.map(|cpu| {
        json!({
            "time": time(cpu.at),
            "usageNanoCores": cpu.nano_cores,
            "usageCoreNanoSeconds": cpu.core_nanos,
        })
    })
}

fn memory(memory: Option<Memory>) -> Option<Value> {
    memory.map(|memory| {
        json!({
            "time": time(memory.at),
            "availableBytes": memory.available_bytes,
            "usageBytes": memory.usage_bytes,
            "workingSetBytes": memory.working_set_bytes,
            "rssBytes": memory.rss_bytes,
            "pageFaults": memory.page_faults,
            "majorPageFaults": memory.major_page_faults,
        })
    })
}

fn disk(disk: Option<Disk>) -> Value {
    let Some(disk) = disk else { return Value::Null };
    json!({
        "time": time(disk.at),
        "availableBytes": disk.available_bytes,
        "capacityBytes": disk.capacity_bytes,
        "usedBytes": disk.used_bytes,
        "inodesFree": disk.inodes_free,
        "inodes": disk.inodes,
        "inodesUsed": disk.inodes_used,
    })
}

fn volumes(volumes: &[(String, Disk)]) -> Value {
    let shown = volumes.iter().map(|(name, used)| {
        let mut shown = disk(Some(*used));
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("name".into(), json!(name));
        }
        shown
    });
    if volumes.is_empty() { Value::Null } else { shown.collect() }
}

fn network(network: Option<&Network>) -> Value {
    let Some(network) = network else { return Value::Null };
    let shown: Vec<Value> = network
        .interfaces
        .iter()
        .map(|one| {
            json!({
                "name": one.name, "rxBytes": one.rx_bytes, "rxErrors": one.rx_errors,
                "txBytes": one.tx_bytes, "txErrors": one.tx_errors,
            })
        })
        .collect();
    // The one that leads out stands for the whole.
    let mut whole = shown.first().cloned().unwrap_or_else(|| json!({}));
    if let Some(whole) = whole.as_object_mut() {
        whole.insert("time".into(), json!(time(network.at)));
        whole.insert("interfaces".into(), json!(shown));
    }
    whole
}

/// To the second, as Kubernetes writes times.
fn time(nanos: i64) -> String {
    let second = nanos.div_euclid(1_000_000_000);
    Timestamp::from_second(second).unwrap_or_default().to_string()
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.into_iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name, without_nulls(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        value => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet_server::figures::{Interface, NodeFigures};

    fn figures() -> Figures {
        let at = 1_700_000_000_123_456_789;
        let interface =
            |name: &str, rx_bytes| Interface { name: name.into(), rx_bytes, ..Interface::default() };
        let container = ContainerFigures {
            name: "app".into(),
            started_at: at,
            cpu: Some(Cpu { at, core_nanos: 7, nano_cores: Some(3) }),
            written: Some(Disk { at, used_bytes: Some(4096), inodes_used: Some(2), ..Disk::default() }),
            logs: Some(Disk { at, used_bytes: Some(100), ..Disk::default() }),
            ..ContainerFigures::default()
        };
        let pod = PodFigures {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "u1".into(),
            started_at: at,
            containers: vec![container],
            memory: Some(Memory { at, working_set_bytes: Some(9), ..Memory::default() }),
            volumes: vec![(
                "cache".into(),
                Disk { at, used_bytes: Some(50), inodes_used: Some(1), ..Disk::default() },
            )],
            n_processes: Some(3),
            ..PodFigures::default()
        };
        let interfaces = vec![interface("eth0", 5), interface("cni0", 6)];
        let node = NodeFigures {
            name: "edge-1".into(),
            network: Some(Network { at, interfaces }),
            disk: Some(Disk { at, capacity_bytes: Some(10), ..Disk::default() }),
            ..NodeFigures::default()
        };
        Figures { node, pods: vec![pod], is_whole: true }
    }

    #[test]
    fn words_are_the_kubelets() {
        let shown = summary(&figures(), Scope::All);
        let check = |path: &str, expected: Value| {
            assert_eq!(shown.pointer(path), Some(&expected), "{path} in {shown}");
        };
        check("/node/nodeName", json!("edge-1"));
        check("/node/network/name", json!("eth0"));
        check("/node/network/interfaces/1/rxBytes", json!(6));
        check("/node/fs", json!({"time": "2023-11-14T22:13:20Z", "capacityBytes": 10}));
        check("/pods/0/podRef", json!({"name": "web", "namespace": "shop", "uid": "u1"}));
        check("/pods/0/startTime", json!("2023-11-14T22:13:20Z"));
        check("/pods/0/memory", json!({"time": "2023-11-14T22:13:20Z", "workingSetBytes": 9}));
        let used = json!({"time": "2023-11-14T22:13:20Z", "usageNanoCores": 3, "usageCoreNanoSeconds": 7});
        check("/pods/0/containers/0/cpu", used);
        check("/pods/0/containers/0/rootfs/usedBytes", json!(4096));
        check("/pods/0/ephemeral-storage/usedBytes", json!(4246));
        check("/pods/0/ephemeral-storage/inodesUsed", json!(3));
        check("/pods/0/volume/0/name", json!("cache"));
        check("/pods/0/volume/0/usedBytes", json!(50));
        check("/pods/0/process_stats/process_count", json!(3));
        assert!(!shown.to_string().contains("null"), "{shown}");
    }

    #[test]
    fn less_on_request() {
        let shown = summary(&figures(), Scope::CpuAndMemory);
        assert!(shown.pointer("/pods/0/containers/0/cpu").is_some());
        for path in ["/node/fs", "/node/network", "/node/runtime", "/pods/0/containers/0/rootfs"] {
            assert_eq!(shown.pointer(path), None, "{path}");
        }
    }
}
