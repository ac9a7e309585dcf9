//! A node that was deleted registers again; a machine that lost its store is refilled in full.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::site::{NODE, PATIENCE, Site, Wishes, pod_ip, web_app};
use e2e::wait::{Seen, eventually};

#[test]
fn nodes_come_back() -> Result<()> {
    let mut site = Site::start("rejoin", &Wishes::default())?;
    site.cluster.apply(&web_app("shop", "first"))?;
    let name = site.pod_of("shop")?;
    site.wait_running(&name)?;

    // The store is lost, certificate and Node are not: the cloud sends all of it again, and no container restarts.
    let before = site.runtime.running()?;
    site.edge.process.kill9()?;
    for ending in ["", "-wal", "-shm"] {
        std::fs::remove_file(format!("{}{ending}", site.edge.store().display())).ok();
    }
    site.edge.process.start()?;
    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    site.cluster.apply(&web_app("shop", "second"))?;
    let pod = site.wait_running(&name)?;
    site.wait_http(&pod_ip(&pod)?, "/", "second")?;
    site.wait_http(&pod_ip(&pod)?, "/cgi-bin/env", "key=open-shop")?;
    ensure!(site.runtime.running()? == before, "a container was replaced because the store was lost");

    // A store that cannot be read is set aside, told and refilled.
    site.edge.process.kill9()?;
    for ending in ["-wal", "-shm"] {
        std::fs::remove_file(format!("{}{ending}", site.edge.store().display())).ok();
    }
    std::fs::write(site.edge.store(), vec![0x55; 65536])?;
    site.edge.process.start()?;
    site.edge.process.wait_for_log(PATIENCE, "set aside as")?;
    site.cluster.apply(&web_app("shop", "third"))?;
    site.wait_http(&pod_ip(&pod)?, "/", "third")?;
    ensure!(site.runtime.running()? == before, "a container was replaced because the store was damaged");

    // The Node is deleted: there again within ten seconds, with another uid.
    let uid =
        |site: &Site| site.cluster.kubectl_ok(&["get", "node", NODE, "--output=jsonpath={.metadata.uid}"]);
    let old = uid(&site)?;
    site.cluster.kubectl_ok(&["delete", "node", NODE])?;
    eventually(Duration::from_secs(10), "the node to be registered again", || {
        let now = uid(&site)?;
        Ok(if now != old && !now.is_empty() { Seen::Yes(()) } else { Seen::NotYet(now) })
    })?;
    site.edge.wait_ready(&site.cluster, PATIENCE)
}
