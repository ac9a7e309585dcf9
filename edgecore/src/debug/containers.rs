//! The container runtime's pods and containers: names, states, images. Never their environment, arguments or annotations.

use std::fmt;

use ke_cri::v1;
use serde::Serialize;

use crate::edged::{Runtime, RuntimeError};

#[derive(Debug, Serialize)]
pub(super) struct Sandbox {
    id: String,
    namespace: String,
    name: String,
    uid: String,
    attempt: u32,
    is_ready: bool,
    containers: Vec<Container>,
}

#[derive(Debug, Serialize)]
struct Container {
    id: String,
    name: String,
    attempt: u32,
    state: &'static str,
    image: String,
    /// Why it does not run; empty while it does, or when the runtime does not say.
    reason: String,
    #[serde(rename = "exitCode")]
    exit_code: i32,
}

pub(super) async fn look(runtime: &dyn Runtime) -> Result<Vec<Sandbox>, RuntimeError> {
    let mut containers = Vec::new();
    for container in runtime.list_containers().await? {
        // One that was removed meanwhile has no status.
        let status = runtime.container_status(&container.id).await.ok();
        containers.push((container, status));
    }
    let mut sandboxes = Vec::new();
    for sandbox in runtime.list_sandboxes().await? {
        let metadata = sandbox.metadata.clone().unwrap_or_default();
        let own = containers.iter().filter(|(container, _)| container.pod_sandbox_id == sandbox.id);
        sandboxes.push(Sandbox {
            is_ready: sandbox.state() == v1::PodSandboxState::SandboxReady,
            id: sandbox.id.clone(),
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            attempt: metadata.attempt,
            containers: own.map(|(container, status)| of(container, status.as_ref())).collect(),
        });
    }
    sandboxes.sort_by(|a, b| (&a.namespace, &a.name, a.attempt).cmp(&(&b.namespace, &b.name, b.attempt)));
    Ok(sandboxes)
}

fn of(container: &v1::Container, status: Option<&v1::ContainerStatus>) -> Container {
    let metadata = container.metadata.clone().unwrap_or_default();
    Container {
        id: container.id.clone(),
        name: metadata.name,
        attempt: metadata.attempt,
        state: match container.state() {
            v1::ContainerState::ContainerCreated => "created",
            v1::ContainerState::ContainerRunning => "running",
            v1::ContainerState::ContainerExited => "exited",
            v1::ContainerState::ContainerUnknown => "unknown",
        },
        image: container.image.clone().unwrap_or_default().image,
        reason: status.map(|status| status.reason.clone()).unwrap_or_default(),
        exit_code: status.map(|status| status.exit_code).unwrap_or_default(),
    }
}

impl fmt::Display for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, namespace, name, uid, attempt, is_ready, containers } = self;
        let state = if *is_ready { "ready" } else { "not ready" };
        writeln!(f, "pod {namespace}/{name} uid {uid} attempt {attempt} {state} {id}")?;
        for Container { id, name, attempt, state, image, reason, exit_code } in containers {
            write!(f, "  container {name} attempt {attempt} {state}")?;
            if *state == "exited" {
                write!(f, " ({reason}, exit code {exit_code})")?;
            }
            writeln!(f, " image {image} {id}")?;
        }
        Ok(())
    }
}
