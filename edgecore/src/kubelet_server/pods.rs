//! Pods as lists: all that this node holds with their statuses, and those of which something runs.

use ke_cri::v1;
use serde_json::{Value, json};

use super::Sources;
use super::answer::{Answer, JSON, PROMETHEUS, Refused, whole};
use super::du::now;
use super::exposition;
use super::figures::Figures;
use super::summary::{Scope, summary};
use crate::edged::{CONTAINER_NAME, POD_UID};

impl Sources {
    pub(super) async fn pod_list(&self) -> Result<Answer, Refused> {
        let pods = self.pods().await?;
        let items = pods.iter().map(|pod| serde_json::to_value(pod.as_ref()));
        let items = items.collect::<Result<Vec<_>, _>>().map_err(|error| Refused::broken(&error))?;
        Ok(list(&items))
    }

    pub(super) async fn running_pods(&self) -> Result<Answer, Refused> {
        let failed = |error| Refused::runtime(&error);
        let sandboxes = self.runtime.list_sandboxes().await.map_err(failed)?;
        let containers = self.runtime.list_containers().await.map_err(failed)?;
        Ok(list(&running(&sandboxes, &containers)))
    }

    pub(super) async fn stats_summary(&self, query: &[(String, String)]) -> Result<Answer, Refused> {
        let is_less = |(name, value): &(String, String)| name == "only_cpu_and_memory" && value == "true";
        let scope = if query.iter().any(is_less) { Scope::CpuAndMemory } else { Scope::All };
        let figures = self.gauge.measure(&*self.runtime, scope).await;
        Ok(whole(JSON, summary(&figures, scope).to_string()))
    }

    pub(super) async fn metrics_resource(&self) -> Result<Answer, Refused> {
        let figures = self.gauge.measure(&*self.runtime, Scope::CpuAndMemory).await;
        Ok(whole(PROMETHEUS, exposition::resource(&figures)))
    }

    pub(super) async fn metrics_cadvisor(&self) -> Result<Answer, Refused> {
        let figures: Figures = self.gauge.measure(&*self.runtime, Scope::All).await;
        Ok(whole(PROMETHEUS, exposition::cadvisor(&figures, now())))
    }
}

fn list(items: &[Value]) -> Answer {
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    whole(JSON, list.to_string())
}

/// What the runtime says runs, without what was asked for.
fn running(sandboxes: &[v1::PodSandbox], containers: &[v1::Container]) -> Vec<Value> {
    let is_up = |one: &&v1::Container| one.state() == v1::ContainerState::ContainerRunning;
    let pods = sandboxes.iter().filter(|sandbox| sandbox.labels.contains_key(POD_UID));
    let pods = pods.filter_map(|sandbox| {
        let inside = containers.iter().filter(is_up).filter(|one| one.pod_sandbox_id == sandbox.id);
        let inside: Vec<Value> = inside
            .map(|one| {
                let image = one.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
                json!({"name": one.labels.get(CONTAINER_NAME), "image": image, "resources": {}})
            })
            .collect();
        let metadata = sandbox.metadata.as_ref().filter(|_| !inside.is_empty())?;
        Some(json!({
            "metadata": {
                "name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid,
                "creationTimestamp": null,
            },
            "spec": {"containers": inside},
            "status": {},
        }))
    });
    pods.collect()
}
