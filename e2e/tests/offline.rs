//! The cloud is away: edgecore restarts, the machine boots cold with a wrong clock, the control plane would evict. Nothing
//! that runs is harmed, and everything runs again.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::cluster::Options;
use e2e::images::APP_LATEST;
use e2e::site::{
    NODE, PATIENCE, Site, Wishes, container_identity, http_get, is_ready, pod_ip, shell_pod, web_app,
};
use e2e::wait::{Seen, eventually, until};
use serde_json::{Value, json};

/// After this silence the control plane holds the node for lost, and evicts what does not tolerate that for longer.
const GRACE_SECS: u32 = 10;
const EVICTION_SECS: u32 = 5;

fn site() -> Result<Site> {
    let cluster =
        Options { node_monitor_grace_secs: GRACE_SECS, eviction_secs: EVICTION_SECS, ..Options::default() };
    let short = json!({"modules": {"edged": {"tailoredKubeletConfig": {"nodeStatusUpdateFrequency": "2s", "nodeLeaseDurationSeconds": 8}}}});
    Site::start("offline", &Wishes { cluster, edgecore: short, ..Wishes::default() })
}

/// A healthy node beside the edge: were all nodes of a cluster lost, the control plane would evict nobody.
struct Steady {
    stop: Arc<AtomicBool>,
    renewing: Option<std::thread::JoinHandle<()>>,
}

impl Steady {
    fn start(site: &Site) -> Result<Self> {
        let name = "steady";
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now()?},
        });
        site.cluster
            .apply(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}).to_string())?;
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Steady", "message": ""}]}});
        site.cluster.kubectl_ok(&[
            "patch",
            "node",
            name,
            "--subresource=status",
            "--patch",
            &ready.to_string(),
        ])?;
        site.cluster.apply(&lease.to_string())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let kubeconfig = site.cluster.kubeconfig().to_owned();
        let renewing = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let patch = json!({"spec": {"renewTime": now().unwrap_or_default()}}).to_string();
                let mut kubectl = std::process::Command::new("kubectl");
                kubectl.arg("--kubeconfig").arg(&kubeconfig).args(["patch", "lease", name]);
                kubectl.args(["--namespace=kube-node-lease", "--type=merge", "--patch", &patch]);
                kubectl.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
                let _ = kubectl.status();
                std::thread::park_timeout(Duration::from_secs(3));
            }
        });
        Ok(Self { stop, renewing: Some(renewing) })
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(renewing) = self.renewing.take() {
            renewing.thread().unpark();
            let _ = renewing.join();
        }
    }
}

/// Now, as leases write it.
fn now() -> Result<String> {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%6NZ"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// A pod with all that makes a start without cloud hard; writes what it finds to the shared directory.
fn hard_pod(out: &Path) -> String {
    let script = "echo boot >> /out/boots; cat /var/run/secrets/kubernetes.io/serviceaccount/token > /out/token && \
                  echo memory > /scratch/file && exec httpd -f -p 8080 -h /out";
    shell_pod(
        "hard",
        script,
        &json!({
            "containers": [{
                "image": APP_LATEST,
                "imagePullPolicy": "Always",
                "volumeMounts": [
                    {"name": "out", "mountPath": "/out"},
                    {"name": "scratch", "mountPath": "/scratch"},
                    {"name": "token", "mountPath": "/short"},
                ],
            }],
            "volumes": [
                {"name": "out", "hostPath": {"path": out, "type": "Directory"}},
                {"name": "scratch", "emptyDir": {"medium": "Memory"}},
                {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]}},
            ],
        }),
    )
}

#[test]
fn everything_runs_without_the_cloud() -> Result<()> {
    let mut site = site()?;
    let _steady = Steady::start(&site)?;
    let out = tempfile::tempdir()?;
    site.cluster.apply(&web_app("shop", "open"))?;
    site.cluster.apply(&hard_pod(out.path()))?;
    let name = site.pod_of("shop")?;
    let shop = site.wait_running(&name)?;
    let hard = site.wait_running("hard")?;
    let address = pod_ip(&shop)?;
    let (shop_before, hard_before) = (container_identity(&shop)?, container_identity(&hard)?);
    let running = site.runtime.running()?;

    // The link is cut for longer than the control plane waits, and edgecore is killed and started meanwhile.
    site.cut();
    let cut = Instant::now();
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    site.edge.process.wait_for_log(PATIENCE, "with what its store holds")?;
    site.wait_http(&address, "/", "open")?;
    until(PATIENCE, "the node to be held for lost", || {
        let node = site.cluster.kubectl_ok(&["get", "node", NODE, "--no-headers"])?;
        Ok(node.contains("NotReady"))
    })?;
    // Twice the eviction time beyond that.
    let patience = Duration::from_secs(u64::from(GRACE_SECS + 3 * EVICTION_SECS));
    until(patience * 2, "the eviction time to pass", || Ok(cut.elapsed() > patience))?;
    ensure!(site.runtime.running()? == running, "containers changed while the link was cut");
    let pods = site.cluster.kubectl_json(&["get", "pods"])?;
    let pods = pods["items"].as_array().context("a list of pods")?;
    ensure!(pods.len() == 2, "{} pods instead of 2: the control plane made others", pods.len());
    ensure!(pods.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()), "a pod was evicted");

    site.heal();
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    let (shop, hard) = (site.wait_running(&name)?, site.wait_running("hard")?);
    ensure!(
        container_identity(&shop)? == shop_before && container_identity(&hard)? == hard_before,
        "reconnecting restarted a container"
    );

    // A cold boot with the cloud away and the clock at 1970.
    site.cut();
    site.power_cut()?;
    e2e::need::packages(&["faketime"])?;
    let library = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    ];
    let library = library
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("libfaketime; type: apt-get install faketime")?;
    site.edge.process.set_env("LD_PRELOAD", library);
    site.edge.process.set_env("FAKETIME", "@1970-01-01 00:01:00");
    site.edge.process.set_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let boot = Instant::now();
    site.boot()?;
    wait_serving(&site, "boot", 2)?;
    eprintln!(
        "cold boot without cloud, clock at 1970: all serving after {:.1} s",
        boot.elapsed().as_secs_f64()
    );
    ensure!(
        boot.elapsed() < Duration::from_secs(60),
        "later than promised: {:.0} s",
        boot.elapsed().as_secs_f64()
    );
    let boots = std::fs::read_to_string(out.path().join("boots"))?;
    ensure!(boots.lines().count() == 2, "the pod started {} times", boots.lines().count());

    // The clock is set right, the cloud comes back: same pods, counted as restarted once.
    site.edge.process.stop()?;
    for key in ["LD_PRELOAD", "FAKETIME"] {
        site.edge.process.set_env(key, "");
    }
    site.edge.process.start()?;
    site.heal();
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    let again = site.wait_pod(&name, "to be restarted once", |pod| {
        let count = pod["status"]["containerStatuses"][0]["restartCount"].as_u64()?;
        (is_ready(pod) && count == 1).then(|| pod.clone())
    })?;
    ensure!(again["metadata"]["uid"] == shop["metadata"]["uid"], "the pod was replaced");
    site.wait_http(&pod_ip(&again)?, "/cgi-bin/env", "key=open-shop")
}

/// Waits until so many pods answer, as seen from the machine itself.
fn wait_serving(site: &Site, what: &str, n_wanted: usize) -> Result<()> {
    eventually(PATIENCE, &format!("{n_wanted} pods to answer after a {what}"), || {
        let addresses = site.edge.pod_addresses()?;
        let answers = |address: &&String| {
            ["/index.html", "/boots"].iter().any(|path| http_get(address, 8080, path).is_ok())
        };
        let n_answering = addresses.iter().filter(answers).count();
        let state = format!("{n_answering} of {addresses:?} answer");
        Ok(if n_answering >= n_wanted { Seen::Yes(()) } else { Seen::NotYet(state) })
    })
    .with_context(|| format!("edgecore's last lines:\n{}", site.edge.process.log_end(40)))
}

#[test]
fn autonomy_can_be_bounded() -> Result<()> {
    let mut site = site()?;
    let _steady = Steady::start(&site)?;
    site.cluster.kubectl_ok(&["annotate", "node", NODE, "node.openyurt.io/autonomy-duration=3s"])?;
    site.cluster.apply(&shell_pod("bounded", "exec sleep 1000", &Value::Null))?;
    let pod = site.wait_running("bounded")?;
    until(PATIENCE, "the pod's toleration to be three seconds", || {
        let pod = site.pod("bounded")?;
        let tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        Ok(tolerations
            .iter()
            .any(|one| one["key"] == "node.kubernetes.io/unreachable" && one["tolerationSeconds"] == 3))
    })?;
    let running = site.runtime.running()?.len();
    ensure!(running == 2, "{running} containers instead of sandbox and main");
    site.cut();
    until(PATIENCE * 2, "the pod to be evicted", || {
        let output = site.cluster.kubectl(&[
            "get",
            "pod",
            "bounded",
            "--output=jsonpath={.metadata.deletionTimestamp}",
        ])?;
        Ok(!output.status.success() || !output.stdout.is_empty())
    })?;
    ensure!(site.runtime.running()?.len() == 2, "the container must go on while the cloud is away");
    site.heal();
    until(PATIENCE, "the old container to be stopped on return", || Ok(site.runtime.running()?.is_empty()))?;
    site.wait_gone("bounded")?;
    ensure!(pod["metadata"]["uid"].is_string(), "{pod}");
    Ok(())
}
