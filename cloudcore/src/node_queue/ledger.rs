//! What each node has confirmed: a trait, its form as ObjectSync objects that a Go cloudcore understands, and one in memory
//! for tests.
//!
//! Confirmations are noted in memory at once and written behind, coalesced per object: a crash loses at most what makes
//! cloudcore send an object once more than needed. It decides nothing. Read once, at start: what another cloudcore
//! writes later about a node that then moves here is not seen before the next start.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ke_api::object::api_type;
use ke_api::object_sync::{self, ClusterObjectSync, ClusterObjectSyncSpec, ObjectSync, ObjectSyncSpec};
use ke_run::shutdown::Shutdown;
use ke_wire::{NodeName, ObjectKey, Scope, Uid, Version};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;

/// An object that a node has confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which object.
    pub key: ObjectKey,
    /// The version it confirmed.
    pub version: Version,
}

/// Why the ledger cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The API server refused or is away.
    #[error("read the ledger (objectsyncs.reliablesyncs.kubeedge.io): {0}")]
    Read(#[source] Box<kube::Error>),
}

/// What each node has confirmed.
#[async_trait]
pub trait Ledger: Send + Sync + 'static {
    /// All that this node has confirmed.
    async fn load(&self, node: &NodeName) -> Result<HashMap<Uid, Held>, LedgerError>;
    /// The node holds this now.
    async fn confirmed(&self, node: &NodeName, uid: &Uid, held: Held);
    /// The node holds this no longer.
    async fn removed(&self, node: &NodeName, uid: &Uid, key: &ObjectKey);
    /// Nothing that this node confirmed counts any more.
    async fn forget(&self, node: &NodeName);
    /// Every node in the ledger.
    async fn nodes(&self) -> Vec<NodeName>;
}

type Noted = HashMap<NodeName, HashMap<Uid, Held>>;

/// A ledger that forgets with the process.
#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<Noted>);

#[async_trait]
impl Ledger for MemoryLedger {
    async fn load(&self, node: &NodeName) -> Result<HashMap<Uid, Held>, LedgerError> {
        Ok(locked(&self.0).get(node).cloned().unwrap_or_default())
    }

    async fn confirmed(&self, node: &NodeName, uid: &Uid, held: Held) {
        locked(&self.0).entry(node.clone()).or_default().insert(uid.clone(), held);
    }

    async fn removed(&self, node: &NodeName, uid: &Uid, _: &ObjectKey) {
        if let Some(noted) = locked(&self.0).get_mut(node) {
            noted.remove(uid);
        }
    }

    async fn forget(&self, node: &NodeName) {
        locked(&self.0).remove(node);
    }

    async fn nodes(&self) -> Vec<NodeName> {
        locked(&self.0).keys().cloned().collect()
    }
}

/// Writes under way at once: what one node's first hundred acknowledgements cost the API server must not starve others.
const PARALLEL_WRITES: usize = 16;
/// A write that the API server refused is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Writes go on for this long after shutdown. Less than the supervisor's grace.
const LAST_WRITES: Duration = Duration::from_secs(5);
const MANAGER: &str = "cloudcore";

/// One object sync that no longer says what is noted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stale {
    node: NodeName,
    uid: Uid,
    key: ObjectKey,
}

/// The ledger as objects in the API server. Noted by all nodes' links, written by [`LedgerWriter`].
pub struct ObjectSyncLedger {
    noted: Mutex<Noted>,
    stale: mpsc::Sender<Stale>,
}

/// Writes behind what was noted.
pub struct LedgerWriter {
    client: kube::Client,
    stale: mpsc::Receiver<Stale>,
}

impl ObjectSyncLedger {
    /// Reads all object syncs there are.
    pub async fn open(client: kube::Client) -> Result<(Self, LedgerWriter), LedgerError> {
        let mut noted = Noted::new();
        let read = |error| LedgerError::Read(Box::new(error));
        // In pages: ten thousand nodes have tens of thousands of them.
        let mut page = ListParams::default().limit(500);
        loop {
            let list = Api::<ObjectSync>::all(client.clone()).list(&page).await.map_err(read)?;
            for sync in list.items {
                let namespace = sync.metadata.namespace.as_deref().and_then(|text| text.parse().ok());
                let version = sync.status.map(|status| status.object_resource_version);
                if let (Some(namespace), Some(name)) = (namespace, sync.metadata.name) {
                    let scope = Scope::Namespace(namespace);
                    note(&mut noted, &name, scope, &sync.spec.object_kind, &sync.spec.object_name, version);
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        let all =
            Api::<ClusterObjectSync>::all(client.clone()).list(&ListParams::default()).await.map_err(read)?;
        for sync in all.items {
            let version = sync.status.map(|status| status.object_resource_version);
            if let Some(name) = sync.metadata.name {
                note(
                    &mut noted,
                    &name,
                    Scope::Cluster,
                    &sync.spec.object_kind,
                    &sync.spec.object_name,
                    version,
                );
            }
        }
        // Full: the link that confirms waits, and with it its node's next acknowledgement.
        let (sender, stale) = mpsc::channel(1024);
        Ok((Self { noted: Mutex::new(noted), stale: sender }, LedgerWriter { client, stale }))
    }

    async fn tell(&self, node: &NodeName, uid: &Uid, key: &ObjectKey) {
        // Closed at shutdown only.
        let _ = self.stale.send(Stale { node: node.clone(), uid: uid.clone(), key: key.clone() }).await;
    }

    fn held(&self, stale: &Stale) -> Option<Held> {
        locked(&self.noted).get(&stale.node)?.get(&stale.uid).cloned()
    }
}

fn note(noted: &mut Noted, name: &str, scope: Scope, kind: &str, object: &str, version: Option<String>) {
    let Some((node, uid)) = object_sync::parse_name(name) else { return };
    let (Ok(kind), Ok(object)) = (kind.to_lowercase().parse(), object.parse()) else { return };
    // An empty status is a Go cloudcore's that died between two calls: nothing is known to be confirmed.
    let version = version.and_then(|text| text.parse().ok()).unwrap_or(Version::NONE);
    let held = Held { key: ObjectKey { kind, scope, name: object }, version };
    noted.entry(node).or_default().insert(uid, held);
}

#[async_trait]
impl Ledger for ObjectSyncLedger {
    async fn load(&self, node: &NodeName) -> Result<HashMap<Uid, Held>, LedgerError> {
        Ok(locked(&self.noted).get(node).cloned().unwrap_or_default())
    }

    async fn confirmed(&self, node: &NodeName, uid: &Uid, held: Held) {
        let key = held.key.clone();
        locked(&self.noted).entry(node.clone()).or_default().insert(uid.clone(), held);
        self.tell(node, uid, &key).await;
    }

    async fn removed(&self, node: &NodeName, uid: &Uid, key: &ObjectKey) {
        if let Some(noted) = locked(&self.noted).get_mut(node) {
            noted.remove(uid);
        }
        self.tell(node, uid, key).await;
    }

    async fn forget(&self, node: &NodeName) {
        let gone = locked(&self.noted).remove(node).unwrap_or_default();
        for (uid, held) in gone {
            self.tell(node, &uid, &held.key).await;
        }
    }

    async fn nodes(&self) -> Vec<NodeName> {
        locked(&self.noted).keys().cloned().collect()
    }
}

impl LedgerWriter {
    /// Writes until shutdown, and then for a moment what still waits. What stays unwritten is sent once more by the next
    /// run, unless it is deleted meanwhile: then the node would never hear of that.
    pub async fn run(
        mut self,
        ledger: std::sync::Arc<ObjectSyncLedger>,
        shutdown: Shutdown,
    ) -> Result<(), LedgerError> {
        let mut waiting = BTreeSet::<Stale>::new();
        let mut under_way = BTreeSet::<Stale>::new();
        // Refused ones wait here, not in a place of those that could be written meanwhile. Oldest first.
        let mut refused = VecDeque::<(tokio::time::Instant, Stale)>::new();
        let mut writes = FuturesUnordered::new();
        let mut told = false;
        let mut until: Option<tokio::time::Instant> = None;
        loop {
            let is_done =
                waiting.is_empty() && refused.is_empty() && writes.is_empty() && self.stale.is_empty();
            if until.is_some() && is_done {
                return Ok(());
            }
            while refused.front().is_some_and(|(due, _)| *due <= tokio::time::Instant::now()) {
                waiting.extend(refused.pop_front().map(|(_, stale)| stale));
            }
            let retry_at = refused.front().map(|(due, _)| *due);
            // An object that is being written waits for that: two writes of one object must not overtake each other.
            while writes.len() < PARALLEL_WRITES {
                let next = waiting.iter().find(|stale| !under_way.contains(*stale)).cloned();
                let Some(stale) = next else { break };
                waiting.remove(&stale);
                under_way.insert(stale.clone());
                let (client, held) = (self.client.clone(), ledger.held(&stale));
                writes.push(async move {
                    let outcome = write(client, &stale, held).await;
                    (stale, outcome)
                });
            }
            tokio::select! {
                Some((stale, outcome)) = writes.next() => {
                    under_way.remove(&stale);
                    match outcome {
                        Ok(()) => told = false,
                        Err(error) => {
                            if !std::mem::replace(&mut told, true) {
                                tracing::warn!(%error, "the ledger cannot be written; trying again");
                            }
                            refused.push_back((tokio::time::Instant::now() + RETRY_AFTER, stale));
                        }
                    }
                }
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(tokio::time::Instant::now)), if retry_at.is_some() => {}
                stale = self.stale.recv() => match stale {
                    Some(stale) => drop(waiting.insert(stale)),
                    None => return Ok(()),
                },
                () = shutdown.wait(), if until.is_none() => until = Some(tokio::time::Instant::now() + LAST_WRITES),
                () = tokio::time::sleep_until(until.unwrap_or_else(tokio::time::Instant::now)), if until.is_some() => {
                    tracing::warn!(n_unwritten = waiting.len() + refused.len() + under_way.len(), "the ledger was not written to its end");
                    return Ok(());
                }
            }
        }
    }
}

/// Makes one object sync say what is noted.
async fn write(client: kube::Client, stale: &Stale, held: Option<Held>) -> Result<(), kube::Error> {
    let name = object_sync::name(&stale.node, &stale.uid);
    let Some(api_type) = api_type(&stale.key.kind) else { return Ok(()) };
    let (version, kind) = (api_type.api_version.to_owned(), api_type.kind.to_owned());
    let object_name = stale.key.name.to_string();
    let status = held.map(|held| json!({"status": {"objectResourceVersion": held.version.to_string()}}));
    match &stale.key.scope {
        Scope::Namespace(namespace) => {
            let spec = ObjectSyncSpec { object_api_version: version, object_kind: kind, object_name };
            let sync = ObjectSync::new(&name, spec);
            write_one(&Api::namespaced(client, namespace.as_str()), &name, sync, status).await
        }
        Scope::Cluster => {
            let spec = ClusterObjectSyncSpec { object_api_version: version, object_kind: kind, object_name };
            let sync = ClusterObjectSync::new(&name, spec);
            write_one(&Api::all(client), &name, sync, status).await
        }
    }
}

async fn write_one<K>(
    api: &Api<K>,
    name: &str,
    sync: K,
    status: Option<serde_json::Value>,
) -> Result<(), kube::Error>
where
    K: Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let Some(status) = status else {
        return match api.delete(name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(error) if code(&error) == 404 => Ok(()),
            Err(error) => Err(error),
        };
    };
    let (params, merge) = (PatchParams::default(), Patch::Merge(&status));
    let patch = || api.patch_status(name, &params, &merge);
    match patch().await {
        Err(error) if code(&error) == 404 => {}
        outcome => return outcome.map(|_| ()),
    }
    let post = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
    match api.create(&post, &sync).await {
        Ok(_) => {}
        Err(error) if code(&error) == 409 => {}
        // The namespace is going or gone: so is the object. Any other refusal is one of rights, and must be heard of.
        Err(kube::Error::Api(status)) if status.code == 404 || is_terminating(&status) => return Ok(()),
        Err(error) => return Err(error),
    }
    // A status cannot be created with its object; a Go cloudcore that reads in between waits for it.
    patch().await.map(|_| ())
}

fn is_terminating(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403
        && causes.map(|cause| cause.reason.as_str()).any(|reason| reason == "NamespaceTerminating")
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
