//! What is to be written next.

use bytes::Bytes;

use super::Streams;
use crate::frame::{END_STREAM, Head, Kind};
use crate::send::SendFlow;

/// What is to be written next.
pub(crate) enum Outgoing {
    /// Whole frames.
    Control(Vec<u8>),
    /// One DATA frame.
    Data(Head, Bytes),
}

impl Streams {
    /// What is to be written next: everything but DATA first, then one frame of each stream in turn.
    pub(crate) fn outgoing(&mut self) -> Option<Outgoing> {
        if let Some(frames) = self.control.take() {
            return Some(Outgoing::Control(frames));
        }
        while let Some(id) = self.send.next() {
            let Some(stream) = self.store.get_mut(id) else { continue };
            let half = &mut stream.send;
            if !SendFlow::leave_line(half) {
                continue;
            }
            let data = if !half.is_empty() {
                let max = self.settings.peer.max_frame_size.min(self.config.max_frame_size);
                self.send.take(id, half, max)
            } else if let Some(reason) = half.reset_after.filter(|_| !half.is_ending) {
                self.reset(id, reason);
                return self.control.take().map(Outgoing::Control);
            } else {
                half.has_ended = true;
                Bytes::new()
            };
            let (ends, reset_after) = (half.has_ended, half.reset_after);
            if ends {
                match reset_after.filter(|_| !stream.is_closed()) {
                    Some(reason) => self.reset(id, reason),
                    None => self.settle(id),
                }
            }
            let length = u32::try_from(data.len()).expect("no longer than a frame");
            let flags = if ends { END_STREAM } else { 0 };
            return Some(Outgoing::Data(Head { length, kind: Kind::Data, flags, stream: id }, data));
        }
        None
    }
}
