//! What one source delivers, measured while it has something to deliver.

use std::time::{Duration, Instant};

/// The time of one sample.
const SAMPLE: Duration = Duration::from_millis(250);
/// How much a new sample counts beside all that were before.
const WEIGHT: f64 = 0.3;
/// After this time without a full sample the rate falls.
const SILENCE: Duration = Duration::from_millis(500);

/// A busy time that is shorter than a sample says something only if this many bytes came in it.
const ENOUGH: u64 = 256 * 1024;
/// After this time without anything to do the rate is forgotten, so that a source that seemed too slow is measured again.
const FORGET: Duration = Duration::from_secs(10);

/// Rate and latency of one source.
#[derive(Debug, Default)]
pub(super) struct Meter {
    rate: Option<f64>,
    latency: Option<Duration>,
    /// How long an answer has been waited for in vain, while none has come.
    waited: Option<Duration>,
    /// When the sample began; `None` while the source has nothing to do.
    since: Option<Instant>,
    /// The bytes of the sample.
    bytes: u64,
    idle_since: Option<Instant>,
}

impl Meter {
    /// The source has something to do from now on.
    pub(super) fn busy(&mut self, now: Instant) {
        self.rate = self.rate(now);
        (self.since, self.bytes, self.idle_since) = (Some(now), 0, None);
    }

    /// The source has nothing to do from now on.
    pub(super) fn idle(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            let passed = now.saturating_duration_since(since);
            if passed >= SAMPLE / 2 || self.bytes >= ENOUGH {
                self.sample(passed);
            }
            self.idle_since = Some(now);
        }
        self.bytes = 0;
    }

    /// The first bytes of an answer took this long.
    pub(super) fn began(&mut self, after: Duration, now: Instant) {
        self.latency = Some(self.latency.map_or(after, |before| (before * 3 + after) / 4));
        if self.rate.is_none() && self.bytes == 0 {
            self.since = Some(now);
        }
    }

    /// An answer has not come for this long, and is not wanted any more.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waited = self.waited.max(Some(time));
    }

    /// Bytes have come.
    pub(super) fn add(&mut self, count: u64, now: Instant) {
        self.bytes += count;
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(since);
        if passed >= SAMPLE {
            self.sample(passed);
            (self.since, self.bytes) = (Some(now), 0);
        }
    }

    fn sample(&mut self, passed: Duration) {
        if self.bytes == 0 || passed.is_zero() {
            return;
        }
        let sample = self.bytes as f64 / passed.as_secs_f64();
        self.rate = Some(self.rate.map_or(sample, |rate| rate + (sample - rate) * WEIGHT));
    }

    /// The bytes per second, if they were measured lately. They fall while the source that should deliver is silent.
    pub(super) fn rate(&self, now: Instant) -> Option<f64> {
        let rate = self.rate?;
        if self.idle_since.is_some_and(|since| now.saturating_duration_since(since) >= FORGET) {
            return None;
        }
        let passed = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        if passed < SILENCE {
            return Some(rate);
        }
        let (before, passed) = (SAMPLE.as_secs_f64(), passed.as_secs_f64());
        Some(rate.min((self.bytes as f64 + rate * before) / (passed + before)))
    }

    /// How long the first bytes of an answer take; a lower bound before any has come.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency.or(self.waited)
    }
}
