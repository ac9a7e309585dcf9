//! Pure: what one node must still be told, newest first decided per object.
//!
//! One lane per object key. A newer version replaces one that waits; the last order about a uid wins; a deletion of an
//! earlier object of the same name goes before the new one. Edges keep no order between messages, so a lane never has
//! two under way, and Devices wait until the node has confirmed the DeviceModels on their way: a Go edge drops a Device
//! whose model it does not know. A model that a node did not take once holds up nobody any more.

use std::collections::{HashMap, HashSet, VecDeque};

use ke_wire::{Kind, MessageId, ObjectKey, Uid};

use super::{Desired, Gone};

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Hold this.
    Put(Desired),
    /// Hold this no longer.
    Delete(Gone),
}

#[derive(Debug, Default)]
struct Lane {
    /// Objects of this name that must go, oldest first.
    deletes: VecDeque<Gone>,
    put: Option<Desired>,
    under_way: Option<(MessageId, Item)>,
    /// The node did not take what was sent last.
    was_lost: bool,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.deletes.is_empty() && self.put.is_none() && self.under_way.is_none()
    }

    /// Whether something is on its way that others may need.
    fn brings(&self) -> bool {
        let is_put = matches!(&self.under_way, Some((_, Item::Put(_))));
        !self.was_lost && (is_put || self.put.is_some())
    }

    fn wants_turn(&self) -> bool {
        self.under_way.is_none() && (!self.deletes.is_empty() || self.put.is_some())
    }
}

/// What waits for one node, and what is under way to it.
#[derive(Debug, Default)]
pub struct Queue {
    lanes: HashMap<ObjectKey, Lane>,
    turn: VecDeque<ObjectKey>,
    /// DeviceModels that are on their way.
    models: HashSet<ObjectKey>,
}

impl Queue {
    /// The node must hold this.
    pub fn put(&mut self, desired: Desired) {
        let lane = self.lanes.entry(desired.key.clone()).or_default();
        lane.deletes.retain(|gone| gone.uid != desired.uid);
        let is_older = lane.put.as_ref().is_some_and(|waiting| {
            waiting.uid == desired.uid && !desired.version.is_newer_than(waiting.version)
        });
        let is_under_way = matches!(&lane.under_way, Some((_, Item::Put(sent)))
            if sent.uid == desired.uid && !desired.version.is_newer_than(sent.version));
        let key = desired.key.clone();
        if !is_older && !is_under_way {
            lane.put = Some(desired);
            lane.was_lost = false;
        }
        self.enter(key);
    }

    /// The node must no longer hold this.
    pub fn delete(&mut self, gone: Gone) {
        let lane = self.lanes.entry(gone.key.clone()).or_default();
        if lane.put.as_ref().is_some_and(|waiting| waiting.uid == gone.uid) {
            lane.put = None;
        }
        let is_known = lane.deletes.iter().any(|other| other.uid == gone.uid)
            || matches!(&lane.under_way, Some((_, Item::Delete(sent))) if sent.uid == gone.uid);
        let key = gone.key.clone();
        if !is_known {
            lane.deletes.push_back(gone);
        }
        self.enter(key);
    }

    /// The next thing to send; `id` names it from now on.
    pub fn next(&mut self, id: &MessageId) -> Option<Item> {
        while let Some(at) = self.turn.iter().position(|key| !self.is_held(key)) {
            let Some(key) = self.turn.remove(at) else { continue };
            let Some(lane) = self.lanes.get_mut(&key) else { continue };
            if lane.under_way.is_some() {
                continue;
            }
            let item = match lane.deletes.pop_front() {
                Some(gone) => Item::Delete(gone),
                None => match lane.put.take() {
                    Some(desired) => Item::Put(desired),
                    None => continue,
                },
            };
            lane.under_way = Some((id.clone(), item.clone()));
            return Some(item);
        }
        None
    }

    /// Whether `next` would give something.
    pub fn has_next(&self) -> bool {
        let is_next = |key| self.lanes.get(key).is_some_and(Lane::wants_turn) && !self.is_held(key);
        self.turn.iter().any(is_next)
    }

    /// A Device that has to wait for a DeviceModel. Its removal does not.
    fn is_held(&self, key: &ObjectKey) -> bool {
        !self.models.is_empty()
            && key.kind == Kind::Device
            && self.lanes.get(key).is_some_and(|lane| lane.deletes.is_empty())
    }

    /// The node has it. Gives back what it was.
    pub fn delivered(&mut self, key: &ObjectKey, id: &MessageId) -> Option<Item> {
        let lane = self.lanes.get_mut(key)?;
        let (_, item) = lane.under_way.take_if(|(sent, _)| sent == id)?;
        lane.was_lost = false;
        self.enter(key.clone());
        if self.lanes.is_empty() {
            // Nodes are many and mostly have nothing to be told: an empty queue holds no memory.
            *self = Self::default();
        }
        Some(item)
    }

    /// The node did not take it; it goes again after the others, unless something newer waits.
    pub fn lost(&mut self, key: &ObjectKey, id: &MessageId) {
        let Some(item) = self.delivered(key, id) else { return };
        let lane = self.lanes.entry(key.clone()).or_default();
        lane.was_lost = true;
        match item {
            Item::Put(desired) => {
                let is_gone = lane.deletes.iter().any(|gone| gone.uid == desired.uid);
                if lane.put.is_none() && !is_gone {
                    lane.put = Some(desired);
                }
            }
            Item::Delete(gone) => {
                if lane.put.as_ref().is_none_or(|waiting| waiting.uid != gone.uid) {
                    lane.deletes.push_front(gone);
                }
            }
        }
        self.enter(key.clone());
    }

    /// Whether the removal of this object waits or is under way.
    pub fn removes(&self, key: &ObjectKey, uid: &Uid) -> bool {
        self.lanes.get(key).is_some_and(|lane| {
            let under_way = matches!(&lane.under_way, Some((_, Item::Delete(sent))) if sent.uid == *uid);
            under_way || lane.deletes.iter().any(|gone| gone.uid == *uid)
        })
    }

    /// Number of objects that wait or are under way.
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Whether nothing waits and nothing is under way.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    fn enter(&mut self, key: ObjectKey) {
        let Some(lane) = self.lanes.get(&key) else { return };
        if key.kind == Kind::DeviceModel {
            if lane.brings() {
                self.models.insert(key.clone());
            } else {
                self.models.remove(&key);
            }
        }
        if lane.is_empty() {
            self.lanes.remove(&key);
        } else if lane.wants_turn() && !self.turn.contains(&key) {
            self.turn.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ke_wire::{Change, Origin, Version};
    use proptest::prelude::*;

    use super::*;

    fn put(name: &str, uid: &str, version: u64) -> Desired {
        Desired {
            key: format!("default/pod/{name}").parse().unwrap(),
            uid: uid.parse().unwrap(),
            version: Version::new(version),
            change: Change::Updated,
            origin: Origin::EdgeController,
            body: Default::default(),
        }
    }

    fn gone(name: &str, uid: &str) -> Gone {
        Gone {
            key: format!("default/pod/{name}").parse().unwrap(),
            uid: uid.parse().unwrap(),
            version: None,
            origin: Origin::EdgeController,
            body: Default::default(),
        }
    }

    fn take(queue: &mut Queue) -> Option<(MessageId, Item)> {
        let id = MessageId::fresh();
        queue.next(&id).map(|item| (id, item))
    }

    #[test]
    fn the_newest_waits_and_one_is_under_way() {
        let mut queue = Queue::default();
        queue.put(put("a", "u", 1));
        queue.put(put("a", "u", 3));
        queue.put(put("a", "u", 2));
        let (id, item) = take(&mut queue).unwrap();
        assert_eq!(item, Item::Put(put("a", "u", 3)));
        queue.put(put("a", "u", 4));
        assert!(take(&mut queue).is_none(), "one of an object at a time");
        assert!(!queue.has_next());
        queue.delivered(&put("a", "u", 3).key, &id);
        assert_eq!(take(&mut queue).unwrap().1, Item::Put(put("a", "u", 4)));
    }

    #[test]
    fn a_new_object_waits_for_the_old_one_to_go() {
        let mut queue = Queue::default();
        queue.put(put("a", "new", 9));
        queue.delete(gone("a", "old"));
        let (id, item) = take(&mut queue).unwrap();
        assert_eq!(item, Item::Delete(gone("a", "old")));
        queue.delivered(&gone("a", "old").key, &id);
        assert_eq!(take(&mut queue).unwrap().1, Item::Put(put("a", "new", 9)));
    }

    #[test]
    fn the_last_order_about_a_uid_wins() {
        let mut queue = Queue::default();
        queue.put(put("a", "u", 1));
        queue.delete(gone("a", "u"));
        assert_eq!(take(&mut queue).unwrap().1, Item::Delete(gone("a", "u")));
        assert!(take(&mut queue).is_none());
        let mut queue = Queue::default();
        queue.delete(gone("a", "u"));
        queue.put(put("a", "u", 1));
        assert_eq!(take(&mut queue).unwrap().1, Item::Put(put("a", "u", 1)));
        assert!(take(&mut queue).is_none());
    }

    #[test]
    fn what_is_lost_goes_again_after_the_others() {
        let mut queue = Queue::default();
        queue.put(put("a", "u", 1));
        queue.put(put("b", "v", 1));
        let (id, _) = take(&mut queue).unwrap();
        queue.lost(&put("a", "u", 1).key, &id);
        assert_eq!(take(&mut queue).unwrap().1, Item::Put(put("b", "v", 1)));
        assert_eq!(take(&mut queue).unwrap().1, Item::Put(put("a", "u", 1)));
    }

    #[test]
    fn devices_wait_for_models_on_their_way() {
        let of = |kind: &str, name: &str, version| Desired {
            key: format!("default/{kind}/{name}").parse().unwrap(),
            ..put(name, name, version)
        };
        let (model, oven, lamp) =
            (of("devicemodel", "m", 1), of("device", "oven", 1), of("device", "lamp", 1));
        let mut queue = Queue::default();
        queue.put(oven.clone());
        queue.put(model.clone());
        queue.delete(Gone { key: lamp.key.clone(), ..gone("lamp", "lamp") });
        queue.put(put("a", "u", 1));
        let (first, item) = take(&mut queue).unwrap();
        assert_eq!(item, Item::Put(model.clone()));
        assert!(matches!(take(&mut queue).unwrap().1, Item::Delete(_)), "a removal waits for no model");
        assert_eq!(take(&mut queue).unwrap().1, Item::Put(put("a", "u", 1)));
        assert!(!queue.has_next() && take(&mut queue).is_none());
        queue.delivered(&model.key, &first);
        assert!(queue.has_next());
        assert_eq!(take(&mut queue).unwrap().1, Item::Put(oven.clone()));
        // A model that a node cannot take holds up nobody for ever.
        let mut queue = Queue::default();
        queue.put(oven.clone());
        queue.put(model.clone());
        let (id, item) = take(&mut queue).unwrap();
        assert_eq!(item, Item::Put(model.clone()));
        queue.lost(&model.key, &id);
        assert_eq!(take(&mut queue).unwrap().1, Item::Put(oven));
        assert_eq!(take(&mut queue).unwrap().1, Item::Put(model));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(u8, u8),
        Delete(u8, u8),
        Send,
        Deliver(usize),
        Lose(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..3_u8, 0..2_u8).prop_map(|(name, uid)| Step::Put(name, uid)),
            (0..3_u8, 0..2_u8).prop_map(|(name, uid)| Step::Delete(name, uid)),
            Just(Step::Send),
            (0..4_usize).prop_map(Step::Deliver),
            (0..4_usize).prop_map(Step::Lose),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        /// Whatever happens, once everything is delivered the node holds what the last order about each uid said.
        #[test]
        fn a_drained_queue_leaves_the_node_as_ordered(steps in steps()) {
            let mut queue = Queue::default();
            let mut ordered: BTreeMap<String, Option<u64>> = BTreeMap::new();
            let mut node: BTreeMap<String, Option<u64>> = BTreeMap::new();
            let mut flying: Vec<(MessageId, Item)> = Vec::new();
            let mut version = 0;
            let arrive = |queue: &mut Queue, node: &mut BTreeMap<_, _>, id: MessageId, item: Item| {
                let key = match &item {
                    Item::Put(put) => { node.insert(put.uid.to_string(), Some(put.version.number())); put.key.clone() }
                    Item::Delete(gone) => { node.insert(gone.uid.to_string(), None); gone.key.clone() }
                };
                queue.delivered(&key, &id);
            };
            for step in steps {
                match step {
                    Step::Put(name, uid) => {
                        version += 1;
                        let uid = format!("u{name}-{uid}");
                        // A name has one object at a time: whoever puts another one says that those before it are no more,
                        // and orders their deletion or does not care.
                        let same_name = format!("u{name}-");
                        ordered.retain(|other, wanted| wanted.is_none() || !other.starts_with(&same_name));
                        queue.put(put(&format!("n{name}"), &uid, version));
                        // An object of the name means that the one before is gone, and its deletion is ordered in time.
                        ordered.retain(|other, held| held.is_none() || !other.starts_with(&format!("u{name}-")));
                        ordered.insert(uid, Some(version));
                    }
                    Step::Delete(name, uid) => {
                        let uid = format!("u{name}-{uid}");
                        queue.delete(gone(&format!("n{name}"), &uid));
                        ordered.insert(uid, None);
                    }
                    Step::Send => flying.extend(take(&mut queue)),
                    Step::Deliver(index) if index < flying.len() => {
                        let (id, item) = flying.remove(index);
                        arrive(&mut queue, &mut node, id, item);
                    }
                    Step::Lose(index) if index < flying.len() => {
                        let (id, item) = flying.remove(index);
                        let key = match &item { Item::Put(put) => put.key.clone(), Item::Delete(gone) => gone.key.clone() };
                        queue.lost(&key, &id);
                    }
                    Step::Deliver(_) | Step::Lose(_) => {}
                }
            }
            for (id, item) in flying {
                arrive(&mut queue, &mut node, id, item);
            }
            while let Some((id, item)) = take(&mut queue) {
                arrive(&mut queue, &mut node, id, item);
            }
            prop_assert!(queue.is_empty());
            for (uid, wanted) in &ordered {
                prop_assert_eq!(node.get(uid).copied().flatten(), *wanted, "{}", uid);
            }
        }
    }
}
