//! A message's body and the Kubernetes object in it.
//!
//! Pure. Errors never quote the body: it may be a Secret. Called by both ends wherever a body is looked into.

use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::{api, serde::de::DeserializeOwned};
use ke_wire::{Kind, Version};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Why a body is no object of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// Not JSON, or JSON of another shape. The place only, never the text.
    #[error("the body is no {what}: {problem} at line {line}, column {column}")]
    Shape {
        /// What was expected.
        what: String,
        /// What sort of mistake it is.
        problem: &'static str,
        /// Where, counted from 1.
        line: usize,
        /// Where, counted from 1; 0 when unknown.
        column: usize,
    },
    /// Another kind than the key says.
    #[error("the body says {found}, the key says {expected}")]
    OtherKind {
        /// `apiVersion/kind` of the body.
        found: String,
        /// `apiVersion/kind` of the key.
        expected: String,
    },
    /// A kind of which we do not know group and version.
    #[error("the kind {0} is not known here")]
    UnknownKind(String),
}

fn shape(what: &str, cause: &serde_json::Error) -> ObjectError {
    let problem = match cause.classify() {
        serde_json::error::Category::Io => "unreadable",
        serde_json::error::Category::Syntax => "no JSON",
        serde_json::error::Category::Data => "a field of another type",
        serde_json::error::Category::Eof => "cut off",
    };
    ObjectError::Shape { what: what.to_owned(), problem, line: cause.line(), column: cause.column() }
}

/// How Kubernetes names a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiType {
    /// `v1`, `coordination.k8s.io/v1`, ...
    pub api_version: &'static str,
    /// `Pod`, ...
    pub kind: &'static str,
    /// `pods`, ...
    pub plural: &'static str,
    /// Whether its objects live in a namespace.
    pub namespaced: bool,
}

impl ApiType {
    const fn new(
        api_version: &'static str,
        kind: &'static str,
        plural: &'static str,
        namespaced: bool,
    ) -> Self {
        Self { api_version, kind, plural, namespaced }
    }
}

/// How Kubernetes names this kind; `None` for kinds that only a local API client knows.
#[must_use]
pub fn api_type(kind: &Kind) -> Option<ApiType> {
    Some(match kind {
        Kind::Pod => ApiType::new("v1", "Pod", "pods", true),
        Kind::ConfigMap => ApiType::new("v1", "ConfigMap", "configmaps", true),
        Kind::Secret => ApiType::new("v1", "Secret", "secrets", true),
        Kind::Node => ApiType::new("v1", "Node", "nodes", false),
        Kind::Lease => ApiType::new("coordination.k8s.io/v1", "Lease", "leases", true),
        Kind::Event => ApiType::new("v1", "Event", "events", true),
        Kind::PersistentVolume => ApiType::new("v1", "PersistentVolume", "persistentvolumes", false),
        Kind::PersistentVolumeClaim => {
            ApiType::new("v1", "PersistentVolumeClaim", "persistentvolumeclaims", true)
        }
        Kind::VolumeAttachment => {
            ApiType::new("storage.k8s.io/v1", "VolumeAttachment", "volumeattachments", false)
        }
        Kind::CertificateSigningRequest => ApiType::new(
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            false,
        ),
        Kind::ServiceAccountAccess => ApiType::new(
            "policy.kubeedge.io/v1alpha1",
            "ServiceAccountAccess",
            "serviceaccountaccesses",
            true,
        ),
        Kind::Device => ApiType::new("devices.kubeedge.io/v1beta1", "Device", "devices", true),
        Kind::DeviceModel => ApiType::new("devices.kubeedge.io/v1beta1", "DeviceModel", "devicemodels", true),
        Kind::ServiceList => ApiType::new("v1", "ServiceList", "services", true),
        Kind::RuntimeClass => ApiType::new("node.k8s.io/v1", "RuntimeClass", "runtimeclasses", false),
        Kind::Watched(_) => return None,
    })
}

/// A typed object.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1 Pod`
    Pod(Box<api::core::v1::Pod>),
    /// `v1 ConfigMap`
    ConfigMap(Box<api::core::v1::ConfigMap>),
    /// `v1 Secret`
    Secret(Box<api::core::v1::Secret>),
    /// `v1 Node`
    Node(Box<api::core::v1::Node>),
    /// `coordination.k8s.io/v1 Lease`
    Lease(Box<api::coordination::v1::Lease>),
    /// `v1 Event`
    Event(Box<api::core::v1::Event>),
    /// `v1 PersistentVolume`
    PersistentVolume(Box<api::core::v1::PersistentVolume>),
    /// `v1 PersistentVolumeClaim`
    PersistentVolumeClaim(Box<api::core::v1::PersistentVolumeClaim>),
    /// `storage.k8s.io/v1 VolumeAttachment`
    VolumeAttachment(Box<api::storage::v1::VolumeAttachment>),
    /// `certificates.k8s.io/v1 CertificateSigningRequest`
    CertificateSigningRequest(Box<api::certificates::v1::CertificateSigningRequest>),
    /// Any other, as it is.
    Other(Map<String, Value>),
}

/// The object in `body`, typed by `kind`. A body that names another kind is refused; one that names none is taken, as
/// Go peers leave both names out at times.
pub fn decode(kind: &Kind, body: &[u8]) -> Result<Object, ObjectError> {
    Ok(match kind {
        Kind::Pod => Object::Pod(typed(kind, body)?),
        Kind::ConfigMap => Object::ConfigMap(typed(kind, body)?),
        Kind::Secret => Object::Secret(typed(kind, body)?),
        Kind::Node => Object::Node(typed(kind, body)?),
        Kind::Lease => Object::Lease(typed(kind, body)?),
        Kind::Event => Object::Event(typed(kind, body)?),
        Kind::PersistentVolume => Object::PersistentVolume(typed(kind, body)?),
        Kind::PersistentVolumeClaim => Object::PersistentVolumeClaim(typed(kind, body)?),
        Kind::VolumeAttachment => Object::VolumeAttachment(typed(kind, body)?),
        Kind::CertificateSigningRequest => Object::CertificateSigningRequest(typed(kind, body)?),
        Kind::ServiceAccountAccess
        | Kind::Device
        | Kind::DeviceModel
        | Kind::ServiceList
        | Kind::RuntimeClass
        | Kind::Watched(_) => {
            Object::Other(serde_json::from_slice(body).map_err(|cause| shape("object", &cause))?)
        }
    })
}

fn typed<T: DeserializeOwned>(kind: &Kind, body: &[u8]) -> Result<Box<T>, ObjectError> {
    let object = with_types(kind, body)?;
    serde_json::from_slice(&object).map(Box::new).map_err(|cause| shape(kind.as_str(), &cause))
}

/// `object` as a body with `apiVersion` and `kind` in it; k8s-openapi's resources write both.
pub fn encode<T: k8s_openapi::Resource + Serialize>(object: &T) -> Result<Bytes, ObjectError> {
    serde_json::to_vec(object).map(Bytes::from).map_err(|cause| shape(T::KIND, &cause))
}

/// The two fields that say what an object is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Types {
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    kind: Option<String>,
}

/// The same body with `apiVersion` and `kind` filled in where they are missing. Numbers keep their digits.
/// Errors: no JSON object; another kind; a kind without known group and version whose body names none.
pub fn with_types(kind: &Kind, body: &[u8]) -> Result<Bytes, ObjectError> {
    let types: Types = serde_json::from_slice(body).map_err(|cause| shape(kind.as_str(), &cause))?;
    let (api_version, name) = (types.api_version.unwrap_or_default(), types.kind.unwrap_or_default());
    let Some(expected) = api_type(kind) else {
        return if api_version.is_empty() || name.is_empty() {
            Err(ObjectError::UnknownKind(kind.as_str().to_owned()))
        } else {
            Ok(Bytes::copy_from_slice(body))
        };
    };
    if (!name.is_empty() && name != expected.kind)
        || (!api_version.is_empty() && api_version != expected.api_version)
    {
        return Err(ObjectError::OtherKind {
            found: format!("{api_version}/{name}"),
            expected: format!("{}/{}", expected.api_version, expected.kind),
        });
    }
    if !name.is_empty() && !api_version.is_empty() {
        return Ok(Bytes::copy_from_slice(body));
    }
    let mut object: Map<String, Value> =
        serde_json::from_slice(body).map_err(|cause| shape(kind.as_str(), &cause))?;
    object.insert("apiVersion".to_owned(), expected.api_version.into());
    object.insert("kind".to_owned(), expected.kind.into());
    serde_json::to_vec(&object).map(Bytes::from).map_err(|cause| shape(kind.as_str(), &cause))
}

/// The part of an object's metadata that decides about delivery.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Namespace; empty for cluster scope.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
    /// Resource version as text.
    pub resource_version: String,
    /// When its removal was asked for.
    pub deletion_timestamp: Option<Time>,
}

impl Meta {
    /// The version; `None` when there is none or it is no number.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.resource_version.parse().ok()
    }
}

/// The metadata in `body`; an object without is an error.
pub fn meta(body: &[u8]) -> Result<Meta, ObjectError> {
    #[derive(Deserialize)]
    struct Object {
        metadata: Meta,
    }
    let object: Object = serde_json::from_slice(body).map_err(|cause| shape("object", &cause))?;
    Ok(object.metadata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_go_peers_are_taken_and_those_of_another_kind_are_not() {
        let check = |kind: Kind, body: &str, expected: Result<&str, &str>| {
            let got = with_types(&kind, body.as_bytes()).map_err(|refused| refused.to_string());
            let got = got.as_ref().map(|body| std::str::from_utf8(body).unwrap()).map_err(String::as_str);
            assert_eq!(got, expected, "{kind:?} {body}");
        };
        check(Kind::Pod, r#"{"metadata":{}}"#, Ok(r#"{"apiVersion":"v1","kind":"Pod","metadata":{}}"#));
        check(
            Kind::CertificateSigningRequest,
            r#"{"kind":"CertificateSigningRequest"}"#,
            Ok(r#"{"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest"}"#),
        );
        let complete = r#"{"kind":"Pod","n":1.0,"apiVersion":"v1"}"#;
        check(Kind::Pod, complete, Ok(complete));
        check(Kind::Pod, r#"{"kind":"Secret"}"#, Err("the body says /Secret, the key says v1/Pod"));
        check(Kind::Pod, "", Err("the body is no pod: cut off at line 1, column 0"));
        let watched = Kind::Watched("gateway".parse().unwrap());
        check(watched.clone(), "{}", Err("the kind gateway is not known here"));
        let gateway = r#"{"apiVersion":"x/v1","kind":"Gateway"}"#;
        check(watched, gateway, Ok(gateway));
    }

    #[test]
    fn typed_by_kind() {
        let pod = decode(&Kind::Pod, br#"{"metadata":{"name":"web"},"spec":{"containers":[]}}"#).unwrap();
        assert!(matches!(pod, Object::Pod(pod) if pod.metadata.name.as_deref() == Some("web")));
        let device = decode(&Kind::Device, br#"{"spec":{}}"#).unwrap();
        assert!(matches!(device, Object::Other(map) if map.contains_key("spec")));
        let body = encode(&api::core::v1::ConfigMap::default()).unwrap();
        assert!(matches!(decode(&Kind::ConfigMap, &body).unwrap(), Object::ConfigMap(_)));
    }

    #[test]
    fn errors_do_not_quote_the_body() {
        let refused = decode(&Kind::Secret, br#"{"data":"hunter2"}"#).unwrap_err().to_string();
        assert!(!refused.contains("hunter2"), "{refused}");
        assert!(refused.contains("secret"), "{refused}");
    }

    #[test]
    fn metadata_that_decides() {
        let found = meta(br#"{"metadata":{"name":"web","uid":"u","resourceVersion":"12","deletionTimestamp":"2026-01-02T03:04:05Z"}}"#).unwrap();
        assert_eq!(found.version(), Some(Version::new(12)));
        assert!(found.deletion_timestamp.is_some());
        assert_eq!(found.namespace, "");
        assert!(meta(b"{}").is_err());
    }
}
