//! `modules.cloudStream`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ke_run::config::{Problem, Within};
use serde::{Deserialize, Serialize};

use crate::ranges::PortRange;

/// In `kubeletAddress`: each node's own.
const OWN: &str = "node";

/// `modules.cloudStream`
///
/// How the API server and metrics-server reach the kubelets of edge nodes: logs, exec, attach, port-forward, statistics.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CloudStreamConfig {
    /// Whether they are reached. KubeEdge's default is false.
    pub enable: bool,
    /// Address to listen on. Not in KubeEdge.
    pub address: IpAddr,
    /// Port to listen on for nodes that have none of their own, HTTPS; 0: any free one. It serves paths that name a pod.
    pub stream_port: Within<0, 65_535>,
    /// Port to listen on for tunnels of KubeEdge's edgecores, at which they show the certificates of their links; 0: any free
    /// one. Edgecores of this project need none.
    pub tunnel_port: Within<0, 65_535>,
    /// Ports for nodes, HTTPS: each node gets one, opened when it comes, and its Node says so as long as it exists. Such as
    /// 10400-11399 or 20001,20005-20010; empty: none, and no `kubectl top`. Nodes that find none free share `streamPort`.
    /// Not in KubeEdge.
    pub kubelet_ports: String,
    /// What Nodes of edges show as their InternalIP, which is where the API server connects to: an address of this process.
    /// Empty: the one of this machine, or pod, that faces the API server; if that is a loopback address, the first of
    /// `modules.cloudHub.advertiseAddress`. `node`: the node's own address, as with KubeEdge, which then somebody must bring
    /// here. Not in KubeEdge.
    pub kubelet_address: String,
    /// Where KubeEdge keeps the authority of `tlsStreamCertFile`. Not read: the API server knows whom it trusts.
    #[serde(rename = "tlsStreamCAFile")]
    pub tls_stream_ca_file: PathBuf,
    /// Certificate shown to the API server where the cluster signs none; if the file is missing, one of cloudcore's own CA.
    pub tls_stream_cert_file: PathBuf,
    /// Key of that certificate.
    pub tls_stream_private_key_file: PathBuf,
}

/// What Nodes show as their InternalIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KubeletAddress {
    /// What this process finds out.
    Found,
    /// This one.
    Fixed(IpAddr),
    /// The node's.
    Own,
}

impl CloudStreamConfig {
    /// The ports for nodes. Errors: what is wrong with the text.
    pub fn ports(&self) -> Result<PortRange, String> {
        self.kubelet_ports.parse::<PortRange>().map_err(|bad| bad.to_string())
    }

    /// What Nodes show. Errors: what is wrong with the text.
    pub fn address_shown(&self) -> Result<KubeletAddress, String> {
        match self.kubelet_address.trim() {
            "" => Ok(KubeletAddress::Found),
            OWN => Ok(KubeletAddress::Own),
            text => text.parse().map(KubeletAddress::Fixed).map_err(|_| {
                format!("found \"{text}\", expected an IP address of this process, node, or nothing")
            }),
        }
    }

    /// What is wrong although each value by itself is fine.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let key = |key: &str| format!("modules.cloudStream.{key}");
        if let Err(text) = self.address_shown() {
            problems.push(Problem::new(&key("kubeletAddress"), text));
        }
        match self.ports() {
            Err(text) => problems.push(Problem::new(&key("kubeletPorts"), text)),
            Ok(ports) if ports.contains(self.stream_port.to_u16()) => {
                let text =
                    format!("found {}, which is one of kubeletPorts: take it out there", self.stream_port);
                problems.push(Problem::new(&key("streamPort"), text));
            }
            Ok(ports) if ports.contains(self.tunnel_port.to_u16()) => {
                let text =
                    format!("found {}, which is one of kubeletPorts: take it out there", self.tunnel_port);
                problems.push(Problem::new(&key("tunnelPort"), text));
            }
            Ok(_) => {}
        }
        if self.tunnel_port == self.stream_port && self.tunnel_port.to_u16() != 0 {
            let text = format!("found {}, which is streamPort: choose another", self.tunnel_port);
            problems.push(Problem::new(&key("tunnelPort"), text));
        }
        problems
    }
}

impl Default for CloudStreamConfig {
    fn default() -> Self {
        Self {
            enable: true,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            stream_port: Within::of::<10_003>(),
            tunnel_port: Within::of::<10_004>(),
            kubelet_ports: "10400-11399".to_owned(),
            kubelet_address: String::new(),
            tls_stream_ca_file: "/etc/kubeedge/ca/streamCA.crt".into(),
            tls_stream_cert_file: "/etc/kubeedge/certs/stream.crt".into(),
            tls_stream_private_key_file: "/etc/kubeedge/certs/stream.key".into(),
        }
    }
}
