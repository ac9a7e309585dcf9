//! Which pod holds which devices, for whoever shows figures of GPUs by pod: `pod-resources/kubelet.sock`, version 1.
//!
//! CPUs and memory are of no container alone here, and there are no claims: those lists are empty.

use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Pod;
use ke_kubelet::pod_resources as api;
use ke_kubelet::pod_resources::pod_resources_lister_server::PodResourcesLister;
use ke_wire::Uid;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::Devices;
use super::ledger::in_order;
use crate::db::DbError;
use crate::meta_manager::Meta;
use crate::report_queue::{last_pod_statuses, with_status};
use crate::static_pods::{StaticSet, as_run};

/// The service.
pub(super) struct Lister {
    pub(super) devices: Devices,
    pub(super) meta: Meta,
    pub(super) static_pods: watch::Receiver<Option<StaticSet>>,
}

#[tonic::async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<api::ListPodResourcesRequest>,
    ) -> Result<Response<api::ListPodResourcesResponse>, Status> {
        let pods = self.pods().await?;
        let pod_resources = pods.iter().filter(|pod| is_active(pod)).map(|pod| of_pod(&self.devices, pod));
        Ok(Response::new(api::ListPodResourcesResponse { pod_resources: pod_resources.collect() }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<api::AllocatableResourcesRequest>,
    ) -> Result<Response<api::AllocatableResourcesResponse>, Status> {
        let state = self.devices.lock();
        let devices = state.registry.all_healthy().flat_map(|(resource, id, numa)| one(resource, id, numa));
        let (cpu_ids, memory) = (Vec::new(), Vec::new());
        Ok(Response::new(api::AllocatableResourcesResponse { devices: devices.collect(), cpu_ids, memory }))
    }

    async fn get(
        &self,
        request: Request<api::GetPodResourcesRequest>,
    ) -> Result<Response<api::GetPodResourcesResponse>, Status> {
        let api::GetPodResourcesRequest { pod_name, pod_namespace } = request.into_inner();
        let is_it = |pod: &&Arc<Pod>| {
            pod.metadata.name.as_deref() == Some(pod_name.as_str())
                && pod.metadata.namespace.as_deref() == Some(pod_namespace.as_str())
        };
        let pods = self.pods().await?;
        let pod = pods.iter().find(is_it).ok_or_else(|| {
            Status::not_found(format!("pod {pod_name} in namespace {pod_namespace} not found"))
        })?;
        let pod_resources = Some(of_pod(&self.devices, pod));
        Ok(Response::new(api::GetPodResourcesResponse { pod_resources }))
    }
}

impl Lister {
    async fn pods(&self) -> Result<Vec<Arc<Pod>>, Status> {
        let away = |error: DbError| Status::unavailable(error.to_string());
        let statuses = last_pod_statuses(&self.devices.0.db).await.map_err(away)?;
        let pods = self.meta.pods().await.map_err(away)?;
        let static_pods = self.static_pods.borrow().clone().unwrap_or_default();
        Ok(pods.into_iter().map(|pod| shown(pod, &statuses, &static_pods)).collect())
    }
}

/// As this node knows it: with the phase that it has told, which the cloud does not send back, and a static pod under the uid
/// that holds its devices.
fn shown(pod: Arc<Pod>, statuses: &[(Uid, Bytes)], static_pods: &StaticSet) -> Arc<Pod> {
    as_run(with_status(pod, statuses), static_pods)
}

fn is_active(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Init containers have ended, but for sidecars: what they held is shown with whoever holds it now.
pub(super) fn of_pod(devices: &Devices, pod: &Pod) -> api::PodResources {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let stays = in_order(pod)
        .filter(|(container, is_init)| !is_init || container.restart_policy.as_deref() == Some("Always"));
    let state = devices.lock();
    let containers = stays.map(|(container, _)| {
        let held = state.ledger.of_container(uid, &container.name);
        let held = held.flat_map(|(resource, grant)| {
            grant.devices.iter().flat_map(|(id, numa)| one(resource, id, numa))
        });
        api::ContainerResources {
            name: container.name.clone(),
            devices: held.collect(),
            ..api::ContainerResources::default()
        }
    });
    let containers = containers.collect();
    api::PodResources { name: text(&pod.metadata.name), namespace: text(&pod.metadata.namespace), containers }
}

/// A device has one entry for each NUMA node that it is near to, or one without, as a kubelet shows it.
fn one(resource: &str, id: &str, numa: &[i64]) -> Vec<api::ContainerDevices> {
    let entry = |nodes: Vec<api::NumaNode>| api::ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id.to_owned()],
        topology: Some(api::TopologyInfo { nodes }),
    };
    if numa.is_empty() {
        return vec![entry(Vec::new())];
    }
    numa.iter().map(|node| entry(vec![api::NumaNode { id: *node }])).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_shown_as_this_node_knows_them() {
        let pod = |uid: &str, annotations: serde_json::Value| -> Arc<Pod> {
            let metadata =
                json!({"name": uid, "namespace": "default", "uid": uid, "annotations": annotations});
            Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap())
        };
        let told = |uid: &str| {
            let status = json!({"phase": "Succeeded"}).to_string();
            (uid.parse().unwrap(), Bytes::from(status))
        };
        // Behind each mirror stands the static pod of its name.
        let behind = |name: &str| {
            let key: ke_wire::ObjectKey = format!("default/pod/{name}").parse().unwrap();
            (key, pod("static", json!({})))
        };
        let static_pods: StaticSet = Arc::new([behind("m1"), behind("m2")].into());
        let check = |pod: Arc<Pod>, uid: &str, is_there: bool| {
            let shown = shown(pod, &[told("ended"), told("m2")], &static_pods);
            assert_eq!((shown.metadata.uid.as_deref(), is_active(&shown)), (Some(uid), is_there));
        };
        let mirror_of = |uid: &str| json!({crate::static_pods::MIRROR: uid});
        check(pod("runs", json!({})), "runs", true);
        check(pod("ended", json!({})), "ended", false);
        check(pod("m1", mirror_of("static")), "static", true);
        check(pod("m2", mirror_of("static")), "static", false);
    }
}
