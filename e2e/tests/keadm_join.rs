//! `keadm join` makes a machine a node, and `keadm reset edge` leaves nothing of it; what cannot work is refused before
//! anything is touched.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::joined::{run_pod, told};
use e2e::joining::Joining;
use e2e::node::binary;
use e2e::wait::{Seen, eventually};
use serde_json::Value;

const NODE: &str = "edge-keadm";

#[test]
fn a_machine_joins_and_is_reset() -> Result<()> {
    let bench = Joining::start(NODE)?;
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
    let openrc = bench.join(&bench.token, &["--service-manager=openrc"])?;
    check(openrc, 3, "it does not run on this machine")?;
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

        let well = bench.edge.keadm(&["debug", "diagnose", "node"])?;
        ensure!(told(&well).contains("answers, and this machine has its certificate"), "{}", told(&well));

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
    let bench = Joining::start(NODE)?;
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
    let short = bench.typed(&["token", "create", "--ttl=1m"])?;
    let made = bench.typed(&["token", "create", "--ttl=30m", "--note=hall 3", "--output=json"])?;
    let made: Value = serde_json::from_str(&made)?;
    let [id, token] = ["id", "token"].map(|key| made[key].as_str().unwrap_or_default());
    comes_and_goes(token)?;
    let said = bench.typed(&["token", "revoke", id])?;
    ensure!(said.contains("nodes that have joined stay"), "{said}");
    refused(token, 1, "token is revoked")?;

    // The one that everybody knows.
    bench.typed(&["token", "revoke", "current"])?;
    refused(&bench.token, 1, "token is revoked")?;
    comes_and_goes(&bench.typed(&["gettoken"])?)?;

    let list: Vec<Value> = serde_json::from_str(&bench.typed(&["token", "list", "--output=json"])?)?;
    let has = |id: &str, state: &str| list.iter().any(|one| one["id"] == id && one["state"] == state);
    ensure!(has("cloudcore-0", "revoked") && has("cloudcore-1", "ready") && has(id, "revoked"), "{list:?}");
    let table = bench.typed(&["token", "list"])?;
    ensure!(table.contains("hall 3") && !table.contains(token), "{table}");
    eprintln!("{table}");
    let kept = bench.cluster.kubectl_ok(&["get", "secret", "isthmus-jointokens", "--namespace=kubeedge"])?;
    ensure!(kept.contains("Opaque"), "{kept}");

    eventually(Duration::from_secs(90), "the short token to end", || {
        let list = bench.typed(&["token", "list"])?;
        Ok(if list.contains(" ended ") { Seen::Yes(()) } else { Seen::NotYet(list) })
    })?;
    refused(&short, 3, "the join token ended")
}

#[test]
fn a_machine_with_keadm_alone_joins_from_an_image() -> Result<()> {
    let mut bench = Joining::start(NODE)?;
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
