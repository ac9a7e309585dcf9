//! The disk of images is full while one is pulled: the pod says why, edgecore and everything else go on, unused images make room,
//! and the image is there once there is.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::images::short_lived;
use e2e::process::run;
use e2e::registry::Registry;
use e2e::site::{NODE, PATIENCE, Site, Wishes, container_identity, shell_pod};
use e2e::wait::{Seen, eventually, until};
use serde_json::{Value, json};

/// The disk of images and containers. MiB.
const DISK: u64 = 192;
/// What the image to be pulled takes, twice: as it is loaded, and unpacked. MiB.
const HEAVY: usize = 40;
/// An image that no pod uses.
const UNUSED: &str = "isthmus.test/unused:1";

fn free_mib(path: &Path) -> Result<u64> {
    let facts = rustix::fs::statvfs(path)?;
    Ok((facts.f_bavail * facts.f_frsize) >> 20)
}

/// Puts a file there that leaves so much of the disk.
fn leave(root: &Path, mib: u64) -> Result<()> {
    let ballast = root.join("ballast");
    let held = fs::metadata(&ballast).map_or(0, |facts| facts.len() >> 20);
    let wanted = (held + free_mib(root)?).checked_sub(mib).context("the disk is too small for this story")?;
    let file = File::options().create(true).write(true).truncate(false).open(&ballast)?;
    file.set_len(0)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, wanted << 20)?;
    Ok(())
}

/// containerd with all that it has on a small file system of its own.
fn move_to_small_disk(site: &mut Site) -> Result<PathBuf> {
    site.runtime.containerd.stop()?;
    let root = site.runtime.run_dir().join("root");
    let before = site.runtime.run_dir().join("root.before");
    fs::rename(&root, &before)?;
    fs::create_dir(&root)?;
    // Gone with the run directory.
    run("mount", &["-t", "tmpfs", "-o", &format!("size={DISK}m"), "tmpfs", &root.to_string_lossy()])?;
    run("cp", &["--archive", &format!("{}/.", before.display()), &root.to_string_lossy()])?;
    fs::remove_dir_all(&before)?;
    site.runtime.start_again()?;
    Ok(root)
}

/// From edgecore's next start on.
fn short_below(site: &Site, amount: &str) -> Result<()> {
    let mut config: Value = serde_json::from_slice(&fs::read(site.edge.config())?)?;
    let hard =
        config.pointer_mut("/modules/edged/tailoredKubeletConfig/evictionHard").context("evictionHard")?;
    hard["imagefs.available"] = amount.into();
    fs::write(site.edge.config(), config.to_string())?;
    Ok(())
}

/// What the pod's container waits for.
fn waiting(pod: &Value) -> (&str, &str) {
    let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
    (waiting["reason"].as_str().unwrap_or_default(), waiting["message"].as_str().unwrap_or_default())
}

fn pulling(name: &str, image: &str) -> String {
    shell_pod(name, "exec sleep 1000", &json!({"containers": [{"image": image}]}))
}

fn disk_pressure(site: &Site, wanted: &str) -> Result<()> {
    eventually(PATIENCE, &format!("DiskPressure to be {wanted}"), || {
        let node = site.cluster.kubectl_json(&["get", "node", NODE])?;
        let mut all = node["status"]["conditions"].as_array().into_iter().flatten();
        let said = all.find(|one| one["type"] == "DiskPressure").cloned().unwrap_or_default();
        Ok(if said["status"] == wanted { Seen::Yes(()) } else { Seen::NotYet(said.to_string()) })
    })
}

fn has_image(site: &Site, image: &str) -> Result<bool> {
    Ok(site.runtime.ctr_ok(&["images", "list", "--quiet"])?.lines().any(|line| line == image))
}

#[test]
fn a_pull_that_finds_the_disk_full_is_told_and_harms_nobody() -> Result<()> {
    // At first nothing is done about a full disk: it is the pull that is looked at.
    let kubelet = json!({
        "evictionHard": {"imagefs.available": "0", "imagefs.inodesFree": "0"},
        "evictionPressureTransitionPeriod": "10s",
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "0s",
    });
    let edgecore = json!({"modules": {"edged": {"tailoredKubeletConfig": kubelet}}});
    let mut site = Site::prepare("fullpull", &Wishes { edgecore, ..Wishes::default() })?;
    let archives = site.runtime.run_dir().folder("unused")?;
    let root = move_to_small_disk(&mut site)?;
    let registry = Registry::start(HEAVY)?;
    site.edge.process.start()?;
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    let vital = json!({"priorityClassName": "system-node-critical"});
    site.cluster.apply(&shell_pod("bystander", "exec sleep 1000", &vital))?;
    let bystander = container_identity(&site.wait_running("bystander")?)?;

    // Enough for the image as it is loaded, too little to unpack it.
    let room = u64::try_from(HEAVY)? + 20;
    leave(&root, room)?;
    eprintln!("{} MiB are free", free_mib(&root)?);
    let begun = Instant::now();
    site.cluster.apply(&pulling("heavy", &registry.image("1")))?;
    let message = site.wait_pod("heavy", "to say that the disk is full", |pod| {
        let (reason, message) = waiting(pod);
        (reason == "ErrImagePull").then(|| message.to_owned())
    })?;
    eprintln!("after {:.1} s: ErrImagePull: {message}", begun.elapsed().as_secs_f64());
    ensure!(message.starts_with("the disk of this node has no room for the image "), "{message}");
    ensure!(message.contains("no space left on device"), "the runtime's own words: {message}");
    site.wait_pod("heavy", "to wait before the next try", |pod| {
        (waiting(pod).0 == "ImagePullBackOff").then_some(())
    })?;
    site.wait_event("heavy", "Failed: Failed to pull image ")?;
    site.wait_event("heavy", "BackOff: Back-off pulling image ")?;
    // Ten seconds lie between the first two tries, more between all others.
    let (n_loaded, secs) = (registry.n_layers(), begun.elapsed().as_secs());
    ensure!(n_loaded <= 2 + usize::try_from(secs / 10)?, "it was loaded {n_loaded} times in {secs} s");

    // edgecore and its store go on: a killed one comes back with what it holds, and takes what is new.
    site.edge.process.must_run()?;
    site.edge.process.kill9()?;
    short_below(&site, "12Mi")?;
    site.edge.process.start()?;
    site.cluster.apply(&shell_pod("late", "exec sleep 1000", &vital))?;
    site.wait_running("late")?;
    ensure!(container_identity(&site.pod("bystander")?)? == bystander, "the bystander was touched");
    site.cluster.kubectl_ok(&["delete", "pod", "heavy", "--wait=false"])?;
    site.wait_gone("heavy")?;

    // Short of disk, the node says so, and what nobody uses goes.
    leave(&root, 60)?;
    site.runtime.import_image(&short_lived(&archives, UNUSED, "nobody starts this", 1)?)?;
    ensure!(has_image(&site, UNUSED)?, "it is not there");
    leave(&root, 6)?;
    disk_pressure(&site, "True")?;
    until(PATIENCE, "the unused image to be removed", || Ok(!has_image(&site, UNUSED)?))?;
    site.wait_event(NODE, "EvictionThresholdMet: Attempting to reclaim ")?;
    for name in ["bystander", "late"] {
        ensure!(site.pod(name)?["status"]["phase"] == "Running", "critical pods are spared");
    }

    // Somebody makes room.
    fs::remove_file(root.join("ballast"))?;
    disk_pressure(&site, "False")?;
    site.cluster.apply(&pulling("again", &registry.image("2")))?;
    let begun = Instant::now();
    site.wait_running("again")?;
    eprintln!("pulled and running after {:.1} s", begun.elapsed().as_secs_f64());
    ensure!(container_identity(&site.pod("bystander")?)? == bystander, "the bystander was touched");
    Ok(())
}
