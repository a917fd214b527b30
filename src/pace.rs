//! An even pace for what may be asked as often as anybody likes: token buckets, each kept as one moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far one who was quiet may run ahead of a pace in bytes: a small exchange passes without a wait.
const AHEAD: Duration = Duration::from_millis(250);

/// How far somebody is ahead of an even pace: the moment at which all that was taken would have been earned (the
/// generic cell rate algorithm, ITU-T I.371).
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket(Option<Instant>);

impl Bucket {
    /// Takes what is earned in `cost`; gives how far ahead of the pace that is.
    pub fn take(&mut self, cost: Duration, now: Instant) -> Duration {
        let earned = self.0.map_or(now, |earned| earned.max(now)) + cost;
        self.0 = Some(earned);
        earned - now
    }

    /// How far ahead of the pace the last one left it.
    pub fn ahead(&self, now: Instant) -> Duration {
        self.0.map_or(Duration::ZERO, |earned| earned.saturating_duration_since(now))
    }
}

/// A pace in bytes a second that several tunnels keep together.
#[derive(Debug, Default)]
pub struct Pace {
    rate: AtomicU64,
    bucket: Mutex<Bucket>,
}

impl Pace {
    /// Bytes a second from now on; 0 for as fast as it goes.
    pub fn set(&self, rate: u64) {
        self.rate.store(rate, Relaxed);
    }

    /// Notes that `count` bytes have passed; gives until when the next ones have to wait, if they have to.
    pub fn passed(&self, count: usize) -> Option<Instant> {
        let rate = self.rate.load(Relaxed);
        if rate == 0 {
            return None;
        }
        let nanos = u128::from(count as u64) * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let ahead = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(cost, now);
        (ahead > AHEAD).then(|| now + (ahead - AHEAD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_taken_is_earned_at_an_even_pace_and_no_more_than_a_burst_is_saved() {
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
    fn nobody_can_take_so_much_that_it_overflows() {
        let pace = Pace::default();
        pace.set(1);
        for _ in 0..3 {
            assert!(pace.passed(usize::try_from(u32::MAX).unwrap()).is_some());
        }
    }
}
