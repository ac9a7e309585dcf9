//! containerd is killed and started again while pods come and go, probes run, logs are followed, somebody is inside and an image
//! is pulled; at last edgecore dies with it. What lives on is not restarted, nothing is made twice, nothing is left over.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::cluster::Options;
use e2e::site::{NODE, PATIENCE, Site, Wishes, container_identity, shell_pod};
use e2e::wait::{Seen, eventually, until};
use serde_json::{Value, json};

/// Pods that must not notice anything.
const KEEPERS: [&str; 3] = ["keeper-0", "keeper-1", "keeper-2"];

/// How often containerd is killed.
fn n_kills() -> usize {
    if std::env::var_os("LONG").is_some() { 30 } else { 3 }
}

/// Makes pods and deletes them again, four at a time, until it is stopped.
struct Churn {
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
    working: Option<JoinHandle<()>>,
}

impl Churn {
    fn start(kubeconfig: &Path) -> Self {
        let (stop, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&made));
        let kubeconfig = kubeconfig.to_owned();
        let working = std::thread::spawn(move || {
            let kubectl = |words: &[&str], input: &str| {
                let mut kubectl = Command::new("kubectl");
                kubectl.arg("--kubeconfig").arg(&kubeconfig).args(words);
                kubectl.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
                if let Ok(mut child) = kubectl.spawn() {
                    if let Some(mut stdin) = child.stdin.take() {
                        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
                    }
                    let _ = child.wait();
                }
            };
            let mut n = 0_usize;
            while !stopped.load(Ordering::Relaxed) {
                kubectl(
                    &["apply", "-f", "-"],
                    &shell_pod(&format!("churn-{n}"), "exec sleep 1000", &Value::Null),
                );
                if let Some(old) = n.checked_sub(4) {
                    kubectl(&["delete", "pod", &format!("churn-{old}"), "--wait=false"], "");
                }
                n += 1;
                counted.store(n, Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(400));
            }
            for old in n.saturating_sub(4)..n {
                kubectl(&["delete", "pod", &format!("churn-{old}"), "--wait=false"], "");
            }
        });
        Self { stop, made, working: Some(working) }
    }

    /// Ends it; says how many pods there were.
    fn end(&mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(working) = self.working.take() {
            working.thread().unpark();
            let _ = working.join();
        }
        self.made.load(Ordering::Relaxed)
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.end();
    }
}

/// A registry that takes every request and never answers, and counts who comes.
fn hanging_registry() -> Result<(u16, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    // Ends with the story's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::spawn(move || {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest);
            });
        }
    });
    Ok((port, asked))
}

/// A kubectl that goes on; its output goes to a file.
struct Open {
    child: Child,
    said: tempfile::NamedTempFile,
}

impl Open {
    fn start(site: &Site, words: &[&str]) -> Result<Self> {
        let said = tempfile::NamedTempFile::new()?;
        let mut kubectl = site.cluster.kubectl_command(words);
        kubectl.stdin(Stdio::null()).stdout(said.reopen()?).stderr(Stdio::null());
        Ok(Self { child: kubectl.spawn().context("start kubectl")?, said })
    }

    fn len(&self) -> u64 {
        self.said.path().metadata().map_or(0, |meta| meta.len())
    }

    fn is_open(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    fn wait_for_more(&mut self, what: &str) -> Result<()> {
        let before = self.len();
        until(PATIENCE, what, || {
            ensure!(self.is_open(), "kubectl has ended: {what}");
            Ok(self.len() > before)
        })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status, reason and message of the node's condition `Ready`.
fn ready(site: &Site) -> Result<[String; 3]> {
    let node = site.cluster.kubectl_json(&["get", "node", NODE])?;
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|one| one["type"] == "Ready").context("no condition Ready")?;
    Ok(["status", "reason", "message"].map(|field| ready[field].as_str().unwrap_or_default().to_owned()))
}

fn wait_ready(site: &Site, status: &str) -> Result<[String; 3]> {
    eventually(PATIENCE, &format!("the node's condition Ready to be {status}"), || {
        let found = ready(site)?;
        Ok(if found[0] == status { Seen::Yes(found) } else { Seen::NotYet(format!("{found:?}")) })
    })
}

/// Running sandboxes and running containers of each Pod's uid, as containerd has them.
fn running_of_pods(site: &Site) -> Result<BTreeMap<String, (usize, usize)>> {
    let mut found: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for id in site.runtime.running()? {
        // Gone between the two questions: it does not count.
        let Ok(info) = site.runtime.ctr_ok(&["containers", "info", &id]) else { continue };
        let info: Value = serde_json::from_str(&info)?;
        let labels = &info["Labels"];
        let Some(uid) = labels["io.kubernetes.pod.uid"].as_str() else { continue };
        let entry = found.entry(uid.to_owned()).or_default();
        match labels["io.cri-containerd.kind"].as_str() {
            Some("sandbox") => entry.0 += 1,
            _ => entry.1 += 1,
        }
    }
    Ok(found)
}

/// Nobody has two sandboxes or two containers that run.
fn nothing_twice(site: &Site) -> Result<()> {
    for (uid, n) in running_of_pods(site)? {
        ensure!(n.0 <= 1 && n.1 <= 1, "pod {uid} runs {n:?} sandboxes and containers");
    }
    Ok(())
}

fn identities(site: &mut Site) -> Result<Vec<(String, u64, String)>> {
    KEEPERS.iter().map(|name| container_identity(&site.wait_running(name)?)).collect()
}

#[test]
fn a_killed_runtime_takes_nothing_with_it() -> Result<()> {
    let cluster = Options { verifies_kubelets: true, ..Options::default() };
    let often = json!({"modules": {"edged": {"tailoredKubeletConfig": {"nodeStatusUpdateFrequency": "1s"}}}});
    let mut site = Site::start("runtime-restart", &Wishes { cluster, edgecore: often, ..Wishes::default() })?;
    let out = tempfile::tempdir()?;
    for name in KEEPERS {
        // One failure would be one too many. A machine that does much else needs more than the second that a probe has unless said.
        let exec = |script: &str| json!({"exec": {"command": ["sh", "-c", script]}});
        let mut probe = exec("echo alive");
        (probe["periodSeconds"], probe["failureThreshold"]) = (json!(1), json!(1));
        probe["timeoutSeconds"] = json!(30);
        let more = json!({
            "containers": [{
                "livenessProbe": probe,
                "lifecycle": {"preStop": exec(&format!("echo {name} >> /out/parted; sleep 3"))},
                "volumeMounts": [{"name": "out", "mountPath": "/out"}],
            }],
            "terminationGracePeriodSeconds": 20,
            "volumes": [{"name": "out", "hostPath": {"path": out.path(), "type": "Directory"}}],
        });
        let script = "n=0; while true; do echo line $n; n=$((n+1)); sleep 0.2; done";
        site.cluster.apply(&shell_pod(name, script, &more))?;
    }
    let before = identities(&mut site)?;
    eventually(PATIENCE, "kubectl logs to work", || {
        let output = site.cluster.kubectl(&["logs", KEEPERS[0], "--tail=1"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() { Seen::Yes(()) } else { Seen::NotYet(said) })
    })?;
    let (port, asked) = hanging_registry()?;
    let mut churn = Churn::start(site.cluster.kubeconfig());
    let mut following = Open::start(&site, &["logs", "--follow", KEEPERS[0]])?;

    for n in 1..=n_kills() {
        let mut inside = Open::start(
            &site,
            &["exec", KEEPERS[1], "--", "sh", "-c", "while echo here; do sleep 0.2; done"],
        )?;
        inside.wait_for_more("somebody to be inside")?;
        // Another pod and image each time: the back-off of one that was cut often is minutes long.
        let n_asked = asked.load(Ordering::Relaxed);
        let far_name = format!("far-{n}");
        let far = json!({"containers": [{"image": format!("127.0.0.1:{port}/far:{n}")}]});
        site.cluster.apply(&shell_pod(&far_name, "true", &far))?;
        until(PATIENCE, "the registry to be asked", || Ok(asked.load(Ordering::Relaxed) > n_asked))?;
        let n_asked = asked.load(Ordering::Relaxed);
        let begun = Instant::now();
        site.runtime.containerd.kill9()?;
        let [_, reason, message] = wait_ready(&site, "False")?;
        ensure!(message.contains("container runtime is down"), "{reason}: {message}");
        let unready = begun.elapsed();
        // What there is of a log needs no runtime; what comes is written by containerd, once it is back.
        let last = site.cluster.kubectl_ok(&["logs", KEEPERS[0], "--tail=1"])?;
        ensure!(last.starts_with("line ") && following.is_open(), "logs while the runtime is away: {last:?}");
        until(PATIENCE, "the exec to end with its runtime", || Ok(!inside.is_open()))?;
        site.runtime.start_again()?;
        let begun = Instant::now();
        wait_ready(&site, "True")?;
        let back = begun.elapsed();
        until(PATIENCE, "the cut pull to be asked again", || Ok(asked.load(Ordering::Relaxed) > n_asked))?;
        let pulled = begun.elapsed();
        site.cluster.kubectl_ok(&["delete", "pod", &far_name, "--wait=false"])?;
        following.wait_for_more("logs after the runtime is back")?;
        let here = site.cluster.kubectl_ok(&["exec", KEEPERS[1], "--", "echo", "here"])?;
        ensure!(here == "here\n", "exec after the runtime is back: {here}");
        ensure!(identities(&mut site)? == before, "a container that lived on was restarted");
        nothing_twice(&site)?;
        site.edge.process.must_run()?;
        eprintln!(
            "kill {n}: not Ready after {:.1} s, Ready {:.1} s after the start, the pull asked again after {:.1} s, {} pods so far",
            unready.as_secs_f64(),
            back.as_secs_f64(),
            pulled.as_secs_f64(),
            churn.made.load(Ordering::Relaxed),
        );
    }
    drop(following);

    // A pod that is being ended when it happens: its hook has run once when it is gone.
    site.cluster.kubectl_ok(&["delete", "pod", KEEPERS[2], "--wait=false"])?;
    let parted = || fs::read_to_string(out.path().join("parted")).unwrap_or_default();
    until(PATIENCE, "its hook to begin", || Ok(!parted().is_empty()))?;

    // Both at once.
    site.edge.process.kill9()?;
    site.runtime.containerd.kill9()?;
    // So long the machine has neither.
    std::thread::sleep(Duration::from_secs(2));
    site.runtime.start_again()?;
    site.edge.process.start()?;
    wait_ready(&site, "True")?;
    site.wait_gone(KEEPERS[2])?;
    let n_made = churn.end();
    for (name, before) in KEEPERS.iter().zip(&before).take(2) {
        let now = container_identity(&site.wait_running(name)?)?;
        ensure!(now == *before, "{name} was restarted: {before:?} {now:?}");
    }

    // Nothing is left of all that came and went.
    let names = eventually(PATIENCE * 2, "all others to be gone", || {
        let names =
            site.cluster.kubectl_ok(&["get", "pods", "--output=jsonpath={.items[*].metadata.name}"])?;
        let n_left = names.split_whitespace().count();
        Ok(if n_left == 2 { Seen::Yes(names) } else { Seen::NotYet(names) })
    })?;
    let mut uids = Vec::new();
    for name in names.split_whitespace() {
        uids.push(site.pod(name)?["metadata"]["uid"].as_str().context("no uid")?.to_owned());
    }
    uids.sort();
    eventually(PATIENCE, "containerd to have nothing else", || {
        let all = site.runtime.ctr_ok(&["containers", "list", "--quiet"])?;
        let n_left = all.split_whitespace().count();
        let running = running_of_pods(&site)?;
        let is_clean = n_left == 4 && running.values().all(|n| *n == (1, 1)) && running.keys().eq(&uids);
        Ok(if is_clean { Seen::Yes(()) } else { Seen::NotYet(format!("{n_left} containers, {running:?}")) })
    })?;
    let leases = site.runtime.run_dir().join("leases");
    let n_leases = fs::read_dir(&leases)?
        .flatten()
        .filter_map(|network| fs::read_dir(network.path()).ok())
        .flat_map(|entries| entries.flatten())
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("10."))
        .count();
    let logs = site.edge.process.log();
    ensure!(!logs.contains("panicked"), "edgecore panicked: {}", site.edge.process.log_end(40));
    eprintln!("{n_made} pods came and went; {n_leases} addresses are held by 2 pods");
    ensure!(n_leases == 2, "{n_leases} addresses are held");
    Ok(())
}
