//! A node for tests of drivers: takes registrations and reports on a unix socket and calls the mapper.
//!
//! [`FakeEdge`] keeps no twins and checks nothing; it records. The functions below make models and devices as a node
//! sends them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper_util::rt::TokioIo;
use ke_dmi::v1beta1 as wire;
use ke_dmi::v1beta1::device_manager_service_server::{DeviceManagerService, DeviceManagerServiceServer};
use ke_dmi::v1beta1::device_mapper_service_client::DeviceMapperServiceClient;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::config::{MapperConfig, Port};
use crate::settings::{DeviceName, PropertySettings};

/// What the node was told.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// All registrations.
    pub registrations: Vec<wire::MapperInfo>,
    /// The newest reported value and observed desired value of each property.
    pub values: BTreeMap<(DeviceName, String), (String, String)>,
    /// How often each property was reported.
    pub n_reports: BTreeMap<(DeviceName, String), usize>,
    /// Calls of ReportDeviceStatus.
    pub n_calls: usize,
    /// Calls of ReportDeviceStatus that were refused.
    pub n_refused: usize,
    /// All states of each device.
    pub states: BTreeMap<DeviceName, Vec<String>>,
}

impl Record {
    /// The newest reported value and observed desired value.
    #[must_use]
    pub fn value(&self, device: &str, property: &str) -> Option<(&str, &str)> {
        let (namespace, name) = device.split_once('/')?;
        let key = (DeviceName::new(namespace, name), property.to_owned());
        self.values.get(&key).map(|(reported, observed)| (reported.as_str(), observed.as_str()))
    }

    /// The newest state.
    #[must_use]
    pub fn state(&self, device: &str) -> Option<&str> {
        let (namespace, name) = device.split_once('/')?;
        self.states.get(&DeviceName::new(namespace, name))?.last().map(String::as_str)
    }
}

#[derive(Default)]
struct Shared {
    record: watch::Sender<Record>,
    /// What a registration is answered with.
    answer: Mutex<wire::MapperRegisterResponse>,
    /// The next calls of ReportDeviceStatus are refused with this.
    refusal: Mutex<Option<String>>,
}

/// The node. Its server stops when it is dropped; the socket file stays, as after a crash.
pub struct FakeEdge {
    shared: Arc<Shared>,
    socket: PathBuf,
    server: JoinHandle<()>,
}

impl FakeEdge {
    /// Listens on `dmi.sock` in this directory.
    pub fn start(directory: &Path) -> std::io::Result<Self> {
        let socket = directory.join("dmi.sock");
        let shared = Arc::new(Shared::default());
        let server = serve(&socket, Arc::clone(&shared))?;
        Ok(Self { shared, socket, server })
    }

    /// As if the node had crashed and come back: a new socket, the connections cut.
    pub fn restart(&mut self) -> std::io::Result<()> {
        self.server.abort();
        self.server = serve(&self.socket, Arc::clone(&self.shared))?;
        Ok(())
    }

    /// What the next registration is answered with.
    pub fn hand_out(&self, models: Vec<wire::DeviceModel>, devices: Vec<wire::Device>) {
        *lock(&self.shared.answer) =
            wire::MapperRegisterResponse { model_list: models, device_list: devices };
    }

    /// From now on reports of values are refused with this text, until `None`.
    pub fn refuse_reports(&self, text: Option<&str>) {
        *lock(&self.shared.refusal) = text.map(str::to_owned);
    }

    /// A mapper's configuration that finds this node; REST listens on a free port of loopback.
    #[must_use]
    pub fn config(&self) -> MapperConfig {
        let mut config = MapperConfig::default();
        config.grpc_server.socket_path = self.socket.with_file_name("mapper.sock");
        config.common.edgecore_sock.clone_from(&self.socket);
        config.common.http_port = Some(Port(0));
        config
    }

    /// Waits until what was recorded gives an answer, for ever: a test has its own limit.
    pub async fn until<T>(&self, answer: impl Fn(&Record) -> Option<T>) -> Option<T> {
        let mut record = self.shared.record.subscribe();
        let seen = record.wait_for(|record| answer(record).is_some()).await.ok()?;
        answer(&seen)
    }

    /// What was recorded so far.
    #[must_use]
    pub fn record(&self) -> Record {
        self.shared.record.borrow().clone()
    }

    /// Calls the mapper that registered last, as the node does.
    #[must_use]
    pub fn mapper(&self) -> Option<DeviceMapperServiceClient<Channel>> {
        let record = self.shared.record.borrow();
        let address = &record.registrations.last()?.address;
        let socket = PathBuf::from(String::from_utf8(address.clone()).ok()?);
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Some(DeviceMapperServiceClient::new(channel))
    }
}

impl Drop for FakeEdge {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn serve(socket: &Path, shared: Arc<Shared>) -> std::io::Result<JoinHandle<()>> {
    if socket.exists() {
        std::fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    let service = DeviceManagerServiceServer::new(Service(shared));
    let server = tonic::transport::Server::builder().add_service(service);
    Ok(tokio::spawn(async move {
        let _ = server.serve_with_incoming(ke_dmi::incoming(listener)).await;
    }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Service(Arc<Shared>);

#[tonic::async_trait]
impl DeviceManagerService for Service {
    async fn mapper_register(
        &self,
        request: Request<wire::MapperRegisterRequest>,
    ) -> Result<Response<wire::MapperRegisterResponse>, Status> {
        let request = request.into_inner();
        let mapper = request.mapper.ok_or_else(|| Status::unknown("no mapper"))?;
        self.0.record.send_modify(|record| record.registrations.push(mapper));
        let answer = lock(&self.0.answer).clone();
        Ok(Response::new(if request.with_data { answer } else { wire::MapperRegisterResponse::default() }))
    }

    async fn report_device_status(
        &self,
        request: Request<wire::ReportDeviceStatusRequest>,
    ) -> Result<Response<wire::ReportDeviceStatusResponse>, Status> {
        let refusal = lock(&self.0.refusal).clone();
        if let Some(text) = refusal {
            self.0.record.send_modify(|record| record.n_refused += 1);
            return Err(Status::unknown(text));
        }
        let request = request.into_inner();
        let device = DeviceName::new(request.device_namespace, request.device_name);
        let twins = request.reported_device.map(|device| device.twins).unwrap_or_default();
        let mut pairs = Vec::new();
        for twin in twins {
            let (Some(reported), Some(observed)) = (twin.reported, twin.observed_desired) else {
                return Err(Status::unknown("a twin lacks one of its halves: a Go node would have crashed"));
            };
            pairs.push(((device.clone(), twin.property_name), (reported.value, observed.value)));
        }
        if pairs.is_empty() {
            return Err(Status::unknown("no twins"));
        }
        self.0.record.send_modify(|record| {
            record.n_calls += 1;
            for (key, value) in pairs {
                *record.n_reports.entry(key.clone()).or_default() += 1;
                record.values.insert(key, value);
            }
        });
        Ok(Response::new(wire::ReportDeviceStatusResponse {}))
    }

    async fn report_device_states(
        &self,
        request: Request<wire::ReportDeviceStatesRequest>,
    ) -> Result<Response<wire::ReportDeviceStatesResponse>, Status> {
        let request = request.into_inner();
        let device = DeviceName::new(request.device_namespace, request.device_name);
        self.0.record.send_modify(|record| record.states.entry(device).or_default().push(request.state));
        Ok(Response::new(wire::ReportDeviceStatesResponse {}))
    }
}

/// A model: name, type and access mode of each property.
#[must_use]
pub fn model(namespace: &str, name: &str, properties: &[(&str, &str, &str)]) -> wire::DeviceModel {
    let property = |(name, kind, access): &(&str, &str, &str)| wire::ModelProperty {
        name: (*name).to_owned(),
        r#type: (*kind).to_owned(),
        access_mode: (*access).to_owned(),
        ..Default::default()
    };
    let properties = properties.iter().map(property).collect();
    let spec = wire::DeviceModelSpec { properties, commands: Vec::new() };
    wire::DeviceModel { name: name.to_owned(), namespace: namespace.to_owned(), spec: Some(spec) }
}

/// A property that is read every 100 ms and reported. `visitor`: an object of single values.
#[must_use]
pub fn property(name: &str, visitor: serde_json::Value) -> wire::DeviceProperty {
    let visitors = wire::VisitorConfig { protocol_name: String::new(), config_data: Some(data(visitor)) };
    wire::DeviceProperty {
        name: name.to_owned(),
        desired: Some(wire::TwinProperty::default()),
        visitors: Some(visitors),
        collect_cycle: 100,
        report_to_cloud: true,
        ..Default::default()
    }
}

/// A property as a driver gets it, writable and of this type.
#[must_use]
pub fn settings_of(name: &str, kind: &str, visitor: serde_json::Value) -> Arc<PropertySettings> {
    let model = model("test", "model", &[(name, kind, "ReadWrite")]);
    let device = device("test", "device", "model", serde_json::Value::Null, vec![property(name, visitor)]);
    let joined = crate::settings::join(&device, &model).unwrap_or_else(|fault| fail(&fault));
    joined.properties.into_iter().next().unwrap_or_else(|| fail("this is no type of a property"))
}

/// A test that is written wrong may stop.
#[expect(clippy::panic, reason = "only tests call it")]
fn fail<T>(fault: &str) -> T {
    panic!("{fault}")
}

/// The same property with a desired value.
#[must_use]
pub fn desired(property: wire::DeviceProperty, value: &str) -> wire::DeviceProperty {
    let desired = wire::TwinProperty { value: value.to_owned(), ..Default::default() };
    wire::DeviceProperty { desired: Some(desired), ..property }
}

/// A device with these properties. `protocol`: an object of single values.
#[must_use]
pub fn device(
    namespace: &str,
    name: &str,
    model: &str,
    protocol: serde_json::Value,
    properties: Vec<wire::DeviceProperty>,
) -> wire::Device {
    let protocol = wire::ProtocolConfig { protocol_name: String::new(), config_data: Some(data(protocol)) };
    let spec = wire::DeviceSpec {
        device_model_reference: model.to_owned(),
        protocol: Some(protocol),
        properties,
        methods: Vec::new(),
    };
    wire::Device {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        spec: Some(spec),
        status: Some(wire::DeviceStatus::default()),
    }
}

/// Nested values are left out, as no node sends them.
fn data(config: serde_json::Value) -> wire::CustomizedValue {
    let map = config.as_object().cloned().unwrap_or_default();
    ke_dmi::value::to_data(&map).unwrap_or_default()
}

/// The messages of the contract, for tests that need more than the functions above.
pub use ke_dmi::v1beta1 as messages;
