//! Pure: who gets a range of pod addresses, if the cluster leaves that to us.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Node;
use ke_api::pod_network::{MANAGED, POD_NETWORK, POD_RANGE};

use super::super::watch::EDGE_LABEL;
use super::range::Range;

/// A node that is to get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asking {
    pub(super) name: String,
    pub(super) uid: String,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Every node that asks has one.
    Nothing,
    /// Somebody else gives ranges to nodes, this one to that.
    Others { node: String, range: String },
    /// One to each of these.
    Give {
        to: Vec<Asking>,
        taken: BTreeSet<Range>,
        /// No Node has any: whoever else gives them may just not have come to it yet.
        is_first: bool,
    },
}

/// Whether this Node asks for a range and has none.
pub(super) fn asks(node: &Node) -> bool {
    let word = |name: &str| node.metadata.annotations.as_ref()?.get(name).map(String::as_str);
    let is_edge = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EDGE_LABEL));
    is_edge
        && word(POD_NETWORK) == Some(MANAGED)
        && node.metadata.deletion_timestamp.is_none()
        && held(node).is_empty()
}

/// `nodes`: all of the cluster.
pub(super) fn plan(nodes: &[Node]) -> Verdict {
    let to: Vec<Asking> = nodes.iter().filter(|node| asks(node)).filter_map(asking).collect();
    if to.is_empty() {
        return Verdict::Nothing;
    }
    let mut taken = BTreeSet::new();
    let mut is_first = true;
    for node in nodes {
        let ranges = held(node);
        let ours = node.metadata.annotations.as_ref().and_then(|all| all.get(POD_RANGE));
        if let Some(range) = ranges.first() {
            is_first = false;
            if ours != Some(range) {
                let node = node.metadata.name.clone().unwrap_or_default();
                return Verdict::Others { node, range: range.clone() };
            }
        }
        taken.extend(ranges.iter().filter_map(|range| range.parse::<Range>().ok()));
    }
    Verdict::Give { to, taken, is_first }
}

fn asking(node: &Node) -> Option<Asking> {
    Some(Asking { name: node.metadata.name.clone()?, uid: node.metadata.uid.clone()? })
}

fn held(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let several = spec.pod_cidrs.clone().unwrap_or_default();
    if several.is_empty() { spec.pod_cidr.clone().into_iter().collect() } else { several }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `asks`: the annotation; `range`: what it has; `given`: what we noted.
    fn node(name: &str, asks: bool, range: Option<&str>, given: Option<&str>) -> Node {
        let mut annotations = serde_json::Map::new();
        if asks {
            annotations.insert(POD_NETWORK.into(), MANAGED.into());
        }
        if let Some(given) = given {
            annotations.insert(POD_RANGE.into(), given.into());
        }
        let spec = range.map_or(json!({}), |range| json!({"podCIDR": range, "podCIDRs": [range]}));
        let metadata =
            json!({"name": name, "uid": name, "labels": {EDGE_LABEL: ""}, "annotations": annotations});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn who_gets_one() {
        let check = |nodes: &[Node], expected: Result<(&[&str], bool), &str>| match (plan(nodes), expected) {
            (Verdict::Give { to, is_first, .. }, Ok((names, first))) => {
                let to: Vec<&str> = to.iter().map(|asking| asking.name.as_str()).collect();
                assert_eq!((&*to, is_first), (names, first));
            }
            (Verdict::Nothing, Ok(([], _))) => {}
            (Verdict::Others { node, .. }, Err(name)) => assert_eq!(node, name),
            (verdict, _) => panic!("{verdict:?}, expected {expected:?}"),
        };
        let range = Some("10.208.0.0/24");
        check(&[], Ok((&[], true)));
        check(&[node("a", false, None, None)], Ok((&[], true)));
        check(&[node("a", true, None, None), node("b", false, None, None)], Ok((&["a"], true)));
        check(&[node("a", true, range, range), node("b", true, None, None)], Ok((&["b"], false)));
        // Given by the cluster, to whomever, whether or not it asks.
        check(&[node("a", true, None, None), node("b", false, range, None)], Err("b"));
        check(&[node("a", true, None, None), node("b", true, range, None)], Err("b"));
        check(&[node("a", true, None, None), node("b", true, range, Some("10.208.9.0/24"))], Err("b"));
        check(&[node("a", true, range, None)], Ok((&[], true)));
        // Whoever is no edge node has its own agent.
        let mut cloud = node("a", true, None, None);
        cloud.metadata.labels = None;
        check(&[cloud], Ok((&[], true)));
    }
}
