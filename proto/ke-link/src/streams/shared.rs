//! The streams of one link as handles: the link's task drives [`LinkStreams`], others open streams by [`StreamOpener`] and
//! read and write a [`RawStream`].
//!
//! A lock and wakers around [`Streams`], without a runtime: cloudcore and edgecore make `AsyncRead` and `AsyncWrite` of it.
//! Backpressure needs no channel and no task: whoever writes more than the window has room for waits for its waker, and what
//! is not read is not granted anew. Nothing is allocated for a link before its first stream.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::{
    Output, Read, Reset, ResetCode, Role, StreamError, StreamId, StreamKind, Streams, StreamsBroken,
    TooManyStreams,
};

/// The link's end of its streams: the task that owns the socket holds it. Dropped, every stream of the link ends.
pub struct LinkStreams(Arc<Shared>);

/// Cloneable: opens streams on one link.
#[derive(Clone)]
pub struct StreamOpener(Arc<Shared>);

/// One stream. Dropped, it is reset, unless `finish` was called: then what was written is still sent.
pub struct RawStream {
    link: Arc<Shared>,
    id: StreamId,
    kind: StreamKind,
}

/// Why no stream was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Some must end first.
    #[error(transparent)]
    TooMany(#[from] TooManyStreams),
    /// The link is gone.
    #[error("the link ended")]
    LinkEnded,
}

struct Shared {
    role: Role,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    has_ended: bool,
    /// The link's task, when it waits for a frame to write.
    link: Option<Waker>,
    /// Made with the first stream.
    live: Option<Box<Live>>,
}

struct Live {
    streams: Streams,
    wakers: HashMap<StreamId, Wakers>,
    opened: Option<(StreamId, StreamKind)>,
}

#[derive(Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the streams, and wakes whoever has something to do after it. Wakes without the lock.
    fn act<T>(&self, act: impl FnOnce(&mut Live) -> T) -> T {
        let mut state = self.state();
        let State { link, live, .. } = &mut *state;
        let live = live.get_or_insert_with(|| Box::new(Live::new(self.role)));
        let done = act(live);
        let mut woken = live.settle();
        if live.streams.has_transmit() {
            woken.extend(link.take());
        }
        drop(state);
        woken.into_iter().for_each(Waker::wake);
        done
    }
}

impl Live {
    fn new(role: Role) -> Self {
        Self { streams: Streams::new(role), wakers: HashMap::new(), opened: None }
    }

    fn settle(&mut self) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(output) = self.streams.poll_output() {
            match output {
                Output::Opened(id, kind) => self.opened = Some((id, kind)),
                Output::Readable(id) => {
                    woken.extend(self.wakers.get_mut(&id).and_then(|wakers| wakers.read.take()))
                }
                Output::Writable(id) => {
                    woken.extend(self.wakers.get_mut(&id).and_then(|wakers| wakers.write.take()))
                }
            }
        }
        if self.wakers.is_empty() {
            self.wakers = HashMap::new();
        }
        woken
    }
}

impl LinkStreams {
    /// For a link on which both sides have agreed to have streams.
    #[must_use]
    pub fn new(role: Role) -> Self {
        Self(Arc::new(Shared { role, state: Mutex::default() }))
    }

    /// A handle that opens streams on this link.
    #[must_use]
    pub fn opener(&self) -> StreamOpener {
        StreamOpener(Arc::clone(&self.0))
    }

    /// Takes in one binary message; gives the stream that the other side opened with it. Errors: close the link.
    pub fn handle_bytes(&self, bytes: &[u8]) -> Result<Option<RawStream>, StreamsBroken> {
        let handled = self.0.act(|live| live.streams.handle_bytes(bytes));
        handled?;
        let opened = self.0.state().live.as_mut().and_then(|live| live.opened.take());
        Ok(opened.map(|(id, kind)| RawStream { link: Arc::clone(&self.0), id, kind }))
    }

    /// Ready once there is a frame to write. Takes none, so that it may stand in a `select!`, and so that messages which
    /// came meanwhile go first.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.live.as_ref().is_some_and(|live| live.streams.has_transmit()) {
            return Poll::Ready(());
        }
        remember(&mut state.link, cx);
        Poll::Pending
    }

    /// Waits until there is a frame to write, as [`Self::poll_ready`] does; for ever on a link without streams.
    pub fn ready(streams: Option<&Self>) -> impl Future<Output = ()> {
        std::future::poll_fn(move |cx| streams.map_or(Poll::Pending, |streams| streams.poll_ready(cx)))
    }

    /// The next frame, one binary message.
    #[must_use]
    pub fn next_frame(&self) -> Option<Bytes> {
        // Not by `act`: a link without a stream allocates nothing.
        self.0.state().live.as_ref()?;
        self.0.act(|live| live.streams.poll_transmit())
    }
}

impl Drop for LinkStreams {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.has_ended = true;
        let is_live = state.live.is_some();
        drop(state);
        if is_live {
            self.0.act(|live| live.streams.handle_link_end());
        }
    }
}

impl StreamOpener {
    /// Opens a stream. It can be written before the other side has heard of it.
    pub fn open(&self, kind: StreamKind) -> Result<RawStream, OpenError> {
        if self.0.state().has_ended {
            return Err(OpenError::LinkEnded);
        }
        let id = self.0.act(|live| live.streams.open(kind))?;
        let stream = RawStream { link: Arc::clone(&self.0), id, kind };
        // The link may have ended between the two: nobody would ever end this one.
        if self.0.state().has_ended { Err(OpenError::LinkEnded) } else { Ok(stream) }
    }

    /// Streams that are there.
    #[must_use]
    pub fn n_streams(&self) -> usize {
        self.0.state().live.as_ref().map_or(0, |live| live.streams.n_streams())
    }

    /// Bytes that this end of the link holds for its streams.
    #[must_use]
    pub fn n_held_bytes(&self) -> usize {
        self.0.state().live.as_ref().map_or(0, |live| live.streams.n_held_bytes())
    }

    /// Whether it opens streams on the link that this is.
    #[must_use]
    pub fn is_of(&self, link: &LinkStreams) -> bool {
        Arc::ptr_eq(&self.0, &link.0)
    }
}

impl RawStream {
    /// What it leads to.
    #[must_use]
    pub fn kind(&self) -> StreamKind {
        self.kind
    }

    /// Reads what is there; 0 is the end. Errors: the stream was reset.
    pub fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, Reset>> {
        self.link.act(|live| match live.streams.read(self.id, into) {
            Ok(Read::Bytes(n_read)) => Poll::Ready(Ok(n_read)),
            Ok(Read::End) => Poll::Ready(Ok(0)),
            Ok(Read::Nothing) if into.is_empty() => Poll::Ready(Ok(0)),
            Ok(Read::Nothing) => {
                remember(&mut live.wakers.entry(self.id).or_default().read, cx);
                Poll::Pending
            }
            Err(reset) => Poll::Ready(Err(reset)),
        })
    }

    /// Writes what fits, at least one byte.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, StreamError>> {
        self.link.act(|live| match live.streams.send(self.id, bytes) {
            Ok(0) if !bytes.is_empty() => {
                remember(&mut live.wakers.entry(self.id).or_default().write, cx);
                Poll::Pending
            }
            done => Poll::Ready(done),
        })
    }

    /// Says that nothing more is written. What was is sent, even if the stream is dropped now.
    pub fn finish(&self) {
        self.link.act(|live| live.streams.fin(self.id));
    }

    /// Ends the stream in both directions and tells the other side this sentence.
    pub fn refuse(&self, why: &str) {
        self.link.act(|live| live.streams.reset(self.id, ResetCode::Refused, why));
    }
}

impl Drop for RawStream {
    fn drop(&mut self) {
        self.link.act(|live| {
            live.streams.release(self.id);
            live.wakers.remove(&self.id);
        });
    }
}

fn remember(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

impl fmt::Debug for LinkStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkStreams({:?}, {} streams)", self.0.role, self.opener().n_streams())
    }
}

impl fmt::Debug for StreamOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamOpener({:?}, {} streams)", self.0.role, self.n_streams())
    }
}

impl fmt::Debug for RawStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawStream({:?}, {:?})", self.id, self.kind)
    }
}
