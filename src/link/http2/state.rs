//! The streams of one connection and what has to be said about them: all of HTTP/2 that is not I/O.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};

use super::frame::{
    self, END_HEADERS, END_STREAM, FIRST_WINDOW, Head, Kind, LEAST_FRAME, MOST_WINDOW, Settings,
};
use super::head::{self, Fields};
use super::{Error, Reason};

/// Received pieces below this size are put together: each of its own would cost many times its bytes.
const SMALL: usize = 2048;
/// The connection's window is given back in parts of this size.
const CONNECTION_PART: u32 = 1 << 29;
/// So many frames that the peer is owed for frames of its own wait at most before no more are read.
const MOST_ANSWERS: usize = 1024;
/// What is in the PING that asks whether the peer lives, and in the one that ends a drain.
const ALIVE: [u8; 8] = *b"laneway?";
const DRAINED: [u8; 8] = *b"drained?";

/// How this end wants the connection to be.
#[derive(Clone, Copy, Debug)]
pub(in crate::link) struct Config {
    /// The largest frame that may come.
    pub(in crate::link) frame: u32,
    /// The window of a stream, until another one is announced.
    pub(in crate::link) window: u32,
    /// The window of the connection.
    pub(in crate::link) connection_window: u32,
    /// What one stream may have queued for sending, in bytes.
    pub(in crate::link) send_buffer: usize,
    /// The longest head, in the count of RFC 9113 §6.5.2.
    pub(in crate::link) fields: u32,
    /// How many streams the peer may have open.
    pub(in crate::link) streams: u32,
    /// How many streams the peer may have opened and reset before they were taken over.
    pub(in crate::link) pending_resets: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// Streams are found by their number, which the peer cannot choose freely: it needs no hash.
#[derive(Default)]
pub(super) struct Number(u64);

impl Hasher for Number {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u32(&mut self, number: u32) {
        // The table looks at the highest bits, too.
        self.0 = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Debug)]
struct Stream {
    /// How many handles there are; the queue of what the peer has opened holds one.
    handles: u32,
    /// What may still be sent.
    send_window: i64,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// Nothing follows what is queued.
    ending: bool,
    /// The end was sent.
    ended: bool,
    /// A reset follows what is queued.
    reset_after: Option<Reason>,
    /// It stands in the line of those that may send.
    in_line: bool,
    room_wanted: Option<Waker>,
    /// It waits for room of the connection's window.
    is_starved: bool,
    /// What the peer may still send.
    receive_window: i64,
    pieces: VecDeque<Bytes>,
    small: BytesMut,
    /// Received, and not released.
    held: u32,
    /// Released, and not given back to the peer.
    owed: u32,
    /// The peer's end has come.
    finished: bool,
    data_wanted: Option<Waker>,
    /// The peer's head has come.
    headed: bool,
    head: Option<Box<Response<()>>>,
    head_wanted: Option<Waker>,
    /// Why it is over for both directions, when that was no orderly end.
    over: Option<Error>,
    /// It counts as open.
    open: bool,
}

impl Stream {
    fn new(send_window: u32, receive_window: u32) -> Self {
        Self {
            handles: 0,
            send_window: send_window.into(),
            queue: VecDeque::new(),
            queued: 0,
            ending: false,
            ended: false,
            reset_after: None,
            in_line: false,
            room_wanted: None,
            is_starved: false,
            receive_window: receive_window.into(),
            pieces: VecDeque::new(),
            small: BytesMut::new(),
            held: 0,
            owed: 0,
            finished: false,
            data_wanted: None,
            headed: false,
            head: None,
            head_wanted: None,
            over: None,
            open: true,
        }
    }

    fn is_closed(&self) -> bool {
        self.over.is_some() || (self.ended && self.finished)
    }

    /// Something waits to be sent, and may be.
    fn may_send(&self) -> bool {
        self.over.is_none()
            && !self.ended
            && if self.queue.is_empty() {
                self.ending || self.reset_after.is_some()
            } else {
                self.send_window > 0
            }
    }

    fn push(&mut self, data: Bytes) {
        let is_first = self.pieces.is_empty() && self.small.is_empty();
        if !is_first && data.len() < SMALL {
            return self.small.extend_from_slice(&data);
        }
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
        self.pieces.push_back(data);
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.pieces.pop_front().or_else(|| {
            let small = std::mem::take(&mut self.small);
            (!small.is_empty()).then(|| small.freeze())
        })
    }

    /// It is over, and what was queued for sending is gone; what has come may still be read.
    fn end(&mut self, error: Error) {
        if self.over.is_none() {
            self.over = Some(error);
            (self.queue, self.queued) = (VecDeque::new(), 0);
            self.wake_all();
        }
    }

    fn wake_all(&mut self) {
        for waker in [&mut self.room_wanted, &mut self.data_wanted, &mut self.head_wanted] {
            wake(waker);
        }
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    No,
    Sent,
    Answered,
}

/// How far the end of taking streams is (RFC 9113 §6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drain {
    No,
    /// The peer was told; what it had under way then is still taken.
    Told,
    /// Nothing more is taken.
    Done,
}

/// One connection.
pub(super) struct State {
    role: Role,
    config: Config,
    streams: HashMap<u32, Stream, BuildHasherDefault<Number>>,
    /// How many of them are open.
    open: u32,
    /// The number of the next stream of this end; the highest one of the peer.
    next: u32,
    last: u32,
    /// What the peer has announced.
    peer_window: u32,
    peer_frame: u32,
    peer_streams: u32,
    peer_extended_connect: bool,
    /// What this end has announced, and the peer has acknowledged; and not yet.
    window: u32,
    announced: Option<u32>,
    greeted: bool,
    /// Frames that go before all data.
    control: Vec<u8>,
    /// So many of them the peer is owed for its own.
    answers: usize,
    line: VecDeque<u32>,
    /// What may still be sent on all streams together, and what of that is queued on them.
    send_window: i64,
    queued: i64,
    /// Streams that wait for room of the connection's window.
    starved: Vec<u32>,
    receive_window: i64,
    owed: u32,
    /// What the peer has opened and nobody has taken over.
    opened: VecDeque<(u32, Request<()>)>,
    opened_and_reset: usize,
    alive: Asked,
    alive_wanted: Option<Waker>,
    drain: Drain,
    /// The peer takes no more streams.
    peer_left: Option<Reason>,
    retired: bool,
    over: Option<Error>,
    openers: Vec<Waker>,
    driver: Option<Waker>,
}

/// What is to be written next.
pub(super) enum Outgoing {
    /// Whole frames.
    Control(Vec<u8>),
    /// One DATA frame.
    Data(Head, Bytes),
}

impl State {
    /// The state before anything was sent or received; what this end begins with waits to be sent.
    pub(super) fn new(role: Role, config: Config) -> Self {
        let is_client = role == Role::Client;
        let mut control = Vec::new();
        if is_client {
            control.extend_from_slice(frame::PREFACE);
        }
        let settings = Settings {
            push: is_client.then_some(false),
            streams: Some(config.streams),
            window: Some(config.window),
            frame: Some(config.frame),
            fields: Some(config.fields),
            extended_connect: (!is_client).then_some(true),
        };
        settings.write(&mut control);
        let more = config.connection_window.saturating_sub(FIRST_WINDOW);
        if more > 0 {
            frame::write(&mut control, Kind::WindowUpdate, 0, 0, &more.to_be_bytes());
        }
        Self {
            role,
            config,
            streams: HashMap::default(),
            open: 0,
            next: 1,
            last: 0,
            peer_window: FIRST_WINDOW,
            peer_frame: LEAST_FRAME,
            peer_streams: u32::MAX,
            peer_extended_connect: false,
            window: config.window,
            announced: None,
            greeted: false,
            control,
            answers: 0,
            line: VecDeque::new(),
            send_window: FIRST_WINDOW.into(),
            queued: 0,
            starved: Vec::new(),
            receive_window: (FIRST_WINDOW + more).into(),
            owed: 0,
            opened: VecDeque::new(),
            opened_and_reset: 0,
            alive: Asked::No,
            alive_wanted: None,
            drain: Drain::No,
            peer_left: None,
            retired: false,
            over: None,
            openers: Vec::new(),
            driver: None,
        }
    }

    // What the driver asks.

    /// Has the driver's task woken when there is something to be written.
    pub(super) fn drive(&mut self, cx: &Context<'_>) {
        register(&mut self.driver, cx);
    }

    /// No more frames are to be read while the peer does not take the answers to those before.
    pub(super) fn is_owing(&self) -> bool {
        self.answers >= MOST_ANSWERS
    }

    /// No stream is open, and there will be none.
    pub(super) fn is_done(&self) -> bool {
        let no_more = self.retired || self.peer_left.is_some() || self.drain == Drain::Done;
        no_more && self.open == 0
    }

    /// No new stream can be opened.
    pub(super) fn is_closing(&self) -> bool {
        self.peer_left.is_some() || self.over.is_some()
    }

    /// The peer has begun to speak.
    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// How the connection has ended, when the peer has just ended it.
    pub(super) fn outcome_of_silence(&self) -> Result<(), Error> {
        match self.open {
            0 => self.outcome(),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// How the connection has ended, once it is done.
    pub(super) fn outcome(&self) -> Result<(), Error> {
        match self.peer_left {
            None | Some(Reason::NO_ERROR) => Ok(()),
            Some(reason) => Err(Error::GoAway(reason)),
        }
    }

    /// Says goodbye, when the connection is done.
    pub(super) fn leave(&mut self) {
        self.go_away(self.last, Reason::NO_ERROR);
    }

    /// What is to be written next, and how much data of it at most.
    pub(super) fn outgoing(&mut self) -> Option<Outgoing> {
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
            wake(&mut stream.room_wanted);
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

    // What the peer says. An error is of the connection: it is over.

    /// A frame that is not DATA, nor a part of a header block.
    pub(super) fn received(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
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
    pub(super) fn data(&mut self, id: u32, data: Bytes, length: u32, ends: bool) -> Result<(), Reason> {
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
    pub(super) fn headers(&mut self, id: u32, fields: Fields, ends: bool) -> Result<(), Reason> {
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
        let mut stream = Stream::new(self.peer_window, self.window);
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

    // What this end does.

    /// Opens a stream, as soon as the peer takes one more. Gives its number, with one handle.
    pub(super) fn poll_open(
        &mut self,
        request: &Request<()>,
        ends: bool,
        cx: &Context<'_>,
    ) -> Poll<Result<u32, Error>> {
        if let Some(over) = &self.over {
            return Poll::Ready(Err(over.clone()));
        }
        if let Some(reason) = self.peer_left {
            return Poll::Ready(Err(Error::GoAway(reason)));
        }
        if self.next > MOST_WINDOW {
            return Poll::Ready(Err(Error::GoAway(Reason::NO_ERROR)));
        }
        if self.open >= self.peer_streams.min(self.config.streams) {
            self.openers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let id = self.next;
        self.next += 2;
        let mut stream = Stream::new(self.peer_window, self.window);
        (stream.handles, stream.ending, stream.ended) = (1, ends, ends);
        self.streams.insert(id, stream);
        self.open += 1;
        self.write_block(id, &head::request(request), ends);
        Poll::Ready(Ok(id))
    }

    /// The next stream that the peer has opened, with one handle.
    pub(super) fn accept(&mut self) -> Option<(u32, Request<()>)> {
        loop {
            let (id, request) = self.opened.pop_front()?;
            if self.streams.get(&id).is_some_and(|stream| stream.over.is_none()) {
                return Some((id, request));
            }
            self.opened_and_reset = self.opened_and_reset.saturating_sub(1);
            self.let_go(id);
        }
    }

    /// Answers a request.
    pub(super) fn respond(&mut self, id: u32, response: &Response<()>, ends: bool) -> Result<(), Error> {
        let stream = self.streams.get_mut(&id).expect("it has a handle");
        if let Some(over) = &stream.over {
            return Err(over.clone());
        }
        (stream.ending, stream.ended) = (ends, ends);
        self.write_block(id, &head::response(response), ends);
        self.settle(id, None);
        Ok(())
    }

    fn write_block(&mut self, id: u32, block: &[u8], ends: bool) {
        let most = self.peer_frame as usize;
        let mut flags = if ends { END_STREAM } else { 0 };
        let mut kind = Kind::Headers;
        let mut parts = block.chunks(most).peekable();
        while let Some(part) = parts.next() {
            let last = if parts.peek().is_none() { END_HEADERS } else { 0 };
            frame::write(&mut self.control, kind, flags | last, id, part);
            (kind, flags) = (Kind::Continuation, 0);
        }
        self.wake_driver();
    }

    /// How many bytes of `wanted` a stream may take over now.
    pub(super) fn poll_room(
        &mut self,
        id: u32,
        wanted: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<usize, Error>> {
        let send_buffer = self.config.send_buffer;
        let stream = self.streams.get_mut(&id).expect("it has a handle");
        if let Some(over) = &stream.over {
            return Poll::Ready(Err(over.clone()));
        }
        if stream.ending {
            return Poll::Ready(Err(Error::Reset(Reason::STREAM_CLOSED)));
        }
        let window = usize::try_from(stream.send_window).unwrap_or(0);
        let room = window.min(send_buffer).saturating_sub(stream.queued).min(wanted);
        let shared = usize::try_from(self.send_window - self.queued).unwrap_or(0);
        if room.min(shared) > 0 {
            return Poll::Ready(Ok(room.min(shared)));
        }
        register(&mut stream.room_wanted, cx);
        if room > 0 && !std::mem::replace(&mut stream.is_starved, true) {
            self.starved.push(id);
        }
        Poll::Pending
    }

    /// Takes bytes over for sending, and the end of this direction.
    pub(super) fn send(&mut self, id: u32, data: Bytes, ends: bool) -> Result<(), Error> {
        let stream = self.streams.get_mut(&id).expect("it has a handle");
        if let Some(over) = &stream.over {
            return Err(over.clone());
        }
        if stream.ending {
            return Err(Error::Reset(Reason::STREAM_CLOSED));
        }
        stream.ending = ends;
        stream.queued += data.len();
        self.queued += i64::try_from(data.len()).unwrap_or(i64::MAX);
        if !data.is_empty() {
            stream.queue.push_back(data);
        }
        self.enter_line(id);
        Ok(())
    }

    /// Is ready when the stream is over.
    pub(super) fn poll_over(&mut self, id: u32, cx: &Context<'_>) -> Poll<Error> {
        let stream = self.streams.get_mut(&id).expect("it has a handle");
        match &stream.over {
            Some(over) => Poll::Ready(over.clone()),
            None => {
                register(&mut stream.room_wanted, cx);
                Poll::Pending
            }
        }
    }

    /// The next bytes that have come.
    pub(super) fn poll_data(&mut self, id: u32, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let stream = self.streams.get_mut(&id).expect("it has a handle");
        match (stream.pop(), &stream.over) {
            (Some(data), _) => Poll::Ready(Some(Ok(data))),
            _ if stream.finished => Poll::Ready(None),
            (None, Some(over)) => Poll::Ready(Some(Err(over.clone()))),
            (None, None) => {
                register(&mut stream.data_wanted, cx);
                Poll::Pending
            }
        }
    }

    /// The answer to the request.
    pub(super) fn poll_head(&mut self, id: u32, cx: &Context<'_>) -> Poll<Result<Response<()>, Error>> {
        let stream = self.streams.get_mut(&id).expect("it has a handle");
        match (stream.head.take(), &stream.over) {
            (Some(head), _) => Poll::Ready(Ok(*head)),
            (None, Some(over)) => Poll::Ready(Err(over.clone())),
            (None, None) => {
                register(&mut stream.head_wanted, cx);
                Poll::Pending
            }
        }
    }

    /// Gives window back for so many received bytes.
    pub(super) fn release(&mut self, id: u32, count: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let count = count.min(stream.held);
        if count == 0 {
            return;
        }
        stream.held -= count;
        stream.owed += count;
        self.update_window(id);
        self.give_back(count);
    }

    /// Tells the peer what it may send more: not for every byte, but once it has no more left than that.
    fn update_window(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let is_wanted = stream.owed > 0 && stream.over.is_none() && !stream.finished && stream.handles > 0;
        if is_wanted && i64::from(stream.owed) * 2 >= stream.receive_window {
            stream.receive_window += i64::from(stream.owed);
            let owed = std::mem::take(&mut stream.owed);
            frame::write(&mut self.control, Kind::WindowUpdate, 0, id, &owed.to_be_bytes());
            self.wake_driver();
        }
    }

    fn give_back(&mut self, count: u32) {
        self.owed += count;
        if self.owed >= CONNECTION_PART {
            self.receive_window += i64::from(self.owed);
            let owed = std::mem::take(&mut self.owed);
            frame::write(&mut self.control, Kind::WindowUpdate, 0, 0, &owed.to_be_bytes());
            self.wake_driver();
        }
    }

    /// Resets a stream, with all that is queued.
    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        if self.streams.get(&id).is_none_or(Stream::is_closed) {
            return;
        }
        frame::write(&mut self.control, Kind::ResetStream, 0, id, &reason.0.to_be_bytes());
        self.wake_driver();
        self.break_off(id, Error::Reset(reason));
    }

    /// One more handle of a stream.
    pub(super) fn hold(&mut self, id: u32) {
        self.streams.get_mut(&id).expect("it has a handle").handles += 1;
    }

    /// One handle less. Without any, what is queued still goes out, and then the peer learns that it is over.
    pub(super) fn let_go(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.handles -= 1;
        if stream.handles > 0 {
            return;
        }
        (stream.pieces, stream.small) = (VecDeque::new(), BytesMut::new());
        if stream.is_closed() {
            return self.settle(id, None);
        }
        // A server that has answered, and does not need the rest of the question, has nothing to complain of.
        let has_answered = stream.ending && self.role == Role::Server;
        let reason = if has_answered { Reason::NO_ERROR } else { Reason::CANCEL };
        if stream.ended || (stream.queue.is_empty() && !stream.ending) {
            self.reset(id, reason);
        } else {
            stream.reset_after = Some(reason);
            let held = std::mem::take(&mut stream.held);
            self.give_back(held);
            self.enter_line(id);
        }
    }

    /// Announces another window for streams; false while the last one is not acknowledged.
    pub(super) fn announce_window(&mut self, window: u32) -> bool {
        if self.announced.is_some() || !self.greeted {
            return false;
        }
        self.announced = Some(window);
        Settings { window: Some(window), ..Settings::default() }.write(&mut self.control);
        self.wake_driver();
        true
    }

    /// Asks the peer whether it lives.
    pub(super) fn poll_alive(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(over) = &self.over {
            return Poll::Ready(Err(over.clone()));
        }
        if self.alive == Asked::Answered {
            self.alive = Asked::No;
            return Poll::Ready(Ok(()));
        }
        register(&mut self.alive_wanted, cx);
        if self.alive == Asked::No {
            self.alive = Asked::Sent;
            frame::write(&mut self.control, Kind::Ping, 0, 0, &ALIVE);
            self.wake_driver();
        }
        Poll::Pending
    }

    /// Whether the peer takes extended CONNECTs.
    pub(super) fn has_extended_connect(&self) -> bool {
        self.peer_extended_connect
    }

    /// Takes no more streams of the peer, but for those that are under way.
    pub(super) fn drain(&mut self) {
        if self.drain == Drain::No {
            self.drain = Drain::Told;
            self.go_away(MOST_WINDOW, Reason::NO_ERROR);
            frame::write(&mut self.control, Kind::Ping, 0, 0, &DRAINED);
        }
    }

    /// Ends the connection once no stream is open.
    pub(super) fn retire(&mut self) {
        self.retired = true;
        self.wake_driver();
    }

    /// Ends the connection, with all streams, for what the peer did.
    pub(super) fn fail(&mut self, reason: Reason) {
        self.go_away(self.last, reason);
        self.end(&Error::GoAway(reason));
    }

    /// The connection has ended.
    pub(super) fn end(&mut self, error: &Error) {
        if self.over.is_none() {
            self.over = Some(error.clone());
            self.line.clear();
            let ids: Vec<_> = self.streams.keys().copied().collect();
            for id in ids {
                self.break_off(id, error.clone());
            }
            wake(&mut self.alive_wanted);
            self.wake_openers();
        }
    }

    fn go_away(&mut self, last: u32, reason: Reason) {
        let payload = [last.to_be_bytes(), reason.0.to_be_bytes()].concat();
        frame::write(&mut self.control, Kind::GoAway, 0, 0, &payload);
        self.wake_driver();
    }

    /// A stream is over before its end.
    fn break_off(&mut self, id: u32, error: Error) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let queued = stream.queued;
        stream.end(error);
        if queued > 0 && stream.queued == 0 {
            self.queued -= i64::try_from(queued).unwrap_or(i64::MAX);
            self.feed_starved();
        }
        self.settle(id, None);
    }

    fn feed_starved(&mut self) {
        for id in self.starved.drain(..) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.is_starved = false;
                wake(&mut stream.room_wanted);
            }
        }
    }

    /// Notes what has become of a stream: whether it is open, and whether anybody still needs it. `after` is the reset
    /// that was to follow the end of this direction.
    fn settle(&mut self, id: u32, after: Option<Reason>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if let Some(reason) = after
            && !stream.is_closed()
        {
            return self.reset(id, reason);
        }
        if !stream.is_closed() {
            return;
        }
        let (was_open, is_held) = (std::mem::replace(&mut stream.open, false), stream.handles > 0);
        if was_open {
            self.open -= 1;
            self.wake_openers();
            if self.is_done() {
                self.wake_driver();
            }
        }
        if !is_held {
            let held = self.streams.remove(&id).map_or(0, |stream| stream.held);
            self.give_back(held);
        }
    }

    fn enter_line(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.in_line && stream.may_send() {
            stream.in_line = true;
            self.line.push_back(id);
            self.wake_driver();
        }
    }

    fn wake_openers(&mut self) {
        self.openers.drain(..).for_each(Waker::wake);
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }
}

fn data_head(length: u32, stream: u32, ends: bool) -> Head {
    Head { length, kind: Kind::Data, flags: if ends { END_STREAM } else { 0 }, stream }
}
