//! CloudHub on loopback with real TLS, between scripted neighbours: what edges and strangers get to hear.

mod enrolment;
mod links;
mod streams;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use async_trait::async_trait;
use futures_util::{SinkExt, Stream, StreamExt};
use ke_run::config::Within;
use ke_run::shutdown::Trigger;
use ke_run::telemetry::Metrics;
use ke_wire::{Down, Namespace, ObjectKey, ObjectName, Up, kubeedge};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

use super::*;
use crate::edge_controller::FromNode;
use crate::gate::testing::{MemorySecrets, config, csr};
use crate::node_queue::{Ledger, MemoryLedger, NodeQueueKeeper, NodeQueues};
use crate::tunnels;

/// Nothing on loopback takes this long.
const LIMIT: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

/// Nodes that exist, whose they are, and what was told of them.
#[derive(Default)]
struct Nodes {
    holders: Mutex<BTreeMap<NodeName, Holder>>,
    told: Mutex<Vec<String>>,
}

impl Nodes {
    fn exist(&self, node: &str) {
        self.holders.lock().unwrap().entry(node.parse().unwrap()).or_insert(Holder::Edge);
    }

    /// A kubelet's.
    fn exist_elsewhere(&self, node: &str) {
        self.holders.lock().unwrap().insert(node.parse().unwrap(), Holder::Other);
    }

    fn delete(&self, node: &str) {
        self.holders.lock().unwrap().remove(node);
    }

    fn keys(&self, node: &str) -> BTreeSet<String> {
        match self.holders.lock().unwrap().get(node) {
            Some(Holder::Pinned(pin)) => pin.keys.iter().map(|key| key.0.clone()).collect(),
            _ => BTreeSet::new(),
        }
    }
}

#[async_trait]
impl Pins for Nodes {
    async fn get(&self, node: &NodeName) -> Result<Holder, String> {
        Ok(self.holders.lock().unwrap().get(node).cloned().unwrap_or(Holder::Nobody))
    }
    async fn set(&self, node: &NodeName, pin: &Pin) -> Result<(), String> {
        if let Some(holder) = self.holders.lock().unwrap().get_mut(node) {
            *holder = Holder::Pinned(pin.clone());
        }
        Ok(())
    }
    async fn tell_refused(&self, _: &NodeName, message: &str) {
        self.told.lock().unwrap().push(message.to_owned());
    }
}

#[async_trait]
impl NodeLookup for Nodes {
    async fn exists(&self, node: &NodeName) -> Result<bool, String> {
        Ok(self.holders.lock().unwrap().contains_key(node))
    }
}

/// Every node may read the Secrets that carry its name.
struct OwnSecrets;

impl NodeGraph for OwnSecrets {
    fn may_read(&self, node: &NodeName, key: &ObjectKey) -> bool {
        key.name.as_str() == node.as_str()
    }
    fn is_on(&self, _: &NodeName, _: &Namespace, _: &ObjectName) -> bool {
        false
    }
    fn is_bound(&self, _: &Namespace, _: &ObjectName) -> bool {
        false
    }
    fn uses_account(&self, _: &NodeName, _: &Namespace, _: &ObjectName) -> bool {
        false
    }
    fn has_pods_of(&self, _: &NodeName, _: &Namespace) -> bool {
        false
    }
}

struct Bench {
    authority: Arc<Authority>,
    nodes: Arc<Nodes>,
    ledger: Arc<MemoryLedger>,
    queues: NodeQueues,
    said: mpsc::Receiver<FromNode>,
    tunnels: Tunnels,
    stream_metrics: Metrics,
    counters: Arc<Counters>,
    messages: SocketAddr,
    enrolment: SocketAddr,
    trigger: Trigger,
    ended: tokio::task::JoinHandle<Result<(), ListenError>>,
}

async fn bench(change: impl FnOnce(&mut CloudHubConfig)) -> Bench {
    bench_with(MemorySecrets::default(), change).await
}

async fn bench_with(secrets: MemorySecrets, change: impl FnOnce(&mut CloudHubConfig)) -> Bench {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut config = config();
    config.websocket.port = Within::of::<0>();
    config.https.port = Within::of::<0>();
    change(&mut config);
    let secrets = Arc::new(secrets);
    let authority = Arc::new(Authority::open(&config, &*secrets).await.unwrap());
    let nodes = Arc::new(Nodes::default());
    let ledger = Arc::new(MemoryLedger::default());
    let (queues, node_queues, keeper) = NodeQueueKeeper::new(Arc::clone(&ledger) as Arc<dyn Ledger>);
    let (upstream, said) = Upstream::channel();
    let mut stream_metrics = Metrics::new();
    let tunnels = Tunnels::new(tunnels::counters(&mut stream_metrics));
    let counters = Arc::new(Counters::new(&mut Metrics::new()));
    let parts = Parts {
        authority: Arc::clone(&authority),
        secrets,
        pins: Arc::clone(&nodes) as _,
        nodes: Arc::clone(&nodes) as _,
        queues: node_queues,
        upstream,
        devices: DeviceInbox::channel().0,
        tunnels: tunnels.clone(),
        graph: Arc::new(OwnSecrets),
        counters: Arc::clone(&counters),
    };
    let hub = CloudHub::bind(config, parts).unwrap();
    let port = |address: Option<SocketAddr>| SocketAddr::from(([127, 0, 0, 1], address.unwrap().port()));
    let (messages, enrolment) = (port(hub.messages_address()), port(hub.enrolment_address()));
    let (trigger, stop) = Shutdown::new();
    tokio::spawn(keeper.run(stop.clone()));
    let ended = tokio::spawn(hub.run(stop));
    Bench {
        authority,
        nodes,
        ledger,
        queues,
        said,
        tunnels,
        stream_metrics,
        counters,
        messages,
        enrolment,
        trigger,
        ended,
    }
}

/// A machine's key and certificate.
struct Identity {
    certificate: Vec<u8>,
    key: Vec<u8>,
    fingerprint: String,
}

impl Identity {
    fn signed_by(authority: &Authority, node: &str) -> Self {
        let (key, request) = csr(node);
        let signed = authority.sign(&node.parse().unwrap(), &request).unwrap();
        Self { certificate: signed.certificate, key: key.serialize_der(), fingerprint: signed.fingerprint.0 }
    }
}

/// TLS as a machine does it: this CA and, if it has one, its certificate.
async fn tls(
    to: SocketAddr,
    authority: &Authority,
    identity: Option<&Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    tls_over(TcpStream::connect(to).await?, to, authority, identity).await
}

async fn tls_over(
    stream: TcpStream,
    to: SocketAddr,
    authority: &Authority,
    identity: Option<&Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.ca().clone()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::Pkcs8(identity.key.clone().into());
            config
                .with_client_auth_cert(vec![CertificateDer::from(identity.certificate.clone())], key)
                .unwrap()
        }
    };
    TlsConnector::from(Arc::new(config)).connect(ServerName::from(to.ip()), stream).await
}

/// A connected machine.
struct Edge(WebSocketStream<TlsStream<TcpStream>>);

async fn dial(bench: &Bench, identity: &Identity, node: &str) -> Result<Edge, tungstenite::Error> {
    dial_with(bench.messages, &bench.authority, identity, &[("node_id", node), ("ConnectionUse", "msg")])
        .await
}

async fn dial_with(
    to: SocketAddr,
    authority: &Authority,
    identity: &Identity,
    headers: &[(&'static str, &str)],
) -> Result<Edge, tungstenite::Error> {
    let stream = tls(to, authority, Some(identity)).await?;
    let mut request =
        format!("wss://{to}/e632aba927ea4ac2b575ec1603d56f10/any/events").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let (socket, _) = soon("handshake", tokio_tungstenite::client_async(request, stream)).await?;
    Ok(Edge(socket))
}

impl Edge {
    async fn say(&mut self, message: &Up) {
        let frame = String::from_utf8(kubeedge::encode_up(message, 0)).unwrap();
        self.0.send(Message::text(frame)).await.unwrap();
    }

    async fn hear(&mut self) -> Down {
        match soon("a message", self.0.next()).await {
            Some(Ok(Message::Text(text))) => kubeedge::decode_down(text.as_bytes(), 1 << 20).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    async fn farewell(self) -> String {
        farewell(self.0).await
    }
}

/// Why cloudcore ended the link.
async fn farewell(mut link: impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin) -> String {
    match soon("the end", link.next()).await {
        Some(Ok(Message::Close(Some(frame)))) => format!("{} {}", u16::from(frame.code), frame.reason),
        other => panic!("{other:?}"),
    }
}
