//! Token buckets for what strangers can make this node do. Bounded in memory.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How many sources are told apart. When there are more, the oldest knowledge is dropped.
const MOST_SOURCES: usize = 4096;

/// A token bucket for each source address.
pub(crate) struct PerSource {
    burst: u32,
    refill: Duration,
    buckets: HashMap<IpAddr, Bucket>,
}

struct Bucket {
    tokens: u32,
    since: Instant,
}

impl PerSource {
    /// `burst` at once, and one more each `refill`.
    pub(crate) fn new(burst: u32, refill: Duration) -> Self {
        Self { burst, refill, buckets: HashMap::new() }
    }

    /// Takes one token of `source`; false when there is none.
    pub(crate) fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        if self.buckets.len() >= MOST_SOURCES && !self.buckets.contains_key(&source) {
            let full_after = self.refill * self.burst;
            self.buckets.retain(|_, bucket| now.duration_since(bucket.since) < full_after);
            if self.buckets.len() >= MOST_SOURCES {
                return false;
            }
        }
        let bucket = self.buckets.entry(source).or_insert(Bucket { tokens: self.burst, since: now });
        let passed = now.duration_since(bucket.since).as_nanos() / self.refill.as_nanos();
        let earned = u32::try_from(passed).unwrap_or(u32::MAX);
        if earned > 0 {
            bucket.tokens = bucket.tokens.saturating_add(earned).min(self.burst);
            bucket.since = now;
        }
        let granted = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_each_interval_and_sources_do_not_share() {
        let mut rate = PerSource::new(3, Duration::from_millis(100));
        let (one, two) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let start = Instant::now();
        assert_eq!([0; 5].map(|_| rate.take(one, start)), [true, true, true, false, false]);
        assert!(rate.take(two, start));
        let later = start + Duration::from_millis(150);
        assert_eq!([rate.take(one, later), rate.take(one, later)], [true, false]);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut rate = PerSource::new(1, Duration::from_secs(1));
        let now = Instant::now();
        for n in 0..10_000_u32 {
            rate.take(IpAddr::from(n.to_be_bytes()), now);
        }
        assert!(rate.buckets.len() <= MOST_SOURCES);
        assert!(rate.take([1, 1, 1, 1].into(), now + Duration::from_secs(5)));
    }
}
