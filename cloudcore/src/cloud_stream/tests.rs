//! CloudStream on loopback with real TLS, between scripted neighbours: what the API server and strangers get to hear, and what
//! reaches a node.

mod admission;
mod streams;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ke_wire::{Namespace, NodeName, ObjectName};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::Identity;
use super::review::Right;
use super::*;
use crate::gate::testing::{MemorySecrets, config as hub_config};
use crate::ranges::PortRange;

/// Nothing on loopback takes this long.
const LIMIT: Duration = Duration::from_secs(30);
/// For what must not come in time, and long enough for what must, on a busy machine.
const SHORT: Duration = Duration::from_secs(4);

async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"))
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

/// The pod `web` is on edge-1, `db` on edge-2.
struct TwoPods;

impl Pods for TwoPods {
    fn node_of(&self, namespace: &Namespace, pod: &ObjectName) -> Option<NodeName> {
        let node = match (namespace.as_str(), pod.as_str()) {
            ("shop", "web") => "edge-1",
            ("shop", "db") => "edge-2",
            _ => return None,
        };
        Some(name(node))
    }
}

/// `metrics` may read numbers of all nodes, `one` everything of edge-1; the token `good` is metrics'.
#[derive(Clone, Default)]
struct Script {
    asked: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Reviews for Script {
    async fn whose(&self, token: &str) -> Result<Option<Identity>, String> {
        self.asked.lock().unwrap().push(format!("token {token}"));
        match token {
            "good" => Ok(Some(Identity { user: "metrics".to_owned(), ..Identity::default() })),
            "unclear" => Err("no answer".to_owned()),
            _ => Ok(None),
        }
    }
    async fn may(&self, who: &Identity, right: &Right) -> Result<bool, String> {
        self.asked
            .lock()
            .unwrap()
            .push(format!("{} {} {} {}", who.user, right.verb, right.subresource, right.node));
        match &*who.user {
            "metrics" => Ok(matches!(right.subresource, "metrics" | "stats") && right.verb == "get"),
            "one" => Ok(right.subresource == "proxy" && right.node == "edge-1"),
            "unclear" => Err("no answer".to_owned()),
            _ => Ok(false),
        }
    }
}

/// Each stream that is opened to a node comes out here; edge-9 is away.
struct Nodes(mpsc::Sender<(NodeName, DuplexStream)>);

#[async_trait]
impl Dial for Nodes {
    async fn dial(&self, node: &NodeName) -> Result<Box<dyn ByteStream>, DialError> {
        match node.as_str() {
            "edge-8" => std::future::pending().await,
            "edge-9" => Err(DialError("it is not connected to cloudcore".to_owned())),
            _ => {
                let (ours, theirs) = duplex(16 << 10);
                self.0
                    .send((node.clone(), theirs))
                    .await
                    .map_err(|_| DialError("the test ends".to_owned()))?;
                Ok(Box::new(ours))
            }
        }
    }
}

/// Certificate and key of a client.
type Pair = (CertificateDer<'static>, Vec<u8>);

struct Bench {
    endpoints: KubeletEndpoints,
    shared: u16,
    roots: RootCertStore,
    script: Script,
    dialled: mpsc::Receiver<(NodeName, DuplexStream)>,
    counters: Counters,
    clients: Issuer<'static, KeyPair>,
    strangers: Issuer<'static, KeyPair>,
    _serving: tokio::task::JoinHandle<()>,
}

fn client_ca(of: &str) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, of);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

/// Ports that nobody has at present, and that no other test of this process gets: below those that the system gives out by
/// itself, from where this process begins.
fn free_ports(n_ports: usize) -> Vec<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const SPAN: u32 = 2700;
    let ports = std::iter::repeat_with(|| {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(97));
        30_000 + u16::try_from(turn % SPAN).unwrap()
    });
    ports.filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(n_ports).collect()
}

fn range(ports: &[u16]) -> PortRange {
    ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",").parse().unwrap()
}

async fn bench(node_ports: &[u16]) -> Bench {
    let _ = default_provider().install_default();
    let authority = Authority::open(&hub_config(), &MemorySecrets::default()).await.unwrap();
    let here = IpAddr::from([127, 0, 0, 1]);
    let serving = Arc::<Serving>::default();
    let nowhere =
        CloudStreamConfig { tls_stream_cert_file: "/no/such/file".into(), ..CloudStreamConfig::default() };
    serving.show_own(&nowhere, &authority, Some(here)).unwrap();
    let tls = tls(&serving).unwrap();
    let shared = Port::with_tls("shared", here, 0, tls.clone()).unwrap();
    let shared_port = shared.address().unwrap().port();
    let endpoints = KubeletEndpoints::new(Some(here), range(node_ports), shared_port, here, tls);
    let ((clients, pem), (strangers, _)) = (client_ca("clients"), client_ca("strangers"));
    let trusted = TrustedClients::default();
    assert_eq!(trusted.set(&pem), Ok(1));
    let script = Script::default();
    let (dial, dialled) = mpsc::channel(1024);
    let counters = Counters::default();
    let desk = Arc::new(Desk {
        trusted,
        judge: Judge::new(script.clone()),
        pods: Arc::new(TwoPods) as Arc<dyn Pods>,
        endpoints: endpoints.clone(),
        dial: Arc::new(Nodes(dial)) as Arc<dyn Dial>,
        counters: counters.clone(),
        limits: Limits { head: SHORT, dial: SHORT },
        places: Places::new(counters.open.clone()),
    });
    let mut roots = RootCertStore::empty();
    roots.add(authority.ca().clone()).unwrap();
    let serving = tokio::spawn(accept_all(desk, endpoints.clone(), shared));
    Bench {
        endpoints,
        shared: shared_port,
        roots,
        script,
        dialled,
        counters,
        clients,
        strangers,
        _serving: serving,
    }
}

impl Bench {
    /// The port that this node has got.
    fn node(&self, node: &str) -> u16 {
        let mut object = json!({"metadata": {"name": node}, "status": {}});
        self.endpoints.create(&name(node), &mut object);
        let port = object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap();
        u16::try_from(port).unwrap()
    }

    fn pair(issuer: &Issuer<'static, KeyPair>, user: &str, groups: &[&str]) -> Pair {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, issuer).unwrap();
        (certificate.der().clone(), key.serialize_der())
    }

    /// The API server's own.
    fn master(&self) -> Pair {
        Self::pair(&self.clients, "kube-apiserver-kubelet-client", &["system:masters"])
    }

    async fn connect(&self, port: u16, pair: Option<&Pair>) -> TlsStream<TcpStream> {
        let config = ClientConfig::builder().with_root_certificates(self.roots.clone());
        let config = match pair {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.clone()));
                config.with_client_auth_cert(vec![certificate.clone()], key).unwrap()
            }
        };
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let host = ServerName::from(IpAddr::from([127, 0, 0, 1]));
        soon("a handshake", TlsConnector::from(Arc::new(config)).connect(host, stream)).await.unwrap()
    }

    /// What is answered: by us, or by the node, which answers with its name and the head that came to it.
    async fn ask(&mut self, port: u16, pair: Option<&Pair>, request: &str) -> String {
        let mut stream = self.connect(port, pair).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        tokio::pin!(reading);
        let work = async {
            tokio::select! {
                read = &mut reading => { read.unwrap(); }
                Some((node, mut theirs)) = self.dialled.recv() => {
                    let head = head_at(&mut theirs).await;
                    let told = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{node}: {head}");
                    theirs.write_all(told.as_bytes()).await.unwrap();
                    drop(theirs);
                    reading.await.unwrap();
                }
            }
        };
        soon(request, work).await;
        answer
    }

    async fn check(&mut self, port: u16, pair: Option<&Pair>, request: &str, status: u16, says: &str) {
        let answer = self.ask(port, pair, request).await;
        let is_right = answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(says);
        assert!(is_right, "expected {status} and {says:?} to {request:?}, got {answer:?}");
    }
}

/// What came to a node, to the end of its head.
async fn head_at(node: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("a head at the node", node.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")
}

fn with_token(path: &str, token: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: node\r\nAuthorization: Bearer {token}\r\n\r\n")
}
