//! Pure: one object as the API server showed it, and what of it matters for delivery.
//!
//! It keeps JSON as JSON, so that fields newer than our types reach the edge. Made by `watch.rs` and `fetch.rs`,
//! used by `placement.rs` and `tolerations.rs`.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use ke_api::object::api_type;
use ke_wire::{Kind, Namespace, NodeName, ObjectKey, ObjectName, Scope, Uid, Version};
use serde_json::{Map, Value};

/// The kinds that are watched, in the order in which their first lists are asked for.
pub(super) const WATCHED: [Kind; 4] = [Kind::Node, Kind::Pod, Kind::ConfigMap, Kind::Secret];

/// What a watch says.
#[derive(Clone, Debug)]
pub(super) enum WatchEvent {
    /// All objects of this kind follow, at the start or because the watch lost its place.
    ListStarted(Kind),
    /// An object as it is now.
    Applied(Observed),
    /// An object that is gone, as it was last.
    Removed(Observed),
    /// What was not in the list does not exist.
    ListDone(Kind),
}

/// An object of the API server.
#[derive(Clone, PartialEq)]
pub(super) struct Observed {
    /// Which object.
    pub key: ObjectKey,
    /// Its uid.
    pub uid: Uid,
    /// Its version.
    pub version: Version,
    object: Value,
}

/// Without the object: it may be a Secret.
impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ({})", self.key, self.version, self.uid)
    }
}

/// Why an object of the API server cannot be handed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// A field without which nothing can be delivered.
    #[error("{kind} {name:?} has no usable metadata.{field}")]
    Field {
        /// Kind of the object.
        kind: String,
        /// Its name, where there is one.
        name: String,
        /// The field.
        field: &'static str,
    },
}

impl Observed {
    /// From the object's JSON. Fills in `apiVersion` and `kind`, which lists leave out, and drops `managedFields`,
    /// which nobody on an edge reads and which make up a third of a small object.
    pub(super) fn new(kind: &Kind, object: Value) -> Result<Self, Unusable> {
        let mut object = match object {
            Value::Object(object) => object,
            _ => Map::new(),
        };
        let namespaced = api_type(kind).is_none_or(|api| api.namespaced);
        if let Some(api) = api_type(kind) {
            object.insert("apiVersion".to_owned(), api.api_version.into());
            object.insert("kind".to_owned(), api.kind.into());
        }
        let name =
            object.get("metadata").and_then(|metadata| text(metadata, "name")).unwrap_or_default().to_owned();
        let unusable = |field| Unusable::Field { kind: kind.as_str().to_owned(), name: name.clone(), field };
        let Some(Value::Object(metadata)) = object.get_mut("metadata") else {
            return Err(unusable("name"));
        };
        metadata.remove("managedFields");
        let metadata = &Value::Object(metadata.clone());
        let field = |field| text(metadata, field).ok_or_else(|| unusable(field));
        let scope = if namespaced {
            Scope::Namespace(field("namespace")?.parse().map_err(|_| unusable("namespace"))?)
        } else {
            Scope::Cluster
        };
        Ok(Self {
            key: ObjectKey {
                kind: kind.clone(),
                scope,
                name: field("name")?.parse().map_err(|_| unusable("name"))?,
            },
            uid: field("uid")?.parse().map_err(|_| unusable("uid"))?,
            version: field("resourceVersion")?.parse().map_err(|_| unusable("resourceVersion"))?,
            object: Value::Object(object),
        })
    }

    /// The object as it goes to the edge: a Node as its machine said it.
    #[must_use]
    pub(super) fn body(&self) -> Bytes {
        let text = if self.key.kind == Kind::Node {
            let mut node = self.object.clone();
            crate::kubelet_endpoints::as_the_node_said(&mut node);
            node.to_string()
        } else {
            self.object.to_string()
        };
        // Kept as long as the object exists: without the room that writing left over, up to half of it.
        text.into_boxed_str().into_boxed_bytes().into()
    }

    /// The object's JSON.
    #[must_use]
    pub(super) fn object(&self) -> &Value {
        &self.object
    }

    /// Whether its removal was asked for.
    #[must_use]
    pub(super) fn is_going(&self) -> bool {
        self.object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
    }

    /// The value of one annotation.
    #[must_use]
    pub(super) fn annotation(&self, name: &str) -> Option<&str> {
        self.object.pointer("/metadata/annotations")?.get(name)?.as_str()
    }

    /// A number that changes when something changes that the edge must be told: for Pods metadata and spec, and of
    /// the status, which is the edge's own word, whether it is ready: the control plane overwrites that for a node it
    /// missed, and only the edge can set it right; and the readiness gates, which others open and close; for Nodes all but the heartbeats, which would come back to their sender every minute.
    #[must_use]
    pub(super) fn shape(&self) -> u64 {
        let mut object = self.object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("resourceVersion");
        }
        if self.key.kind == Kind::Pod {
            let gates = list(object.get("spec").unwrap_or(&Value::Null), "readinessGates");
            let counts = |kind: &str| {
                kind == "Ready" || gates.iter().any(|gate| text(gate, "conditionType") == Some(kind))
            };
            let conditions = list(object.get("status").unwrap_or(&Value::Null), "conditions");
            let met = conditions.iter().filter(|one| text(one, "status") == Some("True"));
            let met: BTreeSet<&str> =
                met.filter_map(|one| text(one, "type")).filter(|kind| counts(kind)).collect();
            let met = Value::from_iter(met);
            if let Some(object) = object.as_object_mut() {
                object.insert("status".to_owned(), met);
            }
        } else if let Some(conditions) =
            object.pointer_mut("/status/conditions").and_then(Value::as_array_mut)
        {
            for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
                condition.remove("lastHeartbeatTime");
            }
        }
        let mut hasher = DefaultHasher::new();
        object.to_string().hash(&mut hasher);
        hasher.finish()
    }

    /// The node that a Pod is bound to.
    #[must_use]
    pub(super) fn node(&self) -> Option<NodeName> {
        text(self.object.get("spec")?, "nodeName")?.parse().ok()
    }

    /// The service account that a Pod runs as.
    #[must_use]
    pub(super) fn account(&self) -> Option<ObjectName> {
        text(self.object.get("spec")?, "serviceAccountName").unwrap_or("default").parse().ok()
    }

    /// What a Pod names and its node must be able to read: ConfigMaps and Secrets of volumes (projected ones too, with
    /// `kube-root-ca.crt` among them), of environments of all sorts of containers, pull secrets, claims.
    /// Names that Kubernetes would not take are left out.
    #[must_use]
    pub(super) fn references(&self) -> BTreeSet<ObjectKey> {
        self.key.scope.namespace().map_or_else(BTreeSet::new, |namespace| references(namespace, &self.object))
    }
}

/// What a Pod of this namespace names; see [`Observed::references`].
#[must_use]
pub(super) fn references(namespace: &Namespace, pod: &Value) -> BTreeSet<ObjectKey> {
    let Some(spec) = pod.get("spec") else { return BTreeSet::new() };
    let mut found = References { namespace, keys: BTreeSet::new() };
    for volume in list(spec, "volumes") {
        found.volume(volume, text(pod.get("metadata").unwrap_or(&Value::Null), "name"));
    }
    for containers in ["initContainers", "containers", "ephemeralContainers"] {
        for container in list(spec, containers) {
            found.environment(container);
        }
    }
    for secret in list(spec, "imagePullSecrets") {
        found.add(Kind::Secret, text(secret, "name"));
    }
    found.keys
}

struct References<'a> {
    namespace: &'a Namespace,
    keys: BTreeSet<ObjectKey>,
}

impl References<'_> {
    fn add(&mut self, kind: Kind, name: Option<&str>) {
        if let Some(Ok(name)) = name.map(str::parse) {
            self.keys.insert(ObjectKey::namespaced(kind, self.namespace.clone(), name));
        }
    }

    fn volume(&mut self, volume: &Value, pod: Option<&str>) {
        let part = |name: &str| volume.get(name).unwrap_or(&Value::Null);
        self.add(Kind::ConfigMap, text(part("configMap"), "name"));
        self.add(Kind::Secret, text(part("secret"), "secretName"));
        self.add(Kind::PersistentVolumeClaim, text(part("persistentVolumeClaim"), "claimName"));
        if let (true, Some(pod), Some(name)) = (part("ephemeral").is_object(), pod, text(volume, "name")) {
            // Kubernetes names the claim of a generic ephemeral volume so.
            self.add(Kind::PersistentVolumeClaim, Some(&format!("{pod}-{name}")));
        }
        for source in list(part("projected"), "sources") {
            let part = |name: &str| source.get(name).unwrap_or(&Value::Null);
            self.add(Kind::ConfigMap, text(part("configMap"), "name"));
            self.add(Kind::Secret, text(part("secret"), "name"));
        }
        // Drivers that take a secret by reference: csi inline and the older network volumes.
        self.add(Kind::Secret, volume.pointer("/csi/nodePublishSecretRef/name").and_then(Value::as_str));
        for driver in ["cephfs", "flexVolume", "iscsi", "rbd", "scaleIO", "storageos"] {
            self.add(Kind::Secret, part(driver).pointer("/secretRef/name").and_then(Value::as_str));
        }
        self.add(Kind::Secret, text(part("azureFile"), "secretName"));
    }

    fn environment(&mut self, container: &Value) {
        for source in list(container, "envFrom") {
            self.add(Kind::ConfigMap, source.pointer("/configMapRef/name").and_then(Value::as_str));
            self.add(Kind::Secret, source.pointer("/secretRef/name").and_then(Value::as_str));
        }
        for variable in list(container, "env") {
            let name = |pointer| variable.pointer(pointer).and_then(Value::as_str);
            self.add(Kind::ConfigMap, name("/valueFrom/configMapKeyRef/name"));
            self.add(Kind::Secret, name("/valueFrom/secretKeyRef/name"));
        }
    }
}

fn text<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object.get(field)?.as_str().filter(|text| !text.is_empty())
}

fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Observed {
        let metadata = json!({"name": "web", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
            "managedFields": [{"manager": "kubectl"}]});
        Observed::new(&Kind::Pod, json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn what_a_pod_names() {
        let check = |spec: Value, expected: &[&str]| {
            let got: Vec<String> = pod(spec.clone()).references().iter().map(ToString::to_string).collect();
            assert_eq!(got, expected, "{spec}");
        };
        check(json!({}), &[]);
        check(
            json!({"volumes": [{"configMap": {"name": "a"}}, {"secret": {"secretName": "b"}}, {"emptyDir": {}}]}),
            &["shop/configmap/a", "shop/secret/b"],
        );
        check(
            json!({"volumes": [{"projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "kube-root-ca.crt"}}, {"secret": {"name": "s"}}]}}]}),
            &["shop/configmap/kube-root-ca.crt", "shop/secret/s"],
        );
        check(
            json!({"initContainers": [{"envFrom": [{"secretRef": {"name": "i"}}]}],
                "containers": [{"env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "e", "key": "k"}}},
                    {"name": "Y", "valueFrom": {"secretKeyRef": {"name": "f", "key": "k"}}}, {"name": "Z", "value": "1"}]}],
                "ephemeralContainers": [{"envFrom": [{"configMapRef": {"name": "d"}}]}]}),
            &["shop/configmap/d", "shop/configmap/e", "shop/secret/f", "shop/secret/i"],
        );
        check(json!({"imagePullSecrets": [{"name": "pull"}, {}, {"name": "../x"}]}), &["shop/secret/pull"]);
        check(
            json!({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}, {"name": "scratch", "ephemeral": {}}]}),
            &["shop/persistentvolumeclaim/c", "shop/persistentvolumeclaim/web-scratch"],
        );
        check(json!({"volumes": "nonsense", "containers": 7}), &[]);
    }

    #[test]
    fn only_what_the_edge_must_know_changes_the_shape() {
        let base = json!({"metadata": {"name": "n", "uid": "u", "resourceVersion": "1"},
            "spec": {"readinessGates": [{"conditionType": "example.com/gate"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "1"},
                {"type": "example.com/gate", "status": "False"}, {"type": "example.com/other", "status": "False"}]}});
        let check = |kind: Kind, pointer: &str, value: Value, differs: bool| {
            let mut changed = base.clone();
            if kind == Kind::Pod {
                changed["metadata"]["namespace"] = "shop".into();
            }
            let before = Observed::new(&kind, changed.clone()).unwrap().shape();
            *changed.pointer_mut(pointer).unwrap() = value;
            assert_eq!(
                before != Observed::new(&kind, changed).unwrap().shape(),
                differs,
                "{kind:?} {pointer}"
            );
        };
        check(Kind::Node, "/metadata/resourceVersion", "2".into(), false);
        check(Kind::Node, "/status/conditions/0/lastHeartbeatTime", "2".into(), false);
        check(Kind::Node, "/status/conditions/0/status", "Unknown".into(), true);
        check(Kind::Pod, "/status/conditions/0/status", "False".into(), true);
        check(Kind::Pod, "/status/conditions/0/lastHeartbeatTime", "2".into(), false);
        check(Kind::Pod, "/status/conditions/1/status", "True".into(), true);
        check(Kind::Pod, "/status/conditions/2/status", "True".into(), false);
        check(Kind::Pod, "/metadata/uid", "v".into(), true);
    }

    #[test]
    fn bodies_name_their_kind_and_carry_no_managed_fields() {
        let body: Value = serde_json::from_slice(&pod(json!({})).body()).unwrap();
        assert_eq!(body["kind"], "Pod");
        assert_eq!(body["apiVersion"], "v1");
        assert!(body["metadata"].get("managedFields").is_none());
    }

    #[test]
    fn objects_that_cannot_be_delivered_are_named() {
        let refused = Observed::new(
            &Kind::Pod,
            json!({"metadata": {"name": "web", "uid": "u", "resourceVersion": "x", "namespace": "a"}}),
        );
        assert_eq!(refused.unwrap_err().to_string(), "pod \"web\" has no usable metadata.resourceVersion");
        assert!(Observed::new(&Kind::Pod, json!(7)).is_err());
    }
}
