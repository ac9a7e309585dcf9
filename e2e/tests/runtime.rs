//! The container runtime by itself: it runs a container, comes back from a power cut, and leaves nothing.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use e2e::images::{APP, APP_LATEST, BUSYBOX, PAUSE};
use e2e::process;
use e2e::runtime::Runtime;

fn run_sleeper(runtime: &Runtime, name: &str) -> Result<()> {
    let cgroup = format!("{}/{name}", runtime.cgroup_root());
    let runc = runtime.run_dir().join("runc");
    let arguments =
        ["run", "--detach", "--null-io", "--runc-root", &runc.to_string_lossy(), "--cgroup", &cgroup];
    runtime.ctr_ok(&[&arguments[..], &[BUSYBOX, name, "sleep", "1000"]].concat())?;
    Ok(())
}

#[test]
fn a_container_runs_and_a_power_cut_ends_it() -> Result<()> {
    e2e::need::for_runtime()?;
    let start = Instant::now();
    let mut runtime = Runtime::start("runtime")?;
    eprintln!("runtime up with images in {:.1} s", start.elapsed().as_secs_f64());
    let images = runtime.ctr_ok(&["images", "list", "--quiet"])?;
    for image in [PAUSE, BUSYBOX, APP, APP_LATEST] {
        assert!(images.lines().any(|line| line == image), "{image} in {images}");
    }
    run_sleeper(&runtime, "before")?;
    assert_eq!(runtime.running()?, ["before"]);
    let processes = process::of_run(runtime.run_dir().path());
    assert!(processes.len() >= 3, "containerd, shim and container: {processes:?}");

    let cut = Instant::now();
    runtime.kill_hard()?;
    assert!(process::of_run(runtime.run_dir().path()).is_empty());
    for pid in processes {
        assert!(!Path::new(&format!("/proc/{pid}/root")).exists() || process::start_time(pid).is_none());
    }
    assert!(!runtime.run_dir().join("state").exists());
    runtime.start_again()?;
    eprintln!("power cut and start took {:.1} s", cut.elapsed().as_secs_f64());
    assert!(runtime.running()?.is_empty());
    // Its record lies on disk, as after a true reboot; its image too.
    assert!(runtime.ctr_ok(&["containers", "list", "--quiet"])?.contains("before"));
    run_sleeper(&runtime, "after")?;
    assert_eq!(runtime.running()?, ["after"]);

    let (folder, cgroup) = (runtime.run_dir().path().to_owned(), runtime.cgroup_root().to_owned());
    runtime.cleanup()?;
    assert!(!folder.exists());
    assert!(process::of_run(&folder).is_empty());
    assert!(!Path::new(&format!("/sys/fs/cgroup/memory{cgroup}")).exists());
    Ok(())
}

#[test]
fn two_live_side_by_side() -> Result<()> {
    let (one, two) = (Runtime::start("runtime")?, Runtime::start("runtime")?);
    assert_ne!(one.subnet(), two.subnet());
    run_sleeper(&one, "same-name")?;
    run_sleeper(&two, "same-name")?;
    one.cleanup()?;
    assert_eq!(two.running()?, ["same-name"]);
    Ok(())
}
