//! What is there before the first command of `docs/install.md`: a cluster with one ordinary node, which has cloudcore's image,
//! and a machine with a container runtime that is to become an edge node. keadm does the rest.
//!
//! Called by the demo and the benchmark of installing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use crate::cluster::{Cluster, Options};
use crate::machine::Machine;
use crate::network::Network;
use crate::node::binary;
use crate::process::MARK;
use crate::run_dir::RunDir;
use crate::runtime::Runtime;
use crate::stock::StockNode;
use crate::{images, need};

/// The ordinary node's name.
pub const CLOUD: &str = "cloud";
/// In the machine: what differs from a machine that is nobody else's.
pub const KUBELET_CONFIG: &str = "/etc/kubelet.yaml";

/// Dropped from top to bottom: nodes before their cluster.
pub struct Ground {
    pub edge: Edge,
    pub cloud: StockNode,
    pub cluster: Cluster,
    pub network: Network,
    keadm: PathBuf,
}

/// The machine that is to become an edge node.
pub struct Edge {
    pub runtime: Runtime,
    pub machine: Machine,
}

impl Ground {
    /// Makes both sides at once. `say` hears of each thing that is there.
    pub fn start(edge: &str, say: &dyn Fn(&str)) -> Result<Self> {
        let keadm = binary("keadm", "ISTHMUS_KEADM")?;
        // Found beside it.
        let edgecore = binary("edgecore", "ISTHMUS_EDGECORE")?;
        ensure!(
            edgecore.parent() == keadm.parent(),
            "edgecore must lie beside keadm, but it is {}",
            edgecore.display()
        );
        need::for_runtime()?;
        need::devcluster()?;
        let network = Network::start()?;
        let (clouds, edges) = std::thread::scope(|scope| {
            let edge = scope.spawn(|| Edge::start(edge, &network));
            let clouds = clouds(&network, say);
            (clouds, edge.join())
        });
        let (cluster, cloud) = clouds?;
        let edge = edges.map_err(|_| anyhow!("the edge machine's maker panicked"))??;
        network.route(&edge.runtime.subnet(), edge.address()?)?;
        Ok(Self { edge, cloud, cluster, network, keadm })
    }

    /// keadm where the cluster's administrator is.
    pub fn keadm(&self, words: &[&str]) -> Command {
        let mut keadm = Command::new(&self.keadm);
        keadm.args(words).env("KUBECONFIG", self.cluster.kubeconfig()).stdin(Stdio::null());
        keadm
    }

    /// keadm on the machine.
    pub fn keadm_on_edge(&self, words: &[&str]) -> Result<Command> {
        let mut keadm = self.edge.command(&self.keadm)?;
        keadm.args(words);
        Ok(keadm)
    }

    /// The folder of keadm and edgecore.
    pub fn programs(&self) -> Result<&Path> {
        self.keadm.parent().context("keadm has no folder")
    }

    pub fn init(&self) -> String {
        format!("--advertise-address={}", self.cloud.address())
    }

    /// What `keadm join` is told besides the token.
    pub fn join(&self, node: &str) -> [String; 3] {
        [
            format!("--cloudcore-ipport={}:10000", self.cloud.address()),
            format!("--edgenode-name={node}"),
            format!("--kubelet-config={KUBELET_CONFIG}"),
        ]
    }

    /// All of it stays when this program ends.
    pub fn detach(&mut self) -> Result<()> {
        self.network.detach()?;
        self.cluster.detach()?;
        self.cloud.detach()?;
        self.edge.runtime.detach()?;
        self.edge.machine.detach()
    }
}

fn clouds(network: &Network, say: &dyn Fn(&str)) -> Result<(Cluster, StockNode)> {
    let cluster = Cluster::start(&Options { listens_everywhere: true, ..Options::default() })?;
    say(&format!("Kubernetes answers at {}", cluster.server()));
    let (cloud, image) = std::thread::scope(|scope| {
        let image = scope.spawn(cloudcore_image);
        (StockNode::start(&cluster, network, CLOUD), image.join())
    });
    let (_folder, image) = image.map_err(|_| anyhow!("the image's maker panicked"))??;
    let cloud = cloud?;
    cloud.runtime.import_image(&image)?;
    let address = cloud.address();
    say(&format!("its ordinary node {CLOUD} is Ready at {address} and has cloudcore's image"));
    Ok((cluster, cloud))
}

/// The archive, and the folder in which it is.
fn cloudcore_image() -> Result<(RunDir, PathBuf)> {
    let run_dir = RunDir::new("cloudcore-image")?;
    let image = images::cloudcore(run_dir.path())?;
    Ok((run_dir, image))
}

impl Edge {
    fn start(name: &str, network: &Network) -> Result<Self> {
        let machine = Machine::start_with_network(name, network)?;
        let runtime = Runtime::start_in(name, Some(&machine))?;
        let edge = Self { runtime, machine };
        // Two node agents on one machine remove each other's pods if they share a cgroup, and how full the disk of the
        // machine below is has no part in this.
        let kubelet = json!({
            "cgroupRoot": edge.runtime.cgroup_root(),
            "evictionHard": {"nodefs.available": "1%", "nodefs.inodesFree": "1%",
                "imagefs.available": "1%", "imagefs.inodesFree": "1%"},
            "imageGCHighThresholdPercent": 100,
        });
        let kubelet = edge.machine.run_dir().write("kubelet.yaml", kubelet.to_string())?;
        edge.sh(&format!("cp {} {KUBELET_CONFIG}", kubelet.display()))?;
        edge.link_runtime()?;
        Ok(edge)
    }

    /// The runtime is where everybody looks for it.
    fn link_runtime(&self) -> Result<()> {
        let socket = self.runtime.socket().display();
        self.sh(&format!("mkdir -p /run/containerd && ln -s {socket} /run/containerd/containerd.sock"))
            .map(drop)
    }

    /// As the other machines on the network see it.
    pub fn address(&self) -> Result<std::net::Ipv4Addr> {
        self.machine.address().context("a machine with a network has an address")
    }

    /// A program in the machine, still to be run.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let (nsenter, words) = self.machine.enter()?;
        let mut command = Command::new(nsenter);
        // What it leaves running is found by this.
        command.args(words).arg(program).env(MARK, self.machine.run_dir().path()).stdin(Stdio::null());
        Ok(command)
    }

    /// What a script prints in the machine.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.machine.run(Path::new("/bin/sh"), &["-ec", script])?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{script}` in the machine: {}", error.trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// The power goes: every process, and what only memory held. What lies on disk stays.
    pub fn power_cut(&mut self) -> Result<()> {
        self.machine.kill_all()?;
        self.runtime.kill_hard()?;
        // Mounts and links that only the machine sees.
        self.sh(&format!(
            "while read -r _ _ _ _ point _; do case $point in {}/*|/var/lib/kubelet/*) echo $point;; esac; done \
             </proc/self/mountinfo | sort -r | while read -r point; do umount -l $point; done
             ip -o link show type bridge | while IFS=': ' read -r _ name _; do ip link delete $name; done
             rm -rf /run/*",
            self.runtime.run_dir().path().display()
        ))
        .map(drop)
    }

    /// It boots, as far as the container runtime. Whoever keeps edgecore running starts that.
    pub fn boot(&mut self) -> Result<()> {
        self.link_runtime()?;
        self.runtime.start_again()
    }
}
