//! Waiting for what a trial expects to happen soon.

use std::thread;
use std::time::{Duration, Instant};

/// How long a trial waits for a condition, a program or a peer before it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for a condition.
///
/// # Panics
/// When it does not hold in time.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
