//! Resource strings: what a message is about, as text.

use std::str::FromStr;

use super::envelope::{DecodeError, Message};
use crate::down::{About, Origin};
use crate::id::{DeviceId, InvalidId, NodeName, ObjectName};
use crate::job::JobKind;
use crate::key::{Kind, ObjectKey, Scope};

/// Types that only this dialect has, beside those of [`Kind`].
pub(super) const TOKEN: &str = "serviceaccounttoken";
pub(super) const NODE_PATCH: &str = "nodepatch";
pub(super) const POD_PATCH: &str = "podpatch";
pub(super) const POD_STATUS: &str = "podstatus";
pub(super) const NODE_STATUS: &str = "nodestatus";
pub(super) const API_SERVER_CA: &str = "k8s/ca.crt";
/// Name, group and version of the newer node jobs.
const JOBS: &str = "operations.kubeedge.io/v1alpha2";

const ORIGINS: &[(Origin, &str)] = &[
    (Origin::EdgeController, "edgecontroller"),
    (Origin::DeviceController, "devicecontroller"),
    (Origin::DynamicController, "dynamiccontroller"),
    (Origin::PolicyController, "policycontroller"),
];

pub(super) fn origin_text(origin: Origin) -> &'static str {
    ORIGINS.iter().find(|(known, _)| *known == origin).map_or("", |(_, text)| text)
}

pub(super) fn origin(text: &str) -> Option<Origin> {
    ORIGINS.iter().find(|(_, known)| *known == text).map(|(origin, _)| *origin)
}

const JOB_KINDS: &[(JobKind, &str)] = &[
    (JobKind::NodeUpgrade, "nodeupgradejob"),
    (JobKind::ImagePrePull, "imageprepulljob"),
    (JobKind::ConfigUpdate, "configupdatejob"),
];

/// `<scope>/<type>/<name>` for the types that are no kinds.
fn three(scope: impl std::fmt::Display, kind: &str, name: impl std::fmt::Display) -> String {
    format!("{scope}/{kind}/{name}")
}

pub(super) fn about_text(about: &About) -> String {
    match about {
        About::Object(key) => key.to_string(),
        About::NodeStatus(node) => three(Scope::Cluster, NODE_PATCH, node),
        About::PodStatus(namespace, name) => three(namespace, POD_PATCH, name),
        About::Token(namespace, account) => three(namespace, TOKEN, account),
        About::ApiServerCa => API_SERVER_CA.into(),
        About::OldPodStatus(namespace, Some(name)) => three(namespace, POD_STATUS, name),
        About::OldPodStatus(namespace, None) => format!("{namespace}/{POD_STATUS}"),
        About::Unnamed => String::new(),
    }
}

pub(super) fn old_node_text(scope: &Scope, node: &NodeName) -> String {
    three(scope, NODE_STATUS, node)
}

impl Message<'_> {
    /// A part of the resource as a name.
    pub(super) fn part<T: FromStr<Err = InvalidId>>(&self, text: &str) -> Result<T, DecodeError> {
        text.parse().map_err(|error| self.bad_resource(error))
    }

    /// The resource as `<scope>/<type>/<name>`, not looked into. An absent name is empty.
    pub(super) fn parts(&self) -> Option<(&str, &str, &str)> {
        let mut parts = self.resource.split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(scope), Some(kind), name, None) => Some((scope, kind, name.unwrap_or_default())),
            _ => None,
        }
    }

    /// The resource as the key of an object.
    pub(super) fn key(&self) -> Result<ObjectKey, DecodeError> {
        self.resource.parse().map_err(|error| self.bad_resource(error))
    }

    /// The key of an object that this dialect may push: its own types are no kinds.
    pub(super) fn pushed_key(&self) -> Result<ObjectKey, DecodeError> {
        let key = self.key()?;
        match &key.kind {
            Kind::Watched(kind) if is_own_type(kind.as_str()) => {
                Err(self.bad_resource("no objects of this type exist"))
            }
            _ => Ok(key),
        }
    }

    /// What an answer or acknowledgement is about.
    pub(super) fn about(&self) -> Result<About, DecodeError> {
        if self.resource == API_SERVER_CA {
            return Ok(About::ApiServerCa);
        }
        Ok(match self.parts() {
            Some((scope, TOKEN, name)) => About::Token(self.part(scope)?, self.part(name)?),
            Some((_, NODE_PATCH, name)) => About::NodeStatus(self.part(name)?),
            Some((scope, POD_PATCH, name)) => About::PodStatus(self.part(scope)?, self.part(name)?),
            Some((scope, POD_STATUS, "")) => About::OldPodStatus(self.part(scope)?, None),
            Some((scope, POD_STATUS, name)) => About::OldPodStatus(self.part(scope)?, Some(self.part(name)?)),
            _ => About::Object(self.key()?),
        })
    }

    /// `operations.kubeedge.io/v1alpha2/<sort>/<job>/node/<node>`.
    pub(super) fn job(&self) -> Result<(JobKind, ObjectName, NodeName), DecodeError> {
        let shape = || self.bad_resource(format!("not {JOBS}/<sort>/<job>/node/<node>"));
        let rest =
            self.resource.strip_prefix(JOBS).and_then(|rest| rest.strip_prefix('/')).ok_or_else(shape)?;
        let mut parts = rest.split('/');
        let (Some(sort), Some(job), Some("node"), Some(node), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(shape());
        };
        let (kind, _) = JOB_KINDS.iter().find(|(_, known)| *known == sort).ok_or_else(shape)?;
        Ok((*kind, self.part(job)?, self.part(node)?))
    }

    /// `<first>/<job>/node/<node>`.
    pub(super) fn task(&self) -> Result<(&str, ObjectName, NodeName), DecodeError> {
        let mut parts = self.resource.split('/');
        let (Some(first), Some(job), Some("node"), Some(node), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(self.bad_resource("not <sort>/<job>/node/<node>"));
        };
        Ok((first, self.part(job)?, self.part(node)?))
    }

    /// `default/volume/<volume>`.
    pub(super) fn volume(&self) -> Result<ObjectName, DecodeError> {
        match self.parts() {
            Some((_, "volume", name)) => self.part(name),
            _ => Err(self.bad_resource("not <namespace>/volume/<volume>")),
        }
    }

    /// `device/<namespace>/<name>/<tail>`, if it ends so.
    pub(super) fn device(&self, tail: &str) -> Option<Result<DeviceId, DecodeError>> {
        let rest = self.resource.strip_prefix("device/")?.strip_suffix(tail)?.strip_suffix('/')?;
        let Some((namespace, name)) = rest.split_once('/') else {
            return Some(Err(self.bad_resource("not device/<namespace>/<name>/...")));
        };
        Some(self.part(namespace).and_then(|namespace| Ok(DeviceId { namespace, name: self.part(name)? })))
    }
}

fn is_own_type(kind: &str) -> bool {
    [TOKEN, NODE_PATCH, POD_PATCH, POD_STATUS, NODE_STATUS, "volume"].contains(&kind)
}

pub(super) fn job_text(kind: JobKind, job: &ObjectName, node: &NodeName) -> String {
    let sort = JOB_KINDS.iter().find(|(known, _)| *known == kind).map_or("", |(_, text)| text);
    format!("{JOBS}/{sort}/{job}/node/{node}")
}

pub(super) fn task_text(first: &str, job: &ObjectName, node: &NodeName) -> String {
    format!("{first}/{job}/node/{node}")
}

pub(super) fn volume_text(volume: &ObjectName) -> String {
    format!("default/volume/{volume}")
}

pub(super) fn device_text(device: &DeviceId, tail: &str) -> String {
    format!("device/{device}/{tail}")
}
