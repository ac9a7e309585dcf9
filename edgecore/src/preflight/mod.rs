//! Whether this machine can be an edge node: looks, and changes nothing.
//!
//! For `edgecore preflight`, which keadm runs before it touches anything, and whoever wants to know why a node is not
//! Ready. Called by `main.rs`.

mod cloud;
mod judge;
mod network;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use ke_api::pod_network::NoNetwork;
use ke_cri::v1;
use ke_wire::NodeName;
use serde::Serialize;

pub use judge::{Check, Finding, Verdict};
use judge::{Facts, RuntimeFacts, judge};
use network::{OwnNetwork, no_network};

use crate::config::{CgroupDriver, EdgeCoreConfig};
use crate::edge_hub;
use crate::edged::Runtime;
use crate::node as machine;

/// The kubelet's own port.
const KUBELET: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 10250);

/// What was looked at, and what a program needs of it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// One for each thing.
    pub findings: Vec<Finding>,
    /// The container runtime's cgroup driver, as `--cgroupdriver` takes it; absent when it does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_driver: Option<CgroupDriver>,
    /// Absent when pods have a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_network: Option<NoNetwork>,
}

impl Report {
    /// Whether nothing failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.verdict != Verdict::Failed)
    }
}

/// Looks at everything. `cgroups`: why there are none that may be written. `now`: Unix seconds.
pub async fn look(
    config: &EdgeCoreConfig,
    node: Result<NodeName, String>,
    runtime: Result<&dyn Runtime, String>,
    cgroups: Result<(), String>,
    now: i64,
) -> Report {
    let edged = &config.modules.edged;
    let hub = &config.modules.edge_hub;
    let (runtime, no_network) = match runtime {
        Ok(runtime) => {
            let facts = look_at_runtime(runtime).await;
            let has_none = facts.as_ref().is_ok_and(|facts| facts.no_network.is_some());
            let shown = if has_none { runtime.shown_config().await.ok().flatten() } else { None };
            (facts, has_none.then(|| no_network(shown.as_deref())))
        }
        Err(why) => (Err(why), None),
    };
    let own_network = no_network.as_ref().filter(|_| edged.pod_network.manage);
    let own_network = own_network.map(|runtime| OwnNetwork::look(&edged.pod_network, runtime));
    let identity = match &node {
        Ok(node) => {
            let looked = edge_hub::look(hub, node.clone(), now).await;
            looked.map_err(|error| (error.to_string(), error.advice()))
        }
        Err(_) => Err(("this machine's certificate needs the node's name".to_owned(), "")),
    };
    let store = config.database.data_source.parent().unwrap_or(Path::new("/"));
    let wanted_ip = edged.node_ip.parse().ok();
    let no_address = || "this machine has no address but loopback: set modules.edged.nodeIP".to_owned();
    let address = machine::address(wanted_ip).map(|address| address.to_string()).ok_or_else(no_address);
    let facts = Facts {
        is_root: rustix::process::geteuid().is_root(),
        node: node.map(|node| node.to_string()),
        address,
        endpoint: edged.tailored_kubelet_config.container_runtime_endpoint.clone(),
        wanted_driver: edged.tailored_kubelet_config.cgroup_driver,
        cgroups,
        taken: taken(config.admin.bind_address),
        nothing_left: machine::nothing_left(
            &machine::Host::read(&edged.root_directory),
            &edged.tailored_kubelet_config.eviction_hard,
            &edged.tailored_kubelet_config.reserved(),
        ),
        has_kubelet: TcpStream::connect_timeout(&KUBELET, Duration::from_millis(500)).is_ok(),
        disks: [store, &edged.root_directory].map(|path| (path.to_owned(), machine::free_bytes(path))).into(),
        clock: now,
        cloud: hub.http_server.clone(),
        identity,
        runtime,
        own_network,
    };
    let cgroup_driver = facts.runtime.as_ref().ok().and_then(|runtime| runtime.driver);
    Report { findings: judge(&facts), cgroup_driver, no_network }
}

fn taken(admin: SocketAddr) -> Vec<(String, String)> {
    let refused = TcpListener::bind(admin).err();
    refused.map(|error| (admin.to_string(), error.to_string())).into_iter().collect()
}

async fn look_at_runtime(runtime: &dyn Runtime) -> Result<RuntimeFacts, String> {
    let version = runtime.version().await.map_err(|error| error.to_string())?;
    let status = runtime.status().await.map_err(|error| error.to_string())?;
    let driver = match runtime.cgroup_driver().await {
        Ok(Some(v1::CgroupDriver::Systemd)) => Some(CgroupDriver::Systemd),
        Ok(Some(v1::CgroupDriver::Cgroupfs)) => Some(CgroupDriver::Cgroupfs),
        Ok(None) | Err(_) => None,
    };
    let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
    let network = conditions.into_iter().find(|condition| condition.r#type == "NetworkReady");
    let no_network = network.filter(|network| !network.status).map(|network| network.message);
    let name = format!("{} {}", version.runtime_name, version.runtime_version);
    Ok(RuntimeFacts { name, driver, no_network })
}
