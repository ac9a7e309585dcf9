//! Under which of the runtime's handlers a Pod runs, and what the runtime says that its handlers can do.
//!
//! The handler comes from the Pod's RuntimeClass when its sandbox is made; later the sandbox itself says which it was, so
//! that containers start without the cloud. What the runtime can do is asked when it matters: it may be another version
//! after its next start. Called by `hands.rs` and, before a Pod is taken on, by `devices.rs`.

use k8s_openapi::api::core::v1::Pod;
use ke_cri::v1;
use ke_wire::{ObjectName, Reason};

use super::admission::is_settled;
use super::cri::RuntimeError;
use super::failure_reason::FailureReason;
use super::hands::{Failure, Hands};
use crate::meta_manager::{LookupError, Objects};

impl Hands {
    /// The handler for a new sandbox; empty for the runtime's default.
    pub(super) async fn handler(&self, pod: &Pod) -> Result<String, Failure> {
        handler(pod, &*self.objects).await.map_err(|why| {
            Failure::new(
                FailureReason::FailedCreatePodSandBox,
                format!("Failed to create pod sandbox: {why}"),
            )
        })
    }

    /// The handler of a sandbox that is there.
    pub(super) async fn handler_of(&self, pod: &Pod, sandbox: &str) -> Result<String, Failure> {
        if class(pod).is_none() {
            return Ok(String::new());
        }
        let status = self.runtime.sandbox_status(sandbox).await;
        let status = status.map_err(|e| {
            Failure::of(FailureReason::CreateContainerConfigError, "Failed to inspect the pod's sandbox", e)
        })?;
        Ok(status.runtime_handler)
    }

    /// Whether the runtime gives the Pod the groups that it asks for. Pods that were taken on before are let be.
    pub(super) async fn has_groups_policy(&self, pod: &Pod) -> Result<bool, RuntimeError> {
        let policy = pod
            .spec
            .as_ref()
            .and_then(|s| s.security_context.as_ref()?.supplemental_groups_policy.as_deref());
        if policy != Some("Strict") || is_settled(pod) {
            return Ok(true);
        }
        let status = self.runtime.status().await?;
        Ok(status.features.is_some_and(|features| features.supplemental_groups_policy))
    }
}

/// Whether mounts below a read-only one can be made read-only, too. Runtimes that name no handlers cannot.
#[must_use]
pub(super) fn has_recursive_read_only(status: &v1::StatusResponse, handler: &str) -> bool {
    let named = status.runtime_handlers.iter().find(|one| one.name == handler);
    named.and_then(|one| one.features).is_some_and(|features| features.recursive_read_only_mounts)
}

/// `None`: the handler gives Pods users of their own; else why it does not.
#[must_use]
pub(super) fn lacks_user_namespaces(status: &v1::StatusResponse, handler: &str) -> Option<String> {
    let named = status.runtime_handlers.iter().find(|one| one.name == handler);
    if named.and_then(|one| one.features).is_some_and(|features| features.user_namespaces) {
        return None;
    }
    let who = match handler {
        "" => "runtime".to_owned(),
        handler => format!("RuntimeClass handler {handler:?}"),
    };
    let why = format!("can't set `spec.hostUsers: false`, {who} does not support user namespaces");
    let is_unknown = named.is_none() && !status.runtime_handlers.is_empty();
    Some(if is_unknown { format!("{why}: the handler {handler:?} is not known") } else { why })
}

async fn handler(pod: &Pod, objects: &dyn Objects) -> Result<String, String> {
    let Some(class) = class(pod) else { return Ok(String::new()) };
    let name: ObjectName =
        class.parse().map_err(|error| format!("failed to lookup RuntimeClass {class}: {error}"))?;
    match objects.runtime_handler(&name).await {
        Ok(handler) => Ok(handler),
        Err(LookupError::Refused(refusal)) if refusal.reason == Reason::NotFound => {
            Err(format!("runtimeclass.node.k8s.io {class:?} not found"))
        }
        Err(error) => Err(format!("failed to lookup RuntimeClass {class}: {error}")),
    }
}

fn class(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.runtime_class_name.as_deref().filter(|class| !class.is_empty())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use serde_json::{Value, json};

    use super::*;
    use crate::edged::sources::fake::FakeObjects;

    #[tokio::test]
    async fn handlers_of_classes() {
        let objects = FakeObjects::default();
        objects.put("runtimeclass/isolated", json!({"handler": "kata"}));
        let check = async |class: Value, is_offline: bool, expected: Result<&str, &str>| {
            objects.offline.store(is_offline, Ordering::Relaxed);
            let pod = serde_json::from_value(json!({"spec": {"containers": [], "runtimeClassName": class}}))
                .unwrap();
            let got = handler(&pod, &objects).await;
            assert_eq!(got.as_deref().map_err(String::as_str), expected, "{class}");
        };
        check(Value::Null, false, Ok("")).await;
        check(json!(""), false, Ok("")).await;
        check(json!("isolated"), true, Ok("kata")).await;
        check(json!("gone"), false, Err("runtimeclass.node.k8s.io \"gone\" not found")).await;
        let offline = "failed to lookup RuntimeClass gone: runtimeclass/gone is not on this node and the cloud \
                       is not reachable";
        check(json!("gone"), true, Err(offline)).await;
    }

    #[test]
    fn what_handlers_can_do() {
        let handler = |name: &str, read_only, users| v1::RuntimeHandler {
            name: name.into(),
            features: Some(v1::RuntimeHandlerFeatures {
                recursive_read_only_mounts: read_only,
                user_namespaces: users,
            }),
        };
        let old = v1::StatusResponse::default();
        let new = v1::StatusResponse {
            runtime_handlers: vec![handler("", true, true), handler("kata", false, false)],
            ..v1::StatusResponse::default()
        };
        let check = |status: &v1::StatusResponse, handler: &str, read_only: bool, users: Option<&str>| {
            assert_eq!(has_recursive_read_only(status, handler), read_only, "{handler}");
            let prefix = "can't set `spec.hostUsers: false`, ";
            let expected = users.map(|why| format!("{prefix}{why}"));
            assert_eq!(lacks_user_namespaces(status, handler), expected, "{handler}");
        };
        check(&old, "", false, Some("runtime does not support user namespaces"));
        check(&old, "kata", false, Some("RuntimeClass handler \"kata\" does not support user namespaces"));
        check(&new, "", true, None);
        check(&new, "kata", false, Some("RuntimeClass handler \"kata\" does not support user namespaces"));
        let unknown =
            "RuntimeClass handler \"no\" does not support user namespaces: the handler \"no\" is not known";
        check(&new, "no", false, Some(unknown));
    }
}
