//! The I/O of one connection: frames are read and given to the state, and what the state has to say is written. The payload
//! of DATA goes straight into a buffer of its own.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::Request;
use tokio::io::AsyncWrite;

use super::frame::{self, END_HEADERS, END_STREAM, HEAD, Head, Kind, PREFACE, PRIORITY_FLAG};
use super::handle::{PingPong, RecvStream, Requests, SendResponse, Shared};
use super::head::Fields;
use super::state::{Config, Outgoing, Role, State};
use super::{Error, Reason};
use crate::link::lent::Lent;
use crate::wire::hpack::{Decoder, HpackError};

/// So much is made ready to be written at a time: whole frames, until they are more than this.
const BATCH: usize = 64 * 1024;
/// One write takes so many pieces at most.
const PIECES: usize = 32;

/// What a connection is made over.
pub(in crate::link) trait Wire: AsyncWrite + Unpin {
    /// Receives at most `most` bytes into the front of `out`, which may be longer to make that easier. 0 is the orderly
    /// end.
    fn poll_receive_into(
        &mut self,
        out: &mut [u8],
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>;
}

/// A request, with its body, and what answers it.
type Accepted = (Request<RecvStream>, SendResponse);

/// A connection. It does nothing unless it is polled; dropping it ends all streams.
pub(in crate::link) struct Connection<W> {
    wire: W,
    shared: Shared,
    config: Config,
    decoder: Decoder,
    reading: Reading,
    /// A header block that goes on in the next frame.
    block: Option<Block>,
    writing: VecDeque<Piece>,
    said_goodbye: bool,
}

/// What is being read.
enum Reading {
    Preface([u8; PREFACE.len()], usize),
    Head([u8; HEAD], usize),
    Data(Head, Lent, usize),
    Other(Head, Vec<u8>, usize),
}

struct Block {
    stream: u32,
    ends: bool,
    bytes: Vec<u8>,
}

enum Piece {
    Head([u8; HEAD], usize),
    Bytes(Bytes),
}

impl Piece {
    fn rest(&self) -> &[u8] {
        match self {
            Self::Head(bytes, written) => &bytes[*written..],
            Self::Bytes(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Head(_, written) => *written += count,
            Self::Bytes(bytes) => bytes.advance(count),
        }
    }
}

const NEXT: Reading = Reading::Head([0; HEAD], 0);

impl<W: Wire> Connection<W> {
    /// The client's end.
    pub(in crate::link) fn client(wire: W, config: Config) -> (Requests, Self) {
        let connection = Self::new(wire, Role::Client, config, NEXT);
        (Requests(connection.shared.clone()), connection)
    }

    /// The server's end.
    pub(in crate::link) fn server(wire: W, config: Config) -> Self {
        Self::new(wire, Role::Server, config, Reading::Preface([0; PREFACE.len()], 0))
    }

    fn new(wire: W, role: Role, config: Config, reading: Reading) -> Self {
        Self {
            wire,
            shared: Shared::new(State::new(role, config)),
            config,
            decoder: Decoder::default(),
            reading,
            block: None,
            writing: VecDeque::new(),
            said_goodbye: false,
        }
    }

    /// What asks the peer whether it lives.
    pub(in crate::link) fn ping_pong(&self) -> PingPong {
        PingPong(self.shared.clone())
    }

    /// Announces another window for streams. False when that is not possible now, because the last one is not
    /// acknowledged.
    pub(in crate::link) fn announce_window(&mut self, window: u32) -> bool {
        self.shared.lock().announce_window(window)
    }

    /// Takes no more streams of the peer (RFC 9113 §6.8). The connection ends when those that are open have.
    pub(in crate::link) fn drain(&mut self) {
        self.shared.lock().drain();
    }

    /// Ends the connection when the streams that are open have ended.
    pub(in crate::link) fn retire(&mut self) {
        self.shared.lock().retire();
    }

    /// No more streams can be opened.
    pub(in crate::link) fn is_closing(&self) -> bool {
        self.shared.lock().is_closing()
    }

    /// Waits until the peer has begun to speak HTTP/2.
    ///
    /// # Errors
    /// When it does not.
    pub(in crate::link) fn poll_greeted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self.poll_drive(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())),
            Poll::Pending if self.shared.lock().is_greeted() => Poll::Ready(Ok(())),
            other => other,
        }
    }

    /// Drives the connection until the peer opens a stream. `None` when the connection has ended in good order.
    pub(in crate::link) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Accepted, Error>>> {
        if let Some(accepted) = self.accept() {
            return Poll::Ready(Some(Ok(accepted)));
        }
        match (self.poll_drive(cx), self.accept()) {
            (_, Some(accepted)) => Poll::Ready(Some(Ok(accepted))),
            (Poll::Ready(Ok(())), None) => Poll::Ready(None),
            (Poll::Ready(Err(error)), None) => Poll::Ready(Some(Err(error))),
            (Poll::Pending, None) => Poll::Pending,
        }
    }

    fn accept(&mut self) -> Option<Accepted> {
        let (id, request) = self.shared.lock().accept()?;
        let (respond, body) = SendResponse::of(self.shared.clone(), id);
        Some((request.map(|()| body), respond))
    }

    /// Drives the connection. Is ready when it has ended.
    ///
    /// # Errors
    /// Why it has, when that was not in good order.
    pub(in crate::link) fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.lock().drive(cx);
        let result = ready!(self.poll_both(cx));
        let error = match &result {
            Err(error) => error.clone(),
            Ok(()) => Error::GoAway(Reason::NO_ERROR),
        };
        self.shared.lock().end(&error);
        Poll::Ready(result)
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            match self.poll_read(cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(self.shared.lock().outcome_of_silence()),
                Poll::Ready(Err(Broken::Wire(error))) => return Poll::Ready(Err(error.into())),
                Poll::Ready(Err(Broken::Peer(reason))) => {
                    self.shared.lock().fail(reason);
                    // Why is said only to who takes it at once.
                    let _ = self.poll_write(cx);
                    return Poll::Ready(Err(Error::GoAway(reason)));
                }
                Poll::Pending => {}
            }
            let is_paused = self.shared.lock().is_owing();
            ready!(self.poll_write(cx))?;
            let mut state = self.shared.lock();
            if state.is_done() {
                if self.said_goodbye {
                    let outcome = state.outcome();
                    drop(state);
                    ready!(Pin::new(&mut self.wire).poll_shutdown(cx))?;
                    return Poll::Ready(outcome);
                }
                self.said_goodbye = true;
                state.leave();
            } else if !is_paused {
                return Poll::Pending;
            }
        }
    }

    /// Reads until nothing has come, or no more may be read. Is ready when the peer has ended the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if self.shared.lock().is_owing() {
                return Poll::Pending;
            }
            let (room, most) = match &mut self.reading {
                Reading::Preface(bytes, read) => {
                    let rest = &mut bytes[*read..];
                    let most = rest.len();
                    (rest, most)
                }
                Reading::Head(bytes, read) => {
                    let rest = &mut bytes[*read..];
                    let most = rest.len();
                    (rest, most)
                }
                Reading::Data(head, lent, read) => (&mut lent.room()[*read..], head.length as usize - *read),
                Reading::Other(head, bytes, read) => (&mut bytes[*read..], head.length as usize - *read),
            };
            let received = ready!(self.wire.poll_receive_into(room, most, cx)).map_err(Broken::Wire)?;
            if received == 0 {
                return Poll::Ready(Ok(()));
            }
            let is_whole = received == most;
            match &mut self.reading {
                Reading::Preface(_, read)
                | Reading::Head(_, read)
                | Reading::Data(_, _, read)
                | Reading::Other(_, _, read) => *read += received,
            }
            if is_whole {
                self.advance().map_err(Broken::Peer)?;
            }
        }
    }

    /// Does what is to be done with what was read.
    fn advance(&mut self) -> Result<(), Reason> {
        match std::mem::replace(&mut self.reading, NEXT) {
            Reading::Preface(bytes, _) if bytes != *PREFACE => Err(Reason::PROTOCOL_ERROR),
            Reading::Preface(..) => Ok(()),
            Reading::Head(bytes, _) => self.begin(Head::parse(bytes)),
            Reading::Data(head, lent, length) => {
                let data = lent.fill(length);
                let (start, end) = frame::unpad(&head, &data)?;
                let data = if end - start == length { data } else { data.slice(start..end) };
                self.shared.lock().data(head.stream, data, head.length, head.has(END_STREAM))
            }
            Reading::Other(head, payload, _) => self.finish(&head, &payload),
        }
    }

    fn begin(&mut self, head: Head) -> Result<(), Reason> {
        if head.length > self.config.frame {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let goes_on = self.block.as_ref().map(|block| block.stream);
        if goes_on.is_some() != (head.kind == Kind::Continuation)
            || goes_on.is_some_and(|stream| stream != head.stream)
        {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let before = self.block.as_ref().map_or(0, |block| block.bytes.len());
        let is_block = matches!(head.kind, Kind::Headers | Kind::Continuation);
        if is_block && before + head.length as usize > self.config.fields as usize {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        self.reading = match (head.kind, head.length) {
            (Kind::Data, 0) if head.has(frame::PADDED) => return Err(Reason::FRAME_SIZE_ERROR),
            (Kind::Data, 0) => {
                return self.shared.lock().data(head.stream, Bytes::new(), 0, head.has(END_STREAM));
            }
            (_, 0) => return self.finish(&head, &[]),
            (Kind::Data, length) => Reading::Data(head, Lent::take(length as usize), 0),
            (_, length) => Reading::Other(head, vec![0; length as usize], 0),
        };
        Ok(())
    }

    fn finish(&mut self, head: &Head, payload: &[u8]) -> Result<(), Reason> {
        let block = match (head.kind, self.block.take()) {
            (Kind::Headers, _) => {
                let (start, end) = frame::unpad(head, payload)?;
                let start = if head.has(PRIORITY_FLAG) { start + 5 } else { start };
                let bytes = payload.get(start..end).ok_or(Reason::FRAME_SIZE_ERROR)?.to_vec();
                Block { stream: head.stream, ends: head.has(END_STREAM), bytes }
            }
            (_, Some(mut block)) => {
                block.bytes.extend_from_slice(payload);
                block
            }
            (_, None) => return self.shared.lock().received(head, payload),
        };
        if !head.has(END_HEADERS) {
            // Frames of nothing would never reach the bound on their bytes.
            if payload.is_empty() {
                return Err(Reason::ENHANCE_YOUR_CALM);
            }
            self.block = Some(block);
            return Ok(());
        }
        let fields = Fields::read(&mut self.decoder, &block.bytes, self.config.fields as usize);
        let fields = fields.map_err(|error| match error {
            HpackError::Malformed => Reason::COMPRESSION_ERROR,
            HpackError::TooLong => Reason::ENHANCE_YOUR_CALM,
        })?;
        self.shared.lock().headers(block.stream, fields, block.ends)
    }

    /// Writes all that is to be said, and has it sent.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.writing.is_empty() {
                self.gather();
                if self.writing.is_empty() {
                    return Pin::new(&mut self.wire).poll_flush(cx);
                }
            }
            let mut slices = [IoSlice::new(&[]); PIECES];
            for (slice, piece) in slices.iter_mut().zip(&self.writing) {
                *slice = IoSlice::new(piece.rest());
            }
            let count = self.writing.len().min(PIECES);
            let mut written = ready!(Pin::new(&mut self.wire).poll_write_vectored(cx, &slices[..count]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            while let Some(first) = self.writing.front_mut() {
                let length = first.rest().len();
                if length > written {
                    first.advance(written);
                    break;
                }
                written -= length;
                self.writing.pop_front();
            }
        }
    }

    fn gather(&mut self) {
        let mut state = self.shared.lock();
        let mut size = 0;
        while size < BATCH && self.writing.len() + 2 <= PIECES {
            match state.outgoing() {
                Some(Outgoing::Control(frames)) => {
                    size += frames.len();
                    self.writing.push_back(Piece::Bytes(frames.into()));
                }
                Some(Outgoing::Data(head, data)) => {
                    size += data.len();
                    self.writing.push_back(Piece::Head(head.bytes(), 0));
                    if !data.is_empty() {
                        self.writing.push_back(Piece::Bytes(data));
                    }
                }
                None => return,
            }
        }
    }
}

impl<W> Drop for Connection<W> {
    fn drop(&mut self) {
        self.shared.lock().end(&io::Error::from(io::ErrorKind::ConnectionAborted).into());
    }
}

/// Why reading is over.
enum Broken {
    /// The connection broke.
    Wire(io::Error),
    /// The peer broke the protocol.
    Peer(Reason),
}
