//! Probes and hooks on a real node, without its cloud: what is unwell is restarted here, what was learned is told later.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::images::APP;
use e2e::site::{PATIENCE, Site, Wishes, is_ready, shell_pod};
use e2e::wait::until;
use serde_json::{Value, json};

/// A sidecar that needs a moment, a server that is ready while a file is there, a worker that is well while one is not.
fn probed_pod(out: &Path) -> String {
    let mounts = json!([{"name": "out", "mountPath": "/out"}]);
    let container = |name: &str, script: &str, more: Value| {
        let mut it =
            json!({"name": name, "image": APP, "command": ["sh", "-c", script], "volumeMounts": mounts});
        for (key, value) in more.as_object().into_iter().flatten() {
            it[key] = value.clone();
        }
        it
    };
    let exec = |script: &str| json!({"command": ["sh", "-c", script]});
    let every = |secs: u32, failures: u32, mut probe: Value| {
        probe["periodSeconds"] = json!(secs);
        probe["failureThreshold"] = json!(failures);
        probe
    };
    let side = container(
        "side",
        "sleep 2; touch /tmp/up; exec sleep 1000",
        json!({"restartPolicy": "Always", "startupProbe": every(1, 60, json!({"exec": exec("test -e /tmp/up")}))}),
    );
    let web = container(
        "web",
        "sleep 1; touch /tmp/up; exec httpd -f -p 8080 -h /out",
        json!({
            "ports": [{"name": "pages", "containerPort": 8080}],
            "startupProbe": every(1, 60, json!({"exec": exec("test -e /tmp/up")})),
            "livenessProbe": every(1, 10, json!({"tcpSocket": {"port": "pages"}})),
            "readinessProbe": every(1, 2, json!({"httpGet": {"port": "pages", "path": "/ready"}})),
        }),
    );
    // It is the first process of its container and hears no stop signal: only the probe's own grace makes it quick.
    let sick = json!({"exec": exec("test ! -e /out/sick"), "terminationGracePeriodSeconds": 2});
    let worker = container(
        "worker",
        "rm -f /out/sick; echo boot >> /out/boots; exec sleep 1000",
        json!({
            "livenessProbe": every(1, 2, sick),
            "lifecycle": {
                "postStart": {"exec": exec("echo start >> /out/hooks")},
                "preStop": {"exec": exec("echo stop >> /out/hooks")},
            },
        }),
    );
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probed"},
        "spec": {
            "nodeSelector": {"node-role.kubernetes.io/edge": ""},
            "terminationGracePeriodSeconds": 25,
            "initContainers": [side],
            "containers": [web, worker],
            "volumes": [{"name": "out", "hostPath": {"path": out, "type": "Directory"}}],
        },
    })
    .to_string()
}

fn status_of<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses"].map(|list| pod["status"][list].as_array());
    let mut all = lists.into_iter().flatten().flatten();
    all.find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

fn n_lines(file: &Path) -> usize {
    fs::read_to_string(file).map_or(0, |text| text.lines().count())
}

/// Makes the worker unwell and waits until it was started anew; says how long that took.
fn sicken(out: &Path, n_boots: usize) -> Result<Duration> {
    let begun = Instant::now();
    fs::write(out.join("sick"), "")?;
    until(PATIENCE, "the unwell worker to be started anew", || Ok(n_lines(&out.join("boots")) == n_boots))?;
    Ok(begun.elapsed())
}

#[test]
fn what_is_unwell_is_restarted_without_the_cloud() -> Result<()> {
    let mut site = Site::start("probes", &Wishes::default())?;
    let out = tempfile::tempdir()?;
    let out = out.path();
    site.cluster.apply(&probed_pod(out))?;

    // The sidecar's startup probe holds up the others; then all run, and the server is not ready.
    site.wait_pod("probed", "to wait for its sidecar", |pod| {
        let (side, web) = (status_of(pod, "side"), status_of(pod, "web"));
        (side["state"]["running"].is_object() && side["started"] == false && web["containerID"].is_null())
            .then_some(())
    })?;
    let pod = site.wait_pod("probed", "to run without being ready", |pod| {
        let (web, worker) = (status_of(pod, "web"), status_of(pod, "worker"));
        (web["started"] == true && web["ready"] == false && worker["ready"] == true).then(|| pod.clone())
    })?;
    ensure!(pod["status"]["phase"] == "Running" && !is_ready(&pod), "{}", pod["status"]);
    ensure!(status_of(&pod, "side")["started"] == true, "{}", pod["status"]);
    site.wait_event("probed", "Unhealthy: Startup probe failed")?;
    site.wait_event("probed", "Unhealthy: Readiness probe failed: HTTP probe failed with statuscode: 404")?;
    fs::write(out.join("ready"), "")?;
    site.wait_running("probed")?;
    ensure!(fs::read_to_string(out.join("hooks"))? == "start\n", "postStart ran once");
    let before = site.runtime.running()?;

    // The link is cut. The worker is unwell: it gets its preStop hook, the probe's own grace, and a successor.
    site.cut();
    let took = sicken(out, 2)?;
    eprintln!("without the cloud: unwell to started anew in {:.1} s", took.as_secs_f64());
    ensure!(
        took < Duration::from_secs(20),
        "the pod's grace period was waited for, not the probe's: {took:?}"
    );
    ensure!(fs::read_to_string(out.join("hooks"))?.starts_with("start\nstop\n"), "preStop did not run");
    let after = site.runtime.running()?;
    let n_kept = before.iter().filter(|id| after.contains(id)).count();
    ensure!(n_kept == before.len() - 1, "others were restarted, too: {before:?} {after:?}");

    // Edgecore is killed and started, still without its cloud: nothing restarts, and probes go on.
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    site.edge.process.wait_for_log(PATIENCE, "with what its store holds")?;
    let took = sicken(out, 3)?;
    eprintln!("after a start without the cloud: unwell to started anew in {:.1} s", took.as_secs_f64());
    fs::remove_file(out.join("ready"))?;

    // The cloud is back: it hears of both.
    site.heal();
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    let pod = site.wait_pod("probed", "to be told as restarted and unready", |pod| {
        let (web, worker) = (status_of(pod, "web"), status_of(pod, "worker"));
        (worker["restartCount"] == 2 && web["ready"] == false && !is_ready(pod)).then(|| pod.clone())
    })?;
    for untouched in ["web", "side"] {
        ensure!(status_of(&pod, untouched)["restartCount"] == 0, "{}", pod["status"]);
    }
    site.wait_event("probed", "Unhealthy: Liveness probe failed")?;
    site.wait_event("probed", "Killing: Container worker failed liveness probe, will be restarted")?;
    fs::write(out.join("ready"), "")?;
    site.wait_running("probed")?;

    // Bad input: a port that nobody names, a command that is not there, a hook that fails.
    let port = json!({"containers": [{"readinessProbe": {"periodSeconds": 1, "httpGet": {"port": "nope"}}}]});
    site.cluster.apply(&shell_pod("no-port", "exec sleep 1000", &port))?;
    let command = json!({"containers": [{"livenessProbe": {"periodSeconds": 1, "failureThreshold": 1,
        "exec": {"command": ["/no/such/command"]}}}]});
    site.cluster.apply(&shell_pod("no-command", "exec sleep 1000", &command))?;
    let slow = json!({"containers": [{"livenessProbe": {"periodSeconds": 2, "failureThreshold": 1, "timeoutSeconds": 1,
        "exec": {"command": ["sleep", "30"]}}}]});
    site.cluster.apply(&shell_pod("slow", "exec sleep 1000", &slow))?;
    let hook = json!({"containers": [{"lifecycle": {"postStart": {"exec": {"command": ["false"]}}}}]});
    site.cluster.apply(&shell_pod("bad-hook", "exec sleep 1000", &hook))?;
    site.wait_event(
        "no-port",
        "Unhealthy: Readiness probe errored and resulted in unknown state: port nope not found",
    )?;
    site.wait_event("no-command", "Unhealthy: Liveness probe errored and resulted in unknown state: ")?;
    site.wait_event("slow", "Unhealthy: Liveness probe failed: command timed out")?;
    site.wait_event("slow", "Killing: Container main failed liveness probe, will be restarted")?;
    site.wait_event("bad-hook", "FailedPostStartHook: PostStartHook failed")?;
    site.wait_event("bad-hook", "Killing: FailedPostStartHook")?;
    let pod = site.pod("no-command")?;
    ensure!(
        status_of(&pod, "main")["restartCount"] == 0,
        "what cannot be asked kills nobody: {}",
        pod["status"]
    );

    // What it said last, from its log; and somebody looks into a running pod.
    let last = json!({"restartPolicy": "Never", "containers": [{"terminationMessagePolicy": "FallbackToLogsOnError"}]});
    site.cluster.apply(&shell_pod("last-words", "echo so long; exit 3", &last))?;
    site.wait_pod("last-words", "to leave its last words", |pod| {
        (status_of(pod, "main")["state"]["terminated"]["message"] == "so long\n").then_some(())
    })?;
    let script = format!("touch {}; exec sleep 1000", "/proc/1/root/out/looked");
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": APP,
        "command": ["sh", "-c", script], "targetContainerName": "web"}]}});
    site.cluster.kubectl_ok(&[
        "patch",
        "pod",
        "probed",
        "--subresource=ephemeralcontainers",
        "--patch",
        &debug.to_string(),
    ])?;
    site.wait_pod("probed", "to be looked into", |pod| {
        let debug = &pod["status"]["ephemeralContainerStatuses"][0];
        (debug["state"]["running"].is_object() && is_ready(pod)).then_some(())
    })?;
    until(PATIENCE, "it to see the processes of its target", || Ok(out.join("looked").exists()))?;

    site.cluster.kubectl_ok(&["delete", "pod", "probed", "--wait=false"])?;
    site.wait_gone("probed")?;
    let hooks = fs::read_to_string(out.join("hooks"))?;
    ensure!(hooks.lines().next_back().context("hooks ran")? == "stop", "preStop of a deleted pod: {hooks}");
    Ok(())
}
