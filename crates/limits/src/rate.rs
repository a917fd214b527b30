//! Rates of what strangers can make a node do, for each source address. Bounded in memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Bucket;

/// How many sources are distinguished at a time. New ones are refused while all of these have used up something.
const MAX_SOURCES: usize = 4096;

/// An even rate with bursts.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// How many may pass at once.
    pub burst: u32,
    /// The interval after which one more may pass.
    pub interval: Duration,
}

impl Rate {
    /// A rate of one per `interval`, of which `burst` may pass at once.
    pub const fn new(burst: u32, interval: Duration) -> Self {
        Self { burst, interval }
    }

    /// Takes one from `bucket`; false when none is left.
    pub fn take(self, bucket: &mut Bucket, now: Instant) -> bool {
        bucket.take_within(self.interval * self.burst, self.interval, now)
    }
}

/// The same rate for each source address.
#[derive(Debug)]
pub struct PerSource {
    rate: Rate,
    buckets: HashMap<IpAddr, Bucket>,
}

impl PerSource {
    /// Before anything has passed.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: HashMap::new() }
    }

    /// Takes one of `source`; false when none is left.
    pub fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= MAX_SOURCES && !self.buckets.contains_key(&source) {
            self.buckets.retain(|_, bucket| !bucket.ahead(now).is_zero());
            if self.buckets.len() >= MAX_SOURCES {
                return false;
            }
        }
        self.rate.take(self.buckets.entry(source).or_default(), now)
    }

    /// Returns one that was taken for something that succeeded.
    pub fn give_back(&mut self, source: IpAddr) {
        if let Some(bucket) = self.buckets.get_mut(&source) {
            bucket.give_back(self.rate.interval);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_each_interval_and_sources_do_not_share() {
        let mut rate = PerSource::new(Rate::new(3, Duration::from_millis(100)));
        let (one, two) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let start = Instant::now();
        assert_eq!([0; 5].map(|_| rate.take(one, start)), [true, true, true, false, false]);
        assert!(rate.take(two, start));
        let later = start + Duration::from_millis(150);
        assert_eq!([rate.take(one, later), rate.take(one, later)], [true, false]);
    }

    #[test]
    fn what_is_given_back_is_never_more_than_the_burst() {
        let mut rate = PerSource::new(Rate::new(2, Duration::from_secs(60)));
        let (one, now) = ([10, 0, 0, 1].into(), Instant::now());
        for _ in 0..10 {
            assert!(rate.take(one, now));
            rate.give_back(one);
        }
        rate.give_back(one);
        assert_eq!([0; 3].map(|_| rate.take(one, now)), [true, true, false]);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut rate = PerSource::new(Rate::new(1, Duration::from_secs(1)));
        let now = Instant::now();
        for n in 0..10_000_u32 {
            rate.take(IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(rate.buckets.len() <= MAX_SOURCES);
        assert!(rate.take([1, 1, 1, 1].into(), now + Duration::from_secs(5)));
    }
}
