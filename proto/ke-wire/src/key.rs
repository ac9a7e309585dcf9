//! Which object a message is about. Its text exists only in `FromStr` and `Display` of this file.

use std::fmt;
use std::str::FromStr;

use crate::id::{DeviceId, InvalidId, Namespace, ObjectName};

/// The word that stands for "no namespace" in a resource string.
const CLUSTER: &str = "null";

/// Kinds of objects that cross the link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1 Pod`
    Pod,
    /// `v1 ConfigMap`
    ConfigMap,
    /// `v1 Secret`
    Secret,
    /// `v1 Node`
    Node,
    /// `coordination.k8s.io/v1 Lease`
    Lease,
    /// `v1 Event`
    Event,
    /// `v1 PersistentVolume`
    PersistentVolume,
    /// `v1 PersistentVolumeClaim`
    PersistentVolumeClaim,
    /// `storage.k8s.io/v1 VolumeAttachment`
    VolumeAttachment,
    /// `certificates.k8s.io/v1 CertificateSigningRequest`
    CertificateSigningRequest,
    /// `policy.kubeedge.io/v1alpha1 ServiceAccountAccess`
    ServiceAccountAccess,
    /// `devices.kubeedge.io/v1beta1 Device`
    Device,
    /// `devices.kubeedge.io/v1beta1 DeviceModel`
    DeviceModel,
    /// `v1 ServiceList`: the Services of a namespace, as far as environments of Pods show them; not in KubeEdge. Its name is `all`.
    ServiceList,
    /// `node.k8s.io/v1 RuntimeClass`: under which of the runtime's handlers Pods run; not in KubeEdge.
    RuntimeClass,
    /// Any kind that a local API client watches through the link; lower case, as on the wire.
    Watched(ObjectName),
}

/// Each kind's only text.
const KINDS: &[(Kind, &str)] = &[
    (Kind::Pod, "pod"),
    (Kind::ConfigMap, "configmap"),
    (Kind::Secret, "secret"),
    (Kind::Node, "node"),
    (Kind::Lease, "lease"),
    (Kind::Event, "event"),
    (Kind::PersistentVolume, "persistentvolume"),
    (Kind::PersistentVolumeClaim, "persistentvolumeclaim"),
    (Kind::VolumeAttachment, "volumeattachment"),
    (Kind::CertificateSigningRequest, "certificatesigningrequest"),
    (Kind::ServiceAccountAccess, "serviceaccountaccess"),
    (Kind::Device, "device"),
    (Kind::DeviceModel, "devicemodel"),
    (Kind::ServiceList, "servicelist"),
    (Kind::RuntimeClass, "runtimeclass"),
];

impl Kind {
    /// The kind's text on the wire: lower case, singular.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Watched(name) => name.as_str(),
            known => KINDS.iter().find(|(kind, _)| kind == known).map_or("", |(_, text)| text),
        }
    }
}

impl FromStr for Kind {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match KINDS.iter().find(|(_, known)| *known == text) {
            Some((kind, _)) => Ok(kind.clone()),
            None => text.parse().map(Self::Watched),
        }
    }
}

/// Where an object's name is unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// In the whole cluster.
    Cluster,
    /// In one namespace.
    Namespace(Namespace),
}

impl Scope {
    /// The namespace, where there is one.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        match self {
            Self::Cluster => None,
            Self::Namespace(namespace) => Some(namespace),
        }
    }
}

/// Which object a message is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, or the cluster.
    pub scope: Scope,
    /// Its name.
    pub name: ObjectName,
}

/// Why a text names no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// It has not the shape `<namespace|null>/<kind>/<name>`.
    #[error("{0:?} has not the shape <namespace|null>/<kind>/<name>")]
    Shape(String),
    /// One of its parts is not valid.
    #[error(transparent)]
    Part(#[from] InvalidId),
}

impl ObjectKey {
    /// Key of a namespaced object.
    #[must_use]
    pub fn namespaced(kind: Kind, namespace: Namespace, name: ObjectName) -> Self {
        Self { kind, scope: Scope::Namespace(namespace), name }
    }

    /// Key of a cluster-scoped object.
    #[must_use]
    pub fn cluster(kind: Kind, name: ObjectName) -> Self {
        Self { kind, scope: Scope::Cluster, name }
    }
}

impl DeviceId {
    /// Key of the object that it names.
    #[must_use]
    pub fn key(&self, kind: Kind) -> ObjectKey {
        ObjectKey::namespaced(kind, self.namespace.clone(), self.name.clone())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.namespace().map_or(CLUSTER, |namespace| namespace.as_str()))
    }
}

impl FromStr for Scope {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text == CLUSTER { Ok(Self::Cluster) } else { text.parse().map(Self::Namespace) }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.scope, self.kind.as_str(), self.name)
    }
}

impl FromStr for ObjectKey {
    type Err = InvalidKey;
    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        let mut parts = text.split('/');
        let (Some(scope), Some(kind), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(InvalidKey::Shape(text.chars().take(128).collect()));
        };
        Ok(Self { kind: kind.parse()?, scope: scope.parse()?, name: name.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_round() {
        for text in
            ["default/pod/web", "null/node/edge-1", "kube-system/configmap/kube-root-ca.crt", "a/gateway/b"]
        {
            assert_eq!(text.parse::<ObjectKey>().unwrap().to_string(), text);
        }
        for text in ["pod/web", "default/pod/web/x", "default/pod/", "De/pod/x", ""] {
            assert!(text.parse::<ObjectKey>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_kind_has_one_text() {
        for (kind, text) in KINDS {
            assert_eq!(text.parse::<Kind>().unwrap(), *kind);
            assert_eq!(kind.as_str(), *text);
        }
    }
}
