//! CloudHub: accept, admit, one NodeLink per node.
//!
//! Two ports: enrolment (HTTPS) and messages (WebSocket over mutual TLS). It never reads the Kubernetes API for a message:
//! who may touch what is EdgeController's graph, what to send is the node's queue.

pub mod admit;
pub mod authority;
pub mod enroll;
pub mod in_cluster;
mod listen;
mod node_link;
pub mod pins;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ke_run::shutdown::Shutdown;
use ke_run::telemetry::Metrics;
use ke_wire::NodeName;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Semaphore;

use self::admit::NodeGraph;
use self::authority::{Authority, ClientCertificate, Secrets};
use self::enroll::{Enrolment, NodeLookup};
use self::listen::{ClientCertificates, Port};
use self::node_link::{LinkParts, NodeLink};
use self::pins::Pins;
use crate::config::CloudHubConfig;
use crate::edge_controller::{FromNode, Graph, Upstream};
use crate::node_queue::Nodes;

pub use listen::ListenError;

/// Handshakes at once: a whole fleet may come back together, and each costs a quarter of a millisecond of a core.
const PARALLEL_HANDSHAKES: usize = 256;

/// What is counted.
pub struct Counters {
    pub(crate) connected: Gauge,
    pub(crate) delivered: Counter,
    pub(crate) lost: Counter,
    pub(crate) refused: Counter,
    pub(crate) bad_frames: Counter,
}

impl Counters {
    /// Registers them.
    pub fn new(metrics: &mut Metrics) -> Self {
        Self {
            connected: metrics.gauge("cloudcore_connected_nodes", "Nodes with a link to this cloudcore"),
            delivered: metrics.counter("cloudcore_delivered_objects", "Objects that a node has confirmed"),
            lost: metrics.counter("cloudcore_lost_messages", "Messages that a node did not confirm in time; they are sent again"),
            refused: metrics.counter("cloudcore_refused_messages", "Messages in which a node touched what is not its own"),
            bad_frames: metrics.counter("cloudcore_bad_frames", "Frames that say nothing cloudcore understands"),
        }
    }
}

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
    /// Which objects have to do with which node.
    pub graph: Arc<dyn NodeGraph>,
    /// What is counted.
    pub counters: Arc<Counters>,
}

/// The module.
pub struct CloudHub {
    config: CloudHubConfig,
    parts: Arc<Parts>,
    messages: Port,
    enrolment: Port,
}

/// What every accepted connection needs.
struct Hub {
    config: CloudHubConfig,
    parts: Arc<Parts>,
    shutdown: Shutdown,
}

impl CloudHub {
    /// Takes both ports now, so that one in use is found before anything else starts.
    pub fn bind(config: CloudHubConfig, parts: Parts) -> Result<Self, ListenError> {
        let bind = |key, address, port, certificates| Port::bind(key, address, port, &parts.authority, certificates);
        let (websocket, https) = (&config.websocket, &config.https);
        let messages = bind(
            "modules.cloudHub.websocket.port",
            websocket.address,
            websocket.port.to_u16(),
            ClientCertificates::Required,
        )?;
        let enrolment = bind(
            "modules.cloudHub.https.port",
            https.address,
            https.port.to_u16(),
            ClientCertificates::Welcome,
        )?;
        Ok(Self { config, parts: Arc::new(parts), messages, enrolment })
    }

    /// Where messages are taken.
    pub fn messages_address(&self) -> std::io::Result<SocketAddr> {
        self.messages.address()
    }

    /// Where machines enrol.
    pub fn enrolment_address(&self) -> std::io::Result<SocketAddr> {
        self.enrolment.address()
    }

    /// Serves until shutdown.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), ListenError> {
        let enrolment = Arc::new(Enrolment {
            authority: Arc::clone(&self.parts.authority),
            pins: Arc::clone(&self.parts.pins),
            nodes: Arc::clone(&self.parts.nodes),
        });
        let (authority, secrets) = (Arc::clone(&self.parts.authority), Arc::clone(&self.parts.secrets));
        let hub = Arc::new(Hub { config: self.config, parts: self.parts, shutdown: shutdown.clone() });
        tokio::join!(
            enrolment.run(self.enrolment, shutdown.clone()),
            hub.accept(self.messages),
            authority.refresh_tokens(&*secrets, &shutdown),
        );
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
                    // A task of its own: the handshake's state must not live as long as the link.
                    Ok((conn, node, certificate)) => drop(tokio::spawn(hub.serve(conn, node, certificate, from))),
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
    ) -> Result<(listen::Conn, NodeName, ClientCertificate), String> {
        let stream = listen::handshake(&tls, stream).await?;
        let certificate = listen::client_certificate(&stream).ok_or("the certificate cannot be read")?;
        let (mut conn, node) = listen::upgrade(stream).await?;
        let judged = self.judge(&node, &certificate, from).await;
        match judged {
            Ok(node) => Ok((conn, node, certificate)),
            Err(why) => {
                let reason: String = why.chars().filter(char::is_ascii).take(120).collect();
                let frame = tokio_tungstenite::tungstenite::protocol::CloseFrame {
                    code: tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode::Policy,
                    reason: reason.into(),
                };
                let _ = tokio::time::timeout(Duration::from_secs(1), conn.close(Some(frame))).await;
                Err(why)
            }
        }
    }

    async fn judge(&self, node: &str, certificate: &ClientCertificate, from: SocketAddr) -> Result<NodeName, String> {
        let node: NodeName = node.parse().map_err(|error| format!("the header node_id: {error}"))?;
        let authorization = &self.config.authorization;
        if let Err(why) = admit::may_connect(certificate, &node) {
            if authorization.enable && !authorization.debug {
                return Err(why);
            }
            tracing::warn!(%node, %from, why, "admitted all the same: modules.cloudHub.authorization is off or in debug");
        }
        // A node that comes back before the death of its old link was noticed is no further node. Handshakes under way are
        // not counted: the limit guards memory and may be passed by a few.
        let queues = &self.parts.queues;
        if queues.n_connected() >= self.config.node_limit.to_usize() && !queues.is_connected(&node) {
            return Err(format!("there are {} nodes already (modules.cloudHub.nodeLimit)", self.config.node_limit));
        }
        let pin = self.parts.pins.get(&node).await?;
        if let Err(why) = pins::judge(&node, pin.as_ref(), &certificate.fingerprint, from.ip()) {
            self.parts.pins.tell_refused(&node, &why).await;
            return Err(why);
        }
        Ok(node)
    }

    async fn serve(self: Arc<Self>, conn: listen::Conn, node: NodeName, certificate: ClientCertificate, from: SocketAddr) {
        let queue = match self.parts.queues.attach(&node).await {
            Ok(queue) => queue,
            Err(error) => {
                tracing::error!(%node, %error, "a node cannot be served");
                return;
            }
        };
        self.parts.counters.connected.inc();
        tracing::info!(%node, %from, "connected");
        let note_key: Arc<dyn Fn() + Send + Sync> = {
            let (pins, node) = (Arc::clone(&self.parts.pins), node.clone());
            Arc::new(move || {
                let (pins, node, key) = (Arc::clone(&pins), node.clone(), certificate.fingerprint.clone());
                tokio::spawn(async move {
                    let known = pins.get(&node).await.ok().flatten();
                    if let Ok(Some(pin)) = pins::judge(&node, known.as_ref(), &key, from.ip())
                        && let Err(error) = pins.set(&node, &pin).await
                    {
                        tracing::warn!(%node, error, "note the node's key");
                    }
                });
            })
        };
        note_key();
        let link = NodeLink::new(
            conn,
            LinkParts {
                node: node.clone(),
                queue: Arc::clone(&queue),
                upstream: self.parts.upstream.clone(),
                graph: Arc::clone(&self.parts.graph),
                counters: Arc::clone(&self.parts.counters),
                keepalive_limit: self.config.keepalive_interval.secs(),
                write_limit: self.config.write_timeout.secs(),
                registered: note_key,
            },
        );
        let why = link.run(&self.shutdown).await;
        self.parts.counters.connected.dec();
        self.parts.queues.detach(&queue);
        // EdgeController counts links: each `Connected` has its `Disconnected`.
        self.parts.upstream.tell(FromNode::Disconnected(node.clone())).await;
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

    fn uses_account(&self, node: &NodeName, namespace: &ke_wire::Namespace, account: &ke_wire::ObjectName) -> bool {
        Graph::uses_account(self, node, namespace, account)
    }
}
