//! The words that all of edged reads a Pod with: its containers by sort and name, its restart policies, what it refers to.
//! Pure.
//!
//! Says only what Kubernetes' own rules make of the spec. What follows from it is decided elsewhere: `plan.rs`, `status.rs`.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec};
use ke_wire::{Kind, ObjectKey, Uid};

/// What `spec.restartPolicy` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever the exit code.
    Always,
    /// When the exit code is not zero.
    OnFailure,
    /// Not at all.
    Never,
}

/// The init containers and sidecars, in their order.
#[must_use]
pub fn inits(spec: &PodSpec) -> &[Container] {
    spec.init_containers.as_deref().unwrap_or_default()
}

/// Whether this init container runs beside the main ones.
#[must_use]
pub fn is_sidecar(init: &Container) -> bool {
    init.restart_policy.as_deref() == Some("Always")
}

/// What this container's or its Pod's restart policy says.
#[must_use]
pub fn restart_policy(spec: &PodSpec, container: &Container) -> RestartPolicy {
    match container.restart_policy.as_deref().or(spec.restart_policy.as_deref()) {
        Some("Never") => RestartPolicy::Never,
        Some("OnFailure") => RestartPolicy::OnFailure,
        _ => RestartPolicy::Always,
    }
}

/// Whether a container that ended with this code is started again. Its own rules go before its own policy, that before the
/// Pod's. A rule that asks for all containers at once is for nodes that say they can; here it counts as no rule.
#[must_use]
pub fn restarts(spec: &PodSpec, container: &Container, code: i32) -> bool {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let matches = |rule: &&ContainerRestartRule| {
        let codes = rule.exit_codes.as_ref();
        codes.is_some_and(|codes| {
            let listed = codes.values.as_deref().unwrap_or_default().contains(&code);
            listed == (codes.operator != "NotIn")
        })
    };
    // The first that fits decides.
    let rule = rules.iter().find(matches).filter(|_| container.restart_policy.is_some());
    if rule.is_some_and(|rule| rule.action == "Restart") {
        return true;
    }
    match restart_policy(spec, container) {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}

/// An ephemeral container in the form of every other one.
#[must_use]
pub fn ephemeral_as_container(ephemeral: &EphemeralContainer) -> Container {
    let it = ephemeral.clone();
    Container {
        args: it.args,
        command: it.command,
        env: it.env,
        env_from: it.env_from,
        image: it.image,
        image_pull_policy: it.image_pull_policy,
        lifecycle: None,
        liveness_probe: None,
        name: it.name,
        ports: None,
        readiness_probe: None,
        resize_policy: None,
        resources: None,
        // The API takes none of these for it.
        restart_policy: None,
        restart_policy_rules: None,
        security_context: it.security_context,
        startup_probe: None,
        stdin: it.stdin,
        stdin_once: it.stdin_once,
        termination_message_path: it.termination_message_path,
        termination_message_policy: it.termination_message_policy,
        tty: it.tty,
        volume_devices: it.volume_devices,
        volume_mounts: it.volume_mounts,
        working_dir: it.working_dir,
    }
}

/// Under which name the store has it; `None`: it has no usable namespace and name.
pub(super) fn pod_key(pod: &Pod) -> Option<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref()?.parse().ok()?;
    let name = pod.metadata.name.as_deref()?.parse().ok()?;
    Some(ObjectKey::namespaced(Kind::Pod, namespace, name))
}

/// Its uid; `None`: it has no usable one.
pub(super) fn pod_uid(pod: &Pod) -> Option<Uid> {
    pod.metadata.uid.as_deref()?.parse().ok()
}

/// The container of this name, of those that may be started more than once.
pub(super) fn container_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    inits(spec).iter().chain(&spec.containers).find(|container| container.name == name)
}

/// The container of this name, whatever its sort.
pub(super) fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, Container>> {
    if let Some(container) = container_of(pod, name) {
        return Some(Cow::Borrowed(container));
    }
    ephemeral(pod, name).map(|ephemeral| Cow::Owned(ephemeral_as_container(ephemeral)))
}

/// Of a container that may be started more than once.
pub(super) fn image_of<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    container_of(pod, name)?.image.as_deref()
}

/// The ephemeral container of this name.
pub(super) fn ephemeral<'a>(pod: &'a Pod, name: &str) -> Option<&'a EphemeralContainer> {
    let spec = pod.spec.as_ref()?;
    spec.ephemeral_containers.iter().flatten().find(|ephemeral| ephemeral.name == name)
}

/// Where in the Pod an event about this container points to.
pub(super) fn field_path(pod: Option<&Arc<Pod>>, name: &str) -> String {
    let is_init = pod
        .and_then(|pod| pod.spec.as_ref())
        .is_some_and(|spec| inits(spec).iter().any(|init| init.name == name));
    let is_ephemeral = pod.is_some_and(|pod| ephemeral(pod, name).is_some());
    let list = match (is_init, is_ephemeral) {
        (true, _) => "initContainers",
        (false, true) => "ephemeralContainers",
        (false, false) => "containers",
    };
    format!("spec.{list}{{{name}}}")
}

/// The ConfigMaps and Secrets that a Pod's volumes, environment and image pulls name.
pub(super) fn uses(pod: &Pod) -> BTreeSet<ObjectKey> {
    let mut names: Vec<(Kind, &str)> = Vec::new();
    let Some(spec) = &pod.spec else { return BTreeSet::new() };
    for volume in spec.volumes.iter().flatten() {
        names.extend(volume.config_map.iter().map(|v| (Kind::ConfigMap, v.name.as_str())));
        names.extend(volume.secret.iter().filter_map(|v| Some((Kind::Secret, v.secret_name.as_deref()?))));
        for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
            names.extend(source.config_map.iter().map(|v| (Kind::ConfigMap, v.name.as_str())));
            names.extend(source.secret.iter().map(|v| (Kind::Secret, v.name.as_str())));
        }
    }
    let ephemerals = spec.ephemeral_containers.iter().flatten().map(|one| (&one.env, &one.env_from));
    let containers = inits(spec).iter().chain(&spec.containers).map(|one| (&one.env, &one.env_from));
    for (env, env_from) in containers.chain(ephemerals) {
        for from in env_from.iter().flatten() {
            names.extend(from.config_map_ref.iter().map(|r| (Kind::ConfigMap, r.name.as_str())));
            names.extend(from.secret_ref.iter().map(|r| (Kind::Secret, r.name.as_str())));
        }
        for source in env.iter().flatten().filter_map(|env| env.value_from.as_ref()) {
            names.extend(source.config_map_key_ref.iter().map(|r| (Kind::ConfigMap, r.name.as_str())));
            names.extend(source.secret_key_ref.iter().map(|r| (Kind::Secret, r.name.as_str())));
        }
    }
    names.extend(spec.image_pull_secrets.iter().flatten().map(|r| (Kind::Secret, r.name.as_str())));
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let key = |(kind, name): (Kind, &str)| {
        Some(ObjectKey::namespaced(kind, namespace.parse().ok()?, name.parse().ok()?))
    };
    names.into_iter().filter_map(key).collect()
}
