//! `modules.edgeStream`.

use std::path::PathBuf;

use ke_run::config::{HostPort, Within};
use serde::{Deserialize, Serialize};

use crate::config::EdgeHubConfig;

/// Where KubeEdge's cloudcore takes tunnels.
const PORT: u16 = 10_004;

/// `modules.edgeStream`
///
/// How a cloudcore of KubeEdge reaches this machine's kubelet: logs, exec, attach, statistics. A cloudcore of this project
/// reaches it over the link, and nothing is dialled here.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeStreamConfig {
    /// Whether a tunnel is dialled where the cloud is KubeEdge's. KubeEdge's default is false.
    pub enable: bool,
    /// CA of the cloud. null: that of `modules.edgeHub`.
    #[serde(rename = "tlsTunnelCAFile")]
    pub tls_tunnel_ca_file: Option<PathBuf>,
    /// Certificate of this node. null: that of `modules.edgeHub`.
    pub tls_tunnel_cert_file: Option<PathBuf>,
    /// Key of that certificate. null: that of `modules.edgeHub`.
    pub tls_tunnel_private_key_file: Option<PathBuf>,
    /// How long connecting, TLS and the upgrade may take together. Seconds, 1 to 300.
    pub handshake_timeout: Within<1, 300>,
    /// How long the tunnel may be silent before it counts as lost. Seconds, 10 to 300; it is asked for a sign of life every 5.
    pub read_deadline: Within<10, 300>,
    /// How long a send may be stuck before the tunnel counts as lost. Seconds, 1 to 300.
    pub write_deadline: Within<1, 300>,
    /// Stream server of the cloud, as host:port. null: the host of `modules.edgeHub.websocket.server`, port 10004.
    pub server: Option<HostPort>,
}

impl EdgeStreamConfig {
    /// Where the tunnel is dialled.
    #[must_use]
    pub fn server(&self, hub: &EdgeHubConfig) -> HostPort {
        self.server.clone().unwrap_or_else(|| HostPort::new(&hub.websocket.server.host, PORT))
    }

    /// The link's configuration with the tunnel's files in the place of its own.
    pub(super) fn files(&self, hub: &EdgeHubConfig) -> EdgeHubConfig {
        let or = |own: &Option<PathBuf>, hub: &PathBuf| own.clone().unwrap_or_else(|| hub.clone());
        EdgeHubConfig {
            tls_ca_file: or(&self.tls_tunnel_ca_file, &hub.tls_ca_file),
            tls_cert_file: or(&self.tls_tunnel_cert_file, &hub.tls_cert_file),
            tls_private_key_file: or(&self.tls_tunnel_private_key_file, &hub.tls_private_key_file),
            ..hub.clone()
        }
    }
}

impl Default for EdgeStreamConfig {
    fn default() -> Self {
        Self {
            enable: true,
            tls_tunnel_ca_file: None,
            tls_tunnel_cert_file: None,
            tls_tunnel_private_key_file: None,
            handshake_timeout: Within::of::<30>(),
            read_deadline: Within::of::<15>(),
            write_deadline: Within::of::<15>(),
            server: None,
        }
    }
}
