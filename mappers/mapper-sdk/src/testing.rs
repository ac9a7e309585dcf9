//! An edge node for the tests of drivers: the other half of the DMI on a real socket, and ways to wait for what a mapper says.
//!
//! It keeps manifests as a user wrote them, gives them to the mapper that registers, and records every report. Only tests use
//! it; to have it, name `mapper-sdk` with the feature `testing` among the `dev-dependencies`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends where it goes wrong"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ke_dmi::beside::ANY_TEXT;
use ke_dmi::v1beta1 as dmi;
use ke_dmi::v1beta1::device_manager_service_server::{DeviceManagerService, DeviceManagerServiceServer};
use ke_dmi::v1beta1::device_mapper_service_client::DeviceMapperServiceClient;
use ke_dmi::value;
use ke_run::shutdown::{Shutdown, Trigger};
use serde_json::{Map, Value as Json};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tonic::codegen::tokio_stream::StreamExt;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::config::Config;
use crate::driver::Driver;
use crate::terms::Maker;

/// How long a test waits for what should come. Never waited for when all goes well.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(5);

/// The edge node. Its folder goes with it.
pub struct FakeEdge {
    folder: PathBuf,
    maker: Maker,
    seen: Arc<Seen>,
    server: JoinSet<()>,
    running: (Trigger, Shutdown),
}

/// A mapper that runs inside the test. Dropped, it is stopped as by a signal.
pub struct RunningMapper {
    /// Where its REST API listens.
    pub http: std::net::SocketAddr,
    trigger: Trigger,
    task: Option<JoinHandle<anyhow::Result<()>>>,
}

/// What a mapper reported of one property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reported {
    /// The device.
    pub device: String,
    /// The property.
    pub property: String,
    /// The value, as text.
    pub value: String,
    /// The desired value that was written, or an empty text.
    pub observed_desired: String,
}

#[derive(Default)]
struct Seen(Mutex<Inside>);

#[derive(Default)]
struct Inside {
    models: BTreeMap<String, Json>,
    devices: BTreeMap<String, Json>,
    /// Sockets of the mappers that registered.
    registered: Vec<PathBuf>,
    reported: Vec<Reported>,
    /// Properties by call.
    rounds: Vec<Vec<String>>,
    states: Vec<(String, String)>,
    /// When each report came that was taken.
    calls: Vec<Instant>,
    n_connections: usize,
    /// Reports that are still to be refused.
    n_refusals: u32,
    /// Rounds that were dropped without a word.
    n_dropped: usize,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap()
    }
}

impl FakeEdge {
    /// One of Isthmus that knows no device. Needs a tokio runtime, with all of it enabled.
    #[must_use]
    pub fn start() -> Self {
        Self::of(Maker::Isthmus)
    }

    /// As [`FakeEdge::start`], one of KubeEdge: it drops a round that has a value with other characters than letters, digits
    /// and `-_.,:/@#`, and answers well; of calls it takes a hundred and then one a second.
    #[must_use]
    pub fn start_kubeedge() -> Self {
        Self::of(Maker::KubeEdge)
    }

    fn of(maker: Maker) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fake-edge-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut edge =
            Self { folder, maker, seen: Arc::default(), server: JoinSet::new(), running: Shutdown::new() };
        edge.listen();
        edge
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("dmi.sock")
    }

    /// A folder for files of the test.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends: connections too, its socket stays and leads nowhere. What it was given and told it still knows.
    pub async fn stop(&mut self) {
        self.running.0.stop();
        self.running = Shutdown::new();
        let ended = async { while self.server.join_next().await.is_some() {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("mappers let go of their connections");
    }

    /// Listens again after `stop`, on a new socket.
    pub fn listen(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let listener = UnixListener::bind(self.socket()).unwrap();
        let seen = Arc::clone(&self.seen);
        let connections = ke_dmi::incoming(listener).map(move |connection| {
            seen.lock().n_connections += 1;
            connection
        });
        let bucket = Mutex::new(Bucket::full());
        let service = Service { maker: self.maker, bucket, seen: Arc::clone(&self.seen) };
        let server = Server::builder().add_service(DeviceManagerServiceServer::new(service));
        let stop = self.running.1.clone();
        // Its connections are tasks of their own: only the signal ends them.
        let served = server.serve_with_incoming_shutdown(connections, async move { stop.wait().await });
        self.server.spawn(async move { drop(served.await) });
    }

    /// A DeviceModel as kubectl takes it. Registered mappers are not told: give models before devices.
    pub fn put_model(&self, manifest: &Json) {
        self.seen.lock().models.insert(name_of(manifest), manifest.clone());
    }

    /// A Device as kubectl takes it; its namespace is that of its model. A registered mapper is told, as edgecore does.
    pub async fn put_device(&self, manifest: &Json) {
        let (before, socket) = {
            let mut inside = self.seen.lock();
            let before = inside.devices.insert(name_of(manifest), manifest.clone());
            (before, inside.registered.last().cloned())
        };
        let Some(socket) = socket else { return };
        let (model, device) = self.seen.lock().messages(manifest);
        let mut mapper = mapper(socket);
        mapper.create_device_model(dmi::CreateDeviceModelRequest { model: Some(model) }).await.unwrap();
        let device = Some(device);
        match before {
            None => drop(mapper.register_device(dmi::RegisterDeviceRequest { device }).await.unwrap()),
            Some(_) => drop(mapper.update_device(dmi::UpdateDeviceRequest { device }).await.unwrap()),
        }
    }

    /// Takes models and devices as `kubectl apply` does: YAML, one manifest after another with `---` between. Models come
    /// first, whatever their order.
    pub async fn apply(&self, manifests: &str) {
        let manifests: Vec<Json> = serde_saphyr::from_multiple(manifests).expect("YAML");
        for model in manifests.iter().filter(|manifest| manifest["kind"] == "DeviceModel") {
            self.put_model(model);
        }
        for device in manifests.iter().filter(|manifest| manifest["kind"] == "Device") {
            self.put_device(device).await;
        }
    }

    /// Takes a device away. A registered mapper is told.
    pub async fn remove_device(&self, namespace: &str, name: &str) {
        self.forget_device(namespace, name);
        let Some(socket) = self.seen.lock().registered.last().cloned() else { return };
        let (device_name, device_namespace) = (name.to_owned(), namespace.to_owned());
        let request = dmi::RemoveDeviceRequest { device_name, device_namespace };
        mapper(socket).remove_device(request).await.unwrap();
    }

    /// Takes a device away without a word to the mapper: it learns of it when it registers.
    pub fn forget_device(&self, namespace: &str, name: &str) {
        self.seen.lock().devices.remove(&format!("{namespace}/{name}"));
    }

    /// Starts a mapper with this driver, its REST API on a port of 127.0.0.1. `a-token`, or `me` and `a-password`, open the
    /// databases that it pushes to.
    pub fn run<D: Driver>(&self, driver: D) -> RunningMapper {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = serde_json::json!({
            "grpc_server": {"socket_path": self.folder.join("mapper.sock")},
            "common": {"edgecore_sock": self.socket(), "http_port": port, "http_address": "127.0.0.1",
                "call_limit_secs": 5},
        });
        let mut config =
            Config::read(&file.to_string(), driver.protocol(), 1, Path::new("(of the test)")).unwrap();
        let (token, user_name, password) = ("a-token".into(), "me".into(), "a-password".into());
        config.secrets = crate::push::secrets::Secrets { token, user_name, password };
        let (trigger, stop) = Shutdown::new();
        let http = config.http;
        let task = Some(tokio::spawn(crate::mapper::run(driver, config, stop)));
        RunningMapper { http, trigger, task }
    }

    /// How often a mapper registered.
    #[must_use]
    pub fn n_registrations(&self) -> usize {
        self.seen.lock().registered.len()
    }

    /// Everything reported so far, in order.
    #[must_use]
    pub fn reported(&self) -> Vec<Reported> {
        self.seen.lock().reported.clone()
    }

    /// The properties of each report so far, in order.
    #[must_use]
    pub fn rounds(&self) -> Vec<Vec<String>> {
        self.seen.lock().rounds.clone()
    }

    /// The states of one device so far, in order, repetitions left out.
    #[must_use]
    pub fn states(&self, device: &str) -> Vec<String> {
        let inside = self.seen.lock();
        let of_device = inside.states.iter().filter(|(of, _)| of == device);
        let mut states: Vec<String> = of_device.map(|(_, state)| state.clone()).collect();
        states.dedup();
        states
    }

    /// How many connections mappers have made.
    #[must_use]
    pub fn n_connections(&self) -> usize {
        self.seen.lock().n_connections
    }

    /// When each report so far came that was taken, values and states.
    #[must_use]
    pub fn calls(&self) -> Vec<Instant> {
        self.seen.lock().calls.clone()
    }

    /// How many rounds were dropped for a value that KubeEdge does not take.
    #[must_use]
    pub fn n_dropped_rounds(&self) -> usize {
        self.seen.lock().n_dropped
    }

    /// Refuses the next reports as if there were too many.
    pub fn refuse(&self, n_reports: u32) {
        self.seen.lock().n_refusals = n_reports;
    }

    /// Forgets what was reported so far.
    pub fn clear(&self) {
        let mut inside = self.seen.lock();
        inside.reported.clear();
        inside.rounds.clear();
        inside.states.clear();
        inside.calls.clear();
    }

    /// Waits until a property is reported with this value.
    pub async fn wait_reported(&self, device: &str, property: &str, value: &str) {
        let is_it = |reported: &Reported| {
            (reported.device.as_str(), reported.property.as_str(), reported.value.as_str())
                == (device, property, value)
        };
        self.wait(&format!("{device} to report {property} as {value}"), || self.reported().iter().any(is_it))
            .await;
    }

    /// Waits until the last state of a device is this one.
    pub async fn wait_state(&self, device: &str, state: &str) {
        self.wait(&format!("{device} to be {state}"), || {
            self.states(device).last().map(String::as_str) == Some(state)
        })
        .await;
    }

    /// Waits until `look` says yes.
    pub async fn wait(&self, what: &str, mut look: impl FnMut() -> bool) {
        let wait = async {
            while !look() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let (reported, states) = (self.reported(), self.seen.lock().states.clone());
            let last: Vec<&Reported> = reported.iter().rev().take(10).collect();
            panic!("waited in vain for {what}; last reports: {last:?}; states: {states:?}");
        }
    }
}

impl Drop for FakeEdge {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl RunningMapper {
    /// Stops it as a signal does and waits for its end.
    pub async fn stop(mut self) {
        self.trigger.stop();
        if let Some(task) = self.task.take() {
            task.await.unwrap().unwrap();
        }
    }

    /// Ends it as if killed.
    pub async fn kill(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for RunningMapper {
    fn drop(&mut self) {
        self.trigger.stop();
    }
}

struct Service {
    maker: Maker,
    bucket: Mutex<Bucket>,
    seen: Arc<Seen>,
}

/// KubeEdge's limit of calls.
struct Bucket {
    n_tokens: f64,
    at: Instant,
}

impl Bucket {
    const ROOM: f64 = 100.0;

    fn full() -> Self {
        Self { n_tokens: Self::ROOM, at: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        self.n_tokens = Self::ROOM.min(self.n_tokens + now.duration_since(self.at).as_secs_f64());
        self.at = now;
        let is_there = self.n_tokens >= 1.0;
        self.n_tokens -= if is_there { 1.0 } else { 0.0 };
        is_there
    }
}

impl Service {
    /// Whether one more report is taken.
    fn admit(&self, device: &str) -> Result<(), Status> {
        let mut inside = self.seen.lock();
        let is_limited = self.maker == Maker::KubeEdge && !self.bucket.lock().unwrap().take();
        if is_limited || inside.n_refusals > 0 {
            inside.n_refusals = inside.n_refusals.saturating_sub(1);
            return Err(Status::unknown(format!("fail to report because of too many request: {device}")));
        }
        inside.calls.push(Instant::now());
        Ok(())
    }
}

/// Whether KubeEdge's edgecore takes a twin.
fn is_plain(twin: &dmi::Twin) -> bool {
    let is_plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.,:/@#".contains(c));
    let half = |half: &Option<dmi::TwinProperty>| {
        half.as_ref().is_some_and(|half| is_plain(&half.value) && half.value.len() <= 512)
    };
    is_plain(&twin.property_name) && half(&twin.observed_desired) && half(&twin.reported)
}

#[tonic::async_trait]
impl DeviceManagerService for Service {
    async fn mapper_register(
        &self,
        request: Request<dmi::MapperRegisterRequest>,
    ) -> Result<Response<dmi::MapperRegisterResponse>, Status> {
        let request = request.into_inner();
        let mapper = request.mapper.unwrap();
        assert!(request.with_data && mapper.state == "ok");
        let socket = PathBuf::from(String::from_utf8(mapper.address).unwrap());
        assert!(UnixStream::connect(&socket).await.is_ok(), "it must listen before it registers");
        let mut inside = self.seen.lock();
        let is_served =
            |device: &&Json| device["spec"]["protocol"]["protocolName"] == mapper.protocol.as_str();
        let served: Vec<Json> = inside.devices.values().filter(is_served).cloned().collect();
        let (model_list, device_list) = served.iter().map(|device| inside.messages(device)).unzip();
        inside.registered.push(socket);
        let mut response = Response::new(dmi::MapperRegisterResponse { model_list, device_list });
        if self.maker == Maker::Isthmus {
            response.metadata_mut().insert(ANY_TEXT, MetadataValue::from_static("1"));
        }
        Ok(response)
    }

    async fn report_device_status(
        &self,
        request: Request<dmi::ReportDeviceStatusRequest>,
    ) -> Result<Response<dmi::ReportDeviceStatusResponse>, Status> {
        let request = request.into_inner();
        let twins = request.reported_device.unwrap().twins;
        assert!(!twins.is_empty(), "a report without values");
        self.admit(&request.device_name)?;
        let mut inside = self.seen.lock();
        if self.maker == Maker::KubeEdge && !twins.iter().all(is_plain) {
            inside.n_dropped += 1;
            return Ok(Response::new(dmi::ReportDeviceStatusResponse {}));
        }
        inside.rounds.push(twins.iter().map(|twin| twin.property_name.clone()).collect());
        for twin in twins {
            inside.reported.push(Reported {
                device: request.device_name.clone(),
                property: twin.property_name,
                // Go edges die of a missing half.
                value: twin.reported.expect("both halves").value,
                observed_desired: twin.observed_desired.expect("both halves").value,
            });
        }
        Ok(Response::new(dmi::ReportDeviceStatusResponse {}))
    }

    async fn report_device_states(
        &self,
        request: Request<dmi::ReportDeviceStatesRequest>,
    ) -> Result<Response<dmi::ReportDeviceStatesResponse>, Status> {
        let request = request.into_inner();
        assert!(["online", "offline", "ok", "unhealthy"].contains(&request.state.as_str()), "{request:?}");
        self.admit(&request.device_name)?;
        self.seen.lock().states.push((request.device_name, request.state));
        Ok(Response::new(dmi::ReportDeviceStatesResponse {}))
    }
}

fn mapper(socket: PathBuf) -> DeviceMapperServiceClient<Channel> {
    DeviceMapperServiceClient::new(ke_dmi::socket::channel(socket, PATIENCE))
}

fn text(json: &Json) -> String {
    json.as_str().unwrap_or_default().to_owned()
}

/// A `pushMethod` as edgecore sends it.
pub(crate) fn push_method(method: &Json) -> dmi::PushMethod {
    let number = |json: &Json| json.as_i64().unwrap_or_default();
    let narrow = |json: &Json| i32::try_from(number(json)).unwrap();
    let http = |http: &Json| dmi::PushMethodHttp {
        hostname: text(&http["hostName"]),
        port: number(&http["port"]),
        requestpath: text(&http["requestPath"]),
        timeout: number(&http["timeout"]),
    };
    let mqtt = |mqtt: &Json| dmi::PushMethodMqtt {
        address: text(&mqtt["address"]),
        topic: text(&mqtt["topic"]),
        qos: narrow(&mqtt["qos"]),
        retained: mqtt["retained"].as_bool().unwrap_or_default(),
    };
    let influx = |influx: &Json| {
        let (client, data) = (&influx["influxdb2ClientConfig"], &influx["influxdb2DataConfig"]);
        let tags = data["tag"].as_object().into_iter().flatten();
        dmi::DbMethodInfluxdb2 {
            influxdb2_client_config: Some(dmi::Influxdb2ClientConfig {
                url: text(&client["url"]),
                org: text(&client["org"]),
                bucket: text(&client["bucket"]),
            }),
            influxdb2_data_config: Some(dmi::Influxdb2DataConfig {
                measurement: text(&data["measurement"]),
                tag: tags.map(|(key, value)| (key.clone(), text(value))).collect(),
                field_key: text(&data["fieldKey"]),
            }),
        }
    };
    let redis = |redis: &Json| dmi::DbMethodRedis {
        redis_client_config: redis.get("redisClientConfig").map(|client| dmi::RedisClientConfig {
            addr: text(&client["addr"]),
            db: narrow(&client["db"]),
            poolsize: narrow(&client["poolsize"]),
            min_idle_conns: narrow(&client["minIdleConns"]),
        }),
    };
    let tdengine = |tdengine: &Json| {
        let client = &tdengine["TDEngineClientConfig"];
        let (addr, dbname) = (text(&client["addr"]), text(&client["dbName"]));
        dmi::DbMethodTdEngine { td_engine_client_config: Some(dmi::TdEngineClientConfig { addr, dbname }) }
    };
    let mysql = |mysql: &Json| {
        let client = &mysql["mysqlClientConfig"];
        dmi::DbMethodMySql {
            mysql_client_config: Some(dmi::MySqlClientConfig {
                addr: text(&client["addr"]),
                database: text(&client["database"]),
                user_name: text(&client["userName"]),
            }),
        }
    };
    dmi::PushMethod {
        http: method.get("http").map(http),
        mqtt: method.get("mqtt").map(mqtt),
        otel: method.get("otel").map(|otel| dmi::PushMethodOtel { endpoint_url: text(&otel["endpointURL"]) }),
        db_method: method.get("dbMethod").map(|databases| dmi::DbMethod {
            influxdb2: databases.get("influxdb2").map(influx),
            redis: databases.get("redis").map(redis),
            tdengine: databases.get("TDEngine").map(tdengine),
            mysql: databases.get("mysql").map(mysql),
        }),
        anomaly_detection: method.get("anomalyDetection").map(|_| dmi::AnomalyDetection::default()),
    }
}

/// `namespace/name`.
fn name_of(manifest: &Json) -> String {
    let metadata = &manifest["metadata"];
    format!("{}/{}", text(&metadata["namespace"]), text(&metadata["name"]))
}

fn list(json: &Json) -> &[Json] {
    json.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The device's settings over the model's.
fn merged(model: &Json, device: &Json) -> Option<dmi::CustomizedValue> {
    let mut settings = Map::new();
    for source in [model, device] {
        for (key, value) in source.as_object().into_iter().flatten() {
            settings.insert(key.clone(), value.clone());
        }
    }
    Some(value::to_data(&settings).unwrap())
}

impl Inside {
    /// A device and its model as edgecore sends them.
    fn messages(&self, manifest: &Json) -> (dmi::DeviceModel, dmi::Device) {
        let (metadata, spec) = (&manifest["metadata"], &manifest["spec"]);
        let namespace = text(&metadata["namespace"]);
        let model_name = text(&spec["deviceModelRef"]["name"]);
        let model = self.models.get(&format!("{namespace}/{model_name}")).expect("put the model first");
        let model_properties = list(&model["spec"]["properties"]);
        let properties = model_properties.iter().map(|property| dmi::ModelProperty {
            name: text(&property["name"]),
            description: text(&property["description"]),
            r#type: text(&property["type"]),
            access_mode: text(&property["accessMode"]),
            minimum: text(&property["minimum"]),
            maximum: text(&property["maximum"]),
            unit: text(&property["unit"]),
        });
        let model_message = dmi::DeviceModel {
            name: model_name.clone(),
            namespace: namespace.clone(),
            spec: Some(dmi::DeviceModelSpec { properties: properties.collect(), commands: vec![] }),
        };
        let properties = list(&spec["properties"]).iter().map(|property| {
            let known = model_properties.iter().find(|known| known["name"] == property["name"]);
            let known = known.unwrap_or(&Json::Null);
            let visitors = &property["visitors"];
            dmi::DeviceProperty {
                name: text(&property["name"]),
                desired: Some(dmi::TwinProperty {
                    value: text(&property["desired"]["value"]),
                    ..Default::default()
                }),
                visitors: Some(dmi::VisitorConfig {
                    protocol_name: text(&visitors["protocolName"]),
                    config_data: merged(&known["visitors"]["configData"], &visitors["configData"]),
                }),
                report_cycle: property["reportCycle"].as_i64().unwrap_or_default(),
                collect_cycle: property["collectCycle"].as_i64().unwrap_or_default(),
                report_to_cloud: property["reportToCloud"].as_bool().unwrap_or_default(),
                push_method: property.get("pushMethod").map(push_method),
            }
        });
        let methods = list(&spec["methods"]).iter().map(|method| dmi::DeviceMethod {
            name: text(&method["name"]),
            description: text(&method["description"]),
            property_names: list(&method["propertyNames"]).iter().map(text).collect(),
        });
        let protocol = &spec["protocol"];
        let state = &spec["stateReport"];
        let device = dmi::Device {
            name: text(&metadata["name"]),
            namespace,
            spec: Some(dmi::DeviceSpec {
                device_model_reference: model_name,
                protocol: Some(dmi::ProtocolConfig {
                    protocol_name: text(&protocol["protocolName"]),
                    config_data: merged(&model["spec"]["protocolConfigData"], &protocol["configData"]),
                }),
                properties: properties.collect(),
                methods: methods.collect(),
            }),
            status: Some(dmi::DeviceStatus {
                report_to_cloud: state["reportToCloud"].as_bool().unwrap_or_default(),
                report_cycle: state["reportCycle"].as_i64().unwrap_or_default(),
                ..Default::default()
            }),
        };
        (model_message, device)
    }
}
