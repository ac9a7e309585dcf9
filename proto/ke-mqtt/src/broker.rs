//! Pure: a broker's decisions.
//!
//! One turn: feed it packets, store `take_changes`, then do what `poll_output` says. Nothing that it wants sent may leave
//! before the changes of the same turn are on disk. It keeps no time of its own and never waits; memory is bounded by
//! `BrokerConfig`, and what had to go is counted.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::retained::{Kept, Retained};
use crate::session::Session;
use crate::turn::{
    BrokerConfig, CloseReason, Connection, ConnectionId, Counts, Limits, Output, Owed, Ticket, Turn,
};
use crate::{
    Change, Connect, ConnectCode, DecodeError, Delivery, Message, Packet, Publish, Qos, Version, Will,
    matches,
};

/// The broker. See the first lines of this file.
#[derive(Debug)]
pub struct Broker {
    limits: Limits,
    listened: Vec<String>,
    connections: BTreeMap<ConnectionId, Connection>,
    sessions: BTreeMap<Arc<str>, Session>,
    /// Which connection a client has now.
    here: HashMap<Arc<str>, ConnectionId>,
    retained: Retained,
    tickets: HashMap<Ticket, ConnectionId>,
    next_ticket: u64,
    n_departures: u64,
    n_unnamed: u64,
    turn: Turn,
}

impl Broker {
    /// A broker with nothing in it.
    #[must_use]
    pub fn new(config: BrokerConfig) -> Self {
        Self {
            retained: Retained::new(config.max_retained, config.max_retained_bytes),
            limits: config,
            listened: Vec::new(),
            connections: BTreeMap::new(),
            sessions: BTreeMap::new(),
            here: HashMap::new(),
            tickets: HashMap::new(),
            next_ticket: 0,
            n_departures: 0,
            n_unnamed: 0,
            turn: Turn::default(),
        }
    }

    /// Takes back what was stored: sessions before what belongs to them, messages by sequence. What belongs to nobody is
    /// ignored. Changes that say that something is gone are not expected here.
    #[must_use]
    pub fn restore(config: BrokerConfig, stored: impl IntoIterator<Item = Change>) -> Self {
        let mut broker = Self::new(config);
        for change in stored {
            match &change {
                Change::Session { client } => {
                    let session = Session::new(Arc::clone(client), false);
                    broker.sessions.insert(Arc::clone(client), session);
                }
                Change::Retained { message, qos } => {
                    broker.retained.put(message, *qos);
                }
                Change::Queued { client, sequence, .. } => {
                    broker.turn.next_sequence = broker.turn.next_sequence.max(*sequence);
                    if let Some(session) = broker.sessions.get_mut(client) {
                        session.restore(change);
                    }
                }
                Change::Subscription { client, .. } | Change::Received { client, .. } => {
                    if let Some(session) = broker.sessions.get_mut(client) {
                        session.restore(change);
                    }
                }
                _ => {}
            }
        }
        broker
    }

    /// What the host itself wants to hear, as `Output::Heard`. Replaces what it wanted before.
    pub fn listen(&mut self, filters: Vec<String>) {
        self.listened = filters;
    }

    /// A connection was accepted.
    pub fn handle_connection(&mut self, now: Instant, id: ConnectionId) {
        let connection = Connection {
            id,
            client: None,
            keep_alive: self.limits.connect_limit,
            will: None,
            last_heard: now,
            n_unsent: 0,
            n_heard: 0,
            owed: VecDeque::new(),
        };
        self.connections.insert(id, connection);
        if self.connections.len() > self.limits.max_connections {
            self.close(id, CloseReason::TooMany);
        }
    }

    /// A packet came. Says under which ticket it was heard, if the host listens to it.
    pub fn handle_packet(&mut self, now: Instant, id: ConnectionId, packet: Packet) -> Option<Ticket> {
        // Of a connection that is closed but does not know it yet.
        let connection = self.connections.get_mut(&id)?;
        connection.last_heard = now;
        let (client, packet) = match (&connection.client, packet) {
            (None, Packet::Connect(connect)) => {
                self.on_connect(id, connect);
                return None;
            }
            (None, _) => {
                self.close(id, CloseReason::Protocol("the first packet is no CONNECT".to_owned()));
                return None;
            }
            (Some(client), packet) => (Arc::clone(client), packet),
        };
        if let Packet::Publish(publish) = packet {
            return self.on_publish(id, &client, publish);
        }
        let (Some(connection), Some(session)) =
            (self.connections.get_mut(&id), self.sessions.get_mut(&client))
        else {
            return None;
        };
        let turn = &mut self.turn;
        match packet {
            Packet::PubAck(packet) => session.on_done(packet, Qos::AtLeastOnce, turn),
            Packet::PubComp(packet) => session.on_done(packet, Qos::ExactlyOnce, turn),
            Packet::PubRec(packet) => session.on_received(packet, connection, turn),
            Packet::PubRel(packet) => {
                session.complete(packet, turn);
                connection.send(Packet::PubComp(packet), turn);
            }
            Packet::Subscribe { id: packet, filters } => {
                let subscribe = |(filter, qos): (String, Qos)| {
                    session.subscribe(&filter, qos, &self.limits, turn).then_some(qos)
                };
                let granted = filters.into_iter().map(subscribe).collect();
                connection.send(Packet::SubAck { id: packet, granted }, turn);
            }
            Packet::Unsubscribe { id: packet, filters } => {
                for filter in filters {
                    session.unsubscribe(&filter, turn);
                }
                connection.send(Packet::UnsubAck(packet), turn);
            }
            Packet::PingReq => connection.send(Packet::PingResp, turn),
            Packet::Disconnect => {
                connection.will = None;
                self.close(id, CloseReason::Farewell);
                return None;
            }
            Packet::Connect(_)
            | Packet::Publish(_)
            | Packet::ConnAck { .. }
            | Packet::SubAck { .. }
            | Packet::UnsubAck(_)
            | Packet::PingResp => {
                self.close(id, CloseReason::Protocol("a packet that has no place here".to_owned()));
                return None;
            }
        }
        session.pump(connection, &self.retained, &self.limits, turn);
        None
    }

    /// What came is no packet.
    pub fn handle_nonsense(&mut self, id: ConnectionId, error: &DecodeError) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.client.is_none() && matches!(error, DecodeError::Version { .. }) {
            let refusal = Packet::ConnAck { session_present: false, code: ConnectCode::Version };
            connection.send(refusal, &mut self.turn);
        }
        self.close(id, CloseReason::Protocol(error.to_string()));
    }

    /// So many packets were written to the socket.
    pub fn handle_sent(&mut self, id: ConnectionId, n_packets: usize) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.n_unsent = connection.n_unsent.saturating_sub(n_packets);
        if let Some(session) = connection.client.as_ref().and_then(|client| self.sessions.get_mut(client)) {
            session.pump(connection, &self.retained, &self.limits, &mut self.turn);
        }
    }

    /// The socket ended, or whoever drives it gave it up.
    pub fn handle_end(&mut self, id: ConnectionId, reason: CloseReason) {
        self.close(id, reason);
    }

    /// Does what is due at `now`. Calling it too early or too often is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_late =
            |connection: &&Connection| connection.deadline().is_some_and(|deadline| deadline <= now);
        let late: Vec<_> =
            self.connections.values().filter(is_late).map(|late| (late.id, late.client.is_some())).collect();
        for (id, is_open) in late {
            self.close(id, if is_open { CloseReason::Silent } else { CloseReason::NoConnect });
        }
    }

    /// When `handle_timeout` wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.connections.values().filter_map(Connection::deadline).min()
    }

    /// The host has kept what it heard, or will not: its sender gets its acknowledgement.
    pub fn kept(&mut self, now: Instant, ticket: Ticket) {
        let Some(id) = self.tickets.remove(&ticket) else { return };
        let Some(connection) = self.connections.get_mut(&id) else { return };
        // Its silence until now was ours.
        connection.last_heard = connection.last_heard.max(now);
        connection.n_heard = connection.n_heard.saturating_sub(1);
        if let Some(owed) = connection.owed.iter_mut().find(|owed| owed.waits_for == Some(ticket)) {
            owed.waits_for = None;
        }
        self.acknowledge(id);
    }

    /// The host itself says something.
    pub fn publish(&mut self, message: &Message, qos: Qos, retain: bool) {
        self.route(message, qos, retain);
    }

    /// What must be on disk before anything of `poll_output` is done.
    pub fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.turn.changes)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.turn.outputs.pop_front()
    }

    /// What had to go so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.turn.counts
    }

    /// Connections, sessions, retained messages.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.connections.len(), self.sessions.len(), self.retained.len())
    }

    fn on_connect(&mut self, id: ConnectionId, connect: Connect) {
        let Connect { version, clean, keep_alive_secs, client, will, .. } = connect;
        let client: Arc<str> = if client.is_empty() {
            if !clean || version == Version::V31 {
                return self.refuse(id, ConnectCode::ClientId);
            }
            self.n_unnamed += 1;
            // No client can say this name itself by accident: it holds the connection's number.
            format!("unnamed-{}-{}", id.0, self.n_unnamed).into()
        } else {
            client.into()
        };
        if let Some(old) = self.here.get(&client) {
            self.close(*old, CloseReason::TakenOver);
        }
        if clean && self.sessions.remove(&client).is_some() {
            self.turn.changes.push(Change::SessionGone { client: Arc::clone(&client) });
        }
        let session_present = self.sessions.contains_key(&client);
        if !session_present && !self.make_room() {
            return self.refuse(id, ConnectCode::Unavailable);
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let session = self.sessions.entry(Arc::clone(&client)).or_insert_with(|| {
            if !clean {
                self.turn.changes.push(Change::Session { client: Arc::clone(&client) });
            }
            Session::new(Arc::clone(&client), clean)
        });
        connection.client = Some(Arc::clone(&client));
        // One and a half times, by the standard.
        connection.keep_alive = Duration::from_millis(u64::from(keep_alive_secs) * 1500);
        connection.will = will;
        self.here.insert(client, id);
        let session_present = session_present && version == Version::V311;
        let welcome = Packet::ConnAck { session_present, code: ConnectCode::Accepted };
        connection.send(welcome, &mut self.turn);
        session.resend(connection, &mut self.turn);
        session.pump(connection, &self.retained, &self.limits, &mut self.turn);
    }

    fn refuse(&mut self, id: ConnectionId, code: ConnectCode) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.send(Packet::ConnAck { session_present: false, code }, &mut self.turn);
        }
        self.close(id, CloseReason::Refused(code));
    }

    /// False when every session belongs to somebody who is here.
    fn make_room(&mut self) -> bool {
        if self.sessions.len() < self.limits.max_sessions {
            return true;
        }
        let away = self.sessions.iter().filter(|(client, _)| !self.here.contains_key(*client));
        let Some(first) = away.min_by_key(|(_, session)| session.left).map(|(client, _)| Arc::clone(client))
        else {
            return false;
        };
        self.sessions.remove(&first);
        self.turn.counts.sessions_evicted += 1;
        self.turn.changes.push(Change::SessionGone { client: first });
        true
    }

    fn on_publish(&mut self, id: ConnectionId, client: &Arc<str>, publish: Publish) -> Option<Ticket> {
        let Publish { message, delivery, retain, .. } = publish;
        if let Delivery::ExactlyOnce(packet) = delivery
            && !self.sessions.get_mut(client)?.receive(packet)
        {
            // Said before. If it is taken over, it is told again; if not, that comes.
            let connection = self.connections.get_mut(&id)?;
            if connection.owed.iter().all(|owed| owed.delivery != delivery) {
                connection.owed.push_back(Owed { delivery, waits_for: None });
            }
            self.acknowledge(id);
            return None;
        }
        let ticket = self.route_from(Some(id), &message, delivery.qos(), retain);
        if delivery != Delivery::AtMostOnce {
            let connection = self.connections.get_mut(&id)?;
            connection.owed.push_back(Owed { delivery, waits_for: ticket });
            self.acknowledge(id);
        }
        ticket
    }

    /// Sends the acknowledgements that wait for nothing, as far as their order allows.
    fn acknowledge(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let client = connection.client.clone().unwrap_or_default();
        while let Some(owed) = connection.owed.pop_front_if(|owed| owed.waits_for.is_none()) {
            match owed.delivery {
                Delivery::AtMostOnce => {}
                Delivery::AtLeastOnce(packet) => connection.send(Packet::PubAck(packet), &mut self.turn),
                Delivery::ExactlyOnce(packet) => {
                    if let Some(session) = self.sessions.get(&client) {
                        session.keep_received(packet, &mut self.turn);
                    }
                    connection.send(Packet::PubRec(packet), &mut self.turn);
                }
            }
        }
    }

    fn route(&mut self, message: &Message, qos: Qos, retain: bool) {
        if retain {
            match self.retained.put(message, qos) {
                Kept::Yes => self.turn.changes.push(Change::Retained { message: message.clone(), qos }),
                Kept::Nothing => {}
                kept @ (Kept::Removed | Kept::Full) => {
                    self.turn.counts.not_retained += u64::from(kept == Kept::Full);
                    self.turn.changes.push(Change::RetainedGone { topic: Arc::clone(&message.topic) });
                }
            }
        }
        for (client, session) in &mut self.sessions {
            let Some(wanted) = session.wants(&message.topic) else { continue };
            let connection = self.here.get(client).and_then(|id| self.connections.get_mut(id));
            session.add(message, qos.min(wanted), connection.is_some(), &mut self.turn);
            if let Some(connection) = connection {
                session.pump(connection, &self.retained, &self.limits, &mut self.turn);
            }
            session.bound(&self.limits, &mut self.turn);
        }
    }

    fn route_from(
        &mut self,
        from: Option<ConnectionId>,
        message: &Message,
        qos: Qos,
        retain: bool,
    ) -> Option<Ticket> {
        self.route(message, qos, retain);
        if !self.listened.iter().any(|filter| matches(filter, &message.topic)) {
            return None;
        }
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        if let Some(connection) = from.and_then(|from| self.connections.get_mut(&from)) {
            connection.n_heard += 1;
            self.tickets.insert(ticket, connection.id);
        }
        self.turn.outputs.push_back(Output::Heard { from, ticket, message: message.clone() });
        Some(ticket)
    }

    fn close(&mut self, id: ConnectionId, reason: CloseReason) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(client) = connection.client.clone() {
            self.here.remove(&client);
            self.n_departures += 1;
            if let Some(session) = self.sessions.get_mut(&client) {
                for owed in &connection.owed {
                    if let Delivery::ExactlyOnce(packet) = owed.delivery {
                        session.forget_received(packet);
                    }
                }
                session.leave(self.n_departures);
                if session.clean {
                    self.sessions.remove(&client);
                }
            }
        }
        if connection.n_heard > 0 {
            self.tickets.retain(|_, from| *from != id);
        }
        self.turn.outputs.push_back(Output::Close { id, client: connection.client, reason });
        if let Some(Will { message, qos, retain }) = connection.will {
            self.route_from(None, &message, qos, retain);
        }
    }
}
