//! One stream: its two directions, and what concerns both.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use laneway_limits::memory::Account;

use super::Error;
use super::closed::ClosedBy;
use super::recv::RecvHalf;
use super::send::SendHalf;
use super::waker::{register, wake};

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
    /// The number of handles; the queue of streams to be accepted holds one.
    pub(super) handles: u32,
    /// Whether it counts as open.
    pub(super) is_counted: bool,
    /// Why both directions are over, unless each has ended in good order.
    error: Option<Error>,
    /// Who has ended both directions, once they have.
    pub(super) closed_by: ClosedBy,
    end_wanted: Option<Waker>,
}

impl Stream {
    /// An open stream with one handle.
    pub(super) fn new(send_window: u32, receive_window: u32) -> Self {
        Self {
            send: SendHalf::new(send_window),
            recv: RecvHalf::new(receive_window),
            handles: 1,
            is_counted: true,
            error: None,
            closed_by: ClosedBy::Ends,
            end_wanted: None,
        }
    }

    /// Why the stream is over, when it did not end in good order.
    pub(super) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether both directions have ended.
    pub(super) fn is_closed(&self) -> bool {
        self.error.is_some() || (self.send.has_ended && self.recv.has_ended)
    }

    /// Ends both directions. What was queued for sending is dropped, and its bytes are counted; what was received may
    /// still be read.
    pub(super) fn abort(&mut self, error: Error, by: ClosedBy) -> usize {
        if self.error.is_some() {
            return 0;
        }
        (self.error, self.closed_by) = (Some(error), by);
        self.recv.wake();
        wake(&mut self.end_wanted);
        self.send.abort()
    }

    /// Is ready when the stream is over before its end.
    pub(super) fn poll_error(&mut self, cx: &Context<'_>) -> Poll<Error> {
        match &self.error {
            Some(error) => Poll::Ready(error.clone()),
            None => {
                register(&mut self.end_wanted, cx);
                Poll::Pending
            }
        }
    }

    /// Charges the memory of both directions to `account` from now on.
    pub(super) fn charge_to(&mut self, account: &Arc<Account>) {
        self.send.memory.charge_to(account);
        self.recv.memory.charge_to(account);
    }

    /// The memory of what is queued in both directions, in bytes: as accounted, and as found by walking the queues.
    pub(super) fn memory(&self) -> (usize, usize) {
        (self.send.memory.bytes() + self.recv.memory.bytes(), self.send.walk() + self.recv.walk())
    }

    /// Whether the account of what is queued was evicted.
    pub(super) fn is_evicted(&self) -> bool {
        self.send.memory.account().is_some_and(|account| account.is_evicted())
    }

    /// The increment to announce for the stream's window, when one is due and somebody still reads.
    pub(super) fn take_update(&mut self) -> Option<u32> {
        if self.error.is_some() || self.handles == 0 { None } else { self.recv.take_update() }
    }
}
