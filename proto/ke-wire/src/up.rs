//! Everything an edge may say.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::application::Application;
use crate::device_report::{StateReport, TwinReport};
use crate::discovery::Discovery;
use crate::down::{About, Origin};
use crate::id::{DeviceId, MessageId, Namespace, NodeName, ObjectName};
use crate::job::{JobKind, JobReport, TaskKind, TaskReport};
use crate::key::{Kind, ObjectKey, Scope};
use crate::legacy::{OldNodeStatus, OldPodStatus};
use crate::router::HttpAnswer;

/// A message from edge to cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Up {
    /// "I am here." Sent on connect and at every heartbeat; nothing answers it.
    Keepalive {
        /// Id of this message.
        id: MessageId,
    },
    /// A pushed object is on disk, or gone from it; or an answer arrived.
    Ack {
        /// Id of this message.
        id: MessageId,
        /// Id of the acknowledged message. Only this decides.
        to: MessageId,
        /// What the acknowledged message was about.
        about: About,
        /// Which way it went inside the edge; told for the sake of the record.
        route: AckRoute,
    },
    /// The edge could not keep a pushed object. No acknowledgement: it will be sent again.
    NotKept {
        /// Id of this message.
        id: MessageId,
        /// Id of the message that failed.
        to: MessageId,
        /// What it was about.
        about: About,
        /// Why, for the cloud's log.
        why: String,
    },
    /// Something that wants a [`crate::Down::Answer`].
    Ask {
        /// Id of this message; the answer names it.
        id: MessageId,
        /// What is asked.
        question: Question,
    },
    /// A Kubernetes event. Nothing answers it.
    Event {
        /// Id of this message.
        id: MessageId,
        /// Namespace and name of the event.
        key: ObjectKey,
        /// The event.
        change: EventChange,
    },
    /// "Which devices are mine?" Asked by Go edges on each connect; answered by pushes, not by an answer.
    MembershipDetail {
        /// Id of this message.
        id: MessageId,
        /// The request's text, a JSON document of the device protocol.
        request: String,
    },
    /// Properties of a device changed here. Answered by [`crate::Down::TwinConfirmed`].
    TwinReport {
        /// Id of this message.
        id: MessageId,
        /// The device.
        device: DeviceId,
        /// What changed.
        report: TwinReport,
    },
    /// A device came or went. Answered by [`crate::Down::TwinConfirmed`].
    StateReport {
        /// Id of this message.
        id: MessageId,
        /// The device.
        device: DeviceId,
        /// Its state.
        report: StateReport,
    },
    /// Devices that nobody has described yet. Nothing answers it; it is told again.
    Discovered {
        /// Id of this message.
        id: MessageId,
        /// What one mapper finds.
        discovery: Discovery,
    },
    /// A local API client's request. Answered by [`crate::Down::Applied`].
    Apply {
        /// Id of this message.
        id: MessageId,
        /// The request.
        application: Box<Application>,
    },
    /// Every watch that local API clients have now. Answered by [`crate::Down::WatchesSet`].
    SetWatches {
        /// Id of this message.
        id: MessageId,
        /// By the id of the application.
        watches: BTreeMap<String, Application>,
    },
    /// A local MQTT message for a rule in the cloud. Nothing answers it.
    MqttUpload {
        /// Id of this message.
        id: MessageId,
        /// Its topic.
        topic: String,
        /// Its text.
        payload: String,
    },
    /// A local program's request to a URL in the cloud. Answered by [`crate::Down::UploadAnswered`].
    ServiceUpload {
        /// Id of this message.
        id: MessageId,
        /// The URL.
        url: String,
        /// The request's JSON. Go clouds pass it on as base64 text.
        body: Bytes,
    },
    /// What a local HTTP service said to a call.
    ServiceReplied {
        /// Id of this message.
        id: MessageId,
        /// Id of the call.
        to: MessageId,
        /// What it said.
        answer: HttpAnswer,
    },
    /// A call that reached no service, as Go edges tell it. A Go cloud loses it, so ours sends `ServiceReplied`.
    ServiceFailed {
        /// Id of this message.
        id: MessageId,
        /// Id of the call.
        to: MessageId,
        /// What the edge says in the service's place.
        answer: HttpAnswer,
    },
    /// What came of a storage request.
    CsiAnswered {
        /// Id of this message.
        id: MessageId,
        /// Id of the request.
        to: MessageId,
        /// Id of the volume.
        volume: ObjectName,
        /// The CSI response as protobuf's JSON; nothing when it failed.
        response: Option<Bytes>,
    },
    /// A step of a `v1alpha2` job ended. Nothing answers it.
    JobReport {
        /// Id of this message.
        id: MessageId,
        /// The job's sort.
        kind: JobKind,
        /// Its name.
        job: ObjectName,
        /// This node.
        node: NodeName,
        /// What came of it.
        report: JobReport,
    },
    /// A `v1alpha1` job got on. Nothing answers it.
    TaskReport {
        /// Id of this message.
        id: MessageId,
        /// The job's sort.
        kind: TaskKind,
        /// Its name.
        job: ObjectName,
        /// This node.
        node: NodeName,
        /// How far it got.
        report: TaskReport,
    },
    /// Status of one Pod, from an edge before v1.23.
    OldPodStatus {
        /// Id of this message.
        id: MessageId,
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: ObjectName,
        /// Its status.
        status: OldPodStatus,
    },
    /// Status of several Pods, from an edge before v1.23.
    OldPodStatuses {
        /// Id of this message.
        id: MessageId,
        /// Their namespace.
        namespace: Namespace,
        /// Each Pod's status.
        statuses: Vec<OldPodStatus>,
    },
    /// Registration of the Node, from an edge before v1.23.
    OldNode {
        /// Id of this message.
        id: MessageId,
        /// Namespace that the edge claims for it.
        scope: Scope,
        /// The node.
        node: NodeName,
        /// The Node as Kubernetes JSON.
        body: Bytes,
    },
    /// Status of the Node, from an edge before v1.23.
    OldNodeStatus {
        /// Id of this message.
        id: MessageId,
        /// Namespace that the edge claims for it.
        scope: Scope,
        /// The node.
        node: NodeName,
        /// Its status.
        status: OldNodeStatus,
    },
}

/// Which way an acknowledged message went inside the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AckRoute {
    /// As it came.
    AsReceived(Origin),
    /// As an answer of the cloud hub itself.
    CloudHub,
    /// Through the device twin, which Go edges let rewrite the route first.
    Twin,
}

/// What an edge may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// Read one object. Lease: answered by `Stored`; everything else by `Object`.
    Get(ObjectKey),
    /// A token for a service account of a pod here. The request is a `TokenRequest` as Kubernetes JSON.
    Token {
        /// Namespace of the service account.
        namespace: Namespace,
        /// Its name.
        account: ObjectName,
        /// What is wanted, and to which pod it is bound.
        request: Bytes,
    },
    /// The certificate authority of the API server.
    ApiServerCa,
    /// Create an object: Node, Lease, mirror Pod, CertificateSigningRequest.
    Create {
        /// Which.
        key: ObjectKey,
        /// The object as Kubernetes JSON.
        body: Bytes,
    },
    /// Replace a Lease; or merge labels and annotations of the Node.
    Update {
        /// Which.
        key: ObjectKey,
        /// The object as Kubernetes JSON.
        body: Bytes,
    },
    /// Patch the status of the Node.
    PatchNodeStatus {
        /// Which.
        node: NodeName,
        /// A strategic merge patch, JSON text.
        patch: String,
    },
    /// Patch the status of a Pod.
    PatchPodStatus {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: ObjectName,
        /// A strategic merge patch that names the uid, JSON text.
        patch: String,
    },
    /// Remove a Pod whose containers have ended.
    DeletePod {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: ObjectName,
        /// `DeleteOptions` with the uid as precondition, Kubernetes JSON.
        options: Bytes,
    },
}

impl Question {
    /// What the answer to it says it is about.
    #[must_use]
    pub fn about(&self) -> About {
        match self {
            Self::Get(key) | Self::Create { key, .. } | Self::Update { key, .. } => {
                About::Object(key.clone())
            }
            Self::Token { namespace, account, .. } => About::Token(namespace.clone(), account.clone()),
            Self::ApiServerCa => About::ApiServerCa,
            Self::PatchNodeStatus { node, .. } => About::NodeStatus(node.clone()),
            Self::PatchPodStatus { namespace, name, .. } => About::PodStatus(namespace.clone(), name.clone()),
            Self::DeletePod { namespace, name, .. } => {
                About::Object(ObjectKey::namespaced(Kind::Pod, namespace.clone(), name.clone()))
            }
        }
    }
}

/// What happened to an event object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventChange {
    /// A new event, Kubernetes JSON.
    Created(Bytes),
    /// The whole event anew, Kubernetes JSON.
    Updated(Bytes),
    /// One more of the same.
    Patched {
        /// The event, Kubernetes JSON.
        event: Bytes,
        /// Merge patch, JSON text.
        patch: String,
    },
}
