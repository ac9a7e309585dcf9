//! The definitions of the three device resources, made from the types: two versions each, v1beta1 stored, and exactly
//! those rules that KubeEdge's definitions have, so that the same manifests are accepted.
//!
//! Conversion is off in what is generated, as in KubeEdge: a definition with a webhook that nobody serves would make
//! the stored devices unreadable. Whoever serves the webhook switches it on with [`set_webhook`]. No client is here.

use k8s_openapi::ByteString;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionVersion, JSON,
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ServiceReference, WebhookClientConfig,
    WebhookConversion,
};
use kube::CustomResourceExt;

use crate::{device, device_status, device_v1alpha2};

/// Names of the definitions whose versions differ in shape, so that they need the webhook. DeviceStatus does not: both
/// of its versions are one shape.
pub const WEBHOOK_CRDS: [&str; 2] = ["devices.devices.kubeedge.io", "devicemodels.devices.kubeedge.io"];

/// `[]` stands for the items of a list. Everything else is optional.
const REQUIRED: &[(&str, &[&str])] = &[
    // Device, v1beta1
    ("spec.properties.[].desired", &["value"]),
    // Device, v1alpha2
    ("spec.nodeSelector", &["nodeSelectorTerms"]),
    ("spec.nodeSelector.nodeSelectorTerms.[].matchExpressions.[]", &["key", "operator"]),
    ("spec.nodeSelector.nodeSelectorTerms.[].matchFields.[]", &["key", "operator"]),
    ("status.twins.[].desired", &["value"]),
    // DeviceStatus, and Device v1alpha2
    ("status.twins.[].reported", &["value"]),
    ("status.twins.[].observedDesired", &["value"]),
];

/// What is one value to server-side apply.
const ATOMIC: &[&str] = &["spec.deviceModelRef", "spec.nodeSelector"];

pub(crate) fn device_crds() -> Vec<CustomResourceDefinition> {
    let status = device_status::DeviceStatus::crd();
    // KubeEdge's v1alpha2 of this kind has neither spec nor status and loses what is written. Nobody can rely on that,
    // so that version is served in the shape of v1beta1 and loses nothing.
    let mut status_before = status.clone();
    for version in &mut status_before.spec.versions {
        version.name = "v1alpha2".to_owned();
    }
    [
        (device::Device::crd(), device_v1alpha2::Device::crd()),
        (device::DeviceModel::crd(), device_v1alpha2::DeviceModel::crd()),
        (status, status_before),
    ]
    .into_iter()
    .map(|(stored, before)| merged(stored, before))
    .collect()
}

/// One definition with the versions of both; those of `before` are served but not stored.
fn merged(
    mut stored: CustomResourceDefinition,
    before: CustomResourceDefinition,
) -> CustomResourceDefinition {
    let before = before.spec.versions.into_iter().map(|mut version| {
        version.storage = false;
        version
    });
    stored.spec.versions.extend(before);
    stored.spec.versions.iter_mut().for_each(as_kubeedge_has_it);
    stored
}

fn as_kubeedge_has_it(version: &mut CustomResourceDefinitionVersion) {
    // `status` is an ordinary field: plain patches write it.
    version.subresources = None;
    let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else {
        return;
    };
    relax(schema);
    for (path, fields) in REQUIRED {
        if let Some(found) = at(schema, path) {
            let has = |field: &&&str| {
                found.properties.as_ref().is_some_and(|properties| properties.contains_key(**field))
            };
            let fields: Vec<String> = fields.iter().filter(has).map(|field| (*field).to_owned()).collect();
            found.required = (!fields.is_empty()).then_some(fields);
        }
    }
    for path in ATOMIC {
        if let Some(found) = at(schema, path) {
            found.x_kubernetes_map_type = Some("atomic".to_owned());
        }
    }
    if let Some(name) = at(schema, "spec.deviceModelRef.name") {
        name.default = Some(JSON("".into()));
    }
}

/// Takes out what Rust's types add to the schema and KubeEdge's definitions do not have.
fn relax(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    schema.default = None;
    schema.required = None;
    if let Some(values) = &mut schema.enum_ {
        values.retain(|value| !value.0.is_null());
    }
    if schema.type_.as_deref() == Some("number") {
        schema.format = None;
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(relax);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => relax(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(relax),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        relax(values);
    }
}

fn at<'a>(schema: &'a mut JSONSchemaProps, path: &str) -> Option<&'a mut JSONSchemaProps> {
    let mut found = schema;
    for step in path.split('.') {
        found = if step == "[]" {
            match found.items.as_mut()? {
                JSONSchemaPropsOrArray::Schema(items) => items,
                JSONSchemaPropsOrArray::Schemas(_) => return None,
            }
        } else {
            found.properties.as_mut()?.get_mut(step)?
        };
    }
    Some(found)
}

/// Where the API server finds the conversion webhook. Always HTTPS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebhookPlace {
    /// A Service of the cluster.
    Service {
        /// Namespace of the Service.
        namespace: String,
        /// Name of the Service.
        name: String,
        /// Port of the Service.
        port: u16,
        /// Path on it, with the leading slash.
        path: String,
    },
    /// Anywhere else that the API server can reach: `https://host:port/path`.
    Url(String),
}

/// Makes the API server convert this definition's versions by asking the webhook at `place`, whose certificate is
/// signed by one of `ca_bundle` (PEM). Everything else of the definition stays, also when it is KubeEdge's own.
pub fn set_webhook(crd: &mut CustomResourceDefinition, place: &WebhookPlace, ca_bundle: &[u8]) {
    crd.spec.conversion = Some(webhook_conversion(place, ca_bundle));
}

/// The same as a part of a definition, for a patch of `spec.conversion`.
#[must_use]
pub fn webhook_conversion(place: &WebhookPlace, ca_bundle: &[u8]) -> CustomResourceConversion {
    let (service, url) = match place {
        WebhookPlace::Service { namespace, name, port, path } => {
            let service = ServiceReference {
                name: name.clone(),
                namespace: namespace.clone(),
                path: Some(path.clone()),
                port: Some(i32::from(*port)),
            };
            (Some(service), None)
        }
        WebhookPlace::Url(url) => (None, Some(url.clone())),
    };
    let client = WebhookClientConfig { ca_bundle: Some(ByteString(ca_bundle.to_vec())), service, url };
    CustomResourceConversion {
        strategy: "Webhook".to_owned(),
        webhook: Some(WebhookConversion {
            client_config: Some(client),
            conversion_review_versions: vec!["v1".to_owned()],
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn crd(name: &str) -> Value {
        let found = device_crds().into_iter().find(|crd| crd.metadata.name.as_deref() == Some(name)).unwrap();
        serde_json::to_value(found).unwrap()
    }

    fn schema(crd: &Value, version: &str, pointer: &str) -> Value {
        let versions = crd["spec"]["versions"].as_array().unwrap();
        let version = versions.iter().find(|found| found["name"] == version).unwrap();
        let found = version["schema"]["openAPIV3Schema"].pointer(pointer).unwrap_or(&Value::Null).clone();
        without_words(found)
    }

    /// Descriptions are ours and no part of the contract.
    fn without_words(mut schema: Value) -> Value {
        match &mut schema {
            Value::Object(members) => {
                if members.get("description").is_some_and(Value::is_string) {
                    members.remove("description");
                }
                for member in members.values_mut() {
                    *member = without_words(member.take());
                }
            }
            Value::Array(members) => {
                members.iter_mut().for_each(|member| *member = without_words(member.take()))
            }
            _ => {}
        }
        schema
    }

    #[test]
    fn versions_scope_and_subresources_are_kubeedges() {
        for name in ["devices", "devicemodels", "devicestatuses"] {
            let crd = crd(&format!("{name}.devices.kubeedge.io"));
            let versions: Vec<_> = crd["spec"]["versions"].as_array().unwrap().iter().collect();
            let said: Vec<_> = versions.iter().map(|v| (&v["name"], &v["served"], &v["storage"])).collect();
            assert_eq!(
                said,
                [
                    (&json!("v1beta1"), &json!(true), &json!(true)),
                    (&json!("v1alpha2"), &json!(true), &json!(false))
                ]
            );
            assert!(versions.iter().all(|version| version.get("subresources").is_none()), "{name}");
            assert!(crd["spec"].get("conversion").is_none(), "{name}");
            assert_eq!(crd["spec"]["scope"], "Namespaced");
            assert_eq!(crd["spec"]["names"].get("shortNames"), None);
        }
    }

    #[test]
    fn fields_are_as_kubeedge_declares_them() {
        let check = |kind: &str, version: &str, path: &str, expected: Value| {
            let crd = crd(&format!("{kind}.devices.kubeedge.io"));
            let pointer =
                format!("/properties/{}", path.replace(".[]", "/items").replace('.', "/properties/"));
            assert_eq!(schema(&crd, version, &pointer), expected, "{kind} {version} {path}");
        };
        let free = || json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let texts = || json!({"type": "object", "additionalProperties": {"type": "string"}});
        let value = || json!({"type": "object", "required": ["value"], "properties": {"value": {"type": "string"}, "metadata": texts()}});
        let reference = || json!({"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"name": {"type": "string", "default": ""}}});
        let integer = || json!({"type": "integer", "format": "int64"});
        let text = || json!({"type": "string"});

        check("devices", "v1beta1", "status", free());
        check("devices", "v1beta1", "spec.deviceModelRef", reference());
        check(
            "devices",
            "v1beta1",
            "spec.protocol",
            json!({"type": "object", "properties": {"protocolName": text(), "configData": free()}}),
        );
        check("devices", "v1beta1", "spec.properties.[].desired", value());
        check("devices", "v1beta1", "spec.properties.[].collectCycle", integer());
        check("devices", "v1beta1", "spec.properties.[].reportToCloud", json!({"type": "boolean"}));
        check(
            "devices",
            "v1beta1",
            "spec.properties.[].pushMethod.mqtt.qos",
            json!({"type": "integer", "format": "int32"}),
        );
        check("devices", "v1beta1", "spec.properties.[].pushMethod.anomalyDetection", free());
        check(
            "devices",
            "v1beta1",
            "spec.properties.[].pushMethod.dbMethod.TDEngine.TDEngineClientConfig.dbName",
            text(),
        );
        check(
            "devices",
            "v1beta1",
            "spec.properties.[].pushMethod.dbMethod.redis.redisClientConfig.poolsize",
            integer(),
        );
        check(
            "devices",
            "v1beta1",
            "spec.properties.[].pushMethod.dbMethod.influxdb2.influxdb2DataConfig.tag",
            texts(),
        );
        check("devices", "v1beta1", "spec.properties.[].pushMethod.otel.endpointURL", text());
        check(
            "devices",
            "v1beta1",
            "spec.methods.[].propertyNames",
            json!({"type": "array", "items": text()}),
        );
        check("devices", "v1beta1", "spec.stateReport.reportCycle", integer());

        let types = ["INT", "FLOAT", "DOUBLE", "STRING", "BOOLEAN", "BYTES", "STREAM"];
        check("devicemodels", "v1beta1", "spec.properties.[].type", json!({"type": "string", "enum": types}));
        let modes = || json!({"type": "string", "enum": ["ReadWrite", "ReadOnly"]});
        check("devicemodels", "v1beta1", "spec.properties.[].accessMode", modes());
        check("devicemodels", "v1beta1", "spec.properties.[].minimum", text());
        check("devicemodels", "v1beta1", "spec.protocolConfigData", free());
        check("devicemodels", "v1alpha2", "spec.properties.[].type.int.accessMode", modes());
        check("devicemodels", "v1alpha2", "spec.properties.[].type.float.minimum", json!({"type": "number"}));

        for version in ["v1alpha2", "v1beta1"] {
            check("devicestatuses", version, "spec", json!({"type": "object"}));
            check("devicestatuses", version, "status.twins.[].reported", value());
            check("devicestatuses", version, "status.twins.[].observedDesired", value());
            check("devicestatuses", version, "status.extensions", free());
        }

        check("devices", "v1alpha2", "spec.deviceModelRef", reference());
        let requirement = json!({"type": "object", "required": ["key", "operator"], "properties": {
            "key": text(), "operator": text(), "values": {"type": "array", "items": text()}}});
        let terms = json!({"type": "array", "items": {"type": "object", "properties": {
            "matchExpressions": {"type": "array", "items": requirement},
            "matchFields": {"type": "array", "items": requirement}}}});
        check(
            "devices",
            "v1alpha2",
            "spec.nodeSelector",
            json!({"type": "object", "x-kubernetes-map-type": "atomic",
            "required": ["nodeSelectorTerms"], "properties": {"nodeSelectorTerms": terms}}),
        );
        check("devices", "v1alpha2", "spec.protocol.modbus.slaveID", integer());
        check(
            "devices",
            "v1alpha2",
            "spec.protocol.common.com.stopBits",
            json!({"type": "integer", "format": "int64", "enum": [1, 2]}),
        );
        check("devices", "v1alpha2", "spec.protocol.common.customizedValues", free());
        check(
            "devices",
            "v1alpha2",
            "spec.propertyVisitors.[].bluetooth.dataWrite",
            json!({"type": "object", "additionalProperties": {"type": "string", "format": "byte"}}),
        );
        check("devices", "v1alpha2", "spec.propertyVisitors.[].opcua.nodeID", text());
        check("devices", "v1alpha2", "status.twins.[].desired", value());
        check("devices", "v1alpha2", "status.twins.[].reported", value());
    }

    #[test]
    fn nothing_more_is_required_defaulted_or_nullable() {
        fn count(value: &Value, key: &str) -> usize {
            match value {
                Value::Object(members) => {
                    usize::from(members.contains_key(key))
                        + members.values().map(|member| count(member, key)).sum::<usize>()
                }
                Value::Array(members) => members.iter().map(|member| count(member, key)).sum(),
                _ => 0,
            }
        }
        let check = |name: &str, n_required: usize, n_defaults: usize| {
            let crd = crd(&format!("{name}.devices.kubeedge.io"));
            assert_eq!((count(&crd, "required"), count(&crd, "default")), (n_required, n_defaults), "{name}");
            for never in ["nullable", "anyOf", "oneOf", "allOf", "minimum", "maximum", "$ref"] {
                // A model's properties have fields of these names.
                if !(name == "devicemodels" && ["minimum", "maximum"].contains(&never)) {
                    assert_eq!(count(&crd, never), 0, "{name} {never}");
                }
            }
        };
        check("devices", 6, 2);
        check("devicemodels", 0, 0);
        check("devicestatuses", 4, 0);
    }

    #[test]
    fn the_webhook_is_set_and_nothing_else() {
        let check = |place: WebhookPlace, client: Value| {
            let mut crd = device_crds().remove(0);
            let before = crd.clone();
            set_webhook(&mut crd, &place, b"PEM");
            let set = serde_json::to_value(&crd.spec.conversion).unwrap();
            let webhook = json!({"clientConfig": client, "conversionReviewVersions": ["v1"]});
            assert_eq!(set, json!({"strategy": "Webhook", "webhook": webhook}));
            crd.spec.conversion = None;
            assert_eq!(crd, before);
        };
        check(
            WebhookPlace::Service {
                namespace: "kubeedge".into(),
                name: "cloudcore".into(),
                port: 10003,
                path: "/convert".into(),
            },
            json!({"caBundle": "UEVN", "service":
                {"namespace": "kubeedge", "name": "cloudcore", "port": 10003, "path": "/convert"}}),
        );
        check(
            WebhookPlace::Url("https://10.0.0.1:10003/convert".into()),
            json!({"caBundle": "UEVN", "url": "https://10.0.0.1:10003/convert"}),
        );
        let names: Vec<_> = device_crds().into_iter().filter_map(|crd| crd.metadata.name).collect();
        assert!(WEBHOOK_CRDS.iter().all(|name| names.iter().any(|known| known == name)));
    }
}
