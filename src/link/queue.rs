//! What the tunnels of a link have handed over and its record layer has not taken yet. It is kept so short that the bytes
//! are still in the processor's cache when they are sealed, and that what comes in between does not wait behind
//! megabytes; who has more to send waits for its turn, in the order of asking.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::steps::Steps;

/// As many bytes wait at most, small pieces not counted. While steps are small each byte takes the room of several.
const MOST: usize = Steps::MOST_AT_ONCE;
/// Reads of up to this size ask nobody: a small request does not wait for its turn.
pub(super) const SMALL: usize = 16 * 1024;

/// The queue of one link.
#[derive(Debug)]
pub(super) struct Queue {
    steps: Steps,
    room: Semaphore,
    /// The bytes that were handed over.
    bytes: AtomicUsize,
    /// What of the room they take.
    taken: AtomicUsize,
    /// The socket took less than it was given.
    blocked: AtomicBool,
}

/// A turn of one tunnel. What it does not use is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    queue: &'a Queue,
    permit: SemaphorePermit<'a>,
    /// The room that one byte takes.
    weight: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            steps: Steps::default(),
            room: Semaphore::new(MOST),
            bytes: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
        }
    }
}

impl Queue {
    /// How much is moved at a time.
    pub(super) fn steps(&self) -> &Steps {
        &self.steps
    }

    /// Waits for the turn to hand over `count` bytes; at most [`MOST`] of them.
    pub(super) async fn turn(&self, count: usize) -> Turn<'_> {
        let weight = MOST / self.steps.at_once();
        let room = u32::try_from((count * weight).min(MOST)).unwrap_or(u32::MAX);
        let permit = self.room.acquire_many(room).await.expect("the semaphore is never closed");
        Turn { queue: self, permit, weight }
    }

    /// Notes that `count` bytes left the queue.
    pub(super) fn left(&self, count: usize) {
        let (bytes, taken) = (self.bytes.load(Relaxed), self.taken.load(Relaxed));
        if count < bytes {
            // Nobody knows which of them: each had the mean room.
            self.free(count, taken / bytes * count);
        } else {
            self.free(bytes, taken);
        }
    }

    /// Notes whether the socket has taken all that it was given.
    pub(super) fn sent(&self, all: bool) {
        self.blocked.store(!all, Relaxed);
    }

    /// Notes that the link has nothing more to do for now. If it does not wait for the socket, nothing is queued: what
    /// else was handed over belonged to streams that are gone.
    pub(super) fn rests(&self) {
        if !self.blocked.load(Relaxed) {
            self.free(self.bytes.load(Relaxed), self.taken.load(Relaxed));
        }
    }

    fn free(&self, bytes: usize, room: usize) {
        self.bytes.fetch_sub(bytes, Relaxed);
        if room > 0 {
            self.taken.fetch_sub(room, Relaxed);
            self.room.add_permits(room);
        }
    }
}

impl Turn<'_> {
    /// Hands over `count` bytes.
    pub(super) fn take(mut self, count: usize) {
        let room = (count * self.weight).min(self.permit.num_permits());
        if let Some(permit) = self.permit.split(room) {
            self.queue.bytes.fetch_add(count, Relaxed);
            self.queue.taken.fetch_add(permit.num_permits(), Relaxed);
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn queue() -> Queue {
        let queue = Queue::default();
        queue.steps().enlarge();
        queue
    }

    fn turn(queue: &Queue, count: usize) -> Option<Turn<'_>> {
        queue.turn(count).now_or_never()
    }

    #[test]
    fn who_comes_late_waits_until_enough_has_left_and_is_not_overtaken() {
        let queue = queue();
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
    fn in_haste_a_small_step_is_all_that_waits_and_whatever_it_took_comes_back() {
        let queue = queue();
        turn(&queue, 1000).unwrap().take(1000);
        queue.steps().hurry();
        let step = queue.steps().one() as usize;
        assert!(turn(&queue, step).is_none(), "something waits");
        queue.left(1000);
        turn(&queue, step).unwrap().take(step);
        assert!(turn(&queue, 1).is_none());
        queue.steps().enlarge();
        assert!(turn(&queue, 1).is_none());
        queue.left(step / 2);
        // What was handed over in haste and not, and leaves in parts that divide nothing.
        turn(&queue, 999).unwrap().take(999);
        for _ in 0..step {
            queue.left(7);
        }
        assert_eq!(queue.room.available_permits(), MOST);
    }

    #[test]
    fn what_a_stream_took_along_comes_back_when_the_link_rests() {
        let queue = queue();
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
        let queue = queue();
        turn(&queue, 5).unwrap().take(5);
        queue.left(1000);
        queue.rests();
        assert_eq!(queue.bytes.load(Relaxed), 0);
        assert_eq!(queue.room.available_permits(), MOST);
    }
}
