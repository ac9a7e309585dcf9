//! Which key a node's name belongs to: the first machine that connects with a name keeps it until its Node is deleted.
//!
//! Kept as an annotation of the Node, so that every cloudcore sees it and deleting the Node frees the name. During a
//! renewal both keys count, since nobody knows whether the machine got the answer. A machine that lost its key is another
//! machine: its Node has to be deleted before it joins again. A Node that is no edge node's belongs to the kubelet that
//! registered it: else a join token would be a way to what runs on the cluster's own machines. Called by enrolment and the
//! listeners.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ke_wire::NodeName;

use super::certificate::Fingerprint;
use crate::edge_node::{CLOUDCORE, EDGE_LABEL};

/// What stands in the annotation: `<address> <fingerprint>[,<fingerprint>]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Where the machine was last seen.
    pub address: String,
    /// Its keys; two only during a renewal.
    pub keys: Vec<Fingerprint>,
}

/// The annotation's key.
pub(crate) const ANNOTATION: &str = "isthmus.io/node-key";

impl Pin {
    /// A pin of one key.
    #[must_use]
    pub fn new(address: IpAddr, key: Fingerprint) -> Self {
        Self { address: address.to_string(), keys: vec![key] }
    }

    /// From the annotation's text; `None`: somebody wrote something else there.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, keys) = text.split_once(' ')?;
        let keys = keys.split(',').map(|key| Fingerprint(key.to_owned())).collect();
        Some(Self { address: address.to_owned(), keys })
    }

    /// The annotation's text.
    #[must_use]
    pub fn text(&self) -> String {
        let keys: Vec<&str> = self.keys.iter().map(|key| key.0.as_str()).collect();
        format!("{} {}", self.address, keys.join(","))
    }
}

/// Whose a node's name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// There is no such Node.
    Nobody,
    /// An edge node's that has shown no key yet: KubeEdge's, or one that people made beforehand.
    Edge,
    /// That of the machine with these keys.
    Pinned(Pin),
    /// A machine's that is no edge node.
    Other,
}

impl Holder {
    /// Of a Node that is there.
    #[must_use]
    pub fn of(
        labels: Option<&BTreeMap<String, String>>,
        annotations: Option<&BTreeMap<String, String>>,
    ) -> Self {
        let annotation = |key: &str| annotations.and_then(|annotations| annotations.get(key));
        match annotation(ANNOTATION).and_then(|text| Pin::parse(text)) {
            Some(pin) => Self::Pinned(pin),
            None if labels.is_some_and(|labels| labels.contains_key(EDGE_LABEL))
                || annotation(CLOUDCORE).is_some() =>
            {
                Self::Edge
            }
            None => Self::Other,
        }
    }
}

/// The pins of all nodes.
#[async_trait]
pub trait Pins: Send + Sync + 'static {
    /// Whose the name is.
    async fn get(&self, node: &NodeName) -> Result<Holder, String>;
    /// Sets the pin, if the Node is there.
    async fn set(&self, node: &NodeName, pin: &Pin) -> Result<(), String>;
    /// Tells people that a second machine claimed the name.
    async fn tell_refused(&self, node: &NodeName, message: &str);
}

/// Judges a key for a name. `Ok` is the pin to write, if it changes. The error is one sentence.
pub fn judge(
    node: &NodeName,
    holder: &Holder,
    key: &Fingerprint,
    from: IpAddr,
) -> Result<Option<Pin>, String> {
    match holder {
        Holder::Nobody | Holder::Edge => Ok(Some(Pin::new(from, key.clone()))),
        Holder::Other => Err(format!(
            "node {node} is a machine of the cluster that is no edge node: choose another name (--edgenode-name). If that \
             machine is gone, run: kubectl delete node {node}. If its Node was made for an edge machine, run: kubectl label \
             node {node} {EDGE_LABEL}="
        )),
        Holder::Pinned(pin) => match pin.keys.iter().position(|known| known == key) {
            // Keys stand in the order of their age: showing one ends the older ones. The old one does not end the new
            // one, whose certificate may just be on its way.
            Some(age) => {
                let keys = pin.keys.iter().skip(age).cloned().collect();
                let now = Pin { address: from.to_string(), keys };
                Ok((now != *pin).then_some(now))
            }
            None => Err(format!(
                "node name {node} belongs to another machine, last seen at {}; the one at {from} has another key. If it \
             replaces the first, or is the first and has lost its key, run: kubectl delete node {node}",
                pin.address
            )),
        },
    }
}

/// When a refusal was last told in an event. A refused machine tries again every few seconds, and each event is an
/// object in the API server.
#[derive(Debug, Default)]
pub(crate) struct Told(Mutex<HashMap<NodeName, Instant>>);

/// The same refusal is told again after this long.
const TELL_PAUSE: Duration = Duration::from_secs(600);
/// Names that are remembered: whoever claims more of them at once tells less of each.
const MAX_TOLD: usize = 1024;

impl Told {
    /// Whether it is time to tell of this node again; if so it counts as told.
    pub(crate) fn is_due(&self, node: &NodeName, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.get(node).is_some_and(|last| now.duration_since(*last) < TELL_PAUSE) {
            return false;
        }
        if told.len() >= MAX_TOLD {
            told.retain(|_, last| now.duration_since(*last) < TELL_PAUSE);
        }
        let has_room = told.len() < MAX_TOLD;
        if has_room {
            told.insert(node.clone(), now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_keeps_the_name() {
        let node = "edge-1".parse().unwrap();
        let key = |text: &str| Fingerprint(text.into());
        let from: IpAddr = "192.0.2.1".parse().unwrap();
        let first = judge(&node, &Holder::Nobody, &key("a"), from).unwrap().unwrap();
        assert_eq!(judge(&node, &Holder::Edge, &key("a"), from).unwrap().unwrap(), first);
        assert_eq!(Pin::parse(&first.text()).as_ref(), Some(&first));
        assert_eq!(judge(&node, &Holder::Pinned(first.clone()), &key("a"), from), Ok(None));
        let sentence = judge(&node, &Holder::Pinned(first.clone()), &key("b"), "192.0.2.2".parse().unwrap())
            .unwrap_err();
        assert!(
            sentence.contains("192.0.2.1")
                && sentence.contains("192.0.2.2")
                && sentence.contains("kubectl delete node edge-1")
        );
        // A renewal: both count until the machine shows one of them.
        let both = Pin { keys: vec![key("a"), key("b")], ..first };
        assert_eq!(
            judge(&node, &Holder::Pinned(both.clone()), &key("a"), from),
            Ok(None),
            "the new certificate may be on its way"
        );
        assert_eq!(
            judge(&node, &Holder::Pinned(both.clone()), &key("b"), from).unwrap().unwrap().keys,
            vec![key("b")]
        );
        assert_eq!(Pin::parse("x"), None);
    }

    #[test]
    fn a_node_of_the_clusters_own_is_nobody_elses() {
        let map = |entries: &[(&str, &str)]| -> BTreeMap<String, String> {
            entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let check = |labels: &[(&str, &str)], annotations: &[(&str, &str)], expected: &Holder| {
            let found = Holder::of(Some(&map(labels)), Some(&map(annotations)));
            assert_eq!(found, *expected, "{labels:?} {annotations:?}");
        };
        let pin = Pin::new("192.0.2.1".parse().unwrap(), Fingerprint("a".into()));
        check(&[], &[], &Holder::Other);
        check(&[("node-role.kubernetes.io/control-plane", "")], &[], &Holder::Other);
        check(&[(EDGE_LABEL, "")], &[], &Holder::Edge);
        check(&[], &[(CLOUDCORE, "192.0.2.2")], &Holder::Edge);
        check(&[], &[(ANNOTATION, &pin.text())], &Holder::Pinned(pin.clone()));
        check(&[(EDGE_LABEL, "")], &[(ANNOTATION, "x")], &Holder::Edge);
        check(&[], &[(ANNOTATION, "x")], &Holder::Other);
        assert_eq!(Holder::of(None, None), Holder::Other);

        let node = "control-1".parse().unwrap();
        let why =
            judge(&node, &Holder::Other, &Fingerprint("a".into()), "192.0.2.1".parse().unwrap()).unwrap_err();
        assert!(why.contains("--edgenode-name") && why.contains("kubectl delete node control-1"), "{why}");
    }

    #[test]
    fn a_refusal_is_told_now_and_then() {
        let (told, start) = (Told::default(), Instant::now());
        let check = |node: &str, seconds: u64, expected: bool| {
            let is_due = told.is_due(&node.parse().unwrap(), start + Duration::from_secs(seconds));
            assert_eq!(is_due, expected, "{node} {seconds}");
        };
        check("a", 0, true);
        check("a", 599, false);
        check("b", 599, true);
        check("a", 600, true);
        check("a", 601, false);
    }
}
