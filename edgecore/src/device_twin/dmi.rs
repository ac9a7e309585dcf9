//! What mappers call: registration, values and states, gRPC on a unix socket.
//!
//! It only turns calls into questions for DeviceTwin and waits for their answers; a report is answered once it is on disk.
//! Nothing limits how often a mapper calls but that: calls wait for the disk, and mappers wait for their calls.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ke_dmi::beside::{ANY_TEXT, MAX_WHY, WHY};
use ke_dmi::discovery::device_discovery_server::DeviceDiscoveryServer;
use ke_dmi::v1beta1 as dmi;
use ke_dmi::v1beta1::device_manager_service_server::{DeviceManagerService, DeviceManagerServiceServer};
use ke_run::shutdown::Shutdown;
use ke_wire::{ToldCondition, TwinProperty, TwinValue};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tonic::metadata::MetadataValue;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::discovery::Discoveries;
use super::mapper::is_alive;
use super::merge::Told;
use super::record::Registered;
use crate::edge_hub::handle::Cloud;

/// A mapper that is there answers this soon.
const ALIVE_LIMIT: Duration = Duration::from_secs(2);

/// What a mapper wants of DeviceTwin.
#[derive(Debug)]
pub(super) enum Ask {
    Register(Registration),
    /// Who serves the protocol, or has the name, at another address.
    Rival {
        mapper: Registered,
        reply: oneshot::Sender<Result<Option<Registered>, Status>>,
    },
    Report {
        device: Named,
        twin: Told,
        reply: oneshot::Sender<Result<(), Status>>,
    },
    State {
        device: Named,
        state: ToldCondition,
        why: String,
        reply: oneshot::Sender<Result<(), Status>>,
    },
}

/// A mapper says that it is there.
#[derive(Debug)]
pub(super) struct Registration {
    pub(super) mapper: Registered,
    /// Whether the answer holds everything that the mapper is to hold.
    pub(super) with_data: bool,
    pub(super) reply: oneshot::Sender<Result<dmi::MapperRegisterResponse, Status>>,
}

/// A device as a mapper names it; mappers of KubeEdge v1.15 know no namespaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) namespace: String,
    pub(super) name: String,
}

/// The service.
pub(super) struct Dmi(pub(super) mpsc::Sender<Ask>);

impl Dmi {
    async fn ask<T>(
        &self,
        ask: impl FnOnce(oneshot::Sender<Result<T, Status>>) -> Ask,
    ) -> Result<Response<T>, Status> {
        let stopping = || Status::unavailable("edgecore stops; call again when it is back");
        let (reply, answer) = oneshot::channel();
        self.0.send(ask(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?.map(Response::new)
    }

    /// Two mappers would both drive the devices of a protocol, or the wrong one would. Who is there stays, as long as it is.
    async fn refuse_rival(&self, mapper: &Registered) -> Result<(), Status> {
        let rival = self.ask(|reply| Ask::Rival { mapper: mapper.clone(), reply }).await?.into_inner();
        let Some(rival) = rival else { return Ok(()) };
        if !is_alive(rival.address.clone(), ALIVE_LIMIT).await {
            return Ok(());
        }
        let (what, key) = if rival.protocol == mapper.protocol {
            (
                format!("the protocol {:?} is served by the mapper {:?}", mapper.protocol, rival.name),
                "protocol",
            )
        } else {
            (format!("the name {:?} is that of the mapper of {:?}", mapper.name, rival.protocol), "name")
        };
        let message = format!(
            "{what} at {}, which answers: stop that one first, or give this one another common.{key}",
            rival.address.display()
        );
        tracing::warn!(name = mapper.name, address = %mapper.address.display(), "a mapper is not registered: {message}");
        Err(Status::already_exists(message))
    }
}

#[tonic::async_trait]
impl DeviceManagerService for Dmi {
    async fn mapper_register(
        &self,
        request: Request<dmi::MapperRegisterRequest>,
    ) -> Result<Response<dmi::MapperRegisterResponse>, Status> {
        let dmi::MapperRegisterRequest { with_data, mapper } = request.into_inner();
        let mapper = mapper.ok_or_else(|| Status::invalid_argument("mapper is missing"))?;
        if mapper.protocol.is_empty() {
            return Err(Status::invalid_argument(
                "mapper.protocol is empty: set common.protocol to the protocolName of the devices that it serves",
            ));
        }
        let address = String::from_utf8(mapper.address)
            .ok()
            .filter(|address| address.starts_with('/'))
            .ok_or_else(|| Status::invalid_argument("mapper.address is no absolute path of a unix socket"))?;
        let mapper = Registered {
            protocol: mapper.protocol,
            name: mapper.name,
            version: mapper.version,
            api_version: mapper.api_version,
            address: address.into(),
        };
        self.refuse_rival(&mapper).await?;
        let mut response = self.ask(|reply| Ask::Register(Registration { mapper, with_data, reply })).await?;
        response.metadata_mut().insert(ANY_TEXT, MetadataValue::from_static("1"));
        Ok(response)
    }

    async fn report_device_status(
        &self,
        request: Request<dmi::ReportDeviceStatusRequest>,
    ) -> Result<Response<dmi::ReportDeviceStatusResponse>, Status> {
        let dmi::ReportDeviceStatusRequest {
            device_name: name,
            reported_device,
            device_namespace: namespace,
        } = request.into_inner();
        let twins = reported_device.map(|device| device.twins).unwrap_or_default();
        if twins.is_empty() {
            return Err(Status::invalid_argument(format!("the report of {namespace}/{name} holds no twins")));
        }
        let mut told = Told::new();
        for dmi::Twin { property_name, observed_desired, reported } in twins {
            let half = |half: Option<dmi::TwinProperty>| {
                half.map(|half| TwinValue { value: Some(half.value), metadata: None })
            };
            // What nobody wanted is told as an empty text; a twin does not begin with it.
            let expected = half(observed_desired);
            let property = TwinProperty { expected, actual: half(reported), ..TwinProperty::default() };
            told.insert(property_name, Some(property));
        }
        self.ask(|reply| Ask::Report { device: Named { namespace, name }, twin: told, reply })
            .await
            .map(|_| Response::new(dmi::ReportDeviceStatusResponse {}))
    }

    async fn report_device_states(
        &self,
        request: Request<dmi::ReportDeviceStatesRequest>,
    ) -> Result<Response<dmi::ReportDeviceStatesResponse>, Status> {
        let why = request.metadata().get_bin(WHY).and_then(|why| why.to_bytes().ok()).unwrap_or_default();
        let why: String = String::from_utf8_lossy(&why).chars().take(MAX_WHY).collect();
        let dmi::ReportDeviceStatesRequest { device_name: name, device_namespace: namespace, state } =
            request.into_inner();
        if name.is_empty() || state.is_empty() {
            return Err(Status::invalid_argument("deviceName and state must not be empty"));
        }
        let state = state
            .parse()
            .map_err(|error| Status::invalid_argument(format!("device {namespace}/{name}: {error}")))?;
        self.ask(|reply| Ask::State { device: Named { namespace, name }, state, why, reply })
            .await
            .map(|_| Response::new(dmi::ReportDeviceStatesResponse {}))
    }
}

/// The socket of `modules.deviceTwin.dmiSockPath`: a folder, or a file whose folder is meant.
pub(super) fn socket_path(configured: &Path) -> PathBuf {
    let is_file = configured.extension().is_some_and(|extension| extension == "sock");
    let folder = if is_file { configured.parent().unwrap_or(Path::new("/")) } else { configured };
    folder.join("dmi.sock")
}

/// Serves until shutdown.
pub(super) async fn serve(listener: UnixListener, asks: mpsc::Sender<Ask>, cloud: Cloud, stop: Shutdown) {
    let server = Server::builder()
        .add_service(DeviceManagerServiceServer::new(Dmi(asks)))
        .add_service(DeviceDiscoveryServer::new(Discoveries(cloud)));
    let served =
        server.serve_with_incoming_shutdown(ke_dmi::incoming(listener), async move { stop.wait().await });
    if let Err(error) = served.await {
        tracing::error!(%error, "mappers can no longer call");
    }
}
