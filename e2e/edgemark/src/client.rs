//! Pure: what a simulated node says to the cloud besides heartbeats and acknowledgements.
//!
//! It knows Node and Lease as Kubernetes' JSON and nothing of sockets. Driven by `node.rs`.

use std::time::{Duration, Instant};

use anyhow::Result;
use ke_wire::{Answer, Kind, NodeName, ObjectKey, Question, Reason};
use serde_json::{Value, json};

/// Pause before a refused step is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// How far the node is with what it wants to be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Register,
    CreateLease,
    ReadLease,
    /// Held, with this resourceVersion.
    RenewLease(String),
    Rest,
}

#[derive(Clone, Debug)]
pub(crate) struct Client {
    node: NodeName,
    lease_secs: u64,
    step: Step,
    /// When the next step is due; `None` while an answer is awaited or nothing is left to do.
    due: Option<Instant>,
}

/// What an answer changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Registered,
    Leased,
    Renewed,
    Refused,
}

impl Client {
    /// A node that has just connected for the first time.
    pub(crate) fn new(node: NodeName, register: bool, lease_secs: u64, now: Instant) -> Self {
        let step = match (register, lease_secs) {
            (true, _) => Step::Register,
            (false, 0) => Step::Rest,
            (false, _) => Step::CreateLease,
        };
        let due = (step != Step::Rest).then_some(now);
        Self { node, lease_secs, step, due }
    }

    /// A new connection: what was asked on the old one is asked again.
    pub(crate) fn reconnected(&mut self, now: Instant) {
        self.due = (self.step != Step::Rest).then_some(now);
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The question that is due. `renewed_at`: now, as Kubernetes writes it.
    pub(crate) fn question(&mut self, now: Instant, renewed_at: &str) -> Result<Option<Question>> {
        if self.due.is_none_or(|due| now < due) {
            return Ok(None);
        }
        self.due = None;
        let name = self.node.as_str().parse()?;
        let lease =
            ObjectKey::namespaced(Kind::Lease, "kube-node-lease".parse()?, self.node.as_str().parse()?);
        let body = |value: Value| value.to_string().into();
        Ok(match &self.step {
            Step::Register => Some(Question::Create {
                key: ObjectKey::cluster(Kind::Node, name),
                body: body(self.node_object(renewed_at)),
            }),
            Step::CreateLease => {
                Some(Question::Create { key: lease, body: body(self.lease(None, renewed_at)) })
            }
            Step::ReadLease => Some(Question::Get(lease)),
            Step::RenewLease(version) => {
                Some(Question::Update { key: lease, body: body(self.lease(Some(version), renewed_at)) })
            }
            Step::Rest => None,
        })
    }

    /// The cloud answered. Moves on, or plans the same step again.
    pub(crate) fn answered(&mut self, now: Instant, answer: &Answer) -> News {
        let exists = matches!(answer, Answer::NotStored(refusal) | Answer::Refused(refusal)
            if refusal.reason == Reason::AlreadyExists);
        let version = match answer {
            Answer::Stored(body) | Answer::Object(body) => serde_json::from_slice::<Value>(body)
                .ok()
                .and_then(|object| Some(object.pointer("/metadata/resourceVersion")?.as_str()?.to_owned())),
            _ => None,
        };
        let (step, due, news) = match (&self.step, version) {
            (Step::Register, Some(_)) => (self.after_register(), now, News::Registered),
            (Step::Register, None) if exists => (self.after_register(), now, News::Registered),
            (Step::CreateLease | Step::ReadLease, Some(version)) => {
                (Step::RenewLease(version), now + self.renewal(), News::Leased)
            }
            (Step::CreateLease, None) if exists => (Step::ReadLease, now, News::Renewed),
            (Step::RenewLease(_), Some(version)) => {
                (Step::RenewLease(version), now + self.renewal(), News::Renewed)
            }
            // Somebody else wrote it, or it is gone.
            (Step::RenewLease(_), None) => (Step::ReadLease, now + AGAIN, News::Refused),
            (Step::ReadLease, None) => (Step::CreateLease, now + AGAIN, News::Refused),
            (step, _) => (step.clone(), now + AGAIN, News::Refused),
        };
        self.due = (step != Step::Rest).then_some(due);
        self.step = step;
        news
    }

    /// No answer came.
    pub(crate) fn unanswered(&mut self, now: Instant) {
        self.due = Some(now + AGAIN);
    }

    fn after_register(&self) -> Step {
        if self.lease_secs == 0 { Step::Rest } else { Step::CreateLease }
    }

    fn renewal(&self) -> Duration {
        Duration::from_secs(self.lease_secs) / 4
    }

    fn node_object(&self, now: &str) -> Value {
        let name = self.node.as_str();
        // Whole seconds here, microseconds in a lease.
        let seconds = format!("{}Z", now.split('.').next().unwrap_or(now));
        let condition = |kind: &str, status: &str, reason: &str| {
            json!({"type": kind, "status": status, "reason": reason, "message": "simulated",
                   "lastHeartbeatTime": seconds, "lastTransitionTime": seconds})
        };
        json!({
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                "node-role.kubernetes.io/agent": "",
                "node-role.kubernetes.io/edge": "",
            }},
            "spec": {},
            "status": {
                "capacity": {"cpu": "1", "memory": "1Gi", "pods": "110"},
                "allocatable": {"cpu": "1", "memory": "1Gi", "pods": "110"},
                "conditions": [condition("Ready", "True", "EdgeReady")],
                "addresses": [{"type": "Hostname", "address": name}],
            },
        })
    }

    fn lease(&self, version: Option<&str>, now: &str) -> Value {
        let name = self.node.as_str();
        let mut metadata = json!({"name": name, "namespace": "kube-node-lease"});
        if let (Some(version), Some(fields)) = (version, metadata.as_object_mut()) {
            fields.insert("resourceVersion".into(), version.into());
        }
        let spec = json!({"holderIdentity": name, "leaseDurationSeconds": self.lease_secs, "renewTime": now});
        json!({"metadata": metadata, "spec": spec})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ke_wire::Refusal;

    fn refused(reason: Reason) -> Answer {
        Answer::NotStored(Refusal { message: String::new(), reason, details: None, code: 409 })
    }

    #[test]
    fn a_node_registers_then_renews_its_lease() {
        let mut now = Instant::now();
        let mut client = Client::new("mark-00000".parse().unwrap(), true, 40, now);
        let stored = |version: &str| {
            Answer::Stored(json!({"metadata": {"resourceVersion": version}}).to_string().into())
        };
        let mut check = |wait: u64, expected: &str, answer: Answer, news: News| {
            now += Duration::from_secs(wait);
            let question = client.question(now, "2026-01-01T00:00:00.000000Z").unwrap();
            let text = format!("{question:?}");
            assert!(text.contains(expected), "{expected}: {text}");
            assert_eq!(client.question(now, "").unwrap(), None, "one question at a time");
            assert_eq!(client.answered(now, &answer), news);
        };
        check(0, "Create { key: ObjectKey { kind: Node", stored("1"), News::Registered);
        check(0, "Create { key: ObjectKey { kind: Lease", refused(Reason::AlreadyExists), News::Renewed);
        check(0, "Get(ObjectKey { kind: Lease", stored("7"), News::Leased);
        check(10, "resourceVersion\\\":\\\"7", stored("8"), News::Renewed);
        check(10, "resourceVersion\\\":\\\"8", refused(Reason::Conflict), News::Refused);
        check(5, "Get(ObjectKey { kind: Lease", stored("9"), News::Leased);
    }
}
