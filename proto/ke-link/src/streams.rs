//! Many byte streams over one link, next to its messages: windows, turns, ends and resets.
//!
//! [`Streams`] is one end of a link's streams; both ends are the same but for their [`Role`]. It has no clock: nothing here
//! ends by itself, whoever uses a stream knows how long to wait. The caller passes each binary message to `handle_bytes`,
//! empties `poll_output` after every call, and takes a frame by `poll_transmit` whenever no message waits to be written.
//! [`shared`] puts a lock and wakers around it, which is how cloudcore and edgecore use it.
//!
//! What a peer that means harm can make this end hold, all streams together: [`MAX_STREAMS`] times [`FIRST_WINDOW`] plus
//! [`GROWTH`] received and unread, [`MAX_LINK_QUEUE`] queued, [`MAX_URGENT`] small frames. Bytes beyond a window are not kept.

mod frame;
mod incoming;
mod one;
pub mod shared;
mod words;

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use frame::Frame;
pub use frame::{FrameError, MAX_DATA, MAX_TEXT};
use one::{Held, Receiving, Sending, Stream};
pub use words::{
    Output, Read, Reset, ResetCode, Role, StreamError, StreamId, StreamKind, StreamsBroken, TooManyStreams,
};

/// Request header of the WebSocket handshake by which an edge offers streams, and by which the cloud takes the offer. A peer
/// that does not know it leaves it out, and nothing binary is ever sent.
pub const HEADER: &str = "isthmus-streams";
/// The only value of [`HEADER`] so far.
pub const VERSION: &str = "1";

/// Streams of one link at once: 200 followed logs, and as many again of everything else.
pub const MAX_STREAMS: usize = 512;
/// What a stream may send before the first byte is read: one full frame. Times `MAX_STREAMS` this is 8 MiB.
pub const FIRST_WINDOW: usize = MAX_DATA;
/// What a stream may send once its reader keeps up: as much as the whole link has under way, so that one copy of a large
/// file uses the link.
pub const MAX_WINDOW: usize = 128 << 10;
/// How much all streams together may have granted beyond their first windows: 18 streams at their largest. A peer with
/// hundreds of streams has a slow link for each of them anyway.
pub const GROWTH: usize = 2 << 20;
/// Data on its way that the other side has not yet said to have taken from its socket, all streams together. It lies in
/// front of every message in the sockets' buffers: 2 s at 512 kbit/s. At a round trip of 100 ms it lets 1.2 MB/s through.
pub const LINK_WINDOW: usize = 128 << 10;
/// So much received data is told in one frame.
const HEARD_STEP: usize = LINK_WINDOW / 4;
/// What one stream keeps for being transmitted: the next frame is full while the one before it is written.
pub const MAX_QUEUE: usize = 2 * MAX_DATA;
/// The same for all streams together.
pub const MAX_LINK_QUEUE: usize = 1 << 20;
/// Frames without data that wait. Only a peer that opens streams faster than it reads answers makes more.
pub const MAX_URGENT: usize = 4 * MAX_STREAMS;

/// A frame that goes before all data.
#[derive(Debug)]
enum Urgent {
    Open(StreamId, StreamKind),
    Reset(StreamId, Reset),
    /// The number of bytes stands with the stream, so that later grants join the frame that waits.
    Window(StreamId),
}

/// One end of all streams of one link.
#[derive(Debug)]
pub struct Streams {
    role: Role,
    streams: HashMap<StreamId, Stream>,
    next_own: u32,
    last_theirs: u32,
    urgent: VecDeque<Urgent>,
    /// Streams with something to send, in the order in which they may: each sends one frame and goes to the end.
    turns: VecDeque<StreamId>,
    /// Streams whose users wait for room in the link's queue.
    waiting: VecDeque<StreamId>,
    n_queued: usize,
    n_grown: usize,
    /// Data sent and not yet said to have arrived; data received of which that was not yet said.
    n_unheard: usize,
    n_heard: usize,
    outputs: VecDeque<Output>,
}

impl Streams {
    /// The end of a link on which both sides have agreed to have streams.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self {
            role,
            streams: HashMap::new(),
            next_own: if role == Role::Cloud { 1 } else { 2 },
            last_theirs: 0,
            urgent: VecDeque::new(),
            turns: VecDeque::new(),
            waiting: VecDeque::new(),
            n_queued: 0,
            n_grown: 0,
            n_unheard: 0,
            n_heard: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Streams that are there, those included that only wait for their end to be transmitted.
    #[must_use]
    pub fn n_streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes that this end holds: queued and unread.
    #[must_use]
    pub fn n_held_bytes(&self) -> usize {
        self.streams.values().map(|stream| stream.queue.len() + stream.unread.len()).sum()
    }

    /// Opens a stream, which may be written at once. Errors: as many are open as a link carries.
    pub fn open(&mut self, kind: StreamKind) -> Result<StreamId, TooManyStreams> {
        let id = StreamId(self.next_own);
        if self.streams.len() >= MAX_STREAMS || self.urgent.len() >= MAX_URGENT {
            return Err(TooManyStreams);
        }
        // After two thousand million streams the link has to be made anew.
        self.next_own = self.next_own.checked_add(2).ok_or(TooManyStreams)?;
        self.streams.insert(id, Stream::new());
        self.urgent.push_back(Urgent::Open(id, kind));
        Ok(id)
    }

    /// Takes what fits of these bytes and says how much that was. Less than all: `Writable` follows.
    pub fn send(&mut self, id: StreamId, bytes: &[u8]) -> Result<usize, StreamError> {
        let link_room = self.link_room();
        let Some(stream) = self.streams.get_mut(&id) else { return Err(gone().into()) };
        if let Some(reset) = &stream.reset {
            return Err(reset.clone().into());
        }
        if stream.sending != Sending::Open {
            return Err(StreamError::Ended);
        }
        let n_taken = bytes.len().min(stream.room()).min(link_room);
        stream.queue.extend(bytes.get(..n_taken).unwrap_or_default());
        stream.wants_room |= n_taken < bytes.len();
        self.n_queued += n_taken;
        self.note_turn(id);
        if n_taken == 0 {
            self.tell_writer(id);
        }
        Ok(n_taken)
    }

    /// Says that this side says nothing more on the stream once what was taken is out.
    pub fn fin(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.sending == Sending::Open
        {
            stream.sending = Sending::Ending;
            self.note_turn(id);
        }
    }

    /// Moves received bytes and gives their room back to the sender.
    pub fn read(&mut self, id: StreamId, into: &mut [u8]) -> Result<Read, Reset> {
        let Some(stream) = self.streams.get_mut(&id) else { return Err(gone()) };
        let before = stream.growth();
        let n_read = stream.read(into);
        if n_read > 0 {
            self.n_grown -= before - stream.growth();
            self.grant(id);
            return Ok(Read::Bytes(n_read));
        }
        match (&stream.reset, stream.receiving) {
            _ if !stream.unread.is_empty() => Ok(Read::Nothing),
            // What was finished before the reset is whole.
            (_, Receiving::Ended) => Ok(Read::End),
            (Some(reset), Receiving::Open) => Err(reset.clone()),
            (None, Receiving::Open) => Ok(Read::Nothing),
        }
    }

    /// Ends the stream in both directions at once; neither side sees what is still under way.
    pub fn reset(&mut self, id: StreamId, code: ResetCode, text: &str) {
        if self.streams.get(&id).is_some_and(|stream| stream.reset.is_none()) {
            self.urgent.push_back(Urgent::Reset(id, Reset::new(code, text)));
        }
        self.remove(id);
    }

    /// The stream's user lets go of it. What it finished is still sent; a stream that it did not finish is reset.
    pub fn release(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        match (stream.sending, stream.receiving) {
            _ if stream.reset.is_some() => self.remove(id),
            (Sending::Ending, _) => {
                self.n_grown -= stream.growth();
                stream.held = Held::ByWire;
                stream.unread = VecDeque::new();
            }
            (Sending::Ended, Receiving::Ended) => self.remove(id),
            (Sending::Open | Sending::Ended, _) => {
                self.reset(id, ResetCode::Dropped, "nobody reads it any more")
            }
        }
    }

    /// The link is gone: every stream ends.
    pub fn handle_link_end(&mut self) {
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            self.on_reset(id, Reset::new(ResetCode::LinkEnded, "the link between cloud and edge ended"));
        }
        self.urgent.clear();
    }

    /// The next thing to know.
    pub fn poll_output(&mut self) -> Option<Output> {
        let next = self.outputs.pop_front();
        if next.is_none() && self.streams.is_empty() {
            // A cloud has thousands of links without a stream: what is empty holds no memory.
            self.streams = HashMap::new();
            self.outputs = VecDeque::new();
            self.turns = VecDeque::new();
            self.waiting = VecDeque::new();
        }
        next
    }

    /// Whether `poll_transmit` has a frame.
    #[must_use]
    pub fn has_transmit(&self) -> bool {
        self.n_heard >= HEARD_STEP
            || !self.urgent.is_empty()
            || (!self.turns.is_empty() && self.n_unheard + MAX_DATA <= LINK_WINDOW)
    }

    /// The next frame, one binary message. Apart from `poll_output`, since the caller first writes what is more important.
    pub fn poll_transmit(&mut self) -> Option<Bytes> {
        if !self.has_transmit() {
            return None;
        }
        if self.n_heard >= HEARD_STEP {
            let n_heard = std::mem::take(&mut self.n_heard);
            return Some(Frame::Heard(number(n_heard)).encode());
        }
        match self.urgent.pop_front() {
            Some(Urgent::Open(id, kind)) => return Some(Frame::Open(id, kind.number()).encode()),
            Some(Urgent::Reset(id, reset)) => return Some(Frame::Reset(id, reset).encode()),
            Some(Urgent::Window(id)) => {
                let untold = self.streams.get_mut(&id).map(|stream| std::mem::take(&mut stream.untold));
                return Some(Frame::Window(id, number(untold.unwrap_or(0))).encode());
            }
            None => {}
        }
        let id = self.turns.pop_front()?;
        let stream = self.streams.get_mut(&id)?;
        stream.is_in_turn = false;
        if stream.queue.is_empty() {
            stream.sending = Sending::Ended;
            if stream.held == Held::ByWire {
                self.release(id);
            }
            return Some(Frame::Fin(id).encode());
        }
        let mut data = vec![0; stream.queue.len().min(MAX_DATA)];
        let n_sent = one::take(&mut stream.queue, &mut data);
        if stream.queue.is_empty() {
            stream.queue = VecDeque::new();
        }
        stream.window -= n_sent;
        self.n_queued -= n_sent;
        self.n_unheard += n_sent;
        self.note_turn(id);
        self.tell_writer(id);
        self.tell_waiting_writers();
        Some(Frame::Data(id, &data).encode())
    }

    fn link_room(&self) -> usize {
        MAX_LINK_QUEUE.saturating_sub(self.n_queued)
    }

    fn note_turn(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.has_something_to_send()
            && !stream.is_in_turn
        {
            stream.is_in_turn = true;
            self.turns.push_back(id);
        }
    }

    /// Tells a user that was refused bytes of room, or has it wait for the link's.
    fn tell_writer(&mut self, id: StreamId) {
        let link_room = self.link_room();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.wants_room || stream.room() == 0 {
            return;
        }
        if link_room > 0 {
            stream.wants_room = false;
            self.outputs.push_back(Output::Writable(id));
        } else if !stream.waits_for_link {
            stream.waits_for_link = true;
            self.waiting.push_back(id);
        }
    }

    /// At half, so that each that waited gets a whole frame's room and not a few bytes.
    fn tell_waiting_writers(&mut self) {
        if self.n_queued > MAX_LINK_QUEUE / 2 {
            return;
        }
        for id in std::mem::take(&mut self.waiting) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.waits_for_link = false;
            }
            self.tell_writer(id);
        }
    }

    fn grant(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let others = self.n_grown - stream.growth();
        let more = stream.next_grant(others);
        if more > 0 {
            stream.granted += more;
            if stream.untold == 0 {
                self.urgent.push_back(Urgent::Window(id));
            }
            stream.untold += more;
            self.n_grown = others + stream.growth();
        }
    }

    /// The stream is over in both directions; its user learns it from the next call.
    fn on_reset(&mut self, id: StreamId, reset: Reset) {
        self.leave_queues(id);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.held == Held::ByWire {
            return self.remove(id);
        }
        self.n_queued -= stream.queue.len();
        stream.queue = VecDeque::new();
        if stream.receiving == Receiving::Open {
            stream.unread = VecDeque::new();
        }
        stream.granted = 0;
        stream.untold = 0;
        stream.reset = Some(reset);
        self.n_grown = self.streams.values().map(Stream::growth).sum();
        self.outputs.extend([Output::Readable(id), Output::Writable(id)]);
        self.tell_waiting_writers();
    }

    fn remove(&mut self, id: StreamId) {
        self.leave_queues(id);
        if let Some(stream) = self.streams.remove(&id) {
            self.n_queued -= stream.queue.len();
            self.n_grown -= stream.growth();
            self.tell_waiting_writers();
        }
    }

    /// So that the queues hold no more than the streams that are there.
    fn leave_queues(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if std::mem::take(&mut stream.is_in_turn) {
            self.turns.retain(|other| *other != id);
        }
        if std::mem::take(&mut stream.waits_for_link) {
            self.waiting.retain(|other| *other != id);
        }
        if std::mem::take(&mut stream.untold) > 0 {
            self.urgent.retain(|urgent| !matches!(urgent, Urgent::Window(other) if *other == id));
        }
    }
}

fn gone() -> Reset {
    Reset::new(ResetCode::Dropped, "it was let go of here")
}

/// Every number here is a part of a window, far below 4 GiB.
fn number(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
