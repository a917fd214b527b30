//! Receiving DATA within the windows that this end gives (RFC 9113 §5.2): of one stream, and of the connection.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Response, StatusCode};

use laneway_limits::memory::Tally;

use super::waker::{register, wake};
use super::{PieceQueue, Reason};

/// The connection's window is given back in parts of this many bytes.
const CONNECTION_PART: u32 = 1 << 29;

/// What the peer may send as the content of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Any number of bytes, and trailers if it likes.
    Any,
    /// As many bytes as Content-Length says: this many are missing (RFC 9113 §8.1.1).
    Exactly(u64),
    /// The bytes of a tunnel: no trailers follow them (RFC 9113 §8.5).
    Tunnel,
}

impl Content {
    /// What a Content-Length of this value permits.
    pub(super) fn of(length: Option<u64>) -> Self {
        length.map_or(Self::Any, Self::Exactly)
    }

    /// What the method of a request says about the content of its response: a tunnel, none, or any.
    pub(super) fn asked_by(method: &Method) -> Self {
        match *method {
            Method::CONNECT => Self::Tunnel,
            Method::HEAD => Self::Exactly(0),
            _ => Self::Any,
        }
    }

    /// What the content of a response to such a request is, if its own fields say `own` (RFC 9110 §6.4.1).
    fn answered_by(self, status: StatusCode, own: Self) -> Self {
        match (self, status) {
            (Self::Tunnel, status) if status.is_success() => Self::Tunnel,
            (Self::Exactly(_), _) | (_, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => {
                Self::Exactly(0)
            }
            _ => own,
        }
    }

    /// Takes `count` bytes, after which nothing follows if `ends`.
    ///
    /// # Errors
    /// When these are more or less than there may be.
    fn take(&mut self, count: usize, ends: bool) -> Result<(), Reason> {
        let Self::Exactly(missing) = self else { return Ok(()) };
        *missing = missing.checked_sub(count as u64).ok_or(Reason::PROTOCOL_ERROR)?;
        if ends && *missing > 0 { Err(Reason::PROTOCOL_ERROR) } else { Ok(()) }
    }
}

/// The receiving direction of one stream. `held` bytes wait for their reader; `owed` bytes were read, and the peer's
/// window does not count them yet.
#[derive(Debug)]
pub(super) struct RecvHalf {
    /// How many bytes the peer may still send; less than 0 after a smaller window was announced.
    window: i64,
    queue: PieceQueue,
    /// The memory of `queue`.
    pub(super) memory: Tally,
    held: u32,
    owed: u32,
    /// The peer's END_STREAM was received.
    pub(super) has_ended: bool,
    data_wanted: Option<Waker>,
    /// The peer's request or response head was received.
    pub(super) has_head: bool,
    /// What may follow the head; before it, what the method of the request says.
    pub(super) content: Content,
    /// The response, until it is taken.
    response: Option<Box<Response<()>>>,
    response_wanted: Option<Waker>,
}

impl RecvHalf {
    /// A half with the window that this end has announced.
    pub(super) fn new(window: u32) -> Self {
        Self {
            window: window.into(),
            queue: PieceQueue::default(),
            memory: Tally::default(),
            held: 0,
            owed: 0,
            has_ended: false,
            data_wanted: None,
            has_head: false,
            content: Content::Any,
            response: None,
            response_wanted: None,
        }
    }

    /// Checks a DATA frame that takes `length` bytes of the window.
    ///
    /// # Errors
    /// When the peer may not send it.
    pub(super) fn admit(&mut self, length: u32) -> Result<(), Reason> {
        self.window -= i64::from(length);
        match () {
            () if self.has_ended => Err(Reason::STREAM_CLOSED),
            () if self.window < 0 => Err(Reason::FLOW_CONTROL_ERROR),
            () if !self.has_head => Err(Reason::PROTOCOL_ERROR),
            () => Ok(()),
        }
    }

    /// Checks that `count` bytes of content may follow, and that nothing has to after them if `ends`.
    ///
    /// # Errors
    /// When Content-Length says otherwise.
    pub(super) fn take_content(&mut self, count: usize, ends: bool) -> Result<(), Reason> {
        self.content.take(count, ends)
    }

    /// Checks trailers, with which the stream has to end.
    ///
    /// # Errors
    /// When there may be none, or content is missing.
    pub(super) fn take_trailers(&mut self, ends: bool) -> Result<(), Reason> {
        match self.content {
            _ if self.has_ended => Err(Reason::STREAM_CLOSED),
            Content::Tunnel => Err(Reason::PROTOCOL_ERROR),
            _ if !ends => Err(Reason::PROTOCOL_ERROR),
            _ => self.take_content(0, true),
        }
    }

    /// Queues the payload of a frame for the reader; its padding counts as read.
    pub(super) fn push(&mut self, data: Bytes, padding: u32) {
        self.owed += padding;
        if !data.is_empty() {
            self.held += u32::try_from(data.len()).unwrap_or(u32::MAX);
            self.queue.push(data);
            self.memory.set(self.queue.memory());
            wake(&mut self.data_wanted);
        }
    }

    /// Notes the peer's END_STREAM.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
        wake(&mut self.data_wanted);
    }

    /// The next bytes; `None` when nothing is queued.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let data = self.queue.pop();
        self.memory.set(self.queue.memory());
        data
    }

    /// The memory of the queue.
    pub(super) fn walk(&self) -> usize {
        self.queue.memory()
    }

    /// Wakes the current task when more was received.
    pub(super) fn want_data(&mut self, cx: &Context<'_>) {
        register(&mut self.data_wanted, cx);
    }

    /// Notes the response, whose own fields say this about its `content`.
    pub(super) fn respond(&mut self, response: Response<()>, content: Content) {
        self.has_head = true;
        self.content = self.content.answered_by(response.status(), content);
        self.response = Some(Box::new(response));
        wake(&mut self.response_wanted);
    }

    /// The response, once.
    pub(super) fn poll_response(&mut self, cx: &Context<'_>) -> Poll<Response<()>> {
        if let Some(response) = self.response.take() {
            return Poll::Ready(*response);
        }
        register(&mut self.response_wanted, cx);
        Poll::Pending
    }

    /// Counts bytes as read; returns how many of them were still held.
    pub(super) fn release(&mut self, count: u32) -> u32 {
        let count = count.min(self.held);
        self.held -= count;
        self.owed += count;
        count
    }

    /// The increment to announce. There is none until the peer has no more window left than the increment, so that not every byte
    /// is announced.
    pub(super) fn take_update(&mut self) -> Option<u32> {
        let is_due = self.owed > 0 && !self.has_ended && i64::from(self.owed) * 2 >= self.window;
        is_due.then(|| {
            self.window += i64::from(self.owed);
            std::mem::take(&mut self.owed)
        })
    }

    /// Changes the window once the peer has acknowledged it.
    pub(super) fn widen(&mut self, change: i64) {
        self.window += change;
    }

    /// Drops what is queued: nobody reads it. It stays held until [`RecvHalf::forget_held`].
    pub(super) fn discard(&mut self) {
        self.queue.clear();
        self.memory.set(0);
    }

    /// How many bytes are held, which count as read from now on.
    pub(super) fn forget_held(&mut self) -> u32 {
        std::mem::take(&mut self.held)
    }

    /// Wakes the task that waits.
    pub(super) fn wake(&mut self) {
        wake(&mut self.data_wanted);
        wake(&mut self.response_wanted);
    }
}

/// The receiving direction of a connection.
#[derive(Debug)]
pub(super) struct RecvFlow {
    /// How many bytes the peer may still send on all streams together.
    window: i64,
    /// Bytes that were read, and that the peer's window does not count yet.
    owed: u32,
}

impl RecvFlow {
    /// A connection with the window that this end announces first.
    pub(super) fn new(window: u32) -> Self {
        Self { window: window.into(), owed: 0 }
    }

    /// Counts a DATA frame.
    ///
    /// # Errors
    /// When the peer had no window for it.
    pub(super) fn admit(&mut self, length: u32) -> Result<(), Reason> {
        self.window -= i64::from(length);
        if self.window < 0 { Err(Reason::FLOW_CONTROL_ERROR) } else { Ok(()) }
    }

    /// Counts bytes as read; returns the increment to announce when one is due.
    pub(super) fn release(&mut self, count: u32) -> Option<u32> {
        self.owed += count;
        (self.owed >= CONNECTION_PART).then(|| {
            self.window += i64::from(self.owed);
            std::mem::take(&mut self.owed)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(window: u32) -> RecvHalf {
        RecvHalf { has_head: true, ..RecvHalf::new(window) }
    }

    #[test]
    fn window_is_given_back_for_what_was_read_once_it_is_half_of_it() {
        let mut half = half(100);
        half.admit(60).unwrap();
        half.push(Bytes::from(vec![0; 50]), 10);
        assert_eq!(half.take_update(), None, "only the padding counts as read");
        assert_eq!((half.release(15), half.take_update()), (15, Some(25)));
        assert_eq!((half.release(1000), half.take_update()), (35, Some(35)), "no more than is held");
        assert_eq!(half.admit(100), Ok(()));
        assert_eq!(half.admit(1), Err(Reason::FLOW_CONTROL_ERROR));
    }

    #[test]
    fn data_comes_after_the_head_and_before_the_end() {
        assert_eq!(RecvHalf::new(100).admit(1), Err(Reason::PROTOCOL_ERROR));
        let mut half = half(100);
        half.end();
        assert_eq!(half.admit(1), Err(Reason::STREAM_CLOSED));
        half.owed = 100;
        assert_eq!(half.take_update(), None, "the peer sends nothing more");
    }

    #[test]
    fn the_connections_window_is_given_back_in_large_parts() {
        let mut flow = RecvFlow::new(u32::MAX >> 1);
        flow.admit(CONNECTION_PART).unwrap();
        assert_eq!(flow.release(CONNECTION_PART - 1), None);
        assert_eq!(flow.release(1), Some(CONNECTION_PART));
        assert_eq!(RecvFlow::new(10).admit(11), Err(Reason::FLOW_CONTROL_ERROR));
    }
}
