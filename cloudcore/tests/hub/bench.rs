//! A CloudHub on loopback with real TLS and everything else in memory, and machines that talk to it.
//!
//! No cluster, no root. What EdgeController would do is done by the test: it reads `inbox` and tells `orders`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloudcore::cloud_hub::admit::NodeGraph;
use cloudcore::cloud_hub::enroll::NodeLookup;
use cloudcore::cloud_hub::{CloudHub, Counters, Parts};
use cloudcore::config::CloudHubConfig;
use cloudcore::device_inbox::DeviceInbox;
use cloudcore::edge_controller::{FromNode, Upstream};
use cloudcore::gate::{Authority, Holder, Pin, Pins, SecretData, Secrets};
use cloudcore::node_queue::{MemoryLedger, NodeQueueKeeper, NodeQueues};
use cloudcore::tunnels::{self, Tunnels};
use futures_util::{SinkExt, StreamExt};
use ke_run::config::Within;
use ke_run::shutdown::{Shutdown, Trigger};
use ke_run::telemetry::Metrics;
use ke_wire::kubeedge::{decode_down, encode_up};
use ke_wire::{Answer, Down, MessageId, Namespace, NodeName, ObjectKey, ObjectName, Question, Up};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::http::Request;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};

/// Longer than anything here takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// As long as a Secret of this name is there, none can be read.
pub(crate) const AWAY: &str = "api-server-is-away";

#[derive(Default)]
pub(crate) struct MemorySecrets(pub(crate) Mutex<BTreeMap<String, SecretData>>);

#[async_trait]
impl Secrets for MemorySecrets {
    async fn get(&self, name: &str) -> Result<Option<SecretData>, String> {
        let secrets = self.0.lock().unwrap();
        if secrets.contains_key(AWAY) { Err(AWAY.into()) } else { Ok(secrets.get(name).cloned()) }
    }
    async fn create(&self, name: &str, data: SecretData) -> Result<bool, String> {
        Ok(self.0.lock().unwrap().insert(name.to_owned(), data).is_none())
    }
    async fn put(&self, name: &str, data: SecretData) -> Result<(), String> {
        self.0.lock().unwrap().insert(name.to_owned(), data);
        Ok(())
    }
}

/// Nodes and their keys as the API server would keep them: a pin needs its Node.
#[derive(Default)]
pub(crate) struct MemoryNodes {
    pub(crate) known: Mutex<HashSet<String>>,
    pub(crate) pins: Mutex<HashMap<NodeName, Pin>>,
    pub(crate) refusals: Mutex<Vec<String>>,
}

#[async_trait]
impl Pins for MemoryNodes {
    async fn get(&self, node: &NodeName) -> Result<Holder, String> {
        let pin = self.pins.lock().unwrap().get(node).cloned();
        let is_there = self.known.lock().unwrap().contains(node.as_str());
        Ok(pin.map_or(if is_there { Holder::Edge } else { Holder::Nobody }, Holder::Pinned))
    }
    async fn set(&self, node: &NodeName, pin: &Pin) -> Result<(), String> {
        if self.known.lock().unwrap().contains(node.as_str()) {
            self.pins.lock().unwrap().insert(node.clone(), pin.clone());
        }
        Ok(())
    }
    async fn tell_refused(&self, _: &NodeName, message: &str) {
        self.refusals.lock().unwrap().push(message.to_owned());
    }
}

#[async_trait]
impl NodeLookup for MemoryNodes {
    async fn exists(&self, node: &NodeName) -> Result<bool, String> {
        Ok(self.known.lock().unwrap().contains(node.as_str()))
    }
}

/// `edge-a` reads Secret `default/mine`; nobody anything else.
struct OneSecret;

impl NodeGraph for OneSecret {
    fn may_read(&self, node: &NodeName, key: &ObjectKey) -> bool {
        node.as_str() == "edge-a" && key.to_string() == "default/secret/mine"
    }
    fn is_on(&self, _: &NodeName, _: &Namespace, _: &ObjectName) -> bool {
        false
    }
    fn is_bound(&self, _: &Namespace, _: &ObjectName) -> bool {
        true
    }
    fn uses_account(&self, _: &NodeName, _: &Namespace, _: &ObjectName) -> bool {
        false
    }
    fn has_pods_of(&self, _: &NodeName, _: &Namespace) -> bool {
        false
    }
}

pub(crate) struct Bench {
    pub(crate) secrets: Arc<MemorySecrets>,
    pub(crate) nodes: Arc<MemoryNodes>,
    pub(crate) ledger: Arc<MemoryLedger>,
    pub(crate) orders: NodeQueues,
    pub(crate) inbox: mpsc::Receiver<FromNode>,
    messages: SocketAddr,
    enrolment: SocketAddr,
    ca: CertificateDer<'static>,
    metrics: Metrics,
    stop: Trigger,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// Key, name and certificate of a machine.
pub(crate) struct Machine {
    key: KeyPair,
    certificate: Vec<u8>,
}

pub(crate) type Link = WebSocketStream<TlsStream<TcpStream>>;

impl Bench {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut CloudHubConfig)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut config =
            CloudHubConfig { advertise_address: vec!["127.0.0.1".into()], ..CloudHubConfig::default() };
        for file in [&mut config.tls_ca_file, &mut config.tls_ca_key_file] {
            *file = "/no/such/file".into();
        }
        for file in [&mut config.tls_cert_file, &mut config.tls_private_key_file] {
            *file = "/no/such/file".into();
        }
        let loopback = std::net::Ipv4Addr::LOCALHOST.into();
        (config.https.address, config.https.port) = (loopback, Within::of::<0>());
        (config.websocket.address, config.websocket.port) = (loopback, Within::of::<0>());
        change(&mut config);

        let (secrets, nodes) = (Arc::<MemorySecrets>::default(), Arc::<MemoryNodes>::default());
        let authority = Arc::new(Authority::open(&config, &*secrets).await.unwrap());
        let ledger = Arc::<MemoryLedger>::default();
        let (orders, queues, keeper) = NodeQueueKeeper::new(Arc::clone(&ledger) as _);
        let (upstream, inbox) = Upstream::channel();
        let mut metrics = Metrics::new();
        let parts = Parts {
            authority: Arc::clone(&authority),
            secrets: Arc::clone(&secrets) as _,
            pins: Arc::clone(&nodes) as _,
            nodes: Arc::clone(&nodes) as _,
            queues,
            upstream,
            devices: DeviceInbox::channel().0,
            tunnels: Tunnels::new(tunnels::counters(&mut metrics)),
            graph: Arc::new(OneSecret),
            counters: Arc::new(Counters::new(&mut metrics)),
        };
        let hub = CloudHub::bind(config, parts).unwrap();
        let (messages, enrolment) = (hub.messages_address().unwrap(), hub.enrolment_address().unwrap());
        let (stop, shutdown) = Shutdown::new();
        tokio::spawn(keeper.run(shutdown.clone()));
        tokio::spawn(hub.run(shutdown));
        let ca = authority.ca().clone();
        Self { secrets, nodes, ledger, orders, inbox, messages, enrolment, ca, metrics, stop }
    }

    /// What machines send of the token in the Secret.
    pub(crate) fn jwt(&self) -> String {
        let token = self.secrets.0.lock().unwrap()["tokensecret"]["tokendata"].clone();
        let token: ke_wire::enrolment::JoinToken = String::from_utf8(token).unwrap().parse().unwrap();
        token.jwt
    }

    /// The key that signs tokens.
    pub(crate) fn ca_key(&self) -> Vec<u8> {
        self.secrets.0.lock().unwrap()["casecret"]["cakeydata"].clone()
    }

    /// Status and body of a GET on the enrolment port.
    pub(crate) async fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        shows: Option<&Machine>,
    ) -> (u16, Vec<u8>) {
        let mut stream = self.tls(self.enrolment, shows).await.unwrap();
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nHost: cloud\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        // A server that refuses early reads no further.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an HTTP answer");
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), answer[end + 4..].to_vec())
    }

    pub(crate) async fn enrol(&self, node: &str) -> Machine {
        let (key, request) = csr(node);
        let authorization = format!("Bearer {}", self.jwt());
        let headers = [("Nodename", node), ("Authorization", authorization.as_str())];
        let (status, certificate) = self.get("/edge.crt", &headers, &request, None).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&certificate));
        Machine { key, certificate }
    }

    /// Connects with this machine's certificate and claims this name. Errors: no WebSocket came to be.
    pub(crate) async fn connect(&self, machine: &Machine, node: &str) -> Result<Link, String> {
        let stream = self.tls(self.messages, Some(machine)).await?;
        let request =
            Request::get(format!("wss://{}/e632aba927ea4ac2b575ec1603d56f10/{node}/events", self.messages))
                .header("Host", "cloud")
                .header("Upgrade", "websocket")
                .header("Connection", "Upgrade")
                .header("Sec-WebSocket-Version", "13")
                .header("Sec-WebSocket-Key", generate_key())
                .header("Node_id", node)
                .header("ConnectionUse", "msg")
                .body(())
                .unwrap();
        let shaken = tokio_tungstenite::client_async(request, stream).await;
        shaken.map(|(link, _)| link).map_err(|error| error.to_string())
    }

    /// Enrols, connects and waits until EdgeController was told.
    pub(crate) async fn join(&mut self, node: &str) -> (Machine, Link) {
        let machine = self.enrol(node).await;
        let link = self.connect(&machine, node).await.unwrap();
        assert_eq!(self.news().await, format!("connected {node}"));
        (machine, link)
    }

    /// What EdgeController is told next.
    pub(crate) async fn news(&mut self) -> String {
        match self.hear().await {
            FromNode::Connected(node) => format!("connected {node}"),
            FromNode::Disconnected(node) => format!("disconnected {node}"),
            FromNode::Ask(node, question, _) => format!("{node} asks {question:?}"),
            FromNode::Event(node, key, change, _) => format!("{node} tells {key} {change:?}"),
        }
    }

    pub(crate) async fn hear(&mut self) -> FromNode {
        tokio::time::timeout(PATIENCE, self.inbox.recv()).await.expect("news in time").expect("the hub runs")
    }

    /// Waits until the node's key is noted.
    pub(crate) async fn wait_pinned(&self, node: &str) {
        let node: NodeName = node.parse().unwrap();
        let noted = async {
            while !self.nodes.pins.lock().unwrap().contains_key(&node) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, noted).await.expect("the key to be noted");
    }

    /// The node creates its Node, and the API server takes it.
    pub(crate) async fn register(&mut self, link: &mut Link, node: &str) {
        let key = format!("null/node/{node}").parse().unwrap();
        let question = Question::Create { key, body: "{}".into() };
        say(link, &Up::Ask { id: MessageId::fresh(), question }).await;
        let FromNode::Ask(_, _, reply) = self.hear().await else { panic!("no question") };
        reply.send((Answer::Stored("{}".into()), None)).unwrap();
        receive(link).await;
    }

    /// Value of one metric.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        let text = self.metrics.encode().unwrap();
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next())
            .unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    async fn tls(
        &self,
        address: SocketAddr,
        shows: Option<&Machine>,
    ) -> Result<TlsStream<TcpStream>, String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.clone()).unwrap();
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let config = match shows {
            Some(Machine { key, certificate }) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder.with_client_auth_cert(vec![certificate.clone().into()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let name = ServerName::from(address.ip());
        let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        connecting.map_err(|error| error.to_string())
    }
}

impl Machine {
    /// Key and certificate of a CA that is not cloudcore's.
    pub(crate) fn stranger(node: &str) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "KubeEdge");
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = KeyPair::generate().unwrap();
        let mut params = named(node);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer).unwrap().der().to_vec();
        Self { key, certificate }
    }
}

fn named(node: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
    params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
    params
}

/// A key and its request for this node's certificate.
pub(crate) fn csr(node: &str) -> (KeyPair, Vec<u8>) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let request = named(node).serialize_request(&key).unwrap().der().to_vec();
    (key, request)
}

/// The part of a join token that machines send, with this end (Unix seconds), signed with this key.
pub(crate) fn jwt(key: &[u8], expires: u64) -> String {
    let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{expires}}}")));
    sign(key, &signed)
}

/// Header and claims with a good signature.
pub(crate) fn sign(key: &[u8], signed: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes())))
}

pub(crate) async fn say(link: &mut Link, up: &Up) {
    send(link, String::from_utf8(encode_up(up, 0)).unwrap()).await;
}

pub(crate) async fn send(link: &mut Link, text: String) {
    link.send(Message::text(text)).await.unwrap();
}

/// The next message of the cloud.
pub(crate) async fn receive(link: &mut Link) -> Down {
    loop {
        match tokio::time::timeout(PATIENCE, link.next()).await.expect("a message in time") {
            Some(Ok(Message::Text(text))) => return decode_down(text.as_bytes(), 1 << 20).unwrap(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => panic!("the link ended: {other:?}"),
        }
    }
}

/// Waits for the end of the link; gives the reason in the close frame.
pub(crate) async fn closed(link: &mut Link) -> String {
    loop {
        match tokio::time::timeout(PATIENCE, link.next()).await.expect("an end in time") {
            Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                return format!("{}: {reason}", u16::from(code));
            }
            Some(Ok(Message::Close(None))) | None => return "no reason".into(),
            Some(Ok(_)) => {}
            Some(Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed)) => {
                return "no reason".into();
            }
            Some(Err(error)) => return format!("broken: {error}"),
        }
    }
}
