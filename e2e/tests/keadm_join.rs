//! `keadm join` makes a machine a node, and `keadm reset edge` leaves nothing of it; what cannot work is refused before
//! anything is touched.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::machine::Machine;
use e2e::node::{CloudCore, binary};
use e2e::runtime::Runtime;
use e2e::site::{PATIENCE, shell_pod};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

const NODE: &str = "edge-keadm";

struct Bench {
    keadm: PathBuf,
    machine: Machine,
    runtime: Runtime,
    cluster: Cluster,
    cloud: CloudCore,
    token: String,
    set: String,
}

impl Bench {
    fn start() -> Result<Self> {
        let keadm = binary("keadm", "ISTHMUS_KEADM")?;
        // Found beside it.
        binary("edgecore", "ISTHMUS_EDGECORE")?;
        let cluster = Cluster::start(&Options::default())?;
        let mut cloud = CloudCore::start(&cluster, &Value::Null)?;
        let secret = cloud.token(&cluster)?;
        let machine = Machine::start("keadm-join")?;
        let runtime = Runtime::start_in("keadm-join", Some(&machine))?;
        // Several machines share this one's network here, and how full its disk is has no part in this.
        let run_dir = machine.run_dir();
        let set = format!(
            "admin.bindAddress=127.0.0.1:{},modules.eventBus.mqttServerInternal=tcp://127.0.0.1:{},\
             modules.edged.podSandboxImage={},modules.edged.tailoredKubeletConfig.cgroupRoot={},\
             modules.edged.tailoredKubeletConfig.evictionHard.nodefs\\.available=1%,\
             modules.edged.tailoredKubeletConfig.evictionHard.nodefs\\.inodesFree=1%",
            run_dir.port()?,
            run_dir.port()?,
            e2e::images::PAUSE,
            runtime.cgroup_root(),
        );
        let kubeconfig = cluster.kubeconfig().display().to_string();
        let told = machine.run(&keadm, &["gettoken", "--kube-config", &kubeconfig])?;
        let token = String::from_utf8_lossy(&told.stdout).trim().to_owned();
        ensure!(token == secret, "gettoken: {}", String::from_utf8_lossy(&told.stderr));
        Ok(Self { keadm, machine, runtime, cluster, cloud, token, set })
    }

    fn join(&self, token: &str, more: &[&str]) -> Result<Output> {
        let cloud = format!("--cloudcore-ipport={}", self.cloud.websocket());
        let port = format!("--certport={}", self.cloud.https().port());
        let runtime = format!("--remote-runtime-endpoint={}", self.runtime.endpoint());
        let (name, token) = (format!("--edgenode-name={NODE}"), format!("--token={token}"));
        let mut arguments = vec!["join", &*cloud, &*port, &*runtime, &*name, &*token, "--set", &*self.set];
        arguments.extend(more);
        self.machine.run(&self.keadm, &arguments)
    }

    fn reset(&self) -> Result<Output> {
        self.machine.run(&self.keadm, &["reset", "edge", "--force"])
    }
}

fn told(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{:?}\n{}", output.status.code(), text.concat())
}

#[test]
fn a_machine_joins_and_is_reset() -> Result<()> {
    let bench = Bench::start()?;
    let before = bench.machine.made()?;

    // What cannot work touches nothing.
    let check = |output: Output, code: i32, expected: &str| -> Result<()> {
        ensure!(output.status.code() == Some(code), "{}", told(&output));
        ensure!(told(&output).contains(expected), "no {expected:?} in {}", told(&output));
        ensure!(bench.machine.made()? == before, "left behind: {:?}", bench.machine.made()?);
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
        bench.cluster.apply(&shell_pod(&pod, "exec sleep 100000", &json!({})))?;
        eventually(PATIENCE, "the pod to run", || {
            let phase =
                bench.cluster.kubectl_ok(&["get", "pod", &pod, "--output=jsonpath={.status.phase}"])?;
            Ok(if phase == "Running" { Seen::Yes(()) } else { Seen::NotYet(phase) })
        })?;
        ensure!(bench.runtime.running()?.len() == 2, "the pod and its sandbox");

        let reset = bench.reset()?;
        ensure!(reset.status.success(), "{}", told(&reset));
        ensure!(told(&reset).contains(&format!("kubectl delete node {NODE}")), "{}", told(&reset));
        ensure!(bench.runtime.running()?.is_empty(), "containers run on");
        ensure!(bench.machine.made()? == before, "left behind: {:?}", bench.machine.made()?);
        bench.cluster.kubectl_ok(&["delete", "pod", &pod, "--force", "--grace-period=0"])?;
        bench.cluster.kubectl_ok(&["delete", "node", NODE])?;
    }

    // Where no service manager runs, keadm keeps edgecore running.
    let joined = bench.join(&bench.token, &[])?;
    ensure!(joined.status.success(), "{}", told(&joined));
    let log = bench.machine.read("/var/log/kubeedge/edgecore.log")?;
    ensure!(log.contains("edgecore starts"), "{log}");
    let pid = bench.machine.read("/run/edgecore.pid")?;
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let edgecore = children.trim().parse::<i32>()?;
    let edgecore = rustix::process::Pid::from_raw(edgecore);
    if let Some(edgecore) = edgecore {
        rustix::process::kill_process(edgecore, rustix::process::Signal::KILL)?;
    }
    eventually(Duration::from_secs(60), "edgecore to be started again", || {
        let log = bench.machine.read("/var/log/kubeedge/edgecore.log")?;
        let n_starts = log.matches("edgecore starts").count();
        Ok(if n_starts == 2 { Seen::Yes(()) } else { Seen::NotYet(format!("{n_starts} starts")) })
    })?;
    let reset = bench.reset()?;
    ensure!(reset.status.success(), "{}", told(&reset));
    ensure!(bench.machine.made()? == before, "left behind: {:?}", bench.machine.made()?);
    Ok(())
}
