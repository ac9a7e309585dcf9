//! How soon a link over which bytes vanish is noticed and replaced, until the API server hears of the node again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::bench::Row;
use e2e::site::{NODE, Site, Wishes};
use e2e::wait::{Seen, eventually, until};
use e2e::wire::Direction;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const PATIENCE: Duration = Duration::from_secs(150);

/// The slowest of half-open (nothing passes) and both one-way links.
pub(crate) fn half_open() -> Result<Vec<Row>> {
    use Direction::{CloudToEdge, EdgeToCloud};
    let mut site = Site::start("bench-link", &Wishes::default())?;
    let mut slowest: f64 = 0.0;
    let kinds: [&[Direction]; 3] = [&[EdgeToCloud, CloudToEdge], &[EdgeToCloud], &[CloudToEdge]];
    for directions in kinds {
        // Healing has cut the link of the round before.
        wait_heard(&mut site, OffsetDateTime::now_utc())?;
        let dials = |site: &Site| site.link.counts().connections.load(Ordering::Relaxed);
        let before = dials(&site);
        site.link.freeze_open(directions);
        let frozen = Instant::now();
        // Over a link that is dead in the other direction only, the cloud still hears of the node.
        let mut since = OffsetDateTime::now_utc();
        until(PATIENCE, "another link", || {
            let look = OffsetDateTime::now_utc();
            let is_there = dials(&site) > before;
            // The lease is renewed at once over a new link: before this was seen, perhaps.
            since = if is_there { since } else { look };
            Ok(is_there)
        })?;
        wait_heard(&mut site, since)?;
        let took = frozen.elapsed().as_secs_f64();
        println!("link: {directions:?} vanish: Ready again after {took:.1} s");
        slowest = slowest.max(took);
        site.link.heal();
    }
    Ok(vec![Row::new("halfopen_to_ready", "s", Some(slowest), None, 3)])
}

/// Waits until the API server has a lease that the node renewed after `since`, and calls it Ready.
fn wait_heard(site: &mut Site, since: OffsetDateTime) -> Result<()> {
    eventually(PATIENCE, "the node to be Ready with a new lease", || {
        site.edge.process.must_run()?;
        let lease =
            ["get", "lease", NODE, "--namespace=kube-node-lease", "--output=jsonpath={.spec.renewTime}"];
        let renewed = site.cluster.kubectl_ok(&lease)?;
        let ready = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        let ready = site.cluster.kubectl_ok(&["get", "node", NODE, ready])?;
        let is_new = OffsetDateTime::parse(&renewed, &Rfc3339).is_ok_and(|renewed| renewed > since);
        let state = format!("renewed at {renewed}, Ready is {ready:?}");
        Ok(if is_new && ready == "True" { Seen::Yes(()) } else { Seen::NotYet(state) })
    })
}
