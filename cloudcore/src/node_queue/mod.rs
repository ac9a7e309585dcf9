//! NodeQueues: what each node must still be told, and what it has confirmed.
//!
//! The controllers order, a node's link takes and confirms. Nothing is kept for a node without a link: on connect each
//! controller hands over all that the node must hold, and the ledger says what of it the node has already. It never
//! decides who needs what, and never waits for a node.

mod handle;
mod ledger;
mod queue;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ke_run::shutdown::Shutdown;
use ke_wire::{Delete, Down, MessageId, NodeName, ObjectKey, Put, Uid};
use tokio::sync::{Notify, mpsc};

pub use handle::{Desired, Gone, NodeQueues, QueueOrder, Share};
pub use ledger::{Held, Ledger, LedgerError, MemoryLedger, ObjectSyncLedger};
pub use queue::{Item, Queue};

/// Messages that are said but not yet taken by the link. It takes them all whenever it comes round, so that only a node
/// that reads nothing has so many; it is given up, and all is said anew on its next link.
const MAX_SAID: usize = 8192;

/// The module: carries out orders.
pub struct NodeQueueKeeper {
    orders: mpsc::Receiver<QueueOrder>,
    nodes: Nodes,
}

/// The queues of all nodes with a link. Cloneable; read by CloudHub.
#[derive(Clone)]
pub struct Nodes {
    links: Arc<Mutex<HashMap<NodeName, Arc<NodeQueue>>>>,
    n_attached: Arc<AtomicU64>,
    ledger: Arc<dyn Ledger>,
}

/// One node's queue while it is connected. Shared by its link and the keeper.
pub struct NodeQueue {
    node: NodeName,
    number: u64,
    state: Mutex<State>,
    changed: Notify,
    ledger: Arc<dyn Ledger>,
}

struct State {
    queue: Queue,
    held: HashMap<Uid, Held>,
    said: VecDeque<Down>,
    /// What was ordered since the hand-over of a share began.
    ordered: HashMap<Share, HashSet<Uid>>,
    ended: Option<Ended>,
}

/// Why a link must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The node connected anew.
    Replaced,
    /// The Node object was deleted.
    NodeGone,
    /// The node takes nothing, and too much waits for it.
    Overrun,
}

impl NodeQueueKeeper {
    /// The keeper and its two handles: orders in, queues of connected nodes out.
    pub fn new(ledger: Arc<dyn Ledger>) -> (NodeQueues, Nodes, Self) {
        let (handle, orders) = NodeQueues::channel();
        let nodes = Nodes { links: Arc::default(), n_attached: Arc::default(), ledger };
        (handle, nodes.clone(), Self { orders, nodes })
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), LedgerError> {
        loop {
            let order = tokio::select! {
                order = self.orders.recv() => order,
                () = shutdown.wait() => return Ok(()),
            };
            match order {
                None => return Ok(()),
                Some(QueueOrder::Put(node, desired)) => self.with(&node, |queue| queue.put(desired)),
                Some(QueueOrder::Again(node, desired)) => self.with(&node, |queue| queue.again(desired)),
                Some(QueueOrder::Delete(node, gone)) => self.with(&node, |queue| queue.delete(gone)),
                Some(QueueOrder::HandOver(node, share)) => self.with(&node, |queue| queue.hand_over(share)),
                Some(QueueOrder::Synced(node, share)) => self.with(&node, |queue| queue.synced(share)),
                Some(QueueOrder::Say(node, message)) => self.with(&node, |queue| queue.say(*message)),
                Some(QueueOrder::Forget(node)) => {
                    self.nodes.ledger.forget(&node).await;
                    self.with(&node, NodeQueue::forget);
                }
                Some(QueueOrder::NodeGone(node)) => {
                    // In this order: an ended link notes nothing more.
                    self.with(&node, |queue| queue.end(Ended::NodeGone));
                    self.nodes.ledger.forget(&node).await;
                }
            }
        }
    }

    /// Orders for a node without a link have no place: its next link is told all anew.
    fn with(&self, node: &NodeName, act: impl FnOnce(&NodeQueue)) {
        let queue = locked(&self.nodes.links).get(node).cloned();
        if let Some(queue) = queue {
            act(&queue);
        }
    }
}

impl Nodes {
    /// A link of this node is up; an older one is told to end. The controllers must be told after this, not before.
    pub async fn attach(&self, node: &NodeName) -> Result<Arc<NodeQueue>, LedgerError> {
        let held = self.ledger.load(node).await?;
        let state = State {
            queue: Queue::default(),
            held,
            said: VecDeque::new(),
            ordered: HashMap::new(),
            ended: None,
        };
        let (queue, before) = {
            let mut links = locked(&self.links);
            let queue = Arc::new(NodeQueue {
                node: node.clone(),
                // Under the lock: of two links at once the one with the larger number is the one that stays.
                number: self.n_attached.fetch_add(1, Ordering::Relaxed),
                state: Mutex::new(state),
                changed: Notify::new(),
                ledger: Arc::clone(&self.ledger),
            });
            let before = links.insert(node.clone(), Arc::clone(&queue));
            (queue, before)
        };
        if let Some(before) = before {
            before.end(Ended::Replaced);
        }
        Ok(queue)
    }

    /// The link is down. Says whether it was the node's current one.
    pub fn detach(&self, queue: &Arc<NodeQueue>) -> bool {
        let mut links = locked(&self.links);
        let is_current = links.get(&queue.node).is_some_and(|current| Arc::ptr_eq(current, queue));
        if is_current {
            links.remove(&queue.node);
        }
        is_current
    }

    /// Whether the node has a link.
    #[must_use]
    pub fn is_connected(&self, node: &NodeName) -> bool {
        locked(&self.links).contains_key(node)
    }

    /// Number of nodes with a link.
    #[must_use]
    pub fn n_connected(&self) -> usize {
        locked(&self.links).len()
    }

    /// Number of objects that wait or are under way, over all nodes.
    #[must_use]
    pub fn n_waiting(&self) -> usize {
        locked(&self.links).values().map(|queue| locked(&queue.state).queue.len()).sum()
    }
}

impl NodeQueue {
    /// Which link of this process it is. A newer one has a larger number, whatever else is told of them in which order.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// What was said to the node since the last call, oldest first. To be sent before anything that `take` gives.
    pub fn take_said(&self) -> VecDeque<Down> {
        std::mem::take(&mut locked(&self.state).said)
    }

    /// The next object for the node, if any; it is under way from now on.
    pub fn take(&self) -> Option<Down> {
        let id = MessageId::fresh();
        let item = locked(&self.state).queue.next(&id)?;
        Some(match item {
            Item::Put(Desired { key, version, change, origin, body, .. }) => {
                Down::Put(Put { id, key, version, change, origin, body })
            }
            Item::Delete(Gone { key, uid, version, origin, body }) => {
                Down::Delete(Delete { id, key, uid: Some(uid), version, origin, body })
            }
        })
    }

    /// Why the link must end, if it must.
    pub fn ended(&self) -> Option<Ended> {
        locked(&self.state).ended
    }

    /// Completes when there may be something to take, or the link must end. Cancellation-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The node has it on disk.
    pub async fn delivered(&self, key: &ObjectKey, id: &MessageId) {
        let item = {
            let mut state = locked(&self.state);
            // A newer link's word, or the end of the Node, counts more than what an old link still hears.
            if state.ended.is_some() {
                return;
            }
            let item = state.queue.delivered(key, id);
            match &item {
                Some(Item::Put(put)) => {
                    let held = Held { key: put.key.clone(), version: put.version };
                    state.held.insert(put.uid.clone(), held);
                }
                Some(Item::Delete(gone)) => drop(state.held.remove(&gone.uid)),
                None => {}
            }
            item
        };
        match item {
            Some(Item::Put(put)) => {
                self.ledger
                    .confirmed(&self.node, &put.uid, Held { key: put.key, version: put.version })
                    .await;
            }
            Some(Item::Delete(gone)) => self.ledger.removed(&self.node, &gone.uid, &gone.key).await,
            None => {}
        }
        self.notify();
    }

    /// The node did not confirm it.
    pub fn lost(&self, key: &ObjectKey, id: &MessageId) {
        locked(&self.state).queue.lost(key, id);
        self.notify();
    }

    fn put(&self, desired: Desired) {
        let mut state = locked(&self.state);
        state.note_ordered(&desired);
        let has_it =
            state.held.get(&desired.uid).is_some_and(|held| !desired.version.is_newer_than(held.version));
        // A confirmation that crossed an order to drop the object says nothing about afterwards.
        if !has_it || state.queue.removes(&desired.key, &desired.uid) {
            state.queue.put(desired);
            drop(state);
            self.notify();
        }
    }

    fn again(&self, desired: Desired) {
        let mut state = locked(&self.state);
        state.note_ordered(&desired);
        state.queue.put(desired);
        drop(state);
        self.notify();
    }

    fn say(&self, message: Down) {
        let mut state = locked(&self.state);
        if state.said.len() >= MAX_SAID {
            state.ended.get_or_insert(Ended::Overrun);
            state.said.clear();
        } else if state.ended.is_none() {
            state.said.push_back(message);
        }
        drop(state);
        self.notify();
    }

    fn delete(&self, gone: Gone) {
        let mut state = locked(&self.state);
        for ordered in state.ordered.values_mut() {
            ordered.remove(&gone.uid);
        }
        // Not when it is confirmed: if the node needs the object again before that, the same version must go once more.
        state.held.remove(&gone.uid);
        state.queue.delete(gone);
        drop(state);
        self.notify();
    }

    fn hand_over(&self, share: Share) {
        locked(&self.state).ordered.insert(share, HashSet::new());
    }

    /// What the node confirmed once and its controller did not order now was deleted while the node was away.
    fn synced(&self, share: Share) {
        let mut state = locked(&self.state);
        let Some(ordered) = state.ordered.remove(&share) else { return };
        let strangers: Vec<Gone> = state
            .held
            .extract_if(|uid, held| Share::of(&held.key.kind) == Some(share) && !ordered.contains(uid))
            .map(|(uid, held)| handle::bare_gone(&uid, &held.key))
            .collect();
        for gone in strangers {
            state.queue.delete(gone);
        }
        drop(state);
        self.notify();
    }

    fn forget(&self) {
        locked(&self.state).held.clear();
    }

    fn end(&self, why: Ended) {
        locked(&self.state).ended.get_or_insert(why);
        self.notify();
    }

    fn notify(&self) {
        // Kept for a link that is busy right now: `Notify` remembers one.
        self.changed.notify_one();
    }
}

impl State {
    fn note_ordered(&mut self, desired: &Desired) {
        if let Some(ordered) = Share::of(&desired.key.kind).and_then(|share| self.ordered.get_mut(&share)) {
            ordered.insert(desired.uid.clone());
        }
    }
}

/// A panic elsewhere does not make the queues less true.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
