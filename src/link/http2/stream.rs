//! What is known of one stream.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};
use http::Response;

use super::{Error, Reason};

/// Received pieces below this size are put together: each of its own would cost many times its bytes.
const SMALL: usize = 2048;
/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// How many handles there are; the queue of what the peer has opened holds one.
    pub(super) handles: u32,
    /// What may still be sent.
    pub(super) send_window: i64,
    pub(super) queue: VecDeque<Bytes>,
    pub(super) queued: usize,
    /// Nothing follows what is queued.
    pub(super) ending: bool,
    /// The end was sent.
    pub(super) ended: bool,
    /// A reset follows what is queued.
    pub(super) reset_after: Option<Reason>,
    /// It stands in the line of those that may send.
    pub(super) in_line: bool,
    pub(super) room_wanted: Option<Waker>,
    pub(super) over_wanted: Option<Waker>,
    /// It waits for room of the connection's window.
    pub(super) is_starved: bool,
    /// What the peer may still send.
    pub(super) receive_window: i64,
    pub(super) pieces: VecDeque<Bytes>,
    pub(super) small: BytesMut,
    /// Received, and not released.
    pub(super) held: u32,
    /// Released, and not given back to the peer.
    pub(super) owed: u32,
    /// The peer's end has come.
    pub(super) finished: bool,
    pub(super) data_wanted: Option<Waker>,
    /// The peer's head has come.
    pub(super) headed: bool,
    pub(super) head: Option<Box<Response<()>>>,
    pub(super) head_wanted: Option<Waker>,
    /// Why it is over for both directions, when that was no orderly end.
    pub(super) over: Option<Error>,
    /// It counts as open.
    pub(super) open: bool,
}

impl Stream {
    pub(super) fn new(send_window: u32, receive_window: u32) -> Self {
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
            over_wanted: None,
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

    pub(super) fn is_closed(&self) -> bool {
        self.over.is_some() || (self.ended && self.finished)
    }

    /// Something waits to be sent, and may be.
    pub(super) fn may_send(&self) -> bool {
        self.over.is_none()
            && !self.ended
            && if self.queue.is_empty() {
                self.ending || self.reset_after.is_some()
            } else {
                self.send_window > 0
            }
    }

    pub(super) fn push(&mut self, data: Bytes) {
        let is_first = self.pieces.is_empty() && self.small.is_empty();
        if !is_first && data.len() < SMALL {
            return self.small.extend_from_slice(&data);
        }
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
        self.pieces.push_back(data);
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        self.pieces.pop_front().or_else(|| {
            let small = std::mem::take(&mut self.small);
            (!small.is_empty()).then(|| small.freeze())
        })
    }

    /// It is over, and what was queued for sending is gone; what has come may still be read.
    pub(super) fn end(&mut self, error: Error) {
        if self.over.is_none() {
            self.over = Some(error);
            (self.queue, self.queued) = (VecDeque::new(), 0);
            self.wake_all();
        }
    }

    pub(super) fn wake_all(&mut self) {
        let Self { room_wanted, over_wanted, data_wanted, head_wanted, .. } = self;
        [room_wanted, over_wanted, data_wanted, head_wanted].into_iter().for_each(wake);
    }
}

pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

pub(super) fn register(place: &mut Option<Waker>, cx: &Context<'_>) {
    if !place.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *place = Some(cx.waker().clone());
    }
}
