//! The environment of one container: values, references to ConfigMaps, Secrets, fields and resources.
//!
//! Asks `Objects` and nothing else. A value never appears in an error or in debug output. Called by edged before each
//! container start, so a restarted container sees the newest values, as in Kubernetes.

use std::collections::HashMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, Pod};

use super::fields::{FieldError, PodFacts, field, resource_field};
use super::sources::{self, SourceError};
use crate::meta_manager::Objects;

pub use super::expand::expand;

/// Why a container cannot have its environment: the message of `CreateContainerConfigError`, in the kubelet's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap, a Secret or a key of one is not there. It may be made any moment.
    #[error("{0}")]
    Missing(String),
    /// Not held here and the cloud is away.
    #[error("{0}")]
    Offline(String),
    /// Only a change of the pod helps.
    #[error("{0}")]
    Refused(String),
}

impl From<SourceError> for EnvError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::NotFound(text) => Self::Missing(text),
            SourceError::Offline(text) => Self::Offline(text),
            SourceError::Refused(text) => Self::Refused(text),
        }
    }
}

impl From<FieldError> for EnvError {
    fn from(error: FieldError) -> Self {
        Self::Refused(error.0)
    }
}

/// What a container starts with.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// Each name once, in the order in which names first appear.
    pub variables: Vec<(String, String)>,
    /// Sentences for the event `InvalidEnvironmentVariableNames`: keys that cannot be names of variables.
    pub skipped: Vec<String>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.variables.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Environment").field("names", &names).field("skipped", &self.skipped).finish()
    }
}

/// Resolves `envFrom` and `env` of a container. Later entries win, `env` over `envFrom` over `facts.service_env`; a
/// value may refer to what stands before it.
pub async fn environment(
    pod: &Pod,
    container: &Container,
    objects: &dyn Objects,
    facts: &PodFacts,
) -> Result<Environment, EnvError> {
    let mut variables = Variables::default();
    for (name, value) in &facts.service_env {
        variables.set(name.clone(), value.clone());
    }
    let mut skipped = Vec::new();
    for from in container.env_from.iter().flatten() {
        add_all(pod, from, objects, &mut variables, &mut skipped).await?;
    }
    for entry in container.env.iter().flatten() {
        if let Some(value) = value(pod, container, entry, objects, facts, &variables).await? {
            variables.set(entry.name.clone(), value);
        }
    }
    Ok(Environment { variables: variables.in_order, skipped })
}

/// Variables in the order of their first appearance.
#[derive(Default)]
struct Variables {
    in_order: Vec<(String, String)>,
    places: HashMap<String, usize>,
}

impl Variables {
    fn set(&mut self, name: String, value: String) {
        match self.places.get(&name).and_then(|place| self.in_order.get_mut(*place)) {
            Some(entry) => entry.1 = value,
            None => {
                self.places.insert(name.clone(), self.in_order.len());
                self.in_order.push((name, value));
            }
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.places.get(name).and_then(|place| self.in_order.get(*place)).map(|entry| entry.1.clone())
    }
}

async fn add_all(
    pod: &Pod,
    from: &EnvFromSource,
    objects: &dyn Objects,
    variables: &mut Variables,
    skipped: &mut Vec<String>,
) -> Result<(), EnvError> {
    let prefix = from.prefix.as_deref().unwrap_or_default();
    let mut invalid = Vec::new();
    let mut add = |key: &str, value: String| {
        let name = format!("{prefix}{key}");
        if is_name(&name) { variables.set(name, value) } else { invalid.push(name) }
    };
    let source = if let Some(reference) = &from.config_map_ref {
        let map = sources::config_map(objects, pod, &reference.name, reference.optional).await?.held();
        for (key, value) in map.iter().filter_map(|map| map.data.as_ref()).flatten() {
            add(key, value.clone());
        }
        format!("configMap {}/{}", namespace(pod), reference.name)
    } else if let Some(reference) = &from.secret_ref {
        let secret = sources::secret(objects, pod, &reference.name, reference.optional).await?.held();
        for (key, value) in secret.iter().filter_map(|secret| secret.data.as_ref()).flatten() {
            add(key, String::from_utf8_lossy(&value.0).into_owned());
        }
        format!("secret {}/{}", namespace(pod), reference.name)
    } else {
        return Ok(());
    };
    if !invalid.is_empty() {
        skipped.push(format!(
            "Keys [{}] from the EnvFrom {source} were skipped since they are considered invalid environment variable \
             names.",
            invalid.join(", ")
        ));
    }
    Ok(())
}

/// The value of one entry; `None`: an optional reference leads nowhere, so there is no variable.
async fn value(
    pod: &Pod,
    container: &Container,
    entry: &EnvVar,
    objects: &dyn Objects,
    facts: &PodFacts,
    variables: &Variables,
) -> Result<Option<String>, EnvError> {
    let Some(from) = &entry.value_from else {
        let text = entry.value.as_deref().unwrap_or_default();
        return Ok(Some(expand(text, |name| variables.get(name))));
    };
    let EnvVarSource { config_map_key_ref, field_ref, file_key_ref, resource_field_ref, secret_key_ref } =
        from;
    if let Some(reference) = config_map_key_ref {
        let map = sources::config_map(objects, pod, &reference.name, reference.optional).await?.held();
        let Some(map) = map else { return Ok(None) };
        let value = map.data.as_ref().and_then(|data| data.get(&reference.key)).cloned();
        let what = || format!("ConfigMap {}/{}", namespace(pod), reference.name);
        return required(value, reference.optional, &reference.key, what);
    }
    if let Some(reference) = secret_key_ref {
        let secret = sources::secret(objects, pod, &reference.name, reference.optional).await?.held();
        let Some(secret) = secret else { return Ok(None) };
        let value = secret.data.as_ref().and_then(|data| data.get(&reference.key));
        let value = value.map(|value| String::from_utf8_lossy(&value.0).into_owned());
        let what = || format!("Secret {}/{}", namespace(pod), reference.name);
        return required(value, reference.optional, &reference.key, what);
    }
    if let Some(reference) = field_ref {
        return Ok(Some(field(pod, facts, &reference.field_path)?));
    }
    if let Some(reference) = resource_field_ref {
        return Ok(Some(resource_field(pod, facts, Some(container), reference)?));
    }
    let what =
        if file_key_ref.is_some() { "fileKeyRef is not supported by this node" } else { "has no source" };
    Err(EnvError::Refused(format!("environment variable {}: {what}", entry.name)))
}

fn required(
    value: Option<String>,
    optional: Option<bool>,
    key: &str,
    what: impl Fn() -> String,
) -> Result<Option<String>, EnvError> {
    match value {
        Some(value) => Ok(Some(value)),
        None if optional == Some(true) => Ok(None),
        None => Err(EnvError::Missing(format!("couldn't find key {key} in {}", what()))),
    }
}

fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("default")
}

/// Kubernetes' rule since 1.34: printable ASCII without `=`.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=')
}

#[cfg(test)]
mod tests;
