//! Connections of apps whose request is not complete yet. Their number is bounded; above the bound the oldest one is
//! closed, so that silent connections keep nobody out. The same happens while memory is short, so that unfinished requests keep
//! nobody out either.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::memory::Budget;

/// How long an app may take to send its request. Bytes that arrive slowly do not extend it.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// All handshakes in progress.
pub struct Handshakes {
    most: usize,
    memory: Arc<Budget>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By number; the oldest has the smallest one.
    by_age: BTreeMap<u64, CancellationToken>,
}

/// One handshake; dropping it ends it.
pub struct Handshake {
    all: Arc<Handshakes>,
    number: u64,
    over: CancellationToken,
    deadline: Instant,
}

impl Handshakes {
    /// Allows at most `most` handshakes at a time, and fewer while this memory is short.
    pub fn new(most: usize, memory: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { most, memory, waiting: Mutex::default() })
    }

    /// Begins a handshake, and cancels the oldest ones if there are too many.
    pub fn begin(self: &Arc<Self>) -> Handshake {
        let over = CancellationToken::new();
        let mut waiting = self.lock();
        // More than begin, so that memory is freed even while others begin all the time.
        let too_many =
            if self.memory.is_short() { 2 } else { usize::from(waiting.by_age.len() >= self.most) };
        for _ in 0..too_many {
            if let Some((_, oldest)) = waiting.by_age.pop_first() {
                oldest.cancel();
            }
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(number, over.clone());
        Handshake { all: self.clone(), number, over, deadline: Instant::now() + HANDSHAKE }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handshake {
    /// Runs one step of the handshake; `None` when the time for all steps is over, or a newer handshake needs the room.
    pub async fn within<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = timeout_at(self.deadline, step) => done.ok(),
            () = self.over.cancelled() => None,
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.all.lock().by_age.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_makes_room_and_a_finished_one_needs_none() {
        let handshakes = Handshakes::new(2, Budget::new(1 << 20));
        let (oldest, done) = (handshakes.begin(), handshakes.begin());
        drop(done);
        let second = handshakes.begin();
        assert!(!oldest.over.is_cancelled());
        let _third = handshakes.begin();
        assert_eq!(oldest.within(pending::<()>()).await, None);
        assert_eq!(oldest.within(async { 1 }).await, Some(1), "a step that is ready is still taken");
        assert!(!second.over.is_cancelled());
        assert_eq!(handshakes.lock().by_age.len(), 2);
    }

    #[test]
    fn while_memory_is_short_two_make_room_for_one() {
        let memory = Budget::new(1 << 20);
        let handshakes = Handshakes::new(100, memory.clone());
        let before = [(); 3].map(|()| handshakes.begin());
        let held = [(); 64].map(|()| memory.account());
        assert!(memory.is_short());
        let newest = handshakes.begin();
        assert_eq!(before.each_ref().map(|one| one.over.is_cancelled()), [true, true, false]);
        drop(held);
        let _next = handshakes.begin();
        assert!(!before[2].over.is_cancelled() && !newest.over.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn all_steps_have_one_deadline() {
        let handshake = Handshakes::new(1, Budget::new(1 << 20)).begin();
        let start = Instant::now();
        assert_eq!(handshake.within(tokio::time::sleep(HANDSHAKE / 2)).await, Some(()));
        assert_eq!(handshake.within(tokio::time::sleep(HANDSHAKE)).await, None);
        assert_eq!(start.elapsed(), HANDSHAKE);
    }
}
