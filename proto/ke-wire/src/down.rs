//! Everything the cloud may say.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use crate::application::Application;
use crate::id::{DeviceId, MessageId, Namespace, NodeName, ObjectName, Uid};
use crate::job::{JobAction, JobOrder, Task, TaskUpgrade};
use crate::key::ObjectKey;
use crate::refusal::Refusal;
use crate::router::RouterOrder;
use crate::version::Version;

/// A message from cloud to edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Down {
    /// An object that the node must hold. Acknowledged once it is on disk.
    Put(Put),
    /// An object that the node must no longer hold. Acknowledged once it is gone from disk.
    Delete(Delete),
    /// What came of a [`crate::Question`]. Whoever asked asks again if none comes.
    Answer {
        /// Id of this message.
        id: MessageId,
        /// Id of the question.
        to: MessageId,
        /// What the question was about.
        about: About,
        /// Version of the object in the answer, where there is one.
        version: Option<Version>,
        /// The answer itself.
        answer: Answer,
    },
    /// Devices that came to this node or left it.
    Membership {
        /// Id of this message.
        id: MessageId,
        /// Id of the event, told to local clients.
        event_id: String,
        /// Unix milliseconds in the cloud.
        timestamp_ms: i64,
        /// Devices that came.
        added: Vec<DeviceRef>,
        /// Devices that left.
        removed: Vec<DeviceRef>,
    },
    /// All devices of this node. Go clouds never send it; Go edges take it, and drop what is not listed.
    MembershipAll {
        /// Id of this message.
        id: MessageId,
        /// Id of the event, told to local clients.
        event_id: String,
        /// Unix milliseconds in the cloud.
        timestamp_ms: i64,
        /// The devices.
        devices: Vec<DeviceRef>,
    },
    /// A device report arrived in the cloud.
    TwinConfirmed {
        /// Id of this message.
        id: MessageId,
        /// Id of the report.
        to: MessageId,
    },
    /// What came of a local API client's request.
    Applied {
        /// Id of this message.
        id: MessageId,
        /// Id of the request.
        to: MessageId,
        /// The request with its answer.
        application: Box<Application>,
    },
    /// What came of a set of watches.
    WatchesSet {
        /// Id of this message.
        id: MessageId,
        /// Id of the set.
        to: MessageId,
        /// Those that failed, by the id of the application.
        failed: BTreeMap<String, Application>,
    },
    /// A rule in the cloud wants something from MQTT or a local HTTP service.
    Router {
        /// Id of this message. The answer to a call names it.
        id: MessageId,
        /// What it wants.
        order: RouterOrder,
    },
    /// What a REST service in the cloud said to an upload.
    UploadAnswered {
        /// Id of this message.
        id: MessageId,
        /// Id of the upload.
        to: MessageId,
        /// The URL that the upload named.
        url: String,
        /// What it said.
        body: String,
    },
    /// A storage request, answered by [`crate::Up::CsiAnswered`].
    Csi {
        /// Id of this message.
        id: MessageId,
        /// Id of the volume.
        volume: ObjectName,
        /// What is wanted.
        verb: CsiVerb,
        /// The CSI request as protobuf's JSON.
        request: String,
    },
    /// A job of `operations.kubeedge.io/v1alpha2`.
    Job {
        /// Id of this message.
        id: MessageId,
        /// Name of the job.
        job: ObjectName,
        /// The node it is for.
        node: NodeName,
        /// The step to begin with.
        action: JobAction,
        /// The job.
        order: JobOrder,
    },
    /// A job of `operations.kubeedge.io/v1alpha1`.
    Task {
        /// Id of this message.
        id: MessageId,
        /// Name of the job.
        job: ObjectName,
        /// The node it is for.
        node: NodeName,
        /// The job.
        task: Task,
    },
    /// An upgrade as edges before v1.16 read it.
    OldUpgrade {
        /// Id of this message.
        id: MessageId,
        /// Name of the job.
        job: ObjectName,
        /// The node it is for.
        node: NodeName,
        /// The upgrade.
        upgrade: TaskUpgrade,
    },
}

impl Down {
    /// Its name, for logs: what it holds may be secret.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "Put",
            Self::Delete(_) => "Delete",
            Self::Answer { .. } => "Answer",
            Self::Membership { .. } => "Membership",
            Self::MembershipAll { .. } => "MembershipAll",
            Self::TwinConfirmed { .. } => "TwinConfirmed",
            Self::Applied { .. } => "Applied",
            Self::WatchesSet { .. } => "WatchesSet",
            Self::Router { .. } => "Router",
            Self::UploadAnswered { .. } => "UploadAnswered",
            Self::Csi { .. } => "Csi",
            Self::Job { .. } => "Job",
            Self::Task { .. } => "Task",
            Self::OldUpgrade { .. } => "OldUpgrade",
        }
    }
}

/// What a storage request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "CSI's words")]
pub enum CsiVerb {
    CreateVolume,
    DeleteVolume,
    ControllerPublishVolume,
    ControllerUnpublishVolume,
}

/// An object that the node must hold: an upsert, whatever `change` says.
#[derive(Clone, PartialEq, Eq)]
pub struct Put {
    /// Id of this message; a retransmission keeps it.
    pub id: MessageId,
    /// Which object.
    pub key: ObjectKey,
    /// Its resourceVersion.
    pub version: Version,
    /// What happened to it in the cloud, as far as the sender knows.
    pub change: Change,
    /// Who in the cloud sends it.
    pub origin: Origin,
    /// The object as Kubernetes JSON. Shared by all nodes that get it.
    pub body: Bytes,
}

/// Without the object: it may be a Secret.
impl fmt::Debug for Put {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Put")
            .field("id", &self.id)
            .field("key", &self.key)
            .field("version", &self.version)
            .field("change", &self.change)
            .field("origin", &self.origin)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// An object that the node must no longer hold.
#[derive(Clone, PartialEq, Eq)]
pub struct Delete {
    /// Id of this message; a retransmission keeps it.
    pub id: MessageId,
    /// Which object.
    pub key: ObjectKey,
    /// Its uid: an object of the same name with another one stays. `None` only from peers that do not send it.
    pub uid: Option<Uid>,
    /// Its last version, where the sender knows it.
    pub version: Option<Version>,
    /// Who in the cloud sends it.
    pub origin: Origin,
    /// The last known object, or just its metadata, as Kubernetes JSON.
    pub body: Bytes,
}

/// Without the object: it may be a Secret.
impl fmt::Debug for Delete {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delete")
            .field("id", &self.id)
            .field("key", &self.key)
            .field("uid", &self.uid)
            .field("version", &self.version)
            .field("origin", &self.origin)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

/// What happened to an object in the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It came to be, or to this node.
    Inserted,
    /// It changed.
    Updated,
}

/// The part of the cloud that a pushed object comes from. It tells the edge which module is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Pods, nodes and what they need.
    EdgeController,
    /// Devices and their models.
    DeviceController,
    /// Objects that a local API client watches.
    DynamicController,
    /// Access rules of local API clients.
    PolicyController,
}

/// What a question was about, as far as its answer says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// One object.
    Object(ObjectKey),
    /// The status of a Node.
    NodeStatus(NodeName),
    /// The status of a Pod.
    PodStatus(Namespace, ObjectName),
    /// A token of this service account.
    Token(Namespace, ObjectName),
    /// The certificate authority of the API server.
    ApiServerCa,
    /// Pod status of edges before v1.23; without a name, several Pods of the namespace.
    OldPodStatus(Namespace, Option<ObjectName>),
    /// Not told, or in words that only the sender knows. Seen in acknowledgements, where the id decides.
    Unnamed,
}

/// What came of a question.
#[derive(Clone, PartialEq, Eq)]
pub enum Answer {
    /// The object asked for, as Kubernetes JSON.
    Object(Bytes),
    /// The object as it stands after a create, update, patch or lease request.
    Stored(Bytes),
    /// A create, update, patch or lease request that was not carried out.
    NotStored(Refusal),
    /// Done, nothing to show.
    Done,
    /// The question itself failed.
    Refused(Refusal),
    /// PEM text; empty when the cloud does not know it.
    Pem(String),
}

/// Without the object: it may be a Secret or a token.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Object(body) => write!(f, "Object({} bytes)", body.len()),
            Self::Stored(body) => write!(f, "Stored({} bytes)", body.len()),
            Self::NotStored(refusal) => f.debug_tuple("NotStored").field(refusal).finish(),
            Self::Done => f.write_str("Done"),
            Self::Refused(refusal) => f.debug_tuple("Refused").field(refusal).finish(),
            Self::Pem(text) => write!(f, "Pem({} bytes)", text.len()),
        }
    }
}

/// A device as membership messages name it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DeviceRef {
    /// Which.
    pub id: DeviceId,
    /// The name.
    pub name: String,
    /// From the label `description`, where there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_stay_out_of_logs() {
        let id = MessageId::fresh;
        let key: ObjectKey = "default/secret/door".parse().unwrap();
        let body = || Bytes::from_static(b"{\"data\":{\"key\":\"aHVzaA==\"}}");
        let (version, origin) = (Version::new(1), Origin::EdgeController);
        let put = Put { id: id(), key: key.clone(), version, change: Change::Updated, origin, body: body() };
        let delete = Delete { id: id(), key: key.clone(), uid: None, version: None, origin, body: body() };
        let answer = |answer: Answer| Down::Answer {
            id: id(),
            to: id(),
            about: About::Object(key.clone()),
            version: None,
            answer,
        };
        for message in [
            Down::Put(put),
            Down::Delete(delete),
            answer(Answer::Object(body())),
            answer(Answer::Stored(body())),
        ] {
            let text = format!("{message:?}");
            assert!(text.contains("27 bytes") && text.contains("door"), "{text}");
            assert!(!text.contains("hush") && !text.contains("aHVz") && !text.contains("data"), "{text}");
        }
    }
}
