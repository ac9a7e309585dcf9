//! Pure: what the API server would have filled in, had the Pod come from it. Edged and the mirror rely on these.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, Probe, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::image_name::{ImageName, PullPolicy};

/// Fills in what the file leaves open.
pub(super) fn fill(spec: &mut PodSpec) {
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_default();
    spec.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
    spec.enable_service_links.get_or_insert(true);
    let on_host = spec.host_network == Some(true);
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        fill_container(container, on_host);
    }
    // Nobody can evict what lies on the machine itself.
    let stays = Toleration {
        effect: Some("NoExecute".into()),
        operator: Some("Exists".into()),
        ..Toleration::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&stays) {
        tolerations.push(stays);
    }
}

fn fill_container(container: &mut Container, on_host: bool) {
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
    container.termination_message_policy.get_or_insert_with(|| "File".into());
    let image = ImageName::parse(container.image.as_deref().unwrap_or_default());
    let is_latest = image.is_ok_and(|image| PullPolicy::of(None, &image) == PullPolicy::Always);
    let policy = if is_latest { "Always" } else { "IfNotPresent" };
    container.image_pull_policy.get_or_insert_with(|| policy.into());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".into());
        if on_host {
            port.host_port.get_or_insert(port.container_port);
        }
    }
    let probes =
        [&mut container.startup_probe, &mut container.liveness_probe, &mut container.readiness_probe];
    for probe in probes.into_iter().flatten() {
        fill_probe(probe);
    }
    // What has a limit and asks for nothing asks for the limit.
    if let Some(resources) = &mut container.resources {
        let limits: BTreeMap<String, Quantity> = resources.limits.clone().unwrap_or_default();
        if !limits.is_empty() {
            let requests = resources.requests.get_or_insert_default();
            for (name, limit) in limits {
                requests.entry(name).or_insert(limit);
            }
        }
    }
}

fn fill_probe(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
    if let Some(http) = &mut probe.http_get {
        http.path.get_or_insert_with(|| "/".into());
        http.scheme.get_or_insert_with(|| "HTTP".into());
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}
