//! The speed at which a body arrives, measured over the last one to two seconds only, because it may have stopped.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest time over which the speed is measured.
const WINDOW: Duration = Duration::from_secs(1);
/// A body of which nothing has arrived for this long counts as stopped.
const STILL: Duration = Duration::from_secs(1);
/// A body is slow if fewer than this many bytes a second arrive, or nothing for [`SLOW`]; no body is called slow sooner.
const LEAST: f64 = 8192.0;
const SLOW: Duration = Duration::from_secs(2);

/// Two moments, and the offset that the body had reached at each.
#[derive(Debug)]
pub(super) struct Speed {
    begun: Instant,
    before: (Instant, u64),
    since: (Instant, u64),
    /// When the last bytes arrived.
    last: Instant,
}

impl Speed {
    /// The speed of a body that begins now, at this offset.
    pub(super) fn new(start: u64) -> Self {
        let now = Instant::now();
        Self { begun: now, before: (now, start), since: (now, start), last: now }
    }

    /// Notes that bytes arrive; `end` is the offset of the first one.
    pub(super) fn note(&mut self, end: u64) {
        let now = Instant::now();
        if now.duration_since(self.since.0) >= WINDOW {
            (self.before, self.since) = (self.since, (now, end));
        }
        self.last = now;
    }

    /// Whether a body that has arrived up to `end` is expected to reach `offset` within this time.
    pub(super) fn reaches(&self, end: u64, offset: u64, within: Duration) -> bool {
        let measured = self.before.0.elapsed();
        if offset <= end || measured < WINDOW {
            return true;
        }
        self.last.elapsed() < STILL && as_float(offset - end) <= self.rate(end) * within.as_secs_f64()
    }

    /// Whether the body has been so slow for a while that the server might send it sooner when asked again.
    pub(super) fn is_slow(&self, end: u64) -> bool {
        self.begun.elapsed() >= SLOW && (self.last.elapsed() >= SLOW || self.rate(end) < LEAST)
    }

    /// Bytes a second.
    fn rate(&self, end: u64) -> f64 {
        as_float(end.saturating_sub(self.before.1)) / self.before.0.elapsed().as_secs_f64().max(0.001)
    }
}

#[expect(clippy::cast_precision_loss, reason = "rates are compared roughly")]
fn as_float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn what_comes_soon_is_reached_and_what_stands_still_reaches_nothing() {
        let mut speed = Speed::new(0);
        assert!(speed.reaches(0, 1 << 20, SECOND), "it has just begun");
        for step in 0..30 {
            advance(SECOND / 10).await;
            speed.note(step * 10_000);
        }
        assert!(speed.reaches(300_000, 390_000, SECOND) && !speed.is_slow(300_000));
        assert!(!speed.reaches(300_000, 500_000, SECOND) && speed.reaches(300_000, 500_000, 3 * SECOND));
        advance(SECOND).await;
        assert!(!speed.reaches(300_000, 300_001, SECOND) && speed.reaches(300_000, 300_000, SECOND));
        advance(SECOND).await;
        assert!(speed.is_slow(300_000));
    }

    #[tokio::test(start_paused = true)]
    async fn what_trickles_is_slow_although_it_never_stands_still() {
        let mut speed = Speed::new(0);
        for step in 0..30 {
            advance(SECOND / 10).await;
            speed.note(step * 10);
        }
        assert!(speed.is_slow(300) && !speed.reaches(300, 1000, SECOND));
    }
}
