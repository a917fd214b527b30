//! What the task that drives a connection asks of its state.

use std::io;
use std::task::Context;

use bytes::Bytes;

use super::{Drain, Outgoing, State};
use crate::link::http2::frame::{END_STREAM, Head, Kind};
use crate::link::http2::stream::{register, wake};
use crate::link::http2::{Error, Reason};

/// The peer is owed so many answers to frames of its own at most before no more are read.
const MOST_ANSWERS: usize = 1024;

impl State {
    /// Has the driver's task woken when there is something to be written.
    pub(in crate::link::http2) fn drive(&mut self, cx: &Context<'_>) {
        register(&mut self.driver, cx);
    }

    /// No more frames are to be read while the peer does not take the answers to those before.
    pub(in crate::link::http2) fn is_owing(&self) -> bool {
        self.answers >= MOST_ANSWERS
    }

    /// No stream is open, and there will be none.
    pub(in crate::link::http2) fn is_done(&self) -> bool {
        let no_more = self.retired || self.peer_left.is_some() || self.drain == Drain::Done;
        no_more && self.open == 0
    }

    /// No new stream can be opened.
    pub(in crate::link::http2) fn is_closing(&self) -> bool {
        self.peer_left.is_some() || self.over.is_some()
    }

    /// The peer has begun to speak.
    pub(in crate::link::http2) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// How the connection has ended, when the peer has just ended it.
    pub(in crate::link::http2) fn outcome_of_silence(&self) -> Result<(), Error> {
        match self.open {
            0 => self.outcome(),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// How the connection has ended, once it is done.
    pub(in crate::link::http2) fn outcome(&self) -> Result<(), Error> {
        match self.peer_left {
            None | Some(Reason::NO_ERROR) => Ok(()),
            Some(reason) => Err(Error::GoAway(reason)),
        }
    }

    /// Says goodbye, when the connection is done.
    pub(in crate::link::http2) fn leave(&mut self) {
        self.left = true;
        self.go_away(self.last, Reason::NO_ERROR);
    }

    /// What is to be written next, and how much data of it at most.
    pub(in crate::link::http2) fn outgoing(&mut self) -> Option<Outgoing> {
        if !self.control.is_empty() {
            self.answers = 0;
            return Some(Outgoing::Control(std::mem::take(&mut self.control)));
        }
        while let Some(id) = self.line.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.in_line = false;
            if !stream.may_send() {
                continue;
            }
            let Some(first) = stream.queue.front_mut() else {
                if let Some(reason) = stream.reset_after.filter(|_| !stream.ending) {
                    self.reset(id, reason);
                    return Some(Outgoing::Control(std::mem::take(&mut self.control)));
                }
                stream.ended = true;
                let after = stream.reset_after;
                self.settle(id, after);
                return Some(Outgoing::Data(data_head(0, id, true), Bytes::new()));
            };
            let most = usize::try_from(stream.send_window).unwrap_or(0).min(self.peer_frame as usize);
            let most = most.min(self.config.frame as usize);
            let data = if first.len() > most { first.split_to(most) } else { std::mem::take(first) };
            if first.is_empty() {
                stream.queue.pop_front();
            }
            let length = u32::try_from(data.len()).expect("no longer than a frame");
            stream.queued -= data.len();
            stream.send_window -= i64::from(length);
            self.send_window -= i64::from(length);
            self.queued -= i64::from(length);
            let ends = stream.ending && stream.queue.is_empty();
            stream.ended = ends;
            if stream.send_window > i64::try_from(stream.queued).unwrap_or(i64::MAX) {
                wake(&mut stream.room_wanted);
            }
            if stream.may_send() {
                stream.in_line = true;
                self.line.push_back(id);
            }
            if ends {
                let after = stream.reset_after;
                self.settle(id, after);
            }
            return Some(Outgoing::Data(data_head(length, id, ends), data));
        }
        None
    }
}

fn data_head(length: u32, stream: u32, ends: bool) -> Head {
    Head { length, kind: Kind::Data, flags: if ends { END_STREAM } else { 0 }, stream }
}
