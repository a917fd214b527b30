//! The numbers of streams: which were opened (RFC 9113 §5.1.1), and how many are open (§5.1.2).

use std::collections::BTreeMap;
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
    /// Tasks that wait until one more stream may be opened, by the number of their place.
    waiting: BTreeMap<u64, Waker>,
    /// The number of the place that was taken last.
    last_place: u64,
}

impl Counts {
    /// The numbers before any stream was opened.
    pub(super) fn new(side: Side) -> Self {
        Self { side, open: 0, next: 1, last: 0, waiting: BTreeMap::new(), last_place: 0 }
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

    /// Takes the next number of this end, once fewer than `limit` streams are open. A caller that has to wait gets a
    /// `place`, and [leaves](Self::leave) it when it no longer waits.
    pub(super) fn poll_open(&mut self, limit: u32, place: &mut Option<u64>, cx: &Context<'_>) -> Poll<u32> {
        if self.open >= limit {
            let number = *place.get_or_insert_with(|| {
                self.last_place += 1;
                self.last_place
            });
            self.waiting.insert(number, cx.waker().clone());
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

    /// Wakes all tasks that wait to open a stream.
    pub(super) fn wake_waiting(&mut self) {
        std::mem::take(&mut self.waiting).into_values().for_each(Waker::wake);
    }

    /// Forgets the task that waits at this place.
    pub(super) fn leave(&mut self, place: u64) {
        self.waiting.remove(&place);
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
        assert_eq!([1, 2].map(|_| counts.poll_open(2, &mut None, &cx)), [Poll::Ready(1), Poll::Ready(3)]);
        assert!(counts.poll_open(2, &mut None, &cx).is_pending());
        assert_eq!([1, 2, 3, 5].map(|id| counts.is_idle(id)), [false, true, false, true]);
        counts.close();
        assert_eq!((counts.poll_open(2, &mut None, &cx), counts.open()), (Poll::Ready(5), 2));
        assert!(!counts.peer_uses(7), "servers open none");
    }

    /// Each waiter was kept, with its task, until a stream was closed: a gateway that accepts no streams filled the
    /// client's memory.
    #[test]
    fn whoever_gives_up_waiting_for_a_stream_is_forgotten() {
        let (mut counts, cx) = (Counts::new(Side::Client), Context::from_waker(Waker::noop()));
        let mut stays = None;
        for _ in 0..100 {
            let mut leaves = None;
            assert!(counts.poll_open(0, &mut stays, &cx).is_pending());
            assert!(counts.poll_open(0, &mut leaves, &cx).is_pending());
            counts.leave(leaves.unwrap());
        }
        assert_eq!(counts.waiting.len(), 1);
        counts.wake_waiting();
        assert!(counts.waiting.is_empty());
    }

    #[test]
    fn a_server_takes_odd_numbers_and_all_below_the_highest_are_used() {
        let mut counts = Counts::new(Side::Server);
        assert!(!counts.peer_uses(4) && counts.peer_uses(5));
        assert_eq!([1, 2, 5, 7].map(|id| counts.is_idle(id)), [false, true, false, true]);
        assert_eq!((counts.last(), counts.open()), (5, 0), "it may be refused");
    }
}
