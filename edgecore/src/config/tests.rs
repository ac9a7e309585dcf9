//! KubeEdge's own defaults load, and what cannot work is refused.

use std::path::Path;

use super::*;
use ke_run::config::{ConfigError, Loaded, check, default_yaml, minimal_yaml};

pub(super) fn read(yaml: &str) -> Result<Loaded<EdgeCoreConfig>, ConfigError> {
    check(yaml, Path::new("edgecore.yaml"))
}

fn refuses(yaml: &str, expected: &[&str]) {
    let ConfigError::Keys { problems, .. } = read(yaml).unwrap_err() else { panic!("{yaml}") };
    // Their order is that of the file, or of the alphabet: other crates of a build decide how JSON objects are kept.
    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    let found = problems.iter().map(Problem::to_string).collect();
    assert_eq!(sorted(found), sorted(expected.iter().map(ToString::to_string).collect()), "{yaml}");
}

#[test]
fn kubeedge_defaults_load_without_a_warning() {
    let loaded = read(include_str!("../../tests/data/kubeedge-v1.23-edgecore.yaml")).unwrap();
    let told: Vec<&str> = loaded.warnings.iter().filter_map(|warning| warning.split(':').next()).collect();
    assert!(told.is_empty(), "{told:?}");
    let modules = loaded.config.modules;
    assert_eq!(modules.edge_hub.websocket.server.to_string(), "10.0.0.1:10000");
    assert!(!modules.edged.report_event);
}

#[test]
fn printed_files_can_be_read_back() {
    for yaml in [default_yaml::<EdgeCoreConfig>(), minimal_yaml::<EdgeCoreConfig>()] {
        let loaded = read(&yaml).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(
            serde_json::to_value(loaded.config).unwrap(),
            serde_json::to_value(EdgeCoreConfig::default()).unwrap()
        );
    }
}

#[test]
fn no_key_is_both_ours_and_unsupported() {
    let defaults = serde_json::to_value(EdgeCoreConfig::default()).unwrap();
    for line in EdgeCoreConfig::UNSUPPORTED.lines() {
        let path = line.split(' ').next().unwrap();
        assert!(defaults.pointer(&format!("/{}", path.replace('.', "/"))).is_none(), "{path}");
    }
}

#[test]
fn what_cannot_work_is_refused() {
    refuses(
        "modules:\n  edgeHub:\n    websocket:\n      sever: a:1\n",
        &["modules.edgeHub.websocket.sever: unknown key; did you mean \"server\"? (line 4)"],
    );
    refuses(
        "modules: {edgeHub: {quic: {enable: true}, httpServer: 'http://x'}}",
        &[
            "modules.edgeHub.quic.enable: found true, but QUIC is not supported yet; set it to false and \
             websocket.enable to true",
            "modules.edgeHub.httpServer: found \"http://x\", expected https://host:port",
        ],
    );
    refuses(
        "modules: {edged: {clusterDNS: [10.0.0.1]}}",
        &["modules.edged.clusterDNS: unknown key here; did you mean \
           \"modules.edged.tailoredKubeletConfig.clusterDNS\"? (line 1)"],
    );
    refuses(
        "modules: {edged: {podNetwork: {manage: true, confDir: net.d}}}",
        &["modules.edged.podNetwork.confDir: found \"net.d\", expected the whole path of a folder, such as \
           /etc/cni/net.d"],
    );
    refuses(
        "modules: {edged: {nodeIP: x, tailoredKubeletConfig: {imageGCLowThresholdPercent: 90}}}",
        &[
            "modules.edged.nodeIP: found \"x\", expected an IP address",
            "modules.edged.tailoredKubeletConfig.imageGCLowThresholdPercent: found 90, expected less than \
             imageGCHighThresholdPercent, which is 85",
        ],
    );
    refuses(
        "modules: {edged: {tailoredKubeletConfig: {address: 0.0.0.0}}}",
        &[
            "modules.edged.tailoredKubeletConfig.address: found 0.0.0.0, expected an address of this machine alone, such \
           as 127.0.0.1: nobody shows credentials there",
        ],
    );
    refuses(
        "modules: {edged: {tailoredKubeletConfig: {cgroupDriver: x, syncFrequency: 60}}}",
        &[
            "modules.edged.tailoredKubeletConfig.cgroupDriver: unknown variant `x`, expected `cgroupfs` or \
             `systemd` (line 1)",
            "modules.edged.tailoredKubeletConfig.syncFrequency: invalid type: integer `60`, expected a duration \
             such as \"1m30s\" from 1s to 1h0m0s (line 1)",
        ],
    );
    refuses(
        "modules: {edged: {tailoredKubeletConfig: {evictionHard: {nodefs.available: 10 percent, nodefs.free: 1%}}}}",
        &[
            "modules.edged.tailoredKubeletConfig.evictionHard.nodefs.available: found \"10 percent\", expected an \
             amount such as 100Mi or a share such as 10% (line 1)",
            "modules.edged.tailoredKubeletConfig.evictionHard.nodefs.free: unknown key; allowed here are \
             imagefs.available, imagefs.inodesFree, memory.available, nodefs.available, nodefs.inodesFree, pid.available (line 1)",
        ],
    );
    refuses(
        "modules: {edged: {tailoredKubeletConfig: {systemReserved: {memory: -1Gi, cpus: 1}, kubeReserved: {cpu: 10%}}}}",
        &[
            "modules.edged.tailoredKubeletConfig.systemReserved.memory: found \"-1Gi\", expected an amount such as \
             500m or 512Mi (line 1)",
            "modules.edged.tailoredKubeletConfig.systemReserved.cpus: unknown key; did you mean \"cpu\"? (line 1)",
            "modules.edged.tailoredKubeletConfig.kubeReserved.cpu: found \"10%\", expected an amount such as 500m \
             or 512Mi (line 1)",
        ],
    );
    refuses(
        "modules: {edged: {tailoredKubeletConfig: {cpuManagerPolicy: static, memoryManagerPolicy: Static}}}",
        &[
            "modules.edged.tailoredKubeletConfig.cpuManagerPolicy: found \"static\", expected none: no container gets \
             CPUs, memory or a NUMA node of its own on this node; take the key out (line 1)",
            "modules.edged.tailoredKubeletConfig.memoryManagerPolicy: found \"Static\", expected none: no container gets \
             CPUs, memory or a NUMA node of its own on this node; take the key out (line 1)",
        ],
    );
    refuses(
        "modules: {edged: {tailoredKubeletConfig: {topologyManagerPolicy: restricted, memorySwap: {swapBehavior: LimitedSwap}}}}",
        &[
            "modules.edged.tailoredKubeletConfig.topologyManagerPolicy: found \"restricted\", expected none: no \
             container gets CPUs, memory or a NUMA node of its own on this node; take the key out (line 1)",
            "modules.edged.tailoredKubeletConfig.memorySwap.swapBehavior: found \"LimitedSwap\", expected NoSwap: this \
             node gives no container a share of its swap; take the key out (line 1)",
        ],
    );
    refuses(
        "modules: {edged: {devicePluginsDir: plugins}}",
        &["modules.edged.devicePluginsDir: found \"plugins\", expected the whole path of a folder, such as \
           /var/lib/kubelet/device-plugins"],
    );
    refuses(
        "database: {synchronous: normal}",
        &["database.synchronous: unknown variant `normal`, expected `full` or `off` (line 1)"],
    );
    refuses("kind: CloudCore", &["kind: found \"CloudCore\", expected \"EdgeCore\" (line 1)"]);
}

#[test]
fn labels_and_taints_are_taken_as_they_are() {
    let yaml = "modules:\n  edged:\n    nodeLabels: {a.b/c: d}\n    tailoredKubeletConfig:\n      \
                registerWithTaints: [{key: edge, effect: NoSchedule}]\n";
    let edged = read(yaml).unwrap().config.modules.edged;
    assert_eq!(edged.node_labels.get("a.b/c").map(String::as_str), Some("d"));
    assert_eq!(edged.tailored_kubelet_config.register_with_taints[0].effect, "NoSchedule");
}

#[test]
fn thresholds_that_are_left_out_keep_their_default() {
    let yaml = "modules: {edged: {tailoredKubeletConfig: {evictionHard: {nodefs.available: 1Gi, imagefs.available: 15%}}}}";
    let loaded = read(yaml).unwrap();
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let hard = loaded.config.modules.edged.tailored_kubelet_config.eviction_hard;
    assert_eq!(hard, EvictionHard { disk: Threshold::Amount(1 << 30), ..EvictionHard::default() });
}
