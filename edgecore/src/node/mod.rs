//! This machine as a Node: registration, status, lease.
//!
//! Asks the cloud itself instead of going through the report queue: an old Node status is worth nothing, and its answer
//! decides what comes next (a Node that is gone in the cloud is registered again at once).

mod address;
mod host;
mod huge_pages;
mod room;
mod status;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use ke_api::node::LEASE_NAMESPACE;
use ke_run::shutdown::Shutdown;
use ke_wire::{Answer, Kind, Namespace, NodeName, ObjectKey, ObjectName, Question, Reason, Refusal};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use address::{address, first_address};
pub use host::{Host, free_bytes};
pub use room::{allocatable, nothing_left};
pub use status::NodeConfig;
use status::RuntimeState;

use crate::device_plugin::Amounts;
use crate::edge_hub::{AskError, Cloud, LinkState};
use crate::edged::{Pressures, Runtime};
use crate::meta_manager::Meta;

/// After a failure the same is tried again this soon, whatever the normal pace.
const RETRY: Duration = Duration::from_secs(2);
/// Two words about devices are this far apart.
const DEVICES_PACE: Duration = Duration::from_secs(1);
/// While the network that we make ourselves is on its way, so that nobody waits for the next turn to hear that it is there.
const NETWORK_LOOK: Duration = Duration::from_secs(1);

/// The module.
pub struct NodeAgent {
    config: NodeConfig,
    name: NodeName,
    host: Host,
    cloud: Cloud,
    meta: Meta,
    runtime: Arc<dyn Runtime>,
    nodes: watch::Receiver<Option<Arc<Node>>>,
    /// Whether the store was empty at start: then the cloud must send all it thinks this node has. Or the Node lacks a word.
    must_register: bool,
    /// Whether the configuration's labels are others than those of the Node in the cloud, since somebody changed it.
    must_label: bool,
    known: Option<Node>,
    wanted_ip: Option<IpAddr>,
    addresses: watch::Sender<Vec<IpAddr>>,
    lease: Option<Value>,
    last_told: Option<(Instant, Value)>,
    standing: watch::Sender<Standing>,
    /// What the Node is short of; `None` before the first look.
    pressures: watch::Receiver<Option<Pressures>>,
    /// Whether the runtime had no network for pods when it was looked at last.
    has_no_network: bool,
    devices: watch::Receiver<BTreeMap<String, Amounts>>,
}

/// What the cloud has been told of this Node since this process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// Nothing yet.
    #[default]
    Unknown,
    /// The cloud took its status.
    Told {
        /// Why it is not Ready; `None` if it is.
        unready: Option<String>,
    },
}

enum Event {
    Link,
    Node(Option<Arc<Node>>),
    Devices,
    StatusDue,
    LeaseDue,
}

/// Why a step with the cloud did not work; all are tried again.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the cloud refused to {0}: {1}")]
    Refused(&'static str, Box<Refusal>),
    #[error("the cloud's answer to {0} makes no sense")]
    Nonsense(&'static str),
}

impl NodeAgent {
    /// `nodes` brings this machine's Node as the cloud pushes it; `standing` is told what the cloud has taken of it;
    /// `addresses` holds the first address and is told when the machine has another one, unless `wanted_ip` fixes it.
    #[expect(clippy::too_many_arguments, reason = "each is another module's handle")]
    pub fn new(
        config: NodeConfig,
        name: NodeName,
        host: Host,
        cloud: Cloud,
        meta: Meta,
        runtime: Arc<dyn Runtime>,
        nodes: watch::Receiver<Option<Arc<Node>>>,
        known: Option<Node>,
        wanted_ip: Option<IpAddr>,
        addresses: watch::Sender<Vec<IpAddr>>,
        standing: watch::Sender<Standing>,
        pressures: watch::Receiver<Option<Pressures>>,
    ) -> Self {
        // A Node that does not ask yet: it was registered before this machine made its network itself.
        let must_register = known.as_ref().is_none_or(|known| status::is_to_ask(&config, known));
        let must_label = known.as_ref().is_some_and(|known| status::lacks_labels(&config, known));
        Self {
            config,
            name,
            host,
            cloud,
            meta,
            runtime,
            nodes,
            must_register,
            must_label,
            known,
            wanted_ip,
            addresses,
            lease: None,
            last_told: None,
            standing,
            pressures,
            has_no_network: false,
            // Of a sender that is gone: it never changes.
            devices: watch::channel(BTreeMap::new()).1,
        }
    }

    /// With what device plugins offer; each change is told at once.
    #[must_use]
    pub fn with_devices(mut self, devices: watch::Receiver<BTreeMap<String, Amounts>>) -> Self {
        self.devices = devices;
        self
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), std::convert::Infallible> {
        let mut link = self.cloud.state();
        link.mark_changed();
        let mut status = interval(self.config.status_period);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // A quarter of the lease, so that three renewals may be lost before the control plane worries.
        let mut lease = interval(self.config.lease_duration / 4);
        lease.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                Ok(()) = link.changed() => Event::Link,
                Ok(()) = self.devices.changed() => Event::Devices,
                Ok(()) = self.nodes.changed() => Event::Node(self.nodes.borrow_and_update().clone()),
                Ok(()) = self.pressures.changed() => Event::StatusDue,
                _ = status.tick() => Event::StatusDue,
                _ = lease.tick() => Event::LeaseDue,
                () = shutdown.wait() => return Ok(()),
            };
            let connected = *link.borrow() != LinkState::Away;
            let done = match event {
                Event::Link => {
                    self.last_told = None;
                    if connected { self.greet().await } else { Ok(()) }
                }
                Event::Node(node) => {
                    self.known = node.map(Arc::unwrap_or_clone).or(self.known.take());
                    if self.is_overwritten() {
                        // The control plane missed our leases and wrote so over our word, which is due again.
                        self.last_told = None;
                    }
                    Ok(())
                }
                // Plugins may change their minds many times a second; the cloud need not hear each.
                Event::Devices
                    if self.last_told.as_ref().is_some_and(|(at, _)| at.elapsed() < DEVICES_PACE) =>
                {
                    status.reset_after(DEVICES_PACE);
                    Ok(())
                }
                Event::Devices | Event::StatusDue if connected => self.tell_status().await,
                Event::LeaseDue if connected && self.known.is_some() => self.renew_lease().await,
                Event::Devices | Event::StatusDue | Event::LeaseDue => Ok(()),
            };
            if let Err(error) = done {
                tracing::warn!(%error, "node status or lease; trying again");
                status.reset_after(RETRY);
                lease.reset_after(RETRY);
            } else if self.has_no_network && self.config.asks_for_pod_range {
                status.reset_after(NETWORK_LOOK);
            }
        }
    }

    /// The first words on each connection.
    async fn greet(&mut self) -> Result<(), StepError> {
        self.tell_status().await?;
        self.renew_lease().await
    }

    /// Whether the Node in the cloud says something else about being ready than we told it last.
    fn is_overwritten(&self) -> bool {
        let known = self.known.as_ref().and_then(|node| node.status.as_ref()?.conditions.as_ref());
        let stored = known.and_then(|all| all.iter().find(|one| one.type_ == "Ready"));
        let told = self.last_told.as_ref().and_then(|(_, told)| told.pointer("/conditions")?.as_array());
        let told = told.and_then(|all| all.iter().find(|one| one["type"] == "Ready"));
        matches!((stored, told), (Some(stored), Some(told)) if told["status"] != stored.status.as_str())
    }

    async fn tell_status(&mut self) -> Result<(), StepError> {
        let status = self.status().await;
        if self.must_register {
            return self.register(status).await;
        }
        if self.must_label {
            self.tell_labels(&status).await?;
        }
        let told_lately = self.last_told.as_ref().is_some_and(|(at, told)| {
            at.elapsed() < self.config.report_period && status::says_the_same(told, &status)
        });
        if told_lately {
            return Ok(());
        }
        let patch = status::patch(&status);
        match self.cloud.ask(Question::PatchNodeStatus { node: self.name.clone(), patch }).await?.answer {
            Answer::Stored(_) | Answer::Object(_) | Answer::Done => {
                self.was_told(status);
                Ok(())
            }
            Answer::NotStored(refusal) | Answer::Refused(refusal) if refusal.reason == Reason::NotFound => {
                tracing::warn!("this Node is gone in the cloud; registering it again");
                self.register(status).await
            }
            Answer::NotStored(refusal) | Answer::Refused(refusal) => {
                Err(StepError::Refused("keep the node status", Box::new(refusal)))
            }
            Answer::Pem(_) => Err(StepError::Nonsense("a node status")),
        }
    }

    /// A label that the cloud does not take keeps nothing else from being told; the next start tries it again.
    async fn tell_labels(&mut self, status: &Value) -> Result<(), StepError> {
        let node = status::node_object(&self.name, &self.config, &self.host, status.clone());
        let question = Question::Update { key: self.node_key()?, body: Bytes::from(node.to_string()) };
        match self.cloud.ask(question).await?.answer {
            Answer::NotStored(refusal) | Answer::Refused(refusal) => {
                tracing::warn!(%refusal, "the cloud does not take the labels of modules.edged.nodeLabels");
            }
            Answer::Stored(_) | Answer::Object(_) | Answer::Done => {
                tracing::info!("the Node has the labels of modules.edged.nodeLabels");
            }
            Answer::Pem(_) => return Err(StepError::Nonsense("the Node's labels")),
        }
        self.must_label = false;
        Ok(())
    }

    fn was_told(&mut self, status: Value) {
        self.standing.send_replace(Standing::Told { unready: status::unready(&status) });
        self.last_told = Some((Instant::now(), status));
    }

    async fn register(&mut self, status: Value) -> Result<(), StepError> {
        let node = status::node_object(&self.name, &self.config, &self.host, status.clone());
        let key = self.node_key()?;
        let body = Bytes::from(node.to_string());
        match self.cloud.ask(Question::Create { key: key.clone(), body: body.clone() }).await?.answer {
            Answer::Stored(stored) | Answer::Object(stored) => {
                self.known = serde_json::from_slice(&stored).ok();
                // So that a restart knows that it is registered; the push of the same object comes as well.
                if let Err(error) = self.meta.keep_answer(key, stored).await {
                    tracing::warn!(%error, "the registered Node could not be kept");
                }
                tracing::info!(node = %self.name, "registered");
            }
            Answer::NotStored(refusal) | Answer::Refused(refusal)
                if refusal.reason == Reason::AlreadyExists =>
            {
                // Registered by an earlier life of this machine. Its labels may have changed since; the status is told
                // next, and the cloud pushes the Node.
                self.cloud.ask(Question::Update { key, body }).await?;
                tracing::info!(node = %self.name, "the Node was registered before; the cloud sends all it should hold");
            }
            Answer::NotStored(refusal) | Answer::Refused(refusal) => {
                return Err(StepError::Refused("register this Node", Box::new(refusal)));
            }
            Answer::Done | Answer::Pem(_) => return Err(StepError::Nonsense("a registration")),
        }
        self.must_register = false;
        self.must_label = false;
        self.lease = None;
        // The Node holds this status already if it was created now; if it was there before, it does not.
        let patch = status::patch(&status);
        self.cloud.ask(Question::PatchNodeStatus { node: self.name.clone(), patch }).await?;
        self.was_told(status);
        Ok(())
    }

    async fn renew_lease(&mut self) -> Result<(), StepError> {
        let key = self.lease_key()?;
        if self.lease.is_none() {
            match self.cloud.ask(Question::Get(key.clone())).await?.answer {
                Answer::Stored(body) | Answer::Object(body) => {
                    self.lease = serde_json::from_slice(&body).ok();
                }
                Answer::NotStored(refusal) | Answer::Refused(refusal)
                    if refusal.reason == Reason::NotFound => {}
                Answer::NotStored(refusal) | Answer::Refused(refusal) => {
                    return Err(StepError::Refused("show the lease", Box::new(refusal)));
                }
                Answer::Done | Answer::Pem(_) => return Err(StepError::Nonsense("a lease query")),
            }
        }
        let owner = self.known.as_ref().and_then(|node| node.metadata.uid.clone());
        let seconds = self.config.lease_duration.as_secs();
        let lease = status::lease(self.lease.take(), &self.name, owner.as_deref(), seconds, Timestamp::now());
        let exists = lease.pointer("/metadata/resourceVersion").is_some();
        let body = Bytes::from(lease.to_string());
        let question = if exists { Question::Update { key, body } } else { Question::Create { key, body } };
        match self.cloud.ask(question).await?.answer {
            Answer::Stored(body) | Answer::Object(body) => {
                self.lease = serde_json::from_slice(&body).ok();
                Ok(())
            }
            // Read it anew next time: it is gone, or somebody else wrote it.
            Answer::NotStored(refusal) | Answer::Refused(refusal) => {
                Err(StepError::Refused("renew the lease", Box::new(refusal)))
            }
            Answer::Done | Answer::Pem(_) => Err(StepError::Nonsense("a lease renewal")),
        }
    }

    /// The machine's address now; without a route the last one.
    fn addresses(&self) -> Vec<IpAddr> {
        if let Some(address) = address(self.wanted_ip) {
            self.addresses.send_if_modified(|known| {
                let is_new = known.first() != Some(&address);
                *known = vec![address];
                is_new
            });
        }
        self.addresses.borrow().clone()
    }

    async fn status(&mut self) -> Value {
        self.has_no_network = false;
        let runtime = match (self.runtime.status().await, self.runtime.version().await) {
            (Ok(status), Ok(version)) => {
                let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
                let unready = conditions.iter().find(|condition| !condition.status);
                self.has_no_network = unready.is_some_and(|one| one.r#type == status::NETWORK_READY);
                RuntimeState {
                    version: format!("{}://{}", version.runtime_name, version.runtime_version),
                    unready: unready.map(|one| {
                        status::runtime_unready(&self.config, self.known.as_ref(), &one.r#type, &one.message)
                    }),
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                let unready = Some(format!("container runtime is down: {error}"));
                RuntimeState { version: String::new(), unready }
            }
        };
        let short = *self.pressures.borrow_and_update();
        let before = self.known.as_ref().and_then(|node| node.status.as_ref()?.conditions.clone());
        let addresses = self.addresses();
        let devices = self.devices.borrow().clone();
        let seen = status::Seen {
            addresses: &addresses,
            devices: &devices,
            runtime: &runtime,
            short,
            at: Timestamp::now(),
        };
        status::node_status(&self.name, &self.config, &self.host, &seen, before.as_deref())
    }

    fn node_key(&self) -> Result<ObjectKey, StepError> {
        let name: ObjectName =
            self.name.as_str().parse().map_err(|_| StepError::Nonsense("this node's name"))?;
        Ok(ObjectKey::cluster(Kind::Node, name))
    }

    fn lease_key(&self) -> Result<ObjectKey, StepError> {
        let name: ObjectName =
            self.name.as_str().parse().map_err(|_| StepError::Nonsense("this node's name"))?;
        let namespace: Namespace =
            LEASE_NAMESPACE.parse().map_err(|_| StepError::Nonsense("the lease namespace"))?;
        Ok(ObjectKey::namespaced(Kind::Lease, namespace, name))
    }
}
