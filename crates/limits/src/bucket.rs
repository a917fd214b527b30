//! A token bucket whose whole state is one moment in time.

use std::time::{Duration, Instant};

/// How far somebody is ahead of an even rate: the moment at which everything taken so far is earned (the generic cell rate
/// algorithm, ITU-T I.371). After a time without taking anything, a burst may be taken, whose size the caller bounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket(Option<Instant>);

impl Bucket {
    /// Takes an amount that is earned in the time `cost`. Returns how far ahead of the rate that is.
    pub fn take(&mut self, cost: Duration, now: Instant) -> Duration {
        let earned = self.0.map_or(now, |earned| earned.max(now));
        // A sum that overflows is far beyond any wait: the amount is then not counted.
        let earned = earned.checked_add(cost).unwrap_or(earned);
        self.0 = Some(earned);
        earned - now
    }

    /// Takes an amount that is earned in the time `cost`, unless that is more than `burst` ahead of the rate.
    pub fn take_within(&mut self, burst: Duration, cost: Duration, now: Instant) -> bool {
        let is_granted = self.ahead(now) + cost <= burst;
        if is_granted {
            self.take(cost, now);
        }
        is_granted
    }

    /// Gives back an amount that is earned in the time `cost`, which was taken before.
    pub fn give_back(&mut self, cost: Duration) {
        self.0 = self.0.and_then(|earned| earned.checked_sub(cost));
    }

    /// How far ahead of the rate the last amount left it; zero when everything is earned.
    pub fn ahead(&self, now: Instant) -> Duration {
        self.0.map_or(Duration::ZERO, |earned| earned.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_granted_and_then_what_is_earned() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let (second, burst) = (Duration::from_secs(1), Duration::from_secs(3));
        let mut take = |after: u32| bucket.take_within(burst, second, start + second * after / 2);
        assert_eq!([0, 0, 0, 0, 1, 2, 2].map(&mut take), [true, true, true, false, false, true, false]);
        assert_eq!(
            [100, 100, 100, 100].map(&mut take),
            [true, true, true, false],
            "no more is saved than a burst"
        );
    }

    #[test]
    fn what_was_given_back_can_be_taken_again() {
        let (mut bucket, now) = (Bucket::default(), Instant::now());
        let second = Duration::from_secs(1);
        for _ in 0..10 {
            assert!(bucket.take_within(second, second, now));
            bucket.give_back(second);
        }
        assert!(bucket.ahead(now).is_zero());
    }
}
