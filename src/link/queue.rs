//! What the tunnels of a link have handed over and its record layer has not taken yet. It is kept so short that the bytes
//! are still in the processor's cache when they are sealed, and that what comes in between does not wait behind
//! megabytes; who has more to send waits for its turn, in the order of asking.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Semaphore, SemaphorePermit};

/// As many bytes wait at most, small pieces not counted.
const MOST: usize = 256 * 1024;
/// Reads of up to this size ask nobody: a small request does not wait for its turn.
pub(super) const SMALL: usize = 16 * 1024;

/// The queue of one link.
#[derive(Debug)]
pub(super) struct Queue {
    room: Semaphore,
    /// What of the room is taken by bytes that were handed over.
    taken: AtomicUsize,
    /// The socket took less than it was given.
    blocked: AtomicBool,
}

/// A turn of one tunnel. What it does not use is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    queue: &'a Queue,
    permit: SemaphorePermit<'a>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { room: Semaphore::new(MOST), taken: AtomicUsize::new(0), blocked: AtomicBool::new(false) }
    }
}

impl Queue {
    /// Waits for the turn to hand over `count` bytes; at most [`MOST`] of them.
    pub(super) async fn turn(&self, count: usize) -> Turn<'_> {
        let count = u32::try_from(count.min(MOST)).unwrap_or(u32::MAX);
        let permit = self.room.acquire_many(count).await.expect("the semaphore is never closed");
        Turn { queue: self, permit }
    }

    /// Notes that `count` bytes left the queue.
    pub(super) fn left(&self, count: usize) {
        let before = self.taken.load(Relaxed);
        self.free(count.min(before));
    }

    /// Notes whether the socket has taken all that it was given.
    pub(super) fn sent(&self, all: bool) {
        self.blocked.store(!all, Relaxed);
    }

    /// Notes that the link has nothing more to do for now. If it does not wait for the socket, nothing is queued: what
    /// else was handed over belonged to streams that are gone.
    pub(super) fn rests(&self) {
        if !self.blocked.load(Relaxed) {
            self.free(self.taken.load(Relaxed));
        }
    }

    fn free(&self, count: usize) {
        if count > 0 {
            self.taken.fetch_sub(count, Relaxed);
            self.room.add_permits(count);
        }
    }
}

impl Turn<'_> {
    /// Hands over `count` bytes.
    pub(super) fn take(mut self, count: usize) {
        if let Some(permit) = self.permit.split(count.min(self.permit.num_permits())) {
            self.queue.taken.fetch_add(permit.num_permits(), Relaxed);
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn turn(queue: &Queue, count: usize) -> Option<Turn<'_>> {
        queue.turn(count).now_or_never()
    }

    #[test]
    fn who_comes_late_waits_until_enough_has_left_and_is_not_overtaken() {
        let queue = Queue::default();
        turn(&queue, MOST).unwrap().take(MOST - 10);
        let mut large = Box::pin(queue.turn(20));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(turn(&queue, 1).is_none(), "it came later");
        queue.left(9);
        assert!(large.as_mut().now_or_never().is_none());
        queue.left(1);
        large.now_or_never().unwrap().take(20);
        assert!(turn(&queue, 1).is_none());
    }

    #[test]
    fn what_a_stream_took_along_comes_back_when_the_link_rests() {
        let queue = Queue::default();
        turn(&queue, MOST).unwrap().take(MOST);
        queue.sent(false);
        queue.rests();
        assert!(turn(&queue, 1).is_none(), "it waits for the socket, and so do the bytes");
        queue.sent(true);
        queue.rests();
        assert!(turn(&queue, MOST).is_some());
    }

    #[test]
    fn more_leaves_than_was_counted_and_the_room_stays_the_same() {
        let queue = Queue::default();
        turn(&queue, 5).unwrap().take(5);
        queue.left(1000);
        queue.rests();
        assert_eq!(queue.room.available_permits(), MOST);
    }
}
