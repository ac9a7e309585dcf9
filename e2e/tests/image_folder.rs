//! Images reach a machine without a network as files: edgecore imports them when it starts, each once, and a broken one is no
//! more than a warning.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::images::{APP, APP_LATEST};
use e2e::site::{PATIENCE, Site, Wishes, shell_pod};
use serde_json::json;

const IMPORTED: &str = "images are imported";
const NOT_IMPORTED: &str = "images are not imported";

#[test]
fn a_pod_runs_from_an_archive() -> Result<()> {
    let mut site = Site::prepare("image_folder", &Wishes::default())?;
    // The application comes from nowhere but the folder: no registry has it.
    for image in [APP, APP_LATEST] {
        site.runtime.ctr_ok(&["images", "remove", "--sync", image])?;
    }
    let folder = site.edge.store().with_file_name("images");
    fs::create_dir(&folder)?;
    let archive = fs::read(site.runtime.run_dir().join("images/busybox.tar")).context("read an archive")?;
    fs::write(folder.join("app.tar.gz"), pack::gzip::gzip(&archive)?)?;
    fs::write(folder.join("cut.tar"), archive.get(..archive.len() / 2).unwrap_or_default())?;

    site.edge.process.start()?;
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    site.cluster.apply(&shell_pod("web", "exec sleep 100000", &json!({})))?;
    let pod = site.wait_running("web")?;
    let container = pod["status"]["containerStatuses"][0]["containerID"].clone();
    site.edge.process.wait_for_log(PATIENCE, NOT_IMPORTED)?;
    ensure!(site.edge.process.log().contains(IMPORTED), "{}", site.edge.process.log());

    // The next start knows it, tries the broken one again (which comes after it), and touches no container.
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    site.edge.process.wait_for_log(PATIENCE, NOT_IMPORTED)?;
    ensure!(!site.edge.process.log().contains(IMPORTED), "{}", site.edge.process.log());
    let pod = site.wait_running("web")?;
    ensure!(pod["status"]["containerStatuses"][0]["containerID"] == container, "{pod}");
    Ok(())
}
