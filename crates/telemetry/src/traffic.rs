//! Bytes of connections, counted while they pass.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many bytes passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the socket into the tunnel.
    pub sent: u64,
    /// From the tunnel into the socket.
    pub received: u64,
}

/// Bytes that passed, as the app sees them. Bytes of a part also count in its whole.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
    whole: Option<Arc<Traffic>>,
}

impl Traffic {
    /// A part of `whole`.
    pub fn of(whole: &Arc<Self>) -> Self {
        Self { whole: Some(whole.clone()), ..Self::default() }
    }

    /// Adds bytes sent to the server.
    pub fn add_sent(&self, count: u64) {
        self.sent.fetch_add(count, Relaxed);
        self.whole.iter().for_each(|whole| whole.add_sent(count));
    }

    /// Adds bytes received from the server.
    pub fn add_received(&self, count: u64) {
        self.received.fetch_add(count, Relaxed);
        self.whole.iter().for_each(|whole| whole.add_received(count));
    }

    /// Bytes sent to the server.
    pub fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Bytes received from the server.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Bytes in both directions.
    pub fn total(&self) -> u64 {
        self.sent() + self.received()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_in_the_part_and_in_the_whole() {
        let whole = Arc::new(Traffic::default());
        let (one, other) = (Traffic::of(&whole), Traffic::of(&whole));
        one.add_sent(3);
        other.add_sent(4);
        other.add_received(10);
        assert_eq!((one.sent(), one.received(), other.total()), (3, 0, 14));
        assert_eq!((whole.sent(), whole.received(), whole.total()), (7, 10, 17));
    }
}
