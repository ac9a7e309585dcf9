//! A node that runs out of disk and of memory, and pods that write more than they may: who goes, in which order, what is said.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::images::{APP, PAUSE, short_lived};
use e2e::process::run;
use e2e::site::{NODE, PATIENCE, Site, Wishes, container_identity, http_get, shell_pod};
use e2e::wait::{Seen, eventually, until};
use serde_json::{Value, json};

/// An image that no pod uses.
const UNUSED: &str = "isthmus.test/unused:1";
/// One that no pod uses either, and that came from the node's image folder.
const FROM_FOLDER: &str = "isthmus.test/from-folder:1";
/// The file system of pods' files. MiB.
const DISK: u32 = 80;
/// How long the node says that it is short after it is not.
const TRANSITION: Duration = Duration::from_secs(30);

/// A pod that writes so many MiB into its volume, and `more` when it is told to by the file `/out/<name>`.
fn writer(name: &str, out: &Path, (first, more): (u32, u32), spec: &Value) -> String {
    let write = |file: &str, n: u32| format!("dd if=/dev/zero of=/data/{file} bs=1M count={n} 2>/dev/null");
    let script = format!(
        "{}; while [ ! -e /out/{name} ]; do sleep 0.2; done; {}; exec sleep 1000",
        write("first", first),
        write("more", more)
    );
    let mut pod: Value = serde_json::from_str(&shell_pod(name, &script, spec)).unwrap_or_default();
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/data"}, {"name": "out", "mountPath": "/out"}]);
    let mut data = json!({"name": "data", "emptyDir": {}});
    if let Some(limit) = spec.get("sizeLimit") {
        data["emptyDir"]["sizeLimit"] = limit.clone();
        if let Some(fields) = pod["spec"].as_object_mut() {
            fields.remove("sizeLimit");
        }
    }
    pod["spec"]["volumes"] = json!([data, {"name": "out", "hostPath": {"path": out, "type": "Directory"}}]);
    pod.to_string()
}

fn asking(resource: &str, amount: &str) -> Value {
    json!({"containers": [{"resources": {"requests": {resource: amount}}}]})
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let mut all = object["status"]["conditions"].as_array().into_iter().flatten();
    all.find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

fn node(site: &Site) -> Result<Value> {
    site.cluster.kubectl_json(&["get", "node", NODE])
}

/// Waits until the node says this of itself and has, or has not, the taint that follows from it.
fn wait_pressure(site: &Site, kind: &str, taint: &str, wanted: bool) -> Result<()> {
    let status = if wanted { "True" } else { "False" };
    eventually(PATIENCE, &format!("{kind} to be {status}"), || {
        let node = node(site)?;
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let has_taint = taints.iter().any(|one| one["key"] == taint);
        let is_so = condition(&node, kind)["status"] == status && has_taint == wanted;
        Ok(if is_so { Seen::Yes(()) } else { Seen::NotYet(format!("{} {taints:?}", condition(&node, kind))) })
    })
}

/// Waits until the pod has failed as an evicted one does; gives it.
fn wait_evicted(site: &mut Site, name: &str, message: &str) -> Result<Value> {
    let pod = site
        .wait_pod(name, "to be evicted", |pod| (pod["status"]["phase"] == "Failed").then(|| pod.clone()))?;
    let status = &pod["status"];
    ensure!(status["reason"] == "Evicted", "{status}");
    ensure!(status["message"].as_str().is_some_and(|text| text.starts_with(message)), "{status}");
    Ok(pod)
}

/// When it was marked as ended for the sake of others.
fn marked_at(pod: &Value) -> Result<String> {
    let mark = condition(pod, "DisruptionTarget");
    ensure!(mark["status"] == "True" && mark["reason"] == "TerminationByKubelet", "{}", pod["status"]);
    ensure!(mark["message"] == pod["status"]["message"], "{}", pod["status"]);
    mark["lastTransitionTime"].as_str().map(str::to_owned).context("no time")
}

fn has_image(site: &Site, image: &str) -> Result<bool> {
    Ok(site.runtime.ctr_ok(&["images", "list", "--quiet"])?.lines().any(|line| line == image))
}

/// Lays `more` over the kubelet's part of edgecore's configuration and starts it again.
fn start_with(site: &mut Site, more: &Value) -> Result<()> {
    site.edge.process.stop()?;
    let mut config: Value = serde_json::from_slice(&fs::read(site.edge.config())?)?;
    let kubelet = config.pointer_mut("/modules/edged/tailoredKubeletConfig").context("the kubelet's part")?;
    for (key, value) in more.as_object().into_iter().flatten() {
        kubelet[key] = value.clone();
    }
    fs::write(site.edge.config(), config.to_string())?;
    site.edge.process.start()
}

#[test]
fn a_node_that_runs_short_ends_the_right_pods() -> Result<()> {
    let kubelet = json!({
        "evictionHard": {"nodefs.available": "12Mi"},
        "evictionPressureTransitionPeriod": format!("{}s", TRANSITION.as_secs()),
        "volumeStatsAggPeriod": "1s",
    });
    let edgecore = json!({"modules": {"edged": {"tailoredKubeletConfig": kubelet}}});
    let mut site = Site::prepare("evict", &Wishes { edgecore, ..Wishes::default() })?;
    let root = site.edge.run_dir().folder("kubelet")?;
    // Gone with the run directory, as pods' own mounts are.
    run("mount", &["-t", "tmpfs", "-o", &format!("size={DISK}m"), "tmpfs", &root.to_string_lossy()])?;
    let archives = site.runtime.run_dir().folder("unused")?;
    site.runtime.import_image(&short_lived(&archives, UNUSED, "nobody starts this", 1)?)?;
    short_lived(&site.edge.run_dir().folder("images")?, FROM_FOLDER, "nor this", 1)?;
    site.edge.process.start()?;
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    until(PATIENCE, "the image folder to be imported", || {
        Ok(has_image(&site, FROM_FOLDER)? && has_image(&site, UNUSED)?)
    })?;
    let out = tempfile::tempdir()?;
    let out = out.path();
    disk(&mut site, out)?;
    limits_without_the_cloud(&mut site, out)?;
    memory(&mut site)
}

/// Three pods write. The one that fills the disk stays within what it asked for; of the two others the lesser one goes.
fn disk(site: &mut Site, out: &Path) -> Result<()> {
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "precious"}, "value": 1000});
    site.cluster.apply(&class.to_string())?;
    let precious = json!({"priorityClassName": "precious"});
    site.cluster.apply(&writer("asked", out, (25, 24), &asking("ephemeral-storage", "50Mi")))?;
    site.cluster.apply(&writer("precious", out, (14, 1), &precious))?;
    site.cluster.apply(&writer("plain", out, (6, 1), &json!({})))?;
    let mut kept = Vec::new();
    for name in ["asked", "precious", "plain"] {
        kept.push((name, container_identity(&site.wait_running(name)?)?));
    }
    let written = |name: &str, file: &str, mib: u64| {
        let pods = site.edge.run_dir().join("kubelet/pods");
        let uid = site.pod(name)?["metadata"]["uid"].as_str().context("no uid")?.to_owned();
        let file = pods.join(uid).join("volumes/kubernetes.io~empty-dir/data").join(file);
        until(PATIENCE, &format!("{name} to have written"), || {
            Ok(fs::metadata(&file).is_ok_and(|facts| facts.len() == mib << 20))
        })
    };
    written("asked", "first", 25)?;
    written("precious", "first", 14)?;
    written("plain", "first", 6)?;
    wait_pressure(site, "DiskPressure", "node.kubernetes.io/disk-pressure", false)?;

    let begun = Instant::now();
    fs::write(out.join("asked"), "")?;
    wait_pressure(site, "DiskPressure", "node.kubernetes.io/disk-pressure", true)?;
    let message = "The node was low on resource: ephemeral-storage. Threshold quantity: 12Mi, available: ";
    let pod = wait_evicted(site, "plain", message)?;
    eprintln!("disk full to evicted: {:.1} s; {}", begun.elapsed().as_secs_f64(), pod["status"]["message"]);
    marked_at(&pod)?;
    let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
    ensure!(ended.is_object(), "how it ended is told: {}", pod["status"]);
    // What it had written is gone, and with it the shortage; the node says so after a while only.
    wait_pressure(site, "DiskPressure", "node.kubernetes.io/disk-pressure", false)?;
    let took = begun.elapsed();
    eprintln!("disk full to no pressure: {:.1} s", took.as_secs_f64());
    ensure!(took > TRANSITION, "it went too soon: {took:?}");
    site.wait_event("plain", "Evicted: The node was low on resource: ephemeral-storage. ")?;
    site.wait_event(NODE, "EvictionThresholdMet: Attempting to reclaim ephemeral-storage")?;
    for (name, identity) in kept.iter().filter(|(name, _)| *name != "plain") {
        ensure!(container_identity(&site.pod(name)?)? == *identity, "{name} was touched");
    }
    Ok(())
}

/// Pods beyond limits of their own, while the cloud is away: they end here, and it hears of it later.
fn limits_without_the_cloud(site: &mut Site, out: &Path) -> Result<()> {
    site.cluster.apply(&writer("scratch", out, (0, 2), &json!({"sizeLimit": "1Mi"})))?;
    let limits = json!({"containers": [{"resources": {"limits": {"ephemeral-storage": "1Mi"}}}]});
    let script = "while [ ! -e /out/layer ]; do sleep 0.2; done; dd if=/dev/zero of=/more bs=1M count=3; exec sleep 1000";
    let mut layer: Value = serde_json::from_str(&shell_pod("layer", script, &limits))?;
    layer["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "out", "mountPath": "/out"}]);
    layer["spec"]["volumes"] = json!([{"name": "out", "hostPath": {"path": out, "type": "Directory"}}]);
    site.cluster.apply(&layer.to_string())?;
    for name in ["scratch", "layer"] {
        site.wait_running(name)?;
    }
    let n_before = site.runtime.running()?.len();
    site.cut();
    for name in ["scratch", "layer"] {
        fs::write(out.join(name), "")?;
    }
    // A container and a sandbox of each.
    let (runtime, edge) = (&site.runtime, &mut site.edge);
    eventually(PATIENCE, "both pods to end without the cloud", || {
        edge.process.must_run()?;
        let n_now = runtime.running()?.len();
        Ok(if n_now == n_before - 4 { Seen::Yes(()) } else { Seen::NotYet(format!("{n_now} of {n_before}")) })
    })?;
    // Killed before it could tell anybody.
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    site.edge.process.wait_for_log(PATIENCE, "with what its store holds")?;
    site.heal();
    let scratch =
        wait_evicted(site, "scratch", "Usage of EmptyDir volume \"data\" exceeds the limit \"1Mi\". ")?;
    let layer = wait_evicted(
        site,
        "layer",
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ",
    )?;
    for pod in [scratch, layer] {
        ensure!(condition(&pod, "DisruptionTarget").is_null(), "its own fault: {}", pod["status"]);
    }
    site.wait_event("scratch", "Evicted: Usage of EmptyDir volume")?;
    for name in ["asked", "precious"] {
        site.cluster.kubectl_ok(&["delete", "pod", name, "--wait=false"])?;
        site.wait_gone(name)?;
    }
    Ok(())
}

/// A soft threshold above all that is free: pods go one after the other, the worst first, and critical ones stay.
fn memory(site: &mut Site) -> Result<()> {
    let eats =
        |mib: u32| format!("dd if=/dev/zero of=/dev/shm/food bs=1M count={mib} 2>/dev/null; exec sleep 1000");
    site.cluster.apply(&shell_pod("modest", &eats(10), &asking("memory", "64Mi")))?;
    site.cluster.apply(&shell_pod("big", &eats(40), &asking("memory", "1Mi")))?;
    site.cluster.apply(&shell_pod("small", &eats(1), &json!({})))?;
    let critical = json!({"priorityClassName": "system-node-critical"});
    site.cluster.apply(&shell_pod("vital", &eats(20), &critical))?;
    for name in ["modest", "big", "small", "vital"] {
        site.wait_running(name)?;
    }
    let kubelet = site.edge.kubelet();
    let summary: Value =
        serde_json::from_str(&http_get(&kubelet.ip().to_string(), kubelet.port(), "/stats/summary")?)?;
    let free = summary["node"]["memory"]["availableBytes"].as_u64().context("no free memory")?;
    start_with(
        site,
        &json!({
            "evictionSoft": {"memory.available": (free + (4 << 30)).to_string()},
            "evictionSoftGracePeriod": {"memory.available": "3s"},
            "evictionMaxPodGracePeriod": 3,
            "imageGCHighThresholdPercent": 1,
            "imageGCLowThresholdPercent": 0,
            "imageMinimumGCAge": "0s",
        }),
    )?;
    let mut marked = Vec::new();
    for name in ["big", "small", "modest"] {
        let pod = wait_evicted(site, name, "The node was low on resource: memory. Threshold quantity: ")?;
        eprintln!("{name}: {}", pod["status"]["message"]);
        marked.push(marked_at(&pod)?);
    }
    ensure!(marked.is_sorted_by(|one, next| one < next), "big, small, modest went at {marked:?}");
    site.wait_event(NODE, "EvictionThresholdMet: Attempting to reclaim memory")?;
    wait_pressure(site, "MemoryPressure", "node.kubernetes.io/memory-pressure", true)?;
    ensure!(site.pod("vital")?["status"]["phase"] == "Running", "critical pods are spared");

    // A pod that asks for nothing, put here by hand, is not taken.
    let late = json!({"nodeName": NODE});
    site.cluster.apply(&shell_pod("late", "exec sleep 1000", &late))?;
    wait_evicted(site, "late", "Pod was rejected: The node had condition: [MemoryPressure]. ")?;

    // The disk is fuller than it should be: images that nobody uses are gone, the others stay.
    until(PATIENCE, "the unused image to be removed", || Ok(!has_image(site, UNUSED)?))?;
    for image in [APP, PAUSE, FROM_FOLDER] {
        ensure!(has_image(site, image)?, "{image} is gone");
    }
    site.wait_event(NODE, "FreeDiskSpaceFailed: Failed to garbage collect required amount of images. ")?;

    // Enough is free again.
    start_with(
        site,
        &json!({"evictionSoft": {}, "evictionSoftGracePeriod": {}, "imageGCHighThresholdPercent": 100}),
    )?;
    wait_pressure(site, "MemoryPressure", "node.kubernetes.io/memory-pressure", false)?;
    ensure!(site.pod("vital")?["status"]["phase"] == "Running", "critical pods are spared");
    Ok(())
}
