//! Questions get answers: one API call or two each, always an answer, failures in the API server's own words.
//!
//! Admission has happened; what only the content shows is checked here. Called by `lanes.rs`.

#![expect(clippy::result_large_err, reason = "a refusal is what the edge gets, once a call")]

use bytes::Bytes;
use hyper::Method;
use ke_api::object::{self, ObjectError};
use ke_api::pod_network::POD_NETWORK;
use ke_wire::{
    Answer, EventChange, Kind, Namespace, NodeName, ObjectKey, ObjectName, Question, Reason, Refusal, Version,
};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::graph::Graph;
use super::handle::LinkNews;
use super::numbers::Numbers;
use super::observed;
use super::runtime_class;
use super::services::Services;
use crate::api_server::{ApiServer, Call, Content, bad_request, folder_path, forbidden, object_path};
use crate::edge_node::{CLOUDCORE, EDGE_LABEL};
use crate::kubelet_endpoints::{KubeletEndpoints, as_the_node_said};

/// A lease belongs to one node, so that a lost race is with itself: reading it anew settles it.
const LEASE_TRIES: u32 = 3;

/// What answering needs.
pub(super) struct Answers {
    /// The API server.
    pub api: ApiServer,
    /// What has to do with which node.
    pub graph: Graph,
    /// PEM of the API server's certificate authority; empty when not known.
    pub api_server_ca: String,
    /// Address told to the nodes; empty when not known.
    pub address: String,
    /// What Nodes show to the API server.
    pub endpoints: KubeletEndpoints,
    /// What was said of Services a moment ago.
    pub services: Services,
    /// Where a registration of an existing Node is told.
    pub news: mpsc::Sender<LinkNews>,
    /// What is counted.
    pub numbers: Numbers,
}

type Outcome<T> = Result<T, Refusal>;

impl Answers {
    /// The answer to `question` of `node`, with the version of the object in it.
    pub(super) async fn answer(&self, node: &NodeName, question: Question) -> (Answer, Option<Version>) {
        let answered = self.answer_uncounted(node, question).await;
        self.numbers.asked.inc();
        if matches!(answered.0, Answer::NotStored(_) | Answer::Refused(_)) {
            self.numbers.refused.inc();
        }
        answered
    }

    async fn answer_uncounted(&self, node: &NodeName, question: Question) -> (Answer, Option<Version>) {
        match question {
            Question::Get(key) if key.kind == Kind::Lease => stored(self.api.get(&key).await),
            Question::Get(key) => match self.get(node, &key).await {
                Ok(body) => {
                    let version = version(&body);
                    (Answer::Object(body), version)
                }
                Err(refused) => (Answer::Refused(refused), None),
            },
            Question::Token { namespace, account, request } => {
                match self.token(node, &namespace, &account, &request).await {
                    Ok(body) => (Answer::Object(body), None),
                    Err(refused) => (Answer::Refused(refused), None),
                }
            }
            Question::ApiServerCa => (Answer::Pem(self.api_server_ca.clone()), None),
            Question::Create { key, body } => stored(self.create(node, &key, &body).await),
            Question::Update { key, body } if key.kind == Kind::Lease => {
                stored(self.update_lease(&key, &body).await)
            }
            Question::Update { key, body } => match self.merge_labels(&key, &body).await {
                Ok(body) => (Answer::Done, version(&body)),
                Err(refused) => (Answer::Refused(refused), None),
            },
            Question::PatchNodeStatus { node, patch } => match object_name(node.as_str()) {
                Ok(name) => {
                    let key = ObjectKey::cluster(Kind::Node, name);
                    stored(self.patch_status(&key, Some(&node), &patch).await.and_then(as_said))
                }
                Err(refused) => (Answer::NotStored(refused), None),
            },
            Question::PatchPodStatus { namespace, name, patch } => {
                let key = ObjectKey::namespaced(Kind::Pod, namespace, name);
                stored(self.patch_status(&key, None, &patch).await)
            }
            Question::DeletePod { namespace, name, options } => {
                match self.delete_pod(&ObjectKey::namespaced(Kind::Pod, namespace, name), &options).await {
                    Ok(()) => (Answer::Done, None),
                    Err(refused) => (Answer::Refused(refused), None),
                }
            }
        }
    }

    /// Stores an event. Nobody waits for it.
    pub(super) async fn store_event(&self, node: &NodeName, key: &ObjectKey, change: EventChange) {
        self.numbers.asked.inc();
        if let Err(refused) = self.event(key, change).await {
            self.numbers.refused.inc();
            tracing::warn!(%node, "an event was not stored: {refused}");
        }
    }

    async fn get(&self, node: &NodeName, key: &ObjectKey) -> Outcome<Bytes> {
        if let (Kind::ServiceList, Some(namespace)) = (&key.kind, key.scope.namespace()) {
            return self.services.of(&self.api, namespace).await;
        }
        let body = self.api.get(key).await?;
        let mut object = parsed(&body)?;
        if key.kind == Kind::RuntimeClass {
            return Ok(runtime_class::cut(&object).to_string().into());
        }
        // Which volume belongs to which node is told by the volume itself.
        let is_theirs = match key.kind {
            Kind::VolumeAttachment => {
                object.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node.as_str())
            }
            Kind::PersistentVolume => {
                claim_of(&object).is_some_and(|claim| self.graph.may_read(node, &claim))
            }
            _ => true,
        };
        if !is_theirs {
            return Err(forbidden(key, &format!("{key} has nothing to do with node {node}")));
        }
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        if key.kind == Kind::Node {
            as_the_node_said(&mut object);
        }
        Ok(object.to_string().into())
    }

    async fn token(
        &self,
        node: &NodeName,
        namespace: &Namespace,
        account: &ObjectName,
        request: &Bytes,
    ) -> Outcome<Bytes> {
        let mut asked = parsed(request)?;
        let what = format!("a token of {namespace}/{account}");
        let denied = |why: &str| {
            let key = ObjectKey::namespaced(Kind::Pod, namespace.clone(), account.clone());
            Err(Refusal {
                details: None,
                ..forbidden(&key, &format!("{what} is not for node {node}: {why}"))
            })
        };
        let field =
            |field: &str| asked.pointer(&format!("/spec/boundObjectRef/{field}")).and_then(Value::as_str);
        if field("kind") != Some("Pod") {
            return denied("it must be bound to a pod");
        }
        let pod = field("name").and_then(|name| name.parse::<ObjectName>().ok());
        let uid = pod.and_then(|pod| self.graph.pod_is_on(node, namespace, &pod));
        if uid.is_none() || field("uid") != uid.as_ref().map(AsRef::as_ref) {
            return denied("no such pod runs there");
        }
        if !self.graph.uses_account(node, namespace, account) {
            return denied("no pod there runs as that account");
        }
        if let Some(asked) = asked.as_object_mut() {
            asked.insert("apiVersion".to_owned(), "authentication.k8s.io/v1".into());
            asked.insert("kind".to_owned(), "TokenRequest".into());
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let call = Call::new(Method::POST, path).with(Content::Json, asked.to_string().into());
        let mut made = parsed(&self.api.call(call).await?)?;
        // Go edges look the token up by the spec in the answer, so it must be the one they asked with.
        if let (Some(made), Some(spec)) = (made.as_object_mut(), asked.get("spec")) {
            made.insert("spec".to_owned(), spec.clone());
        }
        Ok(made.to_string().into())
    }

    async fn create(&self, node: &NodeName, key: &ObjectKey, body: &Bytes) -> Outcome<Bytes> {
        let body = object::with_types(&key.kind, body).map_err(undecodable)?;
        let mut object = parsed(&body)?;
        let told = object.pointer("/metadata/name").and_then(Value::as_str);
        if told != Some(key.name.as_str()) {
            return Err(bad_request(&format!("the body of {key} names {:?}", told.unwrap_or(""))));
        }
        let path = folder_path(key)?;
        match key.kind {
            Kind::Node => {
                let_only_own_words(&mut object);
                // Which addresses its pods have is not a node's to say.
                if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                    spec.retain(|field, _| !matches!(field.as_str(), "podCIDR" | "podCIDRs"));
                }
                if !self.address.is_empty()
                    && let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
                    && let Some(annotations) =
                        metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
                {
                    annotations.insert(CLOUDCORE.to_owned(), self.address.as_str().into());
                }
                if object.pointer("/metadata/labels").is_none_or(|labels| labels.get(EDGE_LABEL).is_none()) {
                    tracing::warn!(%node, "registers without the label {}: it will get nothing", EDGE_LABEL);
                }
                self.endpoints.create(node, &mut object);
                let call = Call::new(Method::POST, path).with(Content::Json, object.to_string().into());
                let outcome = self.api.call(call).await.and_then(as_said);
                if outcome.as_ref().is_err_and(|refused| refused.reason == Reason::AlreadyExists) {
                    let _ = self.news.send(LinkNews::RegisteredAnew(node.clone())).await;
                }
                outcome
            }
            Kind::Pod => {
                let is_mirror =
                    object.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some();
                let is_here = object.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node.as_str());
                if !is_mirror || !is_here {
                    return Err(forbidden(
                        key,
                        &format!("node {node} may only create mirrors of its own static pods"),
                    ));
                }
                // Else a node could make itself a reader of whatever it names in a Pod of its own. Kubernetes holds kubelets
                // to the same, but here it sees cloudcore, not the node.
                let named = key.scope.namespace().map(|namespace| observed::references(namespace, &object));
                let account = object.pointer("/spec/serviceAccountName").and_then(Value::as_str);
                if let Some(named) = named.and_then(|mut named| named.pop_first()) {
                    return Err(forbidden(key, &format!("a mirror of a static pod may not name {named}")));
                }
                if account.is_some_and(|account| !account.is_empty()) {
                    return Err(forbidden(key, "a mirror of a static pod may not name a service account"));
                }
                if !belongs_to_node_at_most(&object, node) {
                    return Err(forbidden(
                        key,
                        "a mirror of a static pod belongs to its own Node or to nobody",
                    ));
                }
                self.api.call(Call::new(Method::POST, path).with(Content::Json, body)).await
            }
            // Kubernetes looks at who asks: a serving certificate is signed for the node itself only.
            Kind::CertificateSigningRequest => {
                self.api.call(Call::new(Method::POST, path).with(Content::Json, body).in_name_of(node)).await
            }
            Kind::Lease => self.api.call(Call::new(Method::POST, path).with(Content::Json, body)).await,
            _ => Err(forbidden(key, &format!("node {node} may not create a {}", key.kind.as_str()))),
        }
    }

    async fn update_lease(&self, key: &ObjectKey, body: &Bytes) -> Outcome<Bytes> {
        let mut lease = parsed(&object::with_types(&key.kind, body).map_err(undecodable)?)?;
        let path = object_path(key, "")?;
        for attempt in 1.. {
            if lease
                .pointer("/metadata/resourceVersion")
                .and_then(Value::as_str)
                .is_some_and(|text| !text.is_empty())
            {
                let call = Call::new(Method::PUT, path.clone()).with(Content::Json, lease.to_string().into());
                match self.api.call(call).await {
                    Err(refused) if refused.reason == Reason::Conflict && attempt < LEASE_TRIES => {}
                    outcome => return outcome,
                }
            }
            let now = parsed(&self.api.get(key).await?)?;
            let current =
                |field: &str| now.pointer(&format!("/metadata/{field}")).cloned().unwrap_or_default();
            let Some(metadata) = lease.get_mut("metadata").and_then(Value::as_object_mut) else {
                return Err(bad_request("the lease has no metadata"));
            };
            metadata.insert("resourceVersion".to_owned(), current("resourceVersion"));
            metadata.insert("uid".to_owned(), current("uid"));
        }
        Err(bad_request("the lease could not be stored"))
    }

    async fn merge_labels(&self, key: &ObjectKey, body: &Bytes) -> Outcome<Bytes> {
        if key.kind != Kind::Node {
            return Err(forbidden(key, &format!("a {} is not updated from an edge", key.kind.as_str())));
        }
        let mut node = parsed(body)?;
        let_only_own_words(&mut node);
        let part =
            |name: &str| node.pointer(&format!("/metadata/{name}")).cloned().unwrap_or_else(|| json!({}));
        let patch = json!({"metadata": {"labels": part("labels"), "annotations": part("annotations")}});
        let call = Call::new(Method::PATCH, object_path(key, "")?);
        self.api.call(call.with(Content::MergePatch, patch.to_string().into())).await
    }

    /// `node`: it is this Node's; `None`: a Pod's.
    async fn patch_status(&self, key: &ObjectKey, node: Option<&NodeName>, patch: &str) -> Outcome<Bytes> {
        let Ok(mut patch) = serde_json::from_str::<Map<String, Value>>(patch) else {
            return Err(bad_request(&format!("the status patch of {key} is no JSON object")));
        };
        // The API server lets labels and annotations through this door. Only the status is the node's to say.
        let uid = patch.get("metadata").and_then(|metadata| metadata.get("uid")).cloned();
        patch.retain(|field, _| field == "status");
        if let Some(uid) = uid {
            patch.insert("metadata".to_owned(), json!({"uid": uid}));
        }
        if let Some(node) = node {
            self.endpoints.patch(node, &mut patch);
        }
        let call = Call::new(Method::PATCH, object_path(key, "/status")?);
        let body = Value::Object(patch).to_string();
        self.api.call(call.with(Content::StrategicMergePatch, body.into())).await
    }

    async fn delete_pod(&self, key: &ObjectKey, options: &Bytes) -> Outcome<()> {
        let mut options = parsed(options)?;
        let names_uid = options.pointer("/preconditions/uid").is_some_and(|uid| !uid.is_null());
        if let Some(options) = options.as_object_mut() {
            options.insert("apiVersion".to_owned(), "v1".into());
            options.insert("kind".to_owned(), "DeleteOptions".into());
        }
        let call = Call::new(Method::DELETE, object_path(key, "")?);
        match self.api.call(call.with(Content::Json, options.to_string().into())).await {
            Ok(_) => Ok(()),
            // Gone already, or another Pod of that name: this one is gone.
            Err(refused) if refused.reason == Reason::NotFound => Ok(()),
            Err(refused) if refused.reason == Reason::Conflict && names_uid => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// Events may come twice or to a name that is gone; neither is worth a word.
    async fn event(&self, key: &ObjectKey, change: EventChange) -> Outcome<()> {
        let kind = &key.kind;
        let (event, change) = match change {
            EventChange::Created(event) => (event, None),
            EventChange::Updated(event) => (event.clone(), Some((Method::PUT, Content::Json, event))),
            EventChange::Patched { event, patch } => {
                (event, Some((Method::PATCH, Content::StrategicMergePatch, patch.into())))
            }
        };
        let mut event = parsed(&object::with_types(kind, &event).map_err(undecodable)?)?;
        if let Some((method, content, body)) = change {
            let body = if content == Content::Json { event.to_string().into() } else { body };
            match self.api.call(Call::new(method, object_path(key, "")?).with(content, body)).await {
                Err(refused) if matches!(refused.reason, Reason::NotFound | Reason::Conflict) => {}
                outcome => return outcome.map(drop),
            }
        }
        if let Some(metadata) = event.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
            metadata.remove("uid");
        }
        let call = Call::new(Method::POST, folder_path(key)?).with(Content::Json, event.to_string().into());
        match self.api.call(call).await {
            Err(refused) if refused.reason == Reason::AlreadyExists => Ok(()),
            outcome => outcome.map(drop),
        }
    }
}

/// Takes out of a Node what only people and the cloud may say about a machine, as NodeRestriction does for kubelets:
/// roles other than an edge's, labels of the reserved domain, and our own notes.
fn let_only_own_words(node: &mut Value) {
    let is_own = |label: &str| {
        let (domain, name) = label.split_once('/').unwrap_or(("", label));
        match domain {
            "node-role.kubernetes.io" => matches!(name, "edge" | "agent"),
            // By this one it asks for a range of pod addresses.
            "isthmus.io" => label == POD_NETWORK,
            "node-restriction.kubernetes.io" => false,
            domain => !domain.ends_with(".node-restriction.kubernetes.io"),
        }
    };
    for part in ["/metadata/labels", "/metadata/annotations"] {
        let Some(Value::Object(words)) = node.pointer_mut(part) else { continue };
        words.retain(|word, _| {
            let keeps = is_own(word);
            if !keeps {
                tracing::warn!("a node may not say {word:?} about itself; it is left out");
            }
            keeps
        });
    }
}

/// A Node as its machine said it, which must not take the cloud's address for its own.
fn as_said(body: Bytes) -> Outcome<Bytes> {
    let mut node = parsed(&body)?;
    as_the_node_said(&mut node);
    Ok(node.to_string().into())
}

/// Whether the object has no owner, or this Node alone. Whoever is named as an owner of something may hold up its own
/// deletion by it, or have it deleted.
fn belongs_to_node_at_most(object: &Value, node: &NodeName) -> bool {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let owners = owners.map(Vec::as_slice).unwrap_or_default();
    let is_node = |owner: &Value| {
        let field = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        (field("apiVersion"), field("kind"), field("name")) == ("v1", "Node", node.as_str())
            && owner.get("blockOwnerDeletion").and_then(Value::as_bool) != Some(true)
    };
    owners.len() <= 1 && owners.iter().all(is_node)
}

fn stored(outcome: Outcome<Bytes>) -> (Answer, Option<Version>) {
    match outcome {
        Ok(body) => {
            let version = version(&body);
            (Answer::Stored(body), version)
        }
        Err(refused) => (Answer::NotStored(refused), None),
    }
}

fn version(body: &[u8]) -> Option<Version> {
    object::meta(body).ok()?.version()
}

fn parsed(body: &[u8]) -> Outcome<Value> {
    // The parser's words may quote a body, which may be a Secret.
    let value: Value = serde_json::from_slice(body).map_err(|_| bad_request("the body is no JSON"))?;
    if value.is_object() { Ok(value) } else { Err(bad_request("the body is no JSON object")) }
}

fn undecodable(cause: ObjectError) -> Refusal {
    bad_request(&cause.to_string())
}

fn object_name(text: &str) -> Outcome<ObjectName> {
    text.parse().map_err(|cause: ke_wire::InvalidId| bad_request(&cause.to_string()))
}

fn claim_of(volume: &Value) -> Option<ObjectKey> {
    let field = |field: &str| volume.pointer(&format!("/spec/claimRef/{field}")).and_then(Value::as_str);
    let (namespace, name) = (field("namespace")?.parse().ok()?, field("name")?.parse().ok()?);
    Some(ObjectKey::namespaced(Kind::PersistentVolumeClaim, namespace, name))
}

#[cfg(test)]
#[path = "answers_tests.rs"]
mod tests;
