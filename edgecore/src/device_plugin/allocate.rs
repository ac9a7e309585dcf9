//! A Pod's devices: chosen when it is taken on, handed to its containers, given back.
//!
//! The order of a grant: choose, set aside, ask the plugin, write to disk, note in memory. A kill in between leaves either
//! nothing, or a row that the next start of edgecore finds.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod, ResourceHealth, ResourceStatus};
use ke_cri::v1;
use ke_kubelet::device_plugin as api;
use prost::Message;
use tokio::sync::watch;
use tonic::Status;

use super::ledger::{Grant, Holder, in_order};
use super::pick::{Choice, Pick};
use super::plugin::bottom_of;
use super::{Devices, State, store};
use crate::edged::{Extras, PodDevices};
use crate::quantity::amount_in;
use crate::resource_name::is_extended_resource;

/// Plugins see that edgecore has begun anew and come again, some after ten seconds. So long a new Pod waits for its own.
const RETURN_LIMIT: Duration = Duration::from_secs(30);
/// Longest answer that is kept for a container. Bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Devices that are set aside until this is dropped.
struct Aside {
    devices: Devices,
    number: u64,
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.devices.lock().ledger.give_back(self.number);
    }
}

#[async_trait]
impl PodDevices for Devices {
    async fn admit(&self, pod: &Pod, running: &BTreeSet<String>) -> Result<(), String> {
        for (container, _) in in_order(pod) {
            for (resource, n_wanted) in wanted(container) {
                let holder = holder(pod, container, &resource);
                // It was made before its devices were served here, and has what it needs.
                if running.contains(&container.name) && self.lock().ledger.grant(&holder).is_none() {
                    continue;
                }
                if let Err(why) = self.grant(pod, holder, n_wanted).await {
                    let _ = self.release(pod.metadata.uid.as_deref().unwrap_or_default()).await;
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    async fn for_start(&self, pod: &Pod, container: &Container) -> Result<Extras, String> {
        let mut extras = Extras::default();
        for (resource, n_wanted) in wanted(container) {
            let holder = holder(pod, container, &resource);
            // Held already, but for a resource that is served only since the Pod was taken on.
            self.grant(pod, holder.clone(), n_wanted).await?;
            let (grant, plugin) = {
                let state = self.lock();
                (state.ledger.grant(&holder).cloned(), state.registry.call(&resource))
            };
            let Some(mut grant) = grant else { continue };
            let ids: Vec<String> = grant.devices.keys().cloned().collect();
            if grant.boot != self.0.boot {
                grant = self.renew(holder, grant).await?;
            }
            if let Some(plugin) = plugin.filter(|plugin| plugin.wants_pre_start) {
                let started = plugin.pre_start(ids).await;
                started.map_err(|status| {
                    format!("device plugin PreStartContainer rpc failed with err: {}", words(&status))
                })?;
            }
            add(&mut extras, &grant.answer);
        }
        Ok(extras)
    }

    async fn release(&self, pod_uid: &str) -> Result<(), String> {
        if !self.lock().ledger.has_pod(pod_uid) {
            return Ok(());
        }
        let (devices, uid) = (self.clone(), pod_uid.to_owned());
        let released = self.0.db.call(move |connection| {
            store::release(connection, &uid)?;
            devices.lock().ledger.remove_pod(&uid);
            Ok(())
        });
        released.await.map_err(|error| error.to_string())
    }

    fn holders(&self) -> BTreeSet<String> {
        self.lock().ledger.pods()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    fn health(&self, pod_uid: &str, container: &str) -> Vec<ResourceStatus> {
        let state = self.lock();
        let of = |resource: &str, id: &String| {
            let health = if state.registry.is_unwell(resource, id) { "Unhealthy" } else { "Healthy" };
            ResourceHealth {
                resource_id: id.clone(),
                health: Some(health.to_owned()),
                ..ResourceHealth::default()
            }
        };
        let held = state.ledger.of_container(pod_uid, container);
        let status = |(resource, grant): (&str, &Grant)| ResourceStatus {
            name: resource.to_owned(),
            resources: Some(grant.devices.keys().map(|id| of(resource, id)).collect()),
        };
        held.map(status).collect()
    }

    fn serves(&self, resource: &str) -> bool {
        let state = self.lock();
        state.registry.knows(resource) || state.ledger.knows(resource)
    }
}

impl Devices {
    /// Makes sure that a container holds so many devices. A resource that no plugin ever offered is not ours: success.
    async fn grant(&self, pod: &Pod, holder: Holder, n_wanted: usize) -> Result<(), String> {
        let resource = holder.resource.clone();
        {
            let state = self.lock();
            if let Some(grant) = state.ledger.grant(&holder) {
                let n_held = grant.devices.len();
                let changed = format!(
                    "pod {:?} container {:?} changed request for resource {resource:?} from {n_held} to {n_wanted}",
                    holder.pod_uid, holder.container
                );
                return if n_held == n_wanted { Ok(()) } else { Err(changed) };
            }
            if !state.registry.knows(&resource) && !state.ledger.knows(&resource) {
                return Ok(());
            }
        }
        self.wait_for_return(&resource).await;
        let (pick, plugin) = {
            let state = self.lock();
            (state.choose(pod, &holder, n_wanted)?, state.registry.call(&resource))
        };
        let plugin = plugin.ok_or_else(|| format!("cannot allocate unregistered device {resource}"))?;
        let mut preferred = Vec::new();
        if pick.is_open() && plugin.has_preferences {
            let sure: Vec<String> = pick.sure.iter().cloned().collect();
            let available = pick.free.union(&pick.sure).cloned().collect();
            let asked = plugin.preferred(available, sure, n_wanted).await;
            preferred = asked.map_err(|status| {
                format!("device plugin GetPreferredAllocation rpc failed with err: {}", words(&status))
            })?;
        }
        let (aside, ids) = {
            let mut state = self.lock();
            // Others may have chosen meanwhile.
            let ids = state.choose(pod, &holder, n_wanted)?.complete(&preferred);
            let number = state.ledger.set_aside(holder.clone(), ids.clone());
            (Aside { devices: self.clone(), number }, ids)
        };
        let answer = plugin.allocate(ids.iter().cloned().collect()).await.map_err(|status| words(&status))?;
        self.keep(holder, ids, &answer, Some(aside)).await.map(drop)
    }

    /// On disk, then in memory; both on the database's thread, so that a release that follows finds both.
    async fn keep(
        &self,
        holder: Holder,
        ids: BTreeSet<String>,
        answer: &api::ContainerAllocateResponse,
        aside: Option<Aside>,
    ) -> Result<Grant, String> {
        let answer = answer.encode_to_vec();
        if answer.len() > MAX_ANSWER {
            return Err(format!(
                "the device plugin of {} answers with {} bytes, more than {MAX_ANSWER}",
                holder.resource,
                answer.len()
            ));
        }
        let numa = |id: String| {
            let numa = self.lock().registry.numa(&holder.resource, &id);
            (id, numa)
        };
        let grant = Grant { devices: ids.into_iter().map(numa).collect(), answer, boot: self.0.boot.clone() };
        let (devices, kept) = (self.clone(), grant.clone());
        let keeping = self.0.db.call(move |connection| {
            store::keep(connection, &holder, &kept)?;
            devices.lock().ledger.insert(holder, kept);
            drop(aside);
            Ok(())
        });
        keeping.await.map_err(|error| format!("the allocation could not be stored: {error}"))?;
        Ok(grant)
    }

    /// The machine has booted since: what the plugin made for the container may be gone, and the devices may not be ready.
    /// It is asked again for the same ones.
    async fn renew(&self, holder: Holder, grant: Grant) -> Result<Grant, String> {
        let resource = holder.resource.clone();
        let ids: BTreeSet<String> = grant.devices.into_keys().collect();
        let plugin = {
            let state = self.lock();
            let plugin = state.registry.call(&resource).ok_or_else(|| {
                format!("the device plugin of {resource} has not registered since this machine booted; the container waits for it")
            })?;
            if !ids.is_subset(&state.registry.healthy(&resource)) {
                return Err(format!(
                    "previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
                ));
            }
            plugin
        };
        let answer = plugin.allocate(ids.iter().cloned().collect()).await.map_err(|status| words(&status))?;
        self.keep(holder, ids, &answer, None).await
    }

    /// Right after a start of edgecore the plugins that were there are on their way.
    async fn wait_for_return(&self, resource: &str) {
        let left = RETURN_LIMIT.saturating_sub(self.0.began.elapsed());
        let mut amounts = self.amounts();
        let is_back = amounts.wait_for(|all| all.get(resource).is_some_and(|one| one.capacity > 0));
        // Late or never: the choice says what is missing.
        let _ = tokio::time::timeout(left, is_back).await;
    }
}

impl State {
    fn choose(&self, pod: &Pod, holder: &Holder, n_wanted: usize) -> Result<Pick, String> {
        let resource = &holder.resource;
        let choice = Choice {
            resource,
            n_wanted,
            reusable: &self.ledger.reusable(pod, &holder.container, resource),
            healthy: &self.registry.healthy(resource),
            in_use: &self.ledger.in_use(resource),
        };
        choice.pick()
    }
}

fn holder(pod: &Pod, container: &Container, resource: &str) -> Holder {
    Holder {
        pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
        container: container.name.clone(),
        resource: resource.to_owned(),
    }
}

/// Extended resources of a container. Their requests are their limits: the API server sees to it.
fn wanted(container: &Container) -> Vec<(String, usize)> {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let names = limits.into_iter().flat_map(|limits| limits.keys()).filter(|name| is_extended_resource(name));
    let n_wanted = |name: &String| {
        let n_wanted = usize::try_from(amount_in(limits, name)?.units()).ok()?;
        (n_wanted > 0).then(|| (name.clone(), n_wanted))
    };
    names.filter_map(n_wanted).collect()
}

/// As grpc-go shows an error: these words stand in a Pod's status.
fn words(status: &Status) -> String {
    format!("rpc error: code = {:?} desc = {}", status.code(), bottom_of(status))
}

/// Where two plugins give the same, the first one's counts.
fn add(extras: &mut Extras, answer: &[u8]) {
    // It was encoded here.
    let answer = api::ContainerAllocateResponse::decode(answer).unwrap_or_default();
    for (key, value) in answer.envs {
        if !extras.envs.iter().any(|(known, _)| *known == key) {
            extras.envs.push((key, value));
        }
    }
    for mount in answer.mounts {
        if !extras.mounts.iter().any(|known| known.container_path == mount.container_path) {
            extras.mounts.push(v1::Mount {
                container_path: mount.container_path,
                host_path: mount.host_path,
                readonly: mount.read_only,
                ..v1::Mount::default()
            });
        }
    }
    for device in answer.devices {
        if !extras.devices.iter().any(|known| known.container_path == device.container_path) {
            extras.devices.push(v1::Device {
                container_path: device.container_path,
                host_path: device.host_path,
                permissions: device.permissions,
            });
        }
    }
    extras.annotations.extend(answer.annotations);
    for device in answer.cdi_devices {
        if !extras.cdi_devices.iter().any(|known| known.name == device.name) {
            extras.cdi_devices.push(v1::CdiDevice { name: device.name });
        }
    }
}
