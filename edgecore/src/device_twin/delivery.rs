//! Pure: which call one mapper must get next.
//!
//! A mapper should hold what is wanted; what it holds is known from the calls that succeeded and from what a registration
//! was answered with. The next call is the first difference: models before devices, removals last and in reverse. A call
//! that failed is tried again, later and later, and holds up nobody else.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::catalogue::{Digest, Key, Message, Wanted};

/// Wait after the first failure; a mapper that registers needs a moment until it serves.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Wait after many.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A call that a mapper must get.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    /// It holds nothing of this name, as far as is known.
    Create(Message),
    /// It may hold another form.
    Update(Message),
    Remove(Key),
}

/// What the mapper holds of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Known(Digest),
    /// A call about it came to no clear end.
    Unsure,
}

#[derive(Clone, Copy, Debug)]
struct Failed {
    n_tries: u32,
    not_before: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Delivery {
    wanted: BTreeMap<Key, Wanted>,
    held: BTreeMap<Key, Held>,
    failed: BTreeMap<Key, Failed>,
}

impl Delivery {
    /// `held`: what the mapper is known to hold.
    pub(super) fn new(wanted: BTreeMap<Key, Wanted>, held: BTreeMap<Key, Digest>) -> Self {
        let held = held.into_iter().map(|(key, digest)| (key, Held::Known(digest))).collect();
        Self { wanted, held, failed: BTreeMap::new() }
    }

    /// What is wanted of `key` from now on.
    pub(super) fn want(&mut self, key: Key, wanted: Option<Wanted>) {
        // Something new is worth an attempt at once.
        self.failed.remove(&key);
        match wanted {
            Some(wanted) => drop(self.wanted.insert(key, wanted)),
            None => drop(self.wanted.remove(&key)),
        }
    }

    /// The next call and what it makes the mapper hold.
    pub(super) fn next(&self, now: Instant) -> Option<(Key, Call)> {
        let call = |key: &Key| {
            let is_due = self.failed.get(key).is_none_or(|failed| failed.not_before <= now);
            is_due.then(|| self.difference(key)).flatten().map(|call| (key.clone(), call))
        };
        let gone = self.held.keys().rev().filter(|key| !self.wanted.contains_key(*key));
        self.wanted.keys().chain(gone).find_map(call)
    }

    /// What must be told about `key` alone, if anything.
    fn difference(&self, key: &Key) -> Option<Call> {
        let held = self.held.get(key);
        let Some(wanted) = self.wanted.get(key) else { return held.map(|_| Call::Remove(key.clone())) };
        if let Message::Device(_, model) = &wanted.message
            && !self.held.contains_key(&Key::Model(model.clone()))
        {
            return None;
        }
        match held {
            Some(Held::Known(digest)) if *digest == wanted.digest => None,
            Some(_) => Some(Call::Update(wanted.message.clone())),
            None => Some(Call::Create(wanted.message.clone())),
        }
    }

    /// When a failed call may be tried again, if one waits for that. What became the same meanwhile waits for nothing.
    pub(super) fn next_try(&self) -> Option<Instant> {
        let waiting = self.failed.iter().filter(|(key, _)| self.difference(key).is_some());
        waiting.map(|(_, failed)| failed.not_before).min()
    }

    /// The mapper did what it was asked. Gives back what it holds now.
    pub(super) fn done(&mut self, key: &Key, call: &Call) -> Option<Digest> {
        self.failed.remove(key);
        let digest = match call {
            Call::Remove(_) => None,
            // What is wanted may have changed during the call: then it holds the older form.
            Call::Create(message) | Call::Update(message) => {
                self.wanted.get(key).filter(|wanted| wanted.message == *message).map(|wanted| wanted.digest)
            }
        };
        match (digest, call) {
            (Some(digest), _) => drop(self.held.insert(key.clone(), Held::Known(digest))),
            (None, Call::Remove(_)) => drop(self.held.remove(key)),
            (None, _) => drop(self.held.insert(key.clone(), Held::Unsure)),
        }
        digest
    }

    /// The call failed; `is_clear`: the mapper itself said so, and holds what it held.
    pub(super) fn failed(&mut self, key: &Key, is_clear: bool, now: Instant) {
        // A device that is there already is not made by a second Create, and one that may be there must be removable. A
        // model may be made twice.
        if !is_clear && (matches!(key, Key::Device(_)) || self.held.contains_key(key)) {
            self.held.insert(key.clone(), Held::Unsure);
        }
        let n_tries = self.failed.get(key).map_or(0, |failed| failed.n_tries);
        let wait = FIRST_WAIT.saturating_mul(1 << n_tries.min(16)).min(LONGEST_WAIT);
        self.failed
            .insert(key.clone(), Failed { n_tries: n_tries.saturating_add(1), not_before: now + wait });
    }

    /// How many calls failed and are to be tried again.
    pub(super) fn n_failures(&self) -> usize {
        self.failed.len()
    }
}

#[cfg(test)]
mod tests {
    use ke_dmi::v1beta1 as dmi;
    use ke_wire::DeviceId;

    use super::*;

    fn id(name: &str) -> DeviceId {
        DeviceId { namespace: "plant".parse().unwrap(), name: name.parse().unwrap() }
    }

    fn model(digest: u8) -> (Key, Wanted) {
        let message = dmi::DeviceModel { name: format!("m{digest}"), ..Default::default() };
        (Key::Model(id("oven")), Wanted { digest: [digest; 32], message: Message::Model(message) })
    }

    fn device(name: &str, digest: u8) -> (Key, Wanted) {
        let message = dmi::Device { name: format!("{name}{digest}"), ..Default::default() };
        let message = Message::Device(Box::new(message), id("oven"));
        (Key::Device(id(name)), Wanted { digest: [digest; 32], message })
    }

    fn text(call: &(Key, Call)) -> String {
        let name = |key: &Key| match key {
            Key::Model(id) => format!("model {}", id.name),
            Key::Device(id) => format!("device {}", id.name),
        };
        match call {
            (key, Call::Create(_)) => format!("create {}", name(key)),
            (key, Call::Update(_)) => format!("update {}", name(key)),
            (key, Call::Remove(_)) => format!("remove {}", name(key)),
        }
    }

    fn all(delivery: &mut Delivery, now: Instant) -> Vec<String> {
        let mut calls = Vec::new();
        while let Some((key, call)) = delivery.next(now) {
            calls.push(text(&(key.clone(), call.clone())));
            delivery.done(&key, &call);
        }
        calls
    }

    #[test]
    fn models_first_and_removals_in_reverse() {
        let now = Instant::now();
        let mut delivery = Delivery::new([model(1), device("a", 1), device("b", 1)].into(), BTreeMap::new());
        assert_eq!(all(&mut delivery, now), ["create model oven", "create device a", "create device b"]);
        let (key, wanted) = device("a", 2);
        delivery.want(key, Some(wanted));
        assert_eq!(all(&mut delivery, now), ["update device a"]);
        for key in [model(1).0, device("a", 1).0, device("b", 1).0] {
            delivery.want(key, None);
        }
        assert_eq!(all(&mut delivery, now), ["remove device b", "remove device a", "remove model oven"]);
    }

    #[test]
    fn a_restart_tells_only_what_changed() {
        let held = [(model(1).0, [1; 32]), (device("a", 1).0, [1; 32]), (device("x", 1).0, [1; 32])];
        let mut delivery = Delivery::new([model(1), device("a", 2)].into(), held.into());
        assert_eq!(all(&mut delivery, Instant::now()), ["update device a", "remove device x"]);
    }

    #[test]
    fn a_failure_waits_alone_and_longer_each_time() {
        let now = Instant::now();
        let mut delivery =
            Delivery::new([model(1), device("a", 1), device("b", 1)].into(), [(model(1).0, [1; 32])].into());
        delivery.failed(&device("a", 1).0, true, now);
        assert_eq!(all(&mut delivery, now), ["create device b"]);
        assert_eq!(delivery.next_try(), Some(now + FIRST_WAIT));
        delivery.failed(&device("a", 1).0, true, now);
        assert_eq!(delivery.next(now + FIRST_WAIT), None);
        assert_eq!(all(&mut delivery, now + FIRST_WAIT * 2), ["create device a"]);
        assert_eq!(delivery.next_try(), None);
    }

    #[test]
    fn after_an_unclear_end_it_is_an_update() {
        let now = Instant::now();
        let mut delivery = Delivery::new([model(1), device("a", 1)].into(), [(model(1).0, [1; 32])].into());
        let (key, call) = delivery.next(now).unwrap();
        // Changed while the call was under way.
        delivery.want(device("a", 2).0, Some(device("a", 2).1));
        assert_eq!(delivery.done(&key, &call), None);
        assert_eq!(all(&mut delivery, now), ["update device a"]);
    }

    #[test]
    fn what_may_have_been_taken_is_updated_or_removed() {
        let now = Instant::now();
        let begin = || Delivery::new([model(1), device("a", 1)].into(), [(model(1).0, [1; 32])].into());
        let mut delivery = begin();
        assert_eq!(text(&delivery.next(now).unwrap()), "create device a");
        delivery.failed(&device("a", 1).0, false, now);
        let (key, wanted) = device("a", 2);
        delivery.want(key, Some(wanted));
        assert_eq!(all(&mut delivery, now), ["update device a"]);

        let mut delivery = begin();
        delivery.want(device("a", 1).0, None);
        delivery.failed(&device("a", 1).0, false, now);
        assert_eq!(all(&mut delivery, now + FIRST_WAIT), ["remove device a"]);
    }

    #[test]
    fn what_became_the_same_is_not_waited_for() {
        let now = Instant::now();
        let held = || [(model(1).0, [1; 32]), (device("a", 1).0, [1; 32])].into();
        // Back to what the mapper holds, while the call was under way.
        let mut delivery = Delivery::new([model(1), device("a", 2)].into(), held());
        let (key, wanted) = device("a", 1);
        delivery.want(key.clone(), Some(wanted));
        delivery.failed(&key, true, now);
        assert_eq!((delivery.next_try(), delivery.next(now + LONGEST_WAIT)), (None, None));
        // Not wanted any more, and refused.
        let mut delivery = Delivery::new([model(1), device("a", 1), device("b", 1)].into(), held());
        delivery.want(device("b", 1).0, None);
        delivery.failed(&device("b", 1).0, true, now);
        assert_eq!((delivery.next_try(), delivery.next(now + LONGEST_WAIT)), (None, None));
        // Its model is gone.
        let mut delivery = Delivery::new([model(1), device("a", 2)].into(), held());
        delivery.failed(&key, true, now);
        delivery.want(model(1).0, None);
        assert_eq!(all(&mut delivery, now), ["remove model oven"]);
        assert_eq!(delivery.next_try(), None);
    }
}
