//! Notices that this machine has slept, or that its wall clock was set.

use std::time::{Duration, Instant, SystemTime};

use tokio::time::MissedTickBehavior;

/// Interval between two readings of the clocks.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// A difference above this between the wall clock and the time that has passed is a jump; clock synchronization corrects less at
/// a time.
const JUMP: Duration = Duration::from_secs(3);

/// Calls `on_jump` after each jump of the wall clock. Never ends.
pub(super) async fn watch(mut on_jump: impl FnMut()) {
    let mut tick = tokio::time::interval(POLL_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = (Instant::now(), SystemTime::now());
    loop {
        tick.tick().await;
        let now = (Instant::now(), SystemTime::now());
        if is_jump(now.0.duration_since(last.0), last.1, now.1) {
            on_jump();
        }
        last = now;
    }
}

/// Whether the wall clock's time from `before` to `now` is not the time that has `passed`.
fn is_jump(passed: Duration, before: SystemTime, now: SystemTime) -> bool {
    now.duration_since(before).map_or(true, |wall| wall.abs_diff(passed) > JUMP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_and_a_clock_that_is_set_are_jumps_and_a_slow_second_is_none() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let second = Duration::from_secs(1);
        assert!(!is_jump(second, start, start + second));
        assert!(!is_jump(second * 20, start, start + second * 21));
        assert!(is_jump(second, start, start + Duration::from_secs(60)));
        assert!(is_jump(second, start, start - second));
    }
}
