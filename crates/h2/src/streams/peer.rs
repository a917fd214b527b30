//! What the peer of a connection sends. Every error here ends the whole connection.

use bytes::Bytes;

use super::{Streams, Unaccepted};
use crate::closed::{ClosedBy, Late};
use crate::fields::Fields;
use crate::frame::{self, Head, Kind, MAX_STREAM_ID, MAX_WINDOW};
use crate::ping::DRAINED;
use crate::stream::Stream;
use crate::{Error, Reason, Side};

impl Streams {
    /// A frame that is neither DATA nor part of a header block.
    pub(crate) fn frame(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
        if !self.is_greeted() && (head.kind != Kind::Settings || head.has(frame::ACK)) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let is_of_connection = matches!(head.kind, Kind::Settings | Kind::Ping | Kind::GoAway);
        let is_of_stream = matches!(head.kind, Kind::Priority | Kind::ResetStream);
        if (is_of_connection && head.stream != 0) || (is_of_stream && head.stream == 0) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        match head.kind {
            Kind::Settings if head.has(frame::ACK) => self.settings_acknowledged(payload),
            Kind::Settings => self.settings(payload),
            Kind::Ping => self.ping(head, payload),
            Kind::GoAway => self.peer_leaves(payload),
            Kind::WindowUpdate => self.window_update(head.stream, frame::number(payload)? & MAX_WINDOW),
            Kind::ResetStream => self.peer_resets(head.stream, Reason(frame::number(payload)?)),
            Kind::Priority if payload.len() != 5 => self.stream_fault(head.stream, Reason::FRAME_SIZE_ERROR),
            // Priorities are deprecated and have no effect here, whatever they are (RFC 9113 §5.3.2).
            Kind::Priority | Kind::Unknown => Ok(()),
            Kind::Data | Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                Err(Reason::PROTOCOL_ERROR)
            }
        }
    }

    /// A DATA frame that takes `length` bytes of the windows; those that are not in `data` are padding.
    pub(crate) fn data(&mut self, id: u32, data: Bytes, length: u32, ends: bool) -> Result<(), Reason> {
        if id == 0 || self.counts.is_idle(id) || !self.is_greeted() {
            return Err(Reason::PROTOCOL_ERROR);
        }
        self.recv.admit(length)?;
        let Some(stream) = self.store.get_mut(id).filter(|stream| !stream.is_closed()) else {
            self.release_connection(length);
            if self.closed.late(id) != Late::InFlight {
                self.refuse(id, Reason::STREAM_CLOSED);
            }
            return Ok(());
        };
        let admitted = stream.recv.admit(length);
        if let Err(reason) = admitted.and_then(|()| stream.recv.take_content(data.len(), ends)) {
            self.release_connection(length);
            self.reset_for_fault(id, reason);
            return Ok(());
        }
        if ends {
            stream.recv.end();
        }
        let mut released = length;
        // Without a reader everything counts as read at once, and the peer is not asked for more.
        if stream.handles > 0 {
            released -= u32::try_from(data.len()).unwrap_or(length);
            stream.recv.push(data, released);
            // An increment may also be due for what was read before.
            if let Some(increment) = stream.take_update() {
                self.control.window_update(id, increment);
                self.wake_driver();
            }
        }
        self.release_connection(released);
        if ends {
            self.settle(id);
        }
        Ok(())
    }

    /// A whole header block.
    pub(crate) fn headers(&mut self, id: u32, fields: Fields, ends: bool) -> Result<(), Reason> {
        if id == 0 || !self.is_greeted() {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if self.counts.is_idle(id) {
            return self.peer_opens(id, fields, ends);
        }
        let Some(stream) = self.store.get_mut(id).filter(|stream| !stream.is_closed()) else {
            return self.late_headers(id);
        };
        let fault = if stream.recv.has_head {
            // Trailers, whose fields nobody reads.
            let fault = stream.recv.take_trailers(ends).err();
            fault.or((!fields.are_trailers()).then_some(Reason::PROTOCOL_ERROR))
        } else {
            match fields.response() {
                Some((response, _)) if response.status().is_informational() => {
                    if !ends {
                        return Ok(());
                    }
                    Some(Reason::PROTOCOL_ERROR)
                }
                Some((response, content)) => {
                    stream.recv.respond(response, content);
                    stream.recv.take_content(0, ends).err()
                }
                None => Some(Reason::PROTOCOL_ERROR),
            }
        };
        if let Some(reason) = fault {
            self.reset_for_fault(id, reason);
        } else if ends {
            stream.recv.end();
            self.settle(id);
        }
        Ok(())
    }

    /// A header block on a stream that is closed (RFC 9113 §5.1), or whose number is below that of a later one (§5.1.1).
    fn late_headers(&mut self, id: u32) -> Result<(), Reason> {
        match self.closed.late(id) {
            Late::InFlight => return Ok(()),
            Late::AfterEnd => return Err(Reason::STREAM_CLOSED),
            Late::Unknown if self.counts.side() == Side::Server => return Err(Reason::PROTOCOL_ERROR),
            Late::AfterReset | Late::Unknown => self.refuse(id, Reason::STREAM_CLOSED),
        }
        Ok(())
    }

    fn peer_opens(&mut self, id: u32, fields: Fields, ends: bool) -> Result<(), Reason> {
        if !self.counts.peer_uses(id) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let is_refused =
            self.shutdown.is_drained() || self.counts.open() >= self.config.max_concurrent_streams;
        let mut stream = Stream::new(self.settings.peer.window, self.settings.window());
        let request = match fields.request() {
            _ if is_refused => Err(Reason::REFUSED_STREAM),
            Some((request, content)) => {
                stream.recv.content = content;
                stream.recv.take_content(0, ends).map(|()| request)
            }
            None => Err(Reason::PROTOCOL_ERROR),
        };
        let request = match request {
            Ok(request) => request,
            Err(reason) => {
                self.closed.add(id, ClosedBy::Us);
                self.refuse(id, reason);
                return Ok(());
            }
        };
        (stream.recv.has_head, stream.recv.has_ended) = (true, ends);
        self.insert(id, stream);
        self.counts.peer_opened();
        self.accept.requests.push_back(Unaccepted { id, request, is_reset_by_peer: false });
        Ok(())
    }

    /// A fault on a stream in any state: of the connection when it was not opened yet, because it cannot be reset then.
    fn stream_fault(&mut self, id: u32, reason: Reason) -> Result<(), Reason> {
        if self.counts.is_idle(id) {
            return Err(reason);
        }
        match self.store.get(id).is_some_and(|stream| !stream.is_closed()) {
            true => self.reset_for_fault(id, reason),
            false => self.refuse(id, reason),
        }
        Ok(())
    }

    /// Answers a frame on a stream that is closed, or is not opened.
    fn refuse(&mut self, id: u32, reason: Reason) {
        self.control.count_answer();
        self.control.reset(id, reason);
        self.wake_driver();
    }

    /// Resets a stream on which the peer broke the protocol.
    fn reset_for_fault(&mut self, id: u32, reason: Reason) {
        self.control.count_answer();
        self.reset(id, reason);
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Reason> {
        let change = self.settings.receive(self.counts.side(), payload)?;
        self.control.count_answer();
        self.control.push(Kind::Settings, frame::ACK, 0, &[]);
        if change.streams {
            self.counts.wake_waiting();
        }
        if let Some(window) = change.window {
            for id in self.store.ids() {
                // A window that overflows by SETTINGS is a fault of the connection (RFC 9113 §6.9.2).
                self.widen(id, window)?;
            }
        }
        Ok(())
    }

    fn settings_acknowledged(&mut self, payload: &[u8]) -> Result<(), Reason> {
        if let Some(change) = self.settings.acknowledged(payload)? {
            self.store.iter_mut().for_each(|stream| stream.recv.widen(change));
        }
        Ok(())
    }

    fn ping(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
        let payload: [u8; 8] = payload.try_into().map_err(|_length| Reason::FRAME_SIZE_ERROR)?;
        if !head.has(frame::ACK) {
            self.control.count_answer();
            self.control.push(Kind::Ping, frame::ACK, 0, &payload);
        } else if self.ping.answered(payload) {
            self.closed.answered();
            self.settings.forget_changes();
        } else if payload == DRAINED && self.shutdown.finish_drain() {
            self.go_away(self.counts.last(), Reason::NO_ERROR);
        }
        Ok(())
    }

    fn peer_leaves(&mut self, payload: &[u8]) -> Result<(), Reason> {
        let (last, rest) = payload.split_first_chunk::<4>().ok_or(Reason::FRAME_SIZE_ERROR)?;
        let (reason, _) = rest.split_first_chunk::<4>().ok_or(Reason::FRAME_SIZE_ERROR)?;
        let last = u32::from_be_bytes(*last) & MAX_STREAM_ID;
        let reason = Reason(u32::from_be_bytes(*reason));
        self.shutdown.peer_leaves(reason);
        if self.counts.side() == Side::Client {
            for id in self.store.ids().into_iter().filter(|id| *id > last) {
                self.abort(id, Error::GoAway(reason), ClosedBy::Peer);
            }
        }
        self.counts.wake_waiting();
        Ok(())
    }

    fn window_update(&mut self, id: u32, increment: u32) -> Result<(), Reason> {
        if id == 0 {
            self.send.widen(increment)?;
            self.feed_starved();
            return Ok(());
        }
        if self.counts.is_idle(id) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let fault = match increment {
            0 => Err(Reason::PROTOCOL_ERROR),
            increment => self.widen(id, increment.into()),
        };
        if let Err(reason) = fault {
            self.reset_for_fault(id, reason);
        }
        Ok(())
    }

    /// Changes the send window of a stream.
    fn widen(&mut self, id: u32, change: i64) -> Result<(), Reason> {
        let Some(stream) = self.store.get_mut(id).filter(|stream| !stream.is_closed()) else { return Ok(()) };
        stream.send.widen(change)?;
        if self.send.schedule(id, &mut stream.send) {
            self.wake_driver();
        }
        Ok(())
    }

    fn peer_resets(&mut self, id: u32, reason: Reason) -> Result<(), Reason> {
        if self.counts.is_idle(id) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if self.store.get(id).is_none_or(|stream| stream.error().is_some()) {
            return Ok(());
        }
        if let Some(waiting) = self.accept.requests.iter_mut().find(|waiting| waiting.id == id) {
            waiting.is_reset_by_peer = true;
            self.accept.resets += 1;
            if self.accept.resets > self.config.max_pending_resets {
                return Err(Reason::ENHANCE_YOUR_CALM);
            }
        }
        self.abort(id, Error::Reset(reason), ClosedBy::Peer);
        Ok(())
    }
}
