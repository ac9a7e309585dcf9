//! CloudHub: accept, admit, one NodeLink per node.
//!
//! Two ports: enrolment (HTTPS) and messages (WebSocket over mutual TLS). It never reads the Kubernetes API for a message:
//! who may touch what is EdgeController's graph, what to send is the node's queue.

pub mod admit;
mod counters;
pub mod enroll;
pub mod in_cluster;
mod listen;
mod node_link;
mod sort;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ke_link::streams::Role;
use ke_link::streams::shared::LinkStreams;
use ke_run::shutdown::Shutdown;
use ke_wire::NodeName;
use tokio::sync::{Semaphore, mpsc};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use self::admit::NodeGraph;
use self::enroll::{Enrolment, NodeLookup};
use self::listen::Upgraded;
use self::node_link::{LinkParts, NodeLink, Violations};
use crate::config::CloudHubConfig;
use crate::device_inbox::{DeviceInbox, FromEdge};
use crate::edge_controller::{FromNode, Graph, Upstream};
use crate::gate::{
    self, Authority, ClientCertificate, ClientCertificates, Holder, ListenError, Pin, Pins, Port, Secrets,
    Told,
};
use crate::node_queue::{NodeQueue, Nodes};
use crate::tunnels::Tunnels;

pub use counters::Counters;

/// Handshakes at once: a whole fleet may come back together, and each costs a quarter of a millisecond of a core.
const PARALLEL_HANDSHAKES: usize = 256;

/// Links are told that cloudcore stops; one that does not take it in this time learns by itself.
const STOPPING_LIMIT: Duration = Duration::from_secs(3);

/// Handles that CloudHub needs of the rest of the process.
pub struct Parts {
    /// CA and tokens.
    pub authority: Arc<Authority>,
    /// Where tokens are put.
    pub secrets: Arc<dyn Secrets>,
    /// Which key a node name belongs to.
    pub pins: Arc<dyn Pins>,
    /// Whether a Node exists.
    pub nodes: Arc<dyn NodeLookup>,
    /// What each node must be told.
    pub queues: Nodes,
    /// Where what nodes say goes.
    pub upstream: Upstream,
    /// Where what nodes say about devices goes.
    pub devices: DeviceInbox,
    /// Byte streams to nodes.
    pub tunnels: Tunnels,
    /// Which objects have to do with which node.
    pub graph: Arc<dyn NodeGraph>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// The module.
pub struct CloudHub {
    config: CloudHubConfig,
    parts: Arc<Parts>,
    messages: Option<Port>,
    enrolment: Option<Port>,
}

/// What every accepted connection needs.
struct Hub {
    config: CloudHubConfig,
    parts: Arc<Parts>,
    /// The key that each connected node has shown; it holds the name until the Node, and with it the pin, exists.
    shown: Mutex<HashMap<NodeName, Pin>>,
    told: Arc<Told>,
    shutdown: Shutdown,
    /// Closed once the last link is gone.
    _alive: mpsc::Sender<()>,
}

impl CloudHub {
    /// Takes both ports now, so that one in use is found before anything else starts.
    pub fn bind(config: CloudHubConfig, parts: Parts) -> Result<Self, ListenError> {
        let bind =
            |key, address, port, certificates| Port::bind(key, address, port, &parts.authority, certificates);
        let (websocket, https) = (&config.websocket, &config.https);
        let messages = || {
            let port = websocket.port.to_u16();
            bind("modules.cloudHub.websocket.port", websocket.address, port, ClientCertificates::Required)
        };
        let enrolment = || {
            let port = https.port.to_u16();
            bind("modules.cloudHub.https.port", https.address, port, ClientCertificates::Welcome)
        };
        let messages = websocket.enable.then(messages).transpose()?;
        let enrolment = https.enable.then(enrolment).transpose()?;
        Ok(Self { config, parts: Arc::new(parts), messages, enrolment })
    }

    /// Where messages are taken.
    pub fn messages_address(&self) -> Option<SocketAddr> {
        self.messages.as_ref()?.address().ok()
    }

    /// Where machines enrol.
    pub fn enrolment_address(&self) -> Option<SocketAddr> {
        self.enrolment.as_ref()?.address().ok()
    }

    /// Serves until shutdown.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ListenError> {
        let told = Arc::<Told>::default();
        let enrolment = Arc::new(Enrolment {
            told: Arc::clone(&told),
            authority: Arc::clone(&self.parts.authority),
            secrets: Arc::clone(&self.parts.secrets),
            pins: Arc::clone(&self.parts.pins),
            nodes: Arc::clone(&self.parts.nodes),
        });
        let (authority, secrets) = (Arc::clone(&self.parts.authority), Arc::clone(&self.parts.secrets));
        let (alive, mut all_gone) = mpsc::channel(1);
        let hub = Arc::new(Hub {
            config: self.config,
            parts: self.parts,
            shown: Mutex::default(),
            told,
            shutdown: shutdown.clone(),
            _alive: alive,
        });
        let enrolling = async {
            if let Some(port) = self.enrolment {
                enrolment.run(port, shutdown.clone()).await;
            }
        };
        let accepting = async {
            if let Some(port) = self.messages {
                hub.accept(port).await;
            }
        };
        tokio::join!(enrolling, accepting, authority.refresh_tokens(&*secrets, &shutdown));
        // Every link holds the hub.
        let _ = tokio::time::timeout(STOPPING_LIMIT, all_gone.recv()).await;
        Ok(())
    }
}

impl Hub {
    async fn accept(self: Arc<Self>, port: Port) {
        let room = Arc::new(Semaphore::new(PARALLEL_HANDSHAKES));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = port.accept() => accepted,
                () = self.shutdown.wait() => return,
            };
            let Some((stream, from)) = accepted else { continue };
            let (hub, tls) = (Arc::clone(&self), port.tls());
            tokio::spawn(async move {
                let admitted = hub.admit(tls, stream, from).await;
                drop(permit);
                match admitted {
                    Ok((upgraded, node, certificate)) => {
                        if let Some((link, queue)) = hub.open(upgraded, &node, certificate, from).await {
                            // A task of its own: the state of all this must not live as long as the link.
                            drop(tokio::spawn(hub.serve(link, queue, node)));
                        }
                    }
                    Err(why) => tracing::warn!(%from, why, "a connection was refused"),
                }
            });
        }
    }

    async fn admit(
        &self,
        tls: tokio_rustls::TlsAcceptor,
        stream: tokio::net::TcpStream,
        from: SocketAddr,
    ) -> Result<(Upgraded, NodeName, ClientCertificate), String> {
        let stream = gate::handshake(&tls, stream).await?;
        let certificate = gate::client_certificate(&stream).ok_or("the certificate cannot be read")?;
        let mut upgraded = listen::upgrade(stream).await?;
        let judged = self.judge(&upgraded.node, &certificate, from).await;
        match judged {
            Ok(node) => Ok((upgraded, node, certificate)),
            Err(why) => {
                listen::hang_up(&mut upgraded.conn, CloseCode::Policy, &why).await;
                Err(why)
            }
        }
    }

    async fn judge(
        &self,
        node: &str,
        certificate: &ClientCertificate,
        from: SocketAddr,
    ) -> Result<NodeName, String> {
        let node: NodeName = node.parse().map_err(|error| format!("the header node_id: {error}"))?;
        if let Err(why) = admit::may_connect(certificate, &node) {
            if self.violations() == Violations::Refused {
                return Err(why);
            }
            tracing::warn!(%node, %from, why, "admitted all the same: modules.cloudHub.authorization is off or in debug");
        }
        // A node that comes back before its old link is known to be dead takes no room.
        let queues = &self.parts.queues;
        if !queues.is_connected(&node) && queues.n_connected() >= self.config.node_limit.to_usize() {
            return Err(format!(
                "there are {} nodes already (modules.cloudHub.nodeLimit)",
                self.config.node_limit
            ));
        }
        let holder = match self.parts.pins.get(&node).await? {
            // Before it is registered, or noted there.
            Holder::Nobody | Holder::Edge => match self.shown().get(&node) {
                Some(pin) => Holder::Pinned(pin.clone()),
                None => Holder::Nobody,
            },
            holder => holder,
        };
        if let Err(why) = gate::judge(&node, &holder, &certificate.fingerprint, from.ip()) {
            if self.told.is_due(&node, Instant::now()) {
                self.parts.pins.tell_refused(&node, &why).await;
            }
            return Err(why);
        }
        Ok(node)
    }

    fn violations(&self) -> Violations {
        let authorization = &self.config.authorization;
        if authorization.enable && !authorization.debug { Violations::Refused } else { Violations::Logged }
    }

    fn shown(&self) -> MutexGuard<'_, HashMap<NodeName, Pin>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the node's link, which is its current one from now on.
    async fn open(
        &self,
        Upgraded { mut conn, has_streams, .. }: Upgraded,
        node: &NodeName,
        certificate: ClientCertificate,
        from: SocketAddr,
    ) -> Option<(Box<NodeLink>, Arc<NodeQueue>)> {
        let queue = match self.parts.queues.attach(node).await {
            Ok(queue) => queue,
            Err(error) => {
                tracing::error!(%node, %error, "a node cannot be served");
                listen::hang_up(&mut conn, CloseCode::Again, "what the node has cannot be read now").await;
                return None;
            }
        };
        self.shown().insert(node.clone(), Pin::new(from.ip(), certificate.fingerprint.clone()));
        self.parts.counters.connected.inc();
        tracing::info!(%node, %from, "connected");
        let note_key: Arc<dyn Fn() + Send + Sync> = {
            let (pins, node) = (Arc::clone(&self.parts.pins), node.clone());
            Arc::new(move || {
                let (pins, node, key) = (Arc::clone(&pins), node.clone(), certificate.fingerprint.clone());
                tokio::spawn(async move {
                    // A Node that cannot be read now is noted at the next connection.
                    if let Ok(holder) = pins.get(&node).await
                        && let Ok(Some(pin)) = gate::judge(&node, &holder, &key, from.ip())
                        && let Err(error) = pins.set(&node, &pin).await
                    {
                        tracing::warn!(%node, error, "note the node's key");
                    }
                });
            })
        };
        note_key();
        let streams = has_streams.then(|| LinkStreams::new(Role::Cloud));
        let attachment = self.parts.tunnels.attach(node, queue.number(), streams.as_ref());
        let link = NodeLink::new(
            conn,
            LinkParts {
                node: node.clone(),
                queue: Arc::clone(&queue),
                upstream: self.parts.upstream.clone(),
                devices: self.parts.devices.clone(),
                graph: Arc::clone(&self.parts.graph),
                counters: Arc::clone(&self.parts.counters),
                keepalive_limit: self.config.keepalive_interval.secs(),
                write_limit: self.config.write_timeout.secs(),
                violations: self.violations(),
                streams,
                _attachment: attachment,
                registered: note_key,
            },
        );
        Some((link, queue))
    }

    async fn serve(self: Arc<Self>, link: Box<NodeLink>, queue: Arc<NodeQueue>, node: NodeName) {
        let why = link.run(&self.shutdown).await;
        self.parts.counters.connected.dec();
        if self.parts.queues.detach(&queue) {
            self.shown().remove(&node);
        }
        // Also of a link that was replaced: EdgeController counts a node's links.
        Box::pin(self.parts.upstream.tell(FromNode::Disconnected(node.clone()))).await;
        Box::pin(self.parts.devices.tell(FromEdge::Disconnected(node.clone()))).await;
        tracing::info!(%node, why, "disconnected");
    }
}

impl NodeGraph for Graph {
    fn may_read(&self, node: &NodeName, key: &ke_wire::ObjectKey) -> bool {
        Graph::may_read(self, node, key)
    }

    fn is_on(&self, node: &NodeName, namespace: &ke_wire::Namespace, pod: &ke_wire::ObjectName) -> bool {
        self.pod_is_on(node, namespace, pod).is_some()
    }

    fn is_bound(&self, namespace: &ke_wire::Namespace, pod: &ke_wire::ObjectName) -> bool {
        self.pod_is_bound(namespace, pod)
    }

    fn uses_account(
        &self,
        node: &NodeName,
        namespace: &ke_wire::Namespace,
        account: &ke_wire::ObjectName,
    ) -> bool {
        Graph::uses_account(self, node, namespace, account)
    }

    fn has_pods_of(&self, node: &NodeName, namespace: &ke_wire::Namespace) -> bool {
        Graph::has_pods_of(self, node, namespace)
    }
}

#[cfg(test)]
mod tests;
