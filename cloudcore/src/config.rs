//! What cloudcore.yaml may say: KubeEdge's keys with KubeEdge's names and units, and a few of our own.
//!
//! The doc line of a key is its manual. A key that KubeEdge has and we do not stands in `config/kubeedge_keys.txt`
//! and only warns. Read once by `main.rs`, which hands each module its own section; never written.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use ke_run::config::{ConfigFile, Problem, Within};
use ke_run::telemetry::LoggingConfig;
use serde::{Deserialize, Serialize};

use crate::ranges::Pool;

mod cloud_stream;

pub use cloud_stream::{CloudStreamConfig, KubeletAddress};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CloudCoreConfig {
    /// What belongs to no module.
    pub common_config: CommonConfig,
    /// How the API server is reached.
    #[serde(rename = "kubeAPIConfig")]
    pub kube_api_config: KubeApiConfig,
    /// One section per module.
    pub modules: Modules,
    /// Log lines on standard error.
    pub logging: LoggingConfig,
}

/// `commonConfig`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CommonConfig {
    /// Health and metrics.
    pub monitor_server: MonitorServerConfig,
}

/// `commonConfig.monitorServer`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MonitorServerConfig {
    /// Where `/livez`, `/readyz` and `/metrics` are served over plain HTTP.
    pub bind_address: SocketAddr,
}

impl Default for MonitorServerConfig {
    fn default() -> Self {
        Self { bind_address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9091) }
    }
}

/// `kubeAPIConfig`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubeApiConfig {
    /// Kubeconfig file. Empty: as a pod of the cluster.
    pub kube_config: String,
    /// Address of the API server; takes the place of the one in the kubeconfig. Empty: as that says.
    pub master: String,
    /// Requests a second that may be sent for long. 1 to 1000000. KubeEdge overwrites it with 5 times nodeLimit; here it
    /// holds as it stands.
    pub qps: Within<1, 1_000_000>,
    /// Requests that may be sent at once after a quiet time. 1 to 1000000.
    pub burst: Within<1, 1_000_000>,
}

impl Default for KubeApiConfig {
    fn default() -> Self {
        Self {
            kube_config: String::new(),
            master: String::new(),
            qps: Within::of::<5000>(),
            burst: Within::of::<10_000>(),
        }
    }
}

/// `modules`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Modules {
    /// The links to the edges.
    pub cloud_hub: CloudHubConfig,
    /// What edges need from the API server, and what they report to it.
    pub edge_controller: EdgeControllerConfig,
    /// Devices, their models, and what is reported of them.
    pub device_controller: DeviceControllerConfig,
    /// The slow safety net.
    pub sync_controller: SyncControllerConfig,
    /// Logs, exec and the like of pods on edge nodes.
    pub cloud_stream: CloudStreamConfig,
}

/// `modules.cloudHub`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CloudHubConfig {
    /// IP addresses that edges dial; they go into the server certificate. Empty: this host's own.
    pub advertise_address: Vec<String>,
    /// Names that edges dial; they go into the server certificate.
    pub dns_names: Vec<String>,
    /// Life of an edge's certificate. Days, 1 to 36500.
    pub edge_cert_signing_duration: Within<1, 36_500>,
    /// How often the join token is made anew. Hours, 1 to 8760; a token lives twice as long.
    pub token_refresh_duration: Within<1, 8760>,
    /// CA certificate. If file and Secret are missing, one is made.
    #[serde(rename = "tlsCAFile")]
    pub tls_ca_file: PathBuf,
    /// Key of the CA.
    #[serde(rename = "tlsCAKeyFile")]
    pub tls_ca_key_file: PathBuf,
    /// Server certificate.
    pub tls_cert_file: PathBuf,
    /// Key of the server certificate.
    pub tls_private_key_file: PathBuf,
    /// How many edges may be connected at once. 1 to 1000000.
    pub node_limit: Within<1, 1_000_000>,
    /// A link silent for this long is lost. Seconds, 5 to 3600. Edges show life every 15 s.
    pub keepalive_interval: Within<5, 3600>,
    /// A send stuck for this long means that the link is lost. Seconds, 1 to 600.
    pub write_timeout: Within<1, 600>,
    /// Certificates and the node-name check.
    pub https: HttpsConfig,
    /// Links over WebSocket.
    pub websocket: WebSocketConfig,
    /// Links over QUIC.
    pub quic: QuicConfig,
    /// Whether an edge may only touch what its node owns.
    pub authorization: AuthorizationConfig,
}

impl CloudHubConfig {
    /// The addresses to advertise. KubeEdge's files may hold an empty text, which means none.
    pub fn advertised(&self) -> impl Iterator<Item = IpAddr> {
        self.advertise_address.iter().filter_map(|text| text.trim().parse().ok())
    }

    /// The names for the server certificate, without the empty one that KubeEdge writes by default.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.dns_names.iter().map(|name| name.trim()).filter(|name| !name.is_empty())
    }
}

impl Default for CloudHubConfig {
    fn default() -> Self {
        Self {
            advertise_address: Vec::new(),
            dns_names: Vec::new(),
            edge_cert_signing_duration: Within::of::<365>(),
            token_refresh_duration: Within::of::<12>(),
            tls_ca_file: "/etc/kubeedge/ca/rootCA.crt".into(),
            tls_ca_key_file: "/etc/kubeedge/ca/rootCA.key".into(),
            tls_cert_file: "/etc/kubeedge/certs/server.crt".into(),
            tls_private_key_file: "/etc/kubeedge/certs/server.key".into(),
            node_limit: Within::of::<1000>(),
            keepalive_interval: Within::of::<30>(),
            write_timeout: Within::of::<30>(),
            https: HttpsConfig::default(),
            websocket: WebSocketConfig::default(),
            quic: QuicConfig::default(),
            authorization: AuthorizationConfig::default(),
        }
    }
}

/// `modules.cloudHub.https`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpsConfig {
    /// Whether nodes can join here.
    pub enable: bool,
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on; 0: any free one.
    pub port: Within<0, 65_535>,
}

impl Default for HttpsConfig {
    fn default() -> Self {
        Self { enable: true, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: Within::of::<10_002>() }
    }
}

/// `modules.cloudHub.websocket`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WebSocketConfig {
    /// Whether edges can connect here.
    pub enable: bool,
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on; 0: any free one.
    pub port: Within<0, 65_535>,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self { enable: true, address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: Within::of::<10_000>() }
    }
}

/// `modules.cloudHub.quic`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct QuicConfig {
    /// Must be false: not supported yet.
    pub enable: bool,
}

/// `modules.cloudHub.authorization`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationConfig {
    /// Whether an edge is held to what its node owns. KubeEdge's default is false.
    pub enable: bool,
    /// Whether a violation is only logged. KubeEdge's default is true.
    pub debug: bool,
}

impl Default for AuthorizationConfig {
    fn default() -> Self {
        Self { enable: true, debug: false }
    }
}

/// `modules.edgeController`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeControllerConfig {
    /// Whether this process serves pods and nodes.
    pub enable: bool,
    /// How long pods stay on an edge node that the cluster cannot reach, before Kubernetes removes them. Seconds, 0 to
    /// 31536000; null: for ever. Not in KubeEdge.
    pub pod_toleration_secs: Option<Within<0, 31_536_000>>,
    /// Ranges of pod addresses for edge nodes to which the cluster gives none. Not in KubeEdge.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: PodCidrConfig,
}

impl Default for EdgeControllerConfig {
    fn default() -> Self {
        Self { enable: true, pod_toleration_secs: None, pod_cidr: PodCidrConfig::default() }
    }
}

/// `modules.edgeController.podCIDR`
///
/// Given to edge nodes that ask for one (edgecore's `modules.edged.podNetwork.manage`, which `keadm join` sets on machines
/// without a network of their own) and have no `spec.podCIDR`, as the Node's annotation `isthmus.io/pod-range`; where other
/// Nodes have a `spec.podCIDR`, 30 seconds later, since the cluster may give one. What a node has it keeps until its Node is
/// deleted, and uses unless the cluster gives it another one.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodCidrConfig {
    /// What the ranges are cut from, such as 10.208.0.0/12 or fd00:1::/48; must be nobody else's address in the networks of the
    /// edge machines. Empty: none is given. Once nodes have some, it may grow or move, and they keep theirs.
    pub range: String,
    /// Bits of one node's range, 9 to 126: 24 is 254 addresses. Longer than the bits of `range`; with them it says for how many
    /// nodes there is room: 10.208.0.0/12 has 4096 of 24 bits. Not to be changed while several cloudcores run: of two sizes at
    /// the same time, ranges may overlap.
    pub node_mask_size: Within<9, 126>,
}

impl PodCidrConfig {
    /// What may be given; `None`: nothing. Errors: the key below this section, and what is wrong with it.
    pub fn pool(&self) -> Result<Option<Pool>, (&'static str, String)> {
        if self.range.trim().is_empty() {
            return Ok(None);
        }
        let prefix = u8::try_from(self.node_mask_size.to_u32()).unwrap_or(u8::MAX);
        Pool::new(self.range.trim(), prefix).map(Some)
    }
}

impl Default for PodCidrConfig {
    fn default() -> Self {
        Self { range: "10.208.0.0/12".to_owned(), node_mask_size: Within::of::<24>() }
    }
}

/// `modules.deviceController`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeviceControllerConfig {
    /// Whether this process serves devices.
    pub enable: bool,
    /// Devices and models of the old version v1alpha2. Not in KubeEdge, which empties them.
    pub conversion: ConversionConfig,
}

impl Default for DeviceControllerConfig {
    fn default() -> Self {
        Self { enable: true, conversion: ConversionConfig::default() }
    }
}

/// `modules.deviceController.conversion`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConversionConfig {
    /// Whether this process converts devices.kubeedge.io/v1alpha2 to v1beta1 and back when the API server asks. Nothing else
    /// depends on it.
    pub enable: bool,
    /// Address to listen on.
    pub address: IpAddr,
    /// Port to listen on, HTTPS; 0: any free one.
    pub port: Within<0, 65_535>,
    /// Host, or host:port, under which the API server reaches this process. Empty: the address of this machine, or pod, that
    /// faces the API server.
    pub advertise: String,
    /// Service through which the API server reaches this process, as namespace/name or namespace/name:port. Counts instead
    /// of advertise. Empty: none.
    pub service: String,
}

impl Default for ConversionConfig {
    fn default() -> Self {
        Self {
            enable: true,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: Within::of::<10_005>(),
            advertise: String::new(),
            service: String::new(),
        }
    }
}

/// `modules.syncController`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SyncControllerConfig {
    /// Whether what edges confirmed is compared with the API server from time to time.
    pub enable: bool,
}

impl Default for SyncControllerConfig {
    fn default() -> Self {
        Self { enable: true }
    }
}

impl ConfigFile for CloudCoreConfig {
    const PROGRAM: &'static str = "cloudcore";
    const PATH: &'static str = "/etc/kubeedge/config/cloudcore.yaml";
    const KIND: &'static str = "CloudCore";
    const API_VERSIONS: &'static [&'static str] =
        &["cloudcore.config.kubeedge.io/v1alpha2", "cloudcore.config.kubeedge.io/v1alpha1"];
    const OLD_API_VERSIONS: &'static [&'static str] = &[];
    const UNSUPPORTED: &'static str = include_str!("config/kubeedge_keys.txt");
    const MINIMAL: &'static [&'static str] = &[
        "kubeAPIConfig.kubeConfig",
        "kubeAPIConfig.master",
        "modules.cloudHub.advertiseAddress",
        "modules.cloudHub.nodeLimit",
        "modules.cloudHub.https",
        "modules.cloudHub.websocket",
    ];

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let hub = &self.modules.cloud_hub;
        if hub.quic.enable {
            let text =
                "found true, but QUIC is not supported yet; set it to false and websocket.enable to true";
            problems.push(Problem::new("modules.cloudHub.quic.enable", text));
        }
        let is_bad = |text: &&String| !text.trim().is_empty() && text.trim().parse::<IpAddr>().is_err();
        if let Some(bad) = hub.advertise_address.iter().find(is_bad) {
            let text = format!("found \"{bad}\", expected IP addresses; a name belongs into dnsNames");
            problems.push(Problem::new("modules.cloudHub.advertiseAddress", text));
        }
        if let Err((key, text)) = self.modules.edge_controller.pod_cidr.pool() {
            problems.push(Problem::new(&format!("modules.edgeController.podCIDR.{key}"), text));
        }
        problems.extend(self.modules.cloud_stream.problems());
        let service = &self.modules.device_controller.conversion.service;
        let is_named = |(namespace, name): (&str, &str)| !namespace.is_empty() && !name.is_empty();
        if !service.trim().is_empty() && !service.split_once('/').is_some_and(is_named) {
            let text = format!("found \"{service}\", expected namespace/name or namespace/name:port");
            problems.push(Problem::new("modules.deviceController.conversion.service", text));
        }
        problems
    }
}

#[cfg(test)]
mod tests;
