//! One connection: moves bytes and messages between the socket, `EdgeEnd`, MetaManager and those who ask.
//!
//! Events of Kubernetes have no answer on this wire. They count as told when the cloud has answered a ping that was sent
//! after them: it reads its socket in order. Byte streams get what messages leave: before each of their frames all messages
//! are written that wait.

use std::collections::HashMap;
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ke_link::edge::Output;
use ke_link::streams::shared::LinkStreams;
use ke_link::{EdgeConfig, EdgeEnd};
use ke_run::shutdown::Shutdown;
use ke_socket::wire::Wire;
use ke_wire::{Down, MessageId};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::{self, Message};

use super::DeviceEnds;
use super::dial::{Conn, Dialled};
use super::handle::{Answered, AskError, CloudInbox, Membership, Receipt, Request};
use super::identity::Identity;
use super::sending::{Sending, Settlement, sending, settlement};
use crate::config::EdgeHubConfig;
use crate::edge_stream::EdgeStreams;
use crate::meta_manager::{Applied, Meta, MetaError, Pushed};
use crate::report_queue::{DeviceReport, Fate, Outbox, Outgoing, ParcelNews, Ticket};

/// A frame that cannot be written for this long means that the link is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(15);
/// A report that the cloud could not take goes again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(5);

type Applying = Pin<Box<dyn Future<Output = (MessageId, Result<Applied, MetaError>)> + Send>>;
type Pause = Pin<Box<dyn Future<Output = Ticket> + Send>>;

/// Who waits for an answer.
enum Waiting {
    Module(oneshot::Sender<Result<Answered, AskError>>),
    Report(Ticket),
}

/// Who wants something told, and who is told.
pub(super) struct Ends<'a> {
    pub(super) inbox: &'a mut CloudInbox,
    pub(super) outbox: &'a mut Outbox,
    pub(super) devices: &'a mut DeviceEnds,
    pub(super) streams: Option<&'a EdgeStreams>,
}

/// One connection and all that belongs to it; dropped with it.
pub(super) struct Link<'a> {
    wire: Wire<Conn, Message, tungstenite::Error>,
    end: EdgeEnd,
    /// Where both the cloud and this edgecore have byte streams.
    streams: Option<(LinkStreams, &'a EdgeStreams)>,
    meta: &'a Meta,
    ends: Ends<'a>,
    waiting: HashMap<MessageId, Waiting>,
    applying: FuturesUnordered<Applying>,
    pauses: FuturesUnordered<Pause>,
    /// Events sent since the last ping, and those sent before the ping of that number.
    told: Vec<Ticket>,
    told_before_ping: Option<(u64, Vec<Ticket>)>,
    n_pings: u64,
}

enum Event {
    Frame(Option<Result<Message, tungstenite::Error>>),
    Applied(MessageId, Result<Applied, MetaError>),
    Request(Request),
    Report(Outgoing),
    Device(MessageId, DeviceReport),
    Again(Ticket),
    Streams,
    Timeout,
    Renewed,
    Stop,
}

impl<'a> Link<'a> {
    pub(super) fn new(dialled: Dialled, config: &EdgeHubConfig, meta: &'a Meta, ends: Ends<'a>) -> Self {
        let heartbeat = config.heartbeat.secs();
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let config = EdgeConfig {
            heartbeat,
            silence_limit: heartbeat * 2,
            started_unix_ms: i64::try_from(unix_ms).unwrap_or(0),
            ..EdgeConfig::default()
        };
        Self {
            wire: Wire::new(dialled.conn, Message::len),
            streams: dialled.streams.zip(ends.streams),
            end: EdgeEnd::new(Instant::now(), config),
            meta,
            ends,
            waiting: HashMap::new(),
            applying: FuturesUnordered::new(),
            pauses: FuturesUnordered::new(),
            told: Vec::new(),
            told_before_ping: None,
            n_pings: 0,
        }
    }

    /// Runs until the link ends; says why it did.
    pub(super) async fn run(mut self, identity: &mut Identity, shutdown: &Shutdown) -> String {
        // Kept across the loop: a renewal that other events interrupted would leave the cloud with a key nobody has.
        let mut renewed = std::pin::pin!(identity.renewed());
        let mut frame_is_due = false;
        loop {
            if let Err(why) = self.flush().await {
                return why;
            }
            if std::mem::take(&mut frame_is_due) {
                if let Some(frame) = self.streams.as_ref().and_then(|(streams, _)| streams.next_frame())
                    && let Err(why) = self.write(Message::Binary(frame)).await
                {
                    return why;
                }
                // Whatever came to be said meanwhile goes before the next frame.
                continue;
            }
            let timeout = self.end.poll_timeout().unwrap_or_else(Instant::now);
            let event = tokio::select! {
                frame = self.wire.next() => Event::Frame(frame),
                Some((id, applied)) = self.applying.next() => Event::Applied(id, applied),
                Some(request) = self.ends.inbox.requests.recv() => Event::Request(request),
                Some(outgoing) = self.ends.outbox.outgoing.recv() => Event::Report(outgoing),
                Some((message, report)) = self.ends.devices.outbox.outgoing.recv() => Event::Device(message, report),
                Some(ticket) = self.pauses.next() => Event::Again(ticket),
                () = LinkStreams::ready(self.streams.as_ref().map(|(streams, _)| streams)) => Event::Streams,
                () = tokio::time::sleep_until(timeout.into()) => Event::Timeout,
                () = &mut renewed => Event::Renewed,
                () = shutdown.wait() => Event::Stop,
            };
            let now = Instant::now();
            match event {
                Event::Frame(Some(Ok(message))) => {
                    if let Err(why) = self.on_frame(now, message).await {
                        return why;
                    }
                }
                Event::Frame(Some(Err(error))) => return format!("the connection broke: {error}"),
                Event::Frame(None) => return "the cloud closed the connection".into(),
                Event::Applied(id, Ok(_)) => drop(self.end.acknowledge(now, &id)),
                Event::Applied(id, Err(error)) => {
                    tracing::error!(%error, message = %id, "a pushed object was not kept");
                    self.end.not_kept(now, &id, error.to_string());
                }
                Event::Request(Request::Ask(question, reply)) => {
                    let id = self.end.ask(now, question);
                    self.waiting.insert(id, Waiting::Module(reply));
                }
                Event::Request(Request::Tell(message)) => self.end.tell(now, *message),
                Event::Request(Request::Kept(Receipt(id))) => drop(self.end.acknowledge(now, &id)),
                Event::Report(outgoing) => self.on_report(now, outgoing).await,
                Event::Device(message, report) => self.end.tell(now, report.message(message)),
                Event::Again(ticket) => self.tell_fate(Fate::Again(ticket)).await,
                // Whoever has something to tell goes first; one of those branches is ready then.
                Event::Streams => frame_is_due = !self.has_messages_waiting(),
                Event::Timeout => self.end.handle_timeout(now),
                Event::Renewed => {
                    self.close().await;
                    return "the certificate was renewed".into();
                }
                Event::Stop => {
                    self.close().await;
                    return "edgecore stops".into();
                }
            }
        }
    }

    async fn on_frame(&mut self, now: Instant, message: Message) -> Result<(), String> {
        match message {
            Message::Text(text) => {
                self.end.handle_bytes(now, text.as_bytes()).map_err(|error| error.to_string())
            }
            Message::Binary(bytes) => match &self.streams {
                Some((streams, takers)) => {
                    self.end.handle_life(now);
                    if let Some(opened) = streams.handle_bytes(&bytes).map_err(|error| error.to_string())? {
                        takers.accept(opened);
                    }
                    Ok(())
                }
                None => self.end.handle_bytes(now, &bytes).map_err(|error| error.to_string()),
            },
            Message::Pong(number) => {
                self.end.handle_pong(now);
                let number = <[u8; 8]>::try_from(&number[..]).map_or(0, u64::from_be_bytes);
                if let Some((_, told)) = self.told_before_ping.take_if(|(awaited, _)| *awaited <= number) {
                    for ticket in told {
                        self.tell_fate(Fate::Settled(ticket)).await;
                    }
                }
                Ok(())
            }
            Message::Ping(_) | Message::Frame(_) => {
                self.end.handle_life(now);
                Ok(())
            }
            Message::Close(Some(frame)) => Err(format!("the cloud closed the connection: {}", frame.reason)),
            Message::Close(None) => Err("the cloud closed the connection".into()),
        }
    }

    fn has_messages_waiting(&self) -> bool {
        let Ends { inbox, outbox, devices, .. } = &self.ends;
        !(inbox.requests.is_empty() && outbox.outgoing.is_empty() && devices.outbox.outgoing.is_empty())
    }

    async fn on_report(&mut self, now: Instant, outgoing: Outgoing) {
        match sending(&outgoing.report) {
            Sending::Ask(question) => {
                let id = self.end.ask(now, question);
                self.waiting.insert(id, Waiting::Report(outgoing.ticket));
            }
            Sending::Tell(message) => {
                self.end.tell(now, message);
                self.told.push(outgoing.ticket);
            }
            Sending::Never(why) => {
                tracing::error!(why, "a report cannot be told and is dropped");
                self.tell_fate(Fate::Settled(outgoing.ticket)).await;
            }
        }
    }

    /// Does what the end wants done. Errors: why the link is over.
    async fn flush(&mut self) -> Result<(), String> {
        while let Some(output) = self.end.poll_output() {
            match output {
                Output::Transmit(bytes) => {
                    let text = tungstenite::Utf8Bytes::try_from(bytes)
                        .map_err(|_| "a message of ours is no text")?;
                    self.write(Message::Text(text)).await?;
                }
                Output::Ping => self.ping().await?,
                Output::Received(message) => self.on_message(message).await,
                Output::Answered { id, answer, version, receipt } => {
                    let receipt = receipt.map(Receipt);
                    match self.waiting.remove(&id) {
                        Some(Waiting::Module(reply)) => {
                            let _ = reply.send(Ok(Answered { answer, version, receipt }));
                        }
                        Some(Waiting::Report(ticket)) => match settlement(&answer) {
                            Settlement::Done => self.tell_fate(Fate::Settled(ticket)).await,
                            Settlement::Moot => self.tell_fate(Fate::Moot(ticket)).await,
                            Settlement::Later => {
                                tracing::warn!(?answer, "the cloud did not take a report; it goes again");
                                self.pause(ticket);
                            }
                        },
                        None => {}
                    }
                }
                Output::TimedOut { id } => match self.waiting.remove(&id) {
                    Some(Waiting::Module(reply)) => drop(reply.send(Err(AskError::NoAnswer))),
                    Some(Waiting::Report(ticket)) => self.tell_fate(Fate::Again(ticket)).await,
                    None => {}
                },
                Output::Ignored { why } => tracing::debug!(%why, "a message of the cloud has no effect"),
                Output::Closed(reason) => {
                    return Err(format!("the link is {reason:?}: nothing was heard for two heartbeats"));
                }
            }
        }
        // One ping for all events told since the last one.
        if !self.told.is_empty() && self.told_before_ping.is_none() {
            self.ping().await?;
        }
        Ok(())
    }

    async fn on_message(&mut self, message: Down) {
        let (id, pushed) = match message {
            Down::Put(put) => (put.id.clone(), Pushed::Put(put)),
            Down::Delete(delete) => (delete.id.clone(), Pushed::Delete(delete)),
            Down::TwinConfirmed { to, .. } => {
                // Closed at shutdown only: what is confirmed then goes once more.
                let _ = self.ends.devices.outbox.news.send(ParcelNews::Confirmed(to)).await;
                return;
            }
            Down::Membership { added, removed, .. } => {
                return self.tell_membership(Membership::Changed { added, removed });
            }
            Down::MembershipAll { devices, .. } => return self.tell_membership(Membership::All(devices)),
            // `EdgeEnd` hands an answer over as one; the others get their modules with their issues. Told, not swallowed.
            other @ (Down::Answer { .. }
            | Down::Applied { .. }
            | Down::WatchesSet { .. }
            | Down::Router { .. }
            | Down::UploadAnswered { .. }
            | Down::Csi { .. }
            | Down::Job { .. }
            | Down::Task { .. }
            | Down::OldUpgrade { .. }) => {
                tracing::warn!(
                    message = other.name(),
                    "this edgecore has no module for a message of the cloud yet"
                );
                return;
            }
        };
        let applied = self.meta.apply(pushed);
        self.applying.push(Box::pin(async move { (id, applied.await) }));
    }

    fn tell_membership(&self, membership: Membership) {
        // Closed: DeviceTwin is not wanted here.
        if let Err(TrySendError::Full(_)) = self.ends.devices.membership.try_send(membership) {
            tracing::warn!(
                "DeviceTwin is too busy to hear which devices are here; the next connection brings them all"
            );
        }
    }

    async fn ping(&mut self) -> Result<(), String> {
        self.n_pings += 1;
        if self.told_before_ping.is_none() && !self.told.is_empty() {
            self.told_before_ping = Some((self.n_pings, std::mem::take(&mut self.told)));
        }
        self.write(Message::Ping(self.n_pings.to_be_bytes().to_vec().into())).await
    }

    async fn write(&mut self, message: Message) -> Result<(), String> {
        match tokio::time::timeout(WRITE_LIMIT, self.wire.write(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the connection broke: {error}")),
            Err(_) => Err(format!("the cloud took nothing for {} s", WRITE_LIMIT.as_secs())),
        }
    }

    fn pause(&mut self, ticket: Ticket) {
        self.pauses.push(Box::pin(async move {
            tokio::time::sleep(RETRY_AFTER).await;
            ticket
        }));
    }

    async fn tell_fate(&mut self, fate: Fate) {
        // Closed at shutdown only: the queue then has everything on disk.
        let _ = self.ends.outbox.fates.send(fate).await;
    }

    async fn close(&mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(1), self.wire.conn.close(None)).await;
    }
}
