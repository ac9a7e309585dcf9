//! The edge's end of the link: heartbeats, silence, questions and their answers, duplicates.
//!
//! It never stores anything and asks nothing by itself. edgecore's `edge_hub` drives it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ke_wire::kubeedge::{self, FRAME_LIMIT};
use ke_wire::{
    About, AckRoute, Answer, Delete, Down, Kind, MessageId, ObjectKey, Origin, Put, Question, Up, Version,
};

use crate::recent::RecentIds;
use crate::{CloseReason, IgnoredWhy, ProtocolError};

/// Objects handed up and not yet acknowledged. Clouds keep at most a few dozen under way; more is a flood.
const MAX_UNSTORED: usize = 1024;
/// Acknowledged ids that are remembered: far more than a cloud can have under way at once.
const REMEMBERED: usize = 1024;

/// How the edge's end behaves.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Pause between two keepalives. A cloud gives a node up after 30 s of silence.
    pub heartbeat: Duration,
    /// A link on which nothing was received for this long is given up. Two missed pongs.
    pub silence_limit: Duration,
    /// A question without an answer is given up after this long.
    pub ask_timeout: Duration,
    /// Largest frame that is read, bytes.
    pub frame_limit: usize,
    /// Unix milliseconds at the instant given to `new`. Only copied into messages, for people who read traces.
    pub started_unix_ms: i64,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            silence_limit: Duration::from_secs(30),
            ask_timeout: Duration::from_secs(60),
            frame_limit: FRAME_LIMIT,
            started_unix_ms: 0,
        }
    }
}

/// What the caller has to do or to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this as one text frame.
    Transmit(Bytes),
    /// Send a WebSocket ping, and call `handle_pong` when the pong comes.
    Ping,
    /// The cloud said this. A Put or Delete wants `acknowledge` once it is on disk, or `not_kept`. Never an Answer.
    Received(Down),
    /// A question was answered.
    Answered {
        /// What `ask` returned.
        id: MessageId,
        /// The answer.
        answer: Answer,
        /// Version of the object in it, where there is one.
        version: Option<Version>,
        /// Where the cloud counts on the object being kept: wants `acknowledge` with this id once it is on disk.
        receipt: Option<MessageId>,
    },
    /// A question was not answered in time.
    TimedOut {
        /// What `ask` returned.
        id: MessageId,
    },
    /// A frame had no effect.
    Ignored {
        /// Why.
        why: IgnoredWhy,
    },
    /// The link is given up. Open questions stay unanswered: the caller fails or repeats them.
    Closed(CloseReason),
}

#[derive(Debug)]
struct Asked {
    deadline: Instant,
    acknowledged: Acknowledged,
}

/// When an answer is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acknowledged {
    /// The cloud notes what the node holds by this acknowledgement: not before it is on disk.
    OnceKept,
    /// At once; only Go clouds look at it, and for nothing but their log.
    AtOnce,
    /// Not at all.
    Never,
}

/// The edge's end of one connection.
#[derive(Debug)]
pub struct EdgeEnd {
    config: EdgeConfig,
    started: Instant,
    last_heard: Instant,
    next_heartbeat: Instant,
    asked: HashMap<MessageId, Asked>,
    /// Handed up, neither acknowledged nor refused yet.
    unstored: HashMap<MessageId, (About, AckRoute)>,
    acknowledged: RecentIds,
    outputs: VecDeque<Output>,
    open: bool,
}

impl EdgeEnd {
    /// The end of a connection that has just been opened. Says "here I am" at once.
    #[must_use]
    pub fn new(now: Instant, config: EdgeConfig) -> Self {
        let mut end = Self {
            config,
            started: now,
            last_heard: now,
            next_heartbeat: now,
            asked: HashMap::new(),
            unstored: HashMap::new(),
            acknowledged: RecentIds::new(REMEMBERED),
            outputs: VecDeque::new(),
            open: true,
        };
        end.beat(now);
        end
    }

    /// Takes in one frame. A frame that makes no sense is an `Ignored`; only one that is not JSON, or too large, is an
    /// error, after which the caller closes the connection.
    pub fn handle_bytes(&mut self, now: Instant, frame: &[u8]) -> Result<(), ProtocolError> {
        if !self.open {
            return Ok(());
        }
        self.handle_life(now);
        match kubeedge::decode_down(frame, self.config.frame_limit) {
            Ok(Down::Answer { id, to, about, version, answer }) => {
                self.on_answer(now, id, to, about, version, answer);
            }
            Ok(message) => self.on_message(now, message),
            Err(why) if why.is_fatal() => {
                self.open = false;
                return Err(why.into());
            }
            Err(why) => self.outputs.push_back(Output::Ignored { why: why.into() }),
        }
        Ok(())
    }

    /// The cloud answered a ping.
    pub fn handle_pong(&mut self, now: Instant) {
        self.handle_life(now);
    }

    /// Any other sign of life without a message, such as a ping of the cloud.
    pub fn handle_life(&mut self, now: Instant) {
        self.last_heard = self.last_heard.max(now);
    }

    /// The Put or Delete of this id is on disk. False when this connection did not bring it, or it is acknowledged
    /// already; then nothing is sent, and nothing is lost: the cloud sends what was not acknowledged again.
    pub fn acknowledge(&mut self, now: Instant, to: &MessageId) -> bool {
        let Some((about, route)) = self.unstored.remove(to) else { return false };
        self.acknowledged.insert(to.clone());
        self.transmit_ack(now, to.clone(), about, route);
        true
    }

    /// The Put or Delete of this id could not be kept. It is not acknowledged, and handed up again when it comes again.
    /// False as above.
    pub fn not_kept(&mut self, now: Instant, to: &MessageId, why: String) -> bool {
        let Some((about, _)) = self.unstored.remove(to) else { return false };
        self.tell(now, Up::NotKept { id: MessageId::fresh(), to: to.clone(), about, why });
        true
    }

    /// Asks the cloud. Ends in exactly one `Answered` or `TimedOut` with this id, unless the link ends first.
    pub fn ask(&mut self, now: Instant, question: Question) -> MessageId {
        let id = MessageId::fresh();
        let asked = Asked { deadline: now + self.config.ask_timeout, acknowledged: acknowledged(&question) };
        self.asked.insert(id.clone(), asked);
        self.tell(now, Up::Ask { id: id.clone(), question });
        id
    }

    /// Sends a message that wants no answer, or whose answer the caller finds by itself.
    pub fn tell(&mut self, now: Instant, message: Up) {
        if self.open {
            let unix_ms = crate::unix_ms(self.config.started_unix_ms, self.started, now);
            self.outputs.push_back(Output::Transmit(kubeedge::encode_up(&message, unix_ms).into()));
        }
    }

    /// Does what is due at `now`. Calling it too early or too often is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        if !self.open {
            return;
        }
        if now >= self.last_heard + self.config.silence_limit {
            self.open = false;
            self.outputs.push_back(Output::Closed(CloseReason::Silent));
            return;
        }
        for (id, _) in self.asked.extract_if(|_, asked| asked.deadline <= now) {
            self.outputs.push_back(Output::TimedOut { id });
        }
        if now >= self.next_heartbeat {
            self.beat(now);
        }
    }

    /// The next thing to do or to know.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` wants to be called next. `None` once the link is given up.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rest = self.next_heartbeat.min(self.last_heard + self.config.silence_limit);
        self.open.then(|| self.asked.values().map(|asked| asked.deadline).fold(rest, Instant::min))
    }

    fn beat(&mut self, now: Instant) {
        self.next_heartbeat = now + self.config.heartbeat;
        self.tell(now, Up::Keepalive { id: MessageId::fresh() });
        self.outputs.push_back(Output::Ping);
    }

    fn on_message(&mut self, now: Instant, message: Down) {
        let (Down::Put(Put { id, key, origin, .. }) | Down::Delete(Delete { id, key, origin, .. })) =
            &message
        else {
            self.outputs.push_back(Output::Received(message));
            return;
        };
        let (about, route) = (About::Object(key.clone()), push_route(key, *origin));
        if self.acknowledged.contains(id) {
            self.transmit_ack(now, id.clone(), about, route);
        } else if self.unstored.contains_key(id) {
            // It is being stored; the acknowledgement to come is good for this copy too.
        } else if self.unstored.len() >= MAX_UNSTORED {
            self.outputs.push_back(Output::Ignored { why: IgnoredWhy::TooManyUnstored });
        } else {
            self.unstored.insert(id.clone(), (about, route));
            self.outputs.push_back(Output::Received(message));
        }
    }

    fn on_answer(
        &mut self,
        now: Instant,
        id: MessageId,
        to: MessageId,
        about: About,
        version: Option<Version>,
        answer: Answer,
    ) {
        let route = answer_route(&about);
        match self.asked.remove(&to) {
            Some(asked) => {
                let holds_object = matches!(answer, Answer::Object(_));
                let receipt = match asked.acknowledged {
                    Acknowledged::OnceKept if holds_object => {
                        self.unstored.insert(id.clone(), (about, route));
                        Some(id)
                    }
                    Acknowledged::OnceKept | Acknowledged::AtOnce => {
                        self.acknowledged.insert(id.clone());
                        self.transmit_ack(now, id, about, route);
                        None
                    }
                    Acknowledged::Never => None,
                };
                self.outputs.push_back(Output::Answered { id: to, answer, version, receipt });
            }
            None if self.acknowledged.contains(&id) => self.transmit_ack(now, id, about, route),
            None => self.outputs.push_back(Output::Ignored { why: IgnoredWhy::LateAnswer }),
        }
    }

    fn transmit_ack(&mut self, now: Instant, to: MessageId, about: About, route: AckRoute) {
        self.tell(now, Up::Ack { id: MessageId::fresh(), to, about, route });
    }
}

/// Go edges rewrite the route of device objects before they acknowledge them; ours looks the same.
fn push_route(key: &ObjectKey, origin: Origin) -> AckRoute {
    match (origin, &key.kind) {
        (Origin::DeviceController, Kind::Device | Kind::DeviceModel) => AckRoute::Twin,
        _ => AckRoute::AsReceived(origin),
    }
}

fn answer_route(about: &About) -> AckRoute {
    match about {
        About::ApiServerCa => AckRoute::CloudHub,
        _ => AckRoute::AsReceived(Origin::EdgeController),
    }
}

/// Go edges acknowledge every answer that passes their MetaManager, and so do we: a cloud may count on it.
fn acknowledged(question: &Question) -> Acknowledged {
    match question {
        Question::Get(ObjectKey { kind: Kind::Lease, .. }) => Acknowledged::AtOnce,
        Question::Get(_) => Acknowledged::OnceKept,
        Question::Token { .. } | Question::ApiServerCa | Question::Create { .. } => Acknowledged::AtOnce,
        Question::Update { key, .. } if key.kind == Kind::Lease => Acknowledged::AtOnce,
        Question::Update { .. }
        | Question::PatchNodeStatus { .. }
        | Question::PatchPodStatus { .. }
        | Question::DeletePod { .. } => Acknowledged::Never,
    }
}
