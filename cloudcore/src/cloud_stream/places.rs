//! How many streams there may be: of all nodes, of one, of one pod.
//!
//! A node's places are everybody's who may reach one of its pods. Some of them are for paths about the node alone, so that no
//! tenant's followed logs keep out metrics, and one pod has a part. Used by `connection.rs`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ke_wire::{Namespace, NodeName, ObjectName};
use prometheus_client::metrics::gauge::Gauge;

use super::route::Asked;

/// Streams to all nodes at once; more are refused. metrics-server asks all nodes at once, each for a moment.
pub(super) const MAX_STREAMS: usize = 8192;
/// Streams to one node at once: more are refused, so that one node's do not use up all.
pub(super) const MAX_STREAMS_OF_NODE: usize = 256;
/// Of these, for paths about the node.
pub(super) const RESERVED_FOR_NODE: usize = 32;
/// Streams to one pod at once.
pub(super) const MAX_STREAMS_OF_POD: usize = 64;

/// Cloneable.
#[derive(Clone, Default)]
pub(super) struct Places {
    counts: Arc<Mutex<Counts>>,
    open: Gauge,
}

/// A stream that counts until this is dropped.
pub(super) struct Place {
    pub(super) node: NodeName,
    asked: Asked,
    places: Places,
}

#[derive(Debug, Default)]
struct Counts {
    n_all: usize,
    nodes: HashMap<NodeName, OfNode>,
}

#[derive(Debug, Default)]
struct OfNode {
    n_all: usize,
    pods: HashMap<(Namespace, ObjectName), usize>,
}

impl Places {
    /// `open`: streams now.
    pub(super) fn new(open: Gauge) -> Self {
        Self { counts: Arc::default(), open }
    }

    /// Errors: what there is too much of.
    pub(super) fn take(&self, node: &NodeName, asked: Asked) -> Result<Place, String> {
        self.counts().take(node, &asked)?;
        self.open.inc();
        Ok(Place { node: node.clone(), asked, places: self.clone() })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.open.dec();
        self.places.counts().give_back(&self.node, &self.asked);
    }
}

impl Counts {
    fn take(&mut self, node: &NodeName, asked: &Asked) -> Result<(), String> {
        if self.n_all >= MAX_STREAMS {
            return Err(format!("{MAX_STREAMS} streams"));
        }
        let of_node = self.nodes.get(node);
        let n_of_node = of_node.map_or(0, |of_node| of_node.n_all);
        if n_of_node >= MAX_STREAMS_OF_NODE {
            return Err(format!("{MAX_STREAMS_OF_NODE} streams to node {node}"));
        }
        if let Asked::Pod(namespace, pod) = asked {
            let n_of_pods: usize = of_node.map_or(0, |of_node| of_node.pods.values().sum());
            let max_of_pods = MAX_STREAMS_OF_NODE.saturating_sub(RESERVED_FOR_NODE);
            if n_of_pods >= max_of_pods {
                return Err(format!("{max_of_pods} streams to pods of node {node}"));
            }
            let key = (namespace.clone(), pod.clone());
            let n_of_pod = of_node.and_then(|of_node| of_node.pods.get(&key)).copied().unwrap_or_default();
            if n_of_pod >= MAX_STREAMS_OF_POD {
                return Err(format!("{MAX_STREAMS_OF_POD} streams to pod {pod} in namespace {namespace}"));
            }
        }
        self.n_all = self.n_all.saturating_add(1);
        let of_node = self.nodes.entry(node.clone()).or_default();
        of_node.n_all = of_node.n_all.saturating_add(1);
        if let Asked::Pod(namespace, pod) = asked {
            let n_of_pod = of_node.pods.entry((namespace.clone(), pod.clone())).or_default();
            *n_of_pod = n_of_pod.saturating_add(1);
        }
        Ok(())
    }

    fn give_back(&mut self, node: &NodeName, asked: &Asked) {
        self.n_all = self.n_all.saturating_sub(1);
        let Some(of_node) = self.nodes.get_mut(node) else { return };
        of_node.n_all = of_node.n_all.saturating_sub(1);
        if let Asked::Pod(namespace, pod) = asked {
            let key = (namespace.clone(), pod.clone());
            if let Some(n_of_pod) = of_node.pods.get_mut(&key) {
                *n_of_pod = n_of_pod.saturating_sub(1);
            }
            of_node.pods.retain(|_, n_of_pod| *n_of_pod > 0);
        }
        if of_node.n_all == 0 {
            self.nodes.remove(node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(namespace: &str, name: &str) -> Asked {
        Asked::Pod(namespace.parse().unwrap(), name.parse().unwrap())
    }

    #[test]
    fn nobody_uses_up_what_is_for_others() {
        let places = Places::default();
        let (one, other): (NodeName, NodeName) = ("edge-1".parse().unwrap(), "edge-2".parse().unwrap());
        let mut held = Vec::new();
        let mut fill = |asked: &Asked, n_more: usize, says: &str| {
            for _ in 0..n_more {
                held.push(places.take(&one, asked.clone()).ok().unwrap());
            }
            assert_eq!(places.take(&one, asked.clone()).err().as_deref(), Some(says), "{asked:?}");
        };
        let of_pod = "64 streams to pod a in namespace t";
        fill(&pod("t", "a"), MAX_STREAMS_OF_POD, of_pod);
        // One of the same name elsewhere is another one.
        fill(&pod("u", "a"), MAX_STREAMS_OF_POD, "64 streams to pod a in namespace u");
        fill(&pod("t", "b"), MAX_STREAMS_OF_POD, "64 streams to pod b in namespace t");
        let of_pods = "224 streams to pods of node edge-1";
        fill(&pod("t", "c"), 224 - 3 * MAX_STREAMS_OF_POD, of_pods);
        fill(&pod("v", "x"), 0, of_pods);
        fill(&Asked::Node, RESERVED_FOR_NODE, "256 streams to node edge-1");
        assert!(places.take(&other, pod("t", "a")).is_ok());
        assert_eq!(places.open.get(), 256);
        drop(held.pop());
        assert!(places.take(&one, Asked::Node).is_ok());
        assert!(places.take(&one, pod("v", "x")).is_err(), "the place is the node's");
        drop(held.swap_remove(0));
        assert!(places.take(&one, pod("t", "a")).is_ok());
        drop(held);
        assert_eq!(places.open.get(), 0);
        let counts = places.counts();
        assert!(counts.n_all == 0 && counts.nodes.is_empty(), "{counts:?}");
    }

    #[test]
    fn all_nodes_together_are_bounded() {
        let places = Places::default();
        let take = |n: usize| places.take(&format!("n{}", n % 100).parse().unwrap(), Asked::Node);
        let held: Vec<_> = (0..MAX_STREAMS).map(|n| take(n).ok().unwrap()).collect();
        assert_eq!(take(0).err().as_deref(), Some("8192 streams"));
        drop(held);
        assert!(take(0).is_ok());
    }
}
