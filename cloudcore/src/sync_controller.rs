//! Slow safety net: now and then everything that nodes must hold is compared with what they confirmed, and records of
//! nodes that are no more are removed.
//!
//! It compares nothing itself: the controllers say everything once more, and the queues drop what is confirmed.
//! Started by `main.rs`.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use ke_api::object_sync::parse_name;
use ke_api::{ClusterObjectSync, ObjectSync};
use ke_run::shutdown::Shutdown;
use ke_wire::{Kind, NodeName, ObjectKey, Reason};
use kube::api::{Api, DeleteParams, ListParams};
use serde::de::DeserializeOwned;

use crate::api_server::ApiServer;
use crate::device_inbox::DeviceInbox;
use crate::edge_controller::{EdgeControllerHandle, Graph};
use crate::node_queue::Ledger;

/// Everything arrives by the watches at once; this is for what nobody thought of.
const PASS: Duration = Duration::from_secs(300);
/// Records of lost nodes go when the Node goes; this is for Nodes that went while no cloudcore ran.
const PASSES_PER_SWEEP: u32 = 12;
const PAGE: u32 = 500;

/// The module. `run` it.
pub struct SyncController {
    client: kube::Client,
    edge_controller: EdgeControllerHandle,
    devices: DeviceInbox,
    graph: Graph,
    ledger: Arc<dyn Ledger>,
}

/// The module cannot go on; none of its failures is that grave so far.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {}

impl SyncController {
    /// Asks the controllers through their handles.
    #[must_use]
    pub fn new(
        client: kube::Client,
        edge_controller: EdgeControllerHandle,
        devices: DeviceInbox,
        graph: Graph,
        ledger: Arc<dyn Ledger>,
    ) -> Self {
        Self { client, edge_controller, devices, graph, ledger }
    }

    /// Runs until asked to stop.
    pub async fn run(self, stop: Shutdown) -> Result<(), SyncError> {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            () = self.edge_controller.wait_complete() => {}
        }
        for pass in 0_u32.. {
            if pass % PASSES_PER_SWEEP == 0 {
                tokio::select! {
                    () = stop.wait() => return Ok(()),
                    swept = self.sweep() => if let Err(cause) = swept {
                        tracing::warn!("records of lost nodes not removed, trying again in an hour: {cause}");
                    },
                }
            }
            tokio::select! {
                () = stop.wait() => return Ok(()),
                () = tokio::time::sleep(PASS) => {
                    self.edge_controller.repeat_all();
                    self.devices.repeat_all();
                }
            }
        }
        Ok(())
    }

    /// Removes what was recorded about nodes that the API server does not know.
    async fn sweep(&self) -> kube::Result<()> {
        let namespaced = records::<ObjectSync>(Api::all(self.client.clone())).await?;
        let cluster = records::<ClusterObjectSync>(Api::all(self.client.clone())).await?;
        let mut nodes: HashSet<NodeName> = namespaced.keys().chain(cluster.keys()).cloned().collect();
        nodes.extend(self.ledger.nodes().await);
        let Some(lost) = vanished(&ApiServer::new(self.client.clone()), &self.graph, nodes).await else {
            tracing::warn!("cannot ask which nodes are lost; their records stay for an hour");
            return Ok(());
        };
        let mut n_removed = 0_usize;
        for node in &lost {
            // A machine that comes back under this name holds nothing that we know of.
            self.ledger.forget(node).await;
            for (namespace, name) in namespaced.get(node).map_or(&[][..], Vec::as_slice) {
                let api = Api::<ObjectSync>::namespaced(self.client.clone(), namespace);
                n_removed = n_removed.saturating_add(usize::from(remove(&api, name).await?));
            }
            for (_, name) in cluster.get(node).map_or(&[][..], Vec::as_slice) {
                let api = Api::<ClusterObjectSync>::all(self.client.clone());
                n_removed = n_removed.saturating_add(usize::from(remove(&api, name).await?));
            }
        }
        if n_removed > 0 {
            tracing::info!("removed {n_removed} records of {} lost nodes", lost.len());
        }
        Ok(())
    }
}

/// The nodes among these that the API server does not know at all. `None`: it could not be asked.
async fn vanished(api: &ApiServer, graph: &Graph, nodes: HashSet<NodeName>) -> Option<HashSet<NodeName>> {
    let mut vanished = HashSet::new();
    for node in nodes.into_iter().filter(|node| !graph.is_node(node)) {
        let key = ObjectKey::cluster(Kind::Node, node.as_str().parse().ok()?);
        match api.get(&key).await {
            Err(refused) if refused.reason == Reason::NotFound => {
                vanished.insert(node);
            }
            Ok(_) => {}
            Err(_) => return None,
        }
    }
    Some(vanished)
}

/// Namespace and name of each record, by node. Names that are none of ours are left alone.
async fn records<K>(api: Api<K>) -> kube::Result<HashMap<NodeName, Vec<(String, String)>>>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let mut found: HashMap<NodeName, Vec<(String, String)>> = HashMap::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = api.list_metadata(&page).await?;
        for record in list.items {
            let name = record.metadata.name.unwrap_or_default();
            if let Some((node, _)) = parse_name(&name) {
                found.entry(node).or_default().push((record.metadata.namespace.unwrap_or_default(), name));
            }
        }
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// Whether it was there.
async fn remove<K>(api: &Api<K>, name: &str) -> kube::Result<bool>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(false),
        Err(cause) => Err(cause),
    }
}
