//! The turns of clients that get a piece from the gateway although they were sent to a member. Pure: no clock.

use std::time::{Duration, Instant};

use crate::wire::id::NodeId;

/// After this time a turn no longer keeps others waiting, unless [`MOST`] of them go on; and a turn in which nothing is taken for
/// this long ends.
const TURN: Duration = Duration::from_secs(2);
/// Maximum number of turns at a time. With more, clients that pass a piece on would get it later.
const MOST: usize = 2;
/// A client whose rate, over this time, is below one part in this many of the others' is slow: its turn ends.
const SLOW_PART: f64 = 4.0;
const MEASURED: Duration = Duration::from_secs(1);

/// The turns of one body.
#[derive(Debug, Default)]
pub(super) struct Turns {
    going: Vec<Going>,
    next: u64,
    /// The bytes per second that clients take in their turns.
    rate: f64,
}

/// A turn.
#[derive(Clone, Copy, Debug)]
struct Going {
    number: u64,
    by: NodeId,
    since: Instant,
    /// How much was taken, and when last.
    bytes: usize,
    last: Instant,
}

/// A client whose turn has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) by: NodeId,
    pub(super) is_slow: bool,
}

impl Turns {
    /// Ends the turns of those that take nothing, or take it slowly.
    pub(super) fn end_idle(&mut self, now: Instant) -> Vec<Ended> {
        let least = self.rate / SLOW_PART;
        let is_idle = |turn: &mut Going| {
            let is_slow = turn.took() >= MEASURED && turn.rate() < least;
            is_slow || now >= turn.last + TURN
        };
        let idle: Vec<_> = self.going.extract_if(.., is_idle).collect();
        idle.iter().map(|turn| self.measure(turn)).collect()
    }

    /// Whether another turn may begin.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        self.going.len() < MOST && self.going.iter().all(|turn| now >= turn.since + TURN)
    }

    /// When the result of [`Turns::is_free`] may change, if no turn ends before.
    pub(super) fn wakes(&self, now: Instant) -> Instant {
        let begun = self.going.iter().map(|turn| turn.since + TURN).filter(|at| *at > now);
        let idle = self.going.iter().map(|turn| turn.last + TURN).filter(|at| *at > now);
        begun.chain(idle).min().unwrap_or(now + TURN)
    }

    /// Begins a turn. Returns its number.
    pub(super) fn begin(&mut self, by: NodeId, now: Instant) -> u64 {
        self.next += 1;
        self.going.push(Going { number: self.next, by, since: now, bytes: 0, last: now });
        self.next
    }

    /// Notes that bytes are taken in this turn.
    pub(super) fn takes(&mut self, number: u64, bytes: usize, now: Instant) {
        if let Some(turn) = self.going.iter_mut().find(|turn| turn.number == number) {
            (turn.bytes, turn.last) = (turn.bytes + bytes, now);
        }
    }

    /// Ends this turn, if it has not ended before.
    pub(super) fn end(&mut self, number: u64) -> Option<Ended> {
        let at = self.going.iter().position(|turn| turn.number == number)?;
        let turn = self.going.swap_remove(at);
        Some(self.measure(&turn))
    }

    fn measure(&mut self, turn: &Going) -> Ended {
        let rate = turn.rate();
        if turn.bytes > 0 {
            self.rate = if rate > self.rate { rate } else { (self.rate * 7.0 + rate) / 8.0 };
        }
        Ended { by: turn.by, is_slow: turn.bytes > 0 && rate < self.rate / SLOW_PART }
    }
}

impl Going {
    fn took(&self) -> Duration {
        self.last.saturating_duration_since(self.since)
    }

    /// Bytes per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.took().as_secs_f64().max(0.001)
    }
}
