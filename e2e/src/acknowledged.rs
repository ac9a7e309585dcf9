//! What an edge was sent and what it acknowledged, and whether a store holds no less. Pure.
//!
//! An edge applies what it is sent in order. So the store must be as after the last change it acknowledged, or as after
//! one that was sent later. Written by `tap`, asked by stories.

use std::collections::{BTreeMap, HashMap};

use ke_wire::{MessageId, ObjectKey};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    /// Of this version.
    Put(u64),
    /// Of the object with this uid; of any, where there is none.
    Delete(Option<String>),
}

#[derive(Clone, Debug)]
struct Sent {
    change: Change,
    is_acknowledged: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    /// Of each object, in the order sent.
    sent: BTreeMap<ObjectKey, Vec<Sent>>,
    by_id: HashMap<MessageId, (ObjectKey, usize)>,
    n_acks: usize,
}

/// A row of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub uid: String,
    pub version: u64,
}

impl Acknowledged {
    pub fn put(&mut self, id: MessageId, key: ObjectKey, version: u64) {
        self.send(id, key, Change::Put(version));
    }

    pub fn delete(&mut self, id: MessageId, key: ObjectKey, uid: Option<String>) {
        self.send(id, key, Change::Delete(uid));
    }

    fn send(&mut self, id: MessageId, key: ObjectKey, change: Change) {
        let sent = self.sent.entry(key.clone()).or_default();
        self.by_id.insert(id, (key, sent.len()));
        sent.push(Sent { change, is_acknowledged: false });
    }

    /// Acknowledgements of anything else than a change of an object are none of ours.
    pub fn acknowledge(&mut self, id: &MessageId) {
        let Some((key, index)) = self.by_id.get(id) else { return };
        if let Some(sent) = self.sent.get_mut(key).and_then(|sent| sent.get_mut(*index)) {
            self.n_acks += usize::from(!sent.is_acknowledged);
            sent.is_acknowledged = true;
        }
    }

    pub fn n_acks(&self) -> usize {
        self.n_acks
    }

    /// Every object that was ever sent.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.sent.keys()
    }

    /// The version that the store must hold at least; `None` after an acknowledged delete, or before the first.
    pub fn version(&self, key: &ObjectKey) -> Option<u64> {
        let sent = self.sent.get(key)?;
        let kept = sent.iter().rev().filter(|sent| sent.is_acknowledged);
        let puts = kept.map_while(|sent| match sent.change {
            Change::Put(version) => Some(version),
            Change::Delete(_) => None,
        });
        puts.max()
    }

    /// Why `row`, which the store holds of `key`, is less than what was acknowledged.
    pub fn fault(&self, key: &ObjectKey, row: Option<&Row>) -> Option<String> {
        let sent = self.sent.get(key)?;
        let last = sent.iter().rposition(|sent| sent.is_acknowledged)?;
        let later = sent.get(last + 1..).unwrap_or_default();
        match (self.version(key), row) {
            (Some(version), Some(row)) => (row.version < version).then(|| {
                format!("{key}: version {version} was acknowledged, the store holds {}", row.version)
            }),
            (Some(version), None) => {
                let is_going = later.iter().any(|sent| matches!(sent.change, Change::Delete(_)));
                (!is_going)
                    .then(|| format!("{key}: version {version} was acknowledged, the store holds nothing"))
            }
            (None, Some(row)) => {
                let is_coming = later.iter().any(|sent| matches!(sent.change, Change::Put(_)));
                let gone = match sent.get(last).map(|sent| &sent.change) {
                    Some(Change::Delete(uid)) => uid.as_ref().is_none_or(|uid| *uid == row.uid),
                    _ => false,
                };
                (gone && !is_coming).then(|| {
                    format!("{key}: its end was acknowledged, the store holds version {}", row.version)
                })
            }
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each word is a change with its version or uid; `!` after it: acknowledged. The row is `uid` and version.
    fn check(words: &str, row: Option<(&str, u64)>, is_good: bool) {
        let key: ObjectKey = "default/configmap/a".parse().unwrap();
        let mut seen = Acknowledged::default();
        for word in words.split(' ') {
            let id = MessageId::fresh();
            let (kind, value) = word.trim_end_matches('!').split_at(1);
            match kind {
                "p" => seen.put(id.clone(), key.clone(), value.parse().unwrap()),
                _ => seen.delete(id.clone(), key.clone(), Some(value.to_owned())),
            }
            if word.ends_with('!') {
                seen.acknowledge(&id);
            }
        }
        let row = row.map(|(uid, version)| Row { uid: uid.into(), version });
        let fault = seen.fault(&key, row.as_ref());
        assert_eq!(fault.is_none(), is_good, "{words} with {row:?}: {fault:?}");
    }

    #[test]
    fn the_store_is_as_after_the_last_acknowledged_change_or_a_later_one() {
        check("p5", None, true);
        check("p5!", None, false);
        check("p5!", Some(("u", 5)), true);
        check("p5! p6", Some(("u", 6)), true);
        check("p5! p6!", Some(("u", 5)), false);
        check("p6! p5!", Some(("u", 5)), false);
        check("p5! du", None, true);
        check("p5! du", Some(("u", 5)), true);
        check("p5! du", Some(("u", 4)), false);
        check("p5! du!", None, true);
        check("p5! du!", Some(("u", 5)), false);
        check("p5! du!", Some(("v", 7)), true);
        check("p5! du! p8", Some(("v", 8)), true);
        check("p5! du! p8!", None, false);
        check("p5! du p8!", None, false);
    }
}
