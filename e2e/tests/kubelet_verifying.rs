//! A host cluster as K3s is: its kubeconfig in K3s' place and form, and an API server that believes no kubelet whose certificate
//! its authority has not signed.
//!
//! What runs in the cloud is reached through it, and so are pods on edge nodes, for which cloudcore shows a certificate of that
//! authority.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::cluster::{Cluster, Options};
use e2e::images;
use e2e::joined::{Joined, must, run_pod};
use e2e::machine::Machine;
use e2e::network::Network;
use e2e::node::binary;
use e2e::stock::StockNode;
use serde_json::json;

/// Where K3s leaves it for its own machine's root.
const K3S: &str = "/etc/rancher/k3s/k3s.yaml";
const NODE: &str = "edge-k3s";
const KEADM: &str = "/usr/local/bin/keadm";

/// As K3s writes it: everything in one file, every name `default`, and the server on the machine itself.
fn k3s_yaml(cluster: &Cluster) -> Result<String> {
    let admin = cluster.ca().issue("k3s-admin", "system:admin", &["system:masters"], &[])?;
    let data = |path: &Path| -> Result<String> { Ok(STANDARD.encode(fs::read(path)?)) };
    let config = json!({
        "apiVersion": "v1",
        "clusters": [{"cluster": {"certificate-authority-data": data(&cluster.ca().files.cert)?, "server": cluster.server()},
                      "name": "default"}],
        "contexts": [{"context": {"cluster": "default", "user": "default"}, "name": "default"}],
        "current-context": "default",
        "kind": "Config",
        "users": [{"name": "default", "user":
            {"client-certificate-data": data(&admin.cert)?, "client-key-data": data(&admin.key)?}}],
    });
    Ok(serde_saphyr::to_string(&config)?)
}

#[test]
fn a_cluster_that_verifies_kubelets_gets_its_edge() -> Result<()> {
    let options = Options { listens_everywhere: true, verifies_kubelets: true, ..Options::default() };
    let cluster = Cluster::start(&options)?;
    let network = Network::start()?;
    let cloud = StockNode::start(&cluster, &network, "cloud")?;
    cloud.runtime.import_image(&images::cloudcore(&cloud.run_dir().folder("images")?)?)?;

    // The machine that K3s runs on, whose root has no kubeconfig of his own.
    let server = Machine::start("k3s")?;
    let file = server.run_dir().write("k3s.yaml", k3s_yaml(&cluster)?)?;
    let keadm = binary("keadm", "ISTHMUS_KEADM")?;
    let script = format!(
        "cp {} {KEADM}; mkdir -p $(dirname {K3S}); install -m 600 {} {K3S}; mount -t tmpfs tmpfs /root",
        keadm.display(),
        file.display()
    );
    must(&server.run(Path::new("/bin/sh"), &["-ec", &script])?)?;
    let ask = |words: &str| {
        server.run(Path::new("/bin/sh"), &["-c", &format!("unset KUBECONFIG; {KEADM} {words}")])
    };
    let done = must(&ask(&format!("init --advertise-address={}", cloud.address()))?)?;
    ensure!(done.contains("cloudcore is ready"), "{done}");
    ensure!(done.contains(&format!("ok: {}", cluster.server())), "another cluster: {done}");
    let output = ask("gettoken")?;
    must(&output)?;
    let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();

    // The API server verifies the stock kubelet, and reaches cloudcore's log through it.
    let log = cluster.kubectl_ok(&["logs", "deployment/cloudcore", "--namespace=kubeedge"])?;
    ensure!(log.contains("is Kubernetes v1."), "{log}");

    let machine = Machine::start_with_network(NODE, &network)?;
    let edge = Joined::prepare_at(machine, NODE, format!("{}:10000", cloud.address()), 10002)?;
    must(&edge.join(&token, &[])?)?;
    cluster.kubectl_ok(&["cordon", cloud.name()])?;
    run_pod(&cluster, "talks")?;
    for words in [&["logs", "talks"][..], &["exec", "talks", "--", "true"]] {
        let asked = Instant::now();
        must(&cluster.kubectl(words)?)?;
        ensure!(asked.elapsed() < Duration::from_secs(10), "{words:?} took {:?}", asked.elapsed());
    }
    // On the machine they are there.
    let said = must(&edge.keadm(&["ctl", "exec", "talks", "--", "echo", "here"])?)?;
    ensure!(said.contains("here"), "{said}");
    must(&edge.reset()?)?;
    Ok(())
}
