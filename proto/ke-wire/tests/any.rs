//! Generated messages come back as they were, and no bytes at all make a decoder panic.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a whole file of tests"
)]

use bytes::Bytes;
use ke_wire::kubeedge::{FRAME_LIMIT, decode_down, decode_up, encode_down, encode_up};
use ke_wire::{
    About, AckRoute, Answer, Change, Delete, DeviceId, DeviceRef, Down, EventChange, HttpAnswer, HttpMethod,
    MessageId, Namespace, ObjectKey, ObjectName, Origin, Put, Question, Reason, Refusal, RouterOrder, Scope,
    ServiceCall, TwinProperty, TwinReport, TwinValue, Up, Version,
};
use proptest::prelude::*;

fn id() -> impl Strategy<Value = MessageId> {
    "[a-zA-Z0-9-]{1,40}".prop_map(|text| text.parse().unwrap())
}

fn namespace() -> impl Strategy<Value = Namespace> {
    "n[a-z0-9-]{0,8}z".prop_map(|text| text.parse().unwrap())
}

fn name() -> impl Strategy<Value = ObjectName> {
    "[a-zA-Z0-9:_.é-]{0,20}x".prop_map(|text| text.parse().unwrap())
}

fn key() -> impl Strategy<Value = ObjectKey> {
    let kind =
        prop::sample::select(vec!["pod", "configmap", "secret", "node", "lease", "device", "gateways"]);
    (prop::option::of(namespace()), kind, name()).prop_map(|(namespace, kind, name)| ObjectKey {
        kind: kind.parse().unwrap(),
        scope: namespace.map_or(Scope::Cluster, Scope::Namespace),
        name,
    })
}

fn object() -> impl Strategy<Value = Bytes> {
    any::<String>().prop_map(|text| format!(r#"{{"metadata":{{}},"data":{}}}"#, quoted(&text)).into())
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn origin() -> impl Strategy<Value = Origin> {
    use Origin::{DeviceController, DynamicController, EdgeController, PolicyController};
    prop::sample::select(vec![EdgeController, DeviceController, DynamicController, PolicyController])
}

fn about() -> impl Strategy<Value = About> {
    prop_oneof![
        key().prop_map(About::Object),
        (namespace(), name()).prop_map(|(namespace, name)| About::PodStatus(namespace, name)),
        (namespace(), name()).prop_map(|(namespace, name)| About::Token(namespace, name)),
        Just(About::NodeStatus("edge-1".parse().unwrap())),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let reason = prop::sample::select(vec![Reason::Unknown, Reason::NotFound, Reason::Other("Gone".into())]);
    (any::<String>(), reason, 400_u16..600).prop_map(|(message, reason, code)| Refusal {
        message,
        reason,
        details: None,
        code,
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        object().prop_map(Answer::Object),
        object().prop_map(Answer::Stored),
        refusal().prop_map(Answer::NotStored),
        refusal().prop_map(Answer::Refused),
        Just(Answer::Done),
    ]
}

fn down() -> impl Strategy<Value = Down> {
    let put = (id(), key(), any::<u64>(), any::<bool>(), origin(), object()).prop_map(
        |(id, key, version, new, origin, body)| {
            let change = if new { Change::Inserted } else { Change::Updated };
            Down::Put(Put { id, key, version: Version::new(version), change, origin, body })
        },
    );
    let delete = (id(), key(), id(), prop::option::of(any::<u64>()), origin()).prop_map(
        |(id, key, uid, version, origin)| {
            let body = format!(r#"{{"metadata":{{"uid":{}}}}}"#, quoted(uid.as_str())).into();
            let uid = Some(uid.as_str().parse().unwrap());
            Down::Delete(Delete { id, key, uid, version: version.map(Version::new), origin, body })
        },
    );
    let answered = (id(), id(), about(), prop::option::of(any::<u64>()), answer()).prop_map(
        |(id, to, about, version, answer)| {
            let version = version.map(Version::new);
            Down::Answer { id, to, about, version, answer }
        },
    );
    let pem = (id(), id(), any::<String>()).prop_map(|(id, to, text)| {
        let (about, answer) = (About::ApiServerCa, Answer::Pem(text));
        Down::Answer { id, to, about, version: None, answer }
    });
    let publish = (id(), any::<String>(), any::<String>())
        .prop_map(|(id, topic, payload)| Down::Router { id, order: RouterOrder::Publish { topic, payload } });
    let call = (id(), any::<String>(), any::<Vec<u8>>()).prop_map(|(id, target, body)| {
        let call = ServiceCall {
            target,
            method: HttpMethod::Put,
            header: [("A".to_owned(), vec!["b".to_owned()])].into(),
            body: body.into(),
        };
        Down::Router { id, order: RouterOrder::Call(call) }
    });
    let membership = (id(), any::<String>(), any::<i64>(), device(), any::<String>()).prop_map(
        |(id, event_id, timestamp_ms, device, text)| {
            let device = DeviceRef { id: device, name: text.clone(), description: text };
            Down::Membership { id, event_id, timestamp_ms, added: vec![device], removed: Vec::new() }
        },
    );
    prop_oneof![put, delete, answered, pem, publish, call, membership]
}

fn device() -> impl Strategy<Value = DeviceId> {
    (namespace(), name()).prop_map(|(namespace, name)| DeviceId { namespace, name })
}

fn up() -> impl Strategy<Value = Up> {
    let ack = (id(), id(), about(), origin()).prop_map(|(id, to, about, origin)| Up::Ack {
        id,
        to,
        about,
        route: AckRoute::AsReceived(origin),
    });
    let not_kept = (id(), id(), about(), any::<String>()).prop_map(|(id, to, about, why)| Up::NotKept {
        id,
        to,
        about,
        why,
    });
    let question = prop_oneof![
        key().prop_map(Question::Get),
        (key(), object()).prop_map(|(key, body)| Question::Create { key, body }),
        (namespace(), name(), any::<String>())
            .prop_map(|(namespace, name, patch)| Question::PatchPodStatus { namespace, name, patch }),
        (namespace(), name(), object()).prop_map(|(namespace, name, options)| Question::DeletePod {
            namespace,
            name,
            options
        }),
        (namespace(), name(), object()).prop_map(|(namespace, account, request)| Question::Token {
            namespace,
            account,
            request
        }),
    ];
    let ask = (id(), question).prop_map(|(id, question)| Up::Ask { id, question });
    let event = (id(), namespace(), name(), object(), any::<String>()).prop_map(
        |(id, namespace, name, event, patch)| Up::Event {
            id,
            key: ObjectKey::namespaced(ke_wire::Kind::Event, namespace, name),
            change: EventChange::Patched { event, patch },
        },
    );
    let report =
        (id(), device(), any::<String>(), any::<i64>()).prop_map(|(id, device, value, timestamp)| {
            let actual = Some(TwinValue { value: Some(value.clone()), metadata: None });
            let twin = [(value, Some(TwinProperty { actual, ..TwinProperty::default() }))].into();
            let report = TwinReport { event_id: String::new(), timestamp, twin };
            Up::TwinReport { id, device, report }
        });
    let upload = (id(), any::<String>(), any::<Vec<u8>>()).prop_map(|(id, url, body)| Up::ServiceUpload {
        id,
        url,
        body: body.into(),
    });
    let replied = (id(), id(), any::<u16>(), any::<Vec<u8>>()).prop_map(|(id, to, status_code, body)| {
        let answer = HttpAnswer { header: [].into(), status_code, body: body.into() };
        Up::ServiceReplied { id, to, answer }
    });
    prop_oneof![ack, not_kept, ask, event, report, upload, replied]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn down_comes_back(message in down(), timestamp: i64) {
        let frame = encode_down(&message, timestamp);
        prop_assert_eq!(decode_down(&frame, FRAME_LIMIT), Ok(message));
    }

    #[test]
    fn up_comes_back(message in up(), timestamp: i64) {
        let frame = encode_up(&message, timestamp);
        prop_assert_eq!(decode_up(&frame, FRAME_LIMIT), Ok(message));
    }

    #[test]
    fn any_bytes_are_read_or_refused(frame: Vec<u8>, limit in 0_usize..200) {
        let _ = decode_down(&frame, limit);
        let _ = decode_up(&frame, limit);
    }

    #[test]
    fn any_route_is_read_or_refused(
        source in "(edged|twin|metaserver|bus|[a-z]{1,3})",
        group in "(resource|user|twin|taskmanager|meta)",
        operation in "(insert|update|delete|query|patch|response|upload|error|upgrade|Check|POST)",
        resource in "([a-z]{0,3}|device|default|null|/){0,8}",
        content in "(null|\"OK\"|\\{\\}|\\[\\]|1|\\{\"Object\":null\\}|\\{\"metadata\":null\\})",
        parent: bool,
    ) {
        let parent = if parent { r#","parent_msg_id":"p""# } else { "" };
        let frame = format!(
            r#"{{"header":{{"msg_id":"a"{parent}}},"route":{{"source":"{source}","group":"{group}","operation":"{operation}","resource":"{resource}"}},"content":{content}}}"#
        );
        let errors = [decode_down(frame.as_bytes(), FRAME_LIMIT).err(), decode_up(frame.as_bytes(), FRAME_LIMIT).err()];
        for error in errors.into_iter().flatten() {
            prop_assert!(!error.is_fatal(), "{} {:?}", frame, error);
        }
    }
}
