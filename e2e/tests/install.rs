//! From an empty cluster to a running edge: cloudcore as a pod of an ordinary node, machines that join it, one of them through a
//! proxy, and are reset; `LONG=1`: ten times.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::images;
use e2e::joined::{Joined, must, told};
use e2e::machine::Machine;
use e2e::network::Network;
use e2e::node::binary;
use e2e::proxy::Proxy;
use e2e::site::{PATIENCE, shell_pod};
use e2e::stock::StockNode;
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

/// Dropped from top to bottom: nodes before their cluster.
struct Bench {
    edges: Vec<Edge>,
    proxy: Proxy,
    cloud: StockNode,
    cluster: Cluster,
    _network: Network,
    keadm: PathBuf,
}

/// A machine that is to become a node, on a network of its own.
struct Edge {
    is_behind_proxy: bool,
    joined: Joined,
}

impl Bench {
    /// A cluster with one ordinary node, which has cloudcore's image, and `names` of machines that are no nodes yet.
    fn start(names: &[&str]) -> Result<Self> {
        let keadm = binary("keadm", "ISTHMUS_KEADM")?;
        let cluster = Cluster::start(&Options { listens_everywhere: true, ..Options::default() })?;
        let network = Network::start()?;
        let cloud = StockNode::start(&cluster, &network, "cloud")?;
        cloud.runtime.import_image(&images::cloudcore(&cloud.run_dir().folder("images")?)?)?;
        let proxy = Proxy::start(&network, [10000, 10002])?;
        let edge = |(number, name): (usize, &&str)| -> Result<Edge> {
            let machine = Machine::start_with_network(name, &network)?;
            // Every second one.
            let is_behind_proxy = number % 2 == 1;
            if is_behind_proxy {
                let cloud = cloud.address();
                let rule =
                    format!("iptables -w -A OUTPUT -d {cloud} -p tcp -j REJECT --reject-with tcp-reset");
                let output = machine.run(Path::new("/bin/sh"), &["-ec", &rule])?;
                ensure!(output.status.success(), "{}", told(&output));
            }
            // As where there was a kubelet before: keadm does not remove folders that it did not make.
            machine.run(Path::new("/bin/mkdir"), &["-p", "/var/log/pods", "/var/lib/kubelet"])?;
            let joined = Joined::prepare_at(machine, name, format!("{}:10000", cloud.address()), 10002)?;
            Ok(Edge { is_behind_proxy, joined })
        };
        let edges = names.iter().enumerate().map(edge).collect::<Result<_>>()?;
        Ok(Self { edges, proxy, cloud, cluster, _network: network, keadm })
    }

    /// keadm on the machine that has the kubeconfig.
    fn keadm(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(&self.keadm)
            .args(arguments)
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "keadm {}: {}", arguments.join(" "), told(&output));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn init(&self, more: &[&str]) -> Result<String> {
        let address = format!("--advertise-address={}", self.cloud.address());
        // As KubeEdge's documents tell to type it.
        let mut arguments = vec!["init", &*address, "--profile", "version=v1.15.0"];
        arguments.extend(more);
        self.keadm(&arguments)
    }

    fn join(&self, edge: &Edge, token: &str) -> Result<()> {
        let joined = edge.joined.join(token, &[])?;
        if !edge.is_behind_proxy {
            ensure!(joined.status.success(), "{}", told(&joined));
            return Ok(());
        }
        ensure!(joined.status.code() == Some(3) && told(&joined).contains("refused"), "{}", told(&joined));
        let proxy = format!("HTTPS_PROXY={}", self.proxy.url());
        must(&edge.joined.join_after(&["/usr/bin/env", &proxy], token, &[])?)?;
        let link = format!("CONNECT {}:10000", self.cloud.address());
        ensure!(self.proxy.log().contains(&link), "{}", self.proxy.log());
        Ok(())
    }

    /// It joins, runs a pod and is reset, and nothing of it is left.
    fn comes_and_goes(&self, edge: &Edge, token: &str, round: u32) -> Result<()> {
        let Joined { machine, runtime, .. } = &edge.joined;
        let name = edge.joined.node();
        let before = machine.made()?;
        self.join(edge, token)?;
        let pod = format!("web-{name}-{round}");
        let there = json!({"nodeName": name});
        self.cluster.apply(&shell_pod(&pod, "exec sleep 100000", &there))?;
        self.cluster.kubectl_ok(&[
            "wait",
            "--for=condition=Ready",
            &format!("pod/{pod}"),
            "--timeout=60s",
        ])?;
        ensure!(runtime.running()?.len() == 2, "the pod and its sandbox");
        must(&edge.joined.reset()?)?;
        ensure!(runtime.running()?.is_empty(), "containers run on");
        let after = machine.made()?;
        let left: Vec<&String> = after.iter().filter(|path| !before.contains(path)).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        self.cluster.kubectl_ok(&["delete", "pod", &pod, "--force", "--grace-period=0"])?;
        self.cluster.kubectl_ok(&["delete", "node", name])?;
        Ok(())
    }
}

/// Ends well when it has reached the API server from the pod network of the ordinary node.
fn asking_pod() -> Value {
    let script = "nc -w 5 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null";
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks"}, "spec": {
        "nodeName": "cloud", "restartPolicy": "Never",
        "containers": [{"name": "main", "image": images::APP, "command": ["sh", "-c", script]}],
    }})
}

#[test]
fn a_cluster_gets_its_edge() -> Result<()> {
    let bench = Bench::start(&["edge-1", "edge-2"])?;
    let cluster = &bench.cluster;
    let before = everything(cluster)?;

    // What would be done is said, and nothing is done.
    let plan = bench.init(&["--dry-run"])?;
    ensure!(
        plan.contains("create Deployment kubeedge/cloudcore") && plan.contains("nothing was changed"),
        "{plan}"
    );
    ensure!(everything(cluster)? == before, "a dry run has changed something");

    let done = bench.init(&[])?;
    ensure!(
        done.contains("v1.15.0 is a version of KubeEdge") && done.contains("cloudcore is ready"),
        "{done}"
    );
    let join = format!("keadm join --cloudcore-ipport={}:10000", bench.cloud.address());
    ensure!(done.contains(&join), "what to type next: {done}");
    let pods = cluster.kubectl_json(&["get", "pods", "--namespace=kubeedge"])?;
    let pod = &pods["items"][0];
    ensure!(pods["items"].as_array().is_some_and(|pods| pods.len() == 1), "{pods}");
    ensure!(pod["spec"]["nodeName"] == "cloud" && pod["status"]["phase"] == "Running", "{pod}");
    ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{pod}");

    // The API server asks the pod, through its Service, for devices of the old version.
    let old = ["get", "devices.v1alpha2.devices.kubeedge.io", "--all-namespaces"];
    eventually(PATIENCE, "devices of v1alpha2", || {
        Ok(match cluster.kubectl(&old)? {
            output if output.status.success() => Seen::Yes(()),
            output => Seen::NotYet(told(&output)),
        })
    })?;

    // And a pod with an address of its own reaches the API server.
    cluster.apply(&asking_pod().to_string())?;
    cluster.kubectl_ok(&["wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/asks", "--timeout=60s"])?;

    let token = bench.keadm(&["gettoken"])?;
    let n_rounds = if std::env::var_os("LONG").is_some() { 10 } else { 1 };
    for round in 0..n_rounds {
        for edge in &bench.edges {
            bench
                .comes_and_goes(edge, &token, round)
                .with_context(|| format!("{} in round {round}", edge.joined.node()))?;
        }
    }
    let log = cluster.kubectl_ok(&["logs", "deployment/cloudcore", "--namespace=kubeedge"])?;
    ensure!(!log.to_lowercase().contains("forbidden"), "cloudcore was refused something:\n{log}");

    // Gone without a trace, and back at once.
    bench.keadm(&["reset", "cloud", "--force"])?;
    ensure!(everything(cluster)? == before, "left behind, or gone too: {:?}", everything(cluster)?);
    ensure!(bench.keadm(&["reset", "cloud", "--force"])?.contains("nothing to remove"), "twice");
    bench.init(&[])?;
    bench.keadm(&["reset", "cloud", "--force"])?;
    ensure!(everything(cluster)? == before, "left behind: {:?}", everything(cluster)?);
    Ok(())
}

/// Names of all objects of the kinds that an installation could leave, sorted.
fn everything(cluster: &Cluster) -> Result<Vec<String>> {
    let kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,roles,rolebindings,deployments,services,\
                 configmaps,secrets,serviceaccounts,poddisruptionbudgets,networkpolicies";
    let format =
        "--output=jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}";
    let all = cluster.kubectl_ok(&["get", kinds, "--all-namespaces", format])?;
    let mut names: Vec<String> = all.lines().map(str::to_owned).collect();
    names.sort();
    Ok(names)
}
