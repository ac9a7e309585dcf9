//! Gives ranges of pod addresses to edge nodes that ask for one, in a cluster that gives its Nodes none.
//!
//! Several cloudcores may do this at once, and there is no leader. A range is a Lease of its name before it is a node's: of two
//! who make it, the API server lets one. The Lease belongs to the Node and goes when the Node is deleted. So no clock decides,
//! and a cloudcore that was stopped for an hour in the middle of it can do no harm: the API server lets a Node's range be set
//! only once. Told by `mod.rs` that somebody asks; reads the Nodes itself, all of them, once for all that ask.

mod plan;
mod range;
mod reserve;

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Event, Node};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use ke_api::pod_network::{MANAGED, POD_NETWORK, POD_RANGE};
use ke_run::shutdown::Shutdown;
use ke_wire::Kind;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

use self::plan::{Asking, Verdict, plan};
pub use self::range::Pool;
use self::range::Range;
use self::reserve::{Reserved, release, reserve};
use super::observed::WatchEvent;
use crate::chain::chain;

/// Machines join in groups; one list of all Nodes is for all of them.
const GATHER: Duration = Duration::from_millis(300);
/// Kubernetes' own allocator, where it runs, gives a range within this time of a Node's registration.
const OTHERS_FIRST: Duration = Duration::from_secs(3);
/// Before the Nodes are looked at again when somebody still waits.
const PAUSE: Duration = Duration::from_secs(30);
const PAGE: u32 = 500;

/// Whether this is a Node that asks and has none yet.
pub(super) fn asks(event: &WatchEvent) -> bool {
    let WatchEvent::Applied(observed) = event else { return false };
    let object = observed.object();
    observed.key.kind == Kind::Node
        && observed.annotation(POD_NETWORK) == Some(MANAGED)
        && object.pointer("/spec/podCIDR").and_then(|range| range.as_str()).is_none_or(str::is_empty)
}

/// How a look at all Nodes ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nobody waits.
    Done,
    /// Nobody has a range yet: look again a little later, and then give.
    NotYet,
    /// Somebody waits, and looking again may help.
    Waiting,
    /// Others give ranges, and will tell the Node themselves.
    LeftToOthers,
}

struct PodRanges {
    client: kube::Client,
    pool: Pool,
    /// What was said last: nothing is said twice in a row.
    told: String,
}

/// Runs until asked to stop. `wanted` holds one word that somebody asks; a second one is of no use.
pub(super) async fn run(
    client: kube::Client,
    pool: Option<Pool>,
    mut wanted: mpsc::Receiver<()>,
    stop: Shutdown,
) {
    let Some(pool) = pool else { return stop.wait().await };
    let mut ranges = PodRanges { client, pool, told: String::new() };
    let mut may_be_first = false;
    let mut pause = None;
    loop {
        tokio::select! {
            () = stop.wait() => return,
            word = wanted.recv() => if word.is_none() { return stop.wait().await },
            () = tokio::time::sleep(pause.unwrap_or_default()), if pause.is_some() => {}
        }
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(GATHER) => {}
        }
        let outcome = match ranges.look(may_be_first).await {
            Ok(outcome) => outcome,
            Err(cause) => {
                ranges
                    .tell(format!("nodes wait for ranges of pod addresses, trying again: {}", chain(&cause)));
                Outcome::Waiting
            }
        };
        may_be_first = outcome == Outcome::NotYet;
        pause = match outcome {
            Outcome::NotYet => Some(OTHERS_FIRST),
            Outcome::Waiting => Some(PAUSE),
            Outcome::Done | Outcome::LeftToOthers => None,
        };
        if outcome == Outcome::LeftToOthers {
            // Its Node changes with every status; the others are not listed for each.
            tokio::select! {
                () = stop.wait() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

impl PodRanges {
    async fn look(&mut self, may_be_first: bool) -> kube::Result<Outcome> {
        let (to, mut taken) = match plan(&self.nodes().await?) {
            Verdict::Nothing => return Ok(Outcome::Done),
            Verdict::Others { node, range } => {
                self.tell(format!(
                    "nodes that ask for a range of pod addresses get none from here, since the cluster gives its Nodes ranges \
                     ({node} has {range}); if it leaves them out, set its controller manager right (--allocate-node-cidrs)"
                ));
                return Ok(Outcome::LeftToOthers);
            }
            Verdict::Give { is_first: true, .. } if !may_be_first => return Ok(Outcome::NotYet),
            Verdict::Give { to, taken, .. } => (to, taken),
        };
        let mut outcome = Outcome::Done;
        for node in to {
            match self.give(&node, &mut taken).await? {
                Given::Range(range) => tracing::info!(node = node.name, "its pods get addresses of {range}"),
                Given::NotNeeded(why) => {
                    tracing::warn!(node = node.name, "its range of pod addresses was not stored: {why}");
                    outcome = Outcome::Waiting;
                }
                Given::Exhausted => {
                    let text = format!(
                        "no range of pod addresses is left in {}: set modules.edgeController.podCIDR.range of cloudcore to a larger \
                         one, or delete Nodes that are no more",
                        self.pool
                    );
                    if self.tell(format!("node {} waits: {text}", node.name)) {
                        self.tell_node(&node, &text).await;
                    }
                    return Ok(Outcome::Waiting);
                }
            }
        }
        Ok(outcome)
    }

    /// All of the cluster, as they are now.
    async fn nodes(&self) -> kube::Result<Vec<Node>> {
        let api = Api::<Node>::all(self.client.clone());
        let (mut nodes, mut page) = (Vec::new(), ListParams::default().limit(PAGE));
        loop {
            let list = api.list(&page).await?;
            nodes.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(nodes),
            }
        }
    }

    async fn give(&self, node: &Asking, taken: &mut BTreeSet<Range>) -> kube::Result<Given> {
        loop {
            let Some(range) = self.pool.next_free(taken) else { return Ok(Given::Exhausted) };
            // Ours now, or somebody else's: nobody else here gets it.
            taken.insert(range);
            if reserve(&self.client, &range, node).await? == Reserved::ByOther {
                continue;
            }
            let text = range.to_string();
            let patch = json!({
                "metadata": {"uid": node.uid, "annotations": {POD_RANGE: text}},
                "spec": {"podCIDR": text, "podCIDRs": [text]},
            });
            let api = Api::<Node>::all(self.client.clone());
            return match api.patch(&node.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => Ok(Given::Range(range)),
                // It has one from somebody else meanwhile, or is gone, or came back as another one.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {
                    release(&self.client, &range, node).await?;
                    Ok(Given::NotNeeded(status.message.clone()))
                }
                // The next look finds the reservation and goes on.
                Err(cause) => Err(cause),
            };
        }
    }

    /// Whether it was new.
    fn tell(&mut self, words: String) -> bool {
        let is_new = words != self.told;
        if is_new {
            tracing::warn!("{words}");
            self.told = words;
        }
        is_new
    }

    async fn tell_node(&self, node: &Asking, message: &str) {
        let now = Timestamp::now();
        let event = json!({
            "metadata": {"name": format!("{}.{:x}", node.name, now.as_nanosecond()), "namespace": "default"},
            // kubectl describe node looks for the name here.
            "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.name},
            "type": "Warning", "reason": "NoPodRange", "message": message, "count": 1,
            "source": {"component": "cloudcore"}, "firstTimestamp": Time(now), "lastTimestamp": Time(now),
        });
        let Ok(event) = serde_json::from_value::<Event>(event) else { return };
        let api = Api::<Event>::namespaced(self.client.clone(), "default");
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(node = node.name, %error, "tell in an event that no range is left");
        }
    }
}

enum Given {
    Range(Range),
    /// Why the Node was not changed.
    NotNeeded(String),
    Exhausted,
}

#[cfg(test)]
mod tests;
