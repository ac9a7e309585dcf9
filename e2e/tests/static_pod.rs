//! Static pods: files on the machine that run with and without a cloud, and are seen there by their mirrors. Beside them what
//! else a node does by itself: it refuses pods that it cannot run, and rotates logs while somebody follows them.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Options;
use e2e::images::APP;
use e2e::site::{NODE, PATIENCE, Site, Wishes, container_identity, is_ready, shell_pod};
use e2e::wait::{Seen, eventually, until};
use serde_json::{Value, json};

const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

/// A file that says `word` and goes on.
fn manifest(name: &str, word: &str) -> String {
    format!(
        "# how a person writes it\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\nspec:\n  \
         terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: {APP}\n    \
         command: [sh, -c, \"echo {word}; exec sleep 1000\"]\n"
    )
}

struct Folder(PathBuf);

impl Folder {
    fn of(site: &Site) -> Result<Self> {
        let folder = site.edge.run_dir().join("manifests");
        fs::create_dir_all(&folder)?;
        Ok(Self(folder))
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.0.join(name), text).context("write a manifest")
    }

    fn remove(&self, name: &str) -> Result<()> {
        fs::remove_file(self.0.join(name)).context("remove a manifest")
    }
}

/// Ids of running containers; a sandbox counts as one.
fn running(site: &Site) -> Result<Vec<String>> {
    let mut ids = site.runtime.running()?;
    ids.sort();
    Ok(ids)
}

fn wait_running(site: &Site, n: usize, what: &str) -> Result<Vec<String>> {
    eventually(PATIENCE, what, || {
        let ids = running(site)?;
        Ok(if ids.len() == n { Seen::Yes(ids) } else { Seen::NotYet(format!("{} run", ids.len())) })
    })
    .with_context(|| format!("edgecore's last lines:\n{}", site.edge.process.log_end(30)))
}

/// The log of the pod as kubectl shows it.
fn wait_logs(site: &Site, pod: &str, text: &str) -> Result<()> {
    eventually(PATIENCE, &format!("the log of {pod} to be {text:?}"), || {
        let output = site.cluster.kubectl(&["logs", pod])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if said == text { Seen::Yes(()) } else { Seen::NotYet(format!("{said:?} {error}")) })
    })
}

fn mirror_uid(pod: &Value) -> String {
    pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned()
}

fn with_options(name: &str, kubelet: Value) -> Result<Site> {
    let options = Options { verifies_kubelets: true, ..Options::default() };
    let edgecore = json!({"modules": {"edged": {"tailoredKubeletConfig": kubelet}}});
    Site::prepare(name, &Wishes { cluster: options, edgecore, ..Wishes::default() })
}

#[test]
fn files_run_with_and_without_the_cloud() -> Result<()> {
    let mut site = with_options("static", json!({}))?;
    let folder = Folder::of(&site)?;

    // A machine that has never reached its cloud runs what lies on it, and nothing else disturbs that.
    site.cut();
    folder.write("web.yaml", &manifest("web", "one"))?;
    folder.write(".hidden.yaml", &manifest("hidden", "never"))?;
    folder.write("broken.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: broken\n")?;
    let secret = manifest("greedy", "never") + "  volumes: [{name: s, secret: {secretName: s}}]\n";
    folder.write("greedy.yaml", &secret)?;
    let begun = Instant::now();
    site.edge.process.start()?;
    let first = wait_running(&site, 2, "the static pod to run without a cloud")?;
    eprintln!("first boot without a cloud: a static pod runs after {:.1} s", begun.elapsed().as_secs_f64());
    let log = site.edge.process.log();
    ensure!(log.matches("broken.yaml").count() == 1, "told once: {log}");
    ensure!(log.contains("volume s names secret s"), "{log}");

    // The cloud is there: a mirror shows it, with its log, and belongs to its Node.
    site.heal();
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    let web = format!("web-{NODE}");
    until(PATIENCE, "the mirror", || Ok(site.cluster.kubectl(&["get", "pod", &web])?.status.success()))?;
    let pod = site.wait_running(&web)?;
    ensure!(running(&site)? == first, "the mirror started something");
    let owner = &pod["metadata"]["ownerReferences"][0];
    let node = site.cluster.kubectl_json(&["get", "node", NODE])?;
    ensure!(owner["kind"] == "Node" && owner["uid"] == node["metadata"]["uid"], "{}", pod["metadata"]);
    ensure!(pod["metadata"]["labels"]["app"] == "web", "{}", pod["metadata"]);
    let identity = container_identity(&pod)?;
    wait_logs(&site, &web, "one\n")?;

    // Somebody deletes the picture: it comes back, and nothing happened here.
    let begun = Instant::now();
    site.cluster.kubectl_ok(&["delete", "pod", &web])?;
    let before = mirror_uid(&pod);
    eventually(PATIENCE, "the mirror to come back", || {
        let output = site.cluster.kubectl(&["get", "pod", &web, "--output=json"])?;
        let pod: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let is_new = mirror_uid(&pod) != before && is_ready(&pod);
        Ok(if is_new { Seen::Yes(()) } else { Seen::NotYet(pod["status"].to_string()) })
    })
    .with_context(|| format!("edgecore's last lines:\n{}", site.edge.process.log_end(30)))?;
    eprintln!("a deleted mirror is back and ready after {:.1} s", begun.elapsed().as_secs_f64());
    ensure!(container_identity(&site.pod(&web)?)? == identity, "the container was touched");
    ensure!(running(&site)? == first, "something else was started");

    // Without the cloud: a kill -9 restarts nothing, and a new file runs. This one is JSON.
    site.cut();
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    let json = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "second"}, "spec": {
        "terminationGracePeriodSeconds": 1,
        "containers": [{"name": "main", "image": APP, "command": ["sh", "-c", "echo two; exec sleep 1000"]}]}});
    folder.write("second.json", &json.to_string())?;
    let both = wait_running(&site, 4, "the second file to run without the cloud")?;
    ensure!(first.iter().all(|id| both.contains(id)), "the first was restarted: {first:?} {both:?}");
    folder.write("web.yaml", "apiVersion: v1\nkind: Pod\n")?;
    site.edge.process.wait_for_log(PATIENCE, "runs on as the file was before")?;
    ensure!(running(&site)? == both, "a file that broke ended its pod");
    folder.write("web.yaml", &manifest("web", "one"))?;
    site.heal();
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    let second = format!("second-{NODE}");
    until(PATIENCE, "its mirror", || Ok(site.cluster.kubectl(&["get", "pod", &second])?.status.success()))?;
    site.wait_running(&second)?;
    wait_logs(&site, &second, "two\n")?;
    ensure!(container_identity(&site.pod(&web)?)? == identity, "the first was restarted");

    // Other words in the file: another pod in its place, and its mirror says so.
    let hash = site.pod(&web)?.pointer(MIRROR).cloned();
    folder.write("web.yaml", &manifest("web", "three"))?;
    eventually(PATIENCE, "the changed file's pod", || {
        let output = site.cluster.kubectl(&["get", "pod", &web, "--output=json"])?;
        let pod: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let is_new = pod.pointer(MIRROR).is_some() && pod.pointer(MIRROR) != hash.as_ref() && is_ready(&pod);
        Ok(if is_new { Seen::Yes(()) } else { Seen::NotYet(pod["status"].to_string()) })
    })
    .with_context(|| format!("edgecore's last lines:\n{}", site.edge.process.log_end(30)))?;
    wait_logs(&site, &web, "three\n")?;
    ensure!(container_identity(&site.pod(&web)?)?.0 != identity.0, "it is the old container");
    wait_running(&site, 4, "the old pod to be gone")?;

    // The file goes, and both with it, though edgecore was dead meanwhile.
    site.edge.process.kill9()?;
    folder.remove("web.yaml")?;
    site.edge.process.start()?;
    site.wait_gone(&web)?;
    let left = wait_running(&site, 2, "its containers to be gone")?;
    ensure!(left.iter().all(|id| both.contains(id)), "the other one was restarted");
    folder.remove("second.json")?;
    site.wait_gone(&second)?;
    wait_running(&site, 0, "nothing to run")?;
    Ok(())
}

#[test]
fn what_a_node_cannot_run_is_refused() -> Result<()> {
    let mut site = Site::start("refused", &Wishes::default())?;
    let direct = |more: Value| {
        let mut spec = json!({"nodeName": NODE});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        spec
    };
    let cases = [
        (
            "unsafe",
            json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "65536"}]}}),
            "SysctlForbidden",
        ),
        ("windows", direct(json!({"os": {"name": "windows"}})), "PodOSNotSupported"),
        ("large", direct(json!({"containers": [{"resources": {"requests": {"cpu": "1000"}}}]})), "OutOfcpu"),
        ("elsewhere", direct(json!({"nodeSelector": {"no": "where"}})), "NodeAffinity"),
    ];
    for (name, spec, reason) in &cases {
        site.cluster.apply(&shell_pod(name, "exec sleep 1000", spec))?;
        let pod = site.wait_pod(name, "to be refused", |pod| {
            (pod["status"]["phase"] == "Failed").then(|| pod.clone())
        })?;
        ensure!(pod["status"]["reason"] == *reason, "{name}: {}", pod["status"]);
        site.wait_event(name, reason)?;
    }
    let shown = site.cluster.kubectl_ok(&["get", "pod", "unsafe", "--no-headers"])?;
    ensure!(shown.contains("SysctlForbidden"), "{shown}");
    // A safe one is taken. What runs is not asked again when edgecore starts anew.
    let safe = json!({"securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]}});
    site.cluster.apply(&shell_pod("safe", "exec sleep 1000", &safe))?;
    let before = container_identity(&site.wait_running("safe")?)?;
    site.cluster.kubectl_ok(&["taint", "node", NODE, "stay=away:NoSchedule"])?;
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    // Once a new pod runs, the old ones have been looked at.
    site.cluster.apply(&shell_pod("late", "exec sleep 1000", &json!({"nodeName": NODE})))?;
    site.wait_running("late")?;
    ensure!(container_identity(&site.pod("safe")?)? == before, "it was restarted");
    for (name, _, reason) in &cases {
        ensure!(site.pod(name)?["status"]["reason"] == *reason, "{name}: {}", site.pod(name)?["status"]);
        site.cluster.kubectl_ok(&["delete", "pod", name, "--wait=false"])?;
        site.wait_gone(name)?;
    }
    Ok(())
}

#[test]
fn logs_are_rotated_while_somebody_follows() -> Result<()> {
    let mut site = with_options(
        "rotation",
        json!({"containerLogMaxSize": "64Ki", "containerLogMaxFiles": 3, "containerLogMonitorInterval": "3s"}),
    )?;
    site.edge.process.start()?;
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    // About 14 KiB in a second.
    let script = "n=0; while true; do for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
                  echo line $n of a program that talks more than anybody wants to read; n=$((n+1)); done; sleep 0.1; done";
    site.cluster.apply(&shell_pod("talker", script, &Value::Null))?;
    let pod = site.wait_running("talker")?;
    let uid = mirror_uid(&pod);
    let folder = site.edge.run_dir().join(format!("pod-logs/default_talker_{uid}/main"));
    let mut kubectl = site.cluster.kubectl_command(&["logs", "-f", "talker"]);
    eventually(PATIENCE, "kubectl logs to work", || {
        let output = site.cluster.kubectl(&["logs", "talker", "--tail=1"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() { Seen::Yes(()) } else { Seen::NotYet(said) })
    })?;
    let mut child = kubectl.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start kubectl")?;
    let stdout = child.stdout.take().context("its output")?;
    let (line, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for said in BufReader::new(stdout).lines().map_while(std::result::Result::ok) {
            if line.send(said).is_err() {
                return;
            }
        }
    });

    // Wait for the fourth rotation: by then the oldest was removed and the others are packed.
    let names = || -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder).context("read the pod's logs")? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    };
    let mut seen = std::collections::BTreeSet::new();
    let found = eventually(PATIENCE, "four rotations", || {
        let now = names()?;
        let parts = now.iter().filter(|name| name.as_str() != "0.log");
        seen.extend(parts.map(|name| name.trim_end_matches(".tmp").trim_end_matches(".gz").to_owned()));
        Ok(if seen.len() >= 4 && now.len() == 3 { Seen::Yes(now) } else { Seen::NotYet(now.join(" ")) })
    });
    let ended = child.kill();
    let found = found?;
    ended.context("end kubectl")?;
    child.wait()?;
    ensure!(found.iter().filter(|name| name.ends_with(".gz")).count() == 1, "{found:?}");
    let largest = fs::metadata(folder.join("0.log"))?.len();
    let numbers: Vec<u64> = lines
        .try_iter()
        .filter_map(|line| line.strip_prefix("line ")?.split(' ').next()?.parse().ok())
        .collect();
    let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
    ensure!(gap.is_none(), "lines are missing or come twice around {gap:?}");
    eprintln!(
        "{} lines followed without a gap over {} rotations; files {found:?}, 0.log {largest} bytes",
        numbers.len(),
        seen.len()
    );
    ensure!(numbers.len() > 1000, "only {} lines came", numbers.len());

    // With the pod all of it goes.
    site.cluster.kubectl_ok(&["delete", "pod", "talker", "--wait=false"])?;
    site.wait_gone("talker")?;
    until(PATIENCE, "its logs to go", || Ok(!folder.exists()))?;
    Ok(())
}
