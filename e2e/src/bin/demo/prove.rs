//! The promises, one after the other: a crash, a cold boot, and the cloud's return.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::devices::HEAT;
use e2e::process::signal;
use e2e::site::{NODE, PATIENCE, container_identity, http_get, pod_ip, web_app};
use e2e::wait::{Seen, eventually, until};
use rustix::process::Signal;
use serde_json::Value;

use crate::Demo;

const LOG: &str = "/var/log/kubeedge/edgecore.log";
/// Where no service manager runs, keadm is one. Whoever starts such a machine types this.
const START: &str = "keadm supervise --pid-file /run/edgecore.pid --log /var/log/kubeedge/edgecore.log -- \
                     /usr/local/bin/edgecore --config /etc/kubeedge/config/edgecore.yaml </dev/null >/dev/null 2>&1 &";

impl Demo {
    pub(crate) fn prove(&mut self) -> Result<()> {
        let shop = self.pod_of("shop")?;
        self.crash(&shop)?;
        let booted = self.cold_boot()?;
        self.cloud_returns(&shop, &booted)
    }

    fn crash(&self, shop: &Value) -> Result<()> {
        let running = self.ground.edge.runtime.running()?;
        self.terminal.cloud("kubectl scale deployment cloudcore --namespace kubeedge --replicas=0")?;
        until(PATIENCE, "cloudcore to be gone", || {
            let pods =
                self.ground.cluster.kubectl_ok(&["get", "pods", "--namespace=kubeedge", "--output=name"])?;
            Ok(pods.is_empty())
        })?;
        let supervisor = self.ground.edge.sh("cat /run/edgecore.pid")?;
        let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
        let edgecore =
            children.trim().parse().with_context(|| format!("edgecore's process: {children:?}"))?;
        signal(edgecore, Signal::KILL);
        eventually(PATIENCE, "edgecore to go on with what its store holds", || {
            let log = self.ground.edge.sh(&format!("cat {LOG}"))?;
            let n = log.matches("with what its store holds").count();
            Ok(if n == 2 { Seen::Yes(()) } else { Seen::NotYet(format!("{n} starts")) })
        })?;
        self.wait_answer(&pod_ip(shop)?, "/", "open all day")?;
        ensure!(self.ground.edge.runtime.running()? == running, "containers changed");
        self.clock.step("cloudcore is away, edgecore was killed with -9 and started again: same container ids, still answering");
        Ok(())
    }

    /// Gives the containers that run afterwards.
    fn cold_boot(&mut self) -> Result<Vec<String>> {
        let n_running = self.ground.edge.runtime.running()?.len();
        self.ground.edge.power_cut()?;
        self.clock.step("power cut: edgecore, containerd and every shim killed; the runtime's state, network namespaces, pod mounts, memory volumes and CNI leases are gone");
        let boot = Instant::now();
        self.ground.edge.boot()?;
        self.terminal.edge(START, "")?;
        self.thermometer.set(HEAT, 199)?;
        let seconds = Duration::from_secs(60);
        eventually(seconds, "both applications to answer after a cold boot without cloud", || {
            // The API server does not know their new addresses while the cloud is away.
            let pods = self.ground.edge.sh("/usr/local/bin/keadm ctl get pods -A -o json")?;
            let pods: Value = serde_json::from_str(&pods)?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            let addresses = pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str());
            let answers: Vec<String> =
                addresses.filter_map(|address| http_get(address, 8080, "/").ok()).collect();
            let both =
                ["open all day", "closing down"].iter().all(|text| answers.iter().any(|a| a.contains(text)));
            Ok(if both { Seen::Yes(()) } else { Seen::NotYet(self.log_end()) })
        })?;
        self.clock.step(&format!(
            "cold boot with the cloud away: answering again after {:.1} s",
            boot.elapsed().as_secs_f64()
        ));
        self.terminal.edge("keadm ctl get pods -A", "")?;
        until(PATIENCE, "all pods to run again", || {
            Ok(self.ground.edge.runtime.running()?.len() == n_running)
        })?;
        self.ground.edge.runtime.running()
    }

    fn cloud_returns(&self, shop: &Value, booted: &[String]) -> Result<()> {
        // What happens in the cloud meanwhile.
        self.manifest("shop.yaml", &[&web_app("shop", "open again")])?;
        self.terminal.cloud("kubectl apply -f shop.yaml && kubectl delete deployment kiosk --wait=false")?;
        self.terminal.cloud("kubectl scale deployment cloudcore --namespace kubeedge --replicas=1")?;
        let uid = &shop["metadata"]["uid"];
        until(PATIENCE, "the cloud to hear of the one restart", || {
            let pod = self.pod_of("shop")?;
            Ok(pod["metadata"]["uid"] == *uid && pod["status"]["containerStatuses"][0]["restartCount"] == 1)
        })?;
        let pod = self.pod_of("shop")?;
        let before = container_identity(&pod)?;
        self.wait_answer(&pod_ip(&pod)?, "/", "open again")?;
        until(PATIENCE, "the deleted Deployment's pod to leave the machine", || {
            Ok(self.ground.edge.runtime.running()?.len() + 2 == booted.len())
        })?;
        let left = self.ground.edge.runtime.running()?;
        ensure!(left.iter().all(|id| booted.contains(id)), "a container was replaced on reconnect");
        ensure!(container_identity(&self.pod_of("shop")?)? == before, "the other pod was restarted");
        self.terminal.cloud(&format!("kubectl get node {NODE}"))?;
        self.clock.step("cloud back: the changed ConfigMap arrived, the deleted Deployment is gone, the other pod's container ids, restart count and start time are unchanged");
        self.wait_reported("heat", "19.9")?;
        self.clock.step("the thermometer's value of meanwhile is in kubectl get device: 19.9");
        Ok(())
    }
}
