//! Files out of ConfigMaps, Secrets, the pod itself and service account tokens, alone or several in one volume.
//!
//! Values go into the payload and nowhere else.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, ServiceAccountTokenProjection,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::VolumeError;
use super::atomic::{FileContent, Payload, is_path};
use crate::edged::fields::{PodFacts, field, resource_field};
use crate::edged::sources::{self, Found, SourceError};
use crate::meta_manager::Objects;

/// Life of a token that asks for nothing else, seconds: the API server's default for the field.
const TOKEN_SECS: i64 = 3600;
/// However long a token lives, Kubernetes renews it after a day.
const LONGEST_USE_SECS: i64 = 24 * 3600;

/// Collects the files of one volume.
pub(super) struct Sources<'a> {
    pod: &'a Pod,
    volume: &'a str,
    objects: &'a dyn Objects,
    facts: &'a PodFacts,
    pub(super) payload: Payload,
    pub(super) renew_at: Option<Timestamp>,
    /// An optional source is out of reach: files that are there may be better than these.
    pub(super) uncertain: bool,
}

/// All sources of a projected volume, in their order; a later one wins a path.
pub(super) async fn collect(
    sources: &mut Sources<'_>,
    volume: &ProjectedVolumeSource,
    mode: i32,
) -> Result<(), VolumeError> {
    for source in volume.sources.iter().flatten() {
        if let Some(map) = &source.config_map {
            sources.config_map(&map.name, map.items.as_deref(), map.optional, mode).await?;
        } else if let Some(secret) = &source.secret {
            sources.secret(&secret.name, secret.items.as_deref(), secret.optional, mode).await?;
        } else if let Some(fields) = &source.downward_api {
            sources.downward_api(fields.items.as_deref().unwrap_or_default(), mode)?;
        } else if let Some(token) = &source.service_account_token {
            sources.token(token, mode).await?;
        } else if let Some(bundle) = &source.cluster_trust_bundle {
            if bundle.optional != Some(true) {
                return Err(sources.unsupported("projected clusterTrustBundle"));
            }
            // As when the optional bundle does not exist.
            let path = sources.path(&bundle.path)?;
            sources.put(path, Vec::new(), mode, None);
        } else if source.pod_certificate.is_some() {
            return Err(sources.unsupported("projected podCertificate"));
        }
    }
    Ok(())
}

impl<'a> Sources<'a> {
    pub(super) fn new(pod: &'a Pod, volume: &'a str, objects: &'a dyn Objects, facts: &'a PodFacts) -> Self {
        Self { pod, volume, objects, facts, payload: Payload::new(), renew_at: None, uncertain: false }
    }

    pub(super) async fn config_map(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
    ) -> Result<(), VolumeError> {
        let map = sources::config_map(self.objects, self.pod, name, optional).await;
        let Some(map) = self.held(map)? else { return Ok(()) };
        let text = map.data.iter().flatten().map(|(key, value)| (key.as_str(), value.as_bytes()));
        let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice()));
        self.keys(
            &text.chain(binary).collect(),
            items,
            optional,
            mode,
            "configmap references non-existent config key",
        )
    }

    pub(super) async fn secret(
        &mut self,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
    ) -> Result<(), VolumeError> {
        let secret = sources::secret(self.objects, self.pod, name, optional).await;
        let Some(secret) = self.held(secret)? else { return Ok(()) };
        let data =
            secret.data.iter().flatten().map(|(key, value)| (key.as_str(), value.0.as_slice())).collect();
        self.keys(&data, items, optional, mode, "references non-existent secret key")
    }

    pub(super) fn downward_api(
        &mut self,
        items: &[DownwardAPIVolumeFile],
        mode: i32,
    ) -> Result<(), VolumeError> {
        for item in items {
            let value = match (&item.field_ref, &item.resource_field_ref) {
                (Some(reference), _) => field(self.pod, self.facts, &reference.field_path),
                (None, Some(reference)) => resource_field(self.pod, self.facts, None, reference),
                (None, None) => continue,
            };
            let value = value.map_err(|error| VolumeError::refused(self.volume, error.to_string()))?;
            let path = self.path(&item.path)?;
            self.put(path, value.into_bytes(), item.mode.unwrap_or(mode), None);
        }
        Ok(())
    }

    async fn token(&mut self, source: &ServiceAccountTokenProjection, mode: i32) -> Result<(), VolumeError> {
        let spec = self.pod.spec.as_ref();
        let account =
            spec.and_then(|spec| spec.service_account_name.as_deref()).filter(|name| !name.is_empty());
        let account = account.unwrap_or("default");
        let failed = |error: SourceError| VolumeError::of_source(self.volume, in_fetching(error));
        let (namespace, name) = sources::parse("serviceaccount", self.pod, account).map_err(failed)?;
        let meta = &self.pod.metadata;
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: source
                    .audience
                    .clone()
                    .filter(|audience| !audience.is_empty())
                    .map(|audience| vec![audience]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: meta.name.clone(),
                    uid: meta.uid.clone(),
                }),
                expiration_seconds: Some(source.expiration_seconds.unwrap_or(TOKEN_SECS)),
            }),
            ..TokenRequest::default()
        };
        let answer = self.objects.token(&namespace, &name, request).await;
        let answer = answer.map_err(|error| failed(sources::explain("serviceaccount", account, error)))?;
        let status = answer.status.unwrap_or_default();
        let Some(token) = status.token.filter(|token| !token.is_empty()) else {
            return Err(VolumeError::refused(self.volume, "failed to fetch token: the answer holds none"));
        };
        let renew_at = status.expiration_timestamp.map(|end| {
            let granted = answer.spec.and_then(|spec| spec.expiration_seconds);
            let life = granted.or(source.expiration_seconds).unwrap_or(TOKEN_SECS).max(0);
            renew_at(end.0, life)
        });
        self.renew_at = self.renew_at.into_iter().chain(renew_at).min();
        // Only for the user or the group that the pod names; without these, for whoever its image runs as.
        let owner = common_user(self.pod);
        let mode = if owner.is_some() || fs_group(self.pod).is_some() { 0o600 } else { mode };
        let path = self.path(&source.path)?;
        self.put(path, token.into_bytes(), mode, owner);
        Ok(())
    }

    fn held<T>(&mut self, found: Result<Found<T>, SourceError>) -> Result<Option<Arc<T>>, VolumeError> {
        let found = found.map_err(|error| VolumeError::of_source(self.volume, error))?;
        self.uncertain |= matches!(found, Found::Unknown);
        Ok(found.held())
    }

    fn keys(
        &mut self,
        data: &BTreeMap<&str, &[u8]>,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
        mode: i32,
        missing: &str,
    ) -> Result<(), VolumeError> {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, value) in data {
                let path = self.path(key)?;
                self.put(path, value.to_vec(), mode, None);
            }
            return Ok(());
        };
        for item in items {
            match data.get(item.key.as_str()) {
                Some(value) => {
                    let path = self.path(&item.path)?;
                    self.put(path, value.to_vec(), item.mode.unwrap_or(mode), None);
                }
                None if optional == Some(true) => {}
                None => {
                    let (volume, what) = (self.volume.to_owned(), format!("{missing}: {}", item.key));
                    return Err(VolumeError::NotFound { volume, what });
                }
            }
        }
        Ok(())
    }

    /// A path of the pod's in one form: two spellings of one file must not become two entries.
    fn path(&self, path: &str) -> Result<String, VolumeError> {
        if !is_path(path) {
            return Err(VolumeError::refused(self.volume, format!("invalid path {path:?}")));
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        Ok(parts.join("/"))
    }

    fn put(&mut self, path: String, data: Vec<u8>, mode: i32, owner: Option<u32>) {
        let mode = u32::try_from(mode).unwrap_or(0o600);
        self.payload.insert(path, FileContent { data, mode, owner });
    }

    fn unsupported(&self, kind: &str) -> VolumeError {
        VolumeError::Unsupported { volume: self.volume.to_owned(), kind: kind.to_owned() }
    }
}

fn in_fetching(error: SourceError) -> SourceError {
    let text = |what: String| format!("failed to fetch token: {what}");
    match error {
        SourceError::NotFound(what) => SourceError::NotFound(text(what)),
        SourceError::Offline(what) => SourceError::Offline(text(what)),
        SourceError::Refused(what) => SourceError::Refused(text(what)),
    }
}

/// After four fifths of the life, or a day.
fn renew_at(end: Timestamp, life_secs: i64) -> Timestamp {
    let left = (life_secs / 5).max(life_secs - LONGEST_USE_SECS);
    end.checked_sub(SignedDuration::from_secs(left)).unwrap_or(end)
}

/// The user that all containers run as, if the pod says so for each.
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|context| context.run_as_user);
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut users = containers.map(|container| {
        container.security_context.as_ref().and_then(|context| context.run_as_user).or(of_pod)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// The group that all containers of the pod are in.
pub(super) fn fs_group(pod: &Pod) -> Option<u32> {
    let context = pod.spec.as_ref()?.security_context.as_ref()?;
    u32::try_from(context.fs_group?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn tokens_are_renewed_after_four_fifths_or_a_day() {
        let check = |life: i64, used: i64| {
            let end = Timestamp::from_second(1_000_000 + life).unwrap();
            assert_eq!(renew_at(end, life).as_second() - 1_000_000, used, "{life}");
        };
        check(3600, 2880);
        check(3607, 2886);
        check(24 * 3600, 24 * 3600 * 4 / 5);
        check(365 * 24 * 3600, 24 * 3600);
        check(0, 0);
    }

    #[test]
    fn common_users() {
        let check = |spec: Value, expected: Option<u32>| {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert_eq!(common_user(&pod), expected, "{spec}");
        };
        let runs_as = |user: i64| json!({"name": "c", "securityContext": {"runAsUser": user}});
        check(json!({"containers": [{"name": "c"}]}), None);
        check(json!({"containers": [runs_as(7)]}), Some(7));
        check(json!({"containers": [runs_as(7), {"name": "d"}]}), None);
        check(
            json!({"containers": [runs_as(7), {"name": "d"}], "securityContext": {"runAsUser": 7}}),
            Some(7),
        );
        check(json!({"containers": [runs_as(7)], "initContainers": [runs_as(8)]}), None);
    }
}
