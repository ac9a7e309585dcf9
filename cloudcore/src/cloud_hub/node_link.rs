//! One connected node: moves bytes and messages between its socket, `CloudEnd`, its queue and EdgeController.
//!
//! One task, one `select!`, no lock across an await. What the node says is judged by `admit.rs` before anybody sees it.
//! Streams get what messages leave: before each of their frames all messages are written that wait.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ke_link::cloud::Output;
use ke_link::streams::shared::LinkStreams;
use ke_link::{CloudConfig, CloudEnd, Deed};
use ke_run::shutdown::Shutdown;
use ke_socket::wire::Wire;
use ke_wire::{
    About, Answer, Down, Kind, MessageId, NodeName, ObjectKey, Question, Reason, Refusal, Up, Version,
};
use tokio::sync::{Semaphore, oneshot};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use super::admit::{self, NodeGraph, Verdict};
use super::counters::Counters;
use super::listen::{self, Conn, MAX_MESSAGE};
use super::sort::{self, Recipient};
use crate::device_inbox::{DeviceInbox, FromEdge};
use crate::edge_controller::{FromNode, Upstream};
use crate::node_queue::{Ended, NodeQueue};
use crate::tunnels::Attachment;

/// Questions of one node that wait for the API server at once; more are refused, and asked again by the node. Leaving
/// them in the socket would leave keepalives and acknowledgements there too.
const MAX_QUESTIONS: usize = 128;
/// Events of one node that wait for the API server at once. More stay in the node's socket.
const MAX_TOLD: usize = 16;
/// Bad frames of one node are logged once in this time.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// Id and subject of a question, its answer, and the version of the object in it. Boxed: every idle link has room for one.
type Answered = Box<(MessageId, About, (Answer, Option<Version>))>;
type Answering = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// What happens when a node touches what is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violations {
    Refused,
    Logged,
}

/// What a link needs of the process.
pub(super) struct LinkParts {
    pub(super) node: NodeName,
    pub(super) queue: Arc<NodeQueue>,
    pub(super) upstream: Upstream,
    pub(super) devices: DeviceInbox,
    pub(super) graph: Arc<dyn NodeGraph>,
    pub(super) counters: Arc<Counters>,
    pub(super) keepalive_limit: Duration,
    pub(super) write_limit: Duration,
    pub(super) violations: Violations,
    /// Its byte streams, if its edgecore has any, and their place among those of all nodes.
    pub(super) streams: Option<LinkStreams>,
    pub(super) _attachment: Attachment,
    /// Told when the node registered, so that its key is noted on the new Node.
    pub(super) registered: Arc<dyn Fn() + Send + Sync>,
}

/// One connection and all that belongs to it.
pub(super) struct NodeLink {
    wire: Wire<Conn, Message, tungstenite::Error>,
    end: CloudEnd,
    parts: LinkParts,
    answering: FuturesUnordered<Answering>,
    telling: Arc<Semaphore>,
    last_logged: Option<Instant>,
}

enum Event {
    Frame(Option<Result<Message, tungstenite::Error>>),
    Answer(Answered),
    Queue,
    Streams,
    Timeout,
    Stop,
}

impl NodeLink {
    pub(super) fn new(conn: Conn, parts: LinkParts) -> Box<Self> {
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let config = CloudConfig {
            keepalive_limit: parts.keepalive_limit,
            frame_limit: MAX_MESSAGE,
            started_unix_ms: i64::try_from(unix_ms).unwrap_or(0),
            ..CloudConfig::default()
        };
        let end = CloudEnd::new(Instant::now(), config);
        Box::new(Self {
            wire: Wire::new(conn, Message::len),
            end,
            parts,
            answering: FuturesUnordered::new(),
            telling: Arc::new(Semaphore::new(MAX_TOLD)),
            last_logged: None,
        })
    }

    /// Runs until the link ends; says why it did. What is rare is boxed: this future is what an idle link costs.
    pub(super) async fn run(mut self: Box<Self>, shutdown: &Shutdown) -> String {
        // After `attach`: what is ordered from now on finds the queue.
        let node = self.parts.node.clone();
        Box::pin(self.parts.upstream.tell(FromNode::Connected(node.clone()))).await;
        Box::pin(self.parts.devices.tell(FromEdge::Connected(node))).await;
        let mut frame_is_due = false;
        loop {
            if let Err(why) = self.fill_and_flush().await {
                return why;
            }
            if std::mem::take(&mut frame_is_due) {
                if let Err(why) = self.write_stream_frame().await {
                    return why;
                }
                // Whatever came to be said meanwhile goes before the next frame.
                continue;
            }
            let timeout = self.end.poll_timeout().unwrap_or_else(Instant::now);
            let event = tokio::select! {
                frame = self.wire.next() => Event::Frame(frame),
                Some(answered) = self.answering.next() => Event::Answer(answered),
                () = self.parts.queue.changed() => Event::Queue,
                () = LinkStreams::ready(self.parts.streams.as_ref()) => Event::Streams,
                () = tokio::time::sleep_until(timeout.into()) => Event::Timeout,
                () = shutdown.wait() => Event::Stop,
            };
            let now = Instant::now();
            match event {
                Event::Frame(Some(Ok(message))) => {
                    if let Err(why) = self.on_frame(now, message).await {
                        self.close(CloseCode::Policy, &why).await;
                        return why;
                    }
                }
                Event::Frame(Some(Err(error))) => {
                    let (code, why) = match &error {
                        tungstenite::Error::Capacity(_) => {
                            (CloseCode::Size, "a message of the node is longer than 8 MiB".to_owned())
                        }
                        tungstenite::Error::Utf8(_) => {
                            (CloseCode::Invalid, "a message of the node is no text".to_owned())
                        }
                        tungstenite::Error::Protocol(_) => {
                            (CloseCode::Protocol, format!("the node broke WebSocket's rules: {error}"))
                        }
                        _ => return format!("the connection broke: {error}"),
                    };
                    self.parts.counters.bad_frames.inc();
                    self.close(code, &why).await;
                    return why;
                }
                Event::Frame(None) => return "the node closed the connection".into(),
                Event::Answer(answered) => {
                    let (to, about, (answer, version)) = *answered;
                    self.answer(now, to, about, answer, version);
                }
                Event::Queue => {
                    if let Some(ended) = self.parts.queue.ended() {
                        let why = match ended {
                            Ended::Replaced => "the node connected anew",
                            Ended::NodeGone => "the Node was deleted",
                            Ended::Overrun => "the node takes nothing of what it is told",
                        };
                        self.close(CloseCode::Normal, why).await;
                        return why.into();
                    }
                }
                Event::Streams => frame_is_due = true,
                Event::Timeout => self.end.handle_timeout(now),
                Event::Stop => {
                    self.close(CloseCode::Away, "cloudcore stops").await;
                    return "cloudcore stops".into();
                }
            }
        }
    }

    async fn on_frame(&mut self, now: Instant, message: Message) -> Result<(), String> {
        let outcome = match (&message, &self.parts.streams) {
            (Message::Binary(frame), Some(streams)) => {
                self.end.handle_life(now);
                // A node opens none.
                let handled = streams.handle_bytes(frame).map(drop);
                return handled.map_err(|error| {
                    self.parts.counters.bad_frames.inc();
                    error.to_string()
                });
            }
            (Message::Text(text), _) => self.end.handle_bytes(now, text.as_bytes()),
            (Message::Binary(bytes), None) => self.end.handle_bytes(now, bytes),
            (Message::Ping(_) | Message::Pong(_) | Message::Frame(_), _) => {
                self.end.handle_life(now);
                Ok(())
            }
            (Message::Close(_), _) => return Err("the node closed the connection".into()),
        };
        outcome.map_err(|error| {
            self.parts.counters.bad_frames.inc();
            error.to_string()
        })
    }

    /// Takes what the queue has into the window, and does what the end wants done. Errors: why the link is over.
    async fn fill_and_flush(&mut self) -> Result<(), String> {
        loop {
            // First, so that a device is announced before it comes.
            for message in self.parts.queue.take_said() {
                // Only objects are ever refused for want of room.
                let _ = self.end.send(Instant::now(), message);
            }
            while self.end.has_room() {
                let Some(message) = self.parts.queue.take() else { break };
                // There is room, so it is taken.
                let _ = self.end.send(Instant::now(), message);
            }
            let Some(output) = self.end.poll_output() else { return Ok(()) };
            match output {
                Output::Transmit(bytes) => {
                    let text = Utf8Bytes::try_from(bytes).map_err(|_| "a message of ours is no text")?;
                    self.write(Message::Text(text)).await?;
                }
                Output::Received(message) => Box::pin(self.on_message(message)).await,
                Output::Delivered { id, key, deed, .. } => match deed {
                    Deed::Put | Deed::Delete => {
                        self.parts.counters.delivered.inc();
                        Box::pin(self.parts.queue.delivered(&key, &id)).await;
                    }
                    // Pushed as well, since a Pod of the node names it; the push is what the ledger notes.
                    Deed::Answer => {}
                },
                Output::Lost { id, key, deed, .. } => {
                    self.parts.counters.lost.inc();
                    if deed != Deed::Answer {
                        self.parts.queue.lost(&key, &id);
                    }
                }
                Output::Ignored { why } => {
                    self.parts.counters.bad_frames.inc();
                    self.log_now_and_then(&why.to_string());
                }
                Output::Closed(_) => {
                    let why = "nothing was heard from the node for the whole keepaliveInterval";
                    self.close(CloseCode::Policy, why).await;
                    return Err(why.into());
                }
            }
        }
    }

    async fn on_message(&mut self, message: Up) {
        let mut verdict = admit::message(&message, &self.parts.node, &*self.parts.graph);
        if self.parts.violations == Violations::Logged
            && verdict != Verdict::Admit
            && matches!(message, Up::Ask { .. } | Up::Event { .. })
        {
            self.log_now_and_then(
                "admitted all the same, since modules.cloudHub.authorization is off or in debug",
            );
            verdict = Verdict::Admit;
        }
        let refusal = match verdict {
            Verdict::Admit => None,
            Verdict::Answer(answer) => Some(answer),
            Verdict::Drop(why) => {
                self.parts.counters.refused.inc();
                return self.log_now_and_then(why);
            }
        };
        match sort::recipient(message) {
            Recipient::Answers(id, question) => match refusal {
                None => self.ask(id, question).await,
                Some(answer) => {
                    self.parts.counters.refused.inc();
                    self.log_now_and_then("the node asked for what it may not touch");
                    self.answer(Instant::now(), id, question.about(), answer, None);
                }
            },
            Recipient::Events(key, change) => {
                // Never closed; and a flood of one node waits here, in its own socket.
                let Ok(permit) = Arc::clone(&self.telling).acquire_owned().await else { return };
                self.parts.upstream.tell(FromNode::Event(self.parts.node.clone(), key, change, permit)).await;
            }
            Recipient::Devices(said) => {
                // Which device is whose is known there. It only notes what is said, so that this never waits long.
                self.parts.devices.tell(FromEdge::Said(self.parts.node.clone(), Box::new(said))).await;
            }
            Recipient::Link(about, why) => {
                tracing::debug!(node = %self.parts.node, ?about, why, "the node could not keep an object");
                self.log_now_and_then(
                    "the node could not keep an object, which is sent again; its own log says why",
                );
            }
            Recipient::Nobody(what) => {
                self.parts.counters.dropped.inc();
                tracing::debug!(node = %self.parts.node, what, "nothing here takes what the node says");
            }
        }
    }

    async fn ask(&mut self, id: MessageId, question: Question) {
        let about = question.about();
        if self.answering.len() >= MAX_QUESTIONS {
            self.parts.counters.refused.inc();
            self.log_now_and_then("the node has too many questions open");
            let refusal = admit::refuse(&question, too_many());
            return self.answer(Instant::now(), id, about, refusal, None);
        }
        let registers = matches!(&question, Question::Create { key: ObjectKey { kind: Kind::Node, .. }, .. });
        let no_answer = admit::refuse(&question, unanswered());
        let (sender, receiver) = oneshot::channel();
        self.parts.upstream.tell(FromNode::Ask(self.parts.node.clone(), question, sender)).await;
        let registered = registers.then(|| Arc::clone(&self.parts.registered));
        self.answering.push(Box::pin(async move {
            let answer = receiver.await.unwrap_or((no_answer, None));
            if let (Some(registered), Answer::Stored(_)) = (registered, &answer.0) {
                registered();
            }
            Box::new((id, about, answer))
        }));
    }

    fn answer(
        &mut self,
        now: Instant,
        to: MessageId,
        about: About,
        answer: Answer,
        version: Option<Version>,
    ) {
        let message = Down::Answer { id: MessageId::fresh(), to, about, version, answer };
        // Answers are never refused for want of room.
        let _ = self.end.send(now, message);
    }

    async fn write_stream_frame(&mut self) -> Result<(), String> {
        match self.parts.streams.as_ref().and_then(LinkStreams::next_frame) {
            Some(frame) => self.write(Message::Binary(frame)).await,
            None => Ok(()),
        }
    }

    async fn write(&mut self, message: Message) -> Result<(), String> {
        match tokio::time::timeout(self.parts.write_limit, self.wire.write(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the connection broke: {error}")),
            Err(_) => Err("the node took nothing for the whole writeTimeout".into()),
        }
    }

    async fn close(&mut self, code: CloseCode, reason: &str) {
        listen::hang_up(&mut self.wire.conn, code, reason).await;
    }

    fn log_now_and_then(&mut self, why: &str) {
        let now = Instant::now();
        if self.last_logged.is_none_or(|last| now - last > LOG_PAUSE) {
            self.last_logged = Some(now);
            tracing::warn!(node = %self.parts.node, why, "a message of the node has no effect; more of this minute are only counted");
        }
    }
}

fn too_many() -> Refusal {
    Refusal {
        message: format!(
            "{MAX_QUESTIONS} questions of this node wait for an answer already; ask again later"
        ),
        reason: Reason::Other("TooManyRequests".into()),
        details: None,
        code: 429,
    }
}

fn unanswered() -> Refusal {
    Refusal {
        message: "cloudcore could not ask the API server now".into(),
        reason: Reason::Timeout,
        details: None,
        code: 504,
    }
}
