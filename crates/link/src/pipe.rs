//! A stream of plain requests of this node's own apps to its own gateway: what a tunnel of a link is for clients.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use laneway_limits::buffer_pool::memory_of;
use laneway_limits::memory::{Account, Tally};

/// How many pieces wait in each direction at most, besides its end.
const QUEUED: usize = 2;

/// The other end has gone without ending its direction.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the gateway of this node gave up the request")]
pub struct Broken;

/// One message of a direction.
#[derive(Debug)]
enum Item {
    /// Bytes, whose memory is counted until they are taken.
    Piece(Bytes, #[expect(dead_code, reason = "its drop ends the count")] Tally),
    /// The direction ends in good order.
    End,
}

/// One end of a stream. Dropping it breaks the other end, unless it has ended its direction.
#[derive(Debug)]
pub struct Pipe {
    /// Towards the other end.
    pub sender: Sender,
    /// From the other end.
    pub receiver: Receiver,
}

/// The sending direction.
#[derive(Debug)]
pub struct Sender {
    items: mpsc::Sender<Item>,
    account: Arc<Account>,
}

/// The receiving direction.
#[derive(Debug)]
pub struct Receiver {
    items: mpsc::Receiver<Item>,
    /// What [`Receiver::is_stale`] has found.
    first: Option<Item>,
    has_ended: bool,
}

impl Pipe {
    /// Both ends of a stream. What it holds is charged to `account`.
    #[must_use]
    pub fn pair(account: &Arc<Account>) -> (Self, Self) {
        let (to_right, from_left) = mpsc::channel(QUEUED + 1);
        let (to_left, from_right) = mpsc::channel(QUEUED + 1);
        let end = |items, from| Self {
            sender: Sender { items, account: account.clone() },
            receiver: Receiver { items: from, first: None, has_ended: false },
        };
        (end(to_right, from_right), end(to_left, from_left))
    }

    /// Whose memory it holds.
    #[must_use]
    pub fn account(&self) -> &Arc<Account> {
        &self.sender.account
    }
}

impl Sender {
    /// Sends bytes, and waits while the other end does not take them.
    ///
    /// # Errors
    /// When the other end is gone.
    pub async fn send(&mut self, bytes: Bytes) -> Result<(), Broken> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut tally = Tally::of(&self.account);
        tally.set(memory_of(bytes.len()));
        // The second place is left for the end, which does not wait.
        let mut places = self.items.reserve_many(2).await.map_err(|_gone| Broken)?;
        places.next().ok_or(Broken)?.send(Item::Piece(bytes, tally));
        Ok(())
    }

    /// Ends this direction in good order, once.
    pub fn finish(&mut self) {
        // There is room for it. The other end may be gone.
        let _ = self.items.try_send(Item::End);
    }

    /// Waits until the other end is gone.
    pub async fn broken(&self) {
        self.items.closed().await;
    }
}

impl Receiver {
    /// The next bytes; `None` at the end in good order.
    ///
    /// # Errors
    /// When the other end has gone before it ended its direction.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.has_ended {
            return Ok(None);
        }
        let item = match self.first.take() {
            Some(item) => item,
            None => self.items.recv().await.ok_or(Broken)?,
        };
        match item {
            Item::Piece(bytes, _) => Ok(Some(bytes)),
            Item::End => {
                self.has_ended = true;
                Ok(None)
            }
        }
    }

    /// Whether anything has come, or the end: an idle stream cannot be used again then.
    pub fn is_stale(&mut self) -> bool {
        if self.first.is_none() && !self.has_ended {
            match self.items.try_recv() {
                Ok(item) => self.first = Some(item),
                Err(mpsc::error::TryRecvError::Empty) => return false,
                Err(mpsc::error::TryRecvError::Disconnected) => {}
            }
        }
        true
    }

    /// Waits until [`Receiver::is_stale`] would be true.
    pub async fn stale(&mut self) {
        if self.first.is_none() && !self.has_ended {
            self.first = self.items.recv().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use laneway_limits::memory::Budget;

    #[tokio::test]
    async fn bytes_are_charged_until_they_are_taken_and_an_end_is_no_break() {
        let account = Budget::new(1 << 20).account();
        let (mut one, mut other) = Pipe::pair(&account);
        assert!(!other.receiver.is_stale());
        one.sender.send(Bytes::from_static(b"hello")).await.unwrap();
        assert!(account.held() >= 5 && other.receiver.is_stale());
        assert_eq!(other.receiver.next().await.unwrap().unwrap(), "hello");
        assert_eq!(account.held(), 0);
        one.sender.finish();
        drop(one);
        assert_eq!(other.receiver.next().await.unwrap(), None);
        other.sender.broken().await;
        assert!(other.sender.send(Bytes::from_static(b"x")).await.is_err());

        let (one, mut other) = Pipe::pair(&account);
        drop(one);
        other.receiver.stale().await;
        assert!(other.receiver.next().await.is_err());
    }

    #[tokio::test]
    async fn a_full_stream_ends_in_good_order_too() {
        let (mut one, mut other) = Pipe::pair(&Budget::new(1 << 20).account());
        for _ in 0..QUEUED {
            one.sender.send(Bytes::from_static(b"x")).await.unwrap();
        }
        assert!(
            one.sender.send(Bytes::from_static(b"y")).now_or_never().is_none(),
            "no more than that waits"
        );
        one.sender.finish();
        drop(one);
        for _ in 0..QUEUED {
            assert_eq!(other.receiver.next().await.unwrap().unwrap(), "x");
        }
        assert_eq!(other.receiver.next().await.unwrap(), None);
    }
}
