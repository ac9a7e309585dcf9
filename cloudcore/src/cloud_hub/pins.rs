//! Which key a node's name belongs to: the first machine that connects with a name keeps it until its Node is deleted.
//!
//! Kept as an annotation of the Node, so that every cloudcore sees it and deleting the Node frees the name. During a
//! renewal both keys count, since nobody knows whether the machine got the answer. A machine that lost its key is another
//! machine: its Node has to be deleted before it joins again. Called by enrolment and the listeners.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ke_wire::NodeName;

use super::authority::Fingerprint;

/// What stands in the annotation: `<address> <fingerprint>[,<fingerprint>]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Where the machine was last seen.
    pub address: String,
    /// Its keys; two only during a renewal.
    pub keys: Vec<Fingerprint>,
}

/// The annotation's key.
pub const ANNOTATION: &str = "isthmus.io/node-key";

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

/// The pins of all nodes.
#[async_trait]
pub trait Pins: Send + Sync + 'static {
    /// The node's pin; `None` when the Node or the pin is not there.
    async fn get(&self, node: &NodeName) -> Result<Option<Pin>, String>;
    /// Sets the pin, if the Node is there.
    async fn set(&self, node: &NodeName, pin: &Pin) -> Result<(), String>;
    /// Tells people that a second machine claimed the name.
    async fn tell_refused(&self, node: &NodeName, message: &str);
}

/// Judges a key for a name. `Ok` is the pin to write, if it changes. The error is one sentence.
pub fn judge(
    node: &NodeName,
    pin: Option<&Pin>,
    key: &Fingerprint,
    from: IpAddr,
) -> Result<Option<Pin>, String> {
    match pin {
        None => Ok(Some(Pin::new(from, key.clone()))),
        Some(pin) => match pin.keys.iter().position(|known| known == key) {
            // Keys stand in the order of their age: showing one ends the older ones. The old one does not end the new
            // one, whose certificate may just be on its way.
            Some(age) => {
                let keys = pin.keys.iter().skip(age).cloned().collect();
                let now = Pin { address: from.to_string(), keys };
                Ok((now != *pin).then_some(now))
            }
            None => Err(format!(
                "node name {node} belongs to another machine, last seen at {}; the one at {from} has another key. If it \
             replaces the first, run: kubectl delete node {node}",
                pin.address
            )),
        },
    }
}

/// When a refusal was last told in an event. A refused machine tries again every few seconds, and each event is an
/// object in the API server.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<HashMap<NodeName, Instant>>);

/// The same refusal is told again after this long.
const TELL_PAUSE: Duration = Duration::from_secs(600);
/// Names that are remembered: whoever claims more of them at once tells less of each.
const MAX_TOLD: usize = 1024;

impl Told {
    /// Whether it is time to tell of this node again; if so it counts as told.
    pub(super) fn is_due(&self, node: &NodeName, now: Instant) -> bool {
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
        let first = judge(&node, None, &key("a"), from).unwrap().unwrap();
        assert_eq!(Pin::parse(&first.text()).as_ref(), Some(&first));
        assert_eq!(judge(&node, Some(&first), &key("a"), from), Ok(None));
        let sentence = judge(&node, Some(&first), &key("b"), "192.0.2.2".parse().unwrap()).unwrap_err();
        assert!(
            sentence.contains("192.0.2.1")
                && sentence.contains("192.0.2.2")
                && sentence.contains("kubectl delete node edge-1")
        );
        // A renewal: both count until the machine shows one of them.
        let both = Pin { keys: vec![key("a"), key("b")], ..first };
        assert_eq!(
            judge(&node, Some(&both), &key("a"), from),
            Ok(None),
            "the new certificate may be on its way"
        );
        assert_eq!(judge(&node, Some(&both), &key("b"), from).unwrap().unwrap().keys, vec![key("b")]);
        assert_eq!(Pin::parse("x"), None);
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
