//! Pure: which node has which port.
//!
//! The Node's own status remembers it, so that it outlives this process; here is what the watch has shown, and what was given and
//! is on its way there. Never is one port two nodes': should two Nodes say the same, after an edit by hand or two cloudcores at
//! once, it serves neither until one of them has got another. Called by `mod.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ke_wire::NodeName;

use crate::ranges::PortRange;

/// The nodes and their ports.
#[derive(Debug, Default)]
pub(super) struct NodePorts {
    range: PortRange,
    /// What the Nodes say.
    seen: HashMap<NodeName, u16>,
    /// What was given and no Node says yet.
    given: HashMap<NodeName, u16>,
    /// Who says or was given it.
    claims: BTreeMap<u16, BTreeSet<NodeName>>,
    /// Ports that cannot be had on this machine.
    unusable: BTreeSet<u16>,
}

impl NodePorts {
    /// Ports of this range may be given.
    pub(super) fn new(range: PortRange) -> Self {
        Self { range, ..Self::default() }
    }

    /// What a Node says now. Ports that are none of ours, such as a kubelet's own, count for nothing.
    pub(super) fn seen(&mut self, node: &NodeName, port: Option<u16>) {
        let port = port.filter(|port| self.range.contains(*port));
        if self.seen.get(node) == port.as_ref() && !self.given.contains_key(node) {
            return;
        }
        match port {
            Some(port) => self.seen.insert(node.clone(), port),
            None => self.seen.remove(node),
        };
        if port.is_some() && self.given.get(node) == port.as_ref() {
            self.given.remove(node);
        }
        self.count_claims(node);
    }

    /// The node is no more.
    pub(super) fn gone(&mut self, node: &NodeName) {
        self.seen.remove(node);
        self.given.remove(node);
        self.count_claims(node);
    }

    /// This machine does not let us have it.
    pub(super) fn is_unusable(&mut self, port: u16) {
        self.unusable.insert(port);
    }

    /// The port that the node's status must say; `None`: none is left. The same as long as the node exists.
    pub(super) fn give(&mut self, node: &NodeName) -> Option<u16> {
        let held = [self.given.get(node), self.seen.get(node)];
        let is_first = |port: &&u16| {
            let claims = self.claims.get(port);
            // Of two that say the same, the one whose name comes first keeps it, whichever cloudcore decides.
            !self.unusable.contains(port) && claims.and_then(BTreeSet::first) == Some(node)
        };
        if let Some(port) = held.into_iter().flatten().find(is_first) {
            return Some(*port);
        }
        let is_free = |port: &&u16| !self.claims.contains_key(port) && !self.unusable.contains(port);
        let free = self.range.iter().find(is_free).copied();
        match free {
            Some(port) => self.given.insert(node.clone(), port),
            None => self.given.remove(node),
        };
        self.count_claims(node);
        free
    }

    /// Whose port it is; `None`: nobody's, or more than one Node says so.
    pub(super) fn owner(&self, port: u16) -> Option<&NodeName> {
        let claims = self.claims.get(&port)?;
        claims.first().filter(|_| claims.len() == 1)
    }

    fn count_claims(&mut self, node: &NodeName) {
        self.claims.retain(|_, nodes| {
            nodes.remove(node);
            !nodes.is_empty()
        });
        for port in [self.seen.get(node), self.given.get(node)].into_iter().flatten() {
            self.claims.entry(*port).or_default().insert(node.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn ports(range: &str) -> NodePorts {
        NodePorts::new(range.parse().unwrap())
    }

    #[test]
    fn the_first_free_one_is_given_and_kept() {
        let mut ports = ports("11-13");
        assert_eq!(ports.give(&name("a")), Some(11));
        assert_eq!(ports.give(&name("b")), Some(12));
        assert_eq!(ports.give(&name("a")), Some(11));
        // What the Node said before does not take away what is on its way.
        ports.seen(&name("a"), Some(10350));
        ports.seen(&name("a"), None);
        assert_eq!(ports.give(&name("a")), Some(11));
        ports.seen(&name("a"), Some(11));
        assert_eq!(
            (ports.owner(11), ports.owner(12), ports.owner(13)),
            (Some(&name("a")), Some(&name("b")), None)
        );
        ports.gone(&name("a"));
        assert_eq!(ports.owner(11), None);
        assert_eq!(ports.give(&name("c")), Some(11));
    }

    #[test]
    fn what_nodes_remember_is_theirs() {
        let mut ports = ports("11-13");
        ports.seen(&name("late"), Some(11));
        ports.seen(&name("old"), Some(13));
        assert_eq!(ports.give(&name("new")), Some(12));
        assert_eq!(ports.give(&name("late")), Some(11));
        // Full: what is given then is nothing, and what is held stays held.
        assert_eq!(ports.give(&name("more")), None);
        assert_eq!(ports.give(&name("old")), Some(13));
        ports.gone(&name("late"));
        assert_eq!(ports.give(&name("more")), Some(11));
    }

    #[test]
    fn one_port_is_never_two_nodes() {
        let mut ports = ports("11-12");
        ports.seen(&name("a"), Some(11));
        ports.seen(&name("b"), Some(11));
        assert_eq!(ports.owner(11), None, "it would serve the wrong one");
        assert_eq!(ports.give(&name("a")), Some(11));
        assert_eq!(ports.give(&name("b")), Some(12));
        assert_eq!(ports.owner(11), None, "b's Node still says so");
        assert_eq!(ports.owner(12), Some(&name("b")));
        ports.seen(&name("b"), Some(12));
        assert_eq!((ports.owner(11), ports.owner(12)), (Some(&name("a")), Some(&name("b"))));
    }

    #[test]
    fn a_port_that_cannot_be_had_is_given_to_nobody() {
        let mut ports = ports("11-13");
        ports.seen(&name("a"), Some(11));
        ports.is_unusable(11);
        assert_eq!(ports.give(&name("a")), Some(12));
        ports.is_unusable(12);
        assert_eq!(ports.give(&name("a")), Some(13));
        ports.is_unusable(13);
        assert_eq!(ports.give(&name("a")), None);
    }

    #[test]
    fn whatever_happens_no_port_has_two_owners() {
        // A small fixed generator: the order is odd, and the same each time.
        let mut state = 7_u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut ports = ports("11-18");
        for step in 0..20_000 {
            let node = name(&format!("n{}", next(12)));
            match next(4) {
                0 => ports.seen(&node, u16::try_from(9 + next(12)).ok()),
                1 => ports.gone(&node),
                _ => {
                    if let Some(port) = ports.give(&node) {
                        assert!((11..=18).contains(&port), "step {step}");
                        let first = ports.claims[&port].first();
                        assert_eq!(first, Some(&node), "step {step}: {port} was given twice");
                    }
                }
            }
            for port in 11..=18 {
                let says = |held: &HashMap<NodeName, u16>, owner| held.get(owner) == Some(&port);
                if let Some(owner) = ports.owner(port) {
                    assert!(says(&ports.seen, owner) || says(&ports.given, owner), "step {step}");
                    let others = ports.seen.iter().filter(|(node, held)| *node != owner && **held == port);
                    assert_eq!(others.count(), 0, "step {step}");
                }
            }
        }
    }
}
