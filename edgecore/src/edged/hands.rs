//! Carries out what `plan.rs` asks for: turns a Pod into calls of the runtime, its images, files and cgroups.
//!
//! Decides nothing about when; every method may be repeated. A Pod's worker is the only caller.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use ke_cri::v1;
use tokio::sync::{Semaphore, mpsc};

use super::cgroups::PodCgroups;
use super::container::{NodeFacts, OUR_HASH, Start, container_config, spec_hash_text};
use super::cri::{Runtime, RuntimeError};
use super::desired::{Desired, DesiredPod};
use super::devices::PodDevices;
use super::env::{Environment, environment};
use super::failure_reason::FailureReason;
use super::fields::PodFacts;
use super::hooks::{ContainerStopper, Done, run_hook};
use super::images::{ImageError, ImageNotice, Images, Wish};
use super::log_links;
use super::plan::stop_after_failed_start;
use super::pod_files::PodFiles;
use super::probes::Said;
use super::pull_secrets::Keyring;
use super::resize;
use super::resources::{CpuQuota, pod_resources, qos};
use super::sandbox::{SandboxFacts, SandboxPlan, on_host_network, sandbox_config};
use super::security::{ImageUser, SecurityFacts};
use super::service_env::service_variables;
use crate::meta_manager::Objects;

/// Settings of this machine for its pods; `config.rs` fills them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This machine's name: pods of others are left alone.
    pub node_name: String,
    /// `podLogsDir`.
    pub pod_logs_root: PathBuf,
    /// `clusterDNS`.
    pub cluster_dns: Vec<String>,
    /// `clusterDomain`.
    pub cluster_domain: String,
    /// `resolvConf`: read at each start of a sandbox, since machines change networks. `None`: none.
    pub resolv_conf: Option<PathBuf>,
    /// How CPU limits are enforced.
    pub cpu: CpuQuota,
    /// Where `Localhost` seccomp profiles lie.
    pub seccomp_root: PathBuf,
    /// `seccompDefault`.
    pub seccomp_default: bool,
    /// CPUs of this machine.
    pub n_cpus: usize,
    /// Bytes.
    pub memory_capacity: i64,
    /// What the node gives to pods: stands in for limits that a container does not set.
    pub allocatable: BTreeMap<String, Quantity>,
    /// `podPidsLimit`.
    pub n_pids: Option<i64>,
}

/// Why an action was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The runtime did not answer: nothing is wrong with the Pod. Told where the runtime is looked at.
    RuntimeAway,
    /// It is told, and tried again later.
    Failed { reason: FailureReason, message: String },
}

/// All that actions need.
pub(super) struct Hands {
    pub(super) settings: Settings,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) images: Images,
    pub(super) files: Arc<dyn PodFiles>,
    pub(super) devices: Arc<dyn PodDevices>,
    pub(super) objects: Arc<dyn Objects>,
    /// `None` where this machine offers none that may be written.
    pub(super) cgroups: Option<PodCgroups>,
    /// Starting many sandboxes and containers at once makes each slower and a small machine swap.
    pub(super) heavy: Semaphore,
}

/// How many sandboxes and containers are being made at a time: more than cores, since each waits for disk and plugins.
pub(super) const N_HEAVY: usize = 8;

pub(super) type Tell<'a> = &'a (dyn Fn(ImageNotice) + Send + Sync);

impl Hands {
    /// What a Pod may ask about itself and its machine.
    pub(super) fn pod_facts(&self, pod: &Pod, host_ips: &[IpAddr], pod_ips: &[IpAddr]) -> PodFacts {
        let domain = &self.settings.cluster_domain;
        PodFacts {
            node_name: self.settings.node_name.clone(),
            host_ips: host_ips.to_vec(),
            pod_ips: if on_host_network(pod) { host_ips.to_vec() } else { pod_ips.to_vec() },
            // A name that cannot be made is refused where the sandbox is.
            cluster_domain: domain.clone(),
            allocatable: self.settings.allocatable.clone(),
            service_env: Vec::new(),
        }
    }

    /// What containers of a Pod are told of Services.
    pub(super) async fn service_env(&self, pod: &Pod) -> Vec<(String, String)> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let Ok(namespace) = namespace.parse() else { return Vec::new() };
        service_variables(pod, &self.objects.services(&namespace).await)
    }

    /// The sandbox as the runtime wants it, with what the user should be told about it.
    pub(super) fn sandbox_config(&self, pod: &Pod, attempt: u32) -> Result<SandboxPlan, Failure> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let parent = self.cgroups.as_ref().map(|c| c.parent(qos(pod), uid)).unwrap_or_default();
        let resolv_conf = match &self.settings.resolv_conf {
            None => None,
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| {
                Failure::new(
                    FailureReason::FailedCreatePodSandBox,
                    format!("cannot read {}: {error}", path.display()),
                )
            })?),
        };
        let facts = SandboxFacts {
            pod_logs_root: &self.settings.pod_logs_root,
            cgroup_parent: &parent,
            cluster_dns: &self.settings.cluster_dns,
            cluster_domain: &self.settings.cluster_domain,
            resolv_conf: resolv_conf.as_deref(),
            cpu: self.settings.cpu,
        };
        sandbox_config(pod, attempt, &facts)
            .map_err(|error| Failure::new(FailureReason::FailedCreatePodSandBox, error.to_string()))
    }

    /// Makes cgroup, log directory and sandbox.
    pub(super) async fn create_sandbox(
        &self,
        pod: &Pod,
        attempt: u32,
    ) -> Result<Vec<(&'static str, String)>, Failure> {
        let SandboxPlan { mut config, warnings } = self.sandbox_config(pod, attempt)?;
        let handler = self.handler(pod).await?;
        self.give_users(pod, Some(&handler), &mut config).await?;
        let _permit = self.heavy.acquire().await;
        let failed = |what: &str, why: String| {
            Failure::new(FailureReason::FailedCreatePodSandBox, format!("{what}: {why}"))
        };
        if let Some(cgroups) = &self.cgroups {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let resources = pod_resources(pod, self.settings.cpu);
            cgroups
                .ensure_pod(qos(pod), uid, &resources, self.settings.n_pids)
                .map_err(|error| failed("cannot make the pod's cgroup", error.to_string()))?;
        }
        tokio::fs::create_dir_all(&config.log_directory)
            .await
            .map_err(|error| failed("cannot make the pod's log directory", error.to_string()))?;
        match self.runtime.run_sandbox(&config, &handler).await {
            // The one that is there will be found by the next look.
            Ok(_) | Err(RuntimeError::AlreadyExists(_)) => Ok(warnings),
            Err(error) => {
                Err(Failure::of(FailureReason::FailedCreatePodSandBox, "Failed to create pod sandbox", error))
            }
        }
    }

    /// Makes sure of the image, makes the container and starts it. `tell` hears about the image and each step.
    pub(super) async fn start_container(
        &self,
        pod: &Pod,
        (container, target_id): (&Container, Option<&str>),
        sandbox: (&str, u32),
        facts: &PodFacts,
        attempt: u32,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let (sandbox_id, sandbox_attempt) = sandbox;
        let mut sandbox_config = self.sandbox_config(pod, sandbox_attempt)?.config;
        self.give_users(pod, None, &mut sandbox_config).await?;
        let handler = self.handler_of(pod, sandbox_id).await?;
        let home = (&sandbox_config, handler.as_str());
        let wanted = (container.image.as_deref().unwrap_or_default(), container.image_pull_policy.as_deref());
        let image_id = self.image(pod, wanted, home, tell).await?;
        let images = self.volume_images(pod, container, home, tell).await?;
        let config_error = |message: String| Failure::new(FailureReason::CreateContainerConfigError, message);
        // Before there is room for it: a plugin may take its time.
        let mut extras = self.devices.for_start(pod, container).await.map_err(config_error)?;
        let env = environment(pod, container, &*self.objects, facts).await;
        let Environment { variables: env, skipped } = env.map_err(|e| config_error(e.to_string()))?;
        for message in skipped {
            tell(ImageNotice { warning: true, reason: "InvalidEnvironmentVariableNames", message });
        }
        // Held only for what burdens the machine: not while the cloud is asked for a ConfigMap, nor during a hook, which may well
        // wait for another Pod of this node.
        let permit = self.heavy.acquire().await;
        let mounts = self.files.mounts(pod, &images.left_of(container), &env, facts).await;
        let mounts = mounts.map_err(|e| config_error(e.to_string()))?;
        let mut mounts = images.woven(container, mounts, &env).map_err(config_error)?;
        self.bind_read_only(container, &handler, &mut mounts).await?;
        let env: Vec<_> = std::mem::take(&mut extras.envs).into_iter().chain(env).collect();
        let spec = v1::ImageSpec { image: image_id.clone(), ..v1::ImageSpec::default() };
        let image = self.runtime.image_status(&spec).await;
        let image =
            image.map_err(|e| Failure::of(FailureReason::ImageInspectError, "Failed to inspect image", e))?;
        let image_user = image.as_ref().map_or(ImageUser::Uid(0), ImageUser::of);
        let node = NodeFacts {
            memory_capacity: self.settings.memory_capacity,
            cpu: self.settings.cpu,
            security: SecurityFacts {
                seccomp_root: &self.settings.seccomp_root,
                seccomp_default: self.settings.seccomp_default,
                n_cpus: self.settings.n_cpus,
            },
        };
        let start = Start {
            container,
            restart_count: attempt,
            image_id: &image_id,
            image_user: &image_user,
            env: &env,
            mounts,
            target_id,
        };
        let mut config = container_config(pod, start, &node).map_err(|e| config_error(e.to_string()))?;
        extras.put_into(&mut config);
        Self::share_users(&sandbox_config, &mut config);
        config.annotations.insert(OUR_HASH.to_owned(), spec_hash_text(container));
        if let Some(note) = resize::note(container) {
            config.annotations.insert(resize::RESOURCES.to_owned(), note);
        }
        let log = Path::new(&sandbox_config.log_directory).join(&config.log_path);
        if let Some(directory) = log.parent() {
            tokio::fs::create_dir_all(directory).await.map_err(|e| {
                Failure::new(
                    FailureReason::CreateContainerError,
                    format!("cannot make the log directory: {e}"),
                )
            })?;
        }
        let id = self.runtime.create_container(sandbox_id, &config, &sandbox_config).await;
        let id = id
            .map_err(|e| Failure::of(FailureReason::CreateContainerError, "Failed to create container", e))?;
        tell(said("Created", format!("Created container: {}", container.name)));
        let started = self.runtime.start_container(&id).await;
        started.map_err(|e| Failure::of(FailureReason::RunContainerError, "Failed to start container", e))?;
        log_links::make(&self.settings.pod_logs_root, pod, &container.name, &id, &log);
        tell(said("Started", format!("Started container {}", container.name)));
        drop(permit);
        self.post_start(pod, container, &id, facts, tell).await
    }

    /// The postStart hook, if there is one. A container whose hook fails is ended.
    async fn post_start(
        &self,
        pod: &Pod,
        container: &Container,
        id: &str,
        facts: &PodFacts,
        tell: Tell<'_>,
    ) -> Result<(), Failure> {
        let lifecycle = container.lifecycle.as_ref();
        let Some(handler) = lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return Ok(());
        };
        let warn = |reason: &'static str, message: String| {
            tell(ImageNotice { warning: true, reason, message });
        };
        let address = facts.pod_ips.first().map_or(String::new(), ToString::to_string);
        let error = match run_hook(handler, container, id, &address, &*self.runtime).await {
            Ok(None) => return Ok(()),
            Ok(Some(message)) => {
                warn("LifecycleHTTPFallback", message);
                return Ok(());
            }
            Err(error) => error,
        };
        tracing::warn!(container = %container.name, %error, "a postStart hook failed; the container is stopped");
        warn("FailedPostStartHook", "PostStartHook failed".into());
        tell(said("Killing", "FailedPostStartHook".into()));
        let desired = DesiredPod { want: Desired::Run(Arc::new(pod.clone())), hashes: BTreeMap::new() };
        let stop = stop_after_failed_start(&desired, &container.name, id);
        // Full: sixteen sentences of one hook are not to be expected.
        let (say, mut said) = mpsc::channel(16);
        let (runtime, pod) = (self.runtime.clone(), desired.pod().cloned());
        let stopper = ContainerStopper { runtime, pod, address, say, done: Done::default() };
        let stopped = stopper.stop_all(vec![stop]).await.into_iter().find_map(Result::err);
        while let Ok(Said { reason, message, .. }) = said.try_recv() {
            warn(reason, message);
        }
        if let Some(error) = stopped {
            return Err(Failure::of(FailureReason::FailedKillPod, "error killing container", error));
        }
        Err(Failure::new(FailureReason::PostStartHookError, "PostStartHook failed".into()))
    }

    /// Makes sure of an image by its name and pull policy, and gives its id.
    pub(super) async fn image(
        &self,
        pod: &Pod,
        (image, policy): (&str, Option<&str>),
        (sandbox, runtime_handler): (&v1::PodSandboxConfig, &str),
        tell: Tell<'_>,
    ) -> Result<String, Failure> {
        let keyring = self.keyring(pod, tell).await;
        let wish = Wish {
            pod_uid: pod.metadata.uid.as_deref().unwrap_or_default(),
            image,
            policy,
            keyring: &keyring,
            sandbox,
            runtime_handler,
        };
        let image = self.images.ensure(&wish, &Instant::now, tell).await;
        image.map_err(|error| match error {
            ImageError::RuntimeAway(_) => Failure::RuntimeAway,
            ImageError::Failed { reason, message } => Failure::new(reason, message),
        })
    }

    /// Credentials of the Pod. A secret that is missing is told, not fatal: the image may be public.
    async fn keyring(&self, pod: &Pod, tell: Tell<'_>) -> Keyring {
        let mut keyring = Keyring::new();
        let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for name in secrets.map(|reference| reference.name.as_str()) {
            let warn = |why: String| {
                let message = format!("Unable to retrieve image pull secret {name}: {why}");
                tell(ImageNotice { warning: true, reason: "FailedToRetrieveImagePullSecret", message });
            };
            let (Ok(namespace), Ok(key)) = (namespace.parse(), name.parse()) else {
                warn("this is no name".into());
                continue;
            };
            match self.objects.secret(&namespace, &key).await {
                Ok(secret) => keyring.add_secret(&secret).unwrap_or_else(|error| warn(error.to_string())),
                Err(error) => warn(error.to_string()),
            }
        }
        keyring
    }
}

impl Failure {
    pub(super) fn new(reason: FailureReason, message: String) -> Self {
        Self::Failed { reason, message }
    }

    pub(super) fn of(reason: FailureReason, what: &str, error: RuntimeError) -> Self {
        match error {
            RuntimeError::Unavailable(_) => Self::RuntimeAway,
            error => Self::new(reason, format!("{what}: {error}")),
        }
    }
}

fn said(reason: &'static str, message: String) -> ImageNotice {
    ImageNotice { warning: false, reason, message }
}
