//! The control plane by itself: it comes up, two live side by side, and a killed run leaves nothing.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::cluster::{Cluster, Options};
use e2e::{process, run_dir, wait};

/// Set for the copy of this program that is killed; it holds the file to name its run directory in.
const VICTIM: &str = "ISTHMUS_TEST_VICTIM";

#[test]
fn namespaces_are_listed() -> Result<()> {
    e2e::need::devcluster()?;
    let start = Instant::now();
    let cluster = Cluster::start(&Options::default())?;
    eprintln!("control plane up in {:.1} s", start.elapsed().as_secs_f64());
    let list = cluster.kubectl_json(&["get", "namespaces"])?;
    let names: Vec<&str> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["metadata"]["name"].as_str())
        .collect();
    assert!(names.contains(&"kube-system"), "{names:?}");
    let version = cluster.kubectl_json(&["version"])?;
    assert_eq!(version["serverVersion"]["gitVersion"], "v1.36.3");
    // Tokens for pods come through this.
    assert!(cluster.kubectl_ok(&["create", "token", "default"])?.len() > 100);
    Ok(())
}

#[test]
fn two_live_side_by_side() -> Result<()> {
    let one = Cluster::start(&Options::default())?;
    let two = Cluster::start(&Options { eviction_secs: 7, ..Options::default() })?;
    one.kubectl_ok(&["create", "namespace", "only-in-one"])?;
    assert!(one.kubectl(&["get", "namespace", "only-in-one"])?.status.success());
    assert!(!two.kubectl(&["get", "namespace", "only-in-one"])?.status.success());
    two.kubectl_ok(&["run", "p", "--image=x"])?;
    let pod = two.kubectl_json(&["get", "pod", "p"])?;
    assert_eq!(pod["spec"]["tolerations"][0]["tolerationSeconds"], 7);
    let gone = one.run_dir().path().to_owned();
    drop(one);
    assert!(!gone.exists());
    assert_eq!(process::of_run(&gone).len(), 0);
    assert!(two.kubectl(&["get", "--raw=/readyz"])?.status.success());
    Ok(())
}

#[test]
fn a_killed_run_leaves_nothing() -> Result<()> {
    if let Some(file) = std::env::var_os(VICTIM) {
        let cluster = Cluster::start(&Options::default())?;
        std::fs::write(file, cluster.run_dir().path().as_os_str().as_encoded_bytes())?;
        loop {
            std::thread::park();
        }
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("run-dir");
    let mut victim = Command::new(std::env::current_exe()?)
        .args(["--exact", "a_killed_run_leaves_nothing", "--nocapture"])
        .env(VICTIM, &file)
        .stdout(Stdio::null())
        .spawn()
        .context("start the victim")?;
    let path = wait::eventually(Duration::from_secs(120), "the victim's cluster", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        Ok(if text.is_empty() { wait::Seen::NotYet("no file".into()) } else { wait::Seen::Yes(text) })
    })?;
    let path = std::path::PathBuf::from(path);
    victim.kill()?;
    victim.wait()?;
    assert!(process::of_run(&path).len() >= 4, "the control plane outlives its starter");
    run_dir::reap_dead()?;
    assert!(!path.exists());
    assert_eq!(process::of_run(&path).len(), 0);
    let claims = std::fs::read_dir(run_dir::base()?.join("claims"))?.flatten();
    for claim in claims {
        assert_ne!(std::fs::read(claim.path())?, path.as_os_str().as_encoded_bytes());
    }
    Ok(())
}
