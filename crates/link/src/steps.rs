//! Steps: how many bytes a link moves at a time, in one read and in one DATA frame. Large steps cost least, because each
//! begins with a system call and often wakes a task. But a small new request waits in half a dozen places for the step that
//! is being done. So steps are large only on a link that is fast enough to be limited by the processor, and only while no
//! small requests are about.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use laneway_limits::buffer_pool;

/// The largest read and DATA frame, in bytes.
pub(super) const LARGE: u32 = buffer_pool::LARGEST;
/// The largest read and DATA frame on a slow link, or while small requests are about, in bytes.
pub(super) const SMALL: u32 = buffer_pool::SMALL;
/// How many large steps are in progress at a time. Of small steps it is one.
const AT_ONCE: u32 = 2;
/// The rate of a fast link, in bytes per microsecond, both directions together: a large step takes two milliseconds.
const FAST: u64 = 128;
/// The period over which the rate is measured, in microseconds.
const MEASURE_PERIOD: u64 = 20_000;
/// For how long steps stay small after a small request, in microseconds: more of them may follow.
const SMALL_FOR: u64 = 100_000;

/// The steps of one link, as one end sees them.
#[derive(Debug)]
pub(super) struct Steps {
    born: Instant,
    /// Until when steps stay small, in microseconds since `born`.
    small_until: AtomicU64,
    /// The bytes that were moved since `since`.
    passed: AtomicU64,
    /// When the rate was last measured, in microseconds since `born`.
    since: AtomicU64,
    fast: AtomicBool,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            small_until: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            since: AtomicU64::new(0),
            fast: AtomicBool::new(false),
        }
    }
}

impl Steps {
    /// The maximum of [`Steps::at_once`], in bytes.
    pub(super) const MAX_AT_ONCE: usize = (AT_ONCE * LARGE) as usize;

    /// Notes a small request: a tunnel was opened, or sent little. More of them may follow.
    pub(super) fn expect_small(&self) {
        self.small_until.store(self.now() + SMALL_FOR, Relaxed);
    }

    /// Counts bytes that were moved, in either direction.
    pub(super) fn passed(&self, count: usize) {
        self.passed_by(self.now(), count);
    }

    fn passed_by(&self, now: u64, count: usize) {
        let passed = self.passed.fetch_add(count as u64, Relaxed) + count as u64;
        let time = now.saturating_sub(self.since.load(Relaxed));
        if time >= MEASURE_PERIOD {
            self.fast.store(passed / time >= FAST, Relaxed);
            self.passed.store(0, Relaxed);
            self.since.store(now, Relaxed);
        }
    }

    /// The most that one read takes, in bytes.
    pub(super) fn one(&self) -> u32 {
        if self.is_large() { LARGE } else { SMALL }
    }

    /// The most that is received before other tasks run, that waits to be sealed, and that waits sealed for the socket, in
    /// bytes.
    pub(super) fn at_once(&self) -> usize {
        if self.is_large() { Self::MAX_AT_ONCE } else { SMALL as usize }
    }

    fn is_large(&self) -> bool {
        self.fast.load(Relaxed) && self.now() >= self.small_until.load(Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Makes steps large, as on a fast link without small requests.
    #[cfg(test)]
    pub(super) fn enlarge(&self) {
        self.small_until.store(0, Relaxed);
        self.fast.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_large_on_a_fast_link_and_small_after_a_small_request() {
        let (steps, mut now) = (Steps::default(), 0);
        assert_eq!(steps.one(), SMALL);
        let mut pass = |bytes_per_microsecond: u64| {
            for _ in 0..=MEASURE_PERIOD / 1000 {
                now += 1000;
                steps.passed_by(now, usize::try_from(1000 * bytes_per_microsecond).unwrap());
            }
        };
        pass(FAST + 1);
        assert_eq!((steps.one(), steps.at_once()), (LARGE, Steps::MAX_AT_ONCE));
        pass(FAST / 2);
        assert_eq!((steps.one(), steps.at_once()), (SMALL, SMALL as usize));
        pass(FAST * 10);
        assert_eq!(steps.one(), LARGE);
        steps.expect_small();
        assert_eq!((steps.one(), steps.at_once()), (SMALL, SMALL as usize));
    }
}
