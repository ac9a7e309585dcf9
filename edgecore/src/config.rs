//! What edgecore.yaml may say: KubeEdge's keys with KubeEdge's names and units, and a few of our own.
//!
//! The doc line of a key is its manual. A key that KubeEdge has and we do not stands in `config/kubeedge_keys.txt`
//! and only warns. Read once by `main.rs`, which hands each module its own section; never written.

mod kubelet_file;
mod managers;
mod reserved;
mod shutdown;
mod size;
mod thresholds;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Taint;
use ke_api::node::KUBELET_PORT;
use ke_run::config::{ConfigFile, GoDuration, HostPort, Problem, Secret, Underlay, Within};
use ke_run::telemetry::LoggingConfig;
use serde::{Deserialize, Serialize};

use crate::db::Synchronous;
use crate::device_twin::DeviceTwinConfig;
use crate::edge_stream::EdgeStreamConfig;
use crate::edged::admission::AllowedSysctls;
use crate::event_bus::EventBusConfig;
use crate::pod_network::PodNetworkConfig;
pub use managers::{MemorySwap, NoManager, SwapBehavior};
pub use reserved::{Reserve, Reserved};
pub use shutdown::ShutdownPeriod;
pub use size::Size;
pub use thresholds::{Amounts, EvictionHard, Graces, Limit, Signal, Threshold, limits};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeCoreConfig {
    /// Where everything that must survive a restart is kept.
    pub database: DatabaseConfig,
    /// One section per module.
    pub modules: Modules,
    /// Health and metrics.
    pub admin: AdminConfig,
    /// Log lines on standard error.
    pub logging: LoggingConfig,
}

/// `database`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DatabaseConfig {
    /// SQLite file. Its directory is made if it is not there.
    pub data_source: PathBuf,
    /// `full`: what was acknowledged survives a power cut. `off` is only for the test that shows that `full` is needed: it
    /// loses acknowledged objects with the power. Not in KubeEdge.
    pub synchronous: Synchronous,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { data_source: "/var/lib/kubeedge/edgecore.db".into(), synchronous: Synchronous::Full }
    }
}

/// `admin` (not in KubeEdge)
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AdminConfig {
    /// Where `/livez`, `/readyz` and `/metrics` are served over plain HTTP. Port 10560 is next to MetaServer's 10550 and
    /// used by neither KubeEdge nor Kubernetes.
    pub bind_address: SocketAddr,
    /// Unix socket at which `keadm ctl` asks; only root may. Empty: `edgecore.sock` beside the store.
    pub socket: PathBuf,
}

impl Default for AdminConfig {
    fn default() -> Self {
        let bind_address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10560);
        Self { bind_address, socket: PathBuf::new() }
    }
}

impl EdgeCoreConfig {
    /// Where `keadm ctl` asks. keadm has the same rule.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        if self.admin.socket.as_os_str().is_empty() {
            return self.database.data_source.with_file_name("edgecore.sock");
        }
        self.admin.socket.clone()
    }
}

/// `modules`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Modules {
    /// The link to the cloud.
    pub edge_hub: EdgeHubConfig,
    /// This machine's pods.
    pub edged: EdgedConfig,
    /// What the cloud told, stored.
    pub meta_manager: MetaManagerConfig,
    /// Devices and their mappers.
    pub device_twin: DeviceTwinConfig,
    /// MQTT for devices and applications.
    pub event_bus: EventBusConfig,
    /// Logs and exec where the cloud is KubeEdge's.
    pub edge_stream: EdgeStreamConfig,
}

/// `modules.edgeHub`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeHubConfig {
    /// Whether to connect to a cloud at all. Without, stored pods still run.
    pub enable: bool,
    /// Time between two signs of life. Seconds, 1 to 600. A link silent for two of them counts as lost.
    pub heartbeat: Within<1, 600>,
    /// Where the certificate of this node is asked for: the cloud's HTTPS address, usually port 10002.
    pub http_server: String,
    /// Join token as `keadm gettoken` prints it. Needed only until the node has a certificate.
    pub token: Secret,
    /// The cluster name in the cloud's link address. KubeEdge's constant; both ends must agree.
    #[serde(rename = "projectID")]
    pub project_id: String,
    /// CA of the cloud, fetched at the first join and checked against the token.
    pub tls_ca_file: PathBuf,
    /// Certificate of this node.
    pub tls_cert_file: PathBuf,
    /// Key of that certificate. Made here, never leaves.
    pub tls_private_key_file: PathBuf,
    /// Whether the certificate is renewed before it runs out.
    pub rotate_certificates: bool,
    /// Link over WebSocket.
    pub websocket: EdgeWebSocketConfig,
    /// Link over QUIC.
    pub quic: EdgeQuicConfig,
    /// Longest wait between two attempts to connect. Seconds, 1 to 3600; waits grow up to it and are spread by chance.
    /// Not in KubeEdge, which waits two heartbeats each time.
    pub reconnect_max_secs: Within<1, 3600>,
    /// File with the join token, read when `token` is empty and the node has no certificate. Its presence is optional.
    /// Not in KubeEdge, where the path is fixed.
    pub bootstrap_file: PathBuf,
}

impl Default for EdgeHubConfig {
    fn default() -> Self {
        Self {
            enable: true,
            heartbeat: Within::of::<15>(),
            http_server: "https://127.0.0.1:10002".to_owned(),
            token: Secret::default(),
            project_id: "e632aba927ea4ac2b575ec1603d56f10".to_owned(),
            tls_ca_file: "/etc/kubeedge/ca/rootCA.crt".into(),
            tls_cert_file: "/etc/kubeedge/certs/server.crt".into(),
            tls_private_key_file: "/etc/kubeedge/certs/server.key".into(),
            rotate_certificates: true,
            websocket: EdgeWebSocketConfig::default(),
            quic: EdgeQuicConfig::default(),
            reconnect_max_secs: Within::of::<30>(),
            bootstrap_file: "/etc/kubeedge/bootstrap-edgecore.conf".into(),
        }
    }
}

/// `modules.edgeHub.websocket`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeWebSocketConfig {
    /// Whether the link runs over WebSocket; the only way so far.
    pub enable: bool,
    /// CloudHub, as host:port.
    pub server: HostPort,
    /// How long connecting, TLS and the upgrade may take together. Seconds, 1 to 300.
    pub handshake_timeout: Within<1, 300>,
    /// How long a send may be stuck before the link counts as lost. Seconds, 1 to 300.
    pub write_deadline: Within<1, 300>,
}

impl Default for EdgeWebSocketConfig {
    fn default() -> Self {
        Self {
            enable: true,
            server: HostPort::new("127.0.0.1", 10000),
            handshake_timeout: Within::of::<30>(),
            write_deadline: Within::of::<15>(),
        }
    }
}

/// `modules.edgeHub.quic`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeQuicConfig {
    /// Must be false: not supported yet.
    pub enable: bool,
}

/// `modules.edged`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgedConfig {
    /// Whether this machine runs pods and is a Node.
    pub enable: bool,
    /// Name of the Node. Empty: the host name in lower case.
    pub hostname_override: String,
    /// Address that the Node reports. Empty: the one the default route uses.
    #[serde(rename = "nodeIP")]
    pub node_ip: String,
    /// Labels given to the Node when it is registered.
    pub node_labels: BTreeMap<String, String>,
    /// Whether the registered Node takes new pods at once.
    pub register_schedulable: bool,
    /// Whether pod events go to the cloud. KubeEdge's default is false.
    pub report_event: bool,
    /// Directory of pod volumes and other files of pods.
    pub root_directory: PathBuf,
    /// Directory in which device plugins look for `kubelet.sock` and make their own sockets. They have the default
    /// built in, wherever `rootDirectory` is. Not in KubeEdge.
    pub device_plugins_dir: PathBuf,
    /// Image of the container that holds a pod's network. Empty: the runtime's own choice.
    pub pod_sandbox_image: String,
    /// The pods' network of a machine that has none. Not in KubeEdge.
    pub pod_network: PodNetworkConfig,
    /// A whole KubeletConfiguration, such as kubeadm's `/var/lib/kubelet/config.yaml`, read as it is: its keys count where
    /// `tailoredKubeletConfig` has none of the name. Empty: none. Not in KubeEdge.
    pub kubelet_config_file: PathBuf,
    /// The kubelet keys we know.
    pub tailored_kubelet_config: KubeletConfig,
}

impl Default for EdgedConfig {
    fn default() -> Self {
        Self {
            enable: true,
            hostname_override: String::new(),
            node_ip: String::new(),
            node_labels: BTreeMap::new(),
            register_schedulable: true,
            report_event: true,
            root_directory: "/var/lib/kubelet".into(),
            device_plugins_dir: "/var/lib/kubelet/device-plugins".into(),
            pod_sandbox_image: String::new(),
            pod_network: PodNetworkConfig::default(),
            kubelet_config_file: PathBuf::new(),
            tailored_kubelet_config: KubeletConfig::default(),
        }
    }
}

/// `modules.edged.tailoredKubeletConfig`: same names and units as the kubelet's configuration file.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubeletConfig {
    /// CRI socket of the container runtime.
    pub container_runtime_endpoint: String,
    /// CRI socket for images. Empty: the runtime's.
    pub image_service_endpoint: String,
    /// Who makes cgroups; must be what the runtime uses.
    pub cgroup_driver: CgroupDriver,
    /// Cgroup under which all pods live. Empty: the root.
    pub cgroup_root: String,
    /// Whether pods are grouped by quality of service in the cgroup tree.
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    /// Name servers for pods with `dnsPolicy: ClusterFirst`. Empty: they get the host's.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<IpAddr>,
    /// Search domain of the cluster, such as `cluster.local`. Empty: none.
    pub cluster_domain: String,
    /// File that holds the host's name servers, for pods that use those.
    pub resolv_conf: PathBuf,
    /// How many pods the Node takes. 1 to 10000.
    pub max_pods: Within<1, 10_000>,
    /// Limit of processes in one pod. -1: none.
    pub pod_pids_limit: Within<-1, 4_194_304>,
    /// Whether this Node creates itself in the cluster.
    pub register_node: bool,
    /// Taints given to the Node when it is registered.
    pub register_with_taints: Vec<Taint>,
    /// How often the node status is worked out. 1s to 1h.
    pub node_status_update_frequency: GoDuration<1, 3600>,
    /// How often an unchanged node status is sent all the same. 1s to 24h.
    pub node_status_report_frequency: GoDuration<1, 86_400>,
    /// How long the Node counts as alive after a sign of life. Seconds, 5 to 3600; renewed at a quarter of it.
    pub node_lease_duration_seconds: Within<5, 3600>,
    /// How often every pod is looked at even though nothing was heard of it. 1s to 1h.
    pub sync_frequency: GoDuration<1, 3600>,
    /// How long a call to the runtime may take, pulls aside. 1s to 1h.
    pub runtime_request_timeout: GoDuration<1, 3600>,
    /// Whether images are pulled one after the other.
    pub serialize_image_pulls: bool,
    /// How many images are pulled at once if not one after the other. 1 to 100; null: no limit.
    pub max_parallel_image_pulls: Option<Within<1, 100>>,
    /// Age below which an unused image is never removed. 0s to 30 days.
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: GoDuration<0, 2_592_000>,
    /// Disk usage above which unused images are removed. Per cent, 0 to 100; 100: never.
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: Within<0, 100>,
    /// Disk usage down to which they are removed. Per cent, below the high one.
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: Within<0, 100>,
    /// Age above which an unused image is removed however empty the disk is. 0s to a year; 0s: never.
    #[serde(rename = "imageMaximumGCAge")]
    pub image_maximum_gc_age: GoDuration<0, 31_536_000>,
    /// How often the volumes of pods are measured. 1s to 24h.
    pub volume_stats_agg_period: GoDuration<1, 86_400>,
    /// Below which amounts the Node says that it is short of memory, disk or process ids, gets no new pods, and ends pods at
    /// once. A key that is left out keeps its default. Amounts such as `100Mi`, or shares such as `10%`; `0`: never.
    pub eviction_hard: EvictionHard,
    /// Below which amounts it does so after a while, and gives pods time to end. Nothing: no such amounts.
    pub eviction_soft: Amounts,
    /// How long each of them may be crossed, such as `1m30s`. Each soft amount needs one. 0s to 24h.
    pub eviction_soft_grace_period: Graces,
    /// Seconds that pods get to end for a soft amount, if their own grace period is not shorter. 0 to 86400.
    pub eviction_max_pod_grace_period: Within<0, 86_400>,
    /// How much more than the amount must be free before the Node is content.
    pub eviction_minimum_reclaim: Amounts,
    /// How long the Node still says that it is short after it is not. 0s to 24h; 0s counts as 5m0s, as with a kubelet.
    pub eviction_pressure_transition_period: GoDuration<0, 86_400>,
    /// What the Node keeps from pods for the system's own programs.
    pub system_reserved: Reserved,
    /// What it keeps for edgecore and the container runtime, beside `systemReserved`.
    pub kube_reserved: Reserved,
    /// Must be `none`: no container gets CPUs of its own.
    pub cpu_manager_policy: NoManager,
    /// Must be `None`: no container gets memory of its own.
    pub memory_manager_policy: NoManager,
    /// Must be `none`: nothing is put near to anything.
    pub topology_manager_policy: NoManager,
    /// What containers may have of the machine's swap.
    pub memory_swap: MemorySwap,
    /// How long pods together have to end when the machine goes down. 0s to 24h; 0s: they are not ended. systemd is asked to
    /// wait so long; a unit that was not written by keadm or a package needs `NotifyAccess=main` for it, or a
    /// `TimeoutStopSec` that is longer. An edgecore that is stopped alone ends no pod.
    pub shutdown_grace_period: GoDuration<0, 86_400>,
    /// The last part of it, which is for critical pods alone. 0s to 24h, at most `shutdownGracePeriod`.
    pub shutdown_grace_period_critical_pods: GoDuration<0, 86_400>,
    /// The same by priority, in place of the two.
    pub shutdown_grace_period_by_pod_priority: Vec<ShutdownPeriod>,
    /// Folder of static pods: files with one Pod each that this machine runs with and without a cloud. Empty: none.
    pub static_pod_path: PathBuf,
    /// Kernel settings that pods may have beside the safe ones: names, or beginnings that end in `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Directory of container logs.
    pub pod_logs_dir: PathBuf,
    /// How large the log file of a container may grow before it is rotated: `10Mi`. -1: it is never rotated.
    pub container_log_max_size: Size,
    /// How many files a container's log may have, the one being written included. 2 to 1000.
    pub container_log_max_files: Within<2, 1000>,
    /// How often the logs' sizes are looked at. 3s to 1h.
    pub container_log_monitor_interval: GoDuration<3, 3600>,
    /// Address of this machine alone at which its own programs get metrics and pods. They show no credentials there.
    pub address: IpAddr,
    /// Port of that. 0: none. The cloud does not use it: it asks over its link.
    pub read_only_port: u16,
}

impl Default for KubeletConfig {
    fn default() -> Self {
        Self {
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".to_owned(),
            image_service_endpoint: String::new(),
            cgroup_driver: CgroupDriver::Cgroupfs,
            cgroup_root: String::new(),
            cgroups_per_qos: true,
            cluster_dns: Vec::new(),
            cluster_domain: String::new(),
            resolv_conf: "/etc/resolv.conf".into(),
            max_pods: Within::of::<110>(),
            pod_pids_limit: Within::of::<-1>(),
            register_node: true,
            register_with_taints: Vec::new(),
            node_status_update_frequency: GoDuration::of_secs::<10>(),
            node_status_report_frequency: GoDuration::of_secs::<300>(),
            node_lease_duration_seconds: Within::of::<40>(),
            sync_frequency: GoDuration::of_secs::<60>(),
            runtime_request_timeout: GoDuration::of_secs::<120>(),
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            image_minimum_gc_age: GoDuration::of_secs::<120>(),
            image_gc_high_threshold_percent: Within::of::<85>(),
            image_gc_low_threshold_percent: Within::of::<80>(),
            image_maximum_gc_age: GoDuration::of_secs::<0>(),
            volume_stats_agg_period: GoDuration::of_secs::<60>(),
            eviction_hard: EvictionHard::default(),
            eviction_soft: Amounts::new(),
            eviction_soft_grace_period: Graces::new(),
            eviction_max_pod_grace_period: Within::of::<0>(),
            eviction_minimum_reclaim: Amounts::new(),
            eviction_pressure_transition_period: GoDuration::of_secs::<300>(),
            system_reserved: Reserved::default(),
            kube_reserved: Reserved::default(),
            cpu_manager_policy: NoManager::lower(),
            memory_manager_policy: NoManager::upper(),
            topology_manager_policy: NoManager::lower(),
            memory_swap: MemorySwap::default(),
            shutdown_grace_period: GoDuration::of_secs::<0>(),
            shutdown_grace_period_critical_pods: GoDuration::of_secs::<0>(),
            shutdown_grace_period_by_pod_priority: Vec::new(),
            static_pod_path: "/etc/kubeedge/manifests".into(),
            allowed_unsafe_sysctls: Vec::new(),
            pod_logs_dir: "/var/log/pods".into(),
            container_log_max_size: Size::of_mi(10),
            container_log_max_files: Within::of::<5>(),
            container_log_monitor_interval: GoDuration::of_secs::<10>(),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            read_only_port: KUBELET_PORT,
        }
    }
}

/// Who makes cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// Directories made by the runtime itself.
    Cgroupfs,
    /// Slices asked of systemd.
    Systemd,
}

/// `modules.metaManager`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MetaManagerConfig {
    /// How long a question to the cloud may stay open. Seconds, 1 to 600.
    pub remote_query_timeout: Within<1, 600>,
}

impl Default for MetaManagerConfig {
    fn default() -> Self {
        Self { remote_query_timeout: Within::of::<60>() }
    }
}

impl ConfigFile for EdgeCoreConfig {
    const PROGRAM: &'static str = "edgecore";
    const PATH: &'static str = "/etc/kubeedge/config/edgecore.yaml";
    const KIND: &'static str = "EdgeCore";
    const API_VERSIONS: &'static [&'static str] = &["edgecore.config.kubeedge.io/v1alpha2"];
    const OLD_API_VERSIONS: &'static [&'static str] = &["edgecore.config.kubeedge.io/v1alpha1"];
    const UNSUPPORTED: &'static str = include_str!("config/kubeedge_keys.txt");
    const MINIMAL: &'static [&'static str] = &[
        "modules.edgeHub.httpServer",
        "modules.edgeHub.token",
        "modules.edgeHub.websocket.server",
        "modules.edged.hostnameOverride",
        "modules.edged.tailoredKubeletConfig.containerRuntimeEndpoint",
        "modules.edged.tailoredKubeletConfig.cgroupDriver",
    ];
    const UNDERLAY: Option<Underlay> = Some(kubelet_file::UNDERLAY);

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let hub = &self.modules.edge_hub;
        if hub.quic.enable {
            let text =
                "found true, but QUIC is not supported yet; set it to false and websocket.enable to true";
            problems.push(Problem::new("modules.edgeHub.quic.enable", text));
        } else if hub.enable && !hub.websocket.enable {
            let text = "found false, but it is the only way to the cloud so far; to run without cloud set \
                        modules.edgeHub.enable to false";
            problems.push(Problem::new("modules.edgeHub.websocket.enable", text));
        }
        if !hub.http_server.starts_with("https://") {
            let text = format!("found \"{}\", expected https://host:port", hub.http_server);
            problems.push(Problem::new("modules.edgeHub.httpServer", text));
        }
        let edged = &self.modules.edged;
        if !edged.node_ip.is_empty() && edged.node_ip.parse::<IpAddr>().is_err() {
            let text = format!("found \"{}\", expected an IP address", edged.node_ip);
            problems.push(Problem::new("modules.edged.nodeIP", text));
        }
        if !edged.pod_network.conf_dir.is_absolute() {
            let found = edged.pod_network.conf_dir.display();
            let text =
                format!("found \"{found}\", expected the whole path of a folder, such as /etc/cni/net.d");
            problems.push(Problem::new("modules.edged.podNetwork.confDir", text));
        }
        let kubelet = &edged.tailored_kubelet_config;
        if !edged.device_plugins_dir.is_absolute() {
            let found = edged.device_plugins_dir.display();
            let text = format!(
                "found \"{found}\", expected the whole path of a folder, such as /var/lib/kubelet/device-plugins"
            );
            problems.push(Problem::new("modules.edged.devicePluginsDir", text));
        }
        if !kubelet.address.is_loopback() {
            let text = format!(
                "found {}, expected an address of this machine alone, such as 127.0.0.1: nobody shows credentials there",
                kubelet.address
            );
            problems.push(Problem::new("modules.edged.tailoredKubeletConfig.address", text));
        }
        let folder = &kubelet.static_pod_path;
        if !folder.as_os_str().is_empty() && !folder.is_absolute() {
            let text = format!(
                "found \"{}\", expected the whole path of a folder, such as /etc/kubeedge/manifests",
                folder.display()
            );
            problems.push(Problem::new("modules.edged.tailoredKubeletConfig.staticPodPath", text));
        }
        if let Err(error) = AllowedSysctls::new("", &kubelet.allowed_unsafe_sysctls) {
            let key = "modules.edged.tailoredKubeletConfig.allowedUnsafeSysctls";
            problems.push(Problem::new(key, error.to_string()));
        }
        let (low, high) = (kubelet.image_gc_low_threshold_percent, kubelet.image_gc_high_threshold_percent);
        if low.get() >= high.get() {
            let text =
                format!("found {low}, expected less than imageGCHighThresholdPercent, which is {high}");
            let key = "modules.edged.tailoredKubeletConfig.imageGCLowThresholdPercent";
            problems.push(Problem::new(key, text));
        }
        problems.extend(thresholds::problems(&kubelet.eviction_soft, &kubelet.eviction_soft_grace_period));
        let (least, most) = (kubelet.image_minimum_gc_age.get(), kubelet.image_maximum_gc_age.get());
        if !most.is_zero() && most <= least {
            let text = "found no more than imageMinimumGCAge, expected more, or 0s for never";
            problems.push(Problem::new("modules.edged.tailoredKubeletConfig.imageMaximumGCAge", text));
        }
        problems.extend(kubelet.shutdown_problems());
        problems.extend(self.modules.event_bus.problems());
        problems
    }
}

#[cfg(test)]
mod tests;
