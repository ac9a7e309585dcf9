//! `kubectl patch --subresource=resize` of a pod that runs on a real containerd: the kernel has the new limits, the status says
//! so, and what cannot be done says why.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Options;
use e2e::site::{PATIENCE, Site, Wishes, container_identity, is_ready, shell_pod};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

fn sizes(cpu: &str, cpu_limit: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu_limit, "memory": memory}})
}

fn patch(site: &Site, name: &str, resources: &Value) -> Result<i64> {
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": resources}]}}).to_string();
    site.cluster.kubectl_ok(&["patch", "pod", name, "--subresource=resize", "--patch", &patch])?;
    site.pod(name)?["metadata"]["generation"].as_i64().context("no generation")
}

fn condition<'a>(pod: &'a Value, type_: &str) -> Option<&'a Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == type_)
}

/// Waits until the pod has what its spec asks for.
fn wait_resized(site: &mut Site, name: &str, generation: i64) -> Result<Value> {
    site.wait_pod(name, "to be resized", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        let wanted = &pod["spec"]["containers"][0]["resources"];
        let has_it = status["resources"] == *wanted && status["allocatedResources"] == wanted["requests"];
        let is_settled =
            condition(pod, "PodResizePending").is_none() && condition(pod, "PodResizeInProgress").is_none();
        let is_seen = pod["status"]["observedGeneration"].as_i64() >= Some(generation);
        (has_it && is_settled && is_seen && is_ready(pod)).then(|| pod.clone())
    })
}

/// What the kernel says inside the container (cgroup v1 or v2): memory limit in bytes, CPU quota in microseconds.
fn limits(site: &Site, name: &str) -> Result<(String, String)> {
    let first = |one: &str, other: &str| {
        let script = format!("cat {one} 2>/dev/null || cat {other}");
        site.cluster.kubectl_ok(&["exec", name, "--", "sh", "-c", &script])
    };
    let root = "/sys/fs/cgroup";
    let memory = first(&format!("{root}/memory/memory.limit_in_bytes"), &format!("{root}/memory.max"))?;
    let quota = first(&format!("{root}/cpu/cpu.cfs_quota_us"), &format!("{root}/cpu.max"))?;
    Ok((memory.trim().to_owned(), quota.split_whitespace().next().unwrap_or_default().to_owned()))
}

#[test]
fn a_running_pod_gets_another_size() -> Result<()> {
    let cluster = Options { verifies_kubelets: true, ..Options::default() };
    let mut site = Site::start("resize", &Wishes { cluster, ..Wishes::default() })?;
    let more = json!({"containers": [{"resources": sizes("50m", "100m", "64Mi")}]});
    site.cluster.apply(&shell_pod("grows", "exec sleep 1000", &more))?;
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let anew = json!({"containers": [{"resources": sizes("50m", "100m", "64Mi"), "resizePolicy": policy}]});
    site.cluster.apply(&shell_pod("anew", "exec sleep 1000", &anew))?;
    let before = container_identity(&site.wait_running("grows")?)?;
    wait_resized(&mut site, "grows", 1)?;
    site.wait_running("anew")?;
    eventually(PATIENCE, "kubectl exec to work", || {
        let output = site.cluster.kubectl(&["exec", "grows", "--", "true"])?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() { Seen::Yes(()) } else { Seen::NotYet(said) })
    })?;
    ensure!(limits(&site, "grows")? == ("67108864".into(), "10000".into()), "{:?}", limits(&site, "grows")?);

    // Up, and down again.
    for (cpu, limit, memory, expected) in
        [("100m", "200m", "128Mi", ("134217728", "20000")), ("20m", "50m", "32Mi", ("33554432", "5000"))]
    {
        let begun = Instant::now();
        let generation = patch(&site, "grows", &sizes(cpu, limit, memory))?;
        let pod = wait_resized(&mut site, "grows", generation)?;
        eprintln!("resized to {limit} and {memory} in {:.1} s", begun.elapsed().as_secs_f64());
        ensure!(container_identity(&pod)? == before, "it was restarted: {}", pod["status"]);
        let (memory, quota) = limits(&site, "grows")?;
        ensure!((memory.as_str(), quota.as_str()) == expected, "the kernel has {memory} {quota}");
    }
    site.wait_event("grows", "ResizeStarted: Pod resize started: ")?;
    site.wait_event("grows", "ResizeCompleted: Pod resize completed: ")?;

    // A start of edgecore knows what was done.
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    site.edge.process.wait_for_log(PATIENCE, "with what its store holds")?;
    let pod = wait_resized(&mut site, "grows", 1)?;
    ensure!(container_identity(&pod)? == before, "it was restarted: {}", pod["status"]);
    site.edge.wait_ready(&site.cluster, PATIENCE)?;

    // A policy asks for a new start: for memory, not for CPU.
    let generation = patch(&site, "anew", &sizes("60m", "120m", "64Mi"))?;
    let pod = wait_resized(&mut site, "anew", generation)?;
    ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 0, "{}", pod["status"]);
    let generation = patch(&site, "anew", &sizes("60m", "120m", "96Mi"))?;
    let pod = wait_resized(&mut site, "anew", generation)?;
    ensure!(pod["status"]["containerStatuses"][0]["restartCount"] == 1, "{}", pod["status"]);
    ensure!(limits(&site, "anew")? == ("100663296".into(), "12000".into()), "{:?}", limits(&site, "anew")?);
    site.wait_event("anew", "Killing: Container main resize requires restart")?;

    // More than there is beside another pod; what the machine never has the API server refuses itself.
    let node = site.cluster.kubectl_json(&["get", "node", e2e::site::NODE])?;
    let cpu = node["status"]["allocatable"]["cpu"].as_str().context("no allocatable cpu")?;
    let millis: i64 = match cpu.strip_suffix('m') {
        Some(millis) => millis.parse()?,
        None => cpu.parse::<i64>()? * 1000,
    };
    let big = json!({"containers": [{"resources": {"requests": {"cpu": format!("{}m", millis - 500)}}}]});
    site.cluster.apply(&shell_pod("big", "exec sleep 1000", &big))?;
    site.wait_running("big")?;
    let generation = patch(&site, "grows", &sizes("600m", "1", "32Mi"))?;
    let pod = site.wait_pod("grows", "to say that it waits", |pod| {
        condition(pod, "PodResizePending").is_some_and(|one| one["reason"] == "Deferred").then(|| pod.clone())
    })?;
    let message = &condition(&pod, "PodResizePending").context("it is there")?["message"];
    eprintln!("deferred: {message}");
    let words = "Node didn't have enough resource: cpu, requested: 600, ";
    ensure!(message.as_str().is_some_and(|text| text.starts_with(words)), "{message}");
    ensure!(container_identity(&pod)? == before, "it was restarted: {}", pod["status"]);
    ensure!(limits(&site, "grows")?.1 == "5000", "it keeps what it had");
    site.wait_event("grows", "ResizeDeferred: Pod resize Deferred: ")?;
    site.cluster.kubectl_ok(&["delete", "pod", "big", "--wait=false"])?;
    let begun = Instant::now();
    let pod = wait_resized(&mut site, "grows", generation)?;
    eprintln!("resized {:.1} s after the other pod was deleted", begun.elapsed().as_secs_f64());
    ensure!(container_identity(&pod)? == before, "it was restarted: {}", pod["status"]);
    ensure!(limits(&site, "grows")?.1 == "100000", "{:?}", limits(&site, "grows")?);

    // Less memory than is in use: told, and nothing dies.
    let hog = json!({"containers": [{"resources": sizes("50m", "500m", "64Mi"),
        "volumeMounts": [{"name": "ram", "mountPath": "/ram"}]}],
        "volumes": [{"name": "ram", "emptyDir": {"medium": "Memory"}}]});
    site.cluster.apply(&shell_pod(
        "hog",
        "head -c 40000000 /dev/zero > /ram/hog; touch /tmp/full; exec sleep 1000",
        &hog,
    ))?;
    site.wait_running("hog")?;
    eventually(PATIENCE, "it to be full", || {
        let output = site.cluster.kubectl(&["exec", "hog", "--", "test", "-e", "/tmp/full"])?;
        Ok(if output.status.success() { Seen::Yes(()) } else { Seen::NotYet("not yet".into()) })
    })?;
    let before = container_identity(&site.wait_running("hog")?)?;
    patch(&site, "hog", &sizes("50m", "500m", "16Mi"))?;
    let pod = site.wait_pod("hog", "to say that it uses more", |pod| {
        condition(pod, "PodResizeInProgress").is_some_and(|one| one["reason"] == "Error").then(|| pod.clone())
    })?;
    let message = &condition(&pod, "PodResizeInProgress").context("it is there")?["message"];
    eprintln!("too small: {message}");
    ensure!(container_identity(&pod)? == before, "it was restarted: {}", pod["status"]);
    site.cluster.kubectl_ok(&["exec", "hog", "--", "rm", "/ram/hog"])?;
    let generation = site.pod("hog")?["metadata"]["generation"].as_i64().unwrap_or_default();
    let pod = wait_resized(&mut site, "hog", generation)?;
    ensure!(container_identity(&pod)? == before, "it was restarted: {}", pod["status"]);
    ensure!(limits(&site, "hog")?.0 == "16777216", "{:?}", limits(&site, "hog")?);
    Ok(())
}
