//! `keadm init --takeover`: our cloudcore takes the place of KubeEdge's in a cluster. CA and join tokens stay, nodes come back by
//! themselves with their certificate and containers, and there is a way back.
//!
//! KubeEdge's installation is a release of an imitation of its chart, made with the real helm. What runs in it is our
//! cloudcore under KubeEdge's name: it makes the Secrets in KubeEdge's form, and the same machine's ports change hands.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::joined::{Joined, must, run_pod, told};
use e2e::machine::Machine;
use e2e::network::Network;
use e2e::node::binary;
use e2e::run_dir::RunDir;
use e2e::site::PATIENCE;
use e2e::stock::StockNode;
use e2e::wait::{Seen, eventually};
use e2e::{images, need};
use serde_json::{Value, json};

const NODE: &str = "edge-old";
/// What keadm leaves in the folder that it is started in.
const KEPT: &str = "kubeedge-before-takeover.yaml";

/// Dropped from top to bottom: nodes before their cluster.
struct Bench {
    edge: Joined,
    cloud: StockNode,
    cluster: Cluster,
    _network: Network,
    run_dir: RunDir,
}

impl Bench {
    fn start() -> Result<Self> {
        let run_dir = RunDir::new("takeover")?;
        let cluster = Cluster::start(&Options { listens_everywhere: true, ..Options::default() })?;
        let network = Network::start()?;
        let cloud = StockNode::start(&cluster, &network, "cloud")?;
        let images = cloud.run_dir().folder("images")?;
        cloud.runtime.import_image(&images::cloudcore(&images)?)?;
        let (ours, theirs) = (images::cloudcore_name(), "docker.io/kubeedge/cloudcore:v1.23.0");
        cloud.runtime.ctr_ok(&["images", "tag", &ours, theirs])?;
        let machine = Machine::start_with_network(NODE, &network)?;
        let edge = Joined::prepare_at(machine, NODE, format!("{}:10000", cloud.address()), 10002)?;
        Ok(Self { edge, cloud, cluster, _network: network, run_dir })
    }

    /// keadm on the machine that has the kubeconfig.
    fn keadm(&self, arguments: &[&str]) -> Result<Output> {
        let mut keadm = Command::new(binary("keadm", "ISTHMUS_KEADM")?);
        keadm.args(arguments).env("KUBECONFIG", self.cluster.kubeconfig()).current_dir(self.run_dir.path());
        keadm.stdin(Stdio::null()).output().context("start keadm")
    }

    /// KubeEdge, as its keadm leaves it: a release of its chart, with what v1.23 writes into its configuration.
    fn install_kubeedge(&self) -> Result<()> {
        let local = |port: u16| json!({"enable": true, "address": "0.0.0.0", "port": port});
        let config = json!({
            "apiVersion": "cloudcore.config.kubeedge.io/v1alpha2",
            "kind": "CloudCore",
            "kubeAPIConfig": {"kubeConfig": "", "master": ""},
            "modules": {
                "cloudHub": {
                    "advertiseAddress": [self.cloud.address().to_string()],
                    "dnsNames": [""],
                    "nodeLimit": 500,
                    "tlsCAFile": "/etc/kubeedge/ca/rootCA.crt",
                    "tlsCAKeyFile": "/etc/kubeedge/ca/rootCA.key",
                    "websocket": local(10000),
                    "https": local(10002),
                    "quic": {"enable": false, "address": "0.0.0.0", "port": 10001, "maxIncomingStreams": 10000},
                },
                // KubeEdge converts nothing.
                "deviceController": {"conversion": {"enable": false}},
                "cloudStream": {"enable": true, "streamPort": 10003, "tunnelPort": 10004},
                "dynamicController": {"enable": false},
                "router": {"enable": false},
                "iptablesManager": {"enable": true, "mode": "external"},
            },
        });
        let config = self.run_dir.write("kubeedge.yaml", config.to_string())?.display().to_string();
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/kubeedge").display().to_string();
        let mut helm = Command::new(need::helm()?);
        helm.args(["install", "cloudcore", &chart, "--namespace=kubeedge", "--create-namespace"]);
        helm.args(["--set-file", &format!("runs={config}")]);
        helm.env("KUBECONFIG", self.cluster.kubeconfig()).env("HOME", self.run_dir.path());
        for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
            helm.env(folder, self.run_dir.join(folder));
        }
        must(&helm.stdin(Stdio::null()).output().context("start helm")?)?;
        self.rolled_out()
    }

    fn rolled_out(&self) -> Result<()> {
        let wait = ["rollout", "status", "deployment/cloudcore", "--namespace=kubeedge", "--timeout=60s"];
        self.cluster.kubectl_ok(&wait)?;
        Ok(())
    }

    fn get(&self, object: &str) -> Result<Value> {
        self.cluster.kubectl_json(&["get", object, "--namespace=kubeedge"])
    }

    fn is_there(&self, object: &str) -> Result<bool> {
        Ok(self.cluster.kubectl(&["get", object, "--namespace=kubeedge"])?.status.success())
    }

    fn token(&self) -> Result<String> {
        let template = "--output=go-template={{.data.tokendata|base64decode}}";
        eventually(PATIENCE, "the join token", || {
            let output =
                self.cluster.kubectl(&["get", "secret", "tokensecret", "--namespace=kubeedge", template])?;
            let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            Ok(if output.status.success() && !text.is_empty() {
                Seen::Yes(text)
            } else {
                Seen::NotYet(String::new())
            })
        })
    }

    /// All that an installation consists of, each with its version.
    fn everything(&self) -> Result<String> {
        let kinds = "namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,deployments.apps,daemonsets.apps,services,\
                     configmaps,secrets,serviceaccounts,poddisruptionbudgets";
        let format = "--output=jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name} \
                      {.metadata.generation} {.data} {.rules}{\"\\n\"}{end}";
        self.cluster.kubectl_ok(&["get", kinds, "--all-namespaces", format])
    }

    /// The node is linked to a cloudcore that is there, and is the one that it was.
    fn is_as_before(&self, before: &Before) -> Result<()> {
        let diagnose = ["debug", "diagnose", "node"];
        eventually(PATIENCE, "the node's link", || {
            let said = told(&self.edge.keadm(&diagnose)?);
            let is_linked = said.contains("ok: node: the cloud calls this node Ready");
            Ok(if is_linked { Seen::Yes(()) } else { Seen::NotYet(said) })
        })?;
        let now = self.look()?;
        ensure!(now == *before, "another node, certificate or container: {now:?}, it was {before:?}");
        Ok(())
    }

    fn look(&self) -> Result<Before> {
        let of = |what: &[&str]| self.cluster.kubectl_ok(what);
        Ok(Before {
            ca: self.get("secret/casecret")?["data"].clone(),
            server: self.get("secret/cloudcoresecret")?["data"].clone(),
            certificate: self
                .edge
                .shell("cat /etc/kubeedge/certs/server.crt /etc/kubeedge/certs/server.key")?,
            node: of(&["get", "node", NODE, "--output=jsonpath={.metadata.uid}"])?,
            container: of(&[
                "get",
                "pod",
                "stays",
                "--output=jsonpath={.status.containerStatuses[0].containerID}",
            ])?,
            restarts: of(&[
                "get",
                "pod",
                "stays",
                "--output=jsonpath={.status.containerStatuses[0].restartCount}",
            ])?,
            model: of(&["get", "devicemodel", "thing", "--output=jsonpath={.metadata.uid}"])?,
        })
    }
}

/// What must be the same before and after.
#[derive(Debug, PartialEq)]
struct Before {
    ca: Value,
    server: Value,
    certificate: String,
    node: String,
    container: String,
    restarts: String,
    model: String,
}

const MODEL: &str = r#"{"apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
    "metadata": {"name": "thing", "namespace": "default"}, "spec": {"protocol": "virtual", "properties": []}}"#;

#[test]
fn kubeedges_installation_becomes_ours_and_kubeedges_again() -> Result<()> {
    let begun = Instant::now();
    let mark = |what: &str| eprintln!("{:6.1} s  {what}", begun.elapsed().as_secs_f64());
    let bench = Bench::start()?;
    bench.install_kubeedge()?;
    let token = bench.token()?;
    must(&bench.edge.join(&token, &[])?)?;
    run_pod(&bench.cluster, "stays")?;
    bench.cluster.apply(MODEL)?;
    let before = bench.look()?;
    // An earlier `keadm init` may have made the namespace, and left it to KubeEdge; it is not to go with ours for that.
    let of_keadm = json!({"apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "kubeedge", "annotations": {"isthmus.io/made-by-keadm": "true"}}});
    let of_keadm = bench.run_dir.write("namespace.json", of_keadm.to_string())?.display().to_string();
    bench.cluster.kubectl_ok(&[
        "apply",
        "--server-side",
        "--field-manager=keadm",
        "--filename",
        &of_keadm,
    ])?;
    mark("an edge of KubeEdge's cloud");

    // What would be done is said, with any flags, and nothing is done.
    let everything = bench.everything()?;
    let check = |flags: &[&str], code: i32, expected: &[&str]| -> Result<()> {
        let output = bench.keadm(&[&["init"], flags].concat())?;
        ensure!(output.status.code() == Some(code), "{flags:?}: {}", told(&output));
        for expected in expected {
            ensure!(told(&output).contains(expected), "{flags:?}: no {expected:?} in {}", told(&output));
        }
        let now = bench.everything()?;
        ensure!(now == everything, "{flags:?} has changed something:\n{now}\nit was\n{everything}");
        ensure!(!bench.run_dir.join(KEPT).exists(), "{flags:?} has written a file");
        Ok(())
    };
    let nothing = "nothing was changed";
    let address = format!("--advertise-address={}", bench.cloud.address());
    check(&[], 3, &["is KubeEdge's: add --takeover"])?;
    check(&[&address, "--force", "--dry-run"], 3, &["is KubeEdge's: add --takeover"])?;
    let goes = [
        "Deployment kubeedge/cloudcore",
        "DaemonSet kubeedge/edge-eclipse-mosquitto",
        "ClusterRole cloudcore-common",
    ]
    .map(|object| format!("remove {object} (KubeEdge's)"));
    let goes: Vec<&str> = goes.iter().map(String::as_str).chain([nothing]).collect();
    check(&["--takeover", "--dry-run"], 0, &goes)?;
    let said = ["v1.23.0 is a version of KubeEdge", nothing];
    check(&["--takeover", "--dry-run", &address, "--profile", "version=v1.23.0", "--force"], 0, &said)?;
    let values =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/values/kubeedge.yaml").display().to_string();
    check(&["--takeover", "--dry-run", "--values", &values], 0, &["iptablesManager", nothing])?;
    check(
        &["--takeover", "--dry-run", "--set", "cloudCore.replicaCount=2"],
        0,
        &["PodDisruptionBudget", nothing],
    )?;
    check(&["--takeover", "--set", "cloudCore.replicas=2"], 2, &["cloudCore.replicas"])?;
    check(&["--takeover", "--advertise-address=300.1.1.1"], 2, &["300.1.1.1"])?;
    mark("dry runs");

    let done = must(&bench.keadm(&["init", "--takeover"])?)?;
    mark("taken over");
    ensure!(done.contains("cloudcore is ready") && done.contains(KEPT), "{done}");
    bench.rolled_out()?;
    bench.is_as_before(&before)?;
    mark("the node is back");
    let deployment = bench.get("deployment/cloudcore")?;
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    ensure!(
        container["image"].as_str().is_some_and(|image| image.contains("isthmus/cloudcore")),
        "{container}"
    );
    ensure!(container["securityContext"]["privileged"].is_null(), "{container}");
    let config = bench.get("configmap/cloudcore")?["data"]["cloudcore.yaml"].to_string();
    // What edge nodes depend on is carried over.
    ensure!(
        config.contains(&bench.cloud.address().to_string()) && config.contains("nodeLimit: 500"),
        "{config}"
    );
    for gone in [
        "clusterrole/cloudcore-common",
        "daemonset/edge-eclipse-mosquitto",
        "secret/sh.helm.release.v1.cloudcore.v1",
    ] {
        ensure!(!bench.is_there(gone)?, "{gone} is still there");
    }
    for kept in ["secret/cloudcore", "crd/devices.devices.kubeedge.io"] {
        ensure!(bench.is_there(kept)?, "{kept} is gone");
    }
    run_pod(&bench.cluster, "comes")?;
    // Once more is no change.
    let again = must(&bench.keadm(&["init", "--takeover", &address])?)?;
    ensure!(!again.contains("remove ") && !again.contains("create "), "{again}");
    // Also when nothing is said of what was carried over.
    for words in [&["init", "--takeover"][..], &["init"]] {
        let again = must(&bench.keadm(words)?)?;
        for word in ["remove ", "create ", "change "] {
            ensure!(!again.contains(word), "{words:?}: {again}");
        }
        let next = format!("keadm join --cloudcore-ipport={}:10000", bench.cloud.address());
        ensure!(again.contains(&next), "{words:?}: {again}");
        let now = bench.get("configmap/cloudcore")?["data"]["cloudcore.yaml"].to_string();
        ensure!(now == config, "{words:?} has changed\n{config}\nto\n{now}");
    }
    mark("new pods run, and once more is no change");

    // The way back, as the documents have it.
    must(&bench.keadm(&["reset", "cloud", "--keep-secrets", "--force"])?)?;
    bench.cluster.kubectl_ok(&["apply", "--filename", &bench.run_dir.join(KEPT).display().to_string()])?;
    bench.rolled_out()?;
    bench.is_as_before(&before)?;
    mark("and back");

    // Tokens that were given away before are good with whatever cloudcore has the CA.
    must(&bench.edge.reset()?)?;
    bench.cluster.kubectl_ok(&["delete", "node", NODE])?;
    must(&bench.edge.join(&token, &[])?)?;
    mark("a machine joins with the first token");

    // A takeover that was cut short before the last of KubeEdge's objects went still knows what to carry over.
    bench.cluster.kubectl_ok(&["delete", "deployment/cloudcore", "--namespace=kubeedge"])?;
    let plan = must(&bench.keadm(&["init", "--takeover", "--dry-run"])?)?;
    for key in ["advertiseAddress", "nodeLimit"] {
        ensure!(plan.contains(&format!("cloudCore.modules.cloudHub.{key}")), "no {key} in {plan}");
    }
    ensure!(plan.contains("change ConfigMap kubeedge/cloudcore"), "{plan}");
    Ok(())
}
