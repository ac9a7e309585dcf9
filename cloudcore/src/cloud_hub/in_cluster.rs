//! Secrets, keys and Nodes in the Kubernetes API: the real forms of CloudHub's traits.

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Event, EventSource, Node, ObjectReference, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use ke_wire::NodeName;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;

use super::enroll::NodeLookup;
use crate::gate::{ANNOTATION, Holder, Pin, Pins, SecretData, Secrets};
use crate::namespace::NAMESPACE;

/// The API server behind CloudHub's traits. Cheap to clone.
#[derive(Clone)]
pub struct InCluster {
    client: kube::Client,
}

impl InCluster {
    /// Uses this client.
    pub fn new(client: kube::Client) -> Self {
        Self { client }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }
}

fn secret(name: &str, data: SecretData) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(NAMESPACE.into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".into()),
        data: Some(data.into_iter().map(|(key, value)| (key, ByteString(value))).collect()),
        ..Secret::default()
    }
}

#[async_trait]
impl Secrets for InCluster {
    async fn get(&self, name: &str) -> Result<Option<SecretData>, String> {
        let secret = self.secrets().get_opt(name).await.map_err(|error| error.to_string())?;
        let data = secret.and_then(|secret| secret.data);
        Ok(data.map(|data| data.into_iter().map(|(key, value)| (key, value.0)).collect()))
    }

    async fn create(&self, name: &str, data: SecretData) -> Result<bool, String> {
        match self.secrets().create(&PostParams::default(), &secret(name, data)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn put(&self, name: &str, data: SecretData) -> Result<(), String> {
        if self.create(name, data.clone()).await? {
            return Ok(());
        }
        let patch = Patch::Merge(secret(name, data));
        self.secrets()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

#[async_trait]
impl NodeLookup for InCluster {
    async fn exists(&self, node: &NodeName) -> Result<bool, String> {
        let api = Api::<Node>::all(self.client.clone());
        api.get_metadata_opt(node.as_str())
            .await
            .map(|node| node.is_some())
            .map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Pins for InCluster {
    async fn get(&self, node: &NodeName) -> Result<Holder, String> {
        let api = Api::<Node>::all(self.client.clone());
        let node = api.get_metadata_opt(node.as_str()).await.map_err(|error| error.to_string())?;
        let of = |node: &ObjectMeta| Holder::of(node.labels.as_ref(), node.annotations.as_ref());
        Ok(node.map_or(Holder::Nobody, |node| of(&node.metadata)))
    }

    async fn set(&self, node: &NodeName, pin: &Pin) -> Result<(), String> {
        let api = Api::<Node>::all(self.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"annotations": {ANNOTATION: pin.text()}}}));
        match api.patch_metadata(node.as_str(), &PatchParams::default(), &patch).await {
            // Not registered yet: noted when it is.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            outcome => outcome.map(|_| ()).map_err(|error| error.to_string()),
        }
    }

    async fn tell_refused(&self, node: &NodeName, message: &str) {
        let now = Timestamp::now();
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{node}.{:x}", now.as_nanosecond())),
                namespace: Some("default".into()),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.to_string()),
                // kubectl describe node looks for the name here.
                uid: Some(node.to_string()),
                ..ObjectReference::default()
            },
            type_: Some("Warning".into()),
            reason: Some("NodeNameInUse".into()),
            message: Some(message.into()),
            source: Some(EventSource { component: Some("cloudcore".into()), ..EventSource::default() }),
            count: Some(1),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            ..Event::default()
        };
        let api = Api::<Event>::namespaced(self.client.clone(), "default");
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(%node, %error, "tell in an event that a node name is in use");
        }
    }
}
