//! The container runtime as edged sees it: the trait [`Runtime`] and its gRPC client [`CriClient`].
//!
//! Translates calls and errors, nothing more: what to call and when is decided in `plan.rs` and `images.rs`. It never
//! retries. Edged, its images and probes, and the node status call it; tests put `cri_fake` in its place.

use std::error::Error as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use hyper_util::rt::TokioIo;
use ke_cri::v1;
use ke_cri::v1::image_service_client::ImageServiceClient;
use ke_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Response, Status};

/// Why the runtime did not do what it was asked, by what the caller can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// The endpoint in the configuration cannot be used. A person must correct it.
    #[error("{0}")]
    BadEndpoint(String),
    /// Sandbox, container or image is not there. After a remove or stop this is success.
    #[error("{0}")]
    NotFound(String),
    /// A sandbox or container of this name and attempt is there already: look again, then use it or the next attempt.
    #[error("{0}")]
    AlreadyExists(String),
    /// The daemon is away or not ready. Ask again later; nothing is known about what it runs.
    #[error("{0}")]
    Unavailable(String),
    /// No answer in time. The runtime may still finish the work: look before repeating it.
    #[error("the container runtime did not answer {call} within {} s", after.as_secs())]
    Timeout { call: &'static str, after: Duration },
    /// The runtime has no such call.
    #[error("the container runtime does not know {0}")]
    NotOffered(&'static str),
    /// The runtime tried and said no. `message` is its own text, shown to users in statuses and events.
    #[error("{message}")]
    Refused { code: Code, message: String },
}

impl RuntimeError {
    /// True when stopping or removing has nothing left to do.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}

/// Container events as they happen. Ends, or yields an error and ends, when the runtime goes away.
pub type Events = BoxStream<'static, Result<v1::ContainerEventResponse, RuntimeError>>;

/// What edged asks of a container runtime. Ids are the runtime's own; times are nanoseconds since 1970.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Name and version of the runtime.
    async fn version(&self) -> Result<v1::VersionResponse, RuntimeError>;
    /// Conditions (`RuntimeReady`, `NetworkReady`), runtime handlers and features.
    async fn status(&self) -> Result<v1::StatusResponse, RuntimeError>;
    /// The runtime's cgroup driver; `None` when it cannot tell (containerd before 2.0).
    async fn cgroup_driver(&self) -> Result<Option<v1::CgroupDriver>, RuntimeError>;
    /// Its own configuration, in its own form, where it shows it.
    async fn shown_config(&self) -> Result<Option<String>, RuntimeError>;
    /// Tells the pod address range to runtimes that set up their network from it.
    async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), RuntimeError>;

    /// All sandboxes, ready or not.
    async fn list_sandboxes(&self) -> Result<Vec<v1::PodSandbox>, RuntimeError>;
    /// Addresses and namespaces of one sandbox.
    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, RuntimeError>;
    /// Creates and starts a sandbox with its network; gives its id. `handler` is empty for the default one.
    async fn run_sandbox(&self, config: &v1::PodSandboxConfig, handler: &str)
    -> Result<String, RuntimeError>;
    /// Ends what runs in it and takes its network down. Done already: success.
    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError>;
    /// Removes it and its containers. Gone already: success.
    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError>;

    /// All containers in any state.
    async fn list_containers(&self) -> Result<Vec<v1::Container>, RuntimeError>;
    /// State, exit code, reason, times, mounts and image of one container.
    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, RuntimeError>;
    /// Creates a container in a sandbox; gives its id.
    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &v1::ContainerConfig,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError>;
    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// Sends the stop signal, waits up to `grace`, then kills. Returns when it has ended. Gone already: success.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;
    /// Removes a container, running or not. Gone already: success.
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError>;
    /// Changes the limits of a running container.
    async fn update_resources(
        &self,
        id: &str,
        resources: &v1::LinuxContainerResources,
    ) -> Result<(), RuntimeError>;
    /// The log file was moved away: write to a new one of the same name.
    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError>;
    /// Usage of all containers.
    async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>, RuntimeError>;

    /// Runs a command in a container and waits for its end, at most `limit`.
    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<v1::ExecSyncResponse, RuntimeError>;
    /// URL at which the runtime waits for an exec stream.
    async fn exec_url(&self, request: v1::ExecRequest) -> Result<String, RuntimeError>;
    /// URL at which the runtime waits for an attach stream.
    async fn attach_url(&self, request: v1::AttachRequest) -> Result<String, RuntimeError>;
    /// URL at which the runtime waits for a port-forward stream.
    async fn port_forward_url(&self, request: v1::PortForwardRequest) -> Result<String, RuntimeError>;

    /// All images.
    async fn list_images(&self) -> Result<Vec<v1::Image>, RuntimeError>;
    /// One image by reference or id, or `None`.
    async fn image_status(&self, image: &v1::ImageSpec) -> Result<Option<v1::Image>, RuntimeError>;
    /// Pulls an image; gives the id to create containers from. No deadline of ours: a slow link may need hours, and
    /// the runtime ends a pull without progress itself. Dropping the future ends the pull.
    async fn pull_image(
        &self,
        image: &v1::ImageSpec,
        auth: Option<&v1::AuthConfig>,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError>;
    /// Removes an image. Gone already: success.
    async fn remove_image(&self, image: &v1::ImageSpec) -> Result<(), RuntimeError>;
    /// Where images lie and how much they use.
    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, RuntimeError>;

    /// Events from now on, or `None` when the runtime offers none (containerd 1.6): poll then.
    async fn events(&self) -> Result<Option<Events>, RuntimeError>;
}

/// Quick calls: the kubelet's own default for them.
const SHORT: Duration = Duration::from_secs(120);
/// Starting a sandbox may run slow network plugins: twice as long, as the kubelet does.
const SANDBOX: Duration = Duration::from_secs(240);
/// How long beyond the grace period the runtime may need to kill and to notice.
const KILL_SLACK: Duration = Duration::from_secs(60);
/// A list of some thousand containers with all their annotations passes gRPC's 4 MiB.
const MAX_MESSAGE: usize = 32 * 1024 * 1024;
/// A runtime without events says so at once; one with events may stay silent until the first.
const EVENTS_ANSWER: Duration = Duration::from_secs(2);

/// A container runtime behind a unix socket. Cheap to clone; connects on the first call and again after a loss.
#[derive(Clone, Debug)]
pub struct CriClient {
    socket: PathBuf,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl CriClient {
    /// A client for `unix:///run/containerd/containerd.sock` (or a bare absolute path). Does not connect yet: a runtime
    /// that starts after edgecore is normal at boot. Must be called inside a tokio runtime.
    pub fn connect(endpoint: &str) -> Result<Self, RuntimeError> {
        let socket = socket_path(endpoint)?;
        let path = socket.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(SHORT)
            .connect_with_connector_lazy(connector);
        Ok(Self {
            socket,
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE),
        })
    }

    /// Waits for one answer and puts its error in our words.
    async fn ask<T>(
        &self,
        call: &'static str,
        limit: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<T, RuntimeError> {
        let start = Instant::now();
        let answer = tokio::time::timeout(limit, answer).await;
        // The benchmark takes what the runtime needed from what a pod's start needed.
        tracing::debug!(
            call,
            micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX),
            "the container runtime answered"
        );
        match answer {
            Err(_) => Err(RuntimeError::Timeout { call, after: limit }),
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(translate(call, limit, &self.socket, &status)),
        }
    }
}

/// Of the configuration that containerd 1 shows as JSON: the driver of its default runtime.
fn driver_in_config(config: &str) -> Option<v1::CgroupDriver> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let containerd = config.get("containerd")?;
    let default = containerd.get("defaultRuntimeName").and_then(|name| name.as_str()).unwrap_or("runc");
    let runtime = containerd.get("runtimes")?.get(default)?;
    let of_runtime = runtime.get("options").and_then(|options| options.get("SystemdCgroup"));
    let is_systemd = of_runtime.or_else(|| config.get("systemdCgroup"))?.as_bool()?;
    Some(if is_systemd { v1::CgroupDriver::Systemd } else { v1::CgroupDriver::Cgroupfs })
}

#[async_trait]
impl Runtime for CriClient {
    async fn version(&self) -> Result<v1::VersionResponse, RuntimeError> {
        let request = v1::VersionRequest { version: "v1".to_owned() };
        self.ask("Version", SHORT, self.runtime.clone().version(request)).await
    }

    async fn status(&self) -> Result<v1::StatusResponse, RuntimeError> {
        self.ask("Status", SHORT, self.runtime.clone().status(v1::StatusRequest { verbose: false })).await
    }

    async fn cgroup_driver(&self) -> Result<Option<v1::CgroupDriver>, RuntimeError> {
        let mut client = self.runtime.clone();
        let answer = client.runtime_config(v1::RuntimeConfigRequest {});
        match self.ask("RuntimeConfig", SHORT, answer).await {
            Ok(response) => Ok(response.linux.map(|linux| linux.cgroup_driver())),
            // containerd before 2.0: it shows its configuration to who asks for everything.
            Err(RuntimeError::NotOffered(_)) => {
                Ok(self.shown_config().await?.as_deref().and_then(driver_in_config))
            }
            Err(error) => Err(error),
        }
    }

    async fn shown_config(&self) -> Result<Option<String>, RuntimeError> {
        let request = v1::StatusRequest { verbose: true };
        let mut status = self.ask("Status", SHORT, self.runtime.clone().status(request)).await?;
        Ok(status.info.remove("config"))
    }

    async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), RuntimeError> {
        let network_config = Some(v1::NetworkConfig { pod_cidr: pod_cidr.to_owned() });
        let request =
            v1::UpdateRuntimeConfigRequest { runtime_config: Some(v1::RuntimeConfig { network_config }) };
        self.ask("UpdateRuntimeConfig", SHORT, self.runtime.clone().update_runtime_config(request)).await?;
        Ok(())
    }

    async fn list_sandboxes(&self) -> Result<Vec<v1::PodSandbox>, RuntimeError> {
        let request = v1::ListPodSandboxRequest { filter: None };
        Ok(self.ask("ListPodSandbox", SHORT, self.runtime.clone().list_pod_sandbox(request)).await?.items)
    }

    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, RuntimeError> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let response =
            self.ask("PodSandboxStatus", SHORT, self.runtime.clone().pod_sandbox_status(request)).await?;
        response.status.ok_or_else(|| empty_answer("PodSandboxStatus"))
    }

    async fn run_sandbox(
        &self,
        config: &v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, RuntimeError> {
        let request =
            v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.to_owned() };
        let response =
            self.ask("RunPodSandbox", SANDBOX, self.runtime.clone().run_pod_sandbox(request)).await?;
        non_empty("RunPodSandbox", response.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(
            self.ask("StopPodSandbox", SANDBOX, self.runtime.clone().stop_pod_sandbox(request)).await,
        )
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(
            self.ask("RemovePodSandbox", SANDBOX, self.runtime.clone().remove_pod_sandbox(request)).await,
        )
    }

    async fn list_containers(&self) -> Result<Vec<v1::Container>, RuntimeError> {
        let request = v1::ListContainersRequest { filter: None };
        Ok(self.ask("ListContainers", SHORT, self.runtime.clone().list_containers(request)).await?.containers)
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, RuntimeError> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let response =
            self.ask("ContainerStatus", SHORT, self.runtime.clone().container_status(request)).await?;
        response.status.ok_or_else(|| empty_answer("ContainerStatus"))
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &v1::ContainerConfig,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(config.clone()),
            sandbox_config: Some(sandbox_config.clone()),
        };
        let response =
            self.ask("CreateContainer", SHORT, self.runtime.clone().create_container(request)).await?;
        non_empty("CreateContainer", response.container_id)
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.ask("StartContainer", SHORT, self.runtime.clone().start_container(request)).await?;
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout };
        let limit = grace.saturating_add(KILL_SLACK);
        gone_is_fine(self.ask("StopContainer", limit, self.runtime.clone().stop_container(request)).await)
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(self.ask("RemoveContainer", SHORT, self.runtime.clone().remove_container(request)).await)
    }

    async fn update_resources(
        &self,
        id: &str,
        resources: &v1::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(resources.clone()),
            ..Default::default()
        };
        let mut client = self.runtime.clone();
        let answer = client.update_container_resources(request);
        self.ask("UpdateContainerResources", SHORT, answer).await?;
        Ok(())
    }

    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.ask("ReopenContainerLog", SHORT, self.runtime.clone().reopen_container_log(request)).await?;
        Ok(())
    }

    async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>, RuntimeError> {
        let request = v1::ListContainerStatsRequest { filter: None };
        Ok(self
            .ask("ListContainerStats", SHORT, self.runtime.clone().list_container_stats(request))
            .await?
            .stats)
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        limit: Duration,
    ) -> Result<v1::ExecSyncResponse, RuntimeError> {
        let cmd = command.to_vec();
        // Rounded up: 0 would be no limit at all.
        let timeout = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX).max(1);
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout };
        // The runtime's own limit first: it says that the command was killed, ours would not know.
        let outer = limit.saturating_add(KILL_SLACK);
        let began = Instant::now();
        match self.ask("ExecSync", outer, self.runtime.clone().exec_sync(request)).await {
            // It hangs as a whole: this says nothing about the command.
            Err(error @ RuntimeError::Timeout { .. }) if began.elapsed() >= outer => {
                Err(RuntimeError::Unavailable(error.to_string()))
            }
            Err(RuntimeError::Timeout { call, .. }) => Err(RuntimeError::Timeout { call, after: limit }),
            other => other,
        }
    }

    async fn exec_url(&self, request: v1::ExecRequest) -> Result<String, RuntimeError> {
        let response = self.ask("Exec", SHORT, self.runtime.clone().exec(request)).await?;
        non_empty("Exec", response.url)
    }

    async fn attach_url(&self, request: v1::AttachRequest) -> Result<String, RuntimeError> {
        let response = self.ask("Attach", SHORT, self.runtime.clone().attach(request)).await?;
        non_empty("Attach", response.url)
    }

    async fn port_forward_url(&self, request: v1::PortForwardRequest) -> Result<String, RuntimeError> {
        let response = self.ask("PortForward", SHORT, self.runtime.clone().port_forward(request)).await?;
        non_empty("PortForward", response.url)
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, RuntimeError> {
        let request = v1::ListImagesRequest { filter: None };
        Ok(self.ask("ListImages", SHORT, self.images.clone().list_images(request)).await?.images)
    }

    async fn image_status(&self, image: &v1::ImageSpec) -> Result<Option<v1::Image>, RuntimeError> {
        let request = v1::ImageStatusRequest { image: Some(image.clone()), verbose: false };
        match self.ask("ImageStatus", SHORT, self.images.clone().image_status(request)).await {
            Ok(response) => Ok(response.image),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn pull_image(
        &self,
        image: &v1::ImageSpec,
        auth: Option<&v1::AuthConfig>,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let request = v1::PullImageRequest {
            image: Some(image.clone()),
            auth: auth.cloned(),
            sandbox_config: Some(sandbox_config.clone()),
        };
        match self.images.clone().pull_image(request).await {
            Ok(response) => non_empty("PullImage", response.into_inner().image_ref),
            Err(status) => Err(translate("PullImage", Duration::ZERO, &self.socket, &status)),
        }
    }

    async fn remove_image(&self, image: &v1::ImageSpec) -> Result<(), RuntimeError> {
        let request = v1::RemoveImageRequest { image: Some(image.clone()) };
        gone_is_fine(self.ask("RemoveImage", SHORT, self.images.clone().remove_image(request)).await)
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, RuntimeError> {
        self.ask("ImageFsInfo", SHORT, self.images.clone().image_fs_info(v1::ImageFsInfoRequest {})).await
    }

    async fn events(&self) -> Result<Option<Events>, RuntimeError> {
        const CALL: &str = "GetContainerEvents";
        let mut client = self.runtime.clone();
        let mut answer = async move { client.get_container_events(v1::GetEventsRequest {}).await }.boxed();
        let socket = self.socket.clone();
        // A Go server sends its headers with the first event, so no answer in a while means that it does offer them.
        let opened = tokio::time::timeout(EVENTS_ANSWER, &mut answer).await;
        let opening = match opened {
            Ok(Err(status)) if status.code() == Code::Unimplemented => return Ok(None),
            Ok(Err(status)) => return Err(translate(CALL, EVENTS_ANSWER, &self.socket, &status)),
            Ok(Ok(response)) => futures_util::future::ready(Ok(response)).boxed(),
            Err(_) => answer,
        };
        let events = stream::once(opening).flat_map(move |opened| match opened {
            Ok(response) => response.into_inner().boxed(),
            Err(status) => stream::once(futures_util::future::ready(Err(status))).boxed(),
        });
        let events = events.map(move |event| event.map_err(|s| translate(CALL, EVENTS_ANSWER, &socket, &s)));
        Ok(Some(events.boxed()))
    }
}

/// The socket's path in `containerRuntimeEndpoint`.
fn socket_path(endpoint: &str) -> Result<PathBuf, RuntimeError> {
    let path =
        endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    if path.starts_with('/') {
        return Ok(PathBuf::from(path));
    }
    Err(RuntimeError::BadEndpoint(format!(
        "the container runtime endpoint {endpoint:?} is not a unix socket: write it as \
         unix:///run/containerd/containerd.sock"
    )))
}

/// What containerd answers to everything while it reads what it had before it was started.
const STILL_STARTING: &str = "server is not initialized yet";

/// Puts a gRPC status in our words. A status that carries an I/O error never came from the runtime, nor does one that
/// carries any other: the connection broke under the call.
fn translate(call: &'static str, limit: Duration, socket: &Path, status: &Status) -> RuntimeError {
    if let Some(error) = io_cause(status) {
        return RuntimeError::Unavailable(unreachable_text(socket, error));
    }
    let message = status.message().to_owned();
    let broke_off = || {
        RuntimeError::Unavailable(format!(
            "the container runtime at {} broke off {call}: {message}",
            socket.display()
        ))
    };
    match status.code() {
        _ if status.source().is_some() || message.contains(STILL_STARTING) => broke_off(),
        Code::NotFound => RuntimeError::NotFound(message),
        Code::AlreadyExists => RuntimeError::AlreadyExists(message),
        Code::Unimplemented => RuntimeError::NotOffered(call),
        Code::DeadlineExceeded => RuntimeError::Timeout { call, after: limit },
        Code::Unavailable => broke_off(),
        code => RuntimeError::Refused { code, message },
    }
}

fn io_cause(status: &Status) -> Option<&std::io::Error> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io);
        }
        cause = error.source();
    }
    None
}

/// One sentence that says what is wrong with the socket and what to look at.
fn unreachable_text(socket: &Path, error: &std::io::Error) -> String {
    let path = socket.display();
    match error.kind() {
        std::io::ErrorKind::NotFound => format!(
            "there is no container runtime socket at {path}: check that containerd (or CRI-O) is running and that \
             containerRuntimeEndpoint names its socket"
        ),
        std::io::ErrorKind::ConnectionRefused => format!(
            "nothing answers at the container runtime socket {path}: check that containerd (or CRI-O) is running"
        ),
        std::io::ErrorKind::PermissionDenied => {
            format!("edgecore may not open the container runtime socket {path}: run it as root")
        }
        _ => format!("the connection to the container runtime at {path} broke: {error}"),
    }
}

fn gone_is_fine<T>(answer: Result<T, RuntimeError>) -> Result<(), RuntimeError> {
    match answer {
        Ok(_) | Err(RuntimeError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn non_empty(call: &'static str, id: String) -> Result<String, RuntimeError> {
    if id.is_empty() { Err(empty_answer(call)) } else { Ok(id) }
}

fn empty_answer(call: &'static str) -> RuntimeError {
    RuntimeError::Refused {
        code: Code::Internal,
        message: format!("the container runtime answered {call} with nothing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let check = |endpoint: &str, path: Option<&str>| {
            assert_eq!(socket_path(endpoint).ok(), path.map(PathBuf::from), "{endpoint}");
        };
        check("unix:///run/containerd/containerd.sock", Some("/run/containerd/containerd.sock"));
        check("unix:/run/crio/crio.sock", Some("/run/crio/crio.sock"));
        check("/run/containerd/containerd.sock", Some("/run/containerd/containerd.sock"));
        check("tcp://127.0.0.1:1234", None);
        check("containerd.sock", None);
        check("", None);
    }

    #[test]
    fn statuses() {
        let check = |code: Code, expected: RuntimeError| {
            let status = Status::new(code, "why");
            let socket = Path::new("/run/r.sock");
            assert_eq!(translate("StopContainer", Duration::from_secs(9), socket, &status), expected);
        };
        check(Code::NotFound, RuntimeError::NotFound("why".into()));
        check(Code::AlreadyExists, RuntimeError::AlreadyExists("why".into()));
        check(Code::Unimplemented, RuntimeError::NotOffered("StopContainer"));
        check(
            Code::DeadlineExceeded,
            RuntimeError::Timeout { call: "StopContainer", after: Duration::from_secs(9) },
        );
        check(
            Code::Unavailable,
            RuntimeError::Unavailable(
                "the container runtime at /run/r.sock broke off StopContainer: why".into(),
            ),
        );
        check(Code::Unknown, RuntimeError::Refused { code: Code::Unknown, message: "why".into() });
    }

    /// A daemon that was killed under a call, and one that has just been started.
    #[test]
    fn what_does_not_come_from_the_runtime() {
        let translated =
            |status: &Status| translate("StartContainer", SHORT, Path::new("/run/r.sock"), status);
        let mut cut = Status::cancelled("operation was canceled");
        assert!(matches!(translated(&cut), RuntimeError::Refused { .. }), "the runtime's own word");
        cut.set_source(std::sync::Arc::new(std::fmt::Error));
        assert!(matches!(translated(&cut), RuntimeError::Unavailable(_)));
        let starting = Status::unknown("server is not initialized yet");
        assert!(matches!(translated(&starting), RuntimeError::Unavailable(_)));
    }

    /// The sentence a user sees when containerd is not installed or the path is wrong.
    #[tokio::test]
    async fn missing_socket_is_one_clear_sentence() {
        let client = CriClient::connect("unix:///nonexistent/containerd.sock").unwrap();
        let error = client.version().await.unwrap_err();
        assert_eq!(
            error,
            RuntimeError::Unavailable(
                "there is no container runtime socket at /nonexistent/containerd.sock: check that containerd (or \
                 CRI-O) is running and that containerRuntimeEndpoint names its socket"
                    .into()
            )
        );
    }

    /// A socket file left by a daemon that died.
    #[tokio::test]
    async fn stale_socket_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let client = CriClient::connect(&format!("unix://{}", path.display())).unwrap();
        let error = client.list_images().await.unwrap_err();
        assert!(
            matches!(&error, RuntimeError::Unavailable(text) if text.starts_with("nothing answers")),
            "{error}"
        );
    }
}
