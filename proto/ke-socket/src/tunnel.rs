//! KubeEdge's stream tunnel on one connection: many byte streams, each one request to a node's kubelet.
//!
//! Both ends drive a [`Session`]; the cloud's opens streams by its [`Tunnel`], the edge's hands over those that come. The protocol
//! knows no flow control. So what comes for a stream waits in a bounded store, and a stream whose reader is too far behind is
//! ended: neither it nor the tunnel's other streams wait, and memory stays small. What goes out waits for room in one queue, in
//! turn and in small pieces, so that a writer is held up by the tunnel and by nothing else, and a key that somebody types has
//! little in front of it. Beginnings and ends of streams have room of their own there. Used where an end of KubeEdge's stands
//! opposite.

use std::collections::hash_map::Entry as Place;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ke_wire::tunnel::{KubeletRequest, MAX_TUNNEL_DATA, Reached, TunnelError, TunnelMessage, TunnelSays};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::frame::{self, FrameReader, Kind, Received, Role};

/// Streams of one tunnel at once. More are refused.
pub const MAX_STREAMS: usize = 256;
/// Bytes of data that wait to be sent, of all streams, with what each message costs besides. They lie in front of every
/// keystroke: half a second at 1 Mbit/s. Full: who writes waits.
const QUEUE: usize = 64 << 10;
/// Messages of data that wait at most.
const MAX_QUEUED: usize = QUEUE / OVERHEAD;
/// Bytes of one message; a Go end sends 256. Each stream sends one, and then it is the next one's turn.
const MAX_PIECE: usize = 4 << 10;
/// Streams that were refused, and the other end not told yet. More: it asks for too much, and the tunnel ends.
const MAX_REFUSED: usize = 4096;
/// What a stored message costs besides its bytes.
const OVERHEAD: usize = 128;
/// Bytes that are read, or gathered to be written, at once.
const BUFFER: usize = 16 << 10;
/// The two numbers before a message's data.
const MAX_NUMBERS: usize = 20;
/// What Go's edge says in its pings.
const PING: &[u8] = b"ping you";

/// Times and sizes of one end.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A tunnel from which nothing came at all for so long is dead: a Go cloud reads only when it has found the Node, for which it
    /// looks every 20 s for 2 min.
    pub first: Duration,
    /// A tunnel from which nothing more came for so long is dead.
    pub read: Duration,
    /// A tunnel that takes nothing for so long is dead.
    pub write: Duration,
    /// How often this end asks whether the other is there; `None`: it answers only.
    pub ping: Option<Duration>,
    /// Bytes of one stream that its reader has not taken yet. More: the stream ends.
    pub held_of_stream: usize,
    /// Bytes of all streams together. More: the stream ends for which they came.
    pub held: usize,
}

/// Which end this is.
pub enum End {
    /// Opens streams. It does not answer the end of one, since a Go edge may panic at whatever comes after it.
    Cloud {
        /// Numbers of streams: one count for all tunnels of the process.
        ids: Arc<AtomicU64>,
    },
    /// Serves streams. It always answers the end of one: a Go cloud repeats itself until then.
    Edge {
        /// Takes each stream. Called by the tunnel's task, so it must not wait: it starts a task, or drops it.
        accept: Box<dyn Fn(Stream, Reached, KubeletRequest) + Send + Sync>,
        /// Four bytes by chance for each frame.
        mask: fn() -> [u8; 4],
    },
}

/// Opens streams of a tunnel. Cloneable; the tunnel does not live longer for it.
#[derive(Clone)]
pub struct Tunnel(Arc<Shared>);

/// One tunnel's task. Dropped, all streams end.
pub struct Session<S> {
    io: S,
    /// What was read beyond the handshake.
    first: Vec<u8>,
    shared: Arc<Shared>,
    out: mpsc::Receiver<Queued>,
    limits: Limits,
}

/// A message that waits to be sent.
struct Queued {
    message: TunnelMessage,
    /// What it takes of the room for data, until it is written.
    _room: Option<OwnedSemaphorePermit>,
}

struct Shared {
    end: End,
    out: mpsc::Sender<Queued>,
    /// Bytes of data that may be put into `out`: less than it has places for, so that data never keeps out anything else.
    out_room: Arc<Semaphore>,
    /// How many more streams there may be.
    slots: Arc<Semaphore>,
    /// There is somebody to be refused.
    refused: Notify,
    room: Arc<Semaphore>,
    held_of_stream: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    has_ended: bool,
    streams: HashMap<u64, Entry>,
    /// Streams that never were, and whose other end is told so. Beside the queue: who is refused since it is full has no place
    /// in it.
    refused: VecDeque<u64>,
}

struct Entry {
    pieces: mpsc::UnboundedSender<Piece>,
    room: Arc<Semaphore>,
    over: Arc<OnceLock<Over>>,
    /// Room for its last word, which therefore never waits.
    last: mpsc::OwnedPermit<Queued>,
    _slot: OwnedSemaphorePermit,
}

/// Bytes of a stream, and the room that they take until they are read.
struct Piece {
    bytes: Vec<u8>,
    _room: [OwnedSemaphorePermit; 2],
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// The other end said so.
    #[error("the other end has ended it")]
    Removed,
    /// Its reader was too slow.
    #[error("its reader is too far behind")]
    Behind,
    /// With the tunnel.
    #[error("the tunnel has ended")]
    Tunnel,
}

/// Why no stream was opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Some must end first.
    #[error("its tunnel carries {MAX_STREAMS} streams already: end some, such as followed logs")]
    TooMany,
    /// It is gone.
    #[error("its tunnel has ended")]
    Ended,
    /// It cannot be written.
    #[error("the request cannot be sent: {0}")]
    Request(#[from] TunnelError),
}

/// One stream. Dropped, it ends, and the other end is told where it does not know.
pub struct Stream {
    id: u64,
    shared: Arc<Shared>,
    // Bounded by bytes: each piece holds its part of two semaphores.
    pieces: mpsc::UnboundedReceiver<Piece>,
    over: Arc<OnceLock<Over>>,
}

/// The writing half of a stream. Of no use once the stream is dropped.
#[derive(Clone)]
pub struct StreamWriter {
    id: u64,
    out: mpsc::Sender<Queued>,
    out_room: Arc<Semaphore>,
    over: Arc<OnceLock<Over>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    /// Of a connection whose handshake is done. `first`: what was read beyond it.
    pub fn new(io: S, first: Vec<u8>, end: End, limits: Limits) -> (Tunnel, Self) {
        // Data cannot take more than half of it. Each stream takes a place for its beginning and keeps one for its end, which
        // for those that have ended is taken until it is written.
        let (sender, out) = mpsc::channel(2 * (MAX_QUEUED + MAX_STREAMS));
        let shared = Arc::new(Shared {
            end,
            out: sender,
            out_room: Arc::new(Semaphore::new(QUEUE)),
            slots: Arc::new(Semaphore::new(MAX_STREAMS)),
            refused: Notify::new(),
            room: Arc::new(Semaphore::new(limits.held)),
            held_of_stream: limits.held_of_stream,
            state: Mutex::default(),
        });
        (Tunnel(Arc::clone(&shared)), Self { io, first, shared, out, limits })
    }

    /// Carries streams until the tunnel ends, and says why it did.
    pub async fn run(mut self) -> String {
        let role = match &self.shared.end {
            End::Cloud { .. } => Role::Server,
            End::Edge { .. } => Role::Client,
        };
        let end = EndOnDrop(Arc::clone(&self.shared));
        let (reads, writes) = tokio::io::split(self.io);
        // Full: a ping stays unanswered; the next one is due in seconds.
        let (control, controls) = mpsc::channel(4);
        let reading = Box::pin(read(reads, &self.first, role, &self.shared, control, self.limits));
        let writing = Box::pin(write(writes, &mut self.out, controls, &self.shared, self.limits));
        let why = tokio::select! {
            why = reading => why,
            why = writing => why,
        };
        drop(end);
        why
    }
}

impl Entry {
    fn say_end(self, connection: u64) {
        self.last
            .send(Queued { message: TunnelMessage { connection, says: TunnelSays::Remove }, _room: None });
    }
}

/// Also when the task is dropped on its way.
struct EndOnDrop(Arc<Shared>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        let streams = {
            let mut state = self.0.state();
            state.has_ended = true;
            std::mem::take(&mut state.streams)
        };
        for entry in streams.into_values() {
            let _ = entry.over.set(Over::Tunnel);
        }
        self.0.out_room.close();
    }
}

async fn read<S: AsyncRead + AsyncWrite>(
    mut socket: ReadHalf<S>,
    first: &[u8],
    role: Role,
    shared: &Arc<Shared>,
    control: mpsc::Sender<(Kind, Vec<u8>)>,
    limits: Limits,
) -> String {
    let mut frames = FrameReader::new(role, MAX_TUNNEL_DATA + MAX_NUMBERS);
    let mut buffer = vec![0; BUFFER];
    let mut bytes = first;
    let mut limit = limits.first;
    loop {
        loop {
            match frames.read(&mut bytes) {
                Ok(None) => break,
                Ok(Some(Received::Message(message))) => {
                    if let Err(why) = shared.on_message(&message) {
                        return why;
                    }
                }
                Ok(Some(Received::Ping(asked))) => drop(control.try_send((Kind::Pong, asked))),
                Ok(Some(Received::Pong)) => {}
                Ok(Some(Received::Close(why))) => return format!("the other end closed it: {why:?}"),
                Err(error) => return error.to_string(),
            }
        }
        let n_read = match tokio::time::timeout(limit, socket.read(&mut buffer)).await {
            Ok(Ok(0)) => return "the other end has gone".to_owned(),
            Ok(Ok(n_read)) => n_read,
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("nothing came for {limit:?}"),
        };
        bytes = buffer.get(..n_read).unwrap_or_default();
        limit = limits.read;
    }
}

async fn write<S: AsyncRead + AsyncWrite>(
    mut socket: WriteHalf<S>,
    out: &mut mpsc::Receiver<Queued>,
    mut controls: mpsc::Receiver<(Kind, Vec<u8>)>,
    shared: &Shared,
    limits: Limits,
) -> String {
    // Without pings the clock only turns now and then.
    let mut clock = tokio::time::interval(limits.ping.unwrap_or(Duration::from_secs(3600)));
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut bytes, mut under_way) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            Some((kind, payload)) = controls.recv() => frame::write(kind, &payload, shared.mask(), &mut bytes),
            Some(queued) = out.recv() => {
                shared.put(&queued.message, &mut bytes);
                under_way.push(queued);
            }
            () = shared.refused.notified() => {}
            _ = clock.tick() => if limits.ping.is_some() {
                frame::write(Kind::Ping, PING, shared.mask(), &mut bytes);
            },
        }
        let refused = std::mem::take(&mut shared.state().refused);
        for connection in refused {
            shared.put(&TunnelMessage { connection, says: TunnelSays::Remove }, &mut bytes);
        }
        while bytes.len() < BUFFER
            && let Ok(queued) = out.try_recv()
        {
            shared.put(&queued.message, &mut bytes);
            under_way.push(queued);
        }
        let writing = async {
            socket.write_all(&bytes).await?;
            socket.flush().await
        };
        match tokio::time::timeout(limits.write, writing).await {
            Ok(Ok(())) => {
                bytes.clear();
                under_way.clear();
            }
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("the other end took nothing for {:?}", limits.write),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mask(&self) -> Option<[u8; 4]> {
        match &self.end {
            End::Cloud { .. } => None,
            End::Edge { mask, .. } => Some(mask()),
        }
    }

    fn put(&self, message: &TunnelMessage, into: &mut Vec<u8>) {
        match message.encode() {
            Ok(bytes) => frame::write(Kind::Text, &bytes, self.mask(), into),
            // `open` and `send` keep to the limits.
            Err(error) => tracing::warn!(%error, "a message of a tunnel cannot be written"),
        }
    }

    /// Errors: why the tunnel ends.
    fn on_message(self: &Arc<Self>, bytes: &[u8]) -> Result<(), String> {
        let message = match TunnelMessage::decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                tracing::debug!(%error, "a message of a tunnel that says nothing");
                // The other end may wait for a stream's beginning.
                return match TunnelMessage::connection_of(bytes) {
                    Some(id) => self.remove(id),
                    None => Ok(()),
                };
            }
        };
        let id = message.connection;
        match message.says {
            TunnelSays::Connect(reached, request) => self.on_connect(id, reached, request),
            TunnelSays::Data(data) => {
                self.on_data(id, data);
                Ok(())
            }
            TunnelSays::Remove => {
                let entry = self.state().streams.remove(&id);
                if let Some(entry) = entry {
                    let _ = entry.over.set(Over::Removed);
                    if let End::Edge { .. } = &self.end {
                        entry.say_end(id);
                    }
                }
                Ok(())
            }
            TunnelSays::Close(why) => Err(format!("the other end closed it: {why:?}")),
        }
    }

    fn on_connect(
        self: &Arc<Self>,
        id: u64,
        reached: Reached,
        request: KubeletRequest,
    ) -> Result<(), String> {
        let End::Edge { accept, .. } = &self.end else { return Ok(()) };
        let opened = || {
            let slot = self.slot().ok()?;
            let last = self.out.clone().try_reserve_owned().ok()?;
            self.stream(id, slot, last).ok()
        };
        match opened() {
            Some(stream) => {
                accept(stream, reached, request);
                Ok(())
            }
            None => self.remove(id),
        }
    }

    /// Never waits: a reader that is behind must not hold up the tunnel.
    fn on_data(&self, id: u64, bytes: Vec<u8>) {
        let mut state = self.state();
        let Some(entry) = state.streams.get(&id) else { return };
        let cost = u32::try_from(bytes.len().saturating_add(OVERHEAD)).unwrap_or(u32::MAX);
        let of_stream = Arc::clone(&entry.room).try_acquire_many_owned(cost);
        let of_tunnel = Arc::clone(&self.room).try_acquire_many_owned(cost);
        if let (Ok(of_stream), Ok(of_tunnel)) = (of_stream, of_tunnel) {
            let _ = entry.pieces.send(Piece { bytes, _room: [of_stream, of_tunnel] });
        } else if let Some(entry) = state.streams.remove(&id) {
            let _ = entry.over.set(Over::Behind);
            // At once: its reader may never come back.
            entry.say_end(id);
        }
    }

    /// Says that a stream is none. Errors: the other end asks for more than it takes answers to.
    fn remove(&self, connection: u64) -> Result<(), String> {
        let mut state = self.state();
        if state.refused.len() >= MAX_REFUSED {
            return Err("the other end asks for too much at once".to_owned());
        }
        state.refused.push_back(connection);
        drop(state);
        self.refused.notify_one();
        Ok(())
    }

    fn slot(&self) -> Result<OwnedSemaphorePermit, OpenError> {
        Arc::clone(&self.slots).try_acquire_owned().map_err(|_| OpenError::TooMany)
    }

    fn stream(
        self: &Arc<Self>,
        id: u64,
        slot: OwnedSemaphorePermit,
        last: mpsc::OwnedPermit<Queued>,
    ) -> Result<Stream, OpenError> {
        let (sender, pieces) = mpsc::unbounded_channel();
        let over = Arc::<OnceLock<Over>>::default();
        let mut state = self.state();
        if state.has_ended {
            return Err(OpenError::Ended);
        }
        match state.streams.entry(id) {
            Place::Occupied(_) => return Err(OpenError::TooMany),
            Place::Vacant(place) => place.insert(Entry {
                pieces: sender,
                room: Arc::new(Semaphore::new(self.held_of_stream)),
                over: Arc::clone(&over),
                last,
                _slot: slot,
            }),
        };
        Ok(Stream { id, shared: Arc::clone(self), pieces, over })
    }
}

impl Tunnel {
    /// Asks the edge for something. Waits for room in the tunnel's queue; dropped meanwhile, it leaves nothing.
    pub async fn open(&self, reached: Reached, request: KubeletRequest) -> Result<Stream, OpenError> {
        let shared = &self.0;
        let End::Cloud { ids } = &shared.end else { return Err(OpenError::Ended) };
        let id = ids.fetch_add(1, Ordering::Relaxed);
        let message = TunnelMessage { connection: id, says: TunnelSays::Connect(reached, request) };
        // Whether it can be written is known before anything is promised.
        message.encode()?;
        if shared.state().has_ended {
            return Err(OpenError::Ended);
        }
        // First: as many as may wait here for two places each find them, and nobody waits who is refused anyway.
        let slot = shared.slot()?;
        let last = shared.out.clone().reserve_owned().await.map_err(|_| OpenError::Ended)?;
        let asking = shared.out.reserve().await.map_err(|_| OpenError::Ended)?;
        let stream = shared.stream(id, slot, last)?;
        asking.send(Queued { message, _room: None });
        Ok(stream)
    }

    /// Streams that are open.
    #[must_use]
    pub fn n_streams(&self) -> usize {
        self.0.state().streams.len()
    }
}

impl Stream {
    /// The next bytes; `None`: there are no more, and `over` says why. Nothing is lost when it is dropped.
    pub async fn receive(&mut self) -> Option<Vec<u8>> {
        let piece = self.pieces.recv().await?;
        Some(piece.bytes)
    }

    /// How it ended; `None`: it has not.
    #[must_use]
    pub fn over(&self) -> Option<Over> {
        self.over.get().copied()
    }

    /// Its writing half.
    #[must_use]
    pub fn writer(&self) -> StreamWriter {
        let Shared { out, out_room, .. } = &*self.shared;
        let (out, out_room) = (out.clone(), Arc::clone(out_room));
        StreamWriter { id: self.id, out, out_room, over: Arc::clone(&self.over) }
    }
}

impl StreamWriter {
    /// Sends all of it, as the tunnel has room. Errors: how the stream ended.
    pub async fn send(&self, bytes: &[u8]) -> Result<(), Over> {
        for piece in bytes.chunks(MAX_PIECE) {
            let cost = u32::try_from(piece.len().saturating_add(OVERHEAD)).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.out_room).acquire_many_owned(cost).await.map_err(|_| Over::Tunnel)?;
            let place = self.out.reserve().await.map_err(|_| Over::Tunnel)?;
            // A Go edge may panic at data for a stream that it has ended.
            if let Some(over) = self.over.get() {
                return Err(*over);
            }
            let message = TunnelMessage { connection: self.id, says: TunnelSays::Data(piece.to_vec()) };
            place.send(Queued { message, _room: Some(room) });
        }
        Ok(())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        // If it has ended, another one may have its number by now.
        if let Place::Occupied(place) = state.streams.entry(self.id)
            && Arc::ptr_eq(&place.get().over, &self.over)
        {
            place.remove().say_end(self.id);
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stream({}, {:?})", self.id, self.over())
    }
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
