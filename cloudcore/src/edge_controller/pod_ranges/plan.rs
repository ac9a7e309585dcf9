//! Pure: who gets a range of pod addresses, and how long the cluster has for it before us.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use ke_api::pod_network::{MANAGED, POD_NETWORK, POD_RANGE};

use crate::edge_node::EDGE_LABEL;
use crate::ranges::Range;

/// Where no Node has a range, an allocator may just not have come to the first one.
pub(super) const OTHERS_FIRST: Duration = Duration::from_secs(3);
/// Where the cluster gives ranges, but perhaps not to this Node: a provider's allocator knows its own machines only.
pub(super) const OTHERS_TIME: Duration = Duration::from_secs(30);

/// A node that is to get one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asking {
    pub(super) name: String,
    pub(super) uid: String,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Who is to get one.
    pub(super) asking: Vec<Asking>,
    /// What somebody has, from whomever.
    pub(super) taken: BTreeSet<Range>,
    /// How long each of them is left to the cluster's own allocator.
    pub(super) patience: Duration,
}

/// Whether this Node asks for a range and has none.
fn asks(node: &Node) -> bool {
    let is_edge = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EDGE_LABEL));
    is_edge
        && word(node, POD_NETWORK) == Some(MANAGED)
        && node.metadata.deletion_timestamp.is_none()
        && !has_one(node)
}

/// Whether it needs none from here (any more).
pub(super) fn has_one(node: &Node) -> bool {
    word(node, POD_RANGE).is_some() || of_the_cluster(node).next().is_some()
}

/// `nodes`: all of the cluster.
pub(super) fn plan(nodes: &[Node]) -> Plan {
    let asking = nodes.iter().filter(|node| asks(node)).filter_map(asking).collect();
    let ours = nodes.iter().filter_map(|node| word(node, POD_RANGE));
    let taken = ours.chain(nodes.iter().flat_map(of_the_cluster));
    let taken = taken.filter_map(|range| range.parse::<Range>().ok()).collect();
    let patience = if nodes.iter().any(|node| of_the_cluster(node).next().is_some()) {
        OTHERS_TIME
    } else if nodes.iter().any(has_one) {
        Duration::ZERO
    } else {
        OTHERS_FIRST
    };
    Plan { asking, taken, patience }
}

pub(super) fn word<'n>(node: &'n Node, name: &str) -> Option<&'n str> {
    node.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn asking(node: &Node) -> Option<Asking> {
    Some(Asking { name: node.metadata.name.clone()?, uid: node.metadata.uid.clone()? })
}

fn of_the_cluster(node: &Node) -> impl Iterator<Item = &str> {
    let spec = node.spec.iter();
    let all = spec.flat_map(|spec| spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten()));
    all.map(String::as_str).filter(|range| !range.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `asks`: the annotation; `range`: the cluster's; `given`: ours.
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
        let check = |nodes: &[Node], asking: &[&str], taken: &[&str], patience: Duration| {
            let plan = plan(nodes);
            let names: Vec<&str> = plan.asking.iter().map(|asking| asking.name.as_str()).collect();
            let ranges: Vec<String> = plan.taken.iter().map(ToString::to_string).collect();
            assert_eq!(names, asking);
            assert_eq!(ranges, taken);
            assert_eq!(plan.patience, patience);
        };
        let (one, two) = ("10.208.0.0/24", "10.244.0.0/24");
        let at_once = Duration::ZERO;
        check(&[], &[], &[], OTHERS_FIRST);
        check(&[node("a", false, None, None)], &[], &[], OTHERS_FIRST);
        check(&[node("a", true, None, None), node("b", false, None, None)], &["a"], &[], OTHERS_FIRST);
        check(&[node("a", true, None, Some(one)), node("b", true, None, None)], &["b"], &[one], at_once);
        // The cluster gives some, to whomever, whether or not it asks; the others have to wait, and not for ever.
        let b = || node("b", true, None, None);
        check(&[node("a", false, Some(two), None), b()], &["b"], &[two], OTHERS_TIME);
        check(&[node("a", true, Some(two), None), b()], &["b"], &[two], OTHERS_TIME);
        check(&[node("a", true, Some(two), Some(one)), b()], &["b"], &[one, two], OTHERS_TIME);
        check(&[node("a", true, Some(two), None)], &[], &[two], OTHERS_TIME);
        check(&[node("a", true, Some(""), None)], &["a"], &[], OTHERS_FIRST);
        // Whoever is no edge node has its own agent.
        let mut cloud = node("a", true, None, None);
        cloud.metadata.labels = None;
        check(&[cloud], &[], &[], OTHERS_FIRST);
    }
}
