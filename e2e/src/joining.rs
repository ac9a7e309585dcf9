//! A cluster, a cloudcore beside it, which is a process of this machine, and a machine that is to join it.
//!
//! Called by the stories of `keadm join`.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Options};
use crate::joined::{Joined, told};
use crate::machine::Machine;
use crate::network::Network;
use crate::node::CloudCore;

/// Dropped from top to bottom: the node before its cloud.
pub struct Joining {
    pub edge: Joined,
    pub cluster: Cluster,
    pub cloud: CloudCore,
    /// As `keadm gettoken` tells it.
    pub token: String,
    network: Option<Network>,
}

impl Joining {
    /// The machine is on this one's network.
    pub fn start(node: &str) -> Result<Self> {
        let cluster = Cluster::start(&Options::default())?;
        let mut cloud = CloudCore::start(&cluster, &Value::Null)?;
        let secret = cloud.token(&cluster)?;
        let edge = Joined::prepare(node, &cloud)?;
        let joining = Self { edge, cluster, cloud, token: secret, network: None };
        let told = joining.typed(&["gettoken"])?;
        ensure!(told == joining.token, "gettoken: {told}");
        Ok(joining)
    }

    /// The machine has a network of its own.
    pub fn start_apart(node: &str) -> Result<Self> {
        Self::start_on_network(node, Joined::prepare_at)
    }

    /// The same, but without images, a network for pods or plugins for one.
    pub fn start_bare(node: &str) -> Result<Self> {
        Self::start_on_network(node, Joined::prepare_bare)
    }

    fn start_on_network(
        node: &str,
        prepare: fn(Machine, &str, String, u16) -> Result<Joined>,
    ) -> Result<Self> {
        let cluster = Cluster::start(&Options::default())?;
        let network = Network::start()?;
        let gateway = network.gateway();
        let everywhere = json!({"address": "0.0.0.0"});
        let hub = json!({"advertiseAddress": [gateway], "https": everywhere, "websocket": everywhere});
        let mut cloud = CloudCore::start(&cluster, &json!({"modules": {"cloudHub": hub}}))?;
        let token = cloud.token(&cluster)?;
        let machine = Machine::start_with_network(node, &network)?;
        let websocket = format!("{gateway}:{}", cloud.websocket().port());
        let edge = prepare(machine, node, websocket, cloud.https().port())?;
        Ok(Self { edge, cluster, cloud, token, network: Some(network) })
    }

    /// Where the machine is, if it has a network of its own.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("the machine is on this one's network")
    }

    pub fn join(&self, token: &str, more: &[&str]) -> Result<Output> {
        self.edge.join(token, more)
    }

    /// What keadm says where the kubeconfig is.
    pub fn typed(&self, words: &[&str]) -> Result<String> {
        let kubeconfig = self.cluster.kubeconfig().display().to_string();
        let done = self.edge.keadm(&[words, &["--kube-config", &kubeconfig]].concat())?;
        ensure!(done.status.success(), "keadm {words:?}: {}", told(&done));
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    pub fn reset(&self) -> Result<Output> {
        self.edge.reset()
    }
}
