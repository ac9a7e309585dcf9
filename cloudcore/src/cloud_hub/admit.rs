//! Pure: may this certificate connect as this node, and may this node say this.
//!
//! A node touches itself, its lease, the Pods bound to it and what those name. What is refused is answered, never dropped.

use ke_api::node::LEASE_NAMESPACE;
use ke_wire::{
    Answer, EventChange, Kind, Namespace, NodeName, ObjectKey, ObjectName, Question, Reason, Refusal, Scope,
    Up,
};
use serde::Deserialize;

use crate::gate::ClientCertificate;

/// Which objects have to do with which node.
pub trait NodeGraph: Send + Sync {
    /// Whether a Pod on the node names this ConfigMap, Secret or claim.
    fn may_read(&self, node: &NodeName, key: &ObjectKey) -> bool;
    /// Whether this Pod is bound to the node.
    fn is_on(&self, node: &NodeName, namespace: &Namespace, pod: &ObjectName) -> bool;
    /// Whether this Pod is bound to any edge node.
    fn is_bound(&self, namespace: &Namespace, pod: &ObjectName) -> bool;
    /// Whether a Pod on the node runs as this service account.
    fn uses_account(&self, node: &NodeName, namespace: &Namespace, account: &ObjectName) -> bool;
    /// Whether the node has a Pod of this namespace.
    fn has_pods_of(&self, node: &NodeName, namespace: &Namespace) -> bool;
}

/// Whether the certificate is this node's. The error is one sentence for the log and the other side.
pub fn may_connect(certificate: &ClientCertificate, node: &NodeName) -> Result<(), String> {
    let wanted = format!("system:node:{node}");
    if certificate.organization == "system:nodes" && certificate.common_name == wanted {
        Ok(())
    } else {
        let ClientCertificate { organization, common_name, .. } = certificate;
        Err(format!("the certificate is for {organization}/{common_name}, not for system:nodes/{wanted}"))
    }
}

/// What to do with something a node said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hand it on.
    Admit,
    /// Answer this instead.
    Answer(Answer),
    /// Nothing answers it, and it is not for this node to say.
    Drop(&'static str),
}

/// Judges a question of this node.
pub fn question(question: &Question, node: &NodeName, graph: &dyn NodeGraph) -> Verdict {
    let is_self = |name: &ObjectName| name.as_str() == node.as_str();
    let (is_allowed, what) = match question {
        Question::Get(key) => (may_get(key, node, graph), key.to_string()),
        Question::ApiServerCa => (true, String::new()),
        Question::Token { namespace, account, .. } => {
            (graph.uses_account(node, namespace, account), format!("service account {namespace}/{account}"))
        }
        Question::Create { key, body } => {
            let is_allowed = match &key.kind {
                Kind::Node => is_self(&key.name),
                Kind::Lease => is_own_lease(key, node),
                Kind::Pod => is_for_node(body, node),
                Kind::CertificateSigningRequest => is_own_csr(&key.name, node),
                _ => false,
            };
            (is_allowed, key.to_string())
        }
        Question::Update { key, .. } => {
            let is_allowed = match &key.kind {
                Kind::Node => is_self(&key.name),
                Kind::Lease => is_own_lease(key, node),
                _ => false,
            };
            (is_allowed, key.to_string())
        }
        Question::PatchNodeStatus { node: named, .. } => {
            (named == node, format!("the status of node {named}"))
        }
        // The Pod is gone: its node may stop telling of it, where "forbidden" would be tried again.
        Question::PatchPodStatus { namespace, name, .. } if !graph.is_bound(namespace, name) => {
            return Verdict::Answer(refuse(question, gone(namespace, name)));
        }
        Question::PatchPodStatus { namespace, name, .. } => {
            (graph.is_on(node, namespace, name), format!("the status of pod {namespace}/{name}"))
        }
        // A Pod that is gone or moved: there is nothing left to delete, which is what the node wants to hear.
        Question::DeletePod { namespace, name, .. } if !graph.is_on(node, namespace, name) => {
            return Verdict::Answer(Answer::Done);
        }
        Question::DeletePod { .. } => (true, String::new()),
    };
    if is_allowed { Verdict::Admit } else { Verdict::Answer(forbidden(question, node, &what)) }
}

fn may_get(key: &ObjectKey, node: &NodeName, graph: &dyn NodeGraph) -> bool {
    match &key.kind {
        Kind::Node => key.name.as_str() == node.as_str(),
        Kind::Lease => is_own_lease(key, node),
        Kind::Pod => key.scope.namespace().is_some_and(|namespace| graph.is_on(node, namespace, &key.name)),
        Kind::CertificateSigningRequest => is_own_csr(&key.name, node),
        Kind::ConfigMap | Kind::Secret | Kind::PersistentVolumeClaim => graph.may_read(node, key),
        Kind::ServiceList => key.scope.namespace().is_some_and(|space| graph.has_pods_of(node, space)),
        // Which node they belong to stands in themselves: EdgeController looks before it hands them out.
        Kind::PersistentVolume | Kind::VolumeAttachment => true,
        // Kubernetes shows them all to each of its nodes. They hold names only, and a static pod may name one too.
        Kind::RuntimeClass => key.scope == Scope::Cluster,
        Kind::Event | Kind::ServiceAccountAccess | Kind::Device | Kind::DeviceModel | Kind::Watched(_) => {
            false
        }
    }
}

/// Judges everything else that a node says.
pub fn message(message: &Up, node: &NodeName, graph: &dyn NodeGraph) -> Verdict {
    match message {
        Up::Ask { question: asked, .. } => question(asked, node, graph),
        Up::Event { key, change, .. } => {
            let (event, patch) = match change {
                EventChange::Created(event) | EventChange::Updated(event) => (event, None),
                EventChange::Patched { event, patch } => (event, Some(patch)),
            };
            // Another event of that name is not this node's to overwrite, and none is turned into one about another object.
            let keeps_subject = patch.is_none_or(|patch| !touches_subject(patch.as_bytes()));
            if keeps_subject && is_own_event(key, event, node, graph) {
                Verdict::Admit
            } else {
                Verdict::Drop("an event about another node's object")
            }
        }
        Up::OldPodStatus { .. }
        | Up::OldPodStatuses { .. }
        | Up::OldNode { .. }
        | Up::OldNodeStatus { .. } => {
            Verdict::Drop("a legacy status message, which no edge since v1.10 sends")
        }
        // Said by the link itself, or for modules that judge by what they hold about the node.
        Up::Keepalive { .. }
        | Up::Ack { .. }
        | Up::NotKept { .. }
        | Up::MembershipDetail { .. }
        | Up::TwinReport { .. }
        | Up::StateReport { .. }
        | Up::Discovered { .. }
        | Up::Apply { .. }
        | Up::SetWatches { .. }
        | Up::MqttUpload { .. }
        | Up::ServiceUpload { .. }
        | Up::ServiceReplied { .. }
        | Up::ServiceFailed { .. }
        | Up::CsiAnswered { .. }
        | Up::JobReport { .. }
        | Up::TaskReport { .. } => Verdict::Admit,
    }
}

fn is_own_lease(key: &ObjectKey, node: &NodeName) -> bool {
    matches!(&key.scope, Scope::Namespace(namespace) if namespace.as_str() == LEASE_NAMESPACE)
        && key.name.as_str() == node.as_str()
}

fn is_own_csr(name: &ObjectName, node: &NodeName) -> bool {
    name.as_str().strip_prefix("metaserver-csr-") == Some(node.as_str())
}

fn is_for_node(pod: &[u8], node: &NodeName) -> bool {
    #[derive(Deserialize)]
    struct Bound {
        spec: Spec,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Spec {
        node_name: String,
    }
    serde_json::from_slice::<Bound>(pod).is_ok_and(|pod| pod.spec.node_name == node.as_str())
}

/// An event may tell of the node itself and of Pods that are on it.
fn is_own_event(key: &ObjectKey, event: &[u8], node: &NodeName, graph: &dyn NodeGraph) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct About {
        metadata: Object,
        involved_object: Object,
    }
    #[derive(Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Object {
        kind: String,
        namespace: String,
        name: String,
    }
    let Ok(About { metadata, involved_object: object }) = serde_json::from_slice(event) else { return false };
    let namespace = key.scope.namespace().map_or("", |namespace| namespace.as_str());
    if metadata.name != key.name.as_str() || metadata.namespace != namespace {
        return false;
    }
    match (object.kind.as_str(), object.namespace.parse(), object.name.parse()) {
        ("Node", _, _) => object.name == node.as_str(),
        ("Pod", Ok(of), Ok(name)) => object.namespace == namespace && graph.is_on(node, &of, &name),
        _ => false,
    }
}

/// Whether the patch says what the event is about, or is none.
fn touches_subject(patch: &[u8]) -> bool {
    match serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(patch) {
        Ok(patch) => patch.contains_key("involvedObject"),
        Err(_) => true,
    }
}

fn gone(namespace: &Namespace, name: &ObjectName) -> Refusal {
    Refusal {
        message: format!("pods \"{namespace}/{name}\" not found on any edge node"),
        reason: Reason::NotFound,
        details: None,
        code: 404,
    }
}

fn forbidden(question: &Question, node: &NodeName, what: &str) -> Answer {
    let refusal = Refusal {
        message: format!("node {node} has nothing to do with {what}: no pod bound to it needs it"),
        reason: Reason::Forbidden,
        details: None,
        code: 403,
    };
    refuse(question, refusal)
}

/// The form in which a question is refused: the edge waits for an object in one, for an outcome in the other.
pub(super) fn refuse(question: &Question, refusal: Refusal) -> Answer {
    match question {
        Question::Get(ObjectKey { kind: Kind::Lease, .. })
        | Question::Update { key: ObjectKey { kind: Kind::Lease, .. }, .. }
        | Question::Create { .. }
        | Question::PatchNodeStatus { .. }
        | Question::PatchPodStatus { .. } => Answer::NotStored(refusal),
        Question::Get(_)
        | Question::Update { .. }
        | Question::Token { .. }
        | Question::ApiServerCa
        | Question::DeletePod { .. } => Answer::Refused(refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Fingerprint;

    /// Pod `default/mine` is on edge-a, reads `default/secret/mine` and runs as account `mine`.
    struct OnePod;

    impl NodeGraph for OnePod {
        fn may_read(&self, node: &NodeName, key: &ObjectKey) -> bool {
            node.as_str() == "edge-a" && key.to_string() == "default/secret/mine"
        }
        fn is_on(&self, node: &NodeName, namespace: &Namespace, pod: &ObjectName) -> bool {
            node.as_str() == "edge-a" && namespace.as_str() == "default" && pod.as_str() == "mine"
        }
        fn is_bound(&self, _: &Namespace, pod: &ObjectName) -> bool {
            pod.as_str() != "gone"
        }
        fn uses_account(&self, node: &NodeName, namespace: &Namespace, account: &ObjectName) -> bool {
            self.is_on(node, namespace, account)
        }
        fn has_pods_of(&self, node: &NodeName, namespace: &Namespace) -> bool {
            node.as_str() == "edge-a" && namespace.as_str() == "default"
        }
    }

    #[test]
    fn certificates() {
        let check = |organization: &str, common_name: &str, expected: bool| {
            let certificate = ClientCertificate {
                common_name: common_name.into(),
                organization: organization.into(),
                fingerprint: Fingerprint(String::new()),
            };
            assert_eq!(
                may_connect(&certificate, &"edge-a".parse().unwrap()).is_ok(),
                expected,
                "{common_name}"
            );
        };
        check("system:nodes", "system:node:edge-a", true);
        check("system:nodes", "system:node:edge-b", false);
        check("system:masters", "system:node:edge-a", false);
        check("", "", false);
    }

    #[test]
    fn a_node_touches_only_its_own() {
        let key = |text: &str| text.parse::<ObjectKey>().unwrap();
        let admitted =
            |asked: &Question, node: &str| question(asked, &node.parse().unwrap(), &OnePod) == Verdict::Admit;
        let check = |asked: Question, for_a: bool, for_b: bool| {
            assert_eq!((admitted(&asked, "edge-a"), admitted(&asked, "edge-b")), (for_a, for_b), "{asked:?}");
        };
        check(Question::Get(key("default/secret/mine")), true, false);
        check(Question::Get(key("default/secret/other")), false, false);
        check(Question::Get(key("null/node/edge-a")), true, false);
        check(Question::Get(key("kube-node-lease/lease/edge-a")), true, false);
        check(Question::Get(key("default/lease/edge-a")), false, false);
        check(Question::Get(key("default/servicelist/all")), true, false);
        check(Question::Get(key("shop/servicelist/all")), false, false);
        check(Question::Get(key("null/runtimeclass/gvisor")), true, true);
        check(Question::Get(key("default/runtimeclass/gvisor")), false, false);
        check(Question::Get(key("default/pod/mine")), true, false);
        check(Question::Get(key("default/device/x")), false, false);
        check(Question::Create { key: key("null/node/edge-a"), body: "{}".into() }, true, false);
        check(Question::Create { key: key("default/secret/mine"), body: "{}".into() }, false, false);
        let mirror = r#"{"spec":{"nodeName":"edge-a"}}"#;
        check(Question::Create { key: key("default/pod/new"), body: mirror.into() }, true, false);
        let token = |account: &str| Question::Token {
            namespace: "default".parse().unwrap(),
            account: account.parse().unwrap(),
            request: "{}".into(),
        };
        check(token("mine"), true, false);
        check(token("admin"), false, false);
        let patch = Question::PatchPodStatus {
            namespace: "default".parse().unwrap(),
            name: "mine".parse().unwrap(),
            patch: "{}".into(),
        };
        check(patch, true, false);
    }

    #[test]
    fn a_status_of_a_pod_that_is_gone_is_told_so() {
        let patch = Question::PatchPodStatus {
            namespace: "default".parse().unwrap(),
            name: "gone".parse().unwrap(),
            patch: "{}".into(),
        };
        let Verdict::Answer(Answer::NotStored(refusal)) =
            question(&patch, &"edge-a".parse().unwrap(), &OnePod)
        else {
            panic!("it is answered")
        };
        assert_eq!(refusal.reason, Reason::NotFound);
    }

    #[test]
    fn what_is_gone_counts_as_deleted() {
        let asked = Question::DeletePod {
            namespace: "default".parse().unwrap(),
            name: "mine".parse().unwrap(),
            options: "{}".into(),
        };
        assert_eq!(question(&asked, &"edge-b".parse().unwrap(), &OnePod), Verdict::Answer(Answer::Done));
        assert_eq!(question(&asked, &"edge-a".parse().unwrap(), &OnePod), Verdict::Admit);
    }

    #[test]
    fn events_tell_of_the_node_and_its_pods() {
        let check = |object: &str, expected: bool| {
            let named = r#"{"namespace":"default","name":"e"}"#;
            let event = format!(r#"{{"metadata":{named},"involvedObject":{object}}}"#);
            let is_own = |key: &str| {
                let key = key.parse().unwrap();
                is_own_event(&key, event.as_bytes(), &"edge-a".parse().unwrap(), &OnePod)
            };
            assert_eq!(is_own("default/event/e"), expected, "{object}");
            assert!(!is_own("default/event/another") && !is_own("other/event/e"), "{object}");
        };
        check(r#"{"kind":"Node","name":"edge-a"}"#, true);
        check(r#"{"kind":"Node","name":"edge-b"}"#, false);
        check(r#"{"kind":"Pod","namespace":"default","name":"mine"}"#, true);
        check(r#"{"kind":"Pod","namespace":"default","name":"other"}"#, false);
        check(r#"{"kind":"Secret","namespace":"default","name":"mine"}"#, false);
        check("7", false);
        assert!(touches_subject(br#"{"involvedObject":{"name":"x"}}"#) && touches_subject(b"7"));
        assert!(!touches_subject(br#"{"count":2}"#));
    }
}
