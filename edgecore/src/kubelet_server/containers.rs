//! What is done in containers: commands, attached terminals and forwarded ports, each a stream that the runtime serves; and
//! commands whose words come back when they have ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use ke_cri::v1;

use super::Sources;
use super::answer::{Answer, Refused, TEXT, whole};
use super::relay::{Joint, forward, wants_upgrade};
use super::route::{ContainerPath, PodPath};
use super::streaming::{Ends, StreamUrl, command, ports};
use crate::edged::{CONTAINER_NAME, RuntimeError, runs_for};
use crate::report_queue::{last_pod_statuses, with_status};
use crate::static_pods::as_run;

/// How long a command may take whose words nobody follows. The kubelet has no limit; a caller that goes does not end it.
const RUN_LIMIT: Duration = Duration::from_secs(3600);

impl Sources {
    /// Every pod of this node as it is now.
    pub(super) async fn pods(&self) -> Result<Vec<Arc<Pod>>, Refused> {
        let held = self.meta.pods().await.map_err(|error| Refused::broken(&error))?;
        let statuses = last_pod_statuses(&self.db).await.map_err(|error| Refused::broken(&error))?;
        let static_pods = self.static_pods.borrow().clone().unwrap_or_default();
        Ok(held.into_iter().map(|pod| as_run(with_status(pod, &statuses), &static_pods)).collect())
    }

    pub(super) async fn pod(&self, path: PodPath<'_>) -> Result<Arc<Pod>, Refused> {
        let found = self.pods().await?.into_iter().find(|pod| {
            let metadata = &pod.metadata;
            metadata.namespace.as_deref() == Some(path.namespace)
                && metadata.name.as_deref() == Some(path.name)
                && path.uid.is_none_or(|uid| metadata.uid.as_deref() == Some(uid))
        });
        found.ok_or_else(|| Refused::not_found("pod does not exist"))
    }

    pub(super) async fn exec(
        &self,
        path: ContainerPath<'_>,
        query: &[(String, String)],
        request: Request<Incoming>,
        joint: &Joint,
    ) -> Result<Answer, Refused> {
        let ends = Ends::parse(query).map_err(Refused::bad)?;
        must_upgrade(&request)?;
        let pod = self.pod(path.pod).await?;
        let container_id = self.running(&pod, path.container).await?;
        let Ends { stdin, stdout, stderr, tty } = ends;
        let asked = v1::ExecRequest { container_id, cmd: command(query), tty, stdin, stdout, stderr };
        told(path.pod, path.container, "a command is run for the cloud");
        to_runtime(self.runtime.exec_url(asked).await, request, joint).await
    }

    pub(super) async fn attach(
        &self,
        path: ContainerPath<'_>,
        query: &[(String, String)],
        request: Request<Incoming>,
        joint: &Joint,
    ) -> Result<Answer, Refused> {
        let ends = Ends::parse(query).map_err(Refused::bad)?;
        must_upgrade(&request)?;
        let pod = self.pod(path.pod).await?;
        let container_id = self.running(&pod, path.container).await?;
        let Ends { stdin, stdout, stderr, tty } = ends.with_tty(has_tty(&pod, path.container));
        let asked = v1::AttachRequest { container_id, stdin, tty, stdout, stderr };
        told(path.pod, path.container, "the cloud attaches to a container");
        to_runtime(self.runtime.attach_url(asked).await, request, joint).await
    }

    pub(super) async fn port_forward(
        &self,
        path: PodPath<'_>,
        query: &[(String, String)],
        request: Request<Incoming>,
        joint: &Joint,
    ) -> Result<Answer, Refused> {
        must_upgrade(&request)?;
        let protocol = request.headers().get(hyper::header::UPGRADE);
        let is_websocket =
            protocol.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let port = if is_websocket { ports(query).map_err(Refused::bad)? } else { Vec::new() };
        let pod = self.pod(path).await?;
        let pod_sandbox_id = self.sandbox(&pod).await?;
        told(path, "", "ports of a pod are forwarded for the cloud");
        let asked = v1::PortForwardRequest { pod_sandbox_id, port };
        to_runtime(self.runtime.port_forward_url(asked).await, request, joint).await
    }

    /// Runs `cmd`, its words parted by blanks and given to no shell, and gives all it said.
    pub(super) async fn run(
        &self,
        path: ContainerPath<'_>,
        query: &[(String, String)],
    ) -> Result<Answer, Refused> {
        let line = query.iter().find(|(name, _)| name == "cmd").map_or("", |(_, line)| line.as_str());
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        if line.is_empty() {
            return Err(Refused::bad("query parameter \"cmd\" is required"));
        }
        let pod = self.pod(path.pod).await?;
        let id = self.running(&pod, path.container).await?;
        told(path.pod, path.container, "a command is run for the cloud");
        let done = self.runtime.exec_sync(&id, &words, RUN_LIMIT).await;
        let done = done.map_err(|error| Refused::runtime(&error))?;
        if done.exit_code != 0 {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(Refused::broken(&format!("command '{line}' exited with {}: {said}", done.exit_code)));
        }
        Ok(whole(TEXT, [done.stdout, done.stderr].concat()))
    }

    /// The runtime's id of a container that runs, by what the runtime says now.
    async fn running(&self, pod: &Pod, name: &str) -> Result<String, Refused> {
        let listed = self.runtime.list_containers().await.map_err(|error| Refused::runtime(&error))?;
        let found = listed.into_iter().find(|container| {
            container.state() == v1::ContainerState::ContainerRunning
                && runs_for(&container.labels, pod)
                && container.labels.get(CONTAINER_NAME).is_some_and(|found| found == name)
        });
        // The kubelet's status for it, too.
        let gone = || Refused::broken(&format!("container not found ({name:?})"));
        found.map(|container| container.id).ok_or_else(gone)
    }

    /// The newest sandbox of the pod that still holds its network.
    async fn sandbox(&self, pod: &Pod) -> Result<String, Refused> {
        let listed = self.runtime.list_sandboxes().await.map_err(|error| Refused::runtime(&error))?;
        let ready = listed.into_iter().filter(|sandbox| {
            sandbox.state() == v1::PodSandboxState::SandboxReady && runs_for(&sandbox.labels, pod)
        });
        let newest = ready.max_by_key(|sandbox| sandbox.created_at);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let gone = || Refused::broken(&format!("failed to find sandboxID for pod {name}: it does not run"));
        newest.map(|sandbox| sandbox.id).ok_or_else(gone)
    }
}

/// On to the runtime's own server of streams, at the address that it has just given for this one.
async fn to_runtime(
    url: Result<String, RuntimeError>,
    request: Request<Incoming>,
    joint: &Joint,
) -> Result<Answer, Refused> {
    let url = url.map_err(|error| Refused::runtime(&error))?;
    forward(request, &StreamUrl::parse(&url).map_err(|why| Refused::broken(&why))?, joint).await
}

fn must_upgrade(request: &Request<Incoming>) -> Result<(), Refused> {
    if wants_upgrade(request.headers()) { Ok(()) } else { Err(Refused::bad("Upgrade request required")) }
}

fn told(pod: PodPath<'_>, container: &str, what: &str) {
    tracing::info!(namespace = pod.namespace, pod = pod.name, container, "{what}");
}

/// Whether the container was made with a terminal.
fn has_tty(pod: &Pod, name: &str) -> bool {
    containers(pod).get(name).copied().unwrap_or(false)
}

/// Every container of the spec by its name, and whether it has a terminal.
pub(super) fn containers(pod: &Pod) -> BTreeMap<&str, bool> {
    let Some(spec) = &pod.spec else { return BTreeMap::new() };
    let lasting = spec.init_containers.iter().flatten().chain(&spec.containers);
    let lasting = lasting.map(|container| (container.name.as_str(), container.tty));
    let passing = spec.ephemeral_containers.iter().flatten();
    let passing = passing.map(|container| (container.name.as_str(), container.tty));
    lasting.chain(passing).map(|(name, tty)| (name, tty.unwrap_or(false))).collect()
}
