//! The numbers of streams: which were opened (RFC 9113 §5.1.1), and how many are open (§5.1.2).

use std::task::{Context, Poll, Waker};

use super::Side;
use super::frame::MAX_STREAM_ID;

/// The stream numbers of one connection.
#[derive(Debug)]
pub(super) struct Counts {
    side: Side,
    /// How many streams are open, of either end.
    open: u32,
    /// The number of the next stream of this end.
    next: u32,
    /// The highest number of a stream of the peer.
    last: u32,
    /// Tasks that wait until one more stream may be opened.
    waiting: Vec<Waker>,
}

impl Counts {
    /// Before any stream was opened.
    pub(super) fn new(side: Side) -> Self {
        Self { side, open: 0, next: 1, last: 0, waiting: Vec::new() }
    }

    /// Which end this is.
    pub(super) fn side(&self) -> Side {
        self.side
    }

    /// How many streams are open.
    pub(super) fn open(&self) -> u32 {
        self.open
    }

    /// The highest number of a stream of the peer.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// Whether this end has used all its stream numbers.
    pub(super) fn is_exhausted(&self) -> bool {
        self.next > MAX_STREAM_ID
    }

    /// Takes the next number of this end, once fewer than `limit` streams are open.
    pub(super) fn poll_open(&mut self, limit: u32, cx: &Context<'_>) -> Poll<u32> {
        if self.open >= limit {
            self.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        let id = self.next;
        self.next += 2;
        self.open += 1;
        Poll::Ready(id)
    }

    /// Notes the number of a stream that the peer wants to open. False when it may not use that number.
    pub(super) fn peer_uses(&mut self, id: u32) -> bool {
        let is_valid = self.side == Side::Server && !id.is_multiple_of(2);
        if is_valid {
            self.last = id;
        }
        is_valid
    }

    /// Counts a stream of the peer as open.
    pub(super) fn peer_opened(&mut self) {
        self.open += 1;
    }

    /// Counts an open stream as closed.
    pub(super) fn close(&mut self) {
        self.open -= 1;
        self.wake_waiting();
    }

    /// Has everybody who waits to open a stream look again.
    pub(super) fn wake_waiting(&mut self) {
        self.waiting.drain(..).for_each(Waker::wake);
    }

    /// Whether a stream of this number was not opened yet.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        match (self.side, id.is_multiple_of(2)) {
            (Side::Client, false) => id >= self.next,
            (Side::Server, false) => id > self.last,
            // Even numbers are for pushes, which nobody may send.
            (_, true) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_opens_odd_numbers_up_to_the_limit() {
        let (mut counts, cx) = (Counts::new(Side::Client), Context::from_waker(Waker::noop()));
        assert_eq!([1, 2].map(|_| counts.poll_open(2, &cx)), [Poll::Ready(1), Poll::Ready(3)]);
        assert!(counts.poll_open(2, &cx).is_pending());
        assert_eq!([1, 2, 3, 5].map(|id| counts.is_idle(id)), [false, true, false, true]);
        counts.close();
        assert_eq!((counts.poll_open(2, &cx), counts.open()), (Poll::Ready(5), 2));
        assert!(!counts.peer_uses(7), "servers open none");
    }

    #[test]
    fn a_server_takes_odd_numbers_and_all_below_the_highest_are_used() {
        let mut counts = Counts::new(Side::Server);
        assert!(!counts.peer_uses(4) && counts.peer_uses(5));
        assert_eq!([1, 2, 5, 7].map(|id| counts.is_idle(id)), [false, true, false, true]);
        assert_eq!((counts.last(), counts.open()), (5, 0), "it may be refused");
    }
}
