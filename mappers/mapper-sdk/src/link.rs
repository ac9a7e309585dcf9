//! The edge node over the DMI, both ways: serves what edgecore calls, registers, and sends reports.
//!
//! It registers again whenever edgecore's socket is another one or a report did not get through, as edgecore may have been
//! restarted or replaced. It decides nothing about devices, `fleet.rs` does, nor when reports go, `carrier.rs` does.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ke_dmi::beside::{ANY_TEXT, MAX_WHY, WHY};
use ke_dmi::discovery::device_discovery_client::DeviceDiscoveryClient;
use ke_dmi::v1beta1 as dmi;
use ke_dmi::v1beta1::device_manager_service_client::DeviceManagerServiceClient;
use ke_dmi::v1beta1::device_mapper_service_server::{DeviceMapperService, DeviceMapperServiceServer};
use ke_run::backoff::Backoff;
use ke_run::shutdown::Shutdown;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Response, Status};

use crate::config::Config;
use crate::driver::DeviceName;
use crate::manifest;
use crate::news::News;
use crate::outbox::Report;
use crate::terms::{Maker, Pace, Registered};
use crate::turns::Turns;

/// What KubeEdge gives a call between a mapper and an edge node.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How often edgecore's socket is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Between registrations and between tries of one report.
pub(crate) const AGAIN: Backoff =
    Backoff { first: Duration::from_millis(200), factor: 2.0, max: Duration::from_secs(15), jitter: 0.0 };
/// A registration's answer holds every device of the node.
const MAX_ANSWER: usize = 64 << 20;

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
#[error("grpc_server.socket_path: listen on {}: {why}", path.display())]
pub(crate) struct ListenError {
    path: PathBuf,
    why: std::io::Error,
}

/// Listens, over what an earlier run left behind.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, ListenError> {
    ke_dmi::socket::listen(path).map_err(|why| ListenError { path: path.to_owned(), why })
}

/// Serves edgecore until shutdown.
pub(crate) async fn serve(
    listener: UnixListener,
    news: mpsc::Sender<News>,
    stop: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let server = Server::builder().add_service(DeviceMapperServiceServer::new(Calls(news)));
    server.serve_with_incoming_shutdown(ke_dmi::incoming(listener), async move { stop.wait().await }).await
}

/// What edgecore calls. An answer means that the fleet will do it.
struct Calls(mpsc::Sender<News>);

impl Calls {
    async fn tell<T: Default>(&self, news: News) -> Result<Response<T>, Status> {
        let stopping = |_| Status::unavailable("the mapper stops; call again when it is back");
        self.0.send(news).await.map_err(stopping)?;
        Ok(Response::new(T::default()))
    }
}

fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("{what} is missing"))
}

#[tonic::async_trait]
impl DeviceMapperService for Calls {
    async fn register_device(
        &self,
        request: Request<dmi::RegisterDeviceRequest>,
    ) -> Result<Response<dmi::RegisterDeviceResponse>, Status> {
        let device = request.into_inner().device.ok_or_else(|| missing("device"))?;
        let (device_name, device_namespace) = (device.name.clone(), device.namespace.clone());
        let _: Response<()> = self.tell(News::Device(Box::new(device))).await?;
        Ok(Response::new(dmi::RegisterDeviceResponse { device_name, device_namespace }))
    }

    async fn remove_device(
        &self,
        request: Request<dmi::RemoveDeviceRequest>,
    ) -> Result<Response<dmi::RemoveDeviceResponse>, Status> {
        let dmi::RemoveDeviceRequest { device_name, device_namespace } = request.into_inner();
        self.tell(News::DeviceGone(manifest::name(&device_namespace, &device_name))).await
    }

    async fn update_device(
        &self,
        request: Request<dmi::UpdateDeviceRequest>,
    ) -> Result<Response<dmi::UpdateDeviceResponse>, Status> {
        let device = request.into_inner().device.ok_or_else(|| missing("device"))?;
        self.tell(News::Device(Box::new(device))).await
    }

    async fn create_device_model(
        &self,
        request: Request<dmi::CreateDeviceModelRequest>,
    ) -> Result<Response<dmi::CreateDeviceModelResponse>, Status> {
        let model = request.into_inner().model.ok_or_else(|| missing("model"))?;
        let (device_model_name, device_model_namespace) = (model.name.clone(), model.namespace.clone());
        let _: Response<()> = self.tell(News::Model(model)).await?;
        Ok(Response::new(dmi::CreateDeviceModelResponse { device_model_name, device_model_namespace }))
    }

    async fn remove_device_model(
        &self,
        request: Request<dmi::RemoveDeviceModelRequest>,
    ) -> Result<Response<dmi::RemoveDeviceModelResponse>, Status> {
        let dmi::RemoveDeviceModelRequest { model_name, model_namespace } = request.into_inner();
        self.tell(News::ModelGone(manifest::name(&model_namespace, &model_name))).await
    }

    async fn update_device_model(
        &self,
        request: Request<dmi::UpdateDeviceModelRequest>,
    ) -> Result<Response<dmi::UpdateDeviceModelResponse>, Status> {
        let model = request.into_inner().model.ok_or_else(|| missing("model"))?;
        self.tell(News::Model(model)).await
    }

    async fn get_device(
        &self,
        _: Request<dmi::GetDeviceRequest>,
    ) -> Result<Response<dmi::GetDeviceResponse>, Status> {
        Err(Status::unimplemented("no edge node asks for devices; the REST API tells them"))
    }
}

/// The way to the edge node, cheap to clone. One connection for all, made when first used and again when it broke.
#[derive(Clone)]
pub(crate) struct Edge {
    client: DeviceManagerServiceClient<Channel>,
    discovery: DeviceDiscoveryClient<Channel>,
    /// A report did not get through.
    pub(crate) lost: Arc<Notify>,
    /// The last registration; `None` before the first.
    pub(crate) registered: Arc<watch::Sender<Option<Registered>>>,
    /// For the calls to one that takes few.
    pub(crate) turns: Arc<Turns>,
}

impl Edge {
    pub(crate) fn new(socket: PathBuf) -> Self {
        let channel = ke_dmi::socket::channel(socket, CALL_LIMIT);
        let discovery = DeviceDiscoveryClient::new(channel.clone());
        let client = DeviceManagerServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER);
        Self {
            client,
            discovery,
            lost: Arc::new(Notify::new()),
            registered: Arc::new(watch::Sender::new(None)),
            turns: Arc::default(),
        }
    }

    /// Registers, and again whenever that may be needed, until shutdown.
    pub(crate) async fn keep_registered(
        self,
        config: Config,
        news: mpsc::Sender<News>,
        stop: Shutdown,
    ) -> Result<(), std::convert::Infallible> {
        let mut n_failures = 0_u32;
        loop {
            let socket = identity(&config.edge_socket);
            let wait = match self.register(&config, &news).await {
                Ok(()) => {
                    n_failures = 0;
                    self.changed_from(socket, &config.edge_socket)
                }
                Err(status) => {
                    if n_failures == 0 {
                        let edge = config.edge_socket.display();
                        tracing::warn!(%edge, error = reason(&status), "edgecore did not take the registration; it is tried again");
                    }
                    let wait = AGAIN.ceiling(n_failures);
                    n_failures = n_failures.saturating_add(1);
                    self.soon(wait, socket, &config.edge_socket)
                }
            };
            tokio::select! {
                () = wait => {}
                () = stop.wait() => return Ok(()),
            }
        }
    }

    async fn register(&self, config: &Config, news: &mpsc::Sender<News>) -> Result<(), Status> {
        let mapper = dmi::MapperInfo {
            name: config.name.clone(),
            version: config.version.clone(),
            api_version: config.api_version.clone(),
            protocol: config.protocol.clone(),
            address: config.socket.to_string_lossy().into_owned().into_bytes(),
            state: "ok".to_owned(),
        };
        // What edgecore calls from here on may be newer than the answer.
        let _ = news.send(News::Registering).await;
        let request = dmi::MapperRegisterRequest { with_data: true, mapper: Some(mapper) };
        let answer = limited(self.client.clone().mapper_register(request)).await?;
        let takes_any_text = answer.metadata().contains_key(ANY_TEXT);
        let maker = if takes_any_text { Maker::Isthmus } else { Maker::KubeEdge };
        let answer = answer.into_inner();
        tracing::info!(
            n_devices = answer.device_list.len(),
            n_models = answer.model_list.len(),
            "registered at edgecore"
        );
        // Before the answer's devices are driven: what is told of them depends on it.
        self.registered.send_modify(|last| {
            let is_other = last.is_none_or(|last| last.maker != maker);
            if is_other && maker == Maker::KubeEdge {
                tracing::info!(
                    "this is KubeEdge's edgecore: it takes less than Isthmus' (docs/devices.md says what)"
                );
            }
            *last = Some(Registered::next(*last, maker));
        });
        let _ = news.send(News::Registered(answer)).await;
        Ok(())
    }

    /// Ends when edgecore's socket is another one, or a report did not get through.
    fn changed_from(&self, socket: Option<Identity>, path: &Path) -> Wait<'_> {
        let path = path.to_owned();
        Box::pin(async move {
            // Not at once, should registrations get through and reports not.
            sleep(LOOK).await;
            tokio::select! {
                () = self.lost.notified() => {}
                () = another(socket, &path) => {}
            }
        })
    }

    /// Ends after a while, or when edgecore's socket is another one.
    fn soon(&self, wait: Duration, socket: Option<Identity>, path: &Path) -> Wait<'_> {
        let path = path.to_owned();
        Box::pin(async move {
            tokio::select! {
                () = sleep(wait) => {}
                () = another(socket, &path) => {}
            }
        })
    }

    /// Tells what a driver found around it. Errors: not taken; `Unimplemented` by edge nodes of KubeEdge.
    pub(crate) async fn discovered(
        &self,
        protocol: &str,
        devices: Vec<ke_dmi::discovery::DiscoveredDevice>,
    ) -> Result<(), Status> {
        let request = ke_dmi::discovery::ReportDiscoveredRequest { protocol: protocol.to_owned(), devices };
        limited(self.discovery.clone().report_discovered(request)).await.map(drop)
    }

    /// It refused a report as there were too many. Until it takes another registration it gets fewer.
    pub(crate) fn throttled(&self) {
        self.turns.refused();
        self.registered.send_if_modified(|last| match last {
            Some(Registered { pace: pace @ Pace::Every, .. }) => {
                tracing::warn!("the edge node takes fewer reports than there are: from now on one a second, with the newest values; sample less often");
                *pace = Pace::Newest;
                true
            }
            _ => false,
        });
    }

    /// Sends one report. Gives back what to do if it was not taken.
    pub(crate) async fn send(&self, device: &DeviceName, report: Report) -> Result<(), NotTaken> {
        let mut client = self.client.clone();
        let (device_name, device_namespace) = (device.name.clone(), device.namespace.clone());
        let sent = match report {
            Report::Values(twins) => {
                let reported_device = Some(dmi::DeviceStatus { twins, ..Default::default() });
                let request =
                    dmi::ReportDeviceStatusRequest { device_name, reported_device, device_namespace };
                limited(client.report_device_status(request)).await.map(drop)
            }
            Report::State(state, why) => {
                let state = state.word().to_owned();
                let mut request =
                    Request::new(dmi::ReportDeviceStatesRequest { device_name, device_namespace, state });
                if !why.is_empty() {
                    let why: String = why.chars().take(MAX_WHY).collect();
                    request.metadata_mut().insert_bin(WHY, MetadataValue::from_bytes(why.as_bytes()));
                }
                limited(client.report_device_states(request)).await.map(drop)
            }
        };
        sent.map_err(|status| not_taken(&status))
    }
}

type Wait<'a> = std::pin::Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Which file stands at a path. The number of a removed file is soon given to another one; its time is not.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> Option<Identity> {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
}

/// Ends when there is a socket, and another one than before.
async fn another(before: Option<Identity>, path: &Path) {
    loop {
        sleep(LOOK).await;
        let now = identity(path);
        if now.is_some() && now != before {
            return;
        }
    }
}

async fn limited<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<Response<T>, Status> {
    match timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", CALL_LIMIT.as_secs()))),
    }
}

/// Why a report still waits, or never will again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// It is not known whether it arrived; it is sent again.
    Away,
    /// The edge node takes few calls.
    Throttled,
    /// The edge node will never take it.
    Never(String),
}

fn not_taken(status: &Status) -> NotTaken {
    // An error with a source is not the edge node's answer but of the way there.
    let is_on_the_way = std::error::Error::source(status).is_some();
    match status.code() {
        _ if status.message().contains("too many request") => NotTaken::Throttled,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted | Code::Internal => {
            NotTaken::Away
        }
        Code::ResourceExhausted => NotTaken::Throttled,
        _ if is_on_the_way => NotTaken::Away,
        _ => NotTaken::Never(status.message().to_owned()),
    }
}

fn reason(status: &Status) -> String {
    let source = std::error::Error::source(status).map(ToString::to_string).unwrap_or_default();
    format!("{} {source}", status.message()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_again() {
        let check =
            |status: Status, expected: NotTaken| assert_eq!(not_taken(&status), expected, "{status:?}");
        check(Status::unavailable("edgecore stops"), NotTaken::Away);
        check(Status::from_error(Box::new(std::io::Error::other("broken pipe"))), NotTaken::Away);
        let text = "fail to report device status because of too many request: oven-1";
        check(Status::unknown(text), NotTaken::Throttled);
        check(
            Status::unknown("device plant/x is not on this node"),
            NotTaken::Never("device plant/x is not on this node".into()),
        );
        check(Status::invalid_argument("no twins"), NotTaken::Never("no twins".into()));
    }
}
