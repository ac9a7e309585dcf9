//! Pure: the last message of each topic that asked to be kept, bounded in number and bytes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Message, Qos, matches};

/// Messages by topic.
#[derive(Debug)]
pub(crate) struct Retained {
    messages: BTreeMap<Arc<str>, (Bytes, Qos)>,
    n_bytes: usize,
    max_messages: usize,
    max_bytes: usize,
}

/// What became of a message that asked to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Yes,
    /// An empty payload: the topic is kept no longer.
    Removed,
    /// An empty payload for a topic without a message.
    Nothing,
    /// No room. What the topic had before is gone too: it is no longer what was said last.
    Full,
}

impl Retained {
    pub(crate) fn new(max_messages: usize, max_bytes: usize) -> Self {
        Self { messages: BTreeMap::new(), n_bytes: 0, max_messages, max_bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn put(&mut self, message: &Message, qos: Qos) -> Kept {
        let before = self.messages.get(&message.topic).map(|(payload, _)| weight(&message.topic, payload));
        if message.payload.is_empty() {
            return if self.remove(&message.topic) { Kept::Removed } else { Kept::Nothing };
        }
        let after = self.n_bytes - before.unwrap_or(0) + weight(&message.topic, &message.payload);
        if after > self.max_bytes || (before.is_none() && self.messages.len() >= self.max_messages) {
            self.remove(&message.topic);
            return Kept::Full;
        }
        self.n_bytes = after;
        self.messages.insert(Arc::clone(&message.topic), (message.payload.clone(), qos));
        Kept::Yes
    }

    pub(crate) fn remove(&mut self, topic: &str) -> bool {
        let removed = self.messages.remove(topic);
        self.n_bytes -= removed.as_ref().map_or(0, |(payload, _)| weight(topic, payload));
        removed.is_some()
    }

    /// The next one for a filter, in the order of topics.
    pub(crate) fn after(&self, topic: Option<&Arc<str>>, filter: &str) -> Option<(Message, Qos)> {
        let from = topic.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.messages.range::<Arc<str>, _>((from, Bound::Unbounded));
        let (topic, (payload, qos)) = rest.find(|(topic, _)| matches(filter, topic))?;
        Some((Message { topic: Arc::clone(topic), payload: payload.clone() }, *qos))
    }
}

/// The tree and the two counted texts cost about this beside the bytes themselves.
fn weight(topic: &str, payload: &[u8]) -> usize {
    topic.len() + payload.len() + 96
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_and_in_order() {
        let mut retained = Retained::new(2, 600);
        let mut check = |topic: &str, size: usize, expected: Kept| {
            let message = Message { topic: topic.into(), payload: vec![0; size].into() };
            assert_eq!(retained.put(&message, Qos::AtMostOnce), expected, "{topic} {size}");
        };
        check("b/1", 10, Kept::Yes);
        check("a/1", 10, Kept::Yes);
        check("c/1", 10, Kept::Full);
        check("b/1", 600, Kept::Full);
        check("b/1", 0, Kept::Nothing);
        check("b/1", 300, Kept::Yes);
        check("a/1", 0, Kept::Removed);
        check("a/1", 0, Kept::Nothing);
        check("a/2", 1, Kept::Yes);
        let (first, _) = retained.after(None, "+/#").unwrap();
        assert_eq!(&*first.topic, "a/2");
        let (second, _) = retained.after(Some(&first.topic), "+/#").unwrap();
        assert_eq!((&*second.topic, second.payload.len()), ("b/1", 300));
        assert!(retained.after(Some(&second.topic), "+/#").is_none());
        assert!(retained.after(None, "+").is_none());
    }
}
