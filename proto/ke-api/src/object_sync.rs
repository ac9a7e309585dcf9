//! The ledger's resource: what one node has confirmed of one object. Group, names and schema are KubeEdge's, so that
//! one end can be exchanged and changed back.
//!
//! Written by cloudcore's ledger only.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use ke_wire::{NodeName, Uid};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which namespaced object a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, CustomResource)]
#[kube(
    group = "reliablesyncs.kubeedge.io",
    version = "v1alpha1",
    kind = "ObjectSync",
    plural = "objectsyncs",
    singular = "objectsync",
    namespaced,
    status = "ObjectSyncStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "What an edge node has confirmed of a namespaced object. Its name is the node's name, a dot and the object's uid."
)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectSyncSpec {
    /// Group and version of the object, for example v1 or apps/v1.
    #[serde(rename = "objectAPIVersion", skip_serializing_if = "String::is_empty")]
    pub object_api_version: String,
    /// Kind of the object, for example Pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object_kind: String,
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object_name: String,
}

/// Which cluster-scoped object a node holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema, CustomResource)]
#[kube(
    group = "reliablesyncs.kubeedge.io",
    version = "v1alpha1",
    kind = "ClusterObjectSync",
    plural = "clusterobjectsyncs",
    singular = "clusterobjectsync",
    status = "ObjectSyncStatus",
    derive = "Default",
    derive = "PartialEq",
    doc = "What an edge node has confirmed of a cluster-scoped object. Its name is the node's name, a dot and the object's uid."
)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterObjectSyncSpec {
    /// Group and version of the object, for example v1 or apps/v1.
    #[serde(rename = "objectAPIVersion", skip_serializing_if = "String::is_empty")]
    pub object_api_version: String,
    /// Kind of the object, for example Node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object_kind: String,
    /// Name of the object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object_name: String,
}

/// How far the node is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectSyncStatus {
    /// The resource version that the node has on disk.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object_resource_version: String,
}

/// Name of the resource for one node and one object.
#[must_use]
pub fn name(node: &NodeName, uid: &Uid) -> String {
    format!("{node}.{uid}")
}

/// Node and uid in such a name; `None` when it is none of ours. A uid holds no dot, a node name may.
#[must_use]
pub fn parse_name(name: &str) -> Option<(NodeName, Uid)> {
    let (node, uid) = name.rsplit_once('.')?;
    Some((node.parse().ok()?, uid.parse().ok()?))
}

/// Takes out what Rust's types add to the schema and KubeEdge's definitions do not have: `nullable`, default values,
/// required fields. Otherwise the API server would write empty strings into a Go cloudcore's objects.
pub(crate) fn as_kubeedge_has_it(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    fn relax(schema: &mut JSONSchemaProps) {
        schema.nullable = None;
        schema.default = None;
        schema.required = None;
        for child in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
            relax(child);
        }
    }
    for version in &mut crd.spec.versions {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            relax(schema);
        }
    }
    crd
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_round_and_node_names_may_hold_dots() {
        let check = |text: &str, expected: Option<(&str, &str)>| {
            let got = parse_name(text);
            assert_eq!(got.as_ref().map(|(node, uid)| (node.as_str(), uid.as_str())), expected, "{text:?}");
            if let Some((node, uid)) = got {
                assert_eq!(name(&node, &uid), text);
            }
        };
        check("edge-1.5f0c7a52-0d0e-4b8c", Some(("edge-1", "5f0c7a52-0d0e-4b8c")));
        check("edge-1.plant.example.5f0c", Some(("edge-1.plant.example", "5f0c")));
        check("edge-1", None);
        check("edge-1.", None);
        check("Edge.5f0c", None);
    }

    #[test]
    fn an_object_of_a_go_cloudcore_reads_and_an_empty_status_too() {
        let sync: ObjectSync = serde_json::from_value(serde_json::json!({
            "apiVersion": "reliablesyncs.kubeedge.io/v1alpha1", "kind": "ObjectSync",
            "metadata": {"name": "edge-1.5f0c", "namespace": "default"},
            "spec": {"objectAPIVersion": "v1", "objectKind": "Pod", "objectName": "web"},
            "status": {},
        }))
        .unwrap();
        assert_eq!(sync.spec.object_kind, "Pod");
        assert_eq!(sync.status, Some(ObjectSyncStatus::default()));
        assert_eq!(serde_json::to_value(&sync.spec).unwrap()["objectAPIVersion"], "v1");
    }
}
