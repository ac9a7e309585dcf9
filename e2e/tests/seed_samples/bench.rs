//! Where the samples are typed: a cloud with a stock node, and the machine that becomes `edge-node-1`.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use e2e::cluster::{Cluster, Options};
use e2e::images;
use e2e::joined::{Joined, told};
use e2e::machine::Machine;
use e2e::need;
use e2e::network::Network;
use e2e::node::{binary, stripped};
use e2e::run_dir::RunDir;
use e2e::site::{PATIENCE, is_ready, shell_pod};
use e2e::stock::StockNode;
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

pub(crate) const EDGE: &str = "edge-node-1";
/// What systemctl was asked, a line each.
pub(crate) const SYSTEMCTL_LOG: &str = "/run/systemctl.log";
const SYSTEMCTL: &str = r#"#!/bin/sh
# Writes down what it is asked, and does of it what a machine without systemd can.
echo "$*" >>/run/systemctl.log
held=/run/edgecore-service.pid
runs() { [ -e $held ] && kill -0 "$(cat $held)" 2>/dev/null; }
start() {
    words=$(sed -n 's/^ExecStart=//p' /etc/systemd/system/edgecore.service)
    setsid $words >>/var/log/edgecore.journal 2>&1 </dev/null &
    echo $! >$held
}
stop() { if runs; then kill "$(cat $held)"; while runs; do sleep 0.1; done; fi; }
case "$*" in
daemon-reload) ;;
"enable --now edgecore" | "start edgecore") start ;;
"disable --now edgecore" | "stop edgecore") stop ;;
"restart edgecore") stop; start ;;
"status edgecore") if runs; then echo "edgecore.service: active (running)"; else echo inactive; exit 3; fi ;;
*) echo "systemctl $* is not foreseen" >&2; exit 1 ;;
esac
"#;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Dropped from top to bottom: nodes before their cluster.
pub(crate) struct Bench {
    pub(crate) edge: Joined,
    pub(crate) cloud: StockNode,
    pub(crate) cluster: Cluster,
    network: Network,
    programs: PathBuf,
    run_dir: RunDir,
}

impl Bench {
    pub(crate) fn start() -> Result<Self> {
        need::packages(&["systemd"])?;
        let run_dir = RunDir::new("samples")?;
        let programs = run_dir.folder("programs")?;
        for name in ["keadm", "edgecore"] {
            fs::copy(stripped(name)?, programs.join(name))?;
        }
        let cluster = Cluster::start(&Options { listens_everywhere: true, ..Options::default() })?;
        let network = Network::start()?;
        let cloud = StockNode::start(&cluster, &network, "cloud")?;
        cloud.runtime.import_image(&images::cloudcore(&cloud.run_dir().folder("images")?)?)?;
        let machine = Machine::start_with_network(EDGE, &network)?;
        let edge = Joined::prepare_at(machine, EDGE, format!("{}:10000", cloud.address()), 10002)?;
        let folder = run_dir.folder("images")?;
        for (tags, port, also) in [
            (&["docker.io/library/nginx:alpine"][..], "80", "nginx"),
            (&["docker.io/mycompany/edge-app:latest"], "8080", "edge-app"),
            (&["docker.io/prom/node-exporter:latest"], "9100", "node_exporter"),
            (&["docker.io/openyurt/yurthub:v1.0.0"], "10261", "yurthub"),
        ] {
            edge.runtime.import_image(&images::stand_in(&folder, tags, port, also)?)?;
        }
        let bench = Self { edge, cloud, cluster, network, programs, run_dir };
        bench.furnish()?;
        Ok(bench)
    }

    /// The runtime at its usual place, keadm and edgecore as the samples unpack them, and a systemd that is none.
    fn furnish(&self) -> Result<()> {
        let systemctl = self.run_dir.write("systemctl", SYSTEMCTL)?;
        self.edge.shell(&format!(
            "mkdir -p /run/containerd /run/systemd/system
             ln -s {} /run/containerd/containerd.sock
             cp {}/* /usr/local/bin/
             install -m 755 {} /usr/local/bin/systemctl
             touch {SYSTEMCTL_LOG}",
            self.edge.runtime.socket().display(),
            self.programs.display(),
            systemctl.display(),
        ))?;
        Ok(())
    }

    /// On the machine of whoever has the kubeconfig; it must end well.
    pub(crate) fn type_in_cloud(&self, command: &str) -> Result<String> {
        let output = Command::new("/bin/sh")
            .args(["-ec", command])
            .env("PATH", format!("{}:{PATH}", self.programs.display()))
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("HOME", self.run_dir.path())
            .stdin(Stdio::null())
            .output()?;
        ensure!(output.status.success(), "{command}: {}", told(&output));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub(crate) fn type_on_edge(&self, command: &str) -> Result<Output> {
        let command = format!("export PATH={PATH}; {command}");
        self.edge.machine.run(Path::new("/bin/sh"), &["-ec", &command])
    }

    pub(crate) fn apply(&self, manifest: &str, namespace: &str) -> Result<()> {
        let file = self.run_dir.write("apply.yaml", manifest)?.display().to_string();
        let namespace = format!("--namespace={namespace}");
        // A namespace made a moment ago may have no service account yet.
        eventually(PATIENCE, "kubectl apply", || {
            match self.cluster.kubectl_ok(&["apply", "--filename", &file, &namespace]) {
                Err(error) if error.to_string().contains("serviceaccount") => {
                    Ok(Seen::NotYet(error.to_string()))
                }
                other => Ok(Seen::Yes(other.map(drop))),
            }
        })?
    }

    /// Whether the API server would make it.
    pub(crate) fn create(&self, manifest: &str) -> Result<Output> {
        let file = self.run_dir.write("create.yaml", manifest)?.display().to_string();
        self.cluster.kubectl(&["create", "--dry-run=server", "--filename", &file])
    }

    /// The one pod of that label on the edge node, once it is ready.
    pub(crate) fn ready(&self, namespace: &str, label: &str) -> Result<Value> {
        let namespace = format!("--namespace={namespace}");
        let selector = format!("--selector={label}");
        let field = format!("--field-selector=spec.nodeName={EDGE}");
        eventually(PATIENCE, &format!("a pod of {label} to be ready"), || {
            let pods = self.cluster.kubectl_json(&["get", "pods", &namespace, &selector, &field])?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            Ok(match pods.into_iter().find(is_ready) {
                Some(pod) => Seen::Yes(pod),
                None => Seen::NotYet(self.cluster.kubectl_ok(&["get", "events", &namespace])?),
            })
        })
    }

    pub(crate) fn wait_pod(&self, namespace: &str, name: &str) -> Result<Value> {
        let namespace = format!("--namespace={namespace}");
        eventually(PATIENCE, &format!("pod {name} to be ready"), || {
            let pod = self.cluster.kubectl_json(&["get", "pod", name, &namespace])?;
            Ok(if is_ready(&pod) { Seen::Yes(pod) } else { Seen::NotYet(pod["status"].to_string()) })
        })
    }

    /// Bytes of memory, and microseconds of each tenth of a second, that a pod's container may use.
    pub(crate) fn limits(&self, pod: &str, namespace: &str) -> Result<(u64, u64)> {
        // The second version of cgroups has both in one file, with the period behind.
        let read = "cd /sys/fs/cgroup; if [ -e memory.max ]; then cat memory.max; cut -d\" \" -f1 cpu.max; \
                    else cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us; fi";
        let said = self.type_on_edge(&format!("keadm ctl exec {pod} -n {namespace} -- sh -c '{read}'"))?;
        ensure!(said.status.success(), "{}", told(&said));
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        let mut numbers = text.lines().map(str::parse);
        let mut next = || numbers.next().context("no limit")?.with_context(|| text.clone());
        Ok((next()?, next()?))
    }

    /// What cloudcore says about a configuration.
    pub(crate) fn cloudcore_checks(&self, config: &str) -> Result<Output> {
        let file = self.run_dir.write("cloudcore.yaml", config)?;
        let cloudcore = binary("cloudcore", "ISTHMUS_CLOUDCORE")?;
        Command::new(cloudcore).args(["config", "check"]).arg(file).output().context("start cloudcore")
    }

    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.network.gateway()
    }
}

/// A pod that holds the collectors' files, as the collectors would.
pub(crate) fn reads_configs() -> String {
    let volume = |id: &str, name: &str| json!({"name": format!("s{id}"), "configMap": {"name": name}});
    let mount = |id: &str| json!({"name": format!("s{id}"), "mountPath": format!("/{id}")});
    shell_pod(
        "reads",
        "exec sleep 100000",
        &json!({
            "volumes": [volume("000-29", "fluent-bit-config"), volume("002-14", "fluentd-edge-config")],
            "containers": [{"volumeMounts": [mount("000-29"), mount("002-14")]}],
        }),
    )
}
