//! The time of day, on machines whose clock may not be set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A lower bound of the time, shortly before this build: 2026-11-01T00:00:00Z. A machine without a battery-backed clock
/// starts at 1970, when no certificate would be valid yet.
pub const CLOCK_FLOOR: Duration = Duration::from_secs(1_793_491_200);

/// The time since 1970, never before [`CLOCK_FLOOR`].
pub fn now() -> Duration {
    not_before_floor(SystemTime::now())
}

fn not_before_floor(system: SystemTime) -> Duration {
    // A clock before 1970 is an error here; it counts as one at 1970.
    system.duration_since(UNIX_EPOCH).unwrap_or_default().max(CLOCK_FLOOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_at_1970_shows_the_floor() {
        assert_eq!(not_before_floor(UNIX_EPOCH), CLOCK_FLOOR);
        assert_eq!(not_before_floor(UNIX_EPOCH - Duration::from_secs(1)), CLOCK_FLOOR);
    }

    #[test]
    fn a_plausible_clock_is_used() {
        let later = CLOCK_FLOOR + Duration::from_secs(5);
        assert_eq!(not_before_floor(UNIX_EPOCH + later), later);
    }
}
