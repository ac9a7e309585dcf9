//! Pure: what can be said about cloudcore's installation, as `charts/cloudcore/values.yaml` explains it, key by key.
//!
//! That file is the source of every shape here: a key is changed there first. The defaults stand in it only (`layers.rs`). What the
//! chart's schema refuses is refused here.

use ke_run::config::Within;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::scalars::{
    Address, AddressRange, Advertise, DnsName, Interval, KubeletAddress, Labels, Levels, ListenAddress,
    Object, Port, Ports, Quoted, Repository, Switch, Tag, Texts, Toleration,
};

/// The whole file. Keys that nobody reads are there to be checked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Values {
    pub(crate) cloud_core: CloudCore,
    pub(super) pod_disruption_budget: PodDisruptionBudget,
    pub(super) network_policy: NetworkPolicy,
    pub(super) service_monitor: ServiceMonitor,
    pub(super) grafana_dashboard: GrafanaDashboard,
    pub(super) iptables_manager: KubeEdges,
    pub(super) controller_manager: KubeEdges,
    pub(super) admission: KubeEdges,
    pub(super) mosquitto: KubeEdges,
    /// In KubeEdge's files; without effect.
    #[serde(default, rename = "appVersion")]
    _app_version: String,
    /// Helm's own, for charts in charts.
    #[serde(default, rename = "global")]
    _global: Object,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct CloudCore {
    pub(crate) replica_count: Within<0, 100>,
    pub(super) host_net_work: Switch,
    pub(super) listen_address: ListenAddress,
    pub(super) image: Image,
    pub(super) security_context: Object,
    pub(super) labels: Labels,
    #[serde(default)]
    pub(super) annotations: Texts,
    #[serde(default)]
    pub(super) affinity: Object,
    #[serde(default)]
    pub(super) tolerations: Vec<Object>,
    #[serde(default)]
    pub(super) node_selector: Texts,
    #[serde(default)]
    pub(super) priority_class_name: String,
    #[serde(default)]
    pub(super) strategy: Object,
    #[serde(default)]
    pub(super) resources: Resources,
    pub(super) feature_gates: FeatureGates,
    /// As KubeEdge's profile spells it; without effect there and here.
    #[serde(default, rename = "featureGate")]
    _feature_gate: FeatureGates,
    pub(crate) modules: Modules,
    pub(super) service: Service,
    pub(super) logging: Logging,
    pub(super) monitor: Monitor,
    pub(super) probes: Probes,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Image {
    pub(super) repository: Repository,
    pub(super) tag: Tag,
    pub(super) pull_policy: PullPolicy,
    #[serde(default)]
    pub(super) pull_secrets: Vec<PullSecret>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PullSecret {
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resources {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requests: Option<Object>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limits: Option<Object>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    claims: Option<Vec<Value>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct FeatureGates {
    pub(super) require_authorization: Switch,
    #[serde(rename = "moduleRestart")]
    _module_restart: Switch,
    #[serde(rename = "disableNodeTaskV1alpha2")]
    _disable_node_task_v1alpha2: Switch,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Modules {
    pub(crate) cloud_hub: CloudHub,
    pub(super) edge_controller: EdgeController,
    pub(super) device_controller: DeviceController,
    pub(super) sync_controller: SyncController,
    pub(super) cloud_stream: CloudStream,
    pub(super) dynamic_controller: KubeEdges,
    pub(super) router: KubeEdges,
    pub(super) task_manager: KubeEdges,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct CloudHub {
    pub(crate) advertise_address: Vec<Address>,
    pub(crate) dns_names: Vec<DnsName>,
    pub(super) node_limit: Quoted<1, 1_000_000>,
    pub(super) keepalive_interval: Within<5, 3600>,
    pub(super) write_timeout: Within<1, 600>,
    pub(super) edge_cert_signing_duration: Within<1, 36_500>,
    pub(super) token_refresh_duration: Within<1, 8760>,
    pub(super) authorization: Authorization,
    pub(super) websocket: Listener,
    pub(super) https: Listener,
    pub(super) quic: KubeEdges,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Authorization {
    pub(super) enable: Switch,
    pub(super) debug: Switch,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub(super) enable: Switch,
    pub(super) port: Port,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct EdgeController {
    pub(super) enable: Switch,
    pub(super) pod_toleration_secs: Toleration,
    #[serde(rename = "podCIDR")]
    pub(super) pod_cidr: PodCidr,
    /// KubeEdge's; node status is written when it arrives.
    #[serde(default, rename = "nodeUpdateFrequency")]
    _node_update_frequency: Value,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PodCidr {
    pub(super) range: AddressRange,
    pub(super) node_mask_size: Within<9, 126>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceController {
    pub(super) enable: Switch,
    pub(super) conversion: Conversion,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Conversion {
    pub(super) enable: Switch,
    pub(super) port: Port,
    pub(super) service: Switch,
    pub(super) advertise: Advertise,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SyncController {
    pub(super) enable: Switch,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CloudStream {
    pub(super) enable: Switch,
    pub(super) stream_port: Port,
    pub(super) tunnel_port: Port,
    pub(super) kubelet_ports: Ports,
    pub(super) kubelet_address: KubeletAddress,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Service {
    pub(super) enable: Switch,
    #[serde(rename = "type")]
    pub(super) kind: ServiceType,
    #[serde(default)]
    pub(super) annotations: Texts,
    #[serde(default)]
    pub(super) external_traffic_policy: TrafficPolicy,
    pub(super) cloudhub_node_port: Quoted<0, 65_535>,
    pub(super) cloudhub_https_node_port: Quoted<0, 65_535>,
    pub(super) tunnel_node_port: Quoted<0, 65_535>,
    // KubeEdge's: nobody listens on the one, and the API server comes to the other without this Service.
    #[serde(default, rename = "cloudhubQuicNodePort")]
    _quic: Option<Quoted<0, 65_535>>,
    #[serde(default, rename = "cloudstreamNodePort")]
    _stream: Option<Quoted<0, 65_535>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum ServiceType {
    NodePort,
    LoadBalancer,
    #[serde(rename = "ClusterIP")]
    ClusterIp,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) enum TrafficPolicy {
    #[default]
    #[serde(rename = "")]
    Usual,
    Cluster,
    Local,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Logging {
    pub(super) format: LogFormat,
    pub(super) level: Levels,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Monitor {
    pub(super) port: Port,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Probes {
    pub(super) enable: Switch,
    pub(super) startup: Probe,
    pub(super) liveness: Probe,
    pub(super) readiness: Probe,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Probe {
    pub(super) period_seconds: Within<1, 3600>,
    pub(super) timeout_seconds: Within<1, 3600>,
    pub(super) failure_threshold: Within<1, 1000>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct PodDisruptionBudget {
    pub(super) enable: Switch,
    pub(super) max_unavailable: Within<1, 100>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct NetworkPolicy {
    pub(super) enable: Switch,
    #[serde(default)]
    pub(super) monitor_from: Vec<Object>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceMonitor {
    pub(super) enable: Switch,
    pub(super) interval: Interval,
    #[serde(default)]
    pub(super) labels: Texts,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrafanaDashboard {
    pub(super) enable: Switch,
    #[serde(default)]
    pub(super) labels: Texts,
}

/// A module or part of KubeEdge that there is nothing to install for; everything else in it is accepted.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct KubeEdges {
    pub(super) enable: Switch,
}
