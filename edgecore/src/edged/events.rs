//! Kubernetes events about pods and this Node, in the kubelet's words: repeats are counted, floods are cut.
//!
//! [`Recorder`] is pure and gives the report to send; `worker/telling.rs` sends it, and `eviction` what it says of the
//! Node. No other part makes events.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use ke_wire::{Kind, Namespace, ObjectKey, ObjectName};

use crate::report_queue::Report;

/// How bad it is, as `type` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// Which Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl Subject {
    /// A Node is in no namespace.
    fn is_node(&self) -> bool {
        self.namespace.is_empty()
    }

    fn namespace_of_events(&self) -> &str {
        if self.is_node() { "default" } else { &self.namespace }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Occurrence {
    pub(crate) severity: Severity,
    pub(crate) reason: String,
    pub(crate) message: String,
    /// `spec.containers{name}`, or nothing when it concerns the whole Pod.
    pub(crate) field: Option<String>,
}

/// Events of one Pod may come in such a burst, then one in each interval: the kubelet's own bound.
const BURST: u32 = 25;
const INTERVAL: SignedDuration = SignedDuration::from_secs(300);
/// A repeat within this time is counted in the same event.
const SAME_FOR: SignedDuration = SignedDuration::from_secs(600);
/// Most different events remembered for one Pod.
const MAX_KNOWN: usize = 64;

/// Makes the events of one Pod.
#[derive(Debug)]
pub(crate) struct Recorder {
    node: String,
    subject: Subject,
    known: BTreeMap<(String, String, String), Known>,
    tokens: u32,
    refilled_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Known {
    name: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

impl Recorder {
    pub(super) fn new(node: &str, subject: Subject) -> Self {
        Self { node: node.into(), subject, known: BTreeMap::new(), tokens: BURST, refilled_at: None }
    }

    /// For what happens to this Node as a whole. Its events lie in the namespace `default`, as a kubelet's do.
    pub(crate) fn of_node(node: &str) -> Self {
        let subject = Subject { namespace: String::new(), name: node.into(), uid: node.into() };
        Self::new(node, subject)
    }

    /// The report of one occurrence; `None` when there were too many.
    pub(crate) fn report(&mut self, occurrence: &Occurrence, now: Timestamp) -> Option<Report> {
        if !self.take_token(now) {
            return None;
        }
        let key = (
            occurrence.reason.clone(),
            occurrence.field.clone().unwrap_or_default(),
            occurrence.message.clone(),
        );
        self.known.retain(|_, known| now.duration_since(known.last) < SAME_FOR);
        if self.known.len() >= MAX_KNOWN
            && let Some(oldest) =
                self.known.iter().min_by_key(|(_, known)| known.last).map(|(key, _)| key.clone())
        {
            self.known.remove(&oldest);
        }
        let nanos = now.as_nanosecond();
        let name = || format!("{}.{nanos:x}", self.subject.name);
        let known =
            self.known.entry(key).or_insert_with(|| Known { name: name(), count: 0, first: now, last: now });
        known.count = known.count.saturating_add(1);
        known.last = now;
        let event = event(&self.node, &self.subject, occurrence, known);
        let namespace: Namespace = self.subject.namespace_of_events().parse().ok()?;
        let name: ObjectName = known.name.parse().ok()?;
        let body = serde_json::to_vec(&event).ok()?;
        Some(Report::Event { key: ObjectKey::namespaced(Kind::Event, namespace, name), body: body.into() })
    }

    fn take_token(&mut self, now: Timestamp) -> bool {
        let since = *self.refilled_at.get_or_insert(now);
        let n_new = now.duration_since(since).as_secs() / INTERVAL.as_secs();
        if n_new > 0 {
            self.tokens = self.tokens.saturating_add(u32::try_from(n_new).unwrap_or(BURST)).min(BURST);
            self.refilled_at = Some(now);
        } else if n_new < 0 {
            // The clock was set back: count from here.
            self.refilled_at = Some(now);
        }
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

fn event(node: &str, subject: &Subject, occurrence: &Occurrence, known: &Known) -> Event {
    let whole = |time: Timestamp| Time(Timestamp::from_second(time.as_second()).unwrap_or(time));
    Event {
        metadata: ObjectMeta {
            name: Some(known.name.clone()),
            namespace: Some(subject.namespace_of_events().to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some(if subject.is_node() { "Node" } else { "Pod" }.into()),
            namespace: Some(subject.namespace.clone()).filter(|namespace| !namespace.is_empty()),
            name: Some(subject.name.clone()),
            uid: Some(subject.uid.clone()),
            field_path: occurrence.field.clone(),
            resource_version: None,
        },
        type_: Some(
            match occurrence.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            }
            .into(),
        ),
        reason: Some(occurrence.reason.clone()),
        // The API server takes at most 1024 bytes.
        message: Some(occurrence.message.chars().take(1000).collect()),
        count: Some(known.count),
        first_timestamp: Some(whole(known.first)),
        last_timestamp: Some(whole(known.last)),
        source: Some(EventSource { component: Some("edged".into()), host: Some(node.into()) }),
        reporting_component: Some("edged".into()),
        reporting_instance: Some(node.into()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(secs).unwrap()
    }

    fn recorder() -> Recorder {
        let subject = Subject { namespace: "default".into(), name: "web".into(), uid: "u".into() };
        Recorder::new("edge-1", subject)
    }

    fn occurrence(message: &str) -> Occurrence {
        Occurrence {
            severity: Severity::Warning,
            reason: "BackOff".into(),
            message: message.into(),
            field: Some("spec.containers{app}".into()),
        }
    }

    fn body(report: Option<Report>) -> Event {
        let Some(Report::Event { body, .. }) = report else { panic!("an event") };
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn repeats_are_counted_in_one_event() {
        let mut recorder = recorder();
        let first = body(recorder.report(&occurrence("a"), at(100)));
        let second = body(recorder.report(&occurrence("a"), at(160)));
        let other = body(recorder.report(&occurrence("b"), at(161)));
        assert_eq!(first.metadata.name, second.metadata.name);
        assert_ne!(first.metadata.name, other.metadata.name);
        assert_eq!((first.count, second.count, other.count), (Some(1), Some(2), Some(1)));
        assert_eq!(second.first_timestamp, Some(Time(at(100))));
        assert_eq!(second.last_timestamp, Some(Time(at(160))));
        assert_eq!(second.source.unwrap().host.as_deref(), Some("edge-1"));
        assert_eq!(second.involved_object.uid.as_deref(), Some("u"));
    }

    #[test]
    fn of_the_node() {
        let event = body(Recorder::of_node("edge-1").report(&occurrence("a"), at(100)));
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        let about = event.involved_object;
        assert_eq!((about.kind.as_deref(), about.name.as_deref()), (Some("Node"), Some("edge-1")));
        assert_eq!((about.namespace, about.uid.as_deref()), (None, Some("edge-1")));
    }

    #[test]
    fn floods_are_cut() {
        let mut recorder = recorder();
        let n_sent = (0..100).filter(|_| recorder.report(&occurrence("a"), at(100)).is_some()).count();
        assert_eq!(n_sent, 25);
        assert!(recorder.report(&occurrence("a"), at(399)).is_none());
        assert!(recorder.report(&occurrence("a"), at(400)).is_some());
        assert!(recorder.report(&occurrence("a"), at(401)).is_none());
    }
}
