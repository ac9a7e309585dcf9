//! The embedded broker: `ke_mqtt::Broker` on TCP, with the store under it.
//!
//! It acknowledges nothing before it is on disk: what many clients said in one turn is one transaction, then everything
//! that turn wants sent goes out. A client that is slow or silent holds up nobody else; a store that cannot be written
//! holds up all, for nothing may be acknowledged then. It decides nothing about messages. Called by `mod.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ke_mqtt::{
    Broker, Change, CloseReason, ConnectionId, DecodeError, Message, Output, PACKET_LIMIT, Packet, Qos,
    Ticket, decode, encode,
};
use ke_run::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::hearing::Hearing;
use super::lossy::Lossy;
use super::{EventBusError, store};
use crate::db::{Db, DbError};

/// Packets of one turn: one write to the disk for so many. Few enough that a turn alone does not fill the queue of a client
/// that reads well.
const TURN: usize = 64;
/// Bytes read of one connection that are not yet acknowledged or handed on. It takes the largest packet.
const READ_AHEAD: usize = PACKET_LIMIT;
/// What a packet counts at least, for its own memory: so many small ones are read ahead.
const PACKET_WEIGHT: usize = 1024;
/// Packets that wait to be written to one connection: what the broker has a window for, and answers of a client that asks
/// and does not read, which ends there.
const WRITE_AHEAD: usize = 1024;
/// A client that takes nothing for so long is gone.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Changes that cost at worst a repetition are written with others, or after this.
const LAZY_WRITE: Duration = Duration::from_secs(1);
/// Or when there are so many.
const LAZY_CHANGES: usize = 256;
/// Between two tries to write to a store that cannot be written.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What is said when a heard message is kept.
pub(super) struct Token {
    ticket: Ticket,
    /// Lets its connection be read on.
    _room: Option<OwnedSemaphorePermit>,
}

/// The module's part.
pub(super) struct Embedded {
    listener: TcpListener,
    core: Broker,
    db: Db,
    says: Lossy<Message>,
    filters: watch::Receiver<Vec<String>>,
    hearing: Hearing<Token>,
    rooms: HashMap<Ticket, OwnedSemaphorePermit>,
    links: HashMap<ConnectionId, Link>,
    /// Full: connections are not read, so their clients wait.
    from_clients: mpsc::Receiver<FromClient>,
    to_core: mpsc::Sender<FromClient>,
    tasks: JoinSet<()>,
    n_accepted: u64,
    /// Not yet stored.
    pending: Vec<Change>,
    pending_since: Option<Instant>,
    qos: Qos,
    retain: bool,
    n_dropped_told: u64,
}

/// How edgecore's own words are sent.
pub(super) struct Manner {
    pub(super) qos: Qos,
    pub(super) retain: bool,
}

struct Link {
    packets: mpsc::Sender<Packet>,
    reader: AbortHandle,
}

enum FromClient {
    Packet(ConnectionId, Packet, OwnedSemaphorePermit),
    Nonsense(ConnectionId, DecodeError),
    Written(ConnectionId, usize),
    Ended(ConnectionId),
}

enum Event {
    Accepted(std::io::Result<TcpStream>),
    Client(FromClient),
    Kept(Token),
    Say(Message),
    Filters,
    Due,
    Stop,
}

impl Embedded {
    pub(super) fn new(
        listener: TcpListener,
        core: Broker,
        db: Db,
        says: Lossy<Message>,
        filters: watch::Receiver<Vec<String>>,
        hearing: Hearing<Token>,
        manner: Manner,
    ) -> Self {
        // Full: what clients send waits in their sockets.
        let (to_core, from_clients) = mpsc::channel(TURN);
        Self {
            listener,
            core,
            db,
            says,
            filters,
            hearing,
            rooms: HashMap::new(),
            links: HashMap::new(),
            from_clients,
            to_core,
            tasks: JoinSet::new(),
            n_accepted: 0,
            pending: Vec::new(),
            pending_since: None,
            qos: manner.qos,
            retain: manner.retain,
            n_dropped_told: 0,
        }
    }

    /// Runs until shutdown. Errors: the store is closed.
    pub(super) async fn run(mut self, shutdown: Shutdown) -> Result<(), EventBusError> {
        let filters = self.filters.borrow_and_update().clone();
        self.core.listen(filters);
        loop {
            match self.next_event(&shutdown).await {
                Event::Accepted(Ok(stream)) => self.on_accepted(stream),
                Event::Accepted(Err(error)) => {
                    tracing::warn!(%error, "an MQTT client could not be let in");
                    // Most likely too many open files: trying again at once would fail as well.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Event::Client(from) => self.on_client(from),
                Event::Kept(token) => self.core.kept(Instant::now(), token.ticket),
                Event::Say(message) => self.core.publish(&message, self.qos, self.retain),
                Event::Filters => {
                    let filters = self.filters.borrow_and_update().clone();
                    self.core.listen(filters);
                }
                Event::Due => self.core.handle_timeout(Instant::now()),
                Event::Stop => break,
            }
            self.take_what_is_there();
            if !self.settle(&shutdown).await? {
                break;
            }
            while self.tasks.try_join_next().is_some() {}
        }
        self.store(&shutdown).await.map(|_| ())
    }

    /// The only select.
    async fn next_event(&mut self, shutdown: &Shutdown) -> Event {
        let flush = self.pending_since.map(|since| since + LAZY_WRITE);
        let due = [self.core.poll_timeout(), flush].into_iter().flatten().min();
        // A watch whose sender is gone is ready for ever.
        let filters = async {
            if self.filters.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        // First: what comes when the others stop is not theirs any more. The rest in no order, so that nobody starves.
        if shutdown.is_triggered() {
            return Event::Stop;
        }
        tokio::select! {
            () = shutdown.wait() => Event::Stop,
            token = self.hearing.next() => Event::Kept(token),
            Some(from) = self.from_clients.recv() => Event::Client(from),
            message = self.says.pop() => Event::Say(message),
            () = filters => Event::Filters,
            accepted = self.listener.accept() => Event::Accepted(accepted.map(|(stream, _)| stream)),
            () = until(due) => Event::Due,
        }
    }

    /// Whatever came meanwhile belongs to the same turn: one write for all.
    fn take_what_is_there(&mut self) {
        for _ in 0..TURN {
            match (self.from_clients.try_recv(), self.says.try_pop()) {
                (Err(_), None) => return,
                (from, message) => {
                    if let Ok(from) = from {
                        self.on_client(from);
                    }
                    if let Some(message) = message {
                        self.core.publish(&message, self.qos, self.retain);
                    }
                }
            }
        }
    }

    fn on_accepted(&mut self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        self.n_accepted += 1;
        let id = ConnectionId(self.n_accepted);
        let (read_half, write_half) = stream.into_split();
        // Full: the client reads too slowly and its connection is closed; its session keeps what is owed.
        let (packets, to_write) = mpsc::channel(WRITE_AHEAD);
        let reader = self.tasks.spawn(read(id, read_half, self.to_core.clone()));
        self.tasks.spawn(write(id, write_half, to_write, self.to_core.clone()));
        self.links.insert(id, Link { packets, reader });
        self.core.handle_connection(Instant::now(), id);
    }

    fn on_client(&mut self, from: FromClient) {
        match from {
            FromClient::Packet(id, packet, room) => {
                if let Some(ticket) = self.core.handle_packet(Instant::now(), id, packet) {
                    self.rooms.insert(ticket, room);
                }
            }
            FromClient::Nonsense(id, error) => self.core.handle_nonsense(id, &error),
            FromClient::Written(id, n_packets) => self.core.handle_sent(id, n_packets),
            FromClient::Ended(id) => self.core.handle_end(id, CloseReason::Broken),
        }
    }

    /// Ends a turn: stores what it changed, then does what it wants. False when edgecore stops.
    async fn settle(&mut self, shutdown: &Shutdown) -> Result<bool, EventBusError> {
        loop {
            self.pending.append(&mut self.core.take_changes());
            let is_due = |since: &Instant| since.elapsed() >= LAZY_WRITE;
            let cannot_wait = !self.pending.iter().all(Change::may_wait)
                || self.pending.len() >= LAZY_CHANGES
                || self.pending_since.as_ref().is_some_and(is_due);
            if cannot_wait {
                if !self.store(shutdown).await? {
                    return Ok(false);
                }
            } else if !self.pending.is_empty() && self.pending_since.is_none() {
                self.pending_since = Some(Instant::now());
            }
            let mut is_quiet = true;
            let outputs: Vec<_> = std::iter::from_fn(|| self.core.poll_output()).collect();
            for output in outputs {
                is_quiet = false;
                self.on_output(output);
            }
            if is_quiet {
                self.tell_dropped();
                return Ok(true);
            }
        }
    }

    fn on_output(&mut self, output: Output) {
        match output {
            Output::Send(id, packet) => {
                let full = self.links.get(&id).is_some_and(|link| {
                    matches!(link.packets.try_send(packet), Err(mpsc::error::TrySendError::Full(_)))
                });
                if full {
                    self.core.handle_end(id, CloseReason::TooSlow);
                }
            }
            Output::Close { id, client, reason } => {
                // Without a sender the writer writes out what it has and closes.
                if let Some(link) = self.links.remove(&id) {
                    link.reader.abort();
                }
                let client = client.as_deref().unwrap_or("(unnamed)");
                match reason {
                    CloseReason::Farewell | CloseReason::Broken => {
                        tracing::debug!(client, %reason, "an MQTT client left");
                    }
                    _ => tracing::info!(client, %reason, "an MQTT client was sent away"),
                }
            }
            Output::Heard { ticket, message, .. } => {
                let token = Token { ticket, _room: self.rooms.remove(&ticket) };
                self.hearing.take(message, token);
            }
        }
    }

    /// Tries until it is stored. False when edgecore stops before that: then nothing more is sent.
    async fn store(&mut self, shutdown: &Shutdown) -> Result<bool, EventBusError> {
        self.pending_since = None;
        if self.pending.is_empty() {
            return Ok(true);
        }
        let changes = Arc::new(std::mem::take(&mut self.pending));
        let mut is_told = false;
        loop {
            let rows = Arc::clone(&changes);
            let stored = self.db.call(move |connection| {
                let transaction = connection.transaction()?;
                store::apply(&transaction, &rows)?;
                transaction.commit()
            });
            match stored.await {
                Ok(()) => return Ok(true),
                Err(error @ DbError::Closed) => return Err(error.into()),
                Err(error) if is_told => tracing::debug!(%error, "the store still cannot be written"),
                Err(error) => {
                    is_told = true;
                    tracing::error!(%error, "MQTT messages cannot be stored; their senders wait for acknowledgements");
                }
            }
            if shutdown.is_triggered() {
                return Ok(false);
            }
            tokio::select! {
                () = tokio::time::sleep(STORE_PAUSE) => {}
                () = shutdown.wait() => {}
            }
        }
    }

    fn tell_dropped(&mut self) {
        let counts = self.core.counts();
        let n_dropped =
            counts.dropped + counts.not_retained + counts.sessions_evicted + self.says.n_dropped();
        // Told at the first and at each doubling: a slow client must not fill the log.
        if n_dropped > 0 && n_dropped >= self.n_dropped_told * 2 {
            self.n_dropped_told = n_dropped;
            tracing::warn!(
                for_slow_clients = counts.dropped,
                not_retained = counts.not_retained,
                sessions = counts.sessions_evicted,
                own = self.says.n_dropped(),
                "the embedded MQTT broker dropped messages for lack of room, so many since the start"
            );
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Packets of one connection, until it ends or its driver does.
async fn read(id: ConnectionId, mut half: OwnedReadHalf, to_core: mpsc::Sender<FromClient>) {
    let room = Arc::new(Semaphore::new(READ_AHEAD));
    let mut buffer = BytesMut::new();
    loop {
        let before = buffer.len();
        let last = match decode(&mut buffer, PACKET_LIMIT) {
            Ok(Some(packet)) => {
                let weight = (before - buffer.len()).clamp(PACKET_WEIGHT, READ_AHEAD);
                let permits = u32::try_from(weight).unwrap_or(u32::MAX);
                let Ok(permit) = Arc::clone(&room).acquire_many_owned(permits).await else { return };
                if to_core.send(FromClient::Packet(id, packet, permit)).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(None) => {
                if buffer.is_empty() && buffer.capacity() > 4096 {
                    // A connection that is mostly idle does not keep the buffer of its largest packet.
                    buffer = BytesMut::new();
                }
                buffer.reserve(1024);
                match half.read_buf(&mut buffer).await {
                    Ok(0) | Err(_) => FromClient::Ended(id),
                    Ok(_) => continue,
                }
            }
            Err(error) => FromClient::Nonsense(id, error),
        };
        let _ = to_core.send(last).await;
        return;
    }
}

/// Packets to one connection, until the core lets go of it.
async fn write(
    id: ConnectionId,
    mut half: OwnedWriteHalf,
    mut packets: mpsc::Receiver<Packet>,
    to_core: mpsc::Sender<FromClient>,
) {
    let mut buffer = BytesMut::new();
    while let Some(first) = packets.recv().await {
        let mut n_packets = 1;
        // What cannot be said in MQTT came in over MQTT: it does not happen.
        let _ = encode(&first, &mut buffer);
        while buffer.len() < 16 * 1024
            && let Ok(next) = packets.try_recv()
        {
            let _ = encode(&next, &mut buffer);
            n_packets += 1;
        }
        let written = tokio::time::timeout(WRITE_LIMIT, half.write_all(&buffer)).await;
        if !matches!(written, Ok(Ok(()))) {
            let _ = to_core.send(FromClient::Ended(id)).await;
            return;
        }
        buffer.clear();
        if buffer.capacity() > 4096 {
            buffer = BytesMut::new();
        }
        if to_core.send(FromClient::Written(id, n_packets)).await.is_err() {
            return;
        }
    }
    let _ = half.shutdown().await;
}
