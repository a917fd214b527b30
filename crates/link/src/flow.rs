//! Windows: how many bytes the tunnels of a link may have in flight. As many as keep the line busy and no more, because
//! everything beyond that is a queue in which small requests wait.
//!
//! The receiver of a link knows its round trip from PING and its rate from what arrives. Their product has to be in flight to
//! fill the line (RFC 6349 §3.3.1); twice the product leaves room to find out that it is larger.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The window of a tunnel that has the link to itself, in bytes.
pub(super) const ALONE: u32 = 1024 * 1024;
/// The window of a tunnel beside others where the line does not need more, in steps.
const BESIDE: u32 = 4;
/// The window of a tunnel while the node's memory is tight, in bytes.
const TIGHT: u32 = 64 * 1024;
/// The largest window, in bytes: 1 Gbit/s over a round trip of 250 ms.
const LARGEST: u32 = 32 * 1024 * 1024;
/// How many bytes all tunnels together may have in flight: the connection's own window is 2 GiB and must not run out.
const TOGETHER: u32 = 1 << 30;
/// How many bytes of their windows all tunnels together may withhold, for the same reason.
const MAX_WITHHELD: u64 = 1 << 29;
/// A tunnel counts as alone once it has been for this many milliseconds: small requests follow one another.
const ALONE_AFTER: u64 = 1000;
/// Window is given back a step at a time, or in this many parts where it is smaller than that, because each part is a frame.
const PARTS: u32 = 2;
/// The rate is measured again after this many bytes …
const SAMPLE: u64 = 512 * 1024;
/// … and after this time at the earliest.
const PAUSE: Duration = Duration::from_millis(20);

/// The receiving side of one link, shared by its tunnels.
#[derive(Debug)]
pub(super) struct Flow {
    received: AtomicU64,
    sent: AtomicU64,
    withheld: AtomicU64,
    announced: AtomicU32,
    needed: AtomicU32,
    /// Until then, in milliseconds since `born`, a tunnel does not count as alone.
    company_until: AtomicU64,
    born: Instant,
    last: Mutex<Last>,
}

#[derive(Debug)]
struct Last {
    /// The shortest round trip so far.
    round_trip: Duration,
    /// The latest one.
    latest: Option<Duration>,
    at: Instant,
    received: u64,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
            announced: AtomicU32::new(ALONE),
            needed: AtomicU32::new(0),
            company_until: AtomicU64::new(0),
            born: Instant::now(),
            last: Mutex::new(Last {
                round_trip: Duration::MAX,
                latest: None,
                at: Instant::now(),
                received: 0,
            }),
        }
    }
}

impl Flow {
    /// Counts bytes that have arrived; true when it is time to measure again.
    pub(super) fn arrived(&self, count: usize) -> bool {
        let received = self.received.fetch_add(count as u64, Relaxed) + count as u64;
        let Ok(mut last) = self.last.try_lock() else { return false };
        let due = received - last.received >= SAMPLE && last.at.elapsed() >= PAUSE;
        if due {
            (last.at, last.received) = (Instant::now(), received);
        }
        due
    }

    /// How many bytes have arrived so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Counts bytes that were queued for sending.
    pub(super) fn queued(&self, count: usize) {
        self.sent.fetch_add(count as u64, Relaxed);
    }

    /// How many bytes were queued for sending so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// The latest round trip.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).latest
    }

    /// How long the link has been up.
    pub(super) fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// Notes a measurement: `bytes` arrived within `time`, and `round_trip` was measured at its end.
    pub(super) fn measured(&self, bytes: u64, time: Duration, round_trip: Duration) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.round_trip = last.round_trip.min(round_trip);
        last.latest = Some(round_trip);
        // What a round trip takes beyond the shortest one is time in queues, which need no larger window.
        let share = last.round_trip.as_secs_f64() / time.as_secs_f64().max(f64::EPSILON);
        let product = u32::try_from(bytes).map_or(f64::from(u32::MAX), f64::from) * share;
        // Bounded by the constant, so the cast keeps the value.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just before")]
        let needed = (2.0 * product).clamp(0.0, f64::from(LARGEST)) as u32;
        self.needed.fetch_max(needed, Relaxed);
    }

    /// The window to announce when `tunnels` are open; none when it was announced already.
    pub(super) fn to_announce(&self, tunnels: u32) -> Option<u32> {
        let wanted = self.needed.load(Relaxed).max(ALONE);
        let fair = TOGETHER / tunnels.max(1);
        // A power of two, so that it seldom changes.
        let size = wanted.checked_next_power_of_two().unwrap_or(LARGEST).min(1 << fair.max(1).ilog2());
        (size != self.announced.load(Relaxed)).then_some(size)
    }

    /// Notes that this window was announced.
    pub(super) fn announce(&self, size: u32) {
        self.announced.store(size, Relaxed);
    }

    /// How many bytes of its window one of `tunnels` is to withhold, when it owes the peer `owed` bytes and withholds
    /// `withheld` of them now. While memory is `tight` a tunnel gets less than it needs. A step of the link is `step` bytes.
    pub(super) fn to_withhold(
        &self,
        tunnels: u32,
        tight: bool,
        step: u32,
        owed: usize,
        withheld: usize,
    ) -> usize {
        let announced = self.announced.load(Relaxed);
        let target = match self.is_alone(tunnels) {
            _ if tight => TIGHT,
            true => announced,
            false => self.needed.load(Relaxed).max(BESIDE * step),
        };
        let target = target.min(announced);
        let (spare, part) = ((announced - target) as usize, step.min(target / PARTS) as usize);
        let others = self.withheld.load(Relaxed).saturating_sub(withheld as u64);
        let keep = match owed.saturating_sub(spare) {
            _ if others >= MAX_WITHHELD => 0,
            back if back < part => owed,
            _ => owed.min(spare),
        };
        self.withhold(withheld, keep);
        keep
    }

    fn is_alone(&self, tunnels: u32) -> bool {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        if tunnels > 1 {
            self.company_until.store(now + ALONE_AFTER, Relaxed);
            return false;
        }
        now >= self.company_until.load(Relaxed)
    }

    /// Notes that a tunnel withholds `after` bytes instead of `before`.
    pub(super) fn withhold(&self, before: usize, after: usize) {
        if after >= before {
            self.withheld.fetch_add((after - before) as u64, Relaxed);
        } else {
            self.withheld.fetch_sub((before - after) as u64, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    /// A sender that always has something to send, over a line of this rate and round trip.
    fn settle(flow: &Flow, bytes_per_ms: u64, round_trip_ms: u32) -> u32 {
        for _ in 0..12 {
            let window = u64::from(flow.to_announce(1).unwrap_or(flow.announced.load(Relaxed)));
            flow.announce(u32::try_from(window).unwrap());
            let line = bytes_per_ms * u64::from(round_trip_ms);
            // What exceeds the line's product waits in a queue and makes the round trip longer.
            let round_trip = (window.max(line) / bytes_per_ms).max(1);
            let round_trip = MS * u32::try_from(round_trip).unwrap();
            flow.measured(window.min(line), round_trip, round_trip);
        }
        flow.announced.load(Relaxed)
    }

    #[test]
    fn a_long_line_gets_the_window_that_fills_it() {
        for (bytes_per_ms, round_trip_ms) in [(125_000, 100), (12_500, 100), (125_000, 20), (1_250_000, 5)] {
            let window = settle(&Flow::default(), bytes_per_ms, round_trip_ms);
            let line = bytes_per_ms * u64::from(round_trip_ms);
            assert!(u64::from(window) >= line, "{window} for {line}");
            assert!(u64::from(window) <= (4 * line).max(u64::from(ALONE)), "{window} for {line}");
        }
    }

    #[test]
    fn bytes_that_wait_in_queues_do_not_enlarge_the_window() {
        let flow = Flow::default();
        flow.measured(0, MS / 10, MS / 10);
        // A busy local link: a megabyte in two milliseconds, most of which it spent in queues.
        for _ in 0..100 {
            flow.measured(1024 * 1024, MS * 2, MS * 2);
        }
        assert_eq!(flow.to_announce(1), None);
        for step in [steps::SMALL, steps::LARGE] {
            let keep = flow.to_withhold(2, false, step, 2 * ALONE as usize, 0);
            assert_eq!(keep, (ALONE - BESIDE * step) as usize);
            flow.withhold(keep, 0);
        }
    }

    proptest! {
        /// Whatever is measured, all windows together leave some of the connection's, and a tunnel that owes
        /// everything is given back at least what it needs.
        #[test]
        fn windows_stay_in_bounds(
            samples in prop::collection::vec((any::<u64>(), 0u64..10_000_000_000), 0..20),
            tunnels in 1u32..=16_384,
            step in prop::sample::select(vec![steps::SMALL, steps::LARGE]),
        ) {
            let flow = Flow::default();
            for (bytes, nanos) in samples {
                flow.measured(bytes, Duration::from_nanos(nanos), Duration::from_nanos(nanos / 2));
            }
            if let Some(size) = flow.to_announce(tunnels) {
                flow.announce(size);
            }
            let announced = flow.announced.load(Relaxed);
            prop_assert!(announced <= LARGEST && u64::from(announced) * u64::from(tunnels) <= u64::from(TOGETHER));
            prop_assert_eq!(flow.to_announce(tunnels), None);
            let keep = flow.to_withhold(tunnels, false, step, announced as usize, 0);
            let needed = announced.min(BESIDE * step);
            prop_assert!(announced as usize - keep >= needed as usize);
            // And nothing is stuck: a peer that has used all it was given back gets more.
            let keep = flow.to_withhold(tunnels, false, step, keep + needed as usize, keep);
            prop_assert!(announced as usize - keep >= needed as usize / 2);
        }
    }

    #[test]
    fn what_is_withheld_in_sum_is_bounded() {
        let flow = Flow::default();
        let kept: u64 =
            (0..10_000).map(|_| flow.to_withhold(2, false, steps::SMALL, ALONE as usize, 0) as u64).sum();
        assert!(kept <= MAX_WITHHELD + u64::from(ALONE), "{kept}");
        assert_eq!(flow.withheld.load(Relaxed), kept);
    }
}
