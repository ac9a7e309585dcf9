//! `keadm upgrade cloud`: other values are rolled out, what does not start is taken back, and the edge goes on meanwhile.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::images;
use e2e::machine::Machine;
use e2e::network::Network;
use e2e::node::binary;
use e2e::runtime::Runtime;
use e2e::site::{PATIENCE, shell_pod};
use e2e::stock::StockNode;
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

const EDGE: &str = "edge-1";

/// Dropped from top to bottom: nodes before their cluster.
struct Bench {
    runtime: Runtime,
    machine: Machine,
    cloud: StockNode,
    cluster: Cluster,
    _network: Network,
    keadm: PathBuf,
}

impl Bench {
    /// A cluster with cloudcore as a pod of an ordinary node, and an edge node with a pod.
    fn start() -> Result<Self> {
        let keadm = binary("keadm", "ISTHMUS_KEADM")?;
        // Found beside it.
        binary("edgecore", "ISTHMUS_EDGECORE")?;
        let cluster = Cluster::start(&Options { listens_everywhere: true, ..Options::default() })?;
        let network = Network::start()?;
        let cloud = StockNode::start(&cluster, &network, "cloud")?;
        cloud.runtime.import_image(&images::cloudcore(&cloud.run_dir().folder("images")?)?)?;
        let ends = images::short_lived(
            &cloud.run_dir().folder("images")?,
            "isthmus.test/ends:v1",
            "these are my last words",
            4,
        )?;
        cloud.runtime.import_image(&ends)?;
        let machine = Machine::start_with_network(EDGE, &network)?;
        let runtime = Runtime::start_in(EDGE, Some(&machine))?;
        Ok(Self { runtime, machine, cloud, cluster, _network: network, keadm })
    }

    fn keadm(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.keadm);
        command.args(arguments).env("KUBECONFIG", self.cluster.kubeconfig()).stdin(Stdio::null());
        command.output().context("run keadm")
    }

    fn keadm_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.keadm(arguments)?;
        ensure!(output.status.success(), "keadm {}: {}", arguments.join(" "), told(&output));
        Ok(told(&output))
    }

    fn upgrade(&self, more: &[&str]) -> Result<Output> {
        self.keadm(&[&["upgrade", "cloud", &self.backup_dir()?][..], more].concat())
    }

    fn backup_dir(&self) -> Result<String> {
        Ok(format!("--backup-dir={}", self.cloud.run_dir().folder("backup")?.display()))
    }

    /// An upgrade whose keadm is killed as soon as it says this.
    fn upgrade_until(&self, line: &str, more: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.keadm);
        command.args(["upgrade", "cloud", &self.backup_dir()?]).args(more);
        command.env("KUBECONFIG", self.cluster.kubeconfig()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("run keadm")?;
        let lines = BufReader::new(child.stdout.take().context("keadm has an output")?).lines();
        let mut told = lines.map_while(Result::ok);
        let is_told = told.any(|told| told.contains(line));
        // SIGKILL, by its process id.
        child.kill()?;
        let ended = child.wait()?;
        ensure!(is_told && ended.code().is_none(), "keadm never said {line:?}, or was too quick: {ended}");
        Ok(())
    }

    /// All the files of this name that upgrades have kept, the oldest first.
    fn kept(&self, name: &str) -> Result<Vec<String>> {
        let mut folders = Vec::new();
        for entry in std::fs::read_dir(self.cloud.run_dir().folder("backup")?)? {
            folders.push(entry?.path());
        }
        folders.sort();
        Ok(folders.iter().filter_map(|folder| std::fs::read_to_string(folder.join(name)).ok()).collect())
    }

    fn upgrade_ok(&self, more: &[&str]) -> Result<String> {
        let output = self.upgrade(more)?;
        ensure!(output.status.success(), "upgrade cloud {}: {}", more.join(" "), told(&output));
        Ok(told(&output))
    }

    fn join(&self) -> Result<()> {
        let token = self.keadm(&["gettoken"])?;
        let token = String::from_utf8_lossy(&token.stdout).trim().to_owned();
        // How full the disk of the machine below is has no part in this.
        let set = format!(
            "modules.edged.podSandboxImage={},modules.edged.tailoredKubeletConfig.cgroupRoot={},\
             modules.edged.tailoredKubeletConfig.evictionHard.nodefs\\.available=1%,\
             modules.edged.tailoredKubeletConfig.evictionHard.nodefs\\.inodesFree=1%,\
             modules.edged.tailoredKubeletConfig.evictionHard.imagefs\\.available=1%,\
             modules.edged.tailoredKubeletConfig.evictionHard.imagefs\\.inodesFree=1%,\
             modules.edged.tailoredKubeletConfig.imageGCHighThresholdPercent=100",
            images::PAUSE,
            self.runtime.cgroup_root(),
        );
        let joined = self.machine.run(
            &self.keadm,
            &[
                "join",
                &format!("--cloudcore-ipport={}:10000", self.cloud.address()),
                &format!("--remote-runtime-endpoint={}", self.runtime.endpoint()),
                &format!("--edgenode-name={EDGE}"),
                &format!("--token={token}"),
                "--set",
                &set,
            ],
        )?;
        ensure!(joined.status.success(), "{}", told(&joined));
        self.cluster.apply(&shell_pod("web", "exec sleep 100000", &json!({"nodeName": EDGE})))?;
        self.cluster.kubectl_ok(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"])?;
        Ok(())
    }

    /// What is said in the cloud reaches the node, and what it says comes back: a second pod comes and goes.
    fn edge_hears(&self, pod: &str) -> Result<()> {
        self.cluster.apply(&shell_pod(pod, "exec sleep 100000", &json!({"nodeName": EDGE})))?;
        let name = format!("pod/{pod}");
        self.cluster.kubectl_ok(&["wait", "--for=condition=Ready", &name, "--timeout=60s"])?;
        self.cluster.kubectl_ok(&["delete", &name, "--grace-period=1"])?;
        Ok(())
    }

    fn deployment(&self) -> Result<Value> {
        self.cluster.kubectl_json(&["get", "deployment/cloudcore", "--namespace=kubeedge"])
    }

    fn config(&self) -> Result<String> {
        let path = "--output=jsonpath={.data.cloudcore\\.yaml}";
        self.cluster.kubectl_ok(&["get", "configmap/cloudcore", "--namespace=kubeedge", path])
    }

    fn is_ready(&self, node: &str) -> Result<bool> {
        let path = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        Ok(self.cluster.kubectl_ok(&["get", "node", node, path])? == "True")
    }
}

fn told(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{:?}\n{}", output.status.code(), text.concat())
}

#[test]
fn cloudcore_is_upgraded_or_stays_what_it_was() -> Result<()> {
    let bench = Bench::start()?;
    let nothing = bench.upgrade(&[])?;
    ensure!(
        nothing.status.code() == Some(3) && told(&nothing).contains("keadm init --advertise-address"),
        "{}",
        told(&nothing)
    );
    let address = format!("--advertise-address={}", bench.cloud.address());
    bench.keadm_ok(&["init", &address, "--set=cloudCore.modules.cloudHub.tokenRefreshDuration=7"])?;
    bench.join()?;
    let containers = bench.runtime.running()?;
    let same = bench.upgrade_ok(&[])?;
    ensure!(same.contains("nothing is changed"), "{same}");

    // Other values, and one object more; what was said at init holds.
    let changes = "cloudCore.modules.cloudHub.nodeLimit=500,networkPolicy.enable=true";
    let plan = bench.upgrade_ok(&["--set", changes, "--dry-run"])?;
    ensure!(
        plan.contains("create NetworkPolicy") && plan.contains("change ConfigMap kubeedge/cloudcore"),
        "{plan}"
    );
    ensure!(!bench.config()?.contains("nodeLimit: 500"), "a dry run has changed something");
    let done = bench.upgrade_ok(&["--set", changes])?;
    eprintln!("{done}");
    let config = bench.config()?;
    ensure!(config.contains("nodeLimit: 500") && config.contains("tokenRefreshDuration: 7"), "{config}");
    ensure!(config.contains(&bench.cloud.address().to_string()), "{config}");
    bench.edge_hears("after-the-first")?;
    ensure!(bench.runtime.running()? == containers, "containers were touched");
    ensure!(bench.upgrade_ok(&[])?.contains("nothing is changed"), "a second time");

    changed_by_others(&bench)?;

    // An image that is nowhere.
    let before = bench.deployment()?;
    let bad =
        ["--set=cloudCore.image.tag=v0.0.0-nowhere,networkPolicy.enable=false", "--ready-timeout-secs=30"];
    let refused = bench.upgrade(&bad)?;
    eprintln!("{}", told(&refused));
    ensure!(refused.status.code() == Some(1), "{}", told(&refused));
    let said = told(&refused);
    ensure!(said.contains("the upgrade was taken back") && said.contains("Pull"), "{said}");
    // The new pod never ran, and what the old one said is no cause.
    ensure!(!said.contains("the last lines of pod"), "{said}");
    ensure!(said.contains("the cloudcore of before is ready"), "{said}");
    let after = bench.deployment()?;
    ensure!(after["spec"] == before["spec"], "{} is not {}", after["spec"], before["spec"]);
    ensure!(after["status"]["readyReplicas"] == 1, "{after}");
    ensure!(bench.config()? == config, "{}", bench.config()?);
    bench.edge_hears("after-the-second")?;
    ensure!(bench.runtime.running()? == containers, "containers were touched");
    let same = bench.upgrade_ok(&[])?;
    ensure!(same.contains("nothing is changed"), "{same}");

    // A program that is ready at once, and ends soon after.
    let ends = "--set=cloudCore.image.repository=isthmus.test/ends,cloudCore.image.tag=v1,cloudCore.probes.enable=false";
    let begin = Instant::now();
    let refused = bench.upgrade(&[ends, "--ready-timeout-secs=20"])?;
    eprintln!("{} after {:?}", told(&refused), begin.elapsed());
    let said = told(&refused);
    ensure!(said.contains("watching for") && said.contains("these are my last words"), "{said}");
    ensure!(refused.status.code() == Some(1), "{}", told(&refused));
    ensure!(bench.deployment()?["spec"] == before["spec"], "{}", bench.deployment()?["spec"]);

    killed_keadms(&bench, &config, &before["spec"])?;
    eventually(PATIENCE, "the edge node to be Ready", || {
        Ok(if bench.is_ready(EDGE)? { Seen::Yes(()) } else { Seen::NotYet("it is not".into()) })
    })?;
    ensure!(bench.runtime.running()? == containers, "containers were touched");
    let kept = bench.kept("objects.yaml")?;
    ensure!(
        kept.len() > 2 && kept.iter().any(|text| text.contains("nodeLimit: 500")),
        "{} backups",
        kept.len()
    );
    let log = bench.cluster.kubectl_ok(&["logs", "deployment/cloudcore", "--namespace=kubeedge"])?;
    ensure!(!log.to_lowercase().contains("forbidden"), "cloudcore was refused something:\n{log}");

    let reset = bench.machine.run(Path::new("/usr/local/bin/keadm"), &["reset", "edge", "--force"])?;
    ensure!(reset.status.success(), "{}", told(&reset));
    bench.keadm_ok(&["reset", "cloud", "--force"])?;
    Ok(())
}

/// What somebody else has changed is found before anything is written, and taken back if that is wanted.
fn changed_by_others(bench: &Bench) -> Result<()> {
    let service = ["service/cloudcore", "--namespace=kubeedge"];
    let patch = |kind: &str| {
        let patch = format!("--patch={{\"spec\":{{\"type\":\"{kind}\"}}}}");
        bench.cluster.kubectl_ok(&[&["patch"], &service[..], &[&*patch]].concat())
    };
    let written = || -> Result<(Value, Value)> {
        let config = bench.cluster.kubectl_json(&["get", "configmap/cloudcore", "--namespace=kubeedge"])?;
        Ok((
            config["metadata"]["resourceVersion"].clone(),
            bench.deployment()?["metadata"]["generation"].clone(),
        ))
    };
    let before = written()?;
    let n_kept = bench.kept("objects.yaml")?.len();
    patch("LoadBalancer")?;
    let changes = "--set=cloudCore.modules.cloudHub.nodeLimit=501";
    for more in [&[changes, "--dry-run"][..], &[changes]] {
        let refused = bench.upgrade(more)?;
        let said = told(&refused);
        ensure!(refused.status.code() == Some(3), "{more:?}: {said}");
        for words in ["nothing was changed: Service kubeedge/cloudcore", ".spec.type", "--force"] {
            ensure!(said.contains(words), "{more:?}: no {words:?} in {said}");
        }
        ensure!(!said.contains("putting back"), "{more:?}: {said}");
        ensure!(written()? == before, "{more:?} has written something: {said}");
    }
    ensure!(bench.kept("objects.yaml")?.len() == n_kept, "nothing was to be kept");
    let plan = bench.upgrade_ok(&["--force", "--dry-run"])?;
    ensure!(plan.contains("change Service kubeedge/cloudcore"), "{plan}");
    let done = bench.upgrade_ok(&["--force"])?;
    ensure!(done.contains("change Service kubeedge/cloudcore"), "{done}");
    let kind = [&["get"], &service[..], &["--output=jsonpath={.spec.type}"]].concat();
    ensure!(bench.cluster.kubectl_ok(&kind)? == "NodePort", "it was not taken back");
    Ok(())
}

/// keadm is killed in the middle, twice: once the way leads back, once on. What was before is `config` and `spec`.
fn killed_keadms(bench: &Bench, config: &str, spec: &Value) -> Result<()> {
    let begin = Instant::now();
    let n_before = bench.kept("objects.yaml")?.len();
    let rollback = |more: &[&str]| -> Result<String> {
        bench.keadm_ok(&[&["rollback", "cloud", &bench.backup_dir()?][..], more].concat())
    };

    // Everything is written, and what is written never becomes ready.
    let bad = "--set=cloudCore.image.tag=v0.0.0-nowhere,grafanaDashboard.enable=true";
    bench.upgrade_until("create ConfigMap kubeedge/cloudcore-dashboard", &[bad])?;
    ensure!(bench.deployment()?["spec"] != *spec, "nothing was changed");
    let plan = rollback(&["--dry-run"])?;
    ensure!(
        plan.contains("change Deployment") && plan.contains("remove ConfigMap kubeedge/cloudcore-dashboard"),
        "{plan}"
    );
    ensure!(bench.deployment()?["spec"] != *spec, "a dry run has changed something");
    let done = rollback(&[])?;
    eprintln!("{done}");
    ensure!(done.contains("the cloudcore of before is ready"), "{done}");
    let now = bench.deployment()?["spec"].clone();
    ensure!(now == *spec && bench.config()? == config, "{now} is not {spec}");
    let dashboard =
        bench.cluster.kubectl(&["get", "configmap/cloudcore-dashboard", "--namespace=kubeedge"])?;
    ensure!(!dashboard.status.success(), "what the upgrade made is still there: {}", told(&dashboard));
    eprintln!("killed, and back after {:?}", begin.elapsed());

    // The configuration is written, the Deployment perhaps not; what was said then holds for who goes on.
    let changes = "--set=cloudCore.modules.cloudHub.nodeLimit=600,networkPolicy.enable=false";
    bench.upgrade_until("change ConfigMap kubeedge/cloudcore", &[changes])?;
    let done = bench.upgrade_ok(&[])?;
    eprintln!("{done}");
    ensure!(done.contains("was cut short: going on"), "{done}");
    // What is wanted no more goes.
    ensure!(done.contains("remove NetworkPolicy kubeedge/cloudcore"), "{done}");
    ensure!(bench.config()?.contains("nodeLimit: 600"), "{}", bench.config()?);
    ensure!(bench.upgrade_ok(&[])?.contains("nothing is changed"), "a second time");
    let kept = bench.kept("objects.yaml")?;
    // One for each upgrade, and none of half of both.
    ensure!(kept.len() == n_before + 2, "{} backups, and {n_before} before", kept.len());
    let is_whole = |text: &String| text.contains("nodeLimit: 500") && text.contains("kind: NetworkPolicy");
    ensure!(kept.iter().rev().take(2).all(is_whole), "a backup is of half of both");
    eprintln!("killed, and on; both took {:?}", begin.elapsed());

    // From one that came to its end, too; what goes is kept.
    rollback(&[])?;
    let now = bench.deployment()?["spec"].clone();
    ensure!(now == *spec && bench.config()? == config, "{now} is not {spec}");
    bench.cluster.kubectl_ok(&["get", "networkpolicy/cloudcore", "--namespace=kubeedge"])?;
    let gone = bench.kept("taken-back.yaml")?;
    ensure!(gone.len() == 1 && gone.iter().all(|text| text.contains("nodeLimit: 600")), "{gone:?}");
    eprintln!("and back again: {:?}", begin.elapsed());
    Ok(())
}
