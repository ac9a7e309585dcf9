//! The driver against a scripted broker over a real socket: what is told, what is written, and every way to be lost.

// All of this file is a test; the lint knows only functions marked as one.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::Duration;

use bytes::BytesMut;
use mapper_mqtt::Mqtt;
use mapper_mqtt::driver::MqttConnection;
use mapper_sdk::testing::FakeEdge;
use mapper_sdk::value::{Kind, Value};
use mapper_sdk::{Connection, Device, DeviceName, Driver, DriverError, Property, Settings};
use rumqttc::{
    ConnAck, ConnectReturnCode, Packet, PubAck, Publish, QoS, SubAck, Subscribe, SubscribeReasonCode,
};
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

/// The broker's end.
struct Peer {
    stream: TcpStream,
    held: BytesMut,
}

impl Peer {
    /// The next packet that is no sign of life; `None` at the end.
    async fn read(&mut self) -> Option<Packet> {
        loop {
            match Packet::read(&mut self.held, 1 << 20) {
                Ok(Packet::PingReq) => self.write_bytes(&[0xd0, 0]).await,
                Ok(packet) => return Some(packet),
                Err(rumqttc::Error::InsufficientBytes(_)) => {
                    if self.stream.read_buf(&mut self.held).await.unwrap_or(0) == 0 {
                        return None;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn write(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, 1 << 25).unwrap();
        self.write_bytes(&bytes).await;
    }

    async fn write_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn tell(&mut self, topic: &str, payload: impl Into<Vec<u8>>) {
        self.write(Packet::Publish(Publish::new(topic, QoS::AtMostOnce, payload))).await;
    }

    async fn subscribed(&mut self) -> Subscribe {
        match self.read().await {
            Some(Packet::Subscribe(subscribe)) => subscribe,
            other => panic!("{other:?}"),
        }
    }

    async fn published(&mut self) -> Publish {
        match self.read().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("{other:?}"),
        }
    }
}

fn property(name: &str, kind: Kind, settings: Json) -> Property {
    Property {
        name: name.into(),
        kind,
        is_writable: true,
        minimum: None,
        maximum: None,
        settings: of_json(settings),
        collect_cycle: Duration::from_secs(1),
        report_cycle: Duration::from_secs(1),
        report_to_cloud: true,
        desired: None,
    }
}

fn of_json(json: Json) -> Settings {
    let Json::Object(entries) = json else { panic!("an object") };
    Settings::new(entries)
}

fn device(port: u16, more: Json, properties: Vec<Property>) -> Device {
    let mut settings = json!({"ip": "127.0.0.1", "port": port});
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Device {
        name: DeviceName { namespace: "plant".into(), name: "oven".into() },
        settings: of_json(settings),
        properties,
        methods: Vec::new(),
        state_cycle: None,
    }
}

/// Listens, and lets the driver come.
async fn meet(
    more: Json,
    properties: Vec<Property>,
) -> (tokio::task::JoinHandle<Result<MqttConnection, DriverError>>, Peer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let device = device(listener.local_addr().unwrap().port(), more, properties);
    let connecting = tokio::spawn(async move { Mqtt.connect(&device).await });
    let (stream, _) = listener.accept().await.unwrap();
    (connecting, Peer { stream, held: BytesMut::new() })
}

/// Up to the acknowledged subscription.
async fn connected(more: Json, properties: Vec<Property>) -> (MqttConnection, Peer) {
    let (connecting, mut peer) = meet(more, properties).await;
    assert!(matches!(peer.read().await, Some(Packet::Connect(_))));
    peer.write(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).await;
    let subscribe = peer.subscribed().await;
    assert!(!connecting.is_finished(), "connected before the broker took the subscription");
    let codes = subscribe.filters.iter().map(|filter| SubscribeReasonCode::Success(filter.qos)).collect();
    peer.write(Packet::SubAck(SubAck::new(subscribe.pkid, codes))).await;
    (connecting.await.unwrap().unwrap(), peer)
}

fn heat() -> Property {
    property("heat", Kind::Float, json!({"topic": "hall/3", "path": "$.sensors[0].temp"}))
}

/// What comes next, its error or the connection's.
async fn sent(connection: &mut MqttConnection) -> Result<(String, Value), DriverError> {
    let (name, told) = connection.pushed().await?;
    Ok((name, told?))
}

fn refused(answer: Result<(String, Value), DriverError>) -> String {
    match answer {
        Err(DriverError::Refused(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn lost<T: std::fmt::Debug>(answer: Result<T, DriverError>) -> String {
    match answer {
        Err(DriverError::Lost(why)) => why,
        other => panic!("{other:?}"),
    }
}

async fn read(connection: &mut MqttConnection, property: &Property) -> Result<Value, DriverError> {
    connection.read(&[property]).await.map(|mut values| values.pop().unwrap()).unwrap()
}

#[tokio::test]
async fn values_come_by_themselves() {
    let wet = property("wet", Kind::Int, json!({"topic": "hall/3", "path": "sensors.0.wet"}));
    let door = property("door", Kind::Bool, json!({"topic": "door/+/state"}));
    let alarm = property("alarm", Kind::Text, json!({"topic": "$hw/alarm/#"}));
    let properties = vec![heat(), wet.clone(), door, alarm];
    let (mut connection, mut peer) = connected(json!({}), properties).await;
    assert!(connection.is_pushed(&heat()));
    let why = read(&mut connection, &heat()).await.unwrap_err().to_string();
    assert_eq!(why, "heat: no message on hall/3 yet");

    peer.tell("hall/3", r#"{"sensors":[{"temp":25.3,"wet":40}]}"#).await;
    peer.tell("door/7/state", "ON").await;
    peer.tell("$hw/alarm/smoke", "früh").await;
    peer.tell("elsewhere", "1").await;
    peer.tell("hall/3", r#"{"sensors":[{"temp":26}]}"#).await;
    let mut next = async || sent(&mut connection).await;
    assert_eq!(next().await, Ok(("heat".into(), Value::Float(25.3))));
    assert_eq!(next().await, Ok(("wet".into(), Value::Int(40))));
    assert_eq!(next().await, Ok(("door".into(), Value::Bool(true))));
    assert_eq!(next().await, Ok(("alarm".into(), Value::Text("früh".into()))));
    assert_eq!(next().await, Ok(("heat".into(), Value::Float(26.0))));
    assert_eq!(refused(next().await), "wet (topic hall/3): the message has nothing at $.sensors.0.wet");
    assert_eq!(read(&mut connection, &heat()).await, Ok(Value::Float(26.0)));
    assert!(read(&mut connection, &wet).await.is_err());
}

#[tokio::test]
async fn a_dropped_wait_loses_nothing() {
    let (mut connection, mut peer) = connected(json!({}), vec![heat()]).await;
    for temp in 0..20_u8 {
        tokio::time::timeout(Duration::ZERO, connection.pushed()).await.unwrap_err();
        peer.tell("hall/3", format!(r#"{{"sensors":[{{"temp":{temp}}}]}}"#)).await;
        assert_eq!(sent(&mut connection).await, Ok(("heat".into(), Value::Float(f32::from(temp)))));
    }
}

#[tokio::test]
async fn nonsense_is_told_and_the_next_value_comes() {
    let (mut connection, mut peer) = connected(json!({}), vec![heat()]).await;
    peer.tell("hall/3", [0xff, 0xfe]).await;
    peer.tell("hall/3", "[".repeat(5000)).await;
    peer.tell("hall/3", "").await;
    peer.tell("hall/3", r#"{"sensors":[{"temp":"warm"}]}"#).await;
    peer.tell("hall/3", vec![b' '; (1 << 20) + 1]).await;
    peer.tell("hall/3", r#"{"sensors":[{"temp":"25.5"}]}"#).await;
    for why in ["no JSON", "no JSON", "no JSON", "\"warm\" is no FLOAT", "1048577 bytes is too long"] {
        let told = refused(sent(&mut connection).await);
        assert!(told.starts_with("heat (topic hall/3): ") && told.contains(why), "{told}");
    }
    assert_eq!(sent(&mut connection).await, Ok(("heat".into(), Value::Float(25.5))));
}

#[tokio::test]
async fn a_write_waits_for_the_broker() {
    let limit = json!({"topic": "hall/3", "path": "limit", "outputTopic": "hall/3/cmd", "retain": true,
                       "template": "{\"cmd\":\"set\",\"value\":\"${value}\"}"});
    let limit = property("limit", Kind::Text, limit);
    let plain = property("plain", Kind::Double, json!({"topic": "plain", "qos": 0}));
    let many = property("many", Kind::Double, json!({"topic": "many/+"}));
    let (mut connection, mut peer) =
        connected(json!({}), vec![limit.clone(), plain.clone(), many.clone()]).await;

    let (acknowledge, acknowledged) = tokio::sync::oneshot::channel();
    let broker = tokio::spawn(async move {
        let message = peer.published().await;
        assert_eq!(
            (&message.topic[..], message.qos, message.retain),
            (&b"hall/3/cmd"[..], QoS::AtLeastOnce, true)
        );
        assert_eq!(message.payload, r#"{"cmd":"set","value":"a\"b"}"#);
        acknowledge.send(()).unwrap();
        peer.write(Packet::PubAck(PubAck::new(message.pkid))).await;
        let message = peer.published().await;
        assert_eq!(
            (&message.topic[..], message.qos, message.retain),
            (&b"plain/set"[..], QoS::AtMostOnce, false)
        );
        assert_eq!(message.payload, "0.5");
        peer
    });
    connection.write(&limit, &Value::Text("a\"b".into())).await.unwrap();
    acknowledged.await.unwrap();
    connection.write(&plain, &Value::Double(0.5)).await.unwrap();
    let why = connection.write(&many, &Value::Double(0.5)).await.unwrap_err();
    let expected =
        "outputTopic is missing; set outputTopic to the topic to write to, because topic has + or # in it";
    assert_eq!(why.to_string(), expected);
    assert!(matches!(why, DriverError::Setting(_)));

    // The broker goes before it has acknowledged.
    let mut peer = broker.await.unwrap();
    let broker = async {
        peer.published().await;
        drop(peer);
    };
    let value = Value::Text("b".into());
    let (written, ()) = tokio::join!(connection.write(&limit, &value), broker);
    assert!(lost(written).starts_with("broker 127.0.0.1:"));
}

#[tokio::test]
async fn a_lost_broker_is_told_after_its_last_values() {
    let (mut connection, mut peer) = connected(json!({}), vec![heat()]).await;
    peer.tell("hall/3", r#"{"sensors":[{"temp":1}]}"#).await;
    drop(peer);
    assert_eq!(sent(&mut connection).await, Ok(("heat".into(), Value::Float(1.0))));
    let why = lost(sent(&mut connection).await);
    assert!(why.contains("closed the connection") && why.contains("isthmus.plant.oven"), "{why}");
    assert_eq!(lost(sent(&mut connection).await), why);
    assert_eq!(lost(connection.read(&[&heat()]).await), why);
    assert_eq!(lost(connection.write(&heat(), &Value::Float(1.0)).await), why);
}

#[tokio::test]
async fn who_speaks_no_mqtt_is_lost() {
    let (mut connection, mut peer) = connected(json!({}), vec![heat()]).await;
    peer.write_bytes(&[0xff; 8]).await;
    lost(sent(&mut connection).await);

    let (connecting, mut peer) = meet(json!({}), vec![heat()]).await;
    peer.write_bytes(&[0xff; 8]).await;
    lost(connecting.await.unwrap().map(drop));

    let (connecting, mut peer) = meet(json!({"timeout": 1}), vec![heat()]).await;
    peer.read().await;
    let why = lost(connecting.await.unwrap().map(drop));
    assert!(why.ends_with("did not answer within 1 s"), "{why}");
}

#[tokio::test]
async fn a_refused_login_says_what_to_set() {
    let login = json!({"username": "me", "password": "hush"});
    let (connecting, mut peer) = meet(login, vec![heat()]).await;
    let Some(Packet::Connect(connect)) = peer.read().await else { panic!("no CONNECT") };
    assert!(connect.auth.validate("me", "hush") && connect.clean_session);
    assert_eq!((connect.client_id.as_str(), connect.keep_alive), ("isthmus.plant.oven", 30));
    peer.write(Packet::ConnAck(ConnAck::new(ConnectReturnCode::NotAuthorized, false))).await;
    let why = lost(connecting.await.unwrap().map(drop));
    assert!(why.ends_with("refuses the login; set username and password to one that it knows"), "{why}");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    std::fs::write(&path, "hush\n").unwrap();
    let (connecting, mut peer) = meet(json!({"username": "me", "password": path}), vec![heat()]).await;
    let Some(Packet::Connect(connect)) = peer.read().await else { panic!("no CONNECT") };
    assert!(connect.auth.validate("me", "hush"));
    drop(peer);
    lost(connecting.await.unwrap().map(drop));

    let nobody = device(1, json!({"username": "me", "password": folder.path().join("hush")}), vec![heat()]);
    let why = lost(Mqtt.connect(&nobody).await.map(drop));
    assert!(why.starts_with("password names a file that cannot be read") && !why.contains("hush"), "{why}");
}

#[tokio::test]
async fn one_bad_property_leaves_the_others() {
    let secret = property("secret", Kind::Int, json!({"topic": "secret"}));
    let wrong = property("wrong", Kind::Int, json!({"topic": "a/#/b"}));
    let only_written = property("cmd", Kind::Int, json!({"outputTopic": "cmd"}));
    let good = property("good", Kind::Int, json!({"topic": "good"}));
    let properties = vec![secret.clone(), wrong.clone(), only_written.clone(), good.clone()];
    let (connecting, mut peer) = meet(json!({}), properties).await;
    peer.read().await;
    peer.write(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).await;
    let subscribe = peer.subscribed().await;
    let code = |filter: &str| match filter {
        "secret" => SubscribeReasonCode::Failure,
        _ => SubscribeReasonCode::Success(QoS::AtLeastOnce),
    };
    let codes = subscribe.filters.iter().map(|filter| code(&filter.path)).collect();
    peer.write(Packet::SubAck(SubAck::new(subscribe.pkid, codes))).await;
    let mut connection = connecting.await.unwrap().unwrap();

    let pushed = [&secret, &wrong, &only_written, &good].map(|property| connection.is_pushed(property));
    assert_eq!(pushed, [false, false, true, true]);
    peer.tell("good", "7").await;
    assert_eq!(sent(&mut connection).await, Ok(("good".into(), Value::Int(7))));
    let answers = connection.read(&[&secret, &wrong, &only_written, &good]).await.unwrap();
    let texts: Vec<String> = answers
        .into_iter()
        .map(|answer| answer.map_or_else(|error| error.to_string(), |value| value.to_string()))
        .collect();
    assert_eq!(texts[0], "secret: the broker does not let this user subscribe to secret");
    assert!(texts[1].starts_with("topic must be "), "{}", texts[1]);
    assert_eq!(texts[2], "cmd: it is only written; set topic to where its values come on");
    assert_eq!(texts[3], "7");
}

#[tokio::test]
async fn old_values_are_none() {
    let heat = property("heat", Kind::Float, json!({"topic": "heat", "maxAgeSecs": 1}));
    let (mut connection, mut peer) = connected(json!({}), vec![heat.clone()]).await;
    peer.tell("heat", "1").await;
    assert_eq!(sent(&mut connection).await, Ok(("heat".into(), Value::Float(1.0))));
    let why = "heat: no message for 1 s, longer than maxAgeSecs allows";
    assert_eq!(refused(sent(&mut connection).await), why);
    assert_eq!(read(&mut connection, &heat).await.unwrap_err().to_string(), why);
    peer.tell("heat", "2").await;
    assert_eq!(sent(&mut connection).await, Ok(("heat".into(), Value::Float(2.0))));
}

#[tokio::test]
async fn whoever_goes_says_goodbye() {
    let (connection, mut peer) = connected(json!({}), vec![heat()]).await;
    drop(connection);
    assert!(matches!(peer.read().await, Some(Packet::Disconnect)));
    assert_eq!(peer.read().await, None);
}

/// Nobody may have to start anything again after a night without the broker. The hour is one of virtual time.
#[tokio::test]
async fn a_broker_that_is_away_for_an_hour() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let manifests = |desired: &str| {
        format!(
            "kind: DeviceModel\nmetadata: {{name: oven}}\nspec: {{properties: [{{name: heat, type: FLOAT}}, \
             {{name: limit, type: INT, accessMode: ReadWrite}}]}}\n---\n\
             kind: Device\nmetadata: {{name: oven-1}}\nspec:\n  deviceModelRef: {{name: oven}}\n  \
             protocol: {{protocolName: mqtt, configData: {{ip: 127.0.0.1, port: {port}}}}}\n  properties:\n  \
             - {{name: heat, reportToCloud: true, visitors: {{configData: {{topic: heat}}}}}}\n  \
             - {{name: limit, desired: {{value: '{desired}'}}, visitors: {{configData: {{outputTopic: limit}}}}}}\n"
        )
    };
    let welcome = async |is_paused: bool| {
        let (stream, _) = listener.accept().await.unwrap();
        // Virtual time does not wait for what is on its way between two sockets.
        if is_paused {
            tokio::time::resume();
        }
        let mut peer = Peer { stream, held: BytesMut::new() };
        assert!(matches!(peer.read().await, Some(Packet::Connect(_))));
        peer.write(Packet::ConnAck(ConnAck::new(ConnectReturnCode::Success, false))).await;
        let subscribe = peer.subscribed().await;
        let codes = vec![SubscribeReasonCode::Success(QoS::AtLeastOnce); subscribe.filters.len()];
        peer.write(Packet::SubAck(SubAck::new(subscribe.pkid, codes))).await;
        peer
    };
    let edge = FakeEdge::start();
    edge.apply(&manifests("")).await;
    let _mapper = edge.run(Mqtt);
    let mut peer = welcome(false).await;
    peer.tell("heat", "25.5").await;
    edge.wait_reported("oven-1", "heat", "25.5").await;
    drop(peer);
    edge.clear();
    for desired in ["1", "2", "3"] {
        edge.apply(&manifests(desired)).await;
    }

    tokio::time::pause();
    let (began, mut tries) = (Instant::now(), vec![Duration::ZERO]);
    while let Ok(came) = timeout_at(began + Duration::from_secs(3600), listener.accept()).await {
        came.unwrap();
        tries.push(began.elapsed());
    }
    // Soon at first, then every half minute.
    let waits: Vec<Duration> =
        tries.iter().zip(tries.iter().skip(1)).map(|(one, next)| *next - *one).collect();
    let longest = waits.iter().max().unwrap();
    assert!(*longest < Duration::from_secs(45), "{waits:?}");
    assert!((80..140).contains(&waits.len()), "{} tries", waits.len());
    // Nothing piled up: the state and its reasons, and that was it.
    assert_eq!(edge.states("oven-1"), ["offline"]);
    assert!(edge.reported().is_empty() && edge.calls().len() < 10, "{} reports", edge.calls().len());

    let mut peer = welcome(true).await;
    peer.tell("heat", "26.5").await;
    let message = peer.published().await;
    assert_eq!((&message.topic[..], &message.payload[..]), (&b"limit"[..], &b"3"[..]));
    peer.write(Packet::PubAck(PubAck::new(message.pkid))).await;
    edge.wait_reported("oven-1", "heat", "26.5").await;
    edge.wait_state("oven-1", "online").await;
    assert_eq!(edge.reported().len(), 1);
}
