//! Pure: what a static pod names in the cluster's API. It must name nothing: it runs where no API is, and a node that could
//! make a Pod with a Secret in it could read every Secret.

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, PodSpec, Volume};

/// The first field that names an object of the API, and what it names.
pub(super) fn first_reference(spec: &PodSpec) -> Option<String> {
    let account = spec.service_account_name.as_deref().or(spec.service_account.as_deref());
    if let Some(account) = account.filter(|account| !account.is_empty()) {
        return Some(format!("spec.serviceAccountName names service account {account}"));
    }
    if let Some(secret) = spec.image_pull_secrets.iter().flatten().next() {
        return Some(format!("spec.imagePullSecrets names secret {}", secret.name));
    }
    if let Some(claim) = spec.resource_claims.iter().flatten().next() {
        return Some(format!("spec.resourceClaims names resource claim {}", claim.name));
    }
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    spec.volumes
        .iter()
        .flatten()
        .find_map(of_volume)
        .or_else(|| containers.into_iter().find_map(of_container))
}

fn of_volume(volume: &Volume) -> Option<String> {
    let of = |what: String| Some(format!("volume {} names {what}", volume.name));
    if let Some(source) = &volume.config_map {
        return of(format!("config map {}", source.name));
    }
    if let Some(source) = &volume.secret {
        return of(format!("secret {}", source.secret_name.as_deref().unwrap_or_default()));
    }
    if let Some(source) = &volume.persistent_volume_claim {
        return of(format!("claim {}", source.claim_name));
    }
    if volume.csi.is_some() || volume.ephemeral.is_some() {
        return of("storage of the cluster".into());
    }
    for source in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        if let Some(source) = &source.config_map {
            return of(format!("config map {}", source.name));
        }
        if let Some(source) = &source.secret {
            return of(format!("secret {}", source.name));
        }
        if source.service_account_token.is_some() {
            return of("a token of a service account".into());
        }
        if source.cluster_trust_bundle.is_some() {
            return of("a trust bundle of the cluster".into());
        }
        if source.pod_certificate.is_some() {
            return of("a certificate of the cluster".into());
        }
    }
    None
}

fn of_container(container: &Container) -> Option<String> {
    let of = |what: String| Some(format!("container {} names {what}", container.name));
    let from = container.env_from.iter().flatten().find_map(of_env_from);
    from.or_else(|| container.env.iter().flatten().find_map(of_env)).and_then(of)
}

fn of_env_from(from: &EnvFromSource) -> Option<String> {
    let map = from.config_map_ref.as_ref().map(|map| format!("config map {} in envFrom", map.name));
    map.or_else(|| from.secret_ref.as_ref().map(|secret| format!("secret {} in envFrom", secret.name)))
}

fn of_env(env: &EnvVar) -> Option<String> {
    let from = env.value_from.as_ref()?;
    let map =
        from.config_map_key_ref.as_ref().map(|map| format!("config map {} in env {}", map.name, env.name));
    let secret = || Some(format!("secret {} in env {}", from.secret_key_ref.as_ref()?.name, env.name));
    map.or_else(secret)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_needs_the_api_is_found() {
        let check = |spec: Value, expected: Option<&str>| {
            let spec: PodSpec = serde_json::from_value(spec).unwrap();
            assert_eq!(first_reference(&spec).as_deref(), expected);
        };
        let volume = |source: Value| {
            let mut volume = source;
            volume["name"] = json!("v");
            json!({"containers": [{"name": "a"}], "volumes": [volume]})
        };
        check(json!({"containers": [{"name": "a", "env": [{"name": "X", "value": "1"}]}]}), None);
        check(volume(json!({"hostPath": {"path": "/x"}})), None);
        check(volume(json!({"emptyDir": {}})), None);
        check(volume(json!({"projected": {"sources": [{"downwardAPI": {}}]}})), None);
        check(volume(json!({"configMap": {"name": "c"}})), Some("volume v names config map c"));
        check(volume(json!({"secret": {"secretName": "s"}})), Some("volume v names secret s"));
        check(volume(json!({"persistentVolumeClaim": {"claimName": "p"}})), Some("volume v names claim p"));
        check(
            volume(json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})),
            Some("volume v names a token of a service account"),
        );
        check(
            json!({"containers": [{"name": "a"}], "serviceAccountName": "robot"}),
            Some("spec.serviceAccountName names service account robot"),
        );
        check(
            json!({"containers": [{"name": "a"}], "imagePullSecrets": [{"name": "reg"}]}),
            Some("spec.imagePullSecrets names secret reg"),
        );
        check(
            json!({"containers": [], "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
            Some("container i names secret s in envFrom"),
        );
        check(
            json!({"containers": [{"name": "a", "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}]}]}),
            Some("container a names config map c in env X"),
        );
    }
}
