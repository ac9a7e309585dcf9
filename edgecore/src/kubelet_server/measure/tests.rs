//! A runtime in memory, and files as the kernel would show them.

use super::*;
use crate::edged::FakeRuntime;

const UID: &str = "4f6c";

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn machine(folder: &Path) -> Machine {
    write(
        folder,
        &[
            ("proc/stat", "cpu  100 0 100 5 5 0 0 0 0 0\nbtime 1700000000\n"),
            ("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 400 kB\nInactive(file): 100 kB\n"),
            ("proc/loadavg", "0.00 0.01 0.05 1/222 3333\n"),
            ("proc/sys/kernel/pid_max", "4194304\n"),
            ("proc/sys/kernel/threads-max", "32768\n"),
            ("proc/net/dev", "eth0: 100 1 0 0 0 0 0 0 200 1 0 0 0 0 0 0\n"),
            ("proc/77/net/dev", "eth0: 7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0\n"),
            ("logs/shop_web_4f6c/app/0.log", "some lines\n"),
        ],
    );
    for (process, namespace) in [("self", "net:[1]"), ("77", "net:[2]")] {
        fs::create_dir_all(folder.join("proc").join(process).join("ns")).unwrap();
        std::os::unix::fs::symlink(namespace, folder.join("proc").join(process).join("ns/net")).unwrap();
    }
    Machine {
        node_name: "edge-1".into(),
        n_cpus: 2,
        memory_bytes: 1000 << 10,
        root_dir: folder.into(),
        pod_logs_root: folder.join("logs"),
        layout: Layout { driver: Driver::Cgroupfs, root: "/".into(), per_qos: true },
        cgroups: folder.join("cgroup"),
        proc: folder.join("proc"),
        volume_period: Duration::from_secs(60),
    }
}

/// A pod whose container `app` runs and has used 2 s.
async fn runtime() -> FakeRuntime {
    let runtime = FakeRuntime::new();
    runtime.add_image("web:1", "");
    let labels = [(POD_UID.to_owned(), UID.to_owned()), (CONTAINER_NAME.to_owned(), "app".to_owned())];
    let sandbox = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: "web".into(),
            uid: UID.into(),
            namespace: "shop".into(),
            attempt: 0,
        }),
        labels: labels.clone().into(),
        ..Default::default()
    };
    let sandbox_id = runtime.run_sandbox(&sandbox, "").await.unwrap();
    let config = |name: &str| v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: "web:1".into(), ..Default::default() }),
        labels: labels.clone().into(),
        ..Default::default()
    };
    let id = runtime.create_container(&sandbox_id, &config("app"), &sandbox).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    let ended = runtime.create_container(&sandbox_id, &config("ended"), &sandbox).await.unwrap();
    runtime.start_container(&ended).await.unwrap();
    runtime.exit_container(&ended, 0, "Completed");
    // Made by somebody else.
    runtime.run_sandbox(&v1::PodSandboxConfig::default(), "").await.unwrap();
    let number = |value| Some(v1::UInt64Value { value });
    runtime.set_stats(vec![v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes { id, ..Default::default() }),
        cpu: Some(v1::CpuUsage {
            timestamp: 5,
            usage_core_nano_seconds: number(2_000_000_000),
            usage_nano_cores: None,
        }),
        memory: Some(v1::MemoryUsage { timestamp: 5, working_set_bytes: number(300), ..Default::default() }),
        writable_layer: Some(v1::FilesystemUsage { used_bytes: number(4096), ..Default::default() }),
    }]);
    runtime
}

#[tokio::test]
async fn with_cgroups_of_version_1() {
    let folder = tempfile::tempdir().unwrap();
    let pod = format!("kubepods/burstable/pod{UID}");
    write(
        folder.path(),
        &[
            ("cgroup/cpuacct/cpuacct.usage", "9000000000\n"),
            ("cgroup/cpuacct/kubepods/cpuacct.usage", "4000000000\n"),
            (&format!("cgroup/cpuacct/{pod}/cpuacct.usage"), "3000000000\n"),
            ("cgroup/memory/memory.usage_in_bytes", "700000\n"),
            ("cgroup/memory/memory.stat", "total_inactive_file 100000\n"),
            (&format!("cgroup/pids/{pod}/pids.current"), "12\n"),
            (&format!("pods/{UID}/volumes/kubernetes.io~empty-dir/cache/deep/file"), "some bytes"),
            (&format!("cgroup/memory/{pod}/memory.usage_in_bytes"), "500\n"),
            (&format!("cgroup/memory/{pod}/memory.stat"), "total_inactive_file 100\n"),
            (&format!("cgroup/memory/{pod}/abc/cgroup.procs"), "77\n78\n"),
        ],
    );
    let gauge = Gauge::new(machine(folder.path()));
    let runtime = runtime().await;
    let mut figures = gauge.measure(&runtime, Scope::All).await;
    // Volumes come by later.
    let begun = std::time::Instant::now();
    while figures.pods.iter().any(|pod| pod.volumes.is_empty()) {
        assert!(begun.elapsed().as_secs() < 20, "the volumes were not measured");
        tokio::time::sleep(Duration::from_millis(10)).await;
        figures = gauge.measure(&runtime, Scope::All).await;
    }
    assert!(figures.is_whole);
    let node = &figures.node;
    assert_eq!(node.cpu.unwrap().core_nanos, 9_000_000_000);
    assert_eq!(node.memory.unwrap().working_set_bytes, Some(600_000));
    assert_eq!(node.memory.unwrap().available_bytes, Some(424_000));
    assert_eq!(node.pods_cpu.unwrap().core_nanos, 4_000_000_000);
    assert_eq!(node.booted_at, Some(1_700_000_000_000_000_000));
    assert_eq!((node.max_pid, node.n_processes), (Some(32768), Some(222)));
    assert_eq!(node.network.as_ref().unwrap().interfaces[0].rx_bytes, 100);
    assert!(node.disk.unwrap().capacity_bytes > Some(0));
    let [pod] = figures.pods.as_slice() else { panic!("{:?}", figures.pods) };
    assert_eq!((&*pod.namespace, &*pod.name, &*pod.uid), ("shop", "web", UID));
    assert_eq!(pod.cpu.unwrap().core_nanos, 3_000_000_000, "its level in the tree, not its containers");
    assert_eq!(pod.memory.unwrap().working_set_bytes, Some(400));
    assert_eq!(pod.network.as_ref().unwrap().interfaces[0].tx_bytes, 8);
    assert_eq!(pod.n_processes, Some(12));
    let [(volume, used)] = pod.volumes.as_slice() else { panic!("{:?}", pod.volumes) };
    assert_eq!((&**volume, used.inodes_used), ("cache", Some(3)), "the file and two directories");
    let short = gauge.measure_node(&runtime).await;
    assert_eq!((short.memory.unwrap().available_bytes, short.max_pid), (Some(424_000), Some(32768)));
    let [app] = pod.containers.as_slice() else { panic!("{:?}", pod.containers) };
    assert_eq!((&*app.name, app.cpu.unwrap().core_nanos), ("app", 2_000_000_000));
    assert_eq!(app.memory.unwrap().working_set_bytes, Some(300));
    assert_eq!(app.written.unwrap().used_bytes, Some(4096));
    assert_eq!(app.logs.unwrap().inodes_used, Some(1));
}

#[tokio::test]
async fn with_cgroups_of_version_2() {
    let folder = tempfile::tempdir().unwrap();
    let pod = format!("kubepods/pod{UID}");
    write(
        folder.path(),
        &[
            ("cgroup/cgroup.controllers", "cpu memory\n"),
            // The root has no memory.current.
            ("cgroup/cpu.stat", "usage_usec 9000000\n"),
            (&format!("cgroup/{pod}/cpu.stat"), "usage_usec 3000000\n"),
            (&format!("cgroup/{pod}/memory.current"), "500\n"),
            (&format!("cgroup/{pod}/memory.max"), "1400\n"),
            (&format!("cgroup/{pod}/memory.stat"), "inactive_file 100\nanon 50\n"),
            (&format!("cgroup/{pod}/cgroup.procs"), "77\n"),
        ],
    );
    let gauge = Gauge::new(machine(folder.path()));
    let figures = gauge.measure(&runtime().await, Scope::All).await;
    assert_eq!(figures.node.cpu.unwrap().core_nanos, 9_000_000_000);
    assert_eq!(figures.node.memory.unwrap().working_set_bytes, Some(500 << 10));
    let pod = &figures.pods[0];
    assert_eq!(pod.cpu.unwrap().core_nanos, 3_000_000_000);
    assert_eq!(pod.memory.unwrap().available_bytes, Some(1000));
    assert_eq!(pod.network.as_ref().unwrap().interfaces[0].rx_bytes, 7);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_says_nothing_of_images_has_not_moved_them() {
    let folder = tempfile::tempdir().unwrap();
    let gauge = Gauge::new(machine(folder.path()));
    let runtime = runtime().await;
    // Another file system than that of any temporary folder.
    runtime.set_image_place("/proc");
    assert!(gauge.measure_node(&runtime).await.has_image_disk);
    runtime.hold("image_fs_info");
    let begun = tokio::time::Instant::now();
    let node = gauge.measure_node(&runtime).await;
    assert!(node.has_image_disk && node.memory.is_some());
    assert!(begun.elapsed() < Duration::from_secs(3), "memory cannot wait");
    runtime.go_away();
    runtime.release("image_fs_info");
    assert!(gauge.measure_all(&runtime).await.node.has_image_disk);
}

#[tokio::test]
async fn what_is_missing_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut machine = machine(folder.path());
    machine.layout.per_qos = false;
    let gauge = Gauge::new(machine);
    let runtime = runtime().await;
    let figures = gauge.measure(&runtime, Scope::CpuAndMemory).await;
    // /proc speaks for a machine without cgroups, containers for their pod.
    assert_eq!(figures.node.cpu.unwrap().core_nanos, 2_000_000_000);
    assert_eq!(figures.pods[0].cpu.unwrap().core_nanos, 2_000_000_000);
    assert_eq!(figures.pods[0].memory.unwrap().working_set_bytes, Some(300));
    assert_eq!((figures.node.pods_cpu, &figures.node.network), (None, &None));

    runtime.go_away();
    let figures = gauge.measure(&runtime, Scope::All).await;
    assert!(!figures.is_whole && figures.pods.is_empty() && figures.node.cpu.is_some());
}
