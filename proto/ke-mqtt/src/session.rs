//! Pure: what the broker knows of one client: its subscriptions, what waits for it, what is on its way to it.
//!
//! One order for everything said to one client: a message of QoS 0 never overtakes one of QoS 1. Called by `broker.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::retained::Retained;
use crate::turn::{Connection, Limits, Turn};
use crate::{Change, Delivery, Message, Packet, PacketId, Publish, Qos, matches};

/// A message that waits.
#[derive(Clone, Debug)]
struct Waiting {
    message: Message,
    qos: Qos,
    retain: bool,
    /// Under which it is stored; `None` where nothing is.
    sequence: Option<u64>,
}

/// A message on its way.
#[derive(Debug)]
struct UnderWay {
    id: PacketId,
    waiting: Waiting,
    /// QoS 2: the client has it.
    released: bool,
}

/// Retained messages that a new subscription still has to be told.
#[derive(Debug)]
struct Replay {
    filter: Arc<str>,
    qos: Qos,
    after: Option<Arc<str>>,
}

#[derive(Debug)]
pub(crate) struct Session {
    client: Arc<str>,
    /// It leaves no trace.
    pub(crate) clean: bool,
    /// Order of departures: whoever left first makes room first.
    pub(crate) left: u64,
    subscriptions: BTreeMap<Arc<str>, Qos>,
    waiting: VecDeque<Waiting>,
    n_bytes_waiting: usize,
    under_way: VecDeque<UnderWay>,
    replays: VecDeque<Replay>,
    /// QoS 2 messages of the client that it may repeat.
    received: BTreeSet<PacketId>,
    last_id: u16,
}

impl Session {
    pub(crate) fn new(client: Arc<str>, clean: bool) -> Self {
        Self {
            client,
            clean,
            left: 0,
            subscriptions: BTreeMap::new(),
            waiting: VecDeque::new(),
            n_bytes_waiting: 0,
            under_way: VecDeque::new(),
            replays: VecDeque::new(),
            received: BTreeSet::new(),
            last_id: 0,
        }
    }

    /// How surely it wants this topic, if at all.
    pub(crate) fn wants(&self, topic: &str) -> Option<Qos> {
        self.subscriptions.iter().filter(|(filter, _)| matches(filter, topic)).map(|(_, qos)| *qos).max()
    }

    /// Whether there is room for it; retained messages follow.
    pub(crate) fn subscribe(&mut self, filter: &str, qos: Qos, limits: &Limits, turn: &mut Turn) -> bool {
        let filter: Arc<str> = filter.into();
        let is_known = self.subscriptions.contains_key(&filter);
        if !is_known && self.subscriptions.len() >= limits.max_subscriptions {
            return false;
        }
        self.replays.retain(|replay| replay.filter != filter);
        self.replays.push_back(Replay { filter: Arc::clone(&filter), qos, after: None });
        if self.subscriptions.insert(Arc::clone(&filter), qos) != Some(qos) && !self.clean {
            turn.changes.push(Change::Subscription { client: Arc::clone(&self.client), filter, qos });
        }
        true
    }

    pub(crate) fn unsubscribe(&mut self, filter: &str, turn: &mut Turn) {
        self.replays.retain(|replay| &*replay.filter != filter);
        if let Some((filter, _)) = self.subscriptions.remove_entry(filter)
            && !self.clean
        {
            turn.changes.push(Change::SubscriptionGone { client: Arc::clone(&self.client), filter });
        }
    }

    /// Puts a message at the end. Nothing of QoS 0 waits for a client that is away.
    pub(crate) fn add(&mut self, message: &Message, qos: Qos, is_here: bool, turn: &mut Turn) {
        if qos == Qos::AtMostOnce && !is_here {
            return;
        }
        let stored = !self.clean && qos != Qos::AtMostOnce;
        let sequence = stored.then(|| turn.take_sequence());
        if let Some(sequence) = sequence {
            turn.changes.push(Change::Queued {
                client: Arc::clone(&self.client),
                sequence,
                message: message.clone(),
                qos,
                sent: None,
                released: false,
            });
        }
        self.push(Waiting { message: message.clone(), qos, retain: false, sequence });
    }

    /// Drops the oldest until what waits is within bounds.
    pub(crate) fn bound(&mut self, limits: &Limits, turn: &mut Turn) {
        while self.waiting.len() > limits.session_queue || self.n_bytes_waiting > limits.session_bytes {
            let Some(dropped) = self.pop() else { return };
            turn.counts.dropped += 1;
            done(&dropped, turn);
        }
    }

    /// Sends what may be sent.
    pub(crate) fn pump(
        &mut self,
        connection: &mut Connection,
        retained: &Retained,
        limits: &Limits,
        turn: &mut Turn,
    ) {
        while connection.has_room(limits) {
            if self.waiting.is_empty() && !self.replay(retained, turn) {
                return;
            }
            let is_held =
                |next: &Waiting| next.qos != Qos::AtMostOnce && self.under_way.len() >= limits.max_under_way;
            if self.waiting.front().is_none_or(is_held) {
                return;
            }
            let Some(next) = self.pop() else { return };
            let delivery = match next.qos {
                Qos::AtMostOnce => Delivery::AtMostOnce,
                Qos::AtLeastOnce => Delivery::AtLeastOnce(self.fresh_id()),
                Qos::ExactlyOnce => Delivery::ExactlyOnce(self.fresh_id()),
            };
            connection.send(publish(&next, delivery, false), turn);
            if let Delivery::AtLeastOnce(id) | Delivery::ExactlyOnce(id) = delivery {
                sent(&next, id, turn);
                self.under_way.push_back(UnderWay { id, waiting: next, released: false });
            }
        }
    }

    /// The client is back: what was on its way goes again, in the same order and with the same ids.
    pub(crate) fn resend(&self, connection: &mut Connection, turn: &mut Turn) {
        for sent in &self.under_way {
            let packet = match (sent.released, sent.waiting.qos) {
                (true, _) => Packet::PubRel(sent.id),
                (false, Qos::ExactlyOnce) => publish(&sent.waiting, Delivery::ExactlyOnce(sent.id), true),
                (false, _) => publish(&sent.waiting, Delivery::AtLeastOnce(sent.id), true),
            };
            connection.send(packet, turn);
        }
    }

    /// The client is gone: nothing of QoS 0 waits for it.
    pub(crate) fn leave(&mut self, left: u64) {
        self.left = left;
        self.waiting.retain(|waiting| waiting.qos != Qos::AtMostOnce);
        self.n_bytes_waiting = self.waiting.iter().map(weight).sum();
        self.waiting.shrink_to_fit();
    }

    /// PUBACK or PUBCOMP.
    pub(crate) fn on_done(&mut self, id: PacketId, qos: Qos, turn: &mut Turn) {
        let is_it = |sent: &UnderWay| sent.id == id && sent.waiting.qos == qos;
        if let Some(sent) = self.under_way.iter().position(is_it).and_then(|at| self.under_way.remove(at)) {
            done(&sent.waiting, turn);
        }
    }

    /// PUBREC: the client has it. An unknown id is told to be forgotten all the same, or the client would wait for ever.
    pub(crate) fn on_received(&mut self, id: PacketId, connection: &mut Connection, turn: &mut Turn) {
        let is_it = |sent: &&mut UnderWay| sent.id == id && sent.waiting.qos == Qos::ExactlyOnce;
        if let Some(sent) = self.under_way.iter_mut().find(is_it).filter(|sent| !sent.released) {
            sent.released = true;
            sent.waiting.message.payload.clear();
            if let Some(sequence) = sent.waiting.sequence {
                turn.changes.push(Change::Released { sequence });
            }
        }
        connection.send(Packet::PubRel(id), turn);
    }

    /// Whether this QoS 2 message of the client is new.
    pub(crate) fn receive(&mut self, id: PacketId) -> bool {
        self.received.insert(id)
    }

    /// It is taken over; from now on the client may rely on it.
    pub(crate) fn keep_received(&self, id: PacketId, turn: &mut Turn) {
        if !self.clean {
            turn.changes.push(Change::Received { client: Arc::clone(&self.client), id });
        }
    }

    /// It was not taken over; its repetition is as good as new.
    pub(crate) fn forget_received(&mut self, id: PacketId) {
        self.received.remove(&id);
    }

    /// PUBREL: the client will not repeat it.
    pub(crate) fn complete(&mut self, id: PacketId, turn: &mut Turn) {
        if self.received.remove(&id) && !self.clean {
            turn.changes.push(Change::Completed { client: Arc::clone(&self.client), id });
        }
    }

    /// Takes back what was stored; see `Broker::restore`.
    pub(crate) fn restore(&mut self, change: Change) {
        match change {
            Change::Subscription { filter, qos, .. } => {
                self.subscriptions.insert(filter, qos);
            }
            Change::Received { id, .. } => {
                self.received.insert(id);
            }
            Change::Queued { sequence, message, qos, sent, released, .. } => {
                let waiting = Waiting { message, qos, retain: false, sequence: Some(sequence) };
                match sent {
                    Some(id) => {
                        self.last_id = self.last_id.max(id.get());
                        self.under_way.push_back(UnderWay { id, waiting, released });
                    }
                    None => self.push(waiting),
                }
            }
            _ => {}
        }
    }

    fn push(&mut self, waiting: Waiting) {
        self.n_bytes_waiting += weight(&waiting);
        self.waiting.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        let popped = self.waiting.pop_front()?;
        self.n_bytes_waiting -= weight(&popped);
        Some(popped)
    }

    /// Fetches the next retained message that a subscription has to be told, only when it can be sent: a thousand of them
    /// would not fit the queue. Nothing is stored for it: after a kill in the middle, the client subscribes again.
    fn replay(&mut self, retained: &Retained, turn: &mut Turn) -> bool {
        while let Some(replay) = self.replays.front_mut() {
            if let Some((message, qos)) = retained.after(replay.after.as_ref(), &replay.filter) {
                replay.after = Some(Arc::clone(&message.topic));
                let qos = qos.min(replay.qos);
                turn.counts.replayed += 1;
                self.push(Waiting { message, qos, retain: true, sequence: None });
                return true;
            }
            self.replays.pop_front();
        }
        false
    }

    fn fresh_id(&mut self) -> PacketId {
        // Ends: far fewer are under way than there are ids.
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && self.under_way.iter().all(|sent| sent.id != id)
            {
                return id;
            }
        }
    }
}

fn weight(waiting: &Waiting) -> usize {
    waiting.message.payload.len() + waiting.message.topic.len()
}

fn publish(waiting: &Waiting, delivery: Delivery, dup: bool) -> Packet {
    Packet::Publish(Publish { message: waiting.message.clone(), delivery, retain: waiting.retain, dup })
}

fn done(waiting: &Waiting, turn: &mut Turn) {
    if let Some(sequence) = waiting.sequence {
        turn.changes.push(Change::Done { sequence, qos: waiting.qos });
    }
}

/// Most messages are sent in the turn in which they came: then it is one row that is written, not one and its change.
fn sent(waiting: &Waiting, id: PacketId, turn: &mut Turn) {
    let Some(of) = waiting.sequence else { return };
    match turn.changes.last_mut() {
        Some(Change::Queued { sequence, sent, .. }) if *sequence == of => *sent = Some(id),
        _ => turn.changes.push(Change::Sent { sequence: of, id, qos: waiting.qos }),
    }
}
