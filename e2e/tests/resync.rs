//! Both sides changed during a cut; both converge, and nothing else is touched. Half-open links are noticed.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::site::{NODE, PATIENCE, Site, Wishes, container_identity, pod_ip, web_app};
use e2e::wait::until;
use e2e::wire::Direction;
use serde_json::Value;

#[test]
fn both_sides_converge() -> Result<()> {
    let mut site = Site::start("resync", &Wishes::default())?;
    for app in ["kept", "changed", "deleted"] {
        site.cluster.apply(&web_app(app, &format!("{app} before")))?;
    }
    let names = ["kept", "changed", "deleted"].map(|app| site.pod_of(app));
    let [kept, changed, deleted] = names;
    let (kept, changed, deleted) = (kept?, changed?, deleted?);
    let before: Vec<Value> =
        [&kept, &changed, &deleted].into_iter().map(|name| site.wait_running(name)).collect::<Result<_>>()?;

    // cloudcore is stopped, the API server goes on; one application changes, one goes, one comes.
    site.cloud.process.stop()?;
    site.cluster.apply(&web_app("changed", "changed meanwhile"))?;
    site.cluster.kubectl_ok(&["delete", "deployment", "deleted", "--wait=false"])?;
    site.cluster.kubectl_ok(&["delete", "pod", &deleted, "--force", "--grace-period=0", "--wait=false"])?;
    site.cluster.apply(&web_app("new", "new"))?;
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    site.cloud.process.start()?;

    site.edge.wait_ready(&site.cluster, PATIENCE)?;
    let after = site.wait_running(&changed)?;
    site.wait_http(&pod_ip(&after)?, "/", "changed meanwhile")?;
    let new = site.pod_of("new")?;
    let pod = site.wait_running(&new)?;
    site.wait_http(&pod_ip(&pod)?, "/", "new")?;
    site.wait_gone(&deleted)?;
    let pods = site.edge.run_dir().join("kubelet/pods");
    until(PATIENCE, "the deleted pod to leave the machine", || Ok(std::fs::read_dir(&pods)?.count() == 3))?;
    for (name, before) in [&kept, &changed].into_iter().zip(&before) {
        let now = site.pod(name)?;
        ensure!(container_identity(&now)? == container_identity(before)?, "{name} was restarted");
    }
    Ok(())
}

#[test]
fn a_half_open_link_is_replaced() -> Result<()> {
    let mut site = Site::start("halfopen", &Wishes::default())?;
    for directions in [
        &[Direction::CloudToEdge][..],
        &[Direction::EdgeToCloud],
        &[Direction::CloudToEdge, Direction::EdgeToCloud],
    ] {
        let log = site.edge.process.log().matches("connected to the cloud").count();
        // What is open now loses its bytes for good; the next dial gets through.
        site.link.freeze_open(directions);
        let frozen = Instant::now();
        until(Duration::from_secs(60), "the link to be replaced", || {
            Ok(site.edge.process.log().matches("connected to the cloud").count() > log)
        })?;
        let noticed = frozen.elapsed();
        eprintln!("{directions:?} dead: replaced after {:.1} s", noticed.as_secs_f64());
        ensure!(noticed < Duration::from_secs(45), "later than promised: {:.0} s", noticed.as_secs_f64());
        site.edge.wait_ready(&site.cluster, PATIENCE)?;
        let nodes = site.cluster.kubectl_ok(&["get", "node", NODE, "--no-headers"])?;
        ensure!(nodes.contains(" Ready "), "{nodes}");
    }
    Ok(())
}
