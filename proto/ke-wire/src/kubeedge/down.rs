//! Messages from cloud to edge, as KubeEdge writes them.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::envelope::{Content, DecodeError, Frame, Message, print};
use super::resource::{about_text, job_text, origin, origin_text, task_text, volume_text};
use crate::down::{About, Answer, Change, CsiVerb, Delete, DeviceRef, Down, Put};
use crate::go_json::{base64_text, null_is_default};
use crate::id::{MessageId, Uid};
use crate::job::{
    ConfigUpdateSpec, ImagePrePullSpec, JobAction, JobKind, JobOrder, NodeUpgradeSpec, Task, TaskCheck,
    TaskItem, TaskKind, TaskPrePull, TaskUpgrade,
};
use crate::refusal::{Reason, Refusal, go_error};
use crate::router::{HttpMethod, RouterOrder, ServiceCall};
use crate::version::Version;

const OLD_JOBS: &str = "nodeupgradejobcontroller";
/// The state in which a `v1alpha1` job only looks.
const CHECKING: &str = "Checking";

const CSI_VERBS: &[(CsiVerb, &str)] = &[
    (CsiVerb::CreateVolume, "createvolume"),
    (CsiVerb::DeleteVolume, "deletevolume"),
    (CsiVerb::ControllerPublishVolume, "controllerpublishvolume"),
    (CsiVerb::ControllerUnpublishVolume, "controllerunpublishvolume"),
];

/// One frame that an edge reads. `timestamp_ms` is Unix milliseconds, told for the sake of traces.
#[must_use]
pub fn encode_down(message: &Down, timestamp_ms: i64) -> Vec<u8> {
    frame(message).write(timestamp_ms)
}

/// What a frame from the cloud says. `limit` is the largest frame that is read, bytes.
pub fn decode_down(frame: &[u8], limit: usize) -> Result<Down, DecodeError> {
    let it = Message::read(frame, limit)?;
    if &*it.source == OLD_JOBS {
        return old_upgrade(&it);
    }
    match &*it.group {
        "user" => router(&it),
        "twin" => twin(&it),
        "taskmanager" => job(&it),
        "resource" | "func" => resource(&it),
        _ => Err(it.unknown()),
    }
}

fn resource(it: &Message<'_>) -> Result<Down, DecodeError> {
    if let Some((verb, _)) = CSI_VERBS.iter().find(|(_, text)| *text == it.operation) {
        let (id, volume, verb) = (it.id.clone(), it.volume()?, *verb);
        return Ok(Down::Csi { id, volume, verb, request: it.document() });
    }
    match (&*it.operation, &it.parent) {
        ("insert", None) => put(it, Change::Inserted),
        ("update", None) => put(it, Change::Updated),
        ("delete", None) => delete(it),
        ("applicationResponse", Some(to)) => {
            let (id, to) = (it.id.clone(), to.clone());
            if it.resource == "watchapp/sync" {
                let failed = it.parse::<Option<BTreeMap<_, _>>>()?.unwrap_or_default();
                return Ok(Down::WatchesSet { id, to, failed });
            }
            Ok(Down::Applied { id, to, application: it.parse()? })
        }
        ("response", Some(to)) => {
            let about = it.about()?;
            let answer = answer(it, &about)?;
            Ok(Down::Answer { id: it.id.clone(), to: to.clone(), about, version: it.version, answer })
        }
        _ => Err(it.unknown()),
    }
}

fn put(it: &Message<'_>, change: Change) -> Result<Down, DecodeError> {
    Ok(Down::Put(Put {
        id: it.id.clone(),
        key: it.pushed_key()?,
        version: it.version.unwrap_or(Version::NONE),
        change,
        origin: origin(&it.source).ok_or_else(|| it.unknown())?,
        body: it.object()?,
    }))
}

fn delete(it: &Message<'_>) -> Result<Down, DecodeError> {
    #[derive(Deserialize)]
    struct Object {
        #[serde(default, deserialize_with = "null_is_default")]
        metadata: Metadata,
    }
    #[derive(Default, Deserialize)]
    struct Metadata {
        #[serde(default, deserialize_with = "null_is_default")]
        uid: String,
    }
    let body = it.object()?;
    let uid = match it.parse::<Object>()?.metadata.uid.as_str() {
        "" => None,
        text => Some(text.parse::<Uid>().map_err(|error| it.bad_content(error.to_string()))?),
    };
    let origin = origin(&it.source).ok_or_else(|| it.unknown())?;
    Ok(Down::Delete(Delete {
        id: it.id.clone(),
        key: it.pushed_key()?,
        uid,
        version: it.version,
        origin,
        body,
    }))
}

/// What an answer says shows in its shape alone.
fn answer(it: &Message<'_>, about: &About) -> Result<Answer, DecodeError> {
    #[derive(Deserialize)]
    struct Shape<'a> {
        #[serde(borrow, rename = "Object", default, deserialize_with = "present")]
        object: Option<&'a RawValue>,
        #[serde(borrow, rename = "Err", default, deserialize_with = "present")]
        error: Option<&'a RawValue>,
        #[serde(borrow, rename = "ErrStatus", default, deserialize_with = "present")]
        status: Option<&'a RawValue>,
    }
    /// Keeps null apart from absent.
    fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
        <&RawValue>::deserialize(deserializer).map(Some)
    }
    #[derive(Deserialize)]
    struct GoError(#[serde(with = "go_error")] Option<Refusal>);

    if let Some(text) = it.text() {
        return Ok(match about {
            About::ApiServerCa => Answer::Pem(text),
            _ if text == "OK" => Answer::Done,
            _ => Answer::Refused(unexplained(text)),
        });
    }
    let raw = it.raw();
    if !raw.starts_with('{') || raw == "{}" {
        // Go prints most errors as an empty object. Taken for an object it would empty whatever asked for it.
        return Ok(Answer::Refused(unexplained("the cloud failed without saying why".into())));
    }
    let parse_error = |text: &RawValue| {
        serde_json::from_str::<GoError>(text.get())
            .map_err(|_| it.bad_content("its error has no known shape"))
    };
    match it.parse::<Shape<'_>>()? {
        Shape { object, error: Some(error), .. } => Ok(match (parse_error(error)?.0, object) {
            (Some(refusal), _) => Answer::NotStored(refusal),
            (None, Some(object)) if object.get() != "null" => Answer::Stored(bytes_of(object)),
            (None, _) => Answer::Stored(Bytes::from_static(b"{}")),
        }),
        Shape { object: Some(object), error: None, status: None } => Ok(Answer::Stored(bytes_of(object))),
        Shape { status: Some(_), .. } => {
            let GoError(refusal) = it.parse()?;
            let unknown = || unexplained("the cloud failed without saying why".into());
            Ok(Answer::Refused(refusal.unwrap_or_else(unknown)))
        }
        Shape { .. } => Ok(Answer::Object(it.body())),
    }
}

fn bytes_of(raw: &RawValue) -> Bytes {
    Bytes::copy_from_slice(raw.get().as_bytes())
}

fn unexplained(message: String) -> Refusal {
    Refusal { message, reason: Reason::Unknown, details: None, code: 500 }
}

#[derive(Serialize, Deserialize)]
struct MembershipContent {
    #[serde(default)]
    event_id: String,
    #[serde(default)]
    timestamp: i64,
    #[serde(default)]
    added_devices: Option<Vec<DeviceRef>>,
    #[serde(default)]
    removed_devices: Option<Vec<DeviceRef>>,
}

#[derive(Serialize, Deserialize)]
struct MembershipAllContent {
    #[serde(default)]
    event_id: String,
    #[serde(default)]
    timestamp: i64,
    #[serde(default, deserialize_with = "null_is_default")]
    devices: Vec<DeviceWithTwin>,
}

/// Go edges complain about a device without twins.
#[derive(Serialize, Deserialize)]
struct DeviceWithTwin {
    #[serde(flatten)]
    device: DeviceRef,
    #[serde(default)]
    twin: Empty,
}

#[derive(Default, Serialize, Deserialize)]
struct Empty {}

fn twin(it: &Message<'_>) -> Result<Down, DecodeError> {
    let id = it.id.clone();
    if let Some(to) = &it.parent {
        return Ok(Down::TwinConfirmed { id, to: to.clone() });
    }
    match &*it.resource {
        "membership" => {
            let MembershipContent { event_id, timestamp, added_devices, removed_devices } = it.parse()?;
            Ok(Down::Membership {
                id,
                event_id,
                timestamp_ms: timestamp,
                added: added_devices.unwrap_or_default(),
                removed: removed_devices.unwrap_or_default(),
            })
        }
        "membership/detail" => {
            let MembershipAllContent { event_id, timestamp, devices } = it.parse()?;
            let devices = devices.into_iter().map(|entry| entry.device).collect();
            Ok(Down::MembershipAll { id, event_id, timestamp_ms: timestamp, devices })
        }
        _ => Err(it.unknown()),
    }
}

#[derive(Serialize, Deserialize)]
struct CallContent {
    #[serde(default, deserialize_with = "null_is_default")]
    header: BTreeMap<String, Vec<String>>,
    #[serde(default, with = "base64_text")]
    body: Bytes,
    method: HttpMethod,
    /// Always empty.
    #[serde(default)]
    url: String,
}

fn router(it: &Message<'_>) -> Result<Down, DecodeError> {
    let (id, resource) = (it.id.clone(), it.resource.to_string());
    if let Some(to) = &it.parent {
        return Ok(Down::UploadAnswered { id, to: to.clone(), url: resource, body: it.document() });
    }
    let order = match (&*it.source, &*it.operation) {
        ("router_eventbus", "subscribe") => RouterOrder::Subscribe(resource),
        ("router_eventbus", "unsubscribe") => RouterOrder::Unsubscribe(resource),
        ("router_eventbus", "publish") => RouterOrder::Publish { topic: resource, payload: it.document() },
        ("router_servicebus", "start") => RouterOrder::Allow(resource),
        ("router_servicebus", "stop") => RouterOrder::Disallow(resource),
        ("router_servicebus", method) => {
            let CallContent { header, body, .. } = it.parse()?;
            let method = serde_json::from_slice(&print(method)).map_err(|_| it.unknown())?;
            RouterOrder::Call(ServiceCall { target: resource, method, header, body })
        }
        _ => return Err(it.unknown()),
    };
    Ok(Down::Router { id, order })
}

fn job(it: &Message<'_>) -> Result<Down, DecodeError> {
    let id = it.id.clone();
    if let Some(kind) = task_kind(&it.operation) {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Content<'a> {
            #[serde(rename = "TaskID", default)]
            task_id: String,
            #[serde(default)]
            state: String,
            #[serde(borrow)]
            item: &'a RawValue,
        }
        let (_, job, node) = it.task()?;
        let Content { task_id, state, item } = it.parse()?;
        let bad = |_| it.bad_content("its Item does not go with Type and State");
        let item = match kind {
            _ if state == CHECKING => TaskItem::Check(serde_json::from_str(item.get()).map_err(bad)?),
            TaskKind::Upgrade => TaskItem::Upgrade(serde_json::from_str(item.get()).map_err(bad)?),
            TaskKind::PrePull => TaskItem::PrePull(serde_json::from_str(item.get()).map_err(bad)?),
        };
        return Ok(Down::Task { id, job, node, task: Task { task_id, kind, state, item } });
    }
    let action: JobAction = serde_json::from_slice(&print(&it.operation)).map_err(|_| it.unknown())?;
    let (kind, job, node) = it.job()?;
    let order = match kind {
        JobKind::NodeUpgrade => JobOrder::NodeUpgrade(it.parse::<NodeUpgradeSpec>()?),
        JobKind::ImagePrePull => JobOrder::ImagePrePull(it.parse::<ImagePrePullSpec>()?),
        JobKind::ConfigUpdate => JobOrder::ConfigUpdate(it.parse::<ConfigUpdateSpec>()?),
    };
    Ok(Down::Job { id, job, node, action, order })
}

pub(super) fn task_kind(text: &str) -> Option<TaskKind> {
    match text {
        "upgrade" => Some(TaskKind::Upgrade),
        "prepull" => Some(TaskKind::PrePull),
        _ => None,
    }
}

pub(super) fn task_word(kind: TaskKind) -> &'static str {
    match kind {
        TaskKind::Upgrade => "upgrade",
        TaskKind::PrePull => "prepull",
    }
}

fn old_upgrade(it: &Message<'_>) -> Result<Down, DecodeError> {
    if it.operation != "upgrade" {
        return Err(it.unknown());
    }
    let (_, job, node) = it.task()?;
    Ok(Down::OldUpgrade { id: it.id.clone(), job, node, upgrade: it.parse()? })
}

/// `group` is `resource` unless said otherwise.
fn frame(message: &Down) -> Frame<'_> {
    match message {
        Down::Put(put) => push_frame(put),
        Down::Delete(Delete { id, key, version, origin, body, uid: _ }) => Frame {
            version: *version,
            source: origin_text(*origin),
            ..plain(id, "delete", key.to_string(), Content::Raw(body.clone()))
        },
        Down::Answer { id, to, about, version, answer } => Frame {
            parent: Some(to),
            version: *version,
            source: if *about == About::ApiServerCa { "cloudhub" } else { "edgecontroller" },
            ..plain(id, "response", about_text(about), answer_content(answer))
        },
        Down::Membership { id, event_id, timestamp_ms, added, removed } => {
            let list = |devices: &Vec<DeviceRef>| Some(devices.clone()).filter(|devices| !devices.is_empty());
            let content = Content::of(&MembershipContent {
                event_id: event_id.clone(),
                timestamp: *timestamp_ms,
                added_devices: list(added),
                removed_devices: list(removed),
            });
            twin_frame(id, None, "update", "membership", content)
        }
        Down::MembershipAll { id, event_id, timestamp_ms, devices } => {
            let devices = devices
                .iter()
                .map(|device| DeviceWithTwin { device: device.clone(), twin: Empty {} })
                .collect();
            let content = Content::of(&MembershipAllContent {
                event_id: event_id.clone(),
                timestamp: *timestamp_ms,
                devices,
            });
            twin_frame(id, None, "update", "membership/detail", content)
        }
        Down::TwinConfirmed { id, to } => twin_frame(id, Some(to), "response", "twin", Content::ok()),
        Down::Applied { id, to, application } => Frame {
            parent: Some(to),
            source: "dynamiccontroller",
            ..plain(id, "applicationResponse", "ignore/Application/ignore".into(), Content::of(application))
        },
        Down::WatchesSet { id, to, failed } => Frame {
            parent: Some(to),
            source: "dynamiccontroller",
            ..plain(id, "applicationResponse", "watchapp/sync".into(), Content::of(failed))
        },
        Down::Router { id, order } => router_frame(id, order),
        Down::UploadAnswered { id, to, url, body } => Frame {
            parent: Some(to),
            source: "servicebus",
            group: "user",
            ..plain(id, "response", url.clone(), Content::Text(body.clone()))
        },
        Down::Csi { id, volume, verb, request } => {
            let word = CSI_VERBS.iter().find(|(known, _)| known == verb).map_or("", |(_, text)| text);
            let content = Content::Text(request.clone());
            Frame { source: "cloudhub", ..plain(id, word, volume_text(volume), content) }
        }
        Down::Job { id, job, node, action, order } => {
            let content = match order {
                JobOrder::NodeUpgrade(spec) => Content::of(spec),
                JobOrder::ImagePrePull(spec) => Content::of(spec),
                JobOrder::ConfigUpdate(spec) => Content::of(spec),
            };
            Frame {
                source: "taskmanager",
                group: "taskmanager",
                ..plain(id, action_word(*action), job_text(order.kind(), job, node), content)
            }
        }
        Down::Task { id, job, node, task } => Frame {
            source: "taskmanager",
            group: "taskmanager",
            ..plain(id, task_word(task.kind), task_text(task_word(task.kind), job, node), task_content(task))
        },
        Down::OldUpgrade { id, job, node, upgrade } => Frame {
            source: OLD_JOBS,
            group: OLD_JOBS,
            ..plain(id, "upgrade", task_text("upgrade", job, node), Content::of(upgrade))
        },
    }
}

fn plain<'a>(id: &'a MessageId, operation: &'a str, resource: String, content: Content) -> Frame<'a> {
    Frame { id, parent: None, version: None, source: "", group: "resource", operation, resource, content }
}

fn push_frame(put: &Put) -> Frame<'_> {
    let operation = match put.change {
        Change::Inserted => "insert",
        Change::Updated => "update",
    };
    Frame {
        version: Some(put.version).filter(|version| *version != Version::NONE),
        source: origin_text(put.origin),
        ..plain(&put.id, operation, put.key.to_string(), Content::Raw(put.body.clone()))
    }
}

fn twin_frame<'a>(
    id: &'a MessageId,
    parent: Option<&'a MessageId>,
    operation: &'a str,
    resource: &str,
    content: Content,
) -> Frame<'a> {
    let group = "twin";
    Frame { parent, source: "devicecontroller", group, ..plain(id, operation, resource.into(), content) }
}

fn router_frame<'a>(id: &'a MessageId, order: &'a RouterOrder) -> Frame<'a> {
    let (mqtt, http) = ("router_eventbus", "router_servicebus");
    let (source, operation, resource, content) = match order {
        RouterOrder::Subscribe(topic) => (mqtt, "subscribe", topic, Content::Null),
        RouterOrder::Unsubscribe(topic) => (mqtt, "unsubscribe", topic, Content::Null),
        RouterOrder::Publish { topic, payload } => (mqtt, "publish", topic, Content::Text(payload.clone())),
        RouterOrder::Allow(url) => (http, "start", url, Content::Null),
        RouterOrder::Disallow(url) => (http, "stop", url, Content::Null),
        RouterOrder::Call(ServiceCall { target, method, header, body }) => {
            let (header, body) = (header.clone(), body.clone());
            let content = Content::of(&CallContent { header, body, method: *method, url: String::new() });
            (http, method_word(*method), target, content)
        }
    };
    Frame { source, group: "user", ..plain(id, operation, resource.clone(), content) }
}

fn method_word(method: HttpMethod) -> &'static str {
    match method {
        HttpMethod::Get => "GET",
        HttpMethod::Head => "HEAD",
        HttpMethod::Post => "POST",
        HttpMethod::Put => "PUT",
        HttpMethod::Patch => "PATCH",
        HttpMethod::Delete => "DELETE",
        HttpMethod::Options => "OPTIONS",
    }
}

fn action_word(action: JobAction) -> &'static str {
    match action {
        JobAction::Check => "Check",
        JobAction::WaitingConfirmation => "WaitingConfirmation",
        JobAction::BackUp => "BackUp",
        JobAction::Upgrade => "Upgrade",
        JobAction::RollBack => "RollBack",
        JobAction::Pull => "Pull",
        JobAction::Update => "Update",
    }
}

fn task_content(task: &Task) -> Content {
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Item<'a> {
        Check(&'a TaskCheck),
        Upgrade(&'a TaskUpgrade),
        PrePull(&'a TaskPrePull),
    }
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Printed<'a> {
        #[serde(rename = "TaskID")]
        task_id: &'a str,
        #[serde(rename = "Type")]
        kind: TaskKind,
        state: &'a str,
        item: Item<'a>,
    }
    let item = match &task.item {
        TaskItem::Check(check) => Item::Check(check),
        TaskItem::Upgrade(upgrade) => Item::Upgrade(upgrade),
        TaskItem::PrePull(pre_pull) => Item::PrePull(pre_pull),
    };
    Content::of(&Printed { task_id: &task.task_id, kind: task.kind, state: &task.state, item })
}

fn answer_content(answer: &Answer) -> Content {
    #[derive(Serialize)]
    struct GoError<'a>(#[serde(serialize_with = "refused")] &'a Refusal);
    fn refused<S: serde::Serializer>(refusal: &&Refusal, serializer: S) -> Result<S::Ok, S::Error> {
        go_error::serialize(&Some((*refusal).clone()), serializer)
    }
    let around =
        |before: &[u8], middle: &[u8], after: &[u8]| Content::Raw([before, middle, after].concat().into());
    match answer {
        Answer::Object(body) => Content::Raw(body.clone()),
        Answer::Stored(body) => around(b"{\"Object\":", body, b",\"Err\":null}"),
        Answer::NotStored(refusal) => around(b"{\"Object\":null,\"Err\":", &print(&GoError(refusal)), b"}"),
        Answer::Done => Content::ok(),
        Answer::Refused(refusal) => Content::of(&GoError(refusal)),
        Answer::Pem(text) => Content::Text(text.clone()),
    }
}
