//! How much a link moves at a time. Large steps cost least: each begins with a system call, and often with waking somebody.
//! But what is small and new waits at half a dozen places for the step that is just being done, so steps are small
//! while there is any of that.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// The largest read, and the largest DATA frame.
pub(super) const LARGE: u32 = 256 * 1024;
/// The same while somebody waits for little.
pub(super) const SMALL: u32 = 64 * 1024;
/// How many large steps are under way at a time; of the small ones it is one.
const AT_ONCE: u32 = 2;
/// For so many milliseconds after something small there may be more of it.
const HASTE: u64 = 100;

/// The steps of one link, as one end sees them.
#[derive(Debug)]
pub(super) struct Steps {
    born: Instant,
    /// Since `born`, in milliseconds.
    hasty_until: AtomicU64,
}

impl Default for Steps {
    fn default() -> Self {
        Self { born: Instant::now(), hasty_until: AtomicU64::new(0) }
    }
}

impl Steps {
    /// Notes that something small passes: a tunnel is opened, or says little.
    pub(super) fn hurry(&self) {
        self.hasty_until.store(self.now() + HASTE, Relaxed);
    }

    /// How much one read takes at most.
    pub(super) fn one(&self) -> u32 {
        if self.is_hasty() { SMALL } else { LARGE }
    }

    /// How much is received before others have their turn, waits to be sealed, or waits sealed for the socket.
    pub(super) fn at_once(&self) -> usize {
        (if self.is_hasty() { SMALL } else { AT_ONCE * LARGE }) as usize
    }

    /// What [`Steps::at_once`] is at most.
    pub(super) const MOST_AT_ONCE: usize = (AT_ONCE * LARGE) as usize;

    fn is_hasty(&self) -> bool {
        self.now() < self.hasty_until.load(Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// As if that much time had gone by.
    #[cfg(test)]
    pub(super) fn calm_down(&self) {
        self.hasty_until.store(0, Relaxed);
    }
}
