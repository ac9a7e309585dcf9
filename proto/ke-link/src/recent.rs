//! The last so many message ids. Pure; used by the edge's end only.

use std::collections::{HashSet, VecDeque};

use ke_wire::MessageId;

/// A set that forgets its oldest member when it is full.
#[derive(Debug)]
pub(crate) struct RecentIds {
    limit: usize,
    order: VecDeque<MessageId>,
    members: HashSet<MessageId>,
}

impl RecentIds {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, order: VecDeque::new(), members: HashSet::new() }
    }

    pub(crate) fn contains(&self, id: &MessageId) -> bool {
        self.members.contains(id)
    }

    pub(crate) fn insert(&mut self, id: MessageId) {
        if self.limit == 0 || !self.members.insert(id.clone()) {
            return;
        }
        if self.order.len() == self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.members.remove(&oldest);
        }
        self.order.push_back(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let ids: Vec<MessageId> = ["a", "b", "c"].iter().map(|text| text.parse().unwrap()).collect();
        let mut recent = RecentIds::new(2);
        for id in &ids {
            recent.insert(id.clone());
            recent.insert(id.clone());
        }
        assert_eq!(ids.iter().map(|id| recent.contains(id)).collect::<Vec<_>>(), [false, true, true]);
    }
}
