//! Machines without a network for pods join: edgecore makes one with the range that the cloud gives, cloudcore gives ranges where
//! nobody else does, and a reset leaves nothing of it.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::joined::{Joined, must, told};
use e2e::machine::Machine;
use e2e::network::Network;
use e2e::node::{CloudCore, binary};
use e2e::runtime::Runtime;
use e2e::site::{PATIENCE, pod_ip, shell_pod};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

/// What edgecore writes.
const FILE: &str = "/etc/cni/net.d/99-isthmus.conflist";

/// Dropped from top to bottom: nodes before their cluster.
struct Bench {
    /// Machines with a network of their own, and none for pods.
    edges: Vec<Joined>,
    cloud: CloudCore,
    cluster: Cluster,
    network: Network,
    token: String,
}

/// Files, interfaces and rules: all that a network for pods could leave.
fn all(edge: &Joined) -> Result<String> {
    let files = edge.machine.made()?.join("\n");
    let links = edge.shell("ip -o link show | sed 's/ mtu .*//; s/^[0-9]*: //' | sort")?;
    // Tables and chains that are there from the first look on, but without counters.
    let rules =
        edge.shell("for t in nat filter mangle; do iptables -w -t $t -S; ip6tables -w -t $t -S; done")?;
    Ok(format!("{files}\n{links}\n{rules}"))
}

impl Bench {
    fn start(cluster: &Options, names: &[&str]) -> Result<Self> {
        let keadm = binary("keadm", "ISTHMUS_KEADM")?;
        let cluster = Cluster::start(cluster)?;
        let network = Network::start()?;
        let gateway = network.gateway().to_string();
        let everywhere = json!({"address": "0.0.0.0"});
        let hub = json!({"advertiseAddress": [gateway], "https": everywhere, "websocket": everywhere});
        let account = account(&cluster, &keadm, &gateway)?;
        let mut cloud = CloudCore::prepare(&account, &json!({"modules": {"cloudHub": hub}}))?;
        cloud.process.start()?;
        let token = cloud.token(&cluster)?;
        let websocket = format!("{gateway}:{}", cloud.websocket().port());
        let edge = |name: &&str| -> Result<Joined> {
            let machine = Machine::start_with_network(name, &network)?;
            // As where there was a kubelet before: keadm does not remove folders that it did not make.
            machine.run(Path::new("/bin/mkdir"), &["-p", "/var/log/pods", "/var/lib/kubelet"])?;
            let runtime = Runtime::start_without_network(name, &machine)?;
            Joined::prepare_with(machine, runtime, name, websocket.clone(), cloud.https().port())
        };
        let edges = names.iter().map(edge).collect::<Result<_>>()?;
        Ok(Self { edges, cloud, cluster, network, token })
    }

    fn join(&self, edge: &Joined) -> Result<String> {
        let joined = edge.join(&self.token, &[])?;
        ensure!(
            joined.status.success(),
            "{}\n{}\n{}",
            told(&joined),
            self.cloud.process.log_end(20),
            self.cluster.kubectl_ok(&["get", "nodes", "--output=yaml"])?
        );
        Ok(told(&joined))
    }

    fn reset(&self, edge: &Joined) -> Result<()> {
        must(&edge.reset()?)?;
        ensure!(edge.runtime.running()?.is_empty(), "containers run on");
        Ok(())
    }

    fn node(&self, edge: &Joined) -> Result<Value> {
        self.cluster.kubectl_json(&["get", "node", edge.node()])
    }

    fn run_pod(&self, name: &str, script: &str, more: &Value) -> Result<Value> {
        self.cluster.apply(&shell_pod(name, script, more))?;
        self.cluster.kubectl_ok(&[
            "wait",
            "--for=condition=Ready",
            &format!("pod/{name}"),
            "--timeout=60s",
        ])?;
        self.cluster.kubectl_json(&["get", "pod", name])
    }

    /// The Leases by which ranges are kept.
    fn kept(&self) -> Result<Vec<String>> {
        let leases = self.cluster.kubectl_ok(&["get", "leases", "--namespace=kubeedge", "--output=name"])?;
        Ok(leases.lines().map(str::to_owned).collect())
    }
}

/// cloudcore's own account, with the rights that keadm gives to it and no others.
fn account(cluster: &Cluster, keadm: &Path, address: &str) -> Result<PathBuf> {
    let address = format!("--advertise-address={address}");
    let output =
        Command::new(keadm).args(["manifest", "generate", &address]).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "{}", told(&output));
    let manifest = cluster.run_dir().write("manifest.yaml", output.stdout)?.display().to_string();
    cluster.kubectl_ok(&["apply", "--server-side", "--filename", &manifest])?;
    let user = "system:serviceaccount:kubeedge:cloudcore";
    cluster.kubeconfig_for(cluster.server(), "cloudcore", user, &["system:serviceaccounts"])
}

/// Prints the page; busybox's own wget wants a resolver, which is not in every image.
fn get(address: &str, port: u16) -> String {
    format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 {address} {port} | grep hello")
}

/// What cloudcore gave.
fn given(node: &Value) -> &Value {
    &node["metadata"]["annotations"]["isthmus.io/pod-range"]
}

#[test]
fn a_machine_without_a_network_gets_one() -> Result<()> {
    let bench = Bench::start(&Options::default(), &["edge-1", "edge-2"])?;
    let [one, two] = bench.edges.as_slice() else { anyhow::bail!("two machines") };
    let before = all(one)?;

    let joined = bench.join(one)?;
    ensure!(joined.contains("edgecore makes one"), "{joined}");
    ensure!(given(&bench.node(one)?) == "10.208.0.0/24", "{}", bench.node(one)?);
    ensure!(bench.node(one)?["spec"]["podCIDR"].is_null(), "that is the cluster's: {}", bench.node(one)?);
    ensure!(one.machine.read(FILE)?.contains("10.208.0.0/24"), "{}", one.machine.read(FILE)?);
    bench.join(two)?;
    ensure!(given(&bench.node(two)?) == "10.208.1.0/24", "{}", bench.node(two)?);
    ensure!(bench.kept()?.len() == 2, "{:?}", bench.kept()?);

    // Two pods reach each other, and the world outside by their machine's address.
    let there = json!({"nodeName": one.node(), "containers": [{"ports": [{"containerPort": 8080, "hostPort": 8081}]}]});
    let serve = "mkdir /www; echo hello >/www/index.html; exec httpd -f -p 8080 -h /www";
    let web = pod_ip(&bench.run_pod("web", serve, &there)?)?;
    ensure!(web.starts_with("10.208.0."), "{web}");
    let (gateway, port) = (bench.network.gateway(), bench.cloud.https().port());
    let ask = format!(
        "{} && nc -w 5 {gateway} {port} </dev/null && echo out && exec sleep 100000",
        get(&web, 8080)
    );
    let asker = bench.run_pod("asks", &ask, &json!({"nodeName": one.node(), "restartPolicy": "Never"}))?;
    let log = eventually(PATIENCE, "the pod to reach the other one", || {
        let log = one.shell("cat /var/log/pods/*_asks_*/main/0.log")?;
        Ok(if log.contains("out") { Seen::Yes(log) } else { Seen::NotYet(log) })
    })
    .with_context(|| format!("{}", asker["status"]))?;
    eprintln!("pod {} to pod {web}:\n{log}", pod_ip(&asker)?);
    // The mapped port, from another machine.
    let address = one.machine.address().context("it has an address")?;
    let answer = two.shell(&get(&address.to_string(), 8081))?;
    ensure!(answer.contains("hello"), "{answer}");

    // The cluster gives one later, to that machine only.
    let of_the_cluster = r#"{"spec":{"podCIDR":"10.244.9.0/24","podCIDRs":["10.244.9.0/24"]}}"#;
    bench.cluster.kubectl_ok(&["patch", "node", two.node(), "--patch", of_the_cluster])?;
    eventually(PATIENCE, "the cluster's range to count", || {
        let file = two.machine.read(FILE)?;
        Ok(if file.contains("10.244.9.0/24") { Seen::Yes(()) } else { Seen::NotYet(file) })
    })?;

    // Nothing of it is left, and the range is another node's when the Node is deleted.
    bench.reset(one)?;
    ensure!(all(one)? == before, "left behind: {}\nbefore: {before}", all(one)?);
    for pod in ["web", "asks"] {
        bench.cluster.kubectl_ok(&["delete", "pod", pod, "--force", "--grace-period=0"])?;
    }
    bench.cluster.kubectl_ok(&["delete", "node", one.node()])?;
    eventually(PATIENCE, "the range to be free", || {
        let kept = bench.kept()?;
        Ok(if kept.len() == 1 { Seen::Yes(()) } else { Seen::NotYet(kept.join(", ")) })
    })?;
    // The cluster's allocator has its chance first.
    let start = Instant::now();
    bench.join(one)?;
    ensure!(given(&bench.node(one)?) == "10.208.0.0/24", "{}", bench.node(one)?);
    ensure!(start.elapsed() > Duration::from_secs(30), "after {:?}", start.elapsed());
    eprintln!("with ranges of the cluster's elsewhere: Ready after {:?}", start.elapsed());
    bench.reset(one)?;
    ensure!(all(one)? == before, "left behind: {}\nbefore: {before}", all(one)?);
    bench.reset(two)?;
    let log = bench.cloud.process.log();
    ensure!(!log.to_lowercase().contains("forbidden"), "cloudcore was refused something:\n{log}");
    Ok(())
}

#[test]
fn a_network_of_somebody_elses_is_left_alone() -> Result<()> {
    let bench = Bench::start(&Options::default(), &["edge-1"])?;
    let [edge] = bench.edges.as_slice() else { anyhow::bail!("one machine") };
    let own = json!({"cniVersion": "0.4.0", "name": "own", "plugins": [{"type": "bridge", "bridge": "own0", "isGateway": true,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]]}}]});
    edge.shell(&format!("echo '{own}' >/etc/cni/net.d/50-own.conflist"))?;
    let before = all(edge)?;
    let joined = bench.join(edge)?;
    ensure!(!joined.contains("edgecore makes one"), "{joined}");
    let node = bench.node(edge)?;
    ensure!(given(&node).is_null(), "{node}");
    let web = pod_ip(&bench.run_pod("web", "exec sleep 100000", &json!({"nodeName": edge.node()}))?)?;
    ensure!(web.starts_with("10.77.0."), "{web}");
    bench.reset(edge)?;
    let after = all(edge)?;
    let left: Vec<&str> = after.lines().filter(|line| !before.contains(line)).collect();
    // Its own plugin's: the bridge, and who had which address.
    ensure!(
        left.iter().all(|line| line.contains("own") || line.ends_with("/var/lib/cni/networks")),
        "{left:?}"
    );
    ensure!(edge.machine.read("/etc/cni/net.d/50-own.conflist")?.contains("own0"), "it is gone");
    Ok(())
}

#[test]
fn a_cluster_that_gives_ranges_goes_on_doing_so() -> Result<()> {
    let flags = [
        "--allocate-node-cidrs=true",
        "--cluster-cidr=10.244.0.0/16",
        "--service-cluster-ip-range=10.96.0.0/16",
    ];
    let options = Options { controller_manager: flags.map(str::to_owned).into(), ..Options::default() };
    let bench = Bench::start(&options, &["edge-1"])?;
    let [edge] = bench.edges.as_slice() else { anyhow::bail!("one machine") };
    bench.join(edge)?;
    let node = bench.node(edge)?;
    let range = node["spec"]["podCIDR"].as_str().unwrap_or_default();
    ensure!(range.starts_with("10.244."), "{node}");
    ensure!(given(&node).is_null(), "{node}");
    ensure!(bench.kept()?.is_empty(), "{:?}", bench.kept()?);
    let web = pod_ip(&bench.run_pod("web", "exec sleep 100000", &json!({"nodeName": edge.node()}))?)?;
    ensure!(web.starts_with("10.244."), "{web}");
    bench.reset(edge)?;
    Ok(())
}
