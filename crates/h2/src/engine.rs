//! One end of a connection, without I/O and without a clock: bytes of the peer go in, bytes for the peer come out.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::Context;

use http::Request;
use laneway_limits::memory::{Account, Tally};

use super::fields::Fields;
use super::handle::{PingPong, RecvStream, Requests, SendResponse, Shared};
use super::hpack::{Decoder, HpackError};
use super::reader::{Reader, Received};
use super::streams::Streams;
use super::writer::{MAX_PIECES, Writer};
use super::{Config, Error, Reason, Side};

/// A request with its body, and what answers it.
pub type Accepted = (Request<RecvStream>, SendResponse);

/// One end of a connection. Its driver repeats three steps: puts received bytes into [`Engine::room`] and calls
/// [`Engine::received`]; writes [`Engine::output`] and calls [`Engine::written`]; asks [`Engine::try_finish`] whether that
/// was all. Dropping it ends all streams.
pub struct Engine {
    shared: Shared,
    reader: Reader,
    decoder: Decoder,
    max_header_list_size: usize,
    writer: Writer,
    /// The memory of everything except what is queued on streams.
    memory: Tally,
}

/// How far a connection is from its end.
#[derive(Debug)]
pub enum Finish {
    /// It continues.
    Open,
    /// The last GOAWAY waits to be written.
    Farewell,
    /// Everything was sent, and the connection can be closed.
    Finished(Result<(), Error>),
}

impl Engine {
    /// The client's end, and what opens its streams.
    pub fn client(config: Config) -> (Requests, Self) {
        let engine = Self::new(Side::Client, config);
        (Requests(engine.shared.clone()), engine)
    }

    /// The server's end.
    pub fn server(config: Config) -> Self {
        Self::new(Side::Server, config)
    }

    fn new(side: Side, config: Config) -> Self {
        Self {
            shared: Shared::new(Streams::new(side, config)),
            reader: Reader::new(side, &config),
            decoder: Decoder::default(),
            max_header_list_size: config.max_header_list_size as usize,
            writer: Writer::default(),
            memory: Tally::default(),
        }
    }

    /// Wakes the current task when a handle gives it something to write.
    pub fn register(&self, cx: &Context<'_>) {
        self.shared.lock().drive(cx);
    }

    /// Charges the memory of the connection to `account`. What is queued on a stream is charged to the stream's own account
    /// once it has one.
    pub fn charge_to(&mut self, account: &Arc<Account>) {
        self.memory.charge_to(account);
        self.shared.lock().charge_to(account);
    }

    /// Counts the memory of unfinished frames, of what is being written, and of the streams' state, with `more` bytes for the
    /// buffers of the caller that drives this. What is queued on streams is always counted.
    pub fn count_memory(&mut self, more: usize) {
        let streams = self.shared.lock().fixed_memory();
        self.memory.set(more + streams + self.reader.memory() + self.writer.memory());
    }

    /// The memory of the connection with all its streams, in bytes: as counted, and as found by walking through all queues.
    pub fn memory(&self) -> (usize, usize) {
        let streams = self.shared.lock();
        let (counted, walked) = streams.queued_memory();
        let fixed = streams.fixed_memory() + self.reader.memory() + self.writer.walk();
        (self.memory.bytes() + counted, fixed + walked)
    }

    /// Whether [`Engine::tick`] has to be called from time to time.
    pub fn has_ownerless(&self) -> bool {
        self.shared.lock().has_ownerless()
    }

    /// Resets the streams that nobody holds a handle of, and of which the peer has taken nothing for six ticks.
    pub fn tick(&mut self) {
        self.shared.lock().tick();
    }

    /// The room for the peer's next bytes, and the most that may be put there; the room itself may be longer. `None` while
    /// nothing is to be read, because the peer does not read the answers to its frames, or because its requests have to be
    /// accepted first.
    pub fn room(&mut self) -> Option<(&mut [u8], usize)> {
        let is_full = {
            let streams = self.shared.lock();
            streams.is_backlogged() || streams.has_to_accept()
        };
        if is_full { None } else { Some(self.reader.room()) }
    }

    /// Nothing is to be read before what [`Engine::output`] gives is written.
    pub fn is_backlogged(&self) -> bool {
        self.shared.lock().is_backlogged()
    }

    /// Takes `count` bytes that were put into the room.
    ///
    /// # Errors
    /// When the peer broke the protocol. The connection is over, and the GOAWAY that says why waits to be written.
    pub fn received(&mut self, count: usize) -> Result<(), Reason> {
        let result = self.reader.fill(count).and_then(|received| self.handle(received));
        result.inspect_err(|reason| self.shared.lock().fail(*reason))
    }

    fn handle(&mut self, received: Received) -> Result<(), Reason> {
        match received {
            Received::Nothing => Ok(()),
            Received::Data(head, data) => {
                self.shared.lock().data(head.stream, data, head.length, head.ends_stream())
            }
            Received::Headers(block) => {
                let fields = Fields::read(&mut self.decoder, &block.bytes, self.max_header_list_size);
                let fields = fields.map_err(|error| match error {
                    HpackError::Malformed => Reason::COMPRESSION_ERROR,
                    HpackError::TooLong => Reason::ENHANCE_YOUR_CALM,
                })?;
                self.shared.lock().headers(block.stream, fields, block.ends)
            }
            Received::Frame(head, payload) => self.shared.lock().frame(&head, &payload),
        }
    }

    /// Copies bytes that the peer has sent. Returns how many were taken: fewer than all when the peer does not read.
    ///
    /// # Errors
    /// Those of [`Engine::received`].
    pub fn receive(&mut self, bytes: &[u8]) -> Result<usize, Reason> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some((room, most)) = self.room() else { break };
            let (now, later) = rest.split_at(rest.len().min(most));
            room[..now.len()].copy_from_slice(now);
            rest = later;
            self.received(now.len())?;
        }
        Ok(bytes.len() - rest.len())
    }

    /// Whether something is to be written.
    pub fn has_output(&mut self) -> bool {
        if self.writer.is_empty() {
            self.writer.refill(&mut self.shared.lock());
        }
        !self.writer.is_empty()
    }

    /// Puts the bytes to be written next into `slices`, and returns how many slices they are; to be called after
    /// [`Engine::has_output`].
    pub fn output<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_PIECES]) -> usize {
        self.writer.slices(slices)
    }

    /// Notes that `count` bytes of the output were written.
    pub fn written(&mut self, count: usize) {
        self.writer.advance(count);
    }

    /// Takes a copy of all that is to be written.
    pub fn take_output(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.has_output() {
            let before = bytes.len();
            let mut slices = [IoSlice::new(&[]); MAX_PIECES];
            let count = self.output(&mut slices);
            slices[..count].iter().for_each(|slice| bytes.extend_from_slice(slice));
            self.written(bytes.len() - before);
        }
        bytes
    }

    /// The next request of the peer.
    pub fn accept(&mut self) -> Option<Accepted> {
        let (id, request) = self.shared.lock().accept()?;
        let (respond, body) = SendResponse::of(self.shared.clone(), id);
        Some((request.map(|()| body), respond))
    }

    /// What asks the peer whether it is alive.
    pub fn ping_pong(&self) -> PingPong {
        PingPong(self.shared.clone())
    }

    /// Announces another receive window for every stream. False when that is not possible now, because the last one is not
    /// acknowledged.
    pub fn announce_window(&mut self, window: u32) -> bool {
        self.shared.lock().announce_window(window)
    }

    /// Accepts no more streams of the peer (RFC 9113 §6.8). The connection ends with the last one that is open.
    pub fn drain(&mut self) {
        self.shared.lock().drain();
    }

    /// Ends the connection with the last stream that is open.
    pub fn retire(&mut self) {
        self.shared.lock().retire();
    }

    /// No more streams can be opened.
    pub fn is_closing(&self) -> bool {
        self.shared.lock().is_closing()
    }

    /// The peer has begun to speak HTTP/2.
    pub fn is_greeted(&self) -> bool {
        self.shared.lock().is_greeted()
    }

    /// Whether the connection is finished; to be asked when all output is written.
    pub fn try_finish(&mut self) -> Finish {
        let mut streams = self.shared.lock();
        if !streams.is_done() {
            Finish::Open
        } else if streams.say_farewell() {
            Finish::Farewell
        } else {
            Finish::Finished(streams.outcome())
        }
    }

    /// Takes the end of the peer's byte stream in good order; returns how the connection has ended.
    ///
    /// # Errors
    /// When streams were open, or the peer gave a reason before.
    pub fn peer_closed(&self) -> Result<(), Error> {
        let streams = self.shared.lock();
        match streams.open() {
            0 => streams.outcome(),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    /// Ends all streams, because the connection has ended.
    pub fn end(&mut self, error: &Error) {
        self.shared.lock().end(error);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end(&io::Error::from(io::ErrorKind::ConnectionAborted).into());
    }
}
