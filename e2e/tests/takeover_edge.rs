//! A node of KubeEdge's becomes ours in place, with the containers that it runs, and is KubeEdge's again if that is wanted.

use anyhow::{Result, ensure};
use e2e::joined::{run_pod, told};
use e2e::joining::Joining;

const NODE: &str = "edge-taken";

/// A node as KubeEdge leaves it: its program (here one that only waits), its store, no journal of keadm's. The containers are
/// of an edgecore that is ours; those of KubeEdge's have the same labels.
#[test]
fn a_node_of_kubeedges_is_taken_over_and_given_back() -> Result<()> {
    let bench = Joining::start(NODE)?;
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
