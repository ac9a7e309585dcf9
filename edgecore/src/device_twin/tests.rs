//! DeviceTwin with a real store, a real socket and a mapper that serves the other half of the DMI.

use std::path::Path;
use std::sync::{Arc, Mutex};

use hyper_util::rt::TokioIo;
use ke_dmi::v1beta1 as wire;
use ke_dmi::v1beta1::device_manager_service_client::DeviceManagerServiceClient;
use ke_dmi::v1beta1::device_mapper_service_server::{DeviceMapperService, DeviceMapperServiceServer};
use ke_run::shutdown::Trigger;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response};

use super::*;
use crate::db::Synchronous;
use crate::edge_hub::Cloud;
use crate::report_queue::{DeviceOutbox, DeviceReport, DeviceReportQueue, ParcelNews};

/// What a mapper was told, in order.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>, Arc<Notify>);

impl Told {
    fn note(&self, what: String) {
        self.0.lock().unwrap().push(what);
        self.1.notify_one();
    }

    /// Waits until it holds exactly this. The runner's own limit ends a wait in vain.
    async fn is(&self, expected: &[&str]) {
        while *self.0.lock().unwrap() != expected {
            assert!(self.0.lock().unwrap().len() <= expected.len(), "{:?}", self.0.lock().unwrap());
            // One that comes between the look and this leaves its permit.
            self.1.notified().await;
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl DeviceMapperService for Told {
    async fn register_device(
        &self,
        request: Request<wire::RegisterDeviceRequest>,
    ) -> Answer<wire::RegisterDeviceResponse> {
        self.note(format!("register {}", request.into_inner().device.unwrap().name));
        Ok(Response::new(Default::default()))
    }

    async fn remove_device(
        &self,
        request: Request<wire::RemoveDeviceRequest>,
    ) -> Answer<wire::RemoveDeviceResponse> {
        self.note(format!("remove {}", request.into_inner().device_name));
        Ok(Response::new(Default::default()))
    }

    async fn update_device(
        &self,
        request: Request<wire::UpdateDeviceRequest>,
    ) -> Answer<wire::UpdateDeviceResponse> {
        let device = request.into_inner().device.unwrap();
        let desired = device.spec.unwrap().properties[0].desired.clone().unwrap().value;
        self.note(format!("update {} {desired}", device.name));
        Ok(Response::new(Default::default()))
    }

    async fn create_device_model(
        &self,
        request: Request<wire::CreateDeviceModelRequest>,
    ) -> Answer<wire::CreateDeviceModelResponse> {
        self.note(format!("model {}", request.into_inner().model.unwrap().name));
        Ok(Response::new(Default::default()))
    }

    async fn remove_device_model(
        &self,
        request: Request<wire::RemoveDeviceModelRequest>,
    ) -> Answer<wire::RemoveDeviceModelResponse> {
        self.note(format!("remove model {}", request.into_inner().model_name));
        Ok(Response::new(Default::default()))
    }

    async fn update_device_model(
        &self,
        _: Request<wire::UpdateDeviceModelRequest>,
    ) -> Answer<wire::UpdateDeviceModelResponse> {
        Err(Status::unimplemented("edgecore creates models"))
    }

    async fn get_device(&self, _: Request<wire::GetDeviceRequest>) -> Answer<wire::GetDeviceResponse> {
        Err(Status::unimplemented("edgecore never asks"))
    }
}

struct Rig {
    news: mpsc::Sender<DeviceNews>,
    outbox: DeviceOutbox,
    mapper: DeviceManagerServiceClient<Channel>,
    // Dropped with the rig, as a killed process drops them.
    _tasks: JoinSet<()>,
    _trigger: Trigger,
}

async fn start(folder: &Path, held: Vec<DeviceNews>) -> Rig {
    let (db, _) = Db::open(&folder.join("e.db"), Synchronous::Full).unwrap();
    let (reports, outbox, queue) = DeviceReportQueue::new(db.clone(), Counter::default());
    let (news, receiver) = mpsc::channel(8);
    let config = DeviceTwinConfig { dmi_sock_path: folder.into(), ..DeviceTwinConfig::default() };
    let (_, membership) = mpsc::channel(1);
    let (_, heard) = mpsc::channel(1);
    let parts = Parts {
        config,
        node: "edge-1".parse().unwrap(),
        db,
        held,
        news: receiver,
        membership,
        heard,
        bus: Bus::nowhere(),
        reports,
        cloud: Cloud::channel().0,
        counters: Counters::new(&mut Metrics::new()),
    };
    let module = DeviceTwin::new(parts).await.unwrap();
    let mut tasks = JoinSet::new();
    let (trigger, stop) = Shutdown::new();
    let stop_too = stop.clone();
    tasks.spawn(async move { module.run(stop).await.unwrap() });
    tasks.spawn(async move { queue.run(stop_too).await.unwrap() });
    let socket = folder.join("dmi.sock");
    let channel =
        Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                loop {
                    if let Ok(stream) = UnixStream::connect(&socket).await {
                        return Ok::<_, std::io::Error>(TokioIo::new(stream));
                    }
                    tokio::task::yield_now().await;
                }
            }
        }));
    Rig { news, outbox, mapper: DeviceManagerServiceClient::new(channel), _tasks: tasks, _trigger: trigger }
}

fn id(name: &str) -> DeviceId {
    DeviceId { namespace: "plant".parse().unwrap(), name: name.parse().unwrap() }
}

fn model() -> DeviceNews {
    let json = json!({"metadata": {"name": "oven", "namespace": "plant"}, "spec": {"properties": [{"name": "limit"}]}});
    DeviceNews::Model(id("oven"), Some(Arc::new(serde_json::from_value(json).unwrap())))
}

fn device(name: &str, desired: &str) -> DeviceNews {
    let json = json!({
        "metadata": {"name": name, "namespace": "plant"},
        "spec": {"deviceModelRef": {"name": "oven"}, "protocol": {"protocolName": "virtual"},
            "properties": [{"name": "limit", "desired": {"value": desired}}]},
    });
    DeviceNews::Device(id(name), Some(Arc::new(serde_json::from_value(json).unwrap())))
}

fn registration(socket: &Path) -> wire::MapperRegisterRequest {
    let mapper = wire::MapperInfo {
        name: "m".into(),
        protocol: "virtual".into(),
        address: socket.to_string_lossy().into_owned().into_bytes(),
        ..Default::default()
    };
    wire::MapperRegisterRequest { with_data: true, mapper: Some(mapper) }
}

fn report(device: &str, value: &str) -> wire::ReportDeviceStatusRequest {
    let half = |value: &str| Some(wire::TwinProperty { value: value.into(), ..Default::default() });
    let twin =
        wire::Twin { property_name: "limit".into(), observed_desired: half(""), reported: half(value) };
    wire::ReportDeviceStatusRequest {
        device_name: device.into(),
        device_namespace: "plant".into(),
        reported_device: Some(wire::DeviceStatus { twins: vec![twin], ..Default::default() }),
    }
}

fn serve(told: &Told, socket: &Path, tasks: &mut JoinSet<()>) {
    let listener = UnixListener::bind(socket).unwrap();
    let server = Server::builder().add_service(DeviceMapperServiceServer::new(told.clone()));
    tasks.spawn(async move { drop(server.serve_with_incoming(ke_dmi::incoming(listener)).await) });
}

#[tokio::test]
async fn a_mapper_is_told_and_what_it_reports_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = start(folder.path(), vec![model(), device("a", "1")]).await;
    let socket = folder.path().join("m.sock");
    let given = rig.mapper.mapper_register(registration(&socket)).await.unwrap().into_inner();
    assert_eq!((given.model_list.len(), given.device_list.len()), (1, 1));

    // Told before the mapper serves, as mapper-framework registers: it is told once it does.
    rig.news.send(device("a", "2")).await.unwrap();
    rig.news.send(device("b", "1")).await.unwrap();
    let told = Told::default();
    let mut mapper = JoinSet::new();
    serve(&told, &socket, &mut mapper);
    told.is(&["update a 2", "register b"]).await;

    // What was answered is on disk.
    rig.mapper.report_device_status(report("a", "1.5")).await.unwrap();
    rig.mapper.report_device_status(report("a", "1.6")).await.unwrap();
    let unknown = rig.mapper.report_device_status(report("z", "1")).await.unwrap_err();
    assert_eq!(unknown.message(), "device plant/z is not on this node");
    drop(rig);

    // Nothing but the store is left; the mapper knows nothing of it.
    let mut rig = start(folder.path(), vec![model(), device("a", "2"), device("b", "3")]).await;
    told.is(&["update a 2", "register b", "update b 3"]).await;
    for expected in ["1.5", "1.6"] {
        let (parcel, report) = rig.outbox.outgoing.recv().await.unwrap();
        let DeviceReport::Twin(of, report) = report else { panic!("{report:?}") };
        let actual = report.twin["limit"].as_ref().unwrap().actual.as_ref().unwrap();
        assert_eq!((of, actual.value.as_deref()), (id("a"), Some(expected)));
        rig.outbox.news.send(ParcelNews::Confirmed(parcel)).await.unwrap();
    }
    rig.news.send(DeviceNews::Device(id("b"), None)).await.unwrap();
    told.is(&["update a 2", "register b", "update b 3", "remove b"]).await;
}

#[tokio::test]
async fn a_protocol_has_one_mapper_and_who_is_there_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = start(folder.path(), vec![model(), device("a", "1")]).await;
    let (first, second) = (folder.path().join("first.sock"), folder.path().join("second.sock"));
    let mut mapper = JoinSet::new();
    serve(&Told::default(), &first, &mut mapper);
    rig.mapper.mapper_register(registration(&first)).await.unwrap();
    // The same again, as after a restart.
    rig.mapper.mapper_register(registration(&first)).await.unwrap();
    let refused = rig.mapper.mapper_register(registration(&second)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    let expected = format!(
        "the protocol \"virtual\" is served by the mapper \"m\" at {}, which answers: stop that one first, or give this \
         one another common.protocol",
        first.display()
    );
    assert_eq!(refused.message(), expected);
    let mut other = registration(&second);
    other.mapper.as_mut().unwrap().protocol = "modbus".into();
    let refused = rig.mapper.mapper_register(other).await.unwrap_err();
    assert!(refused.message().starts_with("the name \"m\" is that of the mapper of \"virtual\" at "));
    mapper.shutdown().await;
    let given = rig.mapper.mapper_register(registration(&second)).await.unwrap().into_inner();
    assert_eq!(given.device_list.len(), 1);
}

#[tokio::test]
async fn after_a_restart_a_mapper_is_called_where_it_was_last() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = start(folder.path(), vec![model(), device("a", "1")]).await;
    let (first, second) = (folder.path().join("first.sock"), folder.path().join("second.sock"));
    // One that went, and the same one anew at another socket.
    rig.mapper.mapper_register(registration(&first)).await.unwrap();
    let told = Told::default();
    let mut mapper = JoinSet::new();
    serve(&told, &second, &mut mapper);
    rig.mapper.mapper_register(registration(&second)).await.unwrap();
    drop(rig);
    let _rig = start(folder.path(), vec![model(), device("a", "2")]).await;
    told.is(&["update a 2"]).await;
}

#[tokio::test]
async fn a_mapper_that_wants_no_data_is_called_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = start(folder.path(), vec![model(), device("a", "1")]).await;
    let socket = folder.path().join("m.sock");
    let told = Told::default();
    let mut mapper = JoinSet::new();
    serve(&told, &socket, &mut mapper);
    let without = wire::MapperRegisterRequest { with_data: false, ..registration(&socket) };
    let given = rig.mapper.mapper_register(without).await.unwrap().into_inner();
    assert_eq!((given.model_list.len(), given.device_list.len()), (0, 0));
    told.is(&["model oven", "register a"]).await;
}

#[tokio::test]
async fn a_registration_holds_each_model_once_and_a_bad_call_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = start(folder.path(), vec![model(), device("a", "1"), device("b", "1")]).await;
    let nobody = wire::MapperRegisterRequest { with_data: true, mapper: None };
    let refused = rig.mapper.mapper_register(nobody).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::InvalidArgument, "mapper is missing"));
    let mut bare = report("a", "1");
    let twin = &mut bare.reported_device.as_mut().unwrap().twins[0];
    (twin.observed_desired, twin.reported) = (None, None);
    rig.mapper.report_device_status(bare).await.unwrap();
    let given = rig.mapper.mapper_register(registration(&folder.path().join("m.sock"))).await.unwrap();
    let given = given.into_inner();
    assert_eq!((given.model_list.len(), given.device_list.len()), (1, 2));
}
