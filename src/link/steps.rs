//! How much a link moves at a time. Large steps cost least: each begins with a system call, and often with waking somebody.
//! But what is small and new waits at half a dozen places for the step that is just being done. So steps are large only on
//! a link that moves so much that the processor is what limits it, and only while nobody waits for little.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use super::http2::buffer_pool;

/// The largest read, and the largest DATA frame.
pub(super) const LARGE: u32 = buffer_pool::LARGEST;
/// The same on a link that is slow, or while somebody waits for little.
pub(super) const SMALL: u32 = buffer_pool::SMALL;
/// How many large steps are under way at a time; of the small ones it is one.
const AT_ONCE: u32 = 2;
/// A link is fast that moves so many bytes in a microsecond, both directions together: a large step takes two milliseconds.
const FAST: u64 = 128;
/// That is seen over so many microseconds.
const LOOK: u64 = 20_000;
/// For so many microseconds after something small there may be more of it.
const HASTE: u64 = 100_000;

/// The steps of one link, as one end sees them.
#[derive(Debug)]
pub(super) struct Steps {
    born: Instant,
    /// Since `born`, in microseconds.
    hasty_until: AtomicU64,
    /// Bytes, since `since`.
    passed: AtomicU64,
    /// Since `born`, in microseconds: when the rate was last looked at.
    since: AtomicU64,
    fast: AtomicBool,
}

impl Default for Steps {
    fn default() -> Self {
        Self {
            born: Instant::now(),
            hasty_until: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            since: AtomicU64::new(0),
            fast: AtomicBool::new(false),
        }
    }
}

impl Steps {
    /// What [`Steps::at_once`] is at most.
    pub(super) const MOST_AT_ONCE: usize = (AT_ONCE * LARGE) as usize;

    /// Notes that something small passes: a tunnel is opened, or says little.
    pub(super) fn hurry(&self) {
        self.hasty_until.store(self.now() + HASTE, Relaxed);
    }

    /// Notes that `count` bytes pass, in whichever direction.
    pub(super) fn passed(&self, count: usize) {
        self.passed_by(self.now(), count);
    }

    fn passed_by(&self, now: u64, count: usize) {
        let passed = self.passed.fetch_add(count as u64, Relaxed) + count as u64;
        let time = now.saturating_sub(self.since.load(Relaxed));
        if time >= LOOK {
            self.fast.store(passed / time >= FAST, Relaxed);
            self.passed.store(0, Relaxed);
            self.since.store(now, Relaxed);
        }
    }

    /// How much one read takes at most.
    pub(super) fn one(&self) -> u32 {
        if self.is_large() { LARGE } else { SMALL }
    }

    /// How much is received before others have their turn, waits to be sealed, or waits sealed for the socket.
    pub(super) fn at_once(&self) -> usize {
        if self.is_large() { Self::MOST_AT_ONCE } else { SMALL as usize }
    }

    fn is_large(&self) -> bool {
        self.fast.load(Relaxed) && self.now() >= self.hasty_until.load(Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// As on a fast link on which nothing small has passed for long.
    #[cfg(test)]
    pub(super) fn enlarge(&self) {
        self.hasty_until.store(0, Relaxed);
        self.fast.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_large_on_a_fast_link_and_small_after_something_small() {
        let (steps, mut now) = (Steps::default(), 0);
        assert_eq!(steps.one(), SMALL);
        let mut pass = |bytes_per_microsecond: u64| {
            for _ in 0..=LOOK / 1000 {
                now += 1000;
                steps.passed_by(now, usize::try_from(1000 * bytes_per_microsecond).unwrap());
            }
        };
        pass(FAST + 1);
        assert_eq!((steps.one(), steps.at_once()), (LARGE, Steps::MOST_AT_ONCE));
        pass(FAST / 2);
        assert_eq!((steps.one(), steps.at_once()), (SMALL, SMALL as usize));
        pass(FAST * 10);
        assert_eq!(steps.one(), LARGE);
        steps.hurry();
        assert_eq!((steps.one(), steps.at_once()), (SMALL, SMALL as usize));
    }
}
