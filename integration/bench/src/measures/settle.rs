//! Waits between two measures until no peer is still busy with the last one.

use super::measure::Subject;
use crate::accounting::processor_seconds;
use std::thread;
use std::time::{Duration, Instant};

/// How long a peer's processes are given to come to rest.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The number of checks in a row without more than one tick of processor time, after which a peer is at rest.
const QUIET_POLLS: u32 = 3;
const TICK: f64 = 0.01;

impl Subject<'_> {
    /// Waits, for a bounded time, until nothing happens at the server and the peer's processes are at rest; returns how long
    /// that took.
    pub(crate) fn settle(&self) -> Duration {
        let start = Instant::now();
        let processes = self.running.processes();
        let state = || (processor_seconds(&processes), self.server.activity());
        let (mut before, mut quiet) = (state(), 0);
        while quiet < QUIET_POLLS && start.elapsed() < PATIENCE {
            thread::sleep(POLL_INTERVAL);
            let now = state();
            let is_quiet = now.0 - before.0 < 1.5 * TICK && now.1 == before.1;
            quiet = if is_quiet { quiet + 1 } else { 0 };
            before = now;
        }
        start.elapsed().saturating_sub(QUIET_POLLS * POLL_INTERVAL)
    }
}
