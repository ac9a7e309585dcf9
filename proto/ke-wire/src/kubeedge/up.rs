//! Messages from edge to cloud, as KubeEdge writes them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::down::{task_kind, task_word};
use super::envelope::{Content, DecodeError, Frame, Message, print};
use super::resource::{
    API_SERVER_CA, NODE_PATCH, NODE_STATUS, POD_PATCH, POD_STATUS, TOKEN, about_text, device_text, job_text,
    old_node_text, origin, origin_text, task_text, volume_text,
};
use crate::down::{About, Origin};
use crate::go_json::{from_base64, null_is_default, to_base64};
use crate::id::MessageId;
use crate::key::{Kind, ObjectKey};
use crate::legacy::{ExtendResource, OldNodeStatus, OldPodStatus};
use crate::up::{AckRoute, EventChange, Question, Up};

const JOB_REPORT: &str = "UpdateNodeActionStatus";
const TWIN_UPDATED: &str = "twin/edge_updated";
/// Ours; a Go cloud knows no such resource and drops it with a line in its log.
const DISCOVERED: &str = "devices/discovered";
const STATE_UPDATED: &str = "state/update";

/// One frame that a cloud reads. `timestamp_ms` is Unix milliseconds, told for the sake of traces.
#[must_use]
pub fn encode_up(message: &Up, timestamp_ms: i64) -> Vec<u8> {
    frame(message).write(timestamp_ms)
}

/// What a frame from an edge says. `limit` is the largest frame that is read, bytes.
pub fn decode_up(frame: &[u8], limit: usize) -> Result<Up, DecodeError> {
    let it = Message::read(frame, limit)?;
    let id = it.id.clone();
    match &*it.operation {
        "keepalive" => Ok(Up::Keepalive { id }),
        "response" if it.volume().is_ok() => csi(&it),
        "response" => {
            // Only the id decides: an odd route must not make the cloud send the message for ever.
            let about = it.about().unwrap_or(About::Unnamed);
            let route = match (&*it.source, &*it.group) {
                ("cloudhub", _) => AckRoute::CloudHub,
                ("meta", _) | (_, "twin") => AckRoute::Twin,
                (source, _) => AckRoute::AsReceived(origin(source).unwrap_or(Origin::EdgeController)),
            };
            Ok(Up::Ack { id, to: it.answered()?, about, route })
        }
        "error" => {
            let about = it.about().unwrap_or(About::Unnamed);
            Ok(Up::NotKept { id, to: it.answered()?, about, why: it.document() })
        }
        "upload" if it.group == "user" => upload(&it),
        "" if it.source == "servicebus" => {
            Ok(Up::ServiceFailed { id, to: it.answered()?, answer: it.parse()? })
        }
        JOB_REPORT => {
            let (kind, job, node) = it.job()?;
            Ok(Up::JobReport { id, kind, job, node, report: it.parse()? })
        }
        word if let Some(kind) = task_kind(word) => {
            let (_, job, node) = it.task()?;
            Ok(Up::TaskReport { id, kind, job, node, report: it.parse()? })
        }
        _ => match &*it.source {
            "metaserver" => application(&it),
            "twin" => device(&it),
            _ => object(&it),
        },
    }
}

/// Over WebSocket Go edges send an object; the driver in the cloud wants base64. Both are taken.
fn csi(it: &Message<'_>) -> Result<Up, DecodeError> {
    let response = match (it.text(), it.raw()) {
        (Some(text), _) => Some(from_base64(&text).ok_or_else(|| it.bad_content("not base64"))?),
        (None, "null") => None,
        (None, _) => Some(it.object()?),
    };
    Ok(Up::CsiAnswered { id: it.id.clone(), to: it.answered()?, volume: it.volume()?, response })
}

fn upload(it: &Message<'_>) -> Result<Up, DecodeError> {
    let (id, resource) = (it.id.clone(), it.resource.to_string());
    match (&*it.source, &it.parent) {
        ("bus" | "eventbus", _) => Ok(Up::MqttUpload { id, topic: resource, payload: it.document() }),
        ("servicebus", Some(to)) => Ok(Up::ServiceReplied { id, to: to.clone(), answer: it.parse()? }),
        ("servicebus", None) => {
            let body =
                it.text().and_then(|text| from_base64(&text)).ok_or_else(|| it.bad_content("not base64"))?;
            Ok(Up::ServiceUpload { id, url: resource, body })
        }
        _ => Err(it.unknown()),
    }
}

fn application(it: &Message<'_>) -> Result<Up, DecodeError> {
    let id = it.id.clone();
    match &*it.resource {
        "watchapp/sync" => {
            let watches = it.parse::<Option<BTreeMap<_, _>>>()?.unwrap_or_default();
            Ok(Up::SetWatches { id, watches })
        }
        "null" => Ok(Up::Apply { id, application: it.parse()? }),
        _ => Err(it.unknown()),
    }
}

fn device(it: &Message<'_>) -> Result<Up, DecodeError> {
    let id = it.id.clone();
    if it.resource == "membership/detail" {
        return Ok(Up::MembershipDetail { id, request: it.document() });
    }
    if let Some(found) = it.device(TWIN_UPDATED) {
        return Ok(Up::TwinReport { id, device: found?, report: it.parse_document()? });
    }
    if let Some(found) = it.device(STATE_UPDATED) {
        return Ok(Up::StateReport { id, device: found?, report: it.parse_document()? });
    }
    if it.resource == DISCOVERED {
        return Ok(Up::Discovered { id, discovery: it.parse()? });
    }
    Err(it.unknown())
}

fn object(it: &Message<'_>) -> Result<Up, DecodeError> {
    let id = it.id.clone();
    let ask = |question: Question| Ok(Up::Ask { id: it.id.clone(), question });
    if it.resource == API_SERVER_CA {
        return if it.operation == "query" { ask(Question::ApiServerCa) } else { Err(it.unknown()) };
    }
    let (scope, kind, name) = it.parts().ok_or_else(|| it.bad_resource("not <namespace>/<type>/<name>"))?;
    match (kind, &*it.operation) {
        (TOKEN, "query") => ask(Question::Token {
            namespace: it.part(scope)?,
            account: it.part(name)?,
            request: it.object()?,
        }),
        (NODE_PATCH, "patch") => {
            ask(Question::PatchNodeStatus { node: it.part(name)?, patch: it.document() })
        }
        (POD_PATCH, "patch") => {
            let (namespace, name) = (it.part(scope)?, it.part(name)?);
            ask(Question::PatchPodStatus { namespace, name, patch: it.document() })
        }
        (POD_STATUS, "update") => old_pod_status(it, scope, name),
        (NODE_STATUS, "insert") => {
            let scope = it.part(scope)?;
            Ok(Up::OldNode { id, scope, node: it.part(name)?, body: it.object()? })
        }
        (NODE_STATUS, "update") => {
            let OldNodeContent { uid, status, extend_resources } = it.parse()?;
            let status = OldNodeStatus { uid, status: bytes_of(status), extend_resources };
            Ok(Up::OldNodeStatus { id, scope: it.part(scope)?, node: it.part(name)?, status })
        }
        (TOKEN | NODE_PATCH | POD_PATCH | POD_STATUS | NODE_STATUS, _) => Err(it.unknown()),
        ("event", operation) => event(it, operation),
        ("pod", "delete") => {
            let (namespace, name) = (it.part(scope)?, it.part(name)?);
            ask(Question::DeletePod { namespace, name, options: delete_options(it)? })
        }
        (_, "query") => ask(Question::Get(it.key()?)),
        (_, "insert") => ask(Question::Create { key: it.key()?, body: it.object()? }),
        ("node" | "lease", "update") => ask(Question::Update { key: it.key()?, body: it.object()? }),
        _ => Err(it.unknown()),
    }
}

/// Old edges send the uid alone.
fn delete_options(it: &Message<'_>) -> Result<Bytes, DecodeError> {
    #[derive(Serialize)]
    struct Options {
        preconditions: Preconditions,
    }
    #[derive(Serialize)]
    struct Preconditions {
        uid: String,
    }
    match it.text() {
        Some(uid) => Ok(print(&Options { preconditions: Preconditions { uid } }).into()),
        None => it.object(),
    }
}

#[derive(Deserialize)]
struct EventPatch<'a> {
    #[serde(borrow)]
    event: &'a RawValue,
    #[serde(rename = "patchData")]
    patch: String,
}

fn event(it: &Message<'_>, operation: &str) -> Result<Up, DecodeError> {
    let change = match operation {
        "insert" => EventChange::Created(it.object()?),
        "update" => EventChange::Updated(it.object()?),
        "patch" => {
            let EventPatch { event, patch } = it.parse()?;
            EventChange::Patched { event: bytes_of(event), patch }
        }
        _ => return Err(it.unknown()),
    };
    Ok(Up::Event { id: it.id.clone(), key: it.key()?, change })
}

#[derive(Deserialize)]
struct OldPodContent<'a> {
    #[serde(rename = "UID")]
    uid: String,
    #[serde(rename = "Name")]
    name: String,
    #[serde(borrow, rename = "Status")]
    status: &'a RawValue,
}

impl From<OldPodContent<'_>> for OldPodStatus {
    fn from(OldPodContent { uid, name, status }: OldPodContent<'_>) -> Self {
        Self { uid, name, status: bytes_of(status) }
    }
}

#[derive(Deserialize)]
struct OldNodeContent<'a> {
    #[serde(rename = "UID")]
    uid: String,
    #[serde(borrow, rename = "Status")]
    status: &'a RawValue,
    #[serde(rename = "ExtendResources", default, deserialize_with = "null_is_default")]
    extend_resources: BTreeMap<String, Vec<ExtendResource>>,
}

fn old_pod_status(it: &Message<'_>, namespace: &str, name: &str) -> Result<Up, DecodeError> {
    let (id, namespace) = (it.id.clone(), it.part(namespace)?);
    if name.is_empty() {
        let statuses = it.parse::<Vec<OldPodContent<'_>>>()?.into_iter().map(OldPodStatus::from).collect();
        return Ok(Up::OldPodStatuses { id, namespace, statuses });
    }
    let status = it.parse::<OldPodContent<'_>>()?.into();
    Ok(Up::OldPodStatus { id, namespace, name: it.part(name)?, status })
}

fn bytes_of(raw: &RawValue) -> Bytes {
    Bytes::copy_from_slice(raw.get().as_bytes())
}

fn frame(message: &Up) -> Frame<'_> {
    match message {
        Up::Keepalive { id } => {
            from(id, "websocket", "resource", "keepalive", "node".into(), Content::Text("ping".into()))
        }
        Up::Ack { id, to, about, route } => {
            let (source, group) = match route {
                AckRoute::AsReceived(origin) => (origin_text(*origin), "resource"),
                AckRoute::CloudHub => ("cloudhub", "resource"),
                AckRoute::Twin => ("meta", "twin"),
            };
            Frame {
                parent: Some(to),
                ..from(id, source, group, "response", about_text(about), Content::ok())
            }
        }
        Up::NotKept { id, to, about, why } => {
            let content = Content::Text(why.clone());
            Frame {
                parent: Some(to),
                ..from(id, "metamanager", "resource", "error", about_text(about), content)
            }
        }
        Up::Ask { id, question } => question_frame(id, question),
        Up::Event { id, key, change } => event_frame(id, key, change),
        Up::MembershipDetail { id, request } => {
            let content = Content::Text(request.clone());
            from(id, "twin", "resource", "get", "membership/detail".into(), content)
        }
        Up::TwinReport { id, device, report } => {
            let resource = device_text(device, TWIN_UPDATED);
            from(id, "twin", "resource", "update", resource, Content::of(report))
        }
        Up::StateReport { id, device, report } => {
            let resource = device_text(device, STATE_UPDATED);
            from(id, "twin", "resource", "update", resource, Content::document(report))
        }
        Up::Discovered { id, discovery } => {
            from(id, "twin", "resource", "update", DISCOVERED.into(), Content::of(discovery))
        }
        Up::Apply { id, application } => {
            from(id, "metaserver", "dynamiccontroller", "null", "null".into(), Content::of(application))
        }
        Up::SetWatches { id, watches } => {
            let content = Content::of(watches);
            from(id, "metaserver", "dynamiccontroller", "null", "watchapp/sync".into(), content)
        }
        Up::MqttUpload { id, topic, payload } => {
            from(id, "bus", "user", "upload", topic.clone(), Content::Text(payload.clone()))
        }
        Up::ServiceUpload { id, url, body } => {
            from(id, "servicebus", "user", "upload", url.clone(), Content::Text(to_base64(body)))
        }
        Up::ServiceReplied { id, to, answer } => Frame {
            parent: Some(to),
            ..from(id, "servicebus", "user", "upload", String::new(), Content::of(answer))
        },
        Up::ServiceFailed { id, to, answer } => Frame {
            parent: Some(to),
            ..from(id, "servicebus", "user", "", String::new(), Content::of(answer))
        },
        Up::CsiAnswered { id, to, volume, response } => {
            let content = response.as_ref().map_or(Content::Null, |json| Content::Text(to_base64(json)));
            Frame {
                parent: Some(to),
                ..from(id, "cloudhub", "resource", "response", volume_text(volume), content)
            }
        }
        Up::JobReport { id, kind, job, node, report } => {
            from(id, "websocket", "hub", JOB_REPORT, job_text(*kind, job, node), Content::of(report))
        }
        Up::TaskReport { id, kind, job, node, report } => {
            let resource = task_text("task", job, node);
            from(id, "websocket", "hub", task_word(*kind), resource, Content::of(report))
        }
        Up::OldPodStatus { id, namespace, name, status } => {
            let about = About::OldPodStatus(namespace.clone(), Some(name.clone()));
            asks(id, "update", about_text(&about), Content::Raw(old_pod_json(status).into()))
        }
        Up::OldPodStatuses { id, namespace, statuses } => {
            let about = About::OldPodStatus(namespace.clone(), None);
            let entries = statuses.iter().map(old_pod_json).collect::<Vec<_>>().join(&b","[..]);
            let content = Content::Raw([&b"["[..], &entries, b"]"].concat().into());
            asks(id, "update", about_text(&about), content)
        }
        Up::OldNode { id, scope, node, body } => {
            asks(id, "insert", old_node_text(scope, node), Content::Raw(body.clone()))
        }
        Up::OldNodeStatus { id, scope, node, status } => {
            let json = [
                &b"{\"UID\":"[..],
                &print(&status.uid),
                b",\"Status\":",
                &status.status,
                b",\"ExtendResources\":",
                &print(&status.extend_resources),
                b"}",
            ];
            asks(id, "update", old_node_text(scope, node), Content::Raw(json.concat().into()))
        }
    }
}

fn from<'a>(
    id: &'a MessageId,
    source: &'a str,
    group: &'a str,
    operation: &'a str,
    resource: String,
    content: Content,
) -> Frame<'a> {
    Frame { id, parent: None, version: None, source, group, operation, resource, content }
}

/// What the kubelet side of an edge says.
fn asks<'a>(id: &'a MessageId, operation: &'a str, resource: String, content: Content) -> Frame<'a> {
    from(id, "edged", "meta", operation, resource, content)
}

fn question_frame<'a>(id: &'a MessageId, question: &'a Question) -> Frame<'a> {
    let raw = |body: &Bytes| Content::Raw(body.clone());
    match question {
        Question::Get(key) => asks(id, "query", key.to_string(), Content::Null),
        Question::Token { namespace, account, request } => {
            let about = About::Token(namespace.clone(), account.clone());
            asks(id, "query", about_text(&about), raw(request))
        }
        Question::ApiServerCa => {
            from(id, "metamanager", "meta", "query", about_text(&About::ApiServerCa), Content::Null)
        }
        Question::Create { key, body } => asks(id, "insert", key.to_string(), raw(body)),
        Question::Update { key, body } => asks(id, "update", key.to_string(), raw(body)),
        Question::PatchNodeStatus { node, patch } => {
            asks(id, "patch", about_text(&About::NodeStatus(node.clone())), Content::Text(patch.clone()))
        }
        Question::PatchPodStatus { namespace, name, patch } => {
            let about = About::PodStatus(namespace.clone(), name.clone());
            asks(id, "patch", about_text(&about), Content::Text(patch.clone()))
        }
        Question::DeletePod { namespace, name, options } => {
            let key = ObjectKey::namespaced(Kind::Pod, namespace.clone(), name.clone());
            asks(id, "delete", key.to_string(), raw(options))
        }
    }
}

fn event_frame<'a>(id: &'a MessageId, key: &ObjectKey, change: &EventChange) -> Frame<'a> {
    match change {
        EventChange::Created(event) => asks(id, "insert", key.to_string(), Content::Raw(event.clone())),
        EventChange::Updated(event) => asks(id, "update", key.to_string(), Content::Raw(event.clone())),
        EventChange::Patched { event, patch } => {
            let json = [&b"{\"event\":"[..], event, b",\"patchData\":", &print(patch), b"}"].concat();
            asks(id, "patch", key.to_string(), Content::Raw(json.into()))
        }
    }
}

fn old_pod_json(status: &OldPodStatus) -> Vec<u8> {
    let json = [
        &b"{\"UID\":"[..],
        &print(&status.uid),
        b",\"Name\":",
        &print(&status.name),
        b",\"Status\":",
        &status.status,
        b"}",
    ];
    json.concat()
}
