//! Gives ranges of pod addresses to edge nodes that ask for one and get none from the cluster.
//!
//! A range is an annotation of the Node, never its `spec.podCIDR`: that field is the cluster's allocator's (`ke_api::pod_network`).
//! Several cloudcores may do this at once, and there is no leader. A range is a Lease of its name before it is a node's: of two
//! who make it, the API server lets one. The Lease belongs to the Node and goes when the Node is deleted. The annotation is
//! written only over a Node that was seen without one. So no clock decides whose a range is, and a cloudcore that was stopped for
//! an hour in the middle of it can do no harm. Told by `placer.rs` that somebody asks; reads the Nodes itself, all of them, once for
//! all that ask.

mod plan;
mod reserve;

use std::collections::{BTreeMap, BTreeSet};
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
use tokio::time::Instant;

use self::plan::{Asking, Plan, has_one, plan};
use self::reserve::{Reserved, release, reserve};
use super::observed::WatchEvent;
use crate::chain::chain;
use crate::ranges::{Pool, Range};

/// Machines join in groups; one list of all Nodes is for all of them.
const GATHER: Duration = Duration::from_millis(300);
/// Before the Nodes are looked at again when somebody still waits.
const PAUSE: Duration = Duration::from_secs(30);
const PAGE: u32 = 500;
/// A Node that changes while it is written is read anew; its status does, not often.
const TRIES: u32 = 5;

/// Whether this is a Node that asks and has none yet.
pub(super) fn asks(event: &WatchEvent) -> bool {
    let WatchEvent::Applied(observed) = event else { return false };
    let object = observed.object();
    observed.key.kind == Kind::Node
        && observed.annotation(POD_NETWORK) == Some(MANAGED)
        && observed.annotation(POD_RANGE).is_none()
        && object.pointer("/spec/podCIDR").and_then(|range| range.as_str()).is_none_or(str::is_empty)
}

struct PodRanges {
    client: kube::Client,
    pool: Pool,
    /// Since when who asks, by uid.
    since: BTreeMap<String, Instant>,
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
    let mut ranges = PodRanges { client, pool, since: BTreeMap::new(), told: String::new() };
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
        pause = match ranges.look(Instant::now()).await {
            Ok(pause) => pause,
            Err(cause) => {
                ranges
                    .tell(format!("nodes wait for ranges of pod addresses, trying again: {}", chain(&cause)));
                Some(PAUSE)
            }
        };
    }
}

impl PodRanges {
    /// Gives to all whose time has come. When to look again; `None`: nobody waits.
    async fn look(&mut self, now: Instant) -> kube::Result<Option<Duration>> {
        let Plan { asking, mut taken, patience } = plan(&self.nodes().await?);
        self.since.retain(|uid, _| asking.iter().any(|node| node.uid == *uid));
        let mut pause: Option<Duration> = None;
        let mut refused = Vec::new();
        for node in asking {
            let since = *self.since.entry(node.uid.clone()).or_insert(now);
            let left = patience.saturating_sub(now.saturating_duration_since(since));
            if !left.is_zero() {
                pause = Some(pause.map_or(left, |pause| pause.min(left)));
                continue;
            }
            match self.give(&node, &mut taken).await? {
                Given::Range(range) => tracing::info!(node = node.name, "its pods get addresses of {range}"),
                Given::NotNeeded => {}
                // The others are not to wait for this one.
                Given::Refused(why) => refused.push(format!("{}: {why}", node.name)),
                Given::Exhausted => {
                    let text = format!(
                        "no range of pod addresses is left in {}: set modules.edgeController.podCIDR.range of cloudcore to a larger \
                         one, or delete Nodes that are no more",
                        self.pool
                    );
                    if self.tell(format!("node {} waits: {text}", node.name)) {
                        self.tell_node(&node, &text).await;
                    }
                    return Ok(Some(PAUSE));
                }
            }
        }
        if let Some(first) = refused.first() {
            let n_refused = refused.len();
            self.tell(format!(
                "{n_refused} nodes wait for ranges of pod addresses that could not be noted, trying again: {first}"
            ));
            pause = pause.or(Some(PAUSE));
        }
        Ok(pause)
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
            let given = self.note(node, range).await?;
            if given == Given::NotNeeded {
                release(&self.client, &range, node).await?;
            }
            return Ok(given);
        }
    }

    /// Writes it on the Node, if that is still the one that asked and still has none.
    async fn note(&self, node: &Asking, range: Range) -> kube::Result<Given> {
        let api = Api::<Node>::all(self.client.clone());
        for _ in 0..TRIES {
            let now = api.get_opt(&node.name).await?;
            let now = now.filter(|now| now.metadata.uid.as_ref() == Some(&node.uid));
            let Some(now) = now.filter(|now| !has_one(now)) else { return Ok(Given::NotNeeded) };
            let metadata = json!({"resourceVersion": now.metadata.resource_version, "uid": node.uid,
                "annotations": {POD_RANGE: range.to_string()}});
            let patch = Patch::Merge(json!({"metadata": metadata}));
            match api.patch(&node.name, &PatchParams::default(), &patch).await {
                Ok(_) => return Ok(Given::Range(range)),
                // It changed meanwhile, or is gone.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                // The range stays this node's: the next look finds the reservation and goes on.
                Err(kube::Error::Api(status)) if status.code < 500 => {
                    return Ok(Given::Refused(status.message.clone()));
                }
                Err(cause) => return Err(cause),
            }
        }
        Ok(Given::Refused("the Node changes all the time".to_owned()))
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

#[derive(Debug, PartialEq, Eq)]
enum Given {
    Range(Range),
    /// It has one meanwhile, or is gone.
    NotNeeded,
    /// The API server's words.
    Refused(String),
    Exhausted,
}

#[cfg(test)]
mod tests;
