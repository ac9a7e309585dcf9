//! Pure: a client's decisions, for one who listens to a few filters and says what must arrive (QoS 1, never retained).
//!
//! One `Client` lives through all its connections: what was not acknowledged goes again on the next. It begins each with
//! nothing (`clean`), subscribes anew, and acknowledges a message only when told that it was kept.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::{Connect, ConnectCode, Delivery, Message, Packet, PacketId, Publish, Qos};

/// Messages said and not yet acknowledged. Brokers take 20 and more without complaint.
const MAX_UNDER_WAY: usize = 16;
/// A message that went out on so many connections without being acknowledged may be what ends them: brokers close on what
/// they do not take.
const MAX_TRIES: u32 = 5;

/// Names a message for `Client::acknowledge`, only on the connection on which it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AckId {
    connection: u64,
    id: PacketId,
}

/// What is to be done or known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOutput {
    /// Send it.
    Send(Packet),
    /// The broker said welcome.
    Open,
    /// The broker does not let this filter be subscribed.
    FilterRefused(String),
    /// This message was given up: no broker acknowledged it.
    GivenUp(Message),
    /// Somebody said this.
    Said {
        /// What.
        message: Message,
        /// To be acknowledged once it is kept; `None`: nobody waits for it.
        ack: Option<AckId>,
    },
}

/// The connection is of no use any more. The next one may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// It does not let this client in.
    #[error("the broker refuses this client: {}", words(*.0))]
    Refused(ConnectCode),
    /// It does not answer.
    #[error("the broker is silent")]
    Silent,
    /// Its packets make no sense.
    #[error("the broker broke the protocol: {0}")]
    Protocol(&'static str),
}

fn words(code: ConnectCode) -> &'static str {
    match code {
        ConnectCode::Accepted => "accepted",
        ConnectCode::Version => "it does not speak MQTT 3.1.1",
        ConnectCode::ClientId => "it does not accept the client id",
        ConnectCode::Unavailable => "it is not available",
        ConnectCode::Credentials => "user name or password is wrong",
        ConnectCode::NotAuthorized => "it is not allowed to connect",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Away,
    Greeting,
    Open,
}

#[derive(Clone, Debug)]
struct Sent {
    id: PacketId,
    message: Message,
    n_tries: u32,
}

/// The client. Drive it like the `Broker`: feed it, then do what `poll_output` says.
#[derive(Debug)]
pub struct Client {
    hello: Connect,
    /// How long an answer may take.
    answer_limit: Duration,
    filters: Vec<String>,
    stage: Stage,
    connection: u64,
    under_way: VecDeque<Sent>,
    subscribing: Vec<(PacketId, Vec<String>)>,
    last_id: u16,
    last_sent: Instant,
    /// Since when an answer is due.
    unanswered_since: Option<Instant>,
    outputs: VecDeque<ClientOutput>,
}

impl Client {
    /// Not connected. `hello.keep_alive_secs` must not be 0: it is how a dead broker is found.
    #[must_use]
    pub fn new(now: Instant, hello: Connect, answer_limit: Duration, filters: Vec<String>) -> Self {
        Self {
            hello,
            answer_limit,
            filters,
            stage: Stage::Away,
            connection: 0,
            under_way: VecDeque::new(),
            subscribing: Vec::new(),
            last_id: 0,
            last_sent: now,
            unanswered_since: None,
            outputs: VecDeque::new(),
        }
    }

    /// A connection to the broker was opened.
    pub fn handle_connection(&mut self, now: Instant) {
        self.connection += 1;
        self.stage = Stage::Greeting;
        self.outputs.clear();
        self.subscribing.clear();
        self.unanswered_since = Some(now);
        self.send(now, Packet::Connect(self.hello.clone()));
    }

    /// A packet came.
    pub fn handle_packet(&mut self, now: Instant, packet: Packet) -> Result<(), ClientError> {
        self.unanswered_since = None;
        match (self.stage, packet) {
            (Stage::Greeting, Packet::ConnAck { code: ConnectCode::Accepted, .. }) => {
                self.stage = Stage::Open;
                self.outputs.push_back(ClientOutput::Open);
                let filters = self.filters.clone();
                self.subscribe(now, filters);
                self.resend(now);
                Ok(())
            }
            (Stage::Greeting, Packet::ConnAck { code, .. }) => Err(ClientError::Refused(code)),
            (Stage::Open, packet) => self.on_packet(packet),
            _ => Err(ClientError::Protocol("the first packet is no CONNACK")),
        }
    }

    /// The connection ended.
    pub fn handle_end(&mut self) {
        self.stage = Stage::Away;
        self.outputs.clear();
    }

    /// Does what is due at `now`. Calling it too early or too often is harmless.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ClientError> {
        if self.stage == Stage::Away {
            return Ok(());
        }
        if self.unanswered_since.is_some_and(|since| since + self.answer_limit <= now) {
            return Err(ClientError::Silent);
        }
        if self.stage == Stage::Open && self.unanswered_since.is_none() && self.ping_due() <= now {
            self.unanswered_since = Some(now);
            self.send(now, Packet::PingReq);
        }
        Ok(())
    }

    /// When `handle_timeout` wants to be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = || self.unanswered_since.map_or_else(|| self.ping_due(), |since| since + self.answer_limit);
        (self.stage != Stage::Away).then(due)
    }

    /// The next thing to do or to know.
    pub fn poll_output(&mut self) -> Option<ClientOutput> {
        self.outputs.pop_front()
    }

    /// Whether `publish` would be sent now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.stage == Stage::Open && self.under_way.len() < MAX_UNDER_WAY
    }

    /// Says something until it is acknowledged, over as many connections as that takes.
    pub fn publish(&mut self, now: Instant, message: Message) {
        let id = self.fresh_id();
        let n_tries = u32::from(self.stage == Stage::Open);
        self.under_way.push_back(Sent { id, message: message.clone(), n_tries });
        if self.stage == Stage::Open {
            self.send(now, publish(id, message));
        }
    }

    /// The message was kept. Nothing happens if its connection is gone: the broker says it again, or forgot it.
    pub fn acknowledge(&mut self, now: Instant, ack: AckId) {
        if self.stage == Stage::Open && ack.connection == self.connection {
            self.send(now, Packet::PubAck(ack.id));
        }
    }

    /// Listens to these from now on.
    pub fn set_filters(&mut self, now: Instant, filters: Vec<String>) {
        let new: Vec<_> = filters.iter().filter(|filter| !self.filters.contains(filter)).cloned().collect();
        let old: Vec<_> = self.filters.iter().filter(|filter| !filters.contains(filter)).cloned().collect();
        self.filters = filters;
        if self.stage != Stage::Open {
            return;
        }
        self.subscribe(now, new);
        if !old.is_empty() {
            let id = self.fresh_id();
            self.send(now, Packet::Unsubscribe { id, filters: old });
        }
    }

    fn on_packet(&mut self, packet: Packet) -> Result<(), ClientError> {
        match packet {
            Packet::Publish(Publish { message, delivery, .. }) => {
                let ack = match delivery {
                    Delivery::AtMostOnce => None,
                    Delivery::AtLeastOnce(id) => Some(AckId { connection: self.connection, id }),
                    Delivery::ExactlyOnce(_) => return Err(ClientError::Protocol("QoS 2 was not asked for")),
                };
                self.outputs.push_back(ClientOutput::Said { message, ack });
            }
            Packet::PubAck(id) => self.under_way.retain(|sent| sent.id != id),
            Packet::SubAck { id, granted } => {
                if let Some(at) = self.subscribing.iter().position(|(asked, _)| *asked == id) {
                    let (_, filters) = self.subscribing.swap_remove(at);
                    let refused = filters.into_iter().zip(granted).filter(|(_, granted)| granted.is_none());
                    self.outputs.extend(refused.map(|(filter, _)| ClientOutput::FilterRefused(filter)));
                }
            }
            Packet::UnsubAck(_) | Packet::PingResp => {}
            _ => return Err(ClientError::Protocol("a packet that only clients send")),
        }
        Ok(())
    }

    fn resend(&mut self, now: Instant) {
        for mut sent in std::mem::take(&mut self.under_way) {
            if sent.n_tries >= MAX_TRIES {
                self.outputs.push_back(ClientOutput::GivenUp(sent.message));
                continue;
            }
            sent.n_tries += 1;
            self.send(now, publish(sent.id, sent.message.clone()));
            self.under_way.push_back(sent);
        }
    }

    fn subscribe(&mut self, now: Instant, filters: Vec<String>) {
        if filters.is_empty() {
            return;
        }
        let id = self.fresh_id();
        let wanted = filters.iter().map(|filter| (filter.clone(), Qos::AtLeastOnce)).collect();
        self.subscribing.push((id, filters));
        self.send(now, Packet::Subscribe { id, filters: wanted });
    }

    fn send(&mut self, now: Instant, packet: Packet) {
        self.last_sent = now;
        self.outputs.push_back(ClientOutput::Send(packet));
    }

    /// Well within the promise: brokers are allowed to be strict only after one and a half times.
    fn ping_due(&self) -> Instant {
        self.last_sent + Duration::from_secs(self.hello.keep_alive_secs.max(1).into())
    }

    fn fresh_id(&mut self) -> PacketId {
        // Ends: few ids are in use.
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && self.under_way.iter().all(|sent| sent.id != id)
                && self.subscribing.iter().all(|(used, _)| *used != id)
            {
                return id;
            }
        }
    }
}

/// Never marked as a repetition: each connection begins with nothing, so to the broker it is new.
fn publish(id: PacketId, message: Message) -> Packet {
    Packet::Publish(Publish { message, delivery: Delivery::AtLeastOnce(id), retain: false, dup: false })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::Version;

    fn hello() -> Connect {
        Connect {
            version: Version::V311,
            clean: true,
            keep_alive_secs: 30,
            client: "hub".into(),
            will: None,
            user: None,
            password: None,
        }
    }

    fn message(payload: &'static str) -> Message {
        Message { topic: "t".into(), payload: Bytes::from_static(payload.as_bytes()) }
    }

    fn sent(client: &mut Client) -> Vec<Packet> {
        let mut packets = Vec::new();
        while let Some(output) = client.poll_output() {
            if let ClientOutput::Send(packet) = output {
                packets.push(packet);
            }
        }
        packets
    }

    const WELCOME: Packet = Packet::ConnAck { session_present: false, code: ConnectCode::Accepted };
    const LIMIT: Duration = Duration::from_secs(10);

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    #[test]
    fn unacknowledged_words_go_again_and_subscriptions_first() {
        let now = Instant::now();
        let mut client = Client::new(now, hello(), LIMIT, vec!["a/#".into()]);
        assert!(!client.has_room());
        client.handle_connection(now);
        assert_eq!(sent(&mut client), [Packet::Connect(hello())]);
        client.handle_packet(now, WELCOME).unwrap();
        let subscribe =
            |number| Packet::Subscribe { id: id(number), filters: vec![("a/#".into(), Qos::AtLeastOnce)] };
        assert_eq!(sent(&mut client), [subscribe(1)]);
        client.publish(now, message("1"));
        client.publish(now, message("2"));
        assert_eq!(sent(&mut client), [publish(id(2), message("1")), publish(id(3), message("2"))]);
        client.handle_packet(now, Packet::PubAck(id(2))).unwrap();
        client.handle_end();
        client.handle_connection(now);
        sent(&mut client);
        client.handle_packet(now, WELCOME).unwrap();
        assert_eq!(sent(&mut client), [subscribe(4), publish(id(3), message("2"))]);
        client.handle_packet(now, Packet::SubAck { id: id(4), granted: vec![None] }).unwrap();
        assert_eq!(client.poll_output(), Some(ClientOutput::FilterRefused("a/#".into())));
        client.set_filters(now, vec!["b".into()]);
        assert_eq!(
            sent(&mut client),
            [
                Packet::Subscribe { id: id(5), filters: vec![("b".into(), Qos::AtLeastOnce)] },
                Packet::Unsubscribe { id: id(6), filters: vec!["a/#".into()] },
            ]
        );
        while client.has_room() {
            client.publish(now, message("x"));
        }
        assert_eq!(sent(&mut client).len(), MAX_UNDER_WAY - 1);
    }

    #[test]
    fn what_no_broker_takes_is_given_up() {
        let now = Instant::now();
        let mut client = Client::new(now, hello(), LIMIT, Vec::new());
        client.publish(now, message("poison"));
        for n_expected in [1, 1, 1, 1, 1, 0] {
            client.handle_connection(now);
            sent(&mut client);
            client.handle_packet(now, WELCOME).unwrap();
            assert_eq!(sent(&mut client).len(), n_expected);
            client.handle_end();
        }
    }

    #[test]
    fn an_acknowledgement_belongs_to_its_connection() {
        let now = Instant::now();
        let mut client = Client::new(now, hello(), LIMIT, Vec::new());
        let open = |client: &mut Client| {
            client.handle_connection(now);
            client.handle_packet(now, WELCOME).unwrap();
            sent(client);
            client.handle_packet(now, publish(id(7), message("x"))).unwrap();
            let Some(ClientOutput::Said { ack: Some(ack), .. }) = client.poll_output() else { panic!() };
            ack
        };
        let old = open(&mut client);
        client.handle_end();
        let new = open(&mut client);
        client.acknowledge(now, old);
        assert!(sent(&mut client).is_empty());
        client.acknowledge(now, new);
        assert_eq!(sent(&mut client), [Packet::PubAck(id(7))]);
    }

    #[test]
    fn a_silent_broker_is_given_up() {
        let now = Instant::now();
        let mut client = Client::new(now, hello(), LIMIT, Vec::new());
        assert_eq!(client.poll_timeout(), None);
        client.handle_connection(now);
        assert_eq!(client.poll_timeout(), Some(now + LIMIT));
        assert_eq!(client.handle_timeout(now + LIMIT), Err(ClientError::Silent));
        client.handle_packet(now, WELCOME).unwrap();
        sent(&mut client);
        let ping = now + Duration::from_secs(30);
        assert_eq!(client.poll_timeout(), Some(ping));
        client.handle_timeout(ping).unwrap();
        assert_eq!(sent(&mut client), [Packet::PingReq]);
        client.handle_packet(ping, Packet::PingResp).unwrap();
        client.handle_timeout(ping + LIMIT).unwrap();
        client.handle_timeout(ping + Duration::from_secs(30)).unwrap();
        assert_eq!(client.handle_timeout(ping + Duration::from_secs(40)), Err(ClientError::Silent));
    }

    #[test]
    fn what_makes_no_sense() {
        let now = Instant::now();
        let check = |packet: Packet, expected: &str| {
            let mut client = Client::new(now, hello(), LIMIT, Vec::new());
            client.handle_connection(now);
            let error = client.handle_packet(now, packet).unwrap_err();
            assert_eq!(error.to_string(), expected);
        };
        check(Packet::PingResp, "the broker broke the protocol: the first packet is no CONNACK");
        let refused = Packet::ConnAck { session_present: false, code: ConnectCode::Credentials };
        check(refused, "the broker refuses this client: user name or password is wrong");
    }
}
