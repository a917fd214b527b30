//! Apps that have not said yet what they want. There may be so many of them; when there are more, the one that has
//! waited the longest makes room, so that nobody is kept out by others that say nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// An app must have said what it wants so long after it connected. Slow bytes do not extend it.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// All handshakes in progress.
pub struct Handshakes {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// By age: the oldest has the smallest number.
    by_age: BTreeMap<u64, CancellationToken>,
}

/// One handshake, until it is dropped.
pub struct Handshake {
    all: Arc<Handshakes>,
    number: u64,
    over: CancellationToken,
    deadline: Instant,
}

impl Handshakes {
    /// At most so many at a time.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, waiting: Mutex::default() })
    }

    /// One more, for which the oldest goes if need be.
    pub fn begin(self: &Arc<Self>) -> Handshake {
        let over = CancellationToken::new();
        let mut waiting = self.lock();
        if waiting.by_age.len() >= self.most
            && let Some((_, oldest)) = waiting.by_age.pop_first()
        {
            oldest.cancel();
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
    /// Does `step` of it; `None` when the time for all steps is over, or somebody else needs the room.
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
    async fn the_oldest_makes_room_and_who_is_done_needs_none() {
        let handshakes = Handshakes::new(2);
        let (oldest, done) = (handshakes.begin(), handshakes.begin());
        drop(done);
        let second = handshakes.begin();
        assert!(!oldest.over.is_cancelled());
        let _third = handshakes.begin();
        assert_eq!(oldest.within(pending::<()>()).await, None);
        assert_eq!(oldest.within(async { 1 }).await, Some(1), "what is there already is taken");
        assert!(!second.over.is_cancelled());
        assert_eq!(handshakes.lock().by_age.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn all_steps_have_one_deadline() {
        let handshake = Handshakes::new(1).begin();
        let start = Instant::now();
        assert_eq!(handshake.within(tokio::time::sleep(HANDSHAKE / 2)).await, Some(()));
        assert_eq!(handshake.within(tokio::time::sleep(HANDSHAKE)).await, None);
        assert_eq!(start.elapsed(), HANDSHAKE);
    }
}
