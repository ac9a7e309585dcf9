//! The device management interface both ways: serves the node's calls, registers, and registers again when needed.
//!
//! The server listens before the mapper registers, since a node calls at once. Decides nothing about devices: the
//! registry does.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ke_dmi::v1beta1 as wire;
use ke_dmi::v1beta1::device_mapper_service_server::{DeviceMapperService, DeviceMapperServiceServer};
use ke_run::backoff::Backoff;
use ke_run::shutdown::Shutdown;
use tokio::net::UnixListener;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::device::random;
use crate::edge::Edge;
use crate::registry::Registry;
use crate::settings::DeviceName;

/// Why there is no link at all.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The mapper's own socket cannot be made.
    #[error("grpc_server.socket_path: listen on {}: {source}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Something that is no socket is in its place; it is not ours to remove.
    #[error("grpc_server.socket_path: {} is there and is no socket; name another path or remove it", .0.display())]
    InTheWay(PathBuf),
    /// The server ended by itself.
    #[error("serve the node's calls: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Takes the mapper's socket. What a dead mapper left there is removed.
pub(crate) fn listen(path: &Path) -> Result<UnixListener, LinkError> {
    let failed = |source| LinkError::Listen { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                tracing::warn!(path = %path.display(), "another process serves this socket; it gets no more calls");
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        Ok(_) => return Err(LinkError::InTheWay(path.to_owned())),
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Whoever may connect may write to devices: the node runs as root, and nobody else needs to.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves the node until shutdown.
pub(crate) async fn serve(
    listener: UnixListener,
    registry: Arc<Registry>,
    stop: Shutdown,
) -> Result<(), LinkError> {
    let service = DeviceMapperServiceServer::new(Service(registry)).max_decoding_message_size(LARGEST_CALL);
    let server = tonic::transport::Server::builder().add_service(service);
    // Not the graceful end: a node that keeps a connection open would hold this process.
    tokio::select! {
        ended = server.serve_with_incoming(ke_dmi::incoming(listener)) => ended.map_err(LinkError::Serve),
        () = stop.wait() => Ok(()),
    }
}

/// One device or model.
const LARGEST_CALL: usize = 16 << 20;

struct Service(Arc<Registry>);

#[tonic::async_trait]
impl DeviceMapperService for Service {
    async fn register_device(
        &self,
        request: Request<wire::RegisterDeviceRequest>,
    ) -> Result<Response<wire::RegisterDeviceResponse>, Status> {
        let device = request.into_inner().device.ok_or_else(|| Status::invalid_argument("no device"))?;
        let (device_name, device_namespace) = (device.name.clone(), device.namespace.clone());
        self.put(device)?;
        Ok(Response::new(wire::RegisterDeviceResponse { device_name, device_namespace }))
    }

    async fn update_device(
        &self,
        request: Request<wire::UpdateDeviceRequest>,
    ) -> Result<Response<wire::UpdateDeviceResponse>, Status> {
        self.put(request.into_inner().device.ok_or_else(|| Status::invalid_argument("no device"))?)?;
        Ok(Response::new(wire::UpdateDeviceResponse {}))
    }

    async fn remove_device(
        &self,
        request: Request<wire::RemoveDeviceRequest>,
    ) -> Result<Response<wire::RemoveDeviceResponse>, Status> {
        let request = request.into_inner();
        self.0.remove_device(&DeviceName::new(request.device_namespace, request.device_name));
        Ok(Response::new(wire::RemoveDeviceResponse {}))
    }

    async fn create_device_model(
        &self,
        request: Request<wire::CreateDeviceModelRequest>,
    ) -> Result<Response<wire::CreateDeviceModelResponse>, Status> {
        let model = request.into_inner().model.ok_or_else(|| Status::invalid_argument("no model"))?;
        let (device_model_name, device_model_namespace) = (model.name.clone(), model.namespace.clone());
        self.0.put_model(model);
        Ok(Response::new(wire::CreateDeviceModelResponse { device_model_name, device_model_namespace }))
    }

    async fn update_device_model(
        &self,
        request: Request<wire::UpdateDeviceModelRequest>,
    ) -> Result<Response<wire::UpdateDeviceModelResponse>, Status> {
        self.0.put_model(request.into_inner().model.ok_or_else(|| Status::invalid_argument("no model"))?);
        Ok(Response::new(wire::UpdateDeviceModelResponse {}))
    }

    async fn remove_device_model(
        &self,
        request: Request<wire::RemoveDeviceModelRequest>,
    ) -> Result<Response<wire::RemoveDeviceModelResponse>, Status> {
        let request = request.into_inner();
        self.0.remove_model(&DeviceName::new(request.model_namespace, request.model_name));
        Ok(Response::new(wire::RemoveDeviceModelResponse {}))
    }

    async fn get_device(
        &self,
        request: Request<wire::GetDeviceRequest>,
    ) -> Result<Response<wire::GetDeviceResponse>, Status> {
        let request = request.into_inner();
        let name = DeviceName::new(request.device_namespace, request.device_name);
        let device =
            self.0.device(&name).ok_or_else(|| Status::not_found(format!("no device {name} here")))?;
        Ok(Response::new(wire::GetDeviceResponse { device: Some(device) }))
    }
}

impl Service {
    fn put(&self, device: wire::Device) -> Result<(), Status> {
        self.0.put_device(device).map_err(|error| {
            tracing::warn!(%error, "the node sent a device that cannot be used");
            Status::failed_precondition(error.to_string())
        })
    }
}

/// A node that does not take the registration is asked again at growing intervals.
const AGAIN: Backoff =
    Backoff { first: Duration::from_millis(500), factor: 2.0, max: Duration::from_secs(10), jitter: 0.5 };
/// How often it is looked whether the node's socket is another one.
const LOOK: Duration = Duration::from_secs(1);
/// How often models that devices wait for are asked for.
const ASK_FOR_MODELS: Duration = Duration::from_secs(30);

/// Keeps the mapper registered: at start, when the node's socket is another one, when a report found the node away, and
/// while a device waits for its model.
pub(crate) struct Registrar {
    pub(crate) edge: Edge,
    pub(crate) edge_socket: PathBuf,
    pub(crate) registry: Arc<Registry>,
    pub(crate) mapper: wire::MapperInfo,
    pub(crate) registrations: prometheus_client::metrics::counter::Counter,
}

/// Why the mapper registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The node is new or was away: it may have lost what it was told.
    Node,
    /// Only models are missing.
    Models,
}

impl Registrar {
    pub(crate) async fn run(self, stop: Shutdown) -> Result<(), LinkError> {
        let mut why = Why::Node;
        loop {
            let Some(seen) = self.register(why, &stop).await else { return Ok(()) };
            let registered = Instant::now();
            why = loop {
                tokio::select! {
                    () = stop.wait() => return Ok(()),
                    () = self.edge.lost() => {
                        tracing::warn!("the node went away; registering again");
                        break Why::Node;
                    }
                    () = tokio::time::sleep(LOOK) => {}
                }
                let now = identity(&self.edge_socket);
                if now.is_some() && now != seen {
                    tracing::info!("the node made its socket anew; registering again");
                    break Why::Node;
                }
                if self.registry.has_waiting() && registered.elapsed() >= ASK_FOR_MODELS {
                    break Why::Models;
                }
            };
        }
    }

    /// The socket that was there when it succeeded. `None`: stop.
    async fn register(&self, why: Why, stop: &Shutdown) -> Option<Option<(u64, u64)>> {
        let mut attempt = 0;
        loop {
            let seen = identity(&self.edge_socket);
            let asked = self.registry.moment();
            let answer = tokio::select! {
                answer = self.edge.register(self.mapper.clone()) => answer,
                () = stop.wait() => return None,
            };
            match answer {
                Ok(answer) => {
                    let (n_devices, n_models) = (answer.device_list.len(), answer.model_list.len());
                    tracing::info!(protocol = %self.mapper.protocol, n_devices, n_models, "registered");
                    self.registrations.inc();
                    self.registry.reconcile(asked, answer);
                    if why == Why::Node {
                        self.registry.tell_again();
                    }
                    return Some(seen);
                }
                Err(error) => {
                    let socket = self.edge_socket.display();
                    if attempt == 0 {
                        tracing::warn!(%socket, %error, "not registered yet, goes on trying");
                    }
                    let delay = AGAIN.delay(attempt, random());
                    attempt = attempt.saturating_add(1);
                    tokio::select! {
                        () = tokio::time::sleep(delay) => {}
                        () = stop.wait() => return None,
                    }
                }
            }
        }
    }
}

/// Which file it is: a restarted node makes a new one under the same name.
fn identity(socket: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(socket).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_socket_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("m.sock");
        drop(listen(&path).unwrap());
        drop(listen(&path).unwrap());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let file = directory.path().join("precious");
        std::fs::write(&file, "x").unwrap();
        assert!(matches!(listen(&file), Err(LinkError::InTheWay(_))));
        assert!(matches!(listen(&directory.path().join("no/such")), Err(LinkError::Listen { .. })));
    }
}
