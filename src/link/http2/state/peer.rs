//! What the peer of a connection says. An error is of the connection: it is over.

use bytes::Bytes;

use super::{ALIVE, Asked, DRAINED, Drain, MOST_SETTINGS, Role, State};
use crate::link::http2::frame::{self, Head, Kind, MOST_WINDOW, Settings};
use crate::link::http2::head::Fields;
use crate::link::http2::stream::{Stream, wake};
use crate::link::http2::{Error, Reason};

impl State {
    /// A frame that is not DATA, nor a part of a header block.
    pub(in crate::link::http2) fn received(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
        if !self.greeted && (head.kind != Kind::Settings || head.has(frame::ACK)) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let on_connection = matches!(head.kind, Kind::Settings | Kind::Ping | Kind::GoAway);
        let on_stream = matches!(head.kind, Kind::Priority | Kind::ResetStream);
        if (on_connection && head.stream != 0) || (on_stream && head.stream == 0) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        match head.kind {
            Kind::Settings if head.has(frame::ACK) => self.settings_acknowledged(payload),
            Kind::Settings => self.settings(payload),
            Kind::Ping => self.ping(head, payload),
            Kind::GoAway => self.peer_leaves(payload),
            Kind::WindowUpdate => self.window_update(head.stream, frame::number(payload)? & MOST_WINDOW),
            Kind::ResetStream => self.peer_resets(head.stream, Reason(frame::number(payload)?)),
            Kind::Priority if payload.len() != 5 => Err(Reason::FRAME_SIZE_ERROR),
            Kind::Priority | Kind::Unknown => Ok(()),
            Kind::Data | Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                Err(Reason::PROTOCOL_ERROR)
            }
        }
    }

    /// A DATA frame that cost the windows `length` bytes.
    pub(in crate::link::http2) fn data(
        &mut self,
        id: u32,
        data: Bytes,
        length: u32,
        ends: bool,
    ) -> Result<(), Reason> {
        if id == 0 || self.is_idle(id) || !self.greeted {
            return Err(Reason::PROTOCOL_ERROR);
        }
        self.receive_window -= i64::from(length);
        if self.receive_window < 0 {
            return Err(Reason::FLOW_CONTROL_ERROR);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            self.give_back(length);
            return Ok(());
        };
        if stream.over.is_some() {
            self.give_back(length);
            return Ok(());
        }
        stream.receive_window -= i64::from(length);
        let wrong = match () {
            () if stream.finished => Some(Reason::STREAM_CLOSED),
            () if stream.receive_window < 0 => Some(Reason::FLOW_CONTROL_ERROR),
            () if !stream.headed => Some(Reason::PROTOCOL_ERROR),
            () => None,
        };
        if let Some(reason) = wrong {
            self.give_back(length);
            self.answers += 1;
            self.reset(id, reason);
            return Ok(());
        }
        stream.finished = ends;
        if ends || !data.is_empty() {
            wake(&mut stream.data_wanted);
        }
        if stream.handles == 0 {
            // Nobody reads it, and the peer is not asked for more.
            self.give_back(length);
        } else {
            stream.held += length;
            let padding = length - u32::try_from(data.len()).unwrap_or(length);
            if !data.is_empty() {
                stream.push(data);
            }
            self.release(id, padding);
            // What was released before may be due now.
            self.update_window(id);
        }
        if ends {
            self.settle(id, None);
        }
        Ok(())
    }

    /// A whole header block.
    pub(in crate::link::http2) fn headers(
        &mut self,
        id: u32,
        fields: Fields,
        ends: bool,
    ) -> Result<(), Reason> {
        if id == 0 || !self.greeted {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if self.is_idle(id) {
            return self.peer_opens(id, fields, ends);
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.over.is_none()) else {
            return Ok(());
        };
        let mut wrong = stream.finished.then_some(Reason::STREAM_CLOSED);
        if stream.headed {
            // Trailers, whose fields nobody reads.
            wrong = wrong.or((!ends).then_some(Reason::PROTOCOL_ERROR));
        } else {
            match fields.response() {
                Some(response) if response.status().is_informational() && !ends => return Ok(()),
                Some(response) => {
                    stream.headed = true;
                    stream.head = Some(Box::new(response));
                    wake(&mut stream.head_wanted);
                }
                None => wrong = Some(Reason::PROTOCOL_ERROR),
            }
        }
        if let Some(reason) = wrong {
            self.answers += 1;
            self.reset(id, reason);
        } else if ends {
            stream.finished = true;
            wake(&mut stream.data_wanted);
            self.settle(id, None);
        }
        Ok(())
    }

    fn peer_opens(&mut self, id: u32, fields: Fields, ends: bool) -> Result<(), Reason> {
        if self.role == Role::Client || id.is_multiple_of(2) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        self.last = id;
        let refused = self.drain == Drain::Done || self.open >= self.config.streams;
        let request = fields.request();
        let (None, Some(request)) = (refused.then_some(()), request) else {
            self.answers += 1;
            let reason = if refused { Reason::REFUSED_STREAM } else { Reason::PROTOCOL_ERROR };
            frame::write(&mut self.control, Kind::ResetStream, 0, id, &reason.0.to_be_bytes());
            return Ok(());
        };
        let mut stream = Box::new(Stream::new(self.peer_window, self.window));
        (stream.handles, stream.headed, stream.finished) = (1, true, ends);
        self.streams.insert(id, stream);
        self.open += 1;
        self.opened.push_back((id, request));
        Ok(())
    }

    /// Whether a stream of this number was not opened yet.
    fn is_idle(&self, id: u32) -> bool {
        match (self.role, id.is_multiple_of(2)) {
            (Role::Client, false) => id >= self.next,
            (Role::Server, false) => id > self.last,
            // Those nobody opens.
            (_, true) => true,
        }
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Reason> {
        let settings = Settings::parse(payload)?;
        self.greeted = true;
        self.changes += 1;
        if self.changes > MOST_SETTINGS {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        self.answers += 1;
        frame::write(&mut self.control, Kind::Settings, frame::ACK, 0, &[]);
        self.peer_frame = settings.frame.unwrap_or(self.peer_frame);
        if let Some(extended) = settings.extended_connect {
            self.peer_extended_connect = extended;
        }
        if let Some(streams) = settings.streams {
            self.peer_streams = streams;
            self.wake_openers();
        }
        if let Some(window) = settings.window {
            let change = i64::from(window) - i64::from(std::mem::replace(&mut self.peer_window, window));
            let ids: Vec<_> = self.streams.keys().copied().collect();
            for id in ids {
                self.widen(id, change)?;
            }
        }
        Ok(())
    }

    fn settings_acknowledged(&mut self, payload: &[u8]) -> Result<(), Reason> {
        if !payload.is_empty() {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        if let Some(window) = self.announced.take() {
            let change = i64::from(window) - i64::from(std::mem::replace(&mut self.window, window));
            for stream in self.streams.values_mut() {
                stream.receive_window += change;
            }
        }
        Ok(())
    }

    fn ping(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
        let payload: &[u8; 8] = payload.try_into().map_err(|_length| Reason::FRAME_SIZE_ERROR)?;
        if !head.has(frame::ACK) {
            self.answers += 1;
            frame::write(&mut self.control, Kind::Ping, frame::ACK, 0, payload);
        } else if *payload == ALIVE && self.alive == Asked::Sent {
            self.alive = Asked::Answered;
            self.changes = 0;
            wake(&mut self.alive_wanted);
        } else if *payload == DRAINED && self.drain == Drain::Told {
            self.drain = Drain::Done;
            self.go_away(self.last, Reason::NO_ERROR);
        }
        Ok(())
    }

    fn peer_leaves(&mut self, payload: &[u8]) -> Result<(), Reason> {
        let (last, rest) = payload.split_first_chunk::<4>().ok_or(Reason::FRAME_SIZE_ERROR)?;
        let (reason, _) = rest.split_first_chunk::<4>().ok_or(Reason::FRAME_SIZE_ERROR)?;
        let last = u32::from_be_bytes(*last) & MOST_WINDOW;
        let reason = Reason(u32::from_be_bytes(*reason));
        self.peer_left = Some(reason);
        if self.role == Role::Client {
            let lost: Vec<_> = self.streams.keys().copied().filter(|id| *id > last).collect();
            for id in lost {
                self.break_off(id, Error::GoAway(reason));
            }
        }
        self.wake_openers();
        Ok(())
    }

    fn window_update(&mut self, id: u32, more: u32) -> Result<(), Reason> {
        if id == 0 {
            self.send_window += i64::from(more);
            self.feed_starved();
            return match self.send_window {
                _ if more == 0 => Err(Reason::PROTOCOL_ERROR),
                window if window > i64::from(MOST_WINDOW) => Err(Reason::FLOW_CONTROL_ERROR),
                _ => Ok(()),
            };
        }
        if self.is_idle(id) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if more == 0 && self.streams.contains_key(&id) {
            self.answers += 1;
            self.reset(id, Reason::PROTOCOL_ERROR);
            return Ok(());
        }
        self.widen(id, more.into())
    }

    fn widen(&mut self, id: u32, change: i64) -> Result<(), Reason> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        stream.send_window += change;
        if stream.send_window > i64::from(MOST_WINDOW) {
            self.answers += 1;
            self.reset(id, Reason::FLOW_CONTROL_ERROR);
            return Ok(());
        }
        wake(&mut stream.room_wanted);
        self.enter_line(id);
        Ok(())
    }

    fn peer_resets(&mut self, id: u32, reason: Reason) -> Result<(), Reason> {
        if self.is_idle(id) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if self.streams.get(&id).is_none_or(|stream| stream.over.is_some()) {
            return Ok(());
        }
        if self.opened.iter().any(|(opened, _)| *opened == id) {
            self.opened_and_reset += 1;
            if self.opened_and_reset > self.config.pending_resets {
                return Err(Reason::ENHANCE_YOUR_CALM);
            }
        }
        self.break_off(id, Error::Reset(reason));
        Ok(())
    }
}
