//! The streams of one connection and what has to be said about them: all of HTTP/2 that is not I/O.

mod driver;
mod peer;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};

use super::frame::{
    self, END_HEADERS, END_STREAM, FIRST_WINDOW, Head, Kind, LEAST_FRAME, MOST_WINDOW, Settings,
};
use super::head;
use super::stream::{Stream, register, wake};
use super::{Error, Reason};

/// The connection's window is given back in parts of this size.
const CONNECTION_PART: u32 = 1 << 29;
/// A peer may change its settings so often until this end has heard that it lives: each change is work for every stream.
const MOST_SETTINGS: u32 = 100;
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
    /// How many streams may be open.
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
        // All are odd; and the table looks at the highest bits, too.
        self.0 = u64::from(number >> 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
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
    streams: HashMap<u32, Box<Stream>, BuildHasherDefault<Number>>,
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
    /// How often the peer has changed its settings lately.
    changes: u32,
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
    /// Goodbye was said.
    left: bool,
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
            streams: (!is_client).then_some(config.streams),
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
            changes: 0,
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
            left: false,
            over: None,
            openers: Vec::new(),
            driver: None,
        }
    }

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
        if self.left || self.next > MOST_WINDOW {
            return Poll::Ready(Err(Error::GoAway(Reason::NO_ERROR)));
        }
        if self.open >= self.peer_streams.min(self.config.streams) {
            self.openers.push(cx.waker().clone());
            return Poll::Pending;
        }
        let id = self.next;
        self.next += 2;
        let mut stream = Box::new(Stream::new(self.peer_window, self.window));
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
                register(&mut stream.over_wanted, cx);
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
        if self.streams.get(&id).is_none_or(|stream| stream.is_closed()) {
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
