//! The rate of bytes of one client, shared by its tunnels.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Bucket;

/// How far a client that was idle may run ahead of its rate, so that a small exchange passes without a wait.
const AHEAD: Duration = Duration::from_millis(250);

/// A rate in bytes per second that several tunnels share.
#[derive(Debug, Default)]
pub struct Pace {
    rate: AtomicU64,
    bucket: Mutex<Bucket>,
}

impl Pace {
    /// Sets the rate, in bytes per second; 0 for no limit.
    pub fn set(&self, rate: u64) {
        self.rate.store(rate, Relaxed);
    }

    /// Counts `count` bytes that have passed. Returns the time until which the next ones have to wait, if they have to.
    pub fn passed(&self, count: usize) -> Option<Instant> {
        let rate = self.rate.load(Relaxed);
        if rate == 0 {
            return None;
        }
        let nanos = u128::from(count as u64) * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let ahead = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(cost, now.into_std());
        (ahead > AHEAD).then(|| now + (ahead - AHEAD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_pass_at_an_even_rate_and_no_more_than_a_burst_is_saved() {
        let pace = Pace::default();
        assert_eq!(pace.passed(1 << 30), None, "without a limit");
        pace.set(1000);
        assert_eq!(pace.passed(250), None);
        let start = Instant::now();
        assert_eq!(pace.passed(1000), Some(start + Duration::from_secs(1)));
        tokio::time::advance(Duration::from_secs(3600)).await;
        let later = Instant::now();
        assert_eq!(
            pace.passed(1250),
            Some(later + Duration::from_secs(1)),
            "an hour saves no more than a burst"
        );
    }

    #[test]
    fn no_number_of_bytes_overflows() {
        let pace = Pace::default();
        pace.set(1);
        for _ in 0..3 {
            assert!(pace.passed(usize::try_from(u32::MAX).unwrap()).is_some());
        }
    }
}
