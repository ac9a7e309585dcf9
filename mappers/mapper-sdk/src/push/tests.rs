//! A whole mapper beside a fake edge node, with targets that the test itself plays.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use serde_json::{Value as Json, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;
use crate::testing::FakeEdge;
use crate::{Connection, Device, Driver, DriverError, Kind, Property, async_trait};

/// Properties are what the test says; a property without a value is refused.
#[derive(Clone, Default)]
struct Oven(Arc<Mutex<(BTreeMap<String, Value>, usize)>>);

impl Oven {
    fn hold(&self, property: &str, value: Value) {
        self.0.lock().unwrap().0.insert(property.into(), value);
    }

    fn n_connects(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

#[async_trait]
impl Driver for Oven {
    type Connection = Oven;

    fn protocol(&self) -> &'static str {
        "oven"
    }

    async fn connect(&self, _: &Device) -> Result<Oven, DriverError> {
        self.0.lock().unwrap().1 += 1;
        Ok(self.clone())
    }
}

#[async_trait]
impl Connection for Oven {
    async fn read(
        &mut self,
        properties: &[&Property],
    ) -> Result<Vec<Result<Value, DriverError>>, DriverError> {
        let held = self.0.lock().unwrap().0.clone();
        let none = || DriverError::Refused("not now".into());
        let value = |property: &&Property| held.get(&property.name).cloned().ok_or_else(none);
        Ok(properties.iter().map(value).collect())
    }

    async fn write(&mut self, _: &Property, _: &Value) -> Result<(), DriverError> {
        Ok(())
    }
}

/// A server of one message at a time: keeps what it got and gives a fixed answer. Connections stay open.
struct Server {
    address: SocketAddr,
    got: Arc<Mutex<Vec<String>>>,
    tasks: JoinSet<()>,
    answer: &'static str,
}

impl Server {
    async fn start(answer: &'static str) -> Self {
        let address = "127.0.0.1:0".parse().unwrap();
        let mut server = Self { address, got: Arc::default(), tasks: JoinSet::new(), answer };
        server.listen().await;
        server
    }

    /// At the same place as before.
    async fn listen(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let (got, answer) = (Arc::clone(&self.got), self.answer);
        self.tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let got = Arc::clone(&got);
                open.spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(message) = message(&mut stream).await {
                        got.lock().unwrap().push(message);
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
    }

    async fn stop(&mut self) {
        self.tasks.shutdown().await;
    }

    fn got(&self) -> Vec<String> {
        self.got.lock().unwrap().clone()
    }

    fn last(&self) -> String {
        self.got().last().cloned().unwrap_or_default()
    }
}

/// The next request of HTTP, or command of Redis as its words.
async fn message(stream: &mut BufReader<tokio::net::TcpStream>) -> Option<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|n_bytes| *n_bytes > 0)?;
    let Some(n_words) = line.trim().strip_prefix('*') else {
        let (mut head, mut n_body) = (line, 0);
        while !head.ends_with("\r\n\r\n") {
            let at = head.len();
            stream.read_line(&mut head).await.ok()?;
            let field = head[at..].to_lowercase();
            n_body = field.strip_prefix("content-length:").map_or(n_body, |n| n.trim().parse().unwrap());
        }
        let mut body = vec![0; n_body];
        stream.read_exact(&mut body).await.ok()?;
        return Some(head + &String::from_utf8(body).unwrap());
    };
    let mut words = Vec::new();
    for _ in 0..n_words.parse().unwrap() {
        let mut length = String::new();
        stream.read_line(&mut length).await.ok()?;
        let mut word = vec![0; length.trim()[1..].parse::<usize>().unwrap() + 2];
        stream.read_exact(&mut word).await.ok()?;
        words.push(String::from_utf8(word).unwrap().trim_end().to_owned());
    }
    Some(words.join(" "))
}

const OK: &str = "HTTP/1.1 204 No Content\r\n\r\n";

async fn edge() -> FakeEdge {
    let edge = FakeEdge::start();
    edge.put_model(&json!({"metadata": {"name": "oven", "namespace": "plant"}, "spec": {"properties": [
        {"name": "heat", "type": "FLOAT", "accessMode": "ReadOnly"},
        {"name": "limit", "type": "INT", "accessMode": "ReadOnly"},
    ]}}));
    edge
}

/// `heat` is pushed and never goes to the cloud, `limit` only goes there.
fn device(push: &Json) -> Json {
    json!({"metadata": {"name": "oven-1", "namespace": "plant"}, "spec": {
        "deviceModelRef": {"name": "oven"}, "protocol": {"protocolName": "oven"},
        "properties": [
            {"name": "heat", "collectCycle": 3_600_000, "reportCycle": 20, "pushMethod": push},
            {"name": "limit", "collectCycle": 20, "reportToCloud": true},
        ],
    }})
}

fn form(server: &Server, path: &str) -> Json {
    json!({"hostName": "http://127.0.0.1", "port": server.address.port(), "requestPath": path})
}

#[tokio::test(flavor = "multi_thread")]
async fn values_arrive_and_a_changed_push_takes_effect() {
    let (edge, oven) = (edge().await, Oven::default());
    oven.hold("heat", Value::Float(25.3));
    oven.hold("limit", Value::Int(1));
    let (web, redis) = (Server::start(OK).await, Server::start("+OK\r\n").await);
    let place = redis.address.to_string();
    let push = |path| {
        let redis = json!({"redisClientConfig": {"addr": place, "db": 2}});
        json!({"http": form(&web, path), "dbMethod": {"redis": redis}})
    };
    edge.put_device(&device(&push("/a?b=c"))).await;
    let _mapper = edge.run(oven.clone());
    edge.wait("pushes to arrive", || web.got().len() > 3 && redis.got().len() > 4).await;
    let request = web.got().remove(0).to_lowercase();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("post /a?b=c http/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {}\r\n", web.address)), "{head}");
    assert!(head.contains("\r\ncontent-type: application/x-www-form-urlencoded\r\n"), "{head}");
    let time = body.strip_prefix("heat=25.3&time=").unwrap();
    assert_eq!((time.len(), &time[10..11]), (19, " "), "{body}");
    let words = redis.got();
    assert_eq!(words[..2], ["AUTH a-password", "SELECT 2"]);
    let (score, member) = words[2].strip_prefix("ZADD oven-1 ").unwrap().split_once(' ').unwrap();
    let expected = r#"{"DeviceName":"oven-1","PropertyName":"heat","Namespace":"plant","Value":"25.3","Type":"float","TimeStamp":"#;
    assert_eq!(member, format!("{expected}{score}}}"));

    // The newest value, each time; and never to the cloud.
    oven.hold("heat", Value::Float(26.0));
    edge.wait("the newest", || web.last().contains("heat=26&") && redis.last().contains("\"26\"")).await;
    edge.wait_reported("oven-1", "limit", "1").await;
    assert!(edge.reported().iter().all(|told| told.property == "limit"));

    edge.put_device(&device(&push("/other"))).await;
    edge.wait("the other path", || web.last().starts_with("POST /other ")).await;
    edge.put_device(&device(&json!({"http": form(&web, "/third")}))).await;
    edge.wait("the third path", || web.last().starts_with("POST /third ")).await;
    // For a push alone nothing was connected anew.
    assert_eq!(oven.n_connects(), 1);
    // Nothing is known of a property that cannot be read.
    oven.0.lock().unwrap().0.remove("heat");
    edge.wait_state("oven-1", "unhealthy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_away_concerns_nobody_and_gets_what_waited() {
    let (edge, oven) = (edge().await, Oven::default());
    oven.hold("heat", Value::Float(25.3));
    oven.hold("limit", Value::Int(1));
    let mut influx = Server::start(OK).await;
    let url = format!("http://{}", influx.address);
    let client = json!({"url": url, "org": "acme", "bucket": "ovens"});
    let data = json!({"measurement": "oven", "tag": {"hall": "3"}, "fieldKey": "heat"});
    let push = json!({"dbMethod": {"influxdb2":
        {"influxdb2ClientConfig": client, "influxdb2DataConfig": data}}});
    influx.stop().await;
    edge.put_device(&device(&push)).await;
    let _mapper = edge.run(oven.clone());
    edge.wait_reported("oven-1", "limit", "1").await;
    oven.hold("limit", Value::Int(2));
    edge.wait_reported("oven-1", "limit", "2").await;
    oven.hold("heat", Value::Float(26.0));
    influx.listen().await;
    edge.wait("what waited and what is new", || influx.last().contains("heat=\"26\"")).await;
    let first = influx.got().remove(0);
    assert!(
        first.starts_with("POST /api/v2/write?org=acme&bucket=ovens&precision=ns HTTP/1.1\r\n"),
        "{first}"
    );
    assert!(first.to_lowercase().contains("\r\nauthorization: token a-token\r\n"), "{first}");
    assert!(first.contains("\r\n\r\noven,hall=3 heat=\"25.3\" "), "{first}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tdengine_makes_its_table_once() {
    let (edge, oven) = (edge().await, Oven::default());
    oven.hold("heat", Value::Float(25.3));
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"code\":0}";
    let tdengine = Server::start(answer).await;
    let client = json!({"addr": tdengine.address.to_string(), "dbName": "ovens"});
    edge.put_device(&device(&json!({"dbMethod": {"TDEngine": {"TDEngineClientConfig": client}}}))).await;
    let _mapper = edge.run(oven.clone());
    edge.wait("rows", || tdengine.got().len() > 3).await;
    let got = tdengine.got();
    // me:a-password
    let head = got[0].to_lowercase();
    assert!(head.contains("\r\nauthorization: basic bwu6ys1wyxnzd29yza==\r\n"), "{head}");
    let statement = |request: &String| request.split("\r\n\r\n").nth(1).unwrap().to_owned();
    assert!(statement(&got[0]).starts_with("CREATE STABLE IF NOT EXISTS `plant/oven_1` ("), "{got:?}");
    assert!(
        got[1..].iter().all(|request| statement(request).starts_with("INSERT INTO `plant/oven_1/heat` "))
    );
}

#[tokio::test(start_paused = true)]
async fn only_what_is_known_is_pushed() {
    let targets = Targets::new(Secrets::default());
    let url = address::Url::parse("http://127.0.0.1:9", 80).unwrap();
    let ms = Duration::from_millis;
    let push = |property: &str, cycle| {
        let (property, to) = (property.to_owned(), To::Http(Form(url.clone())));
        Push { property, kind: Kind::Int, cycle: ms(cycle), to }
    };
    let wanted = [push("a", 100), push("b", 300)];
    let device = DeviceName { namespace: "plant".into(), name: "oven-1".into() };
    let mut pushes = Pushes::new(&targets, &device, &wanted, ms(0));
    assert!(pushes.are(&wanted) && !pushes.are(&wanted[1..]) && pushes.take("a") && !pushes.take("c"));
    let mut check = |at: u64, known: &[&str], unknown: &[&str], expected: Option<u64>| {
        known.iter().for_each(|property| pushes.note(property, &Value::Int(1)));
        unknown.iter().for_each(|property| pushes.forget(property));
        pushes.push_due(ms(at), OffsetDateTime::UNIX_EPOCH);
        assert_eq!(pushes.next_due(), expected.map(ms), "at {at}");
    };
    check(0, &[], &[], None);
    // As soon as there is a value, then in its rhythm.
    check(10, &["b"], &[], Some(300));
    check(20, &["a"], &[], Some(100));
    check(100, &[], &[], Some(200));
    check(250, &[], &["a"], Some(300));
    check(310, &["c"], &["b"], None);
}
