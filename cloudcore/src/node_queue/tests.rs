//! What a node is told: on its return, across a replaced link, and after a confirmation that came late.

use ke_wire::{Change, Origin, Version};

use super::*;

fn desired(uid: &str, version: u64) -> Desired {
    Desired {
        key: format!("default/configmap/{uid}").parse().unwrap(),
        uid: uid.parse().unwrap(),
        version: Version::new(version),
        change: Change::Updated,
        origin: Origin::EdgeController,
        body: Default::default(),
    }
}

fn names(queue: &NodeQueue) -> Vec<String> {
    let mut names = Vec::new();
    while let Some(message) = queue.take() {
        names.push(match message {
            Down::Put(put) => format!("put {} {}", put.key.name, put.version),
            Down::Delete(delete) => format!("delete {}", delete.key.name),
            other => format!("{other:?}"),
        });
    }
    names.sort();
    names
}

#[tokio::test]
async fn a_returning_node_is_told_the_difference() {
    let ledger = Arc::new(MemoryLedger::default());
    let node: NodeName = "edge-1".parse().unwrap();
    for (uid, version) in [("same", 5), ("older", 5), ("vanished", 5)] {
        let held = Held { key: desired(uid, 0).key, version: Version::new(version) };
        ledger.confirmed(&node, &uid.parse().unwrap(), held).await;
    }
    let (_, nodes, _keeper) = NodeQueueKeeper::new(ledger);
    let queue = nodes.attach(&node).await.unwrap();
    queue.synced(Share::Workload);
    assert!(
        names(&queue).is_empty(),
        "the end of a hand-over to an earlier link says nothing about this one"
    );
    queue.hand_over(Share::Workload);
    queue.put(desired("same", 5));
    queue.put(desired("older", 6));
    queue.put(desired("new", 7));
    assert_eq!(names(&queue), ["put new 7", "put older 6"]);
    queue.synced(Share::Workload);
    assert_eq!(names(&queue), ["delete vanished"]);
}

#[tokio::test]
async fn of_links_at_once_the_one_that_stays_has_the_largest_number() {
    let (_, nodes, _keeper) = NodeQueueKeeper::new(Arc::new(MemoryLedger::default()));
    let node: NodeName = "edge-1".parse().unwrap();
    let attaching = (0..50).map(|_| {
        let (nodes, node) = (nodes.clone(), node.clone());
        tokio::spawn(async move { nodes.attach(&node).await.unwrap() })
    });
    let attaching: Vec<_> = attaching.collect();
    let mut links = Vec::new();
    for attaching in attaching {
        links.push(attaching.await.unwrap());
    }
    let stays: Vec<u64> =
        links.iter().filter(|link| link.ended().is_none()).map(|link| link.number()).collect();
    assert_eq!(stays, [links.iter().map(|link| link.number()).max().unwrap()]);
    let numbers: HashSet<u64> = links.iter().map(|link| link.number()).collect();
    assert_eq!(numbers.len(), links.len());
}

/// Takes the only message that waits and confirms it.
async fn confirm(queue: &NodeQueue) {
    let (key, id) = match queue.take().unwrap() {
        Down::Put(put) => (put.key, put.id),
        Down::Delete(delete) => (delete.key, delete.id),
        other => panic!("{other:?}"),
    };
    queue.delivered(&key, &id).await;
}

fn gone(uid: &str) -> Gone {
    handle::bare_gone(&uid.parse().unwrap(), &desired(uid, 0).key)
}

#[tokio::test]
async fn what_is_needed_again_is_held_again() {
    let (_, nodes, _keeper) = NodeQueueKeeper::new(Arc::new(MemoryLedger::default()));
    let queue = nodes.attach(&"edge-1".parse().unwrap()).await.unwrap();
    queue.put(desired("a", 5));
    confirm(&queue).await;
    // The last pod that names it goes and another comes; the object itself never changed.
    queue.delete(gone("a"));
    queue.put(desired("a", 5));
    assert_eq!(names(&queue), ["put a 5"], "the deletion still waited");
    let queue = nodes.attach(&"edge-2".parse().unwrap()).await.unwrap();
    queue.put(desired("a", 5));
    confirm(&queue).await;
    queue.delete(gone("a"));
    let Some(Down::Delete(under_way)) = queue.take() else { panic!("no deletion") };
    queue.put(desired("a", 5));
    queue.delivered(&under_way.key, &under_way.id).await;
    assert_eq!(names(&queue), ["put a 5"], "the deletion was under way");
}

#[tokio::test]
async fn the_rest_of_a_hand_over_to_the_old_link_deletes_nothing() {
    let ledger = Arc::new(MemoryLedger::default());
    let node: NodeName = "edge-1".parse().unwrap();
    for uid in ["a", "b"] {
        let held = Held { key: desired(uid, 0).key, version: Version::new(5) };
        ledger.confirmed(&node, &uid.parse().unwrap(), held).await;
    }
    let (_, nodes, _keeper) = NodeQueueKeeper::new(ledger);
    let old = nodes.attach(&node).await.unwrap();
    old.hand_over(Share::Workload);
    old.put(desired("a", 5));
    // The node dials again before the hand-over to its first link has ended.
    let new = nodes.attach(&node).await.unwrap();
    new.put(desired("b", 5));
    new.synced(Share::Workload);
    assert_eq!(names(&new), [""; 0]);
    new.hand_over(Share::Workload);
    new.put(desired("a", 5));
    new.synced(Share::Workload);
    assert_eq!(names(&new), ["delete b"]);
}

#[tokio::test]
async fn each_controller_hands_over_its_own_share() {
    let ledger = Arc::new(MemoryLedger::default());
    let node: NodeName = "edge-1".parse().unwrap();
    for key in ["a/pod/p", "a/device/d", "a/devicemodel/m", "a/persistentvolumeclaim/v"] {
        let held = Held { key: key.parse().unwrap(), version: Version::new(5) };
        ledger.confirmed(&node, &held.key.name.as_str().parse().unwrap(), held.clone()).await;
    }
    let (_, nodes, _keeper) = NodeQueueKeeper::new(ledger);
    let queue = nodes.attach(&node).await.unwrap();
    queue.hand_over(Share::Devices);
    queue.hand_over(Share::Workload);
    queue.synced(Share::Workload);
    assert_eq!(names(&queue), ["delete p"]);
    queue.synced(Share::Devices);
    let Some(Down::Delete(deletion)) = queue.take() else { panic!("no deletion") };
    assert_eq!(
        (deletion.key.to_string().as_str(), deletion.origin),
        ("a/device/d", Origin::DeviceController)
    );
    assert_eq!(names(&queue), [""; 0], "the model stays until its own mark");
}

#[tokio::test]
async fn what_is_confirmed_goes_again_when_asked_for() {
    let (_, nodes, _keeper) = NodeQueueKeeper::new(Arc::new(MemoryLedger::default()));
    let queue = nodes.attach(&"edge-1".parse().unwrap()).await.unwrap();
    queue.put(desired("a", 5));
    confirm(&queue).await;
    queue.put(desired("a", 5));
    assert_eq!(names(&queue), [""; 0]);
    queue.again(desired("a", 5));
    assert_eq!(names(&queue), ["put a 5"]);
}

#[tokio::test]
async fn what_is_said_is_taken_in_order_and_a_deaf_node_is_given_up() {
    let (_, nodes, _keeper) = NodeQueueKeeper::new(Arc::new(MemoryLedger::default()));
    let queue = nodes.attach(&"edge-1".parse().unwrap()).await.unwrap();
    let said =
        |id: usize| Down::TwinConfirmed { id: MessageId::fresh(), to: id.to_string().parse().unwrap() };
    queue.say(said(1));
    queue.say(said(2));
    let ids: Vec<String> = queue
        .take_said()
        .into_iter()
        .map(|message| match message {
            Down::TwinConfirmed { to, .. } => to.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, ["1", "2"]);
    for id in 0..=MAX_SAID {
        queue.say(said(id));
    }
    assert_eq!(queue.ended(), Some(Ended::Overrun));
}

#[tokio::test]
async fn an_ended_link_notes_nothing() {
    let ledger = Arc::new(MemoryLedger::default());
    let node: NodeName = "edge-1".parse().unwrap();
    let (_, nodes, _keeper) = NodeQueueKeeper::new(Arc::clone(&ledger) as _);
    let queue = nodes.attach(&node).await.unwrap();
    queue.put(desired("a", 5));
    queue.end(Ended::NodeGone);
    confirm(&queue).await;
    assert!(ledger.load(&node).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_needed_again_goes_again() {
    let ledger = Arc::new(MemoryLedger::default());
    let node: NodeName = "edge-1".parse().unwrap();
    let object = desired("a", 5);
    let held = Held { key: object.key.clone(), version: object.version };
    ledger.confirmed(&node, &object.uid, held).await;
    let (_, nodes, _keeper) = NodeQueueKeeper::new(Arc::clone(&ledger) as _);
    let queue = nodes.attach(&node).await.unwrap();
    queue.delete(handle::bare_gone(&object.uid, &object.key));
    let Some(Down::Delete(deletion)) = queue.take() else { panic!("the deletion is due") };
    // A Pod that names the same ConfigMap arrives before the node has confirmed that it dropped it.
    queue.put(object.clone());
    queue.delivered(&object.key, &deletion.id).await;
    assert!(ledger.load(&node).await.unwrap().is_empty());
    assert_eq!(names(&queue), ["put a 5"]);
}

#[tokio::test]
async fn a_confirmation_that_crosses_a_removal_does_not_hide_what_comes_after() {
    let node: NodeName = "edge-1".parse().unwrap();
    let (_, nodes, _keeper) = NodeQueueKeeper::new(Arc::new(MemoryLedger::default()));
    let queue = nodes.attach(&node).await.unwrap();
    let object = desired("a", 5);
    queue.put(object.clone());
    let Some(Down::Put(put)) = queue.take() else { panic!("the object is due") };
    queue.delete(handle::bare_gone(&object.uid, &object.key));
    queue.delivered(&object.key, &put.id).await;
    queue.put(object.clone());
    assert_eq!(names(&queue), ["put a 5"], "needed after all");
}

#[tokio::test]
async fn a_new_link_ends_the_old_one() {
    let (_, nodes, _keeper) = NodeQueueKeeper::new(Arc::new(MemoryLedger::default()));
    let node: NodeName = "edge-1".parse().unwrap();
    let old = nodes.attach(&node).await.unwrap();
    let new = nodes.attach(&node).await.unwrap();
    assert_eq!(old.ended(), Some(Ended::Replaced));
    assert_eq!(new.ended(), None);
    assert!(!nodes.detach(&old), "the old link's end does not take the new one away");
    assert_eq!(nodes.n_connected(), 1);
    assert!(nodes.detach(&new));
}
