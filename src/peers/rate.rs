//! Token buckets for what strangers can make this node do. Bounded in memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How many sources are told apart. When there are more, the oldest knowledge is dropped.
const MOST_SOURCES: usize = 4096;

/// How many at once, and how soon there is one more.
#[derive(Clone, Copy)]
pub(crate) struct Rate(pub(crate) u32, pub(crate) Duration);

/// A token bucket for each source address.
pub(crate) struct PerSource {
    rate: Rate,
    buckets: HashMap<IpAddr, Bucket>,
}

/// A token bucket.
pub(crate) struct Bucket {
    tokens: u32,
    since: Instant,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(Rate(burst, _): Rate, now: Instant) -> Self {
        Self { tokens: burst, since: now }
    }

    /// Takes one token; false when there is none.
    pub(crate) fn take(&mut self, Rate(burst, refill): Rate, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_nanos() / refill.as_nanos();
        let earned = u32::try_from(passed).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(burst);
            self.since = now;
        }
        let granted = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        granted
    }
}

impl PerSource {
    /// Every source has the same.
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, buckets: HashMap::new() }
    }

    /// Takes one token of `source`; false when there is none.
    pub(crate) fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let rate = self.rate;
        if self.buckets.len() >= MOST_SOURCES && !self.buckets.contains_key(&source) {
            let full_after = rate.1 * rate.0;
            self.buckets.retain(|_, bucket| now.duration_since(bucket.since) < full_after);
            if self.buckets.len() >= MOST_SOURCES {
                return false;
            }
        }
        self.buckets.entry(source).or_insert_with(|| Bucket::new(rate, now)).take(rate, now)
    }

    /// Gives a token back that was taken for something that turned out well.
    pub(crate) fn give_back(&mut self, source: IpAddr) {
        if let Some(bucket) = self.buckets.get_mut(&source) {
            bucket.tokens = bucket.tokens.saturating_add(1).min(self.rate.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_each_interval_and_sources_do_not_share() {
        let mut rate = PerSource::new(Rate(3, Duration::from_millis(100)));
        let (one, two) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let start = Instant::now();
        assert_eq!([0; 5].map(|_| rate.take(one, start)), [true, true, true, false, false]);
        assert!(rate.take(two, start));
        let later = start + Duration::from_millis(150);
        assert_eq!([rate.take(one, later), rate.take(one, later)], [true, false]);
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_is_never_more_than_the_burst() {
        let mut rate = PerSource::new(Rate(2, Duration::from_secs(60)));
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
        let mut rate = PerSource::new(Rate(1, Duration::from_secs(1)));
        let now = Instant::now();
        for n in 0..10_000_u32 {
            rate.take(IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(rate.buckets.len() <= MOST_SOURCES);
        assert!(rate.take([1, 1, 1, 1].into(), now + Duration::from_secs(5)));
    }
}
