//! One Pod's sandboxes and containers as the runtime shows them now, in the form that `plan.rs` takes.
//!
//! A status is asked for only when the list says that it changed, and an address once: a node with many pods is looked at
//! every second. It decides nothing and changes nothing. Called by `worker/seeing.rs`.

use std::collections::HashMap;
use std::net::IpAddr;

use k8s_openapi::jiff::Timestamp;
use ke_cri::v1;

use super::container::{CONTAINER_NAME, OUR_HASH, RESTART_COUNT, TERMINATION_GRACE};
use super::cri::{Runtime, RuntimeError};
use super::observed::{ContainerState, Exit, ObservedContainer, ObservedSandbox, SandboxState, Source, lost};
use super::observer::Listing;
use super::termination_message::add_termination_message;

/// What was learned so far of what still exists. Losing it costs calls.
#[derive(Default)]
pub(super) struct Inspector {
    statuses: HashMap<String, v1::ContainerStatus>,
    addresses: HashMap<String, Vec<IpAddr>>,
}

impl Inspector {
    /// All that the listing names and the runtime still has. `needs_address`: a sandbox without one has lost its network.
    pub(super) async fn inspect(
        &mut self,
        runtime: &dyn Runtime,
        listing: &Listing,
        needs_address: bool,
    ) -> Result<(Vec<ObservedSandbox>, Vec<ObservedContainer>), RuntimeError> {
        let mut sandboxes = Vec::new();
        for sandbox in &listing.sandboxes {
            sandboxes.push(self.sandbox(runtime, sandbox, needs_address).await?);
        }
        let mut containers = Vec::new();
        for container in &listing.containers {
            containers.extend(self.container(runtime, container).await?);
        }
        self.statuses.retain(|id, _| listing.containers.iter().any(|c| c.id == *id));
        self.addresses.retain(|id, _| listing.sandboxes.iter().any(|s| s.id == *id));
        Ok((sandboxes, containers))
    }

    /// A container was removed. Gives the path of its log as the runtime named it; empty when unknown.
    pub(super) fn removed(&mut self, id: &str) -> String {
        self.statuses.remove(id).map(|status| status.log_path).unwrap_or_default()
    }

    async fn sandbox(
        &mut self,
        runtime: &dyn Runtime,
        sandbox: &v1::PodSandbox,
        needs_address: bool,
    ) -> Result<ObservedSandbox, RuntimeError> {
        let is_ready = sandbox.state() == v1::PodSandboxState::SandboxReady;
        if is_ready && !self.addresses.contains_key(&sandbox.id) {
            match runtime.sandbox_status(&sandbox.id).await {
                Ok(status) => {
                    let network = status.network.unwrap_or_default();
                    let more = network.additional_ips.into_iter().map(|ip| ip.ip);
                    let ips = std::iter::once(network.ip).chain(more).filter_map(|ip| ip.parse().ok());
                    self.addresses.insert(sandbox.id.clone(), ips.collect());
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        let ips = self.addresses.get(&sandbox.id).cloned().unwrap_or_default();
        let state = match (is_ready, needs_address && ips.is_empty()) {
            (false, _) => SandboxState::NotReady,
            (true, true) => SandboxState::NoNetwork,
            (true, false) => SandboxState::Ready,
        };
        let attempt = sandbox.metadata.as_ref().map_or(0, |metadata| metadata.attempt);
        Ok(ObservedSandbox { id: sandbox.id.clone(), attempt, state, created_at: sandbox.created_at, ips })
    }

    /// `None` for a container that went while we looked.
    async fn container(
        &mut self,
        runtime: &dyn Runtime,
        listed: &v1::Container,
    ) -> Result<Option<ObservedContainer>, RuntimeError> {
        let is_known = self.statuses.get(&listed.id).is_some_and(|known| known.state == listed.state);
        if !is_known {
            match runtime.container_status(&listed.id).await {
                Ok(mut status) => {
                    if status.state() == v1::ContainerState::ContainerExited {
                        add_termination_message(&mut status).await;
                    }
                    // A status newer than the list is kept as the list has it, so that the next list decides.
                    self.statuses.insert(listed.id.clone(), status);
                }
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(self.statuses.get(&listed.id).map(|status| observed_container(listed, status)))
    }
}

fn time(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

fn observed_container(listed: &v1::Container, status: &v1::ContainerStatus) -> ObservedContainer {
    let started_at = time(status.started_at);
    let state = match listed.state() {
        v1::ContainerState::ContainerCreated => ContainerState::Created,
        v1::ContainerState::ContainerRunning => {
            ContainerState::Running { started_at: started_at.or(time(status.created_at)).unwrap_or_default() }
        }
        v1::ContainerState::ContainerExited => ContainerState::Exited(match time(status.finished_at) {
            None => Exit { code: status.exit_code, ..lost(started_at) },
            Some(finished_at) => Exit {
                code: status.exit_code,
                reason: status.reason.clone(),
                message: status.message.clone(),
                started_at,
                finished_at,
            },
        }),
        v1::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    let number = |key: &str| listed.annotations.get(key).and_then(|text| text.parse::<i64>().ok());
    let metadata = listed.metadata.clone().unwrap_or_default();
    let noted = number(RESTART_COUNT).and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let user_image = status.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
    ObservedContainer {
        id: listed.id.clone(),
        name: listed.labels.get(CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        attempt: metadata.attempt.max(noted),
        sandbox: listed.pod_sandbox_id.clone(),
        state,
        hash: listed.annotations.get(OUR_HASH).cloned(),
        image: user_image,
        image_id: if status.image_ref.is_empty() {
            listed.image_ref.clone()
        } else {
            status.image_ref.clone()
        },
        grace_secs: number(TERMINATION_GRACE),
        source: Source::Runtime,
    }
}
