//! Pure: cloudcore.yaml, to the letter as the chart's `cloudcore.config` writes it: pods are replaced when this text changes.

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::scalars::{ListenAddress, Toleration};
use super::values::{LogFormat, Values};
use super::{INTERNAL, NAME, NAMESPACE, named};

pub(super) fn config_map(values: &Values) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": named(values, NAME, NAMESPACE),
        "data": {"cloudcore.yaml": format!("{}\n", text(values))},
    })
}

/// Of the text.
pub(super) fn sha256(values: &Values) -> String {
    let hash = digest(&SHA256, text(values).as_bytes());
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether health and metrics stay on the host, since nobody outside the pod's network is to read them.
pub(super) fn is_monitor_local(values: &Values) -> bool {
    values.cloud_core.host_net_work.is_on() && !values.service_monitor.enable.is_on()
}

fn text(values: &Values) -> String {
    let core = &values.cloud_core;
    let (hub, edge) = (&core.modules.cloud_hub, &core.modules.edge_controller);
    let (device, sync) = (&core.modules.device_controller, &core.modules.sync_controller);
    let stream = &core.modules.cloud_stream;
    let listen = json!(core.listen_address);
    let monitor = match core.listen_address {
        _ if is_monitor_local(values) => "127.0.0.1",
        ListenAddress::Both => "[::]",
        ListenAddress::Ipv4 => "0.0.0.0",
    };
    let service =
        if device.conversion.service.is_on() { format!("{NAMESPACE}/{INTERNAL}") } else { String::new() };
    let lines = [
        "apiVersion: cloudcore.config.kubeedge.io/v1alpha2".to_owned(),
        "kind: CloudCore".to_owned(),
        "commonConfig:".to_owned(),
        "  monitorServer:".to_owned(),
        format!("    bindAddress: \"{monitor}:{}\"", core.monitor.port),
        "logging:".to_owned(),
        format!(
            "  format: {}",
            match core.logging.format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            }
        ),
        format!("  level: {}", json!(core.logging.level)),
        "modules:".to_owned(),
        "  cloudHub:".to_owned(),
        format!("    advertiseAddress: {}", json!(hub.advertise_address)),
        format!("    dnsNames: {}", json!(hub.dns_names)),
        format!("    nodeLimit: {}", hub.node_limit.get()),
        format!("    keepaliveInterval: {}", hub.keepalive_interval),
        format!("    writeTimeout: {}", hub.write_timeout),
        format!("    edgeCertSigningDuration: {}", hub.edge_cert_signing_duration),
        format!("    tokenRefreshDuration: {}", hub.token_refresh_duration),
        "    authorization:".to_owned(),
        format!("      enable: {}", hub.authorization.enable),
        format!("      debug: {}", hub.authorization.debug),
        "    websocket:".to_owned(),
        format!("      enable: {}", hub.websocket.enable),
        format!("      address: {listen}"),
        format!("      port: {}", hub.websocket.port),
        "    https:".to_owned(),
        format!("      enable: {}", hub.https.enable),
        format!("      address: {listen}"),
        format!("      port: {}", hub.https.port),
        "  edgeController:".to_owned(),
        format!("    enable: {}", edge.enable),
        match edge.pod_toleration_secs {
            Toleration::Forever => "    podTolerationSecs: null".to_owned(),
            Toleration::Seconds(seconds) => format!("    podTolerationSecs: {seconds}"),
        },
        "    podCIDR:".to_owned(),
        format!("      range: {}", json!(edge.pod_cidr.range)),
        format!("      nodeMaskSize: {}", edge.pod_cidr.node_mask_size),
        "  deviceController:".to_owned(),
        format!("    enable: {}", device.enable),
        "    conversion:".to_owned(),
        format!("      enable: {}", device.conversion.enable),
        format!("      address: {listen}"),
        format!("      port: {}", device.conversion.port),
        format!("      service: \"{service}\""),
        format!("      advertise: {}", json!(device.conversion.advertise)),
        "  syncController:".to_owned(),
        format!("    enable: {}", sync.enable),
        "  cloudStream:".to_owned(),
        format!("    enable: {}", stream.enable),
        format!("    address: {listen}"),
        format!("    streamPort: {}", stream.stream_port),
        format!("    tunnelPort: {}", stream.tunnel_port),
        format!("    kubeletPorts: {}", json!(stream.kubelet_ports)),
        format!("    kubeletAddress: {}", json!(stream.kubelet_address)),
    ];
    lines.join("\n")
}
