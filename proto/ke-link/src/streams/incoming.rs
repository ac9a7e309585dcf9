//! What a frame of the other side does: pure.
//!
//! Which of its faults end one stream and which end the link: a fault within a stream that exists ends that stream; a frame
//! that belongs to no stream, or breaks what all of them share, ends the link.

use super::frame::Frame;
use super::one::{Held, Receiving, Sending, Stream};
use super::{
    LINK_WINDOW, MAX_STREAMS, MAX_URGENT, MAX_WINDOW, Output, Reset, ResetCode, Role, StreamId, StreamKind,
    Streams, StreamsBroken, Urgent,
};

impl Streams {
    /// Takes in one binary message. Errors: the caller closes the link.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<(), StreamsBroken> {
        match Frame::decode(bytes)? {
            Frame::Open(id, kind) => self.on_open(id, kind)?,
            Frame::Data(id, data) => {
                // It lies in no socket any more, whatever becomes of it.
                self.n_heard += data.len();
                if self.n_heard > LINK_WINDOW {
                    return Err(StreamsBroken::LinkWindow);
                }
                self.within(id, |streams, stream| streams.on_data(stream, data))?;
            }
            Frame::Fin(id) => self.within(id, Self::on_fin)?,
            Frame::Reset(id, reset) => self.within(id, |streams, id| {
                streams.on_reset(id, reset);
                Ok(())
            })?,
            Frame::Window(id, more) => self.within(id, |streams, id| streams.on_window(id, more))?,
            Frame::Heard(more) => {
                let more = usize::try_from(more).unwrap_or(usize::MAX);
                if more == 0 || more > self.n_unheard {
                    return Err(StreamsBroken::LinkWindow);
                }
                self.n_unheard -= more;
            }
        }
        Ok(())
    }

    /// Frames of streams that are over here are normal: they were under way. A fault of a stream ends it.
    fn within(
        &mut self,
        id: StreamId,
        act: impl FnOnce(&mut Self, StreamId) -> Result<(), &'static str>,
    ) -> Result<(), StreamsBroken> {
        let is_own = (id.0 % 2 == 1) == (self.role == Role::Cloud);
        let was_opened = if is_own { id.0 < self.next_own } else { id.0 <= self.last_theirs };
        if !was_opened {
            return Err(StreamsBroken::Id(id.0));
        }
        if self.streams.get(&id).is_none_or(|stream| stream.reset.is_some()) {
            return Ok(());
        }
        if let Err(fault) = act(self, id) {
            self.urgent.push_back(Urgent::Reset(id, Reset::new(ResetCode::Broken, fault)));
            self.on_reset(id, Reset::new(ResetCode::Broken, fault));
        }
        Ok(())
    }

    fn on_open(&mut self, id: StreamId, kind: u8) -> Result<(), StreamsBroken> {
        let is_theirs = (id.0 % 2 == 1) == (self.role == Role::Edge);
        if !is_theirs || id.0 <= self.last_theirs {
            return Err(StreamsBroken::Id(id.0));
        }
        // Each may leave a refusal behind, whoever refuses.
        if self.urgent.len() >= MAX_URGENT {
            return Err(StreamsBroken::Flood);
        }
        self.last_theirs = id.0;
        let refusal = match StreamKind::from_number(kind) {
            Some(_) if self.role == Role::Cloud => {
                Reset::new(ResetCode::Refused, "the cloud takes no streams")
            }
            Some(kind) if self.streams.len() < MAX_STREAMS => {
                self.streams.insert(id, Stream::new());
                self.outputs.push_back(Output::Opened(id, kind));
                return Ok(());
            }
            Some(_) => Reset::new(ResetCode::TooMany, "this end has as many streams as it takes"),
            None => Reset::new(ResetCode::Refused, "this version knows nothing of that kind"),
        };
        self.urgent.push_back(Urgent::Reset(id, refusal));
        Ok(())
    }

    fn on_data(&mut self, id: StreamId, data: &[u8]) -> Result<(), &'static str> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if stream.receiving == Receiving::Ended {
            return Err("data after the end");
        }
        stream.granted =
            stream.granted.checked_sub(data.len()).ok_or("more data than its window has room for")?;
        // Nobody reads it: it is never granted anew.
        if stream.held == Held::ByUser {
            stream.unread.extend(data);
            self.outputs.push_back(Output::Readable(id));
        }
        Ok(())
    }

    fn on_fin(&mut self, id: StreamId) -> Result<(), &'static str> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if stream.receiving == Receiving::Ended {
            return Err("a second end");
        }
        let before = stream.growth();
        stream.receiving = Receiving::Ended;
        stream.granted = 0;
        self.n_grown -= before - stream.growth();
        if std::mem::take(&mut stream.untold) > 0 {
            self.urgent.retain(|urgent| !matches!(urgent, Urgent::Window(other) if *other == id));
        }
        if stream.held == Held::ByWire && stream.sending == Sending::Ended {
            self.release(id);
        } else {
            self.outputs.push_back(Output::Readable(id));
        }
        Ok(())
    }

    fn on_window(&mut self, id: StreamId, more: u32) -> Result<(), &'static str> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        let more = usize::try_from(more).unwrap_or(usize::MAX);
        let window = stream.window.saturating_add(more);
        if more == 0 || window > MAX_WINDOW {
            return Err("a window that cannot be");
        }
        stream.window = window;
        self.tell_writer(id);
        Ok(())
    }
}
