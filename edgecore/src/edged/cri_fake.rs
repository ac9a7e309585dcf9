//! A container runtime in memory, for tests of edged: it runs nothing, remembers every call, and fails on request.
//!
//! Time is what the test sets with [`FakeRuntime::set_now`]. Never used outside tests; it is public because the tests
//! of the whole crate drive edged through it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use ke_cri::v1;
use tokio::sync::{Notify, mpsc};
use tonic::Code;

use super::cri::{Events, Runtime, RuntimeError};

/// One call as it came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The trait's method, such as `run_sandbox`.
    pub name: &'static str,
    /// What it was about: an id, a pod's name, an image.
    pub subject: String,
}

/// Clones share one runtime.
#[derive(Clone, Default)]
pub struct FakeRuntime {
    inner: Arc<Mutex<Inner>>,
    released: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    now: i64,
    /// `now` was so much then; its clock goes on by itself from there.
    clock: Option<std::time::Instant>,
    next_id: u64,
    sandboxes: BTreeMap<String, v1::PodSandboxStatus>,
    containers: BTreeMap<String, FakeContainer>,
    images: BTreeMap<String, v1::Image>,
    /// What a registry would have: pulled on demand.
    registry: BTreeMap<String, v1::Image>,
    calls: Vec<Call>,
    /// Grace of each stop, seconds.
    graces: Vec<u64>,
    failures: BTreeMap<&'static str, VecDeque<RuntimeError>>,
    broken: BTreeMap<&'static str, RuntimeError>,
    away: Option<RuntimeError>,
    held: BTreeMap<&'static str, ()>,
    exec: BTreeMap<String, v1::ExecSyncResponse>,
    /// How starts fail, and with which code and reason their containers have ended then.
    bad_start: Option<(RuntimeError, i32, String)>,
    /// Containers that ignore their stop signal, by name.
    stubborn: Vec<String>,
    events: Option<mpsc::UnboundedSender<v1::ContainerEventResponse>>,
    offers_events: bool,
    stats: Vec<v1::ContainerStats>,
    /// What it says that it can do.
    handlers: Vec<v1::RuntimeHandler>,
    features: Option<v1::RuntimeFeatures>,
    /// Where streams are promised, `None`: where nobody listens; and what was asked for them.
    streaming: Option<String>,
    streams: Vec<String>,
}

struct FakeContainer {
    sandbox_id: String,
    config: v1::ContainerConfig,
    status: v1::ContainerStatus,
}

impl FakeRuntime {
    /// A healthy runtime without pods and images.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time put into every later status. Nanoseconds since 1970.
    pub fn set_now(&self, now: i64) {
        self.lock().now = now;
    }

    /// From `now` on its clock goes on by itself, as a real runtime's does: what starts later is younger.
    pub fn start_clock(&self, now: i64) {
        let mut inner = self.lock();
        (inner.now, inner.clock) = (now, Some(std::time::Instant::now()));
    }

    /// The next call of this method fails with this, the one after it succeeds; several queue up.
    pub fn fail_next(&self, method: &'static str, error: RuntimeError) {
        self.lock().failures.entry(method).or_default().push_back(error);
    }

    /// Every call of this method fails until `heal`.
    pub fn fail_always(&self, method: &'static str, error: RuntimeError) {
        self.lock().broken.insert(method, error);
    }

    /// The whole daemon is away until `heal`; what it runs stays.
    pub fn go_away(&self) {
        self.lock().away = Some(RuntimeError::Unavailable("the fake runtime is away".to_owned()));
    }

    /// Ends `fail_always` and `go_away`.
    pub fn heal(&self) {
        let mut inner = self.lock();
        inner.away = None;
        inner.broken.clear();
    }

    /// Calls of this method wait until `release`.
    pub fn hold(&self, method: &'static str) {
        self.lock().held.insert(method, ());
    }

    /// Lets held calls of this method go on.
    pub fn release(&self, method: &'static str) {
        self.lock().held.remove(method);
        self.released.notify_waiters();
    }

    /// The image is on this machine. `user` as an image states it: empty, a number or a name.
    pub fn add_image(&self, reference: &str, user: &str) {
        self.lock().images.insert(reference.to_owned(), image(reference, user));
    }

    /// A pull of this image works.
    pub fn add_to_registry(&self, reference: &str) {
        self.lock().registry.insert(reference.to_owned(), image(reference, ""));
    }

    /// What `exec_sync` of this first word gives.
    pub fn set_exec(&self, command: &str, exit_code: i32, stdout: &str) {
        let response = v1::ExecSyncResponse { stdout: stdout.into(), stderr: Vec::new(), exit_code };
        self.lock().exec.insert(command.to_owned(), response);
    }

    /// Its handlers of these names, the default one empty, can do all that a handler may; and it knows all policies.
    pub fn be_able(&self, handlers: &[&str]) {
        let handler = |name: &&str| v1::RuntimeHandler {
            name: (*name).to_owned(),
            features: Some(v1::RuntimeHandlerFeatures {
                recursive_read_only_mounts: true,
                user_namespaces: true,
            }),
        };
        let mut inner = self.lock();
        inner.handlers = handlers.iter().map(handler).collect();
        inner.features = Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
        });
    }

    /// What `container_stats` gives.
    pub fn set_stats(&self, stats: Vec<v1::ContainerStats>) {
        self.lock().stats = stats;
    }

    /// Streams are promised below this, such as `http://127.0.0.1:4321`.
    pub fn set_streaming(&self, base: &str) {
        self.lock().streaming = Some(base.to_owned());
    }

    /// Every stream that was asked for, as the request's debug text.
    #[must_use]
    pub fn streams(&self) -> Vec<String> {
        self.lock().streams.clone()
    }

    /// Containers of this name ignore their stop signal: `stop_container` ends them with 137.
    pub fn make_stubborn(&self, container_name: &str) {
        self.lock().stubborn.push(container_name.to_owned());
    }

    /// Every start fails, and its container has ended, as when its command is not there.
    pub fn fail_start(&self, error: RuntimeError, exit_code: i32, reason: &str) {
        self.lock().bad_start = Some((error, exit_code, reason.to_owned()));
    }

    /// From now on `events` gives a stream.
    pub fn offer_events(&self) {
        self.lock().offers_events = true;
    }

    /// The container's process ends by itself.
    pub fn exit_container(&self, id: &str, exit_code: i32, reason: &str) {
        let mut inner = self.lock();
        inner.end_container(id, exit_code, reason);
        inner.tell(id, v1::ContainerEventType::ContainerStoppedEvent);
    }

    /// The pause process dies: the sandbox is not ready any more and its containers have ended.
    pub fn kill_sandbox(&self, id: &str) {
        let mut inner = self.lock();
        inner.end_sandbox(id);
    }

    /// Everything asked so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// The grace periods that containers were stopped with, in seconds.
    #[must_use]
    pub fn graces(&self) -> Vec<u64> {
        self.lock().graces.clone()
    }

    /// Names of the calls that change something, in order, as `name subject`.
    #[must_use]
    pub fn changes(&self) -> Vec<String> {
        let reading = [
            "version",
            "status",
            "cgroup_driver",
            "shown_config",
            "events",
            "container_stats",
            "image_fs_info",
        ];
        let calls = self.calls();
        let changing = calls.iter().filter(|call| {
            !(reading.contains(&call.name)
                || call.name.starts_with("list_")
                || call.name.ends_with("_status"))
        });
        changing.map(|call| format!("{} {}", call.name, call.subject)).collect()
    }

    /// The id of the newest container of this name, if there is one.
    #[must_use]
    pub fn container_named(&self, name: &str) -> Option<String> {
        let inner = self.lock();
        let named = inner.containers.iter().filter(|(_, container)| {
            container.config.metadata.as_ref().is_some_and(|metadata| metadata.name == name)
        });
        named
            .max_by_key(|(_, container)| (container.status.created_at, container.status.id.clone()))
            .map(|(id, _)| id.clone())
    }

    /// What a container was created with.
    #[must_use]
    pub fn container_config(&self, id: &str) -> Option<v1::ContainerConfig> {
        self.lock().containers.get(id).map(|container| container.config.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the call, waits while it is held, and fails it when asked to.
    async fn enter(&self, name: &'static str, subject: &str) -> Result<(), RuntimeError> {
        self.lock().calls.push(Call { name, subject: subject.to_owned() });
        loop {
            let released = self.released.notified();
            tokio::pin!(released);
            // Listens before it looks, so that a release in between is not missed.
            released.as_mut().enable();
            if !self.lock().held.contains_key(name) {
                break;
            }
            released.await;
        }
        let mut inner = self.lock();
        if let Some(error) = inner.failures.get_mut(name).and_then(VecDeque::pop_front) {
            return Err(error);
        }
        let broken = inner.away.as_ref().or_else(|| inner.broken.get(name));
        broken.map_or(Ok(()), |error| Err(error.clone()))
    }
}

impl Inner {
    fn time(&self) -> i64 {
        let since = self.clock.map_or(0, |clock| clock.elapsed().as_nanos());
        self.now.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }

    /// Ids grow, so that their order is the order of creation.
    fn new_id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}-{:04}", self.next_id)
    }

    fn end_container(&mut self, id: &str, exit_code: i32, reason: &str) {
        let now = self.time();
        if let Some(container) = self.containers.get_mut(id)
            && container.status.state() != v1::ContainerState::ContainerExited
        {
            let status = &mut container.status;
            status.set_state(v1::ContainerState::ContainerExited);
            status.finished_at = now;
            status.exit_code = exit_code;
            reason.clone_into(&mut status.reason);
        }
    }

    fn end_sandbox(&mut self, id: &str) {
        let inside: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, container)| container.sandbox_id == id)
            .map(|(id, _)| id.clone())
            .collect();
        for container in inside {
            self.end_container(&container, 137, "Error");
        }
        if let Some(sandbox) = self.sandboxes.get_mut(id) {
            sandbox.set_state(v1::PodSandboxState::SandboxNotready);
        }
    }

    fn tell(&mut self, id: &str, kind: v1::ContainerEventType) {
        let Some(events) = &self.events else { return };
        let mut event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            created_at: self.time(),
            ..v1::ContainerEventResponse::default()
        };
        event.set_container_event_type(kind);
        if events.send(event).is_err() {
            self.events = None;
        }
    }

    fn promise(&mut self, request: String, path: &str) -> String {
        self.streams.push(request);
        format!("{}{path}", self.streaming.as_deref().unwrap_or("http://127.0.0.1:1"))
    }

    fn find_image(&self, reference: &str) -> Option<&v1::Image> {
        self.images.get(reference).or_else(|| self.images.values().find(|image| image.id == reference))
    }
}

fn image(reference: &str, user: &str) -> v1::Image {
    let uid = user.parse().ok().map(|value| v1::Int64Value { value });
    let username = if uid.is_none() { user.to_owned() } else { String::new() };
    v1::Image {
        id: format!("sha256:{reference}"),
        repo_tags: vec![reference.to_owned()],
        size: 1_000_000,
        uid,
        username,
        ..v1::Image::default()
    }
}

fn missing(what: &str, id: &str) -> RuntimeError {
    RuntimeError::NotFound(format!("no such {what}: {id}"))
}

fn refused(code: Code, message: String) -> RuntimeError {
    RuntimeError::Refused { code, message }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn version(&self) -> Result<v1::VersionResponse, RuntimeError> {
        self.enter("version", "").await?;
        Ok(v1::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "fake".to_owned(),
            runtime_version: "1".to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    async fn status(&self) -> Result<v1::StatusResponse, RuntimeError> {
        self.enter("status", "").await?;
        let ready = |kind: &str| v1::RuntimeCondition {
            r#type: kind.to_owned(),
            status: true,
            ..v1::RuntimeCondition::default()
        };
        let conditions = vec![ready("RuntimeReady"), ready("NetworkReady")];
        let inner = self.lock();
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus { conditions }),
            runtime_handlers: inner.handlers.clone(),
            features: inner.features,
            ..v1::StatusResponse::default()
        })
    }

    async fn cgroup_driver(&self) -> Result<Option<v1::CgroupDriver>, RuntimeError> {
        self.enter("cgroup_driver", "").await?;
        Ok(None)
    }

    async fn shown_config(&self) -> Result<Option<String>, RuntimeError> {
        self.enter("shown_config", "").await?;
        Ok(None)
    }

    async fn set_pod_cidr(&self, pod_cidr: &str) -> Result<(), RuntimeError> {
        self.enter("set_pod_cidr", pod_cidr).await
    }

    async fn list_sandboxes(&self) -> Result<Vec<v1::PodSandbox>, RuntimeError> {
        self.enter("list_sandboxes", "").await?;
        let inner = self.lock();
        let sandboxes = inner.sandboxes.values().map(|status| v1::PodSandbox {
            id: status.id.clone(),
            metadata: status.metadata.clone(),
            state: status.state,
            created_at: status.created_at,
            labels: status.labels.clone(),
            annotations: status.annotations.clone(),
            runtime_handler: status.runtime_handler.clone(),
        });
        Ok(sandboxes.collect())
    }

    async fn sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus, RuntimeError> {
        self.enter("sandbox_status", id).await?;
        self.lock().sandboxes.get(id).cloned().ok_or_else(|| missing("sandbox", id))
    }

    async fn run_sandbox(
        &self,
        config: &v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<String, RuntimeError> {
        let metadata = config.metadata.clone().unwrap_or_default();
        self.enter("run_sandbox", &metadata.name).await?;
        let mut inner = self.lock();
        if inner.sandboxes.values().any(|other| other.metadata.as_ref() == Some(&metadata)) {
            return Err(RuntimeError::AlreadyExists(format!(
                "sandbox {} {} is there",
                metadata.name, metadata.attempt
            )));
        }
        let id = inner.new_id("sandbox");
        let options = config
            .linux
            .as_ref()
            .and_then(|linux| linux.security_context.as_ref()?.namespace_options.clone());
        let on_host = options.as_ref().is_some_and(|options| options.network() == v1::NamespaceMode::Node);
        let ip = if on_host { String::new() } else { format!("10.9.0.{}", inner.next_id % 250 + 2) };
        let status = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: v1::PodSandboxState::SandboxReady.into(),
            created_at: inner.time(),
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
            linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: handler.to_owned(),
        };
        inner.sandboxes.insert(id.clone(), status);
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.enter("stop_sandbox", id).await?;
        self.lock().end_sandbox(id);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        self.enter("remove_sandbox", id).await?;
        let mut inner = self.lock();
        inner.containers.retain(|_, container| container.sandbox_id != id);
        inner.sandboxes.remove(id);
        Ok(())
    }

    async fn list_containers(&self) -> Result<Vec<v1::Container>, RuntimeError> {
        self.enter("list_containers", "").await?;
        let inner = self.lock();
        let containers = inner.containers.values().map(|container| {
            let status = &container.status;
            v1::Container {
                id: status.id.clone(),
                pod_sandbox_id: container.sandbox_id.clone(),
                metadata: status.metadata.clone(),
                image: status.image.clone(),
                image_ref: status.image_ref.clone(),
                state: status.state,
                created_at: status.created_at,
                labels: status.labels.clone(),
                annotations: status.annotations.clone(),
                image_id: status.image_id.clone(),
            }
        });
        Ok(containers.collect())
    }

    async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus, RuntimeError> {
        self.enter("container_status", id).await?;
        self.lock().containers.get(id).map(|c| c.status.clone()).ok_or_else(|| missing("container", id))
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        config: &v1::ContainerConfig,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        let metadata = config.metadata.clone().unwrap_or_default();
        self.enter("create_container", &metadata.name).await?;
        let mut inner = self.lock();
        let sandbox = inner.sandboxes.get(sandbox_id).ok_or_else(|| missing("sandbox", sandbox_id))?;
        if sandbox.state() != v1::PodSandboxState::SandboxReady {
            return Err(refused(Code::Unknown, format!("sandbox {sandbox_id} is not running")));
        }
        let taken = inner
            .containers
            .values()
            .any(|other| other.sandbox_id == sandbox_id && other.status.metadata.as_ref() == Some(&metadata));
        if taken {
            return Err(RuntimeError::AlreadyExists(format!("container {} is there", metadata.name)));
        }
        let reference = config.image.clone().unwrap_or_default().image;
        let image = inner.find_image(&reference).cloned().ok_or_else(|| missing("image", &reference))?;
        let id = inner.new_id("container");
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: v1::ContainerState::ContainerCreated.into(),
            created_at: inner.time(),
            image: config.image.clone(),
            image_ref: image.id.clone(),
            image_id: image.id,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: format!("{}/{}", sandbox_config.log_directory, config.log_path),
            ..v1::ContainerStatus::default()
        };
        let container = FakeContainer { sandbox_id: sandbox_id.to_owned(), config: config.clone(), status };
        inner.containers.insert(id.clone(), container);
        inner.tell(&id, v1::ContainerEventType::ContainerCreatedEvent);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.enter("start_container", id).await?;
        let mut inner = self.lock();
        let now = inner.time();
        let bad_start = inner.bad_start.clone();
        let container = inner.containers.get_mut(id).ok_or_else(|| missing("container", id))?;
        if container.status.state() != v1::ContainerState::ContainerCreated {
            return Err(refused(Code::Unknown, format!("container {id} is not in created state")));
        }
        if let Some((error, exit_code, reason)) = bad_start {
            inner.end_container(id, exit_code, &reason);
            return Err(error);
        }
        container.status.set_state(v1::ContainerState::ContainerRunning);
        container.status.started_at = now;
        inner.tell(id, v1::ContainerEventType::ContainerStartedEvent);
        Ok(())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.lock().graces.push(grace.as_secs());
        self.enter("stop_container", id).await?;
        let mut inner = self.lock();
        let name = inner.containers.get(id).and_then(|c| c.config.metadata.clone()).unwrap_or_default().name;
        let (exit_code, reason) =
            if inner.stubborn.contains(&name) { (137, "Error") } else { (0, "Completed") };
        inner.end_container(id, exit_code, reason);
        inner.tell(id, v1::ContainerEventType::ContainerStoppedEvent);
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.enter("remove_container", id).await?;
        let mut inner = self.lock();
        if inner.containers.remove(id).is_some() {
            inner.tell(id, v1::ContainerEventType::ContainerDeletedEvent);
        }
        Ok(())
    }

    async fn update_resources(
        &self,
        id: &str,
        resources: &v1::LinuxContainerResources,
    ) -> Result<(), RuntimeError> {
        self.enter("update_resources", id).await?;
        let mut inner = self.lock();
        let container = inner.containers.get_mut(id).ok_or_else(|| missing("container", id))?;
        container.status.resources = Some(v1::ContainerResources { linux: Some(resources.clone()) });
        Ok(())
    }

    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        self.enter("reopen_log", id).await
    }

    async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>, RuntimeError> {
        self.enter("container_stats", "").await?;
        Ok(self.lock().stats.clone())
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        _limit: Duration,
    ) -> Result<v1::ExecSyncResponse, RuntimeError> {
        let word = command.first().cloned().unwrap_or_default();
        self.enter("exec_sync", &format!("{id} {word}")).await?;
        let inner = self.lock();
        let container = inner.containers.get(id).ok_or_else(|| missing("container", id))?;
        if container.status.state() != v1::ContainerState::ContainerRunning {
            return Err(refused(Code::Unknown, format!("container {id} is not running")));
        }
        Ok(inner.exec.get(&word).cloned().unwrap_or_default())
    }

    async fn exec_url(&self, request: v1::ExecRequest) -> Result<String, RuntimeError> {
        self.enter("exec_url", &request.container_id).await?;
        Ok(self.lock().promise(format!("{request:?}"), &format!("/exec/{}", request.container_id)))
    }

    async fn attach_url(&self, request: v1::AttachRequest) -> Result<String, RuntimeError> {
        self.enter("attach_url", &request.container_id).await?;
        Ok(self.lock().promise(format!("{request:?}"), &format!("/attach/{}", request.container_id)))
    }

    async fn port_forward_url(&self, request: v1::PortForwardRequest) -> Result<String, RuntimeError> {
        self.enter("port_forward_url", &request.pod_sandbox_id).await?;
        Ok(self.lock().promise(format!("{request:?}"), &format!("/portforward/{}", request.pod_sandbox_id)))
    }

    async fn list_images(&self) -> Result<Vec<v1::Image>, RuntimeError> {
        self.enter("list_images", "").await?;
        Ok(self.lock().images.values().cloned().collect())
    }

    async fn image_status(&self, image: &v1::ImageSpec) -> Result<Option<v1::Image>, RuntimeError> {
        self.enter("image_status", &image.image).await?;
        Ok(self.lock().find_image(&image.image).cloned())
    }

    async fn pull_image(
        &self,
        image: &v1::ImageSpec,
        _auth: Option<&v1::AuthConfig>,
        _sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String, RuntimeError> {
        self.enter("pull_image", &image.image).await?;
        let mut inner = self.lock();
        let pulled =
            inner.registry.get(&image.image).cloned().ok_or_else(|| missing("image", &image.image))?;
        let id = pulled.id.clone();
        inner.images.insert(image.image.clone(), pulled);
        Ok(id)
    }

    async fn remove_image(&self, image: &v1::ImageSpec) -> Result<(), RuntimeError> {
        self.enter("remove_image", &image.image).await?;
        self.lock().images.retain(|reference, held| *reference != image.image && held.id != image.image);
        Ok(())
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse, RuntimeError> {
        self.enter("image_fs_info", "").await?;
        Ok(v1::ImageFsInfoResponse::default())
    }

    async fn events(&self) -> Result<Option<Events>, RuntimeError> {
        self.enter("events", "").await?;
        let mut inner = self.lock();
        if !inner.offers_events {
            return Ok(None);
        }
        // Unbounded: a test reads what it causes.
        let (sender, mut receiver) = mpsc::unbounded_channel();
        inner.events = Some(sender);
        Ok(Some(futures_util::stream::poll_fn(move |context| receiver.poll_recv(context)).map(Ok).boxed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: &str) -> (v1::PodSandboxConfig, v1::ContainerConfig) {
        let metadata =
            Some(v1::PodSandboxMetadata { name: name.into(), uid: "u".into(), ..Default::default() });
        let sandbox = v1::PodSandboxConfig { metadata, ..Default::default() };
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "app".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "busybox:1".into(), ..Default::default() }),
            ..Default::default()
        };
        (sandbox, container)
    }

    #[tokio::test]
    async fn a_container_lives_and_ends() {
        let fake = FakeRuntime::new();
        fake.add_image("busybox:1", "");
        let (pod, app) = config("web");
        let sandbox = fake.run_sandbox(&pod, "").await.unwrap();
        assert!(matches!(fake.run_sandbox(&pod, "").await, Err(RuntimeError::AlreadyExists(_))));
        let id = fake.create_container(&sandbox, &app, &pod).await.unwrap();
        fake.set_now(7);
        fake.start_container(&id).await.unwrap();
        fake.set_now(9);
        fake.exit_container(&id, 3, "Error");
        let status = fake.container_status(&id).await.unwrap();
        assert_eq!((status.started_at, status.finished_at, status.exit_code), (7, 9, 3));
        fake.remove_sandbox(&sandbox).await.unwrap();
        assert!(fake.container_status(&id).await.unwrap_err().is_not_found());
    }

    #[tokio::test]
    async fn failures_come_as_scripted() {
        let fake = FakeRuntime::new();
        let error = RuntimeError::NotOffered("x");
        fake.fail_next("version", error.clone());
        assert_eq!(fake.version().await.unwrap_err(), error);
        assert!(fake.version().await.is_ok());
        fake.go_away();
        assert!(matches!(fake.list_images().await, Err(RuntimeError::Unavailable(_))));
        fake.heal();
        assert!(fake.list_images().await.is_ok());
    }

    #[tokio::test]
    async fn held_calls_wait() {
        let fake = FakeRuntime::new();
        fake.hold("version");
        let other = fake.clone();
        let call = tokio::spawn(async move { other.version().await });
        while fake.calls().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(!call.is_finished());
        fake.release("version");
        assert!(call.await.unwrap().is_ok());
    }

    #[tokio::test]
    async fn events_when_offered() {
        let fake = FakeRuntime::new();
        assert!(fake.events().await.unwrap().is_none());
        fake.offer_events();
        fake.add_image("busybox:1", "");
        let mut events = fake.events().await.unwrap().unwrap();
        let (pod, app) = config("web");
        let sandbox = fake.run_sandbox(&pod, "").await.unwrap();
        let id = fake.create_container(&sandbox, &app, &pod).await.unwrap();
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event.container_id, id);
    }
}
