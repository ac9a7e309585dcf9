//! EventBus on loopback with a client that is not ours (rumqttc), kills included.

use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use ke_mqtt::{ConnectCode, PACKET_LIMIT, Packet, decode, encode};
use ke_run::config::Within;
use ke_run::shutdown::Trigger;
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, PublishOptions, QoS};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;
use crate::db::Synchronous;

/// Far more than anything here takes; only so that a failure is not a hang.
const LIMIT: Duration = Duration::from_secs(20);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("{what} did not come"))
}

async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

/// EventBus with a store, until killed.
struct Running {
    bus: Bus,
    heard: mpsc::Receiver<Heard>,
    uploads: mpsc::Receiver<Upload>,
    task: JoinHandle<Result<(), EventBusError>>,
    trigger: Trigger,
}

fn start(folder: &Path, config: EventBusConfig) -> Running {
    let (db, _) = Db::open(&folder.join("e.db"), Synchronous::Full).unwrap();
    let (to_twin, heard) = mpsc::channel(4);
    let (to_cloud, uploads) = mpsc::channel(4);
    let (bus, module) = EventBus::new(config, db, to_twin, to_cloud);
    let (trigger, shutdown) = Shutdown::new();
    Running { bus, heard, uploads, task: tokio::spawn(module.run(shutdown)), trigger }
}

impl Running {
    /// As a kill: nothing is said, nothing is written any more.
    async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

fn embedded(port: u16) -> EventBusConfig {
    let mqtt_server_internal = Some(format!("tcp://127.0.0.1:{port}"));
    EventBusConfig { mqtt_mode: Within::new(0), mqtt_server_internal, ..EventBusConfig::default() }
}

fn external(port: u16) -> EventBusConfig {
    let mqtt_server_external = format!("tcp://127.0.0.1:{port}");
    EventBusConfig { mqtt_mode: Within::new(2), mqtt_server_external, ..EventBusConfig::default() }
}

struct Peer {
    client: AsyncClient,
    events: mpsc::UnboundedReceiver<Incoming>,
    task: JoinHandle<()>,
}

impl Peer {
    /// Connects; tries until the broker is there.
    async fn connect(port: u16, id: &str, clean: bool) -> Self {
        let mut options = MqttOptions::new(id, ("127.0.0.1", port));
        options.set_keep_alive(30).set_clean_session(clean);
        let (client, mut eventloop) = AsyncClient::builder(options).capacity(10).build();
        let (sender, events) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(incoming)) => drop(sender.send(incoming)),
                    Ok(Event::Outgoing(_)) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        let mut peer = Self { client, events, task };
        peer.until("CONNACK", |incoming| matches!(incoming, Incoming::ConnAck(_))).await;
        peer
    }

    async fn until(&mut self, what: &str, mut is_it: impl FnMut(&Incoming) -> bool) -> Incoming {
        soon(what, async {
            loop {
                let incoming = self.events.recv().await.unwrap();
                if is_it(&incoming) {
                    return incoming;
                }
            }
        })
        .await
    }

    async fn subscribe(&mut self, filter: &str, qos: QoS) {
        self.client.subscribe(filter, qos).await.unwrap();
        self.until("SUBACK", |incoming| matches!(incoming, Incoming::SubAck(_))).await;
    }

    async fn say(&self, topic: &str, payload: &str, options: PublishOptions) {
        self.client.publish(topic, payload.to_owned(), options).await.unwrap();
    }

    /// QoS 1, acknowledged.
    async fn publish(&mut self, topic: &str, payload: &str, retain: bool) {
        self.say(topic, payload, PublishOptions::new(QoS::AtLeastOnce).retain(retain)).await;
        self.until("PUBACK", |incoming| matches!(incoming, Incoming::PubAck(_))).await;
    }

    async fn expect(&mut self, topic: &str, payload: &str, retain: bool) {
        let is_publish = |incoming: &Incoming| matches!(incoming, Incoming::Publish(_));
        let Incoming::Publish(publish) = self.until(payload, is_publish).await else { unreachable!() };
        let found = (String::from_utf8_lossy(&publish.topic), &*publish.payload, publish.retain);
        assert_eq!(found, (topic.into(), payload.as_bytes(), retain));
    }

    /// Without a farewell.
    async fn cut(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

#[tokio::test]
async fn devices_are_heard_and_answered_over_the_embedded_broker() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port().await);
    let mut node = start(folder.path(), embedded(port));
    let mut app = Peer::connect(port, "app", true).await;
    app.subscribe("$hw/events/device/plant/oven/twin/#", QoS::AtLeastOnce).await;
    let mut mapper = Peer::connect(port, "mapper", true).await;
    let topic = "$hw/events/device/plant/oven/twin/update";
    mapper.say(topic, "{\"a\":1}", PublishOptions::new(QoS::AtLeastOnce)).await;
    app.expect(topic, "{\"a\":1}", false).await;
    let heard = soon("the update", node.heard.recv()).await.unwrap();
    assert_eq!((heard.topic.to_string().as_str(), &*heard.payload), (topic, &b"{\"a\":1}"[..]));
    // Not acknowledged before it is kept: a ping goes round, the PUBACK is not there.
    mapper.client.subscribe("x", QoS::AtMostOnce).await.unwrap();
    let first =
        mapper.until("an answer", |incoming| matches!(incoming, Incoming::SubAck(_) | Incoming::PubAck(_)));
    assert!(matches!(first.await, Incoming::SubAck(_)));
    heard.kept.send(()).unwrap();
    mapper.until("PUBACK", |incoming| matches!(incoming, Incoming::PubAck(_))).await;
    node.bus.publish(format!("{topic}/result"), Bytes::from_static(b"done"));
    app.expect(&format!("{topic}/result"), "done", false).await;
    mapper.publish("plant/user/alarm", "hot", false).await;
    let upload = soon("the upload", node.uploads.recv()).await.unwrap();
    assert_eq!(upload, Upload { topic: "plant/user/alarm".into(), payload: "hot".into() });
    node.bus.listen("extra/+".to_owned()).await;
    // The wish takes a moment; it is there when something said afterwards is heard.
    let extra = async {
        loop {
            mapper.publish("extra/1", "x", false).await;
            if let Ok(Some(upload)) =
                tokio::time::timeout(Duration::from_millis(50), node.uploads.recv()).await
            {
                return upload;
            }
        }
    };
    assert_eq!(soon("the extra topic", extra).await.topic, "extra/1");
    node.trigger.stop();
    soon("the end", node.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port().await);
    let node = start(folder.path(), embedded(port));
    let mut app = Peer::connect(port, "app", false).await;
    app.subscribe("orders/#", QoS::AtLeastOnce).await;
    app.cut().await;
    let mut from = Peer::connect(port, "from", true).await;
    from.publish("orders/1", "first", false).await;
    from.publish("$hw/state", "kept", true).await;
    from.publish("orders/2", "second", false).await;
    from.cut().await;
    node.kill().await;

    let node = start(folder.path(), embedded(port));
    // The subscription is the broker's memory: the client does not subscribe again.
    let mut app = Peer::connect(port, "app", false).await;
    app.expect("orders/1", "first", false).await;
    app.expect("orders/2", "second", false).await;
    let mut from = Peer::connect(port, "from", true).await;
    from.publish("orders/3", "third", false).await;
    app.expect("orders/3", "third", false).await;
    from.subscribe("$hw/#", QoS::AtLeastOnce).await;
    from.expect("$hw/state", "kept", true).await;
    node.kill().await;
}

#[tokio::test]
async fn an_external_broker_may_come_later_and_go() {
    let (near, far, port) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), free_port().await);
    let mut node = start(near.path(), external(port));
    // Nobody is there, and nobody is held up.
    for n in 0..3000 {
        node.bus.publish(format!("$hw/events/device/plant/oven/twin/update/delta/{n}"), Bytes::new());
    }
    assert_eq!(node.bus.n_dropped(), 3000 - 1024);
    node.bus.publish("last".to_owned(), Bytes::from_static(b"1"));
    let broker = start(far.path(), embedded(port));
    let mut app = Peer::connect(port, "app", true).await;
    app.subscribe("last", QoS::AtLeastOnce).await;
    // Whether that word came before this subscription is chance; another one is sure.
    node.bus.publish("last".to_owned(), Bytes::from_static(b"2"));
    let second =
        |incoming: &Incoming| matches!(incoming, Incoming::Publish(publish) if &*publish.payload == b"2");
    app.until("the word after the broker came", second).await;
    let topic = "$hw/events/device/plant/oven/state/update";
    app.say(topic, "{}", PublishOptions::new(QoS::AtLeastOnce)).await;
    let heard = soon("the state", node.heard.recv()).await.unwrap();
    assert_eq!(heard.topic.to_string(), topic);
    heard.kept.send(()).unwrap();
    broker.kill().await;
    app.cut().await;
    let broker = start(far.path(), embedded(port));
    let mut app = Peer::connect(port, "app2", true).await;
    // It is back when it hears.
    let back = async {
        loop {
            app.publish("plant/user/x", "again", false).await;
            if let Ok(Some(upload)) =
                tokio::time::timeout(Duration::from_millis(50), node.uploads.recv()).await
            {
                return upload;
            }
        }
    };
    assert_eq!(soon("the way back", back).await.payload, "again");
    broker.kill().await;
    node.trigger.stop();
    soon("the end", node.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_broker_behind_tls_is_checked_and_told_who_speaks() {
    let folder = tempfile::tempdir().unwrap();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let server = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let ca_file = folder.path().join("ca.crt");
    std::fs::write(&ca_file, ca_certificate.pem()).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let acceptor = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![server.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(acceptor));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tls = EventBusTls {
        enable: true,
        tls_mqtt_ca_file: ca_file,
        tls_mqtt_cert_file: "".into(),
        tls_mqtt_private_key_file: "".into(),
    };
    let config = EventBusConfig {
        mqtt_mode: Within::new(2),
        mqtt_server_external: format!("ssl://localhost:{port}"),
        mqtt_username: "edge".into(),
        mqtt_password: ke_run::config::Secret::new("secret".into()),
        mqtt_sub_client_id: "node-7".into(),
        tls,
        ..EventBusConfig::default()
    };
    let node = start(folder.path(), config);
    let (stream, _) = soon("a connection", listener.accept()).await.unwrap();
    let mut stream = soon("TLS", acceptor.accept(stream)).await.unwrap();
    let mut buffer = BytesMut::new();
    let mut next = async |stream: &mut tokio_rustls::server::TlsStream<TcpStream>| loop {
        if let Some(packet) = decode(&mut buffer, PACKET_LIMIT).unwrap() {
            return packet;
        }
        assert_ne!(soon("a packet", stream.read_buf(&mut buffer)).await.unwrap(), 0);
    };
    let Packet::Connect(hello) = next(&mut stream).await else { panic!("no CONNECT") };
    assert_eq!(
        (hello.client.as_str(), hello.user.as_deref(), hello.password.as_deref()),
        ("node-7", Some("edge"), Some(&b"secret"[..]))
    );
    let mut out = BytesMut::new();
    encode(&Packet::ConnAck { session_present: false, code: ConnectCode::Accepted }, &mut out).unwrap();
    stream.write_all(&out).await.unwrap();
    let Packet::Subscribe { filters, .. } = next(&mut stream).await else { panic!("no SUBSCRIBE") };
    assert_eq!(filters.iter().map(|(filter, _)| filter.as_str()).collect::<Vec<_>>(), topic::LISTENED);
    node.kill().await;
}

#[tokio::test]
async fn another_broker_keeps_its_port() {
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap();
    assert!(listen_if_free(address).await.is_none());
    drop(other);
    assert_eq!(listen_if_free(address).await.unwrap().local_addr().unwrap(), address);
}
