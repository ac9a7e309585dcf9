//! Pure: the objects that make a cluster a cloud: what the chart `charts/cloudcore` makes with Helm, built here without it.
//!
//! `values.rs` is what can be said, `layers.rs` how files and `--set` are laid over the chart's own values.yaml; the other
//! files are the chart's templates, each in its own file's name or the one that it belongs to. The story `chart` compares the
//! objects of both. It never talks to a cluster: `cmd/init.rs` and `cmd/manifest.rs` take the objects from here.

mod cloudcore_yaml;
mod deployment;
mod layers;
mod network;
mod rights;
mod scalars;
mod upkeep;
mod values;
mod warnings;

pub(crate) use values::Values;

use serde_json::{Map, Value, json};

/// Fixed: cloudcore keeps its certificates and tokens there, and edges of KubeEdge's installations expect it.
pub(crate) const NAMESPACE: &str = ke_api::node::CLOUD_NAMESPACE;
/// Of Deployment, Service, ConfigMap, account and rights, as in KubeEdge's chart.
pub(crate) const NAME: &str = "cloudcore";
/// Service for the API server and Prometheus.
const INTERNAL: &str = "cloudcore-internal";

/// Everything but the resource definitions, in an order in which it can be made: the namespace first.
pub(crate) fn objects(values: &Values) -> Vec<Value> {
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE},
    })];
    objects.extend(rights::objects(values));
    objects.push(cloudcore_yaml::config_map(values));
    objects.extend(network::objects(values));
    objects.push(deployment::deployment(values));
    objects.extend(upkeep::objects(values));
    objects
}

/// The resource definitions. They go first, and stay when cloudcore goes: with them go all Devices.
pub(crate) fn crds() -> Result<Vec<Value>, String> {
    let written = ke_api::crds().into_iter().map(serde_json::to_value).collect::<Result<_, _>>();
    written.map_err(|error| format!("write the resource definitions: {error}"))
}

/// On the ConfigMap, what was said when cloudcore was installed or changed: a file of values, as JSON.
const SAID: &str = "isthmus.io/values";

/// Notes with the objects what has led to them, for whoever changes them later without saying all of it again. The chart has no
/// use for it: Helm remembers by itself.
#[expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]
pub(crate) fn remember(objects: &mut [Value], said: &Value) {
    for object in objects.iter_mut().filter(|it| it["kind"] == "ConfigMap" && it["metadata"]["name"] == NAME)
    {
        object["metadata"]["annotations"] = json!({SAID: said.to_string()});
    }
}

/// What was noted; `None`: nothing, or nothing that can be read.
pub(crate) fn remembered(config_map: &Value) -> Option<Value> {
    let text = config_map.pointer("/metadata/annotations")?.get(SAID)?.as_str()?;
    serde_json::from_str::<Value>(text).ok().filter(Value::is_object)
}

/// Metadata of an object in a namespace.
fn named(values: &Values, name: &str, namespace: &str) -> Value {
    json!({"name": name, "namespace": namespace, "labels": values.cloud_core.labels})
}

/// What Services, the Deployment and its like choose pods by. KubeEdge's; a Deployment's cannot be changed.
fn selector() -> Value {
    json!({"k8s-app": "kubeedge", "kubeedge": "cloudcore"})
}

/// The object without members that are empty, as Helm's `with` leaves them out.
fn filled(object: Value) -> Value {
    let Value::Object(members) = object else { return object };
    let is_filled = |value: &Value| match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    };
    Value::Object(members.into_iter().filter(|(_, value)| is_filled(value)).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_is_of_this_version() {
        let chart = include_str!("../../../charts/cloudcore/Chart.yaml");
        for key in ["version", "appVersion"] {
            let line = format!("\n{key}: {}\n", env!("CARGO_PKG_VERSION"));
            assert!(chart.contains(&line), "charts/cloudcore/Chart.yaml: expected {}", line.trim());
        }
    }

    #[test]
    fn switches_add_and_take_objects() {
        let check = |sets: &str, expected: &[&str]| {
            let (values, _) = Values::from_layers(&[], &[sets.to_owned()]).unwrap();
            let found: Vec<String> = objects(&values)
                .iter()
                .map(|object| format!("{}/{}", object["kind"], object["metadata"]["name"]).replace('"', ""))
                .filter(|name| !ALWAYS.contains(&name.as_str()))
                .collect();
            assert_eq!(found, expected, "{sets}");
        };
        check("cloudCore.replicaCount=1", &["Service/cloudcore"]);
        check("cloudCore.service.enable=false", &[]);
        check("cloudCore.replicaCount=2", &["Service/cloudcore", "PodDisruptionBudget/cloudcore"]);
        check("cloudCore.replicaCount=2,podDisruptionBudget.enable=false", &["Service/cloudcore"]);
        check("networkPolicy.enable=true", &["Service/cloudcore", "NetworkPolicy/cloudcore"]);
        check(
            "serviceMonitor.enable=true,grafanaDashboard.enable=true",
            &["Service/cloudcore", "ServiceMonitor/cloudcore", "ConfigMap/cloudcore-dashboard"],
        );
    }

    const ALWAYS: &[&str] = &[
        "Namespace/kubeedge",
        "ServiceAccount/cloudcore",
        "ClusterRole/cloudcore",
        "ClusterRoleBinding/cloudcore",
        "Role/cloudcore",
        "RoleBinding/cloudcore",
        "ConfigMap/cloudcore",
        "Service/cloudcore-internal",
        "Deployment/cloudcore",
    ];

    #[test]
    fn what_was_said_is_remembered() {
        let said = json!({"cloudCore": {"replicaCount": 2}});
        let mut objects = objects(&Values::from_layers(std::slice::from_ref(&said), &[]).unwrap().0);
        let find = |objects: &[Value]| {
            objects.iter().find(|object| object["kind"] == "ConfigMap").and_then(remembered)
        };
        assert_eq!(find(&objects), None);
        remember(&mut objects, &said);
        assert_eq!(find(&objects), Some(said));
    }

    #[test]
    fn the_first_object_is_the_namespace() {
        let objects = objects(&Values::default());
        assert_eq!(objects[0]["kind"], "Namespace");
        assert!(crds().unwrap().iter().all(|crd| crd["kind"] == "CustomResourceDefinition"));
    }
}
