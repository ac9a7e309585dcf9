//! Devices of a plugin that nobody here wrote (Kubernetes' own sample): offered by the Node, put into containers, the same
//! ones after edgecore was killed, and not given to anybody while the plugin is gone.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::need;
use e2e::process::Process;
use e2e::site::{NODE, PATIENCE, Site, Wishes, container_identity, shell_pod};
use e2e::wait::{Seen, eventually, until};
use serde_json::{Value, json};

const RESOURCE: &str = "example.com/resource";
/// What the sample offers. It makes a file of that name for each that it gives away.
const DEVICES: [&str; 2] = ["Dev-1", "Dev-2"];

/// The sample has the kubelet's folder built in: it sees the node's there, and nobody else does.
const IN_ITS_PLACE: &str = "mount -t tmpfs none /var/lib && mkdir -p /var/lib/kubelet/device-plugins && \
                            mount --bind \"$0\" /var/lib/kubelet/device-plugins && exec \"$@\"";

fn sample(site: &Site) -> Result<Process> {
    let run_dir = site.edge.run_dir();
    let folder = run_dir.folder("kubelet/device-plugins")?;
    let folder = folder.to_str().context("a path that is text")?;
    let none: [&str; 0] = [];
    let mut sample =
        Process::new(run_dir.path(), "sample-device-plugin", &need::sample_device_plugin()?, none);
    let arguments = ["--mount", "--propagation", "private", "sh", "-c", IN_ITS_PLACE, folder];
    sample.wrap(Path::new("/usr/bin/unshare"), &arguments);
    Ok(sample)
}

/// Waits until the Node says so many devices; says how long that took.
fn wait_offer(site: &mut Site, capacity: &str, allocatable: &str) -> Result<f64> {
    let begun = Instant::now();
    let (edge, cluster) = (&mut site.edge, &site.cluster);
    eventually(PATIENCE, &format!("{NODE} to offer {allocatable} of {capacity} {RESOURCE}"), || {
        edge.process.must_run()?;
        let status = cluster.kubectl_json(&["get", "node", NODE])?["status"].clone();
        let found = (&status["capacity"][RESOURCE], &status["allocatable"][RESOURCE]);
        let is_so = *found.0 == capacity && *found.1 == allocatable;
        Ok(if is_so { Seen::Yes(()) } else { Seen::NotYet(format!("{found:?}")) })
    })
    .with_context(|| format!("edgecore's last lines:\n{}", site.edge.process.log_end(30)))?;
    Ok(begun.elapsed().as_secs_f64())
}

/// A pod with one device. Each start of its container notes which one it sees; it ends when it is told to.
fn pod(name: &str, out: &Path, more: &Value) -> String {
    let script = format!(
        "cd /tmp; echo Dev-* >> /out/{name}; until [ -e /out/{name}.end ]; do sleep 0.2; done; rm /out/{name}.end"
    );
    let mut spec = json!({
        "containers": [{
            "resources": {"limits": {RESOURCE: "1"}},
            "volumeMounts": [{"name": "out", "mountPath": "/out"}],
        }],
        "volumes": [{"name": "out", "hostPath": {"path": out, "type": "Directory"}}],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    shell_pod(name, &script, &spec)
}

/// The devices that the starts of this pod's container saw, in their order.
fn seen(out: &Path, name: &str) -> Vec<String> {
    let lines = fs::read_to_string(out.join(name)).unwrap_or_default();
    lines.lines().map(str::to_owned).collect()
}

fn wait_seen(out: &Path, name: &str, n_starts: usize) -> Result<String> {
    until(PATIENCE, &format!("start {n_starts} of {name}"), || Ok(seen(out, name).len() == n_starts))?;
    seen(out, name).pop().context("it saw a device")
}

/// A pod that goes past the scheduler, which would not send it here; says why it was refused.
fn refusal(site: &mut Site, name: &str, out: &Path) -> Result<String> {
    site.cluster.apply(&pod(name, out, &json!({"nodeName": NODE})))?;
    let status = site.wait_pod(name, "to be refused", |pod| {
        (pod["status"]["phase"] == "Failed").then(|| pod["status"].clone())
    })?;
    ensure!(status["reason"] == "UnexpectedAdmissionError", "{status}");
    site.wait_event(name, "UnexpectedAdmissionError: Allocate failed due to ")?;
    ensure!(seen(out, name).is_empty(), "a refused pod ran");
    status["message"].as_str().map(str::to_owned).context("a message")
}

/// What a client of another make (grpc of PyPI) gets from the node's pod-resources socket, as bytes in a text.
fn pod_resources(site: &Site, call: &str) -> Result<String> {
    let socket = site.edge.run_dir().join("kubelet/pod-resources/kubelet.sock");
    let script = "import sys, grpc\n\
                  raw = lambda b: b\n\
                  channel = grpc.insecure_channel('unix://' + sys.argv[1])\n\
                  call = channel.unary_unary('/v1.PodResourcesLister/' + sys.argv[2], raw, raw)\n\
                  print(call(b'', timeout=20))";
    let python = need::python(&["grpcio==1.76.0"])?;
    let output = Command::new(python).args(["-c", script]).arg(&socket).arg(call).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn devices_of_a_plugin_reach_pods_and_survive() -> Result<()> {
    let mut site = Site::start("devplug", &Wishes::default())?;
    let out = tempfile::tempdir()?;
    let out = out.path();
    let mut sample = sample(&site)?;
    sample.start()?;
    let took = wait_offer(&mut site, "2", "2")?;
    eprintln!("started to offered: {took:.1} s");

    // Two pods have one each.
    site.cluster.apply(&pod("one", out, &json!({})))?;
    let one = wait_seen(out, "one", 1)?;
    site.cluster.apply(&pod("two", out, &json!({})))?;
    let two = wait_seen(out, "two", 1)?;
    ensure!(one != two && DEVICES.contains(&one.as_str()) && DEVICES.contains(&two.as_str()), "{one} {two}");
    let running = site.wait_running("one")?;
    let shown = &running["status"]["containerStatuses"][0]["allocatedResourcesStatus"][0];
    ensure!(shown["name"] == RESOURCE, "{}", running["status"]);
    ensure!(shown["resources"][0] == json!({"resourceID": one, "health": "Healthy"}), "{shown}");
    let before = container_identity(&running)?;
    let listed = pod_resources(&site, "List")?;
    ensure!([&one, &two, RESOURCE].iter().all(|word| listed.contains(*word)), "{listed}");
    let allocatable = pod_resources(&site, "GetAllocatableResources")?;
    ensure!(DEVICES.iter().all(|device| allocatable.contains(device)), "{allocatable}");
    let why = refusal(&mut site, "three", out)?;
    let expected =
        format!("requested number of devices unavailable for {RESOURCE}. Requested: 1, Available: 0");
    ensure!(why.contains(&expected), "{why}");

    // edgecore is killed and comes again: nothing restarts, the plugin registers again by itself, and a container that is
    // started anew has the same device.
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    site.edge.process.wait_for_log(PATIENCE, "a device plugin registered")?;
    let took = wait_offer(&mut site, "2", "2")?;
    eprintln!("edgecore killed and started, registered again to offered: {took:.1} s");
    ensure!(container_identity(&site.pod("one")?)? == before, "the container is another one");
    fs::write(out.join("one.end"), "")?;
    let again = wait_seen(out, "one", 2)?;
    ensure!(again == one, "{again} instead of {one}");
    site.wait_pod("one", "to be started anew", |pod| {
        (pod["status"]["containerStatuses"][0]["restartCount"] == 1
            && pod["status"]["containerStatuses"][0]["state"]["running"].is_object())
        .then_some(())
    })?;

    // The plugin is killed: nothing is offered any more, what runs goes on, and nobody new gets a device.
    let before = container_identity(&site.pod("one")?)?;
    sample.kill9()?;
    let took = wait_offer(&mut site, "2", "0")?;
    eprintln!("plugin killed to nothing offered: {took:.1} s");
    let why = refusal(&mut site, "four", out)?;
    let expected = format!("no healthy devices present; cannot allocate unhealthy devices {RESOURCE}");
    ensure!(why.contains(&expected), "{why}");
    ensure!(container_identity(&site.pod("one")?)? == before, "the container is another one");
    fs::write(out.join("one.end"), "")?;
    ensure!(wait_seen(out, "one", 3)? == one, "a restart without the plugin");

    // It comes again: what a pod gave back goes to the next one.
    site.cluster.kubectl_ok(&["delete", "pod", "two", "--wait=false"])?;
    site.wait_gone("two")?;
    sample.start()?;
    let took = wait_offer(&mut site, "2", "2")?;
    eprintln!("plugin started again to offered: {took:.1} s");
    site.cluster.apply(&pod("five", out, &json!({})))?;
    ensure!(wait_seen(out, "five", 1)? == two, "the device that was given back");
    sample.kill9()?;
    for device in DEVICES {
        fs::remove_file(Path::new("/tmp").join(device)).ok();
    }
    Ok(())
}
