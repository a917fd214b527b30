//! Turns: how many bytes the tunnels of a link have queued that its record layer has not sealed yet. The queue is so short
//! that the bytes are still in the processor's cache when they are sealed, and that small requests do not wait behind
//! megabytes. A tunnel that has more to send waits for a turn, first come, first served.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::steps::Steps;

/// How many bytes wait at most, without small reads. While steps are small each byte takes the room of several.
const MAX_QUEUED: usize = Steps::MAX_AT_ONCE;
/// Reads of up to this many bytes need no turn, so that a small request does not wait.
pub(super) const SMALL: usize = 16 * 1024;

/// The queue of one link.
#[derive(Debug)]
pub(super) struct Queue {
    steps: Steps,
    room: Semaphore,
    /// The bytes that were queued and are not sealed yet.
    bytes: AtomicUsize,
    /// How much of the room they take.
    taken: AtomicUsize,
    /// The socket did not take all that it was given.
    blocked: AtomicBool,
}

/// The right of one tunnel to queue bytes. What it does not use is returned when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    queue: &'a Queue,
    permit: SemaphorePermit<'a>,
    /// How much room one byte takes.
    weight: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            steps: Steps::default(),
            room: Semaphore::new(MAX_QUEUED),
            bytes: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
        }
    }
}

impl Queue {
    /// How many bytes are moved at a time.
    pub(super) fn steps(&self) -> &Steps {
        &self.steps
    }

    /// Waits for the turn to queue `count` bytes, at most [`MAX_QUEUED`] of them. `None` once the link has ended.
    pub(super) async fn turn(&self, count: usize) -> Option<Turn<'_>> {
        let weight = MAX_QUEUED / self.steps.at_once();
        let room = u32::try_from((count * weight).min(MAX_QUEUED)).unwrap_or(u32::MAX);
        let permit = self.room.acquire_many(room).await.ok()?;
        Some(Turn { queue: self, permit, weight })
    }

    /// Releases all tunnels that wait for a turn: nothing is sealed any more.
    pub(super) fn close(&self) {
        self.room.close();
    }

    /// Notes that `count` bytes were sealed.
    pub(super) fn sealed(&self, count: usize) {
        let (bytes, taken) = (self.bytes.load(Relaxed), self.taken.load(Relaxed));
        if count < bytes {
            // Which bytes were sealed is not known, so each counts with the mean room.
            self.free(count, taken / bytes * count);
        } else {
            self.free(bytes, taken);
        }
    }

    /// Notes whether the socket has taken all that it was given.
    pub(super) fn socket_took(&self, all: bool) {
        self.blocked.store(!all, Relaxed);
    }

    /// Notes that the link has nothing to do for now. Unless it waits for the socket, nothing is queued then: bytes that are
    /// still counted belonged to streams that have ended.
    pub(super) fn idle(&self) {
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
    /// Queues `count` bytes.
    pub(super) fn use_for(mut self, count: usize) {
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
        queue.turn(count).now_or_never().flatten()
    }

    #[test]
    fn a_turn_waits_until_enough_was_sealed_and_is_not_overtaken() {
        let queue = queue();
        turn(&queue, MAX_QUEUED).unwrap().use_for(MAX_QUEUED - 10);
        let mut large = Box::pin(queue.turn(20));
        assert!(large.as_mut().now_or_never().is_none());
        assert!(turn(&queue, 1).is_none(), "it asked later");
        queue.sealed(9);
        assert!(large.as_mut().now_or_never().is_none());
        queue.sealed(1);
        large.now_or_never().flatten().unwrap().use_for(20);
        assert!(turn(&queue, 1).is_none());
    }

    #[test]
    fn while_steps_are_small_one_of_them_waits_and_all_room_comes_back() {
        let queue = queue();
        turn(&queue, 1000).unwrap().use_for(1000);
        queue.steps().expect_small();
        let step = queue.steps().one() as usize;
        assert!(turn(&queue, step).is_none(), "something waits");
        queue.sealed(1000);
        turn(&queue, step).unwrap().use_for(step);
        assert!(turn(&queue, 1).is_none());
        queue.steps().enlarge();
        assert!(turn(&queue, 1).is_none());
        queue.sealed(step / 2);
        // Bytes of small and of large steps, sealed in parts that divide neither.
        turn(&queue, 999).unwrap().use_for(999);
        for _ in 0..step {
            queue.sealed(7);
        }
        assert_eq!(queue.room.available_permits(), MAX_QUEUED);
    }

    #[test]
    fn the_room_of_bytes_that_were_dropped_comes_back_when_the_link_is_idle() {
        let queue = queue();
        turn(&queue, MAX_QUEUED).unwrap().use_for(MAX_QUEUED);
        queue.socket_took(false);
        queue.idle();
        assert!(turn(&queue, 1).is_none(), "it waits for the socket, and so do the bytes");
        queue.socket_took(true);
        queue.idle();
        assert!(turn(&queue, MAX_QUEUED).is_some());
    }

    #[test]
    fn nobody_waits_for_a_turn_on_a_link_that_has_ended() {
        let queue = queue();
        turn(&queue, MAX_QUEUED).unwrap().use_for(MAX_QUEUED);
        let mut waiting = Box::pin(queue.turn(1));
        assert!(waiting.as_mut().now_or_never().is_none());
        queue.close();
        assert!(waiting.now_or_never().unwrap().is_none());
    }

    #[test]
    fn sealing_more_than_was_counted_does_not_add_room() {
        let queue = queue();
        turn(&queue, 5).unwrap().use_for(5);
        queue.sealed(1000);
        queue.idle();
        assert_eq!(queue.bytes.load(Relaxed), 0);
        assert_eq!(queue.room.available_permits(), MAX_QUEUED);
    }
}
