//! The one node that the suite looks at: ours or the stock kubelet, each on a machine, network and containerd of its own.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use e2e::cluster::Cluster;
use e2e::machine::Machine;
use e2e::network::Network;
use e2e::node::{CloudCore, EdgeCore, EdgeOptions};
use e2e::runtime::Runtime;
use e2e::stock::StockNode;
use serde_json::json;

pub(crate) const NAME: &str = "edge-1";
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Who looks after the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    Ours,
    Kubelet,
}

impl Agent {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "edgecore",
            Self::Kubelet => "a stock kubelet",
        }
    }
}

pub(crate) enum Node {
    Ours(Box<Ours>),
    Stock(Box<StockNode>),
}

/// Dropped from top to bottom: first who would start containers again.
pub(crate) struct Ours {
    _edge: EdgeCore,
    runtime: Runtime,
    _machine: Machine,
    _cloud: CloudCore,
}

impl Node {
    /// Returns when it is Ready.
    pub(crate) fn start(agent: Agent, cluster: &Cluster, network: &Network) -> Result<Self> {
        Ok(match agent {
            Agent::Ours => Self::Ours(Box::new(Ours::start(cluster, network)?)),
            Agent::Kubelet => Self::Stock(Box::new(stock(cluster, network)?)),
        })
    }

    pub(crate) fn import_image(&self, archive: &Path) -> Result<()> {
        match self {
            Self::Ours(ours) => ours.runtime.import_image(archive),
            Self::Stock(stock) => stock.runtime.import_image(archive),
        }
    }
}

/// As kubeadm leaves it, as far as this machine has what that needs: a limit on each pod, and one on all of each class.
fn stock(cluster: &Cluster, network: &Network) -> Result<StockNode> {
    let whole = json!({
        "cgroupsPerQOS": true,
        "enforceNodeAllocatable": ["pods"],
        "localStorageCapacityIsolation": true,
    });
    StockNode::start_with(cluster, network, NAME, &whole)
}

impl Ours {
    fn start(cluster: &Cluster, network: &Network) -> Result<Self> {
        let gateway = network.gateway();
        let everywhere = json!({"address": "0.0.0.0"});
        let hub = json!({"advertiseAddress": [gateway], "https": everywhere, "websocket": everywhere});
        let mut cloud = CloudCore::start(cluster, &json!({"modules": {"cloudHub": hub}}))?;
        let token = cloud.token(cluster)?;
        let machine = Machine::start_with_network(NAME, network)?;
        let runtime = Runtime::start_in(NAME, Some(&machine))?;
        let mut options = EdgeOptions::new(NAME, &cloud, token);
        options.websocket.set_ip(gateway.into());
        options.https.set_ip(gateway.into());
        let mut edge = EdgeCore::prepare(&runtime, &options)?;
        let (program, words) = machine.enter()?;
        edge.process.wrap(&program, &words.iter().map(String::as_str).collect::<Vec<_>>());
        edge.process.start()?;
        if let Some(address) = machine.address() {
            network.route(&runtime.subnet(), address)?;
        }
        edge.wait_ready(cluster, READY_WITHIN)?;
        Ok(Self { _edge: edge, runtime, _machine: machine, _cloud: cloud })
    }
}
