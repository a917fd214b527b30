//! Rates of what strangers can make a node do, for each source address. Bounded in memory.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::Bucket;

/// How many sources are distinguished at a time. Beyond that, the source that has been silent longest is forgotten.
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

/// The same rate for each source. Sources are told apart by `Source`, an address unless said otherwise.
#[derive(Debug)]
pub struct PerSource<Source = IpAddr> {
    rate: Rate,
    buckets: HashMap<Source, Used>,
    /// The sources by when they were last heard, the longest silent first.
    silent: BTreeMap<u64, Source>,
    /// Counts what was taken.
    turn: u64,
}

/// What one source has taken.
#[derive(Debug, Default)]
struct Used {
    bucket: Bucket,
    /// When it was last heard, as counted by [`PerSource::turn`].
    turn: u64,
    /// How many were refused since the last one that passed.
    refused: u64,
}

impl<Source: Copy + Eq + Hash> PerSource<Source> {
    /// Sources that have taken nothing.
    pub fn new(rate: Rate) -> Self {
        Self { rate, buckets: HashMap::new(), silent: BTreeMap::new(), turn: 0 }
    }

    /// Takes one of `source`; false when none is left.
    pub fn take(&mut self, source: Source, now: Instant) -> bool {
        self.take_counted(source, now).is_some()
    }

    /// As [`PerSource::take`], but returns how many were refused since the last one that passed.
    pub fn take_counted(&mut self, source: Source, now: Instant) -> Option<u64> {
        if self.buckets.len() >= MAX_SOURCES
            && !self.buckets.contains_key(&source)
            && let Some((_, longest)) = self.silent.pop_first()
        {
            self.buckets.remove(&longest);
        }
        self.turn += 1;
        let used = self.buckets.entry(source).or_default();
        self.silent.remove(&used.turn);
        used.turn = self.turn;
        self.silent.insert(self.turn, source);
        if self.rate.take(&mut used.bucket, now) {
            return Some(std::mem::take(&mut used.refused));
        }
        used.refused += 1;
        None
    }

    /// Returns one that was taken for something that succeeded.
    pub fn give_back(&mut self, source: Source) {
        if let Some(used) = self.buckets.get_mut(&source) {
            used.bucket.give_back(self.rate.interval);
        }
    }
}

/// What one machine elsewhere can send from: an IPv4 address, or the /64 of an IPv6 address, since a network gives each of
/// its machines at least that.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_one_each_interval_and_sources_do_not_share() {
        let mut rate = PerSource::<IpAddr>::new(Rate::new(3, Duration::from_millis(100)));
        let (one, two) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let start = Instant::now();
        assert_eq!([0; 5].map(|_| rate.take(one, start)), [true, true, true, false, false]);
        assert!(rate.take(two, start));
        let later = start + Duration::from_millis(150);
        assert_eq!([rate.take(one, later), rate.take(one, later)], [true, false]);
    }

    #[test]
    fn what_is_given_back_is_never_more_than_the_burst() {
        let mut rate = PerSource::<IpAddr>::new(Rate::new(2, Duration::from_secs(60)));
        let (one, now) = ([10, 0, 0, 1].into(), Instant::now());
        for _ in 0..10 {
            assert!(rate.take(one, now));
            rate.give_back(one);
        }
        rate.give_back(one);
        assert_eq!([0; 3].map(|_| rate.take(one, now)), [true, true, false]);
    }

    #[test]
    fn the_table_is_bounded_and_new_sources_pass_however_many_are_used_up() {
        let mut rate = PerSource::new(Rate::new(1, Duration::from_secs(3600)));
        let now = Instant::now();
        for n in 0..3 * MAX_SOURCES {
            let source = IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
            assert!(rate.take(source, now), "source {n} is refused for what others have taken");
        }
        assert_eq!((rate.buckets.len(), rate.silent.len()), (MAX_SOURCES, MAX_SOURCES));
    }

    #[test]
    fn the_source_that_has_been_silent_longest_is_forgotten_first() {
        let mut rate = PerSource::new(Rate::new(1, Duration::from_secs(3600)));
        let now = Instant::now();
        let source = |n: usize| IpAddr::from(u32::try_from(n).unwrap().to_be_bytes());
        (0..MAX_SOURCES).for_each(|n| assert!(rate.take(source(n), now)));
        assert!(!rate.take(source(0), now));
        assert!(rate.take(source(MAX_SOURCES), now));
        assert!(!rate.take(source(0), now), "heard again, and still known");
        assert!(rate.take(source(1), now), "silent longest, and forgotten");
    }

    #[test]
    fn a_machine_has_one_ipv4_address_or_a_whole_64() {
        let network = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
        assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    }
}
