//! ConfigMaps and Secrets as pods name them: found, absent although optional, or the kubelet's words for why not.
//!
//! Nothing here is kept and no value is ever part of an error. Used by `env.rs` and `volumes`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use ke_wire::{Namespace, ObjectName, Reason};

use crate::meta_manager::{LookupError, Objects};

/// Why a pod cannot have what it names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// It does not exist; it may be made any moment.
    #[error("{0}")]
    NotFound(String),
    /// Not held here and the cloud is away; the link's return may help.
    #[error("{0}")]
    Offline(String),
    /// Anything else; the text says it.
    #[error("{0}")]
    Refused(String),
}

/// What became of a lookup that did not fail.
#[derive(Clone, Debug)]
pub enum Found<T> {
    /// It is there.
    Held(Arc<T>),
    /// It is optional, and the cloud says that it is not there.
    Absent,
    /// It is optional, not held here, and the cloud is away. The cloud sends every ConfigMap and Secret a pod names, so
    /// most likely it does not exist, and a pod that started without it before must start again.
    Unknown,
}

impl<T> Found<T> {
    /// It, if it is there.
    #[must_use]
    pub fn held(self) -> Option<Arc<T>> {
        match self {
            Self::Held(object) => Some(object),
            Self::Absent | Self::Unknown => None,
        }
    }
}

/// The ConfigMap of this name in the pod's namespace.
pub async fn config_map(
    objects: &dyn Objects,
    pod: &Pod,
    name: &str,
    optional: Option<bool>,
) -> Result<Found<ConfigMap>, SourceError> {
    let (namespace, object) = parse("configmap", pod, name)?;
    found("configmap", name, optional, objects.config_map(&namespace, &object).await)
}

/// The Secret of this name in the pod's namespace.
pub async fn secret(
    objects: &dyn Objects,
    pod: &Pod,
    name: &str,
    optional: Option<bool>,
) -> Result<Found<Secret>, SourceError> {
    let (namespace, object) = parse("secret", pod, name)?;
    found("secret", name, optional, objects.secret(&namespace, &object).await)
}

/// The pod's namespace and a name in it, as what lookups take.
pub fn parse(kind: &str, pod: &Pod, name: &str) -> Result<(Namespace, ObjectName), SourceError> {
    let bad = |why: String| SourceError::Refused(format!("{kind} {name:?}: {why}"));
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let namespace = namespace.parse::<Namespace>().map_err(|error| bad(error.to_string()))?;
    let object = name.parse::<ObjectName>().map_err(|error| bad(error.to_string()))?;
    Ok((namespace, object))
}

/// Kubernetes' words for a failed lookup of `kind` `name`.
#[must_use]
pub fn explain(kind: &str, name: &str, error: LookupError) -> SourceError {
    match error {
        LookupError::Refused(refusal) if refusal.reason == Reason::NotFound => {
            SourceError::NotFound(format!("{kind} \"{name}\" not found"))
        }
        LookupError::Refused(refusal) => SourceError::Refused(format!("{kind} \"{name}\": {refusal}")),
        LookupError::Offline(_) => SourceError::Offline(format!(
            "{kind} \"{name}\" is not on this node and the cloud is not reachable"
        )),
        LookupError::Broken(why) => SourceError::Refused(format!("{kind} \"{name}\": {why}")),
    }
}

fn found<T>(
    kind: &str,
    name: &str,
    optional: Option<bool>,
    result: Result<Arc<T>, LookupError>,
) -> Result<Found<T>, SourceError> {
    match result.map_err(|error| explain(kind, name, error)) {
        Ok(object) => Ok(Found::Held(object)),
        Err(SourceError::NotFound(_)) if optional == Some(true) => Ok(Found::Absent),
        Err(SourceError::Offline(_)) if optional == Some(true) => Ok(Found::Unknown),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod fake {
    //! An [`Objects`] whose content a test sets.

    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use async_trait::async_trait;
    use k8s_openapi::api::authentication::v1::TokenRequest;
    use k8s_openapi::api::core::v1::Service;
    use ke_wire::Refusal;
    use serde_json::{Value, json};

    use super::*;

    /// What is held, by `kind/namespace/name`, and whether the cloud can be asked for the rest.
    #[derive(Default)]
    pub(crate) struct FakeObjects {
        pub(crate) held: Mutex<BTreeMap<String, Value>>,
        pub(crate) offline: AtomicBool,
        pub(crate) asked: Mutex<Vec<TokenRequest>>,
    }

    impl FakeObjects {
        pub(crate) fn put(&self, key: &str, body: Value) {
            self.held.lock().unwrap().insert(key.to_owned(), body);
        }

        pub(crate) fn remove(&self, key: &str) {
            self.held.lock().unwrap().remove(key);
        }

        fn get(&self, key: &str) -> Result<Value, Box<LookupError>> {
            match self.held.lock().unwrap().get(key) {
                Some(body) => Ok(body.clone()),
                None if self.offline.load(Ordering::Relaxed) => {
                    Err(Box::new(LookupError::Offline(key.to_owned())))
                }
                None => {
                    let refusal = json!({"message": "no", "reason": "NotFound", "code": 404});
                    Err(Box::new(LookupError::Refused(serde_json::from_value::<Refusal>(refusal).unwrap())))
                }
            }
        }
    }

    #[async_trait]
    impl Objects for FakeObjects {
        async fn config_map(&self, ns: &Namespace, name: &ObjectName) -> Result<Arc<ConfigMap>, LookupError> {
            Ok(Arc::new(
                serde_json::from_value(self.get(&format!("configmap/{ns}/{name}")).map_err(|e| *e)?).unwrap(),
            ))
        }

        async fn secret(&self, ns: &Namespace, name: &ObjectName) -> Result<Arc<Secret>, LookupError> {
            Ok(Arc::new(
                serde_json::from_value(self.get(&format!("secret/{ns}/{name}")).map_err(|e| *e)?).unwrap(),
            ))
        }

        async fn services(&self, ns: &Namespace) -> Vec<Service> {
            let held = self.get(&format!("servicelist/{ns}/all")).unwrap_or(Value::Null);
            serde_json::from_value(held["items"].clone()).unwrap_or_default()
        }

        async fn runtime_handler(&self, class: &ObjectName) -> Result<String, LookupError> {
            let held = self.get(&format!("runtimeclass/{class}")).map_err(|e| *e)?;
            Ok(held["handler"].as_str().unwrap().to_owned())
        }

        async fn token(
            &self,
            ns: &Namespace,
            account: &ObjectName,
            request: TokenRequest,
        ) -> Result<TokenRequest, LookupError> {
            self.asked.lock().unwrap().push(request);
            Ok(serde_json::from_value(self.get(&format!("token/{ns}/{account}")).map_err(|e| *e)?).unwrap())
        }
    }
}
