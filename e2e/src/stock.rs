//! An ordinary node of the cluster: the stock kubelet, with a machine, network and containerd of its own, so that what
//! belongs to the cloud side has a place to run.
//!
//! There is no kube-proxy: of all Services, its pods reach `kubernetes` alone, by a rule in the node's own network. Pods and
//! ports of the host network are at the node's address. Called by stories.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{Cluster, KUBERNETES_SERVICE};
use crate::leftovers::make_cgroup;
use crate::machine::Machine;
use crate::need;
use crate::network::Network;
use crate::node::merge;
use crate::process::Process;
use crate::run_dir::RunDir;
use crate::runtime::Runtime;
use crate::wait::{Seen, eventually};

const READY_WITHIN: Duration = Duration::from_secs(120);
const SHELL: &str = "/bin/sh";

/// Dropped from top to bottom: first who would start containers again.
pub struct StockNode {
    pub kubelet: Process,
    run_dir: RunDir,
    pub runtime: Runtime,
    name: String,
    address: Ipv4Addr,
    machine: Machine,
}

impl StockNode {
    /// Starts it and returns when it is Ready. The cluster must have been started with `listens_everywhere`.
    pub fn start(cluster: &Cluster, network: &Network, name: &str) -> Result<Self> {
        Self::start_with(cluster, network, name, &Value::Null)
    }

    /// The same with `more` laid over its configuration, key by key.
    pub fn start_with(cluster: &Cluster, network: &Network, name: &str, more: &Value) -> Result<Self> {
        let binary = need::devcluster()?;
        let machine = Machine::start_with_network(name, network)?;
        let address = machine.address().context("a machine with a network has an address")?;
        lead_to_api_server(&machine, network.gateway(), cluster.port())?;
        let runtime = Runtime::start_in(name, Some(&machine))?;
        network.route(&runtime.subnet(), address)?;
        // A kubelet that makes cgroups of its own wants the one above them to be there.
        make_cgroup(runtime.cgroup_root())?;
        let run_dir = RunDir::new("kubelet")?;
        let mut kubelet = Process::new(
            run_dir.path(),
            "kubelet",
            &binary,
            flags(cluster, &runtime, &run_dir, name, address, more)?,
        );
        let (program, words) = machine.enter()?;
        kubelet.wrap(&program, &words.iter().map(String::as_str).collect::<Vec<_>>());
        kubelet.start()?;
        let mut node = Self { kubelet, run_dir, runtime, name: name.to_owned(), address, machine };
        node.wait_ready(cluster)?;
        Ok(node)
    }

    /// Waits until the API server calls it Ready; also after a story has stopped and started it.
    pub fn wait_ready(&mut self, cluster: &Cluster) -> Result<()> {
        let path = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")]}";
        eventually(READY_WITHIN, &format!("the stock node {} to be Ready", self.name), || {
            self.kubelet.must_run()?;
            let ready = cluster.kubectl_ok(&["get", "node", &self.name, path])?;
            Ok(if ready.contains(r#""status":"True""#) { Seen::Yes(()) } else { Seen::NotYet(ready) })
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its ports, and those of its pods on the host network, are for this machine and all others on the network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub fn run_dir(&self) -> &RunDir {
        &self.run_dir
    }

    /// Leaves the node and its pods running after this process.
    pub fn detach(&mut self) -> Result<()> {
        self.run_dir.detach()?;
        self.runtime.detach()?;
        self.machine.detach()
    }
}

/// What kube-proxy would do for one Service: for processes of the machine, and for its pods.
fn lead_to_api_server(machine: &Machine, gateway: Ipv4Addr, port: u16) -> Result<()> {
    let rule = |chain: &str| {
        format!(
            "iptables -w -t nat -A {chain} -d {KUBERNETES_SERVICE} -p tcp --dport 443 \
             -j DNAT --to-destination {gateway}:{port}"
        )
    };
    let script = format!("{}; {}", rule("OUTPUT"), rule("PREROUTING"));
    let output = machine.run(Path::new(SHELL), &["-ec", &script])?;
    ensure!(output.status.success(), "iptables: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn flags(
    cluster: &Cluster,
    runtime: &Runtime,
    run_dir: &RunDir,
    name: &str,
    address: Ipv4Addr,
    more: &Value,
) -> Result<Vec<String>> {
    let mut config = config(cluster, runtime, run_dir);
    merge(&mut config, more);
    let serving =
        cluster.ca().issue(&format!("kubelet-{name}-serving"), name, &[], &[&address.to_string()])?;
    config["tlsCertFile"] = serving.cert.to_string_lossy().into();
    config["tlsPrivateKeyFile"] = serving.key.to_string_lossy().into();
    let config = run_dir.write("kubelet.yaml", config.to_string())?;
    let server = format!("https://{KUBERNETES_SERVICE}");
    let user = format!("system:node:{name}");
    let kubeconfig = cluster.kubeconfig_for(&server, &format!("kubelet-{name}"), &user, &["system:nodes"])?;
    let flag = |name: &str, path: &PathBuf| format!("--{name}={}", path.display());
    Ok(vec![
        "kubelet".into(),
        flag("config", &config),
        flag("kubeconfig", &kubeconfig),
        flag("root-dir", &run_dir.join("kubelet")),
        flag("cert-dir", &run_dir.join("pki")),
        format!("--hostname-override={name}"),
        format!("--node-ip={address}"),
    ])
}

/// As little other than kubeadm's as a machine within a machine allows. JSON is YAML.
fn config(cluster: &Cluster, runtime: &Runtime, run_dir: &RunDir) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": cluster.ca().files.cert},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": runtime.endpoint(),
        // Pods stand side by side below the runtime's cgroup, which is swept; limits of the whole node are not made.
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": runtime.cgroup_root(),
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": ["none"],
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "podLogsDir": run_dir.join("pod-logs"),
        "volumePluginDir": run_dir.join("plugins"),
        // How full this machine's disk is has no part in any story.
        "evictionHard": {"nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
    })
}
