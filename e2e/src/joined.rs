//! A machine that keadm makes a node: the machine, its container runtime, and what is typed there.
//!
//! It joins only when a story says so. Called by the stories of keadm.

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Result, ensure};

use crate::cluster::Cluster;
use crate::images;
use crate::machine::Machine;
use crate::node::{CloudCore, stripped};
use crate::runtime::Runtime;
use crate::site::{PATIENCE, shell_pod};
use crate::wait::{Seen, eventually};

/// Dropped from top to bottom: edgecore, which is of the machine, before the containers that it would start again.
pub struct Joined {
    pub machine: Machine,
    pub runtime: Runtime,
    /// Another one, if a story has several.
    pub keadm: PathBuf,
    node: String,
    cloud: String,
    certport: u16,
    admin: Option<u16>,
    set: String,
}

impl Joined {
    /// A machine on this one's network, which is to become `node` of a cloudcore that is a process.
    pub fn prepare(node: &str, cloud: &CloudCore) -> Result<Self> {
        Self::prepare_in(Machine::start(node)?, node, cloud)
    }

    /// The same on a machine that a story has prepared.
    pub fn prepare_in(machine: Machine, node: &str, cloud: &CloudCore) -> Result<Self> {
        let (websocket, certport) = (cloud.websocket().to_string(), cloud.https().port());
        let (admin, mqtt) = (machine.run_dir().port()?, machine.run_dir().port()?);
        let kubelet = machine.run_dir().port()?;
        let mut joined = Self::prepare_at(machine, node, websocket, certport)?;
        // Several machines share this one's network.
        joined.admin = Some(admin);
        joined.set += &format!(
            ",admin.bindAddress=127.0.0.1:{admin},modules.eventBus.mqttServerInternal=tcp://127.0.0.1:{mqtt},\
             modules.edged.tailoredKubeletConfig.readOnlyPort={kubelet}"
        );
        Ok(joined)
    }

    /// A machine with ports of its own, and a cloud that may not be there yet.
    pub fn prepare_at(machine: Machine, node: &str, cloud: String, certport: u16) -> Result<Self> {
        let runtime = Runtime::start_in(node, Some(&machine))?;
        Self::prepare_with(machine, runtime, node, cloud, certport)
    }

    /// The same without images, a network for pods, or plugins that make one.
    pub fn prepare_bare(machine: Machine, node: &str, cloud: String, certport: u16) -> Result<Self> {
        let hide = "mount -t tmpfs tmpfs /opt; mount -t tmpfs tmpfs /usr/lib/cni";
        let output = machine.run(Path::new("/bin/sh"), &["-ec", hide])?;
        ensure!(output.status.success(), "{}", told(&output));
        let runtime = Runtime::start_bare(node, &machine)?;
        Self::prepare_with(machine, runtime, node, cloud, certport)
    }

    /// The same with a runtime that a story has started there.
    pub fn prepare_with(
        machine: Machine,
        runtime: Runtime,
        node: &str,
        cloud: String,
        certport: u16,
    ) -> Result<Self> {
        let keadm = stripped("keadm")?;
        // Found beside it.
        stripped("edgecore")?;
        // How full the disk of the machine below is has no part in this.
        let set = format!(
            "modules.edged.podSandboxImage={},modules.edged.tailoredKubeletConfig.cgroupRoot={},\
             modules.edged.tailoredKubeletConfig.evictionHard.nodefs\\.available=1%,\
             modules.edged.tailoredKubeletConfig.evictionHard.nodefs\\.inodesFree=1%,\
             modules.edged.tailoredKubeletConfig.evictionHard.imagefs\\.available=1%,\
             modules.edged.tailoredKubeletConfig.evictionHard.imagefs\\.inodesFree=1%,\
             modules.edged.tailoredKubeletConfig.imageGCHighThresholdPercent=100",
            images::PAUSE,
            runtime.cgroup_root(),
        );
        Ok(Self { machine, runtime, keadm, node: node.to_owned(), cloud, certport, admin: None, set })
    }

    /// Types `keadm join` with all that a machine within a machine needs, and `more`.
    pub fn join(&self, token: &str, more: &[&str]) -> Result<Output> {
        self.join_after(&[], token, more)
    }

    /// The same with words such as `env A=b` before it.
    pub fn join_after(&self, before: &[&str], token: &str, more: &[&str]) -> Result<Output> {
        let cloud = format!("--cloudcore-ipport={}", self.cloud);
        let port = format!("--certport={}", self.certport);
        let runtime = format!("--remote-runtime-endpoint={}", self.runtime.endpoint());
        let (name, token) = (format!("--edgenode-name={}", self.node), format!("--token={token}"));
        let keadm = self.keadm.display().to_string();
        let words = [&*keadm, "join", &*cloud, &*port, &*runtime, &*name, &*token, "--set", &*self.set];
        let mut words = before.iter().chain(&words).chain(more).copied();
        let program = words.next().unwrap_or(&*keadm);
        self.machine.run(Path::new(program), &words.collect::<Vec<_>>())
    }

    /// keadm on the machine.
    pub fn keadm(&self, words: &[&str]) -> Result<Output> {
        self.machine.run(&self.keadm, words)
    }

    pub fn reset(&self) -> Result<Output> {
        self.keadm(&["reset", "edge", "--force"])
    }

    /// A script on the machine, which must end well; what it said.
    pub fn shell(&self, script: &str) -> Result<String> {
        let output = self.machine.run(Path::new("/bin/sh"), &["-ec", script])?;
        ensure!(output.status.success(), "{script}: {}", told(&output));
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    pub fn node(&self) -> &str {
        &self.node
    }

    /// Where edgecore says how the node stands; as by default on a machine with ports of its own.
    pub fn admin(&self) -> Option<u16> {
        self.admin
    }

    /// Keys of edgecore.yaml for a machine within a machine, as `--set` takes them.
    pub fn set(&self) -> &str {
        &self.set
    }
}

/// Exit code and words of a program.
pub fn told(output: &Output) -> String {
    let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{:?}\n{}", output.status.code(), text.concat())
}

/// What a program said, which must have ended well.
pub fn must(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "{}", told(output));
    Ok(told(output))
}

/// A pod that sleeps, until it runs.
pub fn run_pod(cluster: &Cluster, pod: &str) -> Result<()> {
    cluster.apply(&shell_pod(pod, "exec sleep 100000", &serde_json::json!({})))?;
    wait_running(cluster, pod)
}

pub fn wait_running(cluster: &Cluster, pod: &str) -> Result<()> {
    eventually(PATIENCE, &format!("pod {pod} to run"), || {
        let phase = cluster.kubectl_ok(&["get", "pod", pod, "--output=jsonpath={.status.phase}"])?;
        Ok(if phase == "Running" { Seen::Yes(()) } else { Seen::NotYet(phase) })
    })
}
