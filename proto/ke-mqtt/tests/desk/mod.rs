//! A broker with a disk and connections that are lists: no socket, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ke_mqtt::{
    Broker, BrokerConfig, Change, CloseReason, Connect, ConnectionId, Delivery, Message, Output, Packet,
    PacketId, Publish, Qos, Ticket, Version, Will,
};

/// What was stored, as tables would hold it.
#[derive(Clone, Default)]
pub struct Disk {
    sessions: BTreeSet<Arc<str>>,
    subscriptions: BTreeMap<(Arc<str>, Arc<str>), Qos>,
    retained: BTreeMap<Arc<str>, (Message, Qos)>,
    queued: BTreeMap<u64, Change>,
    received: BTreeSet<(Arc<str>, PacketId)>,
}

impl Disk {
    fn store(&mut self, change: Change) {
        match change {
            Change::Session { client } => drop(self.sessions.insert(client)),
            Change::SessionGone { client: gone } => {
                self.sessions.remove(&gone);
                self.subscriptions.retain(|(client, _), _| *client != gone);
                self.queued.retain(|_, row| !matches!(row, Change::Queued { client, .. } if *client == gone));
                self.received.retain(|(client, _)| *client != gone);
            }
            Change::Subscription { client, filter, qos } => {
                self.subscriptions.insert((client, filter), qos);
            }
            Change::SubscriptionGone { client, filter } => {
                self.subscriptions.remove(&(client, filter));
            }
            Change::Retained { message, qos } => {
                self.retained.insert(Arc::clone(&message.topic), (message, qos));
            }
            Change::RetainedGone { topic } => drop(self.retained.remove(&topic)),
            Change::Queued { sequence, .. } => drop(self.queued.insert(sequence, change)),
            Change::Sent { sequence, id, .. } => {
                if let Some(Change::Queued { sent, .. }) = self.queued.get_mut(&sequence) {
                    *sent = Some(id);
                }
            }
            Change::Released { sequence } => {
                if let Some(Change::Queued { released, .. }) = self.queued.get_mut(&sequence) {
                    *released = true;
                }
            }
            Change::Done { sequence, .. } => drop(self.queued.remove(&sequence)),
            Change::Received { client, id } => drop(self.received.insert((client, id))),
            Change::Completed { client, id } => drop(self.received.remove(&(client, id))),
        }
    }

    fn rows(&self) -> Vec<Change> {
        let sessions = self.sessions.iter().map(|client| Change::Session { client: Arc::clone(client) });
        let subscriptions = self.subscriptions.iter().map(|((client, filter), qos)| Change::Subscription {
            client: Arc::clone(client),
            filter: Arc::clone(filter),
            qos: *qos,
        });
        let retained = self
            .retained
            .values()
            .map(|(message, qos)| Change::Retained { message: message.clone(), qos: *qos });
        let received =
            self.received.iter().map(|(client, id)| Change::Received { client: Arc::clone(client), id: *id });
        sessions
            .chain(subscriptions)
            .chain(retained)
            .chain(self.queued.values().cloned())
            .chain(received)
            .collect()
    }

    /// Rows that would be left behind: nothing may pile up.
    pub fn n_rows(&self) -> usize {
        self.rows().len()
    }
}

pub struct Desk {
    pub broker: Broker,
    pub disk: Disk,
    pub now: Instant,
    config: BrokerConfig,
    n_connections: u64,
    told: BTreeMap<ConnectionId, Vec<Packet>>,
    pub heard: Vec<(Ticket, String)>,
    pub closed: Vec<(ConnectionId, CloseReason)>,
    /// Whether sockets take what they are given.
    pub writes: bool,
}

impl Desk {
    pub fn new(config: BrokerConfig) -> Self {
        Self {
            broker: Broker::new(config.clone()),
            disk: Disk::default(),
            now: Instant::now(),
            config,
            n_connections: 0,
            told: BTreeMap::new(),
            heard: Vec::new(),
            closed: Vec::new(),
            writes: true,
        }
    }

    /// The process dies and comes back with its disk.
    pub fn kill(&mut self) {
        self.broker = Broker::restore(self.config.clone(), self.disk.rows());
        self.told.clear();
        self.heard.clear();
        self.closed.clear();
    }

    pub fn advance(&mut self, time: Duration) {
        self.now += time;
        self.broker.handle_timeout(self.now);
        self.settle();
    }

    fn settle(&mut self) {
        for change in self.broker.take_changes() {
            self.disk.store(change);
        }
        while let Some(output) = self.broker.poll_output() {
            match output {
                Output::Send(id, packet) => {
                    self.told.entry(id).or_default().push(packet);
                    if self.writes {
                        self.broker.handle_sent(id, 1);
                        // What it brings forth belongs to the next turn.
                        for change in self.broker.take_changes() {
                            self.disk.store(change);
                        }
                    }
                }
                Output::Close { id, reason, .. } => self.closed.push((id, reason)),
                Output::Heard { ticket, message, .. } => {
                    self.heard.push((ticket, shown(&message)));
                }
            }
        }
    }

    pub fn accept(&mut self) -> ConnectionId {
        self.n_connections += 1;
        let id = ConnectionId(self.n_connections);
        self.broker.handle_connection(self.now, id);
        self.settle();
        id
    }

    pub fn say(&mut self, id: ConnectionId, packet: Packet) {
        self.broker.handle_packet(self.now, id, packet);
        self.settle();
    }

    /// What this connection was told since it was last asked.
    pub fn told(&mut self, id: ConnectionId) -> Vec<Packet> {
        self.told.remove(&id).unwrap_or_default()
    }

    /// The same as text; see `brief`.
    #[track_caller]
    pub fn expect(&mut self, id: ConnectionId, expected: &[&str]) {
        let told: Vec<String> = self.told(id).iter().map(brief).collect();
        assert_eq!(told, expected);
    }

    /// Connects and forgets the welcome.
    pub fn connect(&mut self, client: &str, clean: bool) -> ConnectionId {
        let id = self.accept();
        self.say(id, Packet::Connect(hello(client, clean)));
        self.told(id);
        id
    }

    pub fn subscribe(&mut self, id: ConnectionId, filter: &str, qos: u8) {
        let filters = vec![(filter.to_owned(), Qos::from_number(qos).unwrap())];
        self.say(id, Packet::Subscribe { id: number(99), filters });
    }

    /// `qos` 1 and 2 with this packet id.
    pub fn publish(&mut self, id: ConnectionId, topic: &str, payload: &str, qos: u8, packet: u16) {
        self.say(id, publish(topic, payload, qos, packet, false));
    }

    pub fn retain(&mut self, id: ConnectionId, topic: &str, payload: &str) {
        self.say(id, publish(topic, payload, 1, 7, true));
    }

    pub fn cut(&mut self, id: ConnectionId) {
        self.broker.handle_end(id, CloseReason::Broken);
        self.settle();
    }

    pub fn keep(&mut self, ticket: Ticket) {
        self.broker.kept(self.now, ticket);
        self.settle();
    }

    pub fn host_says(&mut self, topic: &str, payload: &str, qos: u8, retain: bool) {
        self.broker.publish(&message(topic, payload), Qos::from_number(qos).unwrap(), retain);
        self.settle();
    }

    pub fn written(&mut self, id: ConnectionId, n: usize) {
        self.broker.handle_sent(id, n);
        self.settle();
    }
}

pub fn number(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

pub fn message(topic: &str, payload: &str) -> Message {
    Message { topic: topic.into(), payload: Bytes::copy_from_slice(payload.as_bytes()) }
}

pub fn hello(client: &str, clean: bool) -> Connect {
    Connect {
        version: Version::V311,
        clean,
        keep_alive_secs: 10,
        client: client.to_owned(),
        will: None,
        user: None,
        password: None,
    }
}

pub fn will(topic: &str, payload: &str) -> Option<Will> {
    Some(Will { message: message(topic, payload), qos: Qos::AtLeastOnce, retain: false })
}

pub fn publish(topic: &str, payload: &str, qos: u8, packet: u16, retain: bool) -> Packet {
    let delivery = match qos {
        0 => Delivery::AtMostOnce,
        1 => Delivery::AtLeastOnce(number(packet)),
        _ => Delivery::ExactlyOnce(number(packet)),
    };
    Packet::Publish(Publish { message: message(topic, payload), delivery, retain, dup: false })
}

fn shown(message: &Message) -> String {
    format!("{}={}", message.topic, String::from_utf8_lossy(&message.payload))
}

/// `a/b=x q1#3 dup retained`, `puback 3`.
pub fn brief(packet: &Packet) -> String {
    match packet {
        Packet::Publish(Publish { message, delivery, retain, dup }) => {
            let mut text = shown(message);
            match delivery {
                Delivery::AtMostOnce => {}
                Delivery::AtLeastOnce(id) => text += &format!(" q1#{id}"),
                Delivery::ExactlyOnce(id) => text += &format!(" q2#{id}"),
            }
            text + if *dup { " dup" } else { "" } + if *retain { " retained" } else { "" }
        }
        Packet::PubAck(id) => format!("puback {id}"),
        Packet::PubRec(id) => format!("pubrec {id}"),
        Packet::PubRel(id) => format!("pubrel {id}"),
        Packet::PubComp(id) => format!("pubcomp {id}"),
        Packet::SubAck { granted, .. } => {
            let codes: Vec<String> = granted
                .iter()
                .map(|qos| qos.map_or("no".to_owned(), |qos| qos.number().to_string()))
                .collect();
            format!("suback {}", codes.join(" "))
        }
        Packet::ConnAck { session_present, code } => {
            format!("connack {code:?}{}", if *session_present { " present" } else { "" })
        }
        Packet::PingResp => "pong".to_owned(),
        Packet::UnsubAck(_) => "unsuback".to_owned(),
        other => format!("{other:?}"),
    }
}
