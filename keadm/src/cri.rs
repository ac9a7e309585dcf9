//! The container runtime of this machine, as far as keadm needs one before there is an edgecore: images are pulled, and the
//! programs that lie in an image are fetched.
//!
//! A runtime gives no file out of an image. So a container of it runs keadm's own `install-into`, which copies the programs beside
//! it into a folder of the machine. No sandbox of ours outlives the call; one of a keadm that was killed goes first. Whoever may
//! pull is the runtime's business: registries and their passwords are its configuration. Called by `host/machine.rs` alone.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use ke_cri::v1;
use ke_cri::v1::image_service_client::ImageServiceClient;
use ke_cri::v1::runtime_service_client::RuntimeServiceClient;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Response, Status};

/// The runtime has this long for a short call; it may have to make a sandbox, too.
const SHORT: Duration = Duration::from_secs(60);
/// A slow line and a registry far away.
const PULL: Duration = Duration::from_secs(15 * 60);
/// Two programs are copied.
const COPY: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);
/// Marks our sandboxes.
const LABEL: (&str, &str) = ("isthmus.io/keadm", "install-into");
/// Where the folder is in the container.
const MOUNT: &str = "/host";
/// What says why it failed, in the folder.
const LOG: &str = "install-into.log";
/// In the image, as KubeEdge's has it.
const PROGRAM: &str = "/usr/local/bin/keadm";

/// Pulls an image. `false`: it was there.
pub(crate) fn pull(endpoint: &str, image: &str) -> Result<bool, String> {
    run(async {
        let mut cri = Cri::connect(endpoint)?;
        cri.pull(image).await
    })
}

/// Copies the programs of an image into a folder that is there and empty.
pub(crate) fn fetch(endpoint: &str, image: &str, may_pull: bool, folder: &Path) -> Result<(), String> {
    run(async {
        let mut cri = Cri::connect(endpoint)?;
        if may_pull {
            cri.pull(image).await?;
        } else if !cri.is_there(image).await? {
            return Err("the container runtime has it not, and from which registry to pull it was not said"
                .to_owned());
        }
        cri.clear().await?;
        let config = sandbox(folder);
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let id = ask("make a sandbox", SHORT, cri.runtime.run_pod_sandbox(request)).await?.pod_sandbox_id;
        let done = cri.install(&id, config, image, folder).await;
        // Whatever happened.
        let cleared = cri.remove(id).await;
        done.and(cleared)
    })
}

fn run<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("start the async runtime: {error}"))?.block_on(work)
}

async fn ask<T>(
    what: &str,
    limit: Duration,
    answer: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, String> {
    match timeout(limit, answer).await {
        Err(_) => Err(format!("{what}: the container runtime did not answer within {} s", limit.as_secs())),
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(format!("{what}: {}", status.message())),
    }
}

struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

impl Cri {
    fn connect(endpoint: &str) -> Result<Self, String> {
        let socket = socket(endpoint)?;
        if !socket.exists() {
            return Err(format!("there is no container runtime at {}", socket.display()));
        }
        let connector = tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector);
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel),
        })
    }

    async fn pull(&mut self, image: &str) -> Result<bool, String> {
        if self.is_there(image).await? {
            return Ok(false);
        }
        let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = v1::PullImageRequest { image: Some(spec), ..Default::default() };
        ask(&format!("pull {image}"), PULL, self.images.pull_image(request)).await?;
        Ok(true)
    }

    async fn is_there(&mut self, image: &str) -> Result<bool, String> {
        let image_spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let status = v1::ImageStatusRequest { image: Some(image_spec), verbose: false };
        let found = ask(&format!("look for {image}"), SHORT, self.images.image_status(status)).await?;
        Ok(found.image.is_some())
    }

    /// Of a keadm that was killed.
    async fn clear(&mut self) -> Result<(), String> {
        let label_selector = [(LABEL.0.to_owned(), LABEL.1.to_owned())].into();
        let filter = Some(v1::PodSandboxFilter { label_selector, ..Default::default() });
        let request = v1::ListPodSandboxRequest { filter };
        let found = ask("list sandboxes", SHORT, self.runtime.list_pod_sandbox(request)).await?;
        for sandbox in found.items {
            self.remove(sandbox.id).await?;
        }
        Ok(())
    }

    async fn install(
        &mut self,
        sandbox: &str,
        sandbox_config: v1::PodSandboxConfig,
        image: &str,
        folder: &Path,
    ) -> Result<(), String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(container(image, folder)),
            sandbox_config: Some(sandbox_config),
        };
        let created = ask("make a container", SHORT, self.runtime.create_container(request)).await?;
        let container_id = created.container_id;
        let start = v1::StartContainerRequest { container_id: container_id.clone() };
        ask(&format!("start {PROGRAM} of {image}"), SHORT, self.runtime.start_container(start)).await?;
        let ended = timeout(COPY, self.wait(container_id)).await;
        match ended
            .map_err(|_| format!("{image} did not copy its programs within {} s", COPY.as_secs()))??
        {
            0 => Ok(()),
            code => {
                let log = fs::read_to_string(folder.join(LOG)).unwrap_or_default();
                let said = log.lines().last().unwrap_or_default();
                Err(format!("{image} could not copy its programs (exit code {code}): {said}"))
            }
        }
    }

    /// Its exit code.
    async fn wait(&mut self, container_id: String) -> Result<i32, String> {
        loop {
            let request = v1::ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
            let found = ask("look at a container", SHORT, self.runtime.container_status(request)).await?;
            match found.status {
                Some(status) if status.state() == v1::ContainerState::ContainerExited => {
                    return Ok(status.exit_code);
                }
                _ => sleep(LOOK).await,
            }
        }
    }

    /// With its containers.
    async fn remove(&mut self, id: String) -> Result<(), String> {
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
        ask("stop a sandbox", SHORT, self.runtime.stop_pod_sandbox(stop)).await?;
        let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: id };
        ask("remove a sandbox", SHORT, self.runtime.remove_pod_sandbox(remove)).await.map(drop)
    }
}

/// On the machine's own network: there may be none for pods yet.
fn sandbox(folder: &Path) -> v1::PodSandboxConfig {
    let namespaces = v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..Default::default() };
    let security_context =
        v1::LinuxSandboxSecurityContext { namespace_options: Some(namespaces), ..Default::default() };
    let name = "keadm-install-into".to_owned();
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            uid: format!("{name}-{}", std::process::id()),
            name,
            namespace: "kubeedge".into(),
            attempt: 0,
        }),
        log_directory: folder.display().to_string(),
        labels: [(LABEL.0.to_owned(), LABEL.1.to_owned())].into(),
        linux: Some(v1::LinuxPodSandboxConfig {
            security_context: Some(security_context),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container(image: &str, folder: &Path) -> v1::ContainerConfig {
    let mount = v1::Mount {
        container_path: MOUNT.into(),
        host_path: folder.display().to_string(),
        selinux_relabel: true,
        ..Default::default()
    };
    let namespaces = v1::NamespaceOption {
        network: v1::NamespaceMode::Node.into(),
        pid: v1::NamespaceMode::Container.into(),
        ..Default::default()
    };
    let security_context = v1::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces),
        readonly_rootfs: true,
        no_new_privs: true,
        ..Default::default()
    };
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: "install-into".into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: image.to_owned(), ..Default::default() }),
        command: vec![PROGRAM.into(), "install-into".into(), MOUNT.into()],
        mounts: vec![mount],
        log_path: LOG.into(),
        linux: Some(v1::LinuxContainerConfig {
            security_context: Some(security_context),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn socket(endpoint: &str) -> Result<PathBuf, String> {
    let path =
        endpoint.strip_prefix("unix://").or_else(|| endpoint.strip_prefix("unix:")).unwrap_or(endpoint);
    if path.starts_with('/') {
        return Ok(path.into());
    }
    Err(format!("{endpoint:?} is no unix socket: write it as unix:///run/containerd/containerd.sock"))
}

#[cfg(test)]
mod tests;
