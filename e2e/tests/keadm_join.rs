//! `keadm join` makes a machine a node, and `keadm reset edge` leaves nothing of it; what cannot work is refused before
//! anything is touched.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::joined::{Joined, run_pod, told};
use e2e::node::{CloudCore, binary};
use e2e::wait::{Seen, eventually};
use serde_json::Value;

const NODE: &str = "edge-keadm";

/// Dropped from top to bottom: the node before its cloud.
struct Bench {
    edge: Joined,
    cluster: Cluster,
    _cloud: CloudCore,
    token: String,
}

impl Bench {
    fn start() -> Result<Self> {
        let cluster = Cluster::start(&Options::default())?;
        let mut cloud = CloudCore::start(&cluster, &Value::Null)?;
        let secret = cloud.token(&cluster)?;
        let edge = Joined::prepare(NODE, &cloud)?;
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let told = edge.keadm(&["gettoken", "--kube-config", &kubeconfig])?;
        let token = String::from_utf8_lossy(&told.stdout).trim().to_owned();
        ensure!(token == secret, "gettoken: {}", String::from_utf8_lossy(&told.stderr));
        Ok(Self { edge, cluster, _cloud: cloud, token })
    }

    fn join(&self, token: &str, more: &[&str]) -> Result<Output> {
        self.edge.join(token, more)
    }

    /// keadm token, where the kubeconfig is.
    fn token(&self, words: &[&str]) -> Result<String> {
        let kubeconfig = self.cluster.kubeconfig().display().to_string();
        let arguments: Vec<&str> = ["token"].iter().chain(words).copied().collect();
        let done = self.edge.keadm(&[&arguments[..], &["--kube-config", &kubeconfig]].concat())?;
        ensure!(done.status.success(), "keadm {arguments:?}: {}", told(&done));
        Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    fn reset(&self) -> Result<Output> {
        self.edge.reset()
    }
}

#[test]
fn a_machine_joins_and_is_reset() -> Result<()> {
    let bench = Bench::start()?;
    let before = bench.edge.machine.made()?;

    // What cannot work touches nothing.
    let check = |output: Output, code: i32, expected: &str| -> Result<()> {
        ensure!(output.status.code() == Some(code), "{}", told(&output));
        ensure!(told(&output).contains(expected), "no {expected:?} in {}", told(&output));
        bench.edge.machine.must_be_as(&before)?;
        Ok(())
    };
    let (ca, rest) = bench.token.split_once('.').unwrap_or_default();
    let strange = format!("{}.{rest}", "0".repeat(ca.len()));
    check(bench.join(&strange, &[])?, 3, "is not the one that the join token names")?;
    check(bench.join("abc", &[])?, 3, "keadm gettoken")?;
    check(bench.join(&bench.token, &["--cgroupdriver=systemd"])?, 3, "type --cgroupdriver=cgroupfs")?;
    check(bench.join(&bench.token, &["--set=modules.edgd.x=1"])?, 3, "modules.edgd")?;
    check(bench.join(&bench.token, &["--dry-run"])?, 0, "get this machine's certificate")?;
    check(bench.reset()?, 0, "nothing to remove")?;
    let nobody = bench.join(&bench.token, &["--remote-runtime-endpoint=unix:///no/such.sock"])?;
    ensure!(nobody.status.code() == Some(2), "given twice: {}", told(&nobody));

    for round in 0..2 {
        let joined = bench.join(&bench.token, &["--labels=site=hall-3"])?;
        ensure!(joined.status.success(), "{}", told(&joined));
        eprintln!("{}", told(&joined));
        ensure!(!told(&joined).contains(rest), "the token is told");
        let node = bench.cluster.kubectl_json(&["get", "node", NODE])?;
        ensure!(node["metadata"]["labels"]["site"] == "hall-3", "{node}");
        let again = bench.join(&bench.token, &["--labels=site=hall-3"])?;
        ensure!(again.status.success() && told(&again).contains("already"), "{}", told(&again));

        let pod = format!("web-{round}");
        run_pod(&bench.cluster, &pod)?;
        ensure!(bench.edge.runtime.running()?.len() == 2, "the pod and its sandbox");

        let reset = bench.reset()?;
        ensure!(reset.status.success(), "{}", told(&reset));
        ensure!(told(&reset).contains(&format!("kubectl delete node {NODE}")), "{}", told(&reset));
        ensure!(bench.edge.runtime.running()?.is_empty(), "containers run on");
        bench.edge.machine.must_be_as(&before)?;
        bench.cluster.kubectl_ok(&["delete", "pod", &pod, "--force", "--grace-period=0"])?;
        bench.cluster.kubectl_ok(&["delete", "node", NODE])?;
    }

    // Where no service manager runs, keadm keeps edgecore running.
    let joined = bench.join(&bench.token, &[])?;
    ensure!(joined.status.success(), "{}", told(&joined));
    let log = bench.edge.machine.read("/var/log/kubeedge/edgecore.log")?;
    ensure!(log.contains("edgecore starts"), "{log}");
    let pid = bench.edge.machine.read("/run/edgecore.pid")?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let edgecore = children.trim().parse::<i32>()?;
    let edgecore = rustix::process::Pid::from_raw(edgecore);
    if let Some(edgecore) = edgecore {
        rustix::process::kill_process(edgecore, rustix::process::Signal::KILL)?;
    }
    eventually(Duration::from_secs(60), "edgecore to be started again", || {
        let log = bench.edge.machine.read("/var/log/kubeedge/edgecore.log")?;
        let n_starts = log.matches("edgecore starts").count();
        Ok(if n_starts == 2 { Seen::Yes(()) } else { Seen::NotYet(format!("{n_starts} starts")) })
    })?;
    let reset = bench.reset()?;
    ensure!(reset.status.success(), "{}", told(&reset));
    bench.edge.machine.must_be_as(&before)?;
    Ok(())
}

#[test]
fn tokens_are_made_and_taken_back() -> Result<()> {
    let bench = Bench::start()?;
    let before = bench.edge.machine.made()?;
    let comes_and_goes = |token: &str| -> Result<()> {
        let joined = bench.join(token, &[])?;
        ensure!(joined.status.success(), "{}", told(&joined));
        let reset = bench.reset()?;
        ensure!(reset.status.success(), "{}", told(&reset));
        bench.cluster.kubectl_ok(&["delete", "node", NODE])?;
        Ok(())
    };
    let refused = |token: &str, code: i32, expected: &str| -> Result<()> {
        let output = bench.join(token, &[])?;
        ensure!(output.status.code() == Some(code), "{}", told(&output));
        ensure!(told(&output).contains(expected), "no {expected:?} in {}", told(&output));
        bench.edge.machine.must_be_as(&before)?;
        Ok(())
    };
    let short = bench.token(&["create", "--ttl=1m"])?;
    let made = bench.token(&["create", "--ttl=30m", "--note=hall 3", "--output=json"])?;
    let made: Value = serde_json::from_str(&made)?;
    let [id, token] = ["id", "token"].map(|key| made[key].as_str().unwrap_or_default());
    comes_and_goes(token)?;
    let said = bench.token(&["revoke", id])?;
    ensure!(said.contains("nodes that have joined stay"), "{said}");
    refused(token, 1, "token is revoked")?;

    // The one that everybody knows.
    bench.token(&["revoke", "current"])?;
    refused(&bench.token, 1, "token is revoked")?;
    let kubeconfig = bench.cluster.kubeconfig().display().to_string();
    let next = bench.edge.keadm(&["gettoken", "--kube-config", &kubeconfig])?;
    comes_and_goes(String::from_utf8_lossy(&next.stdout).trim())?;

    let list: Vec<Value> = serde_json::from_str(&bench.token(&["list", "--output=json"])?)?;
    let has = |id: &str, state: &str| list.iter().any(|one| one["id"] == id && one["state"] == state);
    ensure!(has("cloudcore-0", "revoked") && has("cloudcore-1", "ready") && has(id, "revoked"), "{list:?}");
    let table = bench.token(&["list"])?;
    ensure!(table.contains("hall 3") && !table.contains(token), "{table}");
    eprintln!("{table}");
    let kept = bench.cluster.kubectl_ok(&["get", "secret", "isthmus-jointokens", "--namespace=kubeedge"])?;
    ensure!(kept.contains("Opaque"), "{kept}");

    eventually(Duration::from_secs(90), "the short token to end", || {
        let list = bench.token(&["list"])?;
        Ok(if list.contains(" ended ") { Seen::Yes(()) } else { Seen::NotYet(list) })
    })?;
    refused(&short, 3, "the join token ended")
}

#[test]
fn a_machine_without_anything_joins_with_a_bundle() -> Result<()> {
    let mut bench = Bench::start()?;
    let before = bench.edge.machine.made()?;
    // The application comes from nowhere but the bundle, and beside keadm lies no edgecore.
    let archive = bench.edge.runtime.run_dir().join("images/busybox.tar");
    for image in [e2e::images::APP, e2e::images::APP_LATEST] {
        bench.edge.runtime.ctr_ok(&["images", "remove", "--sync", image])?;
    }
    let stick = bench.edge.machine.run_dir().folder("stick")?;
    let (bundle, keadm) = (stick.join("edge.tar.gz"), stick.join("keadm"));
    let (file, image) = (bundle.display().to_string(), archive.display().to_string());
    let made = bench.edge.keadm(&["bundle", "create", "--out", &file, "--image", &image])?;
    ensure!(made.status.success(), "{}", told(&made));
    fs::copy(&bench.edge.keadm, &keadm)?;
    bench.edge.keadm = keadm;

    let cut = stick.join("cut.tar.gz");
    let whole = fs::read(&bundle)?;
    fs::write(&cut, whole.get(..whole.len() / 2).unwrap_or_default())?;
    let refused = bench.join(&bench.token, &[&format!("--offline-bundle={}", cut.display())])?;
    ensure!(refused.status.code() == Some(3), "{}", told(&refused));
    bench.edge.machine.must_be_as(&before)?;

    let joined = bench.join(&bench.token, &[&format!("--offline-bundle={file}")])?;
    ensure!(joined.status.success(), "{}", told(&joined));
    run_pod(&bench.cluster, "from-the-bundle")?;
    let reset = bench.reset()?;
    ensure!(reset.status.success(), "{}", told(&reset));
    bench.edge.machine.must_be_as(&before)?;
    Ok(())
}

#[test]
fn a_machine_with_keadm_alone_joins_from_an_image() -> Result<()> {
    let mut bench = Bench::start()?;
    let before = bench.edge.machine.made()?;
    let folder = bench.edge.machine.run_dir().folder("alone")?;
    let keadm = folder.join("keadm");
    fs::copy(&bench.edge.keadm, &keadm)?;
    let stripped = bench.edge.machine.run_dir().folder("stripped")?;
    let program = |name: &str| -> Result<PathBuf> {
        let built = binary(name, &format!("ISTHMUS_{}", name.to_uppercase()))?;
        let path = stripped.join(name);
        e2e::process::run("strip", &["-o", &path.to_string_lossy(), &built.to_string_lossy()])?;
        Ok(path)
    };
    let (archive, image) = e2e::images::shipped(&stripped, "installation-package", program)?;
    bench.edge.keadm = keadm;
    let nothing_runs = || -> Result<()> {
        let left = bench.edge.runtime.ctr_ok(&["containers", "list", "--quiet"])?;
        ensure!(left.trim().is_empty(), "containers are left: {left}");
        bench.edge.machine.must_be_as(&before)
    };

    // Nobody is at that registry.
    let refused = bench.join(&bench.token, &["--image-repository=127.0.0.1:1/isthmus"])?;
    eprintln!("{}", told(&refused));
    ensure!(refused.status.code() == Some(3), "{}", told(&refused));
    for place in ["--offline-bundle", "/alone/edgecore", "/usr/local/bin/edgecore", "127.0.0.1:1/isthmus"] {
        ensure!(told(&refused).contains(place), "no {place} in {}", told(&refused));
    }
    nothing_runs()?;
    // An image with other programs.
    let (repository, tag) = image.rsplit_once("/installation-package").unwrap_or_default();
    let other = format!("{repository}.other/installation-package{tag}");
    bench.edge.runtime.ctr_ok(&["images", "tag", e2e::images::APP, &other])?;
    let refused = bench.join(&bench.token, &[&format!("--image-repository={repository}.other")])?;
    ensure!(refused.status.code() == Some(3) && told(&refused).contains("start "), "{}", told(&refused));
    nothing_runs()?;

    bench.edge.runtime.import_image(&archive)?;
    let from = format!("--image-repository={repository}");
    let endpoint = format!("--remote-runtime-endpoint={}", bench.edge.runtime.endpoint());
    let pulled = bench.edge.keadm(&["config", "images", "pull", "--part=edge", &from, &endpoint])?;
    ensure!(told(&pulled).contains(&format!("here already: {image}")), "{}", told(&pulled));
    let joined = bench.join(&bench.token, &[&from])?;
    eprintln!("{}", told(&joined));
    ensure!(joined.status.success(), "{}", told(&joined));
    run_pod(&bench.cluster, "from-the-image")?;
    ensure!(bench.edge.runtime.running()?.len() == 2, "the pod and its sandbox, and nothing else");
    let reset = bench.reset()?;
    ensure!(reset.status.success(), "{}", told(&reset));
    nothing_runs()
}

/// A node as KubeEdge leaves it: its program (here one that only waits), its store, no journal of keadm's. The containers are
/// of an edgecore that is ours; those of KubeEdge's have the same labels.
#[test]
fn a_node_of_kubeedges_is_taken_over_and_given_back() -> Result<()> {
    let bench = Bench::start()?;
    let joined = bench.join(&bench.token, &[])?;
    ensure!(joined.status.success(), "{}", told(&joined));
    run_pod(&bench.cluster, "stays")?;
    let containers = bench.edge.runtime.running()?;

    let shell = |script: &str| bench.edge.shell(script);
    let theirs = e2e::need::c_program("pause")?.display().to_string();
    let pod = bench.cluster.kubectl_ok(&["get", "pod", "stays", "--output=json"])?;
    let pod = bench.edge.machine.run_dir().write("pod.json", pod)?.display().to_string();
    shell(&format!(
        "/usr/local/bin/keadm supervise --pid-file /run/edgecore.pid --stop
         rm -r /var/lib/keadm /usr/local/bin/keadm /var/lib/kubeedge/*
         cp {theirs} /usr/local/bin/edgecore
         printf '\\377 Go buildinf:' >>/usr/local/bin/edgecore
         /usr/local/bin/edgecore </dev/null >/dev/null 2>&1 &
         python3 -c '
import sqlite3
store = sqlite3.connect(\"/var/lib/kubeedge/edgecore.db\")
store.execute(\"CREATE TABLE device (id TEXT PRIMARY KEY, name TEXT)\")
store.execute(\"CREATE TABLE meta (key TEXT PRIMARY KEY, type TEXT, value TEXT)\")
store.execute(\"INSERT INTO meta VALUES (?, ?, ?)\", (\"default/pod/stays\", \"pod\", open(\"{pod}\").read()))
store.commit()
'"
    ))?;
    let store = shell("sha256sum </var/lib/kubeedge/edgecore.db")?;
    let without = bench.join(&bench.token, &[])?;
    ensure!(without.status.code() == Some(3) && told(&without).contains("--takeover"), "{}", told(&without));

    // KubeEdge's takes any words and starts: it is asked nothing.
    let refused = bench.edge.keadm(&["upgrade", "edge"])?;
    ensure!(refused.status.code() == Some(3), "{}", told(&refused));
    ensure!(told(&refused).contains("keadm join --takeover"), "{}", told(&refused));

    let taken = bench.edge.keadm(&["join", "--takeover"])?;
    ensure!(taken.status.success() && told(&taken).contains("--back-to-kubeedge"), "{}", told(&taken));
    let log = bench.edge.machine.read("/var/log/kubeedge/edgecore.log")?;
    ensure!(log.contains("was KubeEdge's: 1 objects were taken from it"), "{log}");
    ensure!(bench.edge.runtime.running()? == containers, "containers were touched");
    run_pod(&bench.cluster, "comes")?;
    bench.cluster.kubectl_ok(&["delete", "pod", "comes"])?;
    let again = bench.edge.keadm(&["join", "--takeover"])?;
    ensure!(again.status.success() && told(&again).contains("nothing is changed"), "{}", told(&again));

    let back = bench.edge.keadm(&["reset", "edge", "--back-to-kubeedge", "--force"])?;
    ensure!(back.status.success(), "{}", told(&back));
    ensure!(bench.edge.runtime.running()? == containers, "containers were touched");
    ensure!(shell("sha256sum </var/lib/kubeedge/edgecore.db")? == store, "their store is another one");
    shell(&format!("cmp --bytes=$(stat --format=%s {theirs}) {theirs} /usr/local/bin/edgecore"))?;
    shell(
        "for exe in /proc/[0-9]*/exe; do [ \"$(readlink $exe)\" = /usr/local/bin/edgecore ] && exit 0; done; exit 1",
    )?;

    // Once more, and now it goes for good.
    let taken = bench.edge.keadm(&["join", "--takeover"])?;
    ensure!(taken.status.success(), "{}", told(&taken));
    let reset = bench.reset()?;
    ensure!(reset.status.success(), "{}", told(&reset));
    ensure!(bench.edge.runtime.running()?.is_empty(), "containers run on");
    let left = shell(
        "ls -d /etc/kubeedge /var/lib/kubeedge /var/lib/keadm /usr/local/bin/*edgecore* 2>/dev/null || true",
    )?;
    ensure!(left.is_empty(), "left behind: {left}");
    Ok(())
}
