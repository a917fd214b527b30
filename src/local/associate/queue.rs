//! The datagrams of an app that wait for one destination: a bounded queue that drops the oldest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::link::datagrams::{BATCH, Batch};
use crate::memory::Account;
use crate::wire::capsule;

/// Maximum number of datagrams that wait; a flight of any protocol fits.
pub(super) const MOST_WAITING: usize = 128;
/// Maximum of their payload, in bytes.
pub(super) const MOST_BYTES: usize = 128 * 1024;

/// The queue. One task reads from it.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    closed: CancellationToken,
    account: Arc<Account>,
}

#[derive(Debug, Default)]
struct Waiting {
    datagrams: VecDeque<Bytes>,
    bytes: usize,
}

impl Queue {
    /// An empty queue, whose bytes are charged to `account`.
    pub(super) fn new(account: Arc<Account>) -> Self {
        Self { waiting: Mutex::default(), filled: Notify::new(), closed: CancellationToken::new(), account }
    }

    /// Appends a datagram; returns how many were dropped to make room.
    pub(super) fn push(&self, payload: Bytes) -> u64 {
        let mut waiting = self.lock();
        let mut dropped = 0;
        while waiting.datagrams.len() >= MOST_WAITING || waiting.bytes + payload.len() > MOST_BYTES {
            let Some(oldest) = waiting.datagrams.pop_front() else { break };
            self.discharge(&mut waiting, &oldest);
            dropped += 1;
        }
        self.account.charge(payload.len());
        waiting.bytes += payload.len();
        waiting.datagrams.push_back(payload);
        self.filled.notify_one();
        dropped
    }

    /// Waits until there is a datagram; false when the queue is closed.
    pub(super) async fn ready(&self) -> bool {
        while !self.closed.is_cancelled() {
            if !self.lock().datagrams.is_empty() {
                return true;
            }
            tokio::select! {
                () = self.filled.notified() => {}
                () = self.closed.cancelled() => {}
            }
        }
        false
    }

    /// Waits until the queue is closed, even while it has datagrams.
    pub(super) async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Takes the oldest datagram.
    pub(super) fn pop(&self) -> Option<Bytes> {
        let mut waiting = self.lock();
        let oldest = waiting.datagrams.pop_front()?;
        self.discharge(&mut waiting, &oldest);
        Some(oldest)
    }

    /// Takes the oldest ones together, at most about [`BATCH`] bytes.
    pub(super) fn batch(&self) -> Batch {
        let (mut capsules, mut payload, mut count) = (BytesMut::new(), 0, 0);
        while capsules.len() < BATCH
            && let Some(oldest) = self.pop()
        {
            capsule::encode(&oldest, &mut capsules);
            payload += oldest.len();
            count += 1;
        }
        Batch { capsules: capsules.freeze(), payload, count }
    }

    /// Drops all datagrams; returns how many there were.
    pub(super) fn clear(&self) -> u64 {
        let mut waiting = self.lock();
        let dropped = waiting.datagrams.len() as u64;
        self.account.release(waiting.bytes);
        (waiting.datagrams, waiting.bytes) = (VecDeque::new(), 0);
        dropped
    }

    /// Closes the queue: its datagrams are not sent any more.
    pub(super) fn close(&self) {
        self.closed.cancel();
    }

    /// The account that its bytes are charged to.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    fn discharge(&self, waiting: &mut Waiting, oldest: &Bytes) {
        waiting.bytes -= oldest.len();
        self.account.release(oldest.len());
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::memory::{Budget, TUNNEL};

    #[test]
    fn what_is_too_many_or_too_much_drops_the_oldest() {
        let budget = Budget::new(1 << 30);
        let queue = Queue::new(budget.account());
        for number in 0..MOST_WAITING {
            assert_eq!(queue.push(Bytes::from(vec![u8::try_from(number).unwrap()])), 0);
        }
        assert_eq!(queue.push(Bytes::from("x")), 1);
        assert_eq!(queue.pop().unwrap(), [1].as_slice());
        assert_eq!(queue.push(Bytes::from(vec![0; MOST_BYTES - 1])), 126, "all but the last");
        assert_eq!(budget.used(), TUNNEL + MOST_BYTES);
        assert_eq!(queue.push(Bytes::from(vec![0; 10])), 2);
        assert_eq!(queue.batch().payload, 10);
        assert_eq!(budget.used(), TUNNEL);
        queue.push(Bytes::from("y"));
        drop(queue);
        assert_eq!(budget.used(), 0, "a dropped queue is not charged any more");
    }

    #[test]
    fn who_waits_is_told_of_a_datagram_and_of_the_end() {
        let queue = Queue::new(Budget::new(1 << 30).account());
        let mut waiting = Box::pin(queue.ready());
        assert_eq!((&mut waiting).now_or_never(), None);
        queue.push(Bytes::new());
        assert_eq!(waiting.now_or_never(), Some(true));
        assert_eq!(queue.ready().now_or_never(), Some(true));
        assert_eq!(queue.closed().now_or_never(), None);
        queue.close();
        assert_eq!(queue.ready().now_or_never(), Some(false));
        assert_eq!(queue.closed().now_or_never(), Some(()));
    }
}
