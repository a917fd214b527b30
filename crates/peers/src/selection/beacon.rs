//! When this candidate sends beacons.
//!
//! If every candidate sent one each second, a thousand of them would flood the network. Only the active ones and the next
//! in line do. All others, the crowd, share a budget: each sends one now and then unless it has just heard enough of them,
//! and joins the line when there is room or when it is clearly better.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::order::{LINE, mix, share};
use laneway_wire::datagram::State;
use laneway_wire::id::NodeId;

/// Interval between two beacons of an active candidate: many may be lost before it seems silent.
const ACTIVE: Duration = Duration::from_millis(500);
/// Interval between two beacons of a standby in line.
const IN_LINE: Duration = Duration::from_secs(1);
/// Interval between two beacons of a candidate in the crowd, the longest that a candidate announces.
pub(super) const IN_CROWD: Duration = Duration::from_secs(16);
/// The budget of the whole crowd: beacons in a time.
const CROWD_BUDGET: (usize, Duration) = (4, Duration::from_secs(4));
/// Maximum time that a candidate waits before it joins the line, in case another one does.
const JOIN: Duration = Duration::from_secs(1);
/// Interval after which a beacon about a change is repeated, twice, in case it was lost.
const REPEAT: Duration = Duration::from_millis(60);
/// How long a candidate that withdrew keeps its previous beacon interval.
const FAREWELL: Duration = Duration::from_secs(4);

/// What other nodes have to act on at once when it changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Essentials {
    pub(super) state: State,
    /// Whether the uplink is being brought up.
    pub(super) preparing: bool,
    /// The candidate that is called to take the role.
    pub(super) yields_to: Option<NodeId>,
}

/// Where this candidate stands among the standbys that it hears.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standbys {
    /// Number of standbys in line.
    pub(super) in_line: usize,
    /// Number of those that come before this node.
    pub(super) before: usize,
    /// Whether this node is clearly better than the last one in line.
    pub(super) is_clearly_better: bool,
}

/// The times of this candidate's beacons.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    seed: u64,
    draws: u64,
    in_line: bool,
    joins_at: Option<Instant>,
    next: Option<Instant>,
    /// Repetitions left of the beacon about the last change.
    repeat: u8,
    last: Option<Essentials>,
    /// Until when it sends as often as one in line.
    loud_until: Option<Instant>,
    /// The candidates of the crowd that were heard last, and when. Each counts once, however often it sends.
    crowd: VecDeque<(NodeId, Instant)>,
}

impl Schedule {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            draws: 0,
            in_line: false,
            joins_at: None,
            next: None,
            repeat: 0,
            last: None,
            loud_until: None,
            crowd: VecDeque::new(),
        }
    }

    /// Notes a beacon of the candidate `id`, which announces the next one after `interval`.
    pub(super) fn heard(&mut self, id: NodeId, interval: Duration, now: Instant) {
        if !is_in_line(interval) {
            self.crowd.retain(|(other, _)| *other != id);
            self.crowd.push_back((id, now));
            if self.crowd.len() > CROWD_BUDGET.0 {
                self.crowd.pop_front();
            }
        }
    }

    /// Whether to send a beacon now, and the interval that it announces.
    pub(super) fn step(
        &mut self,
        essentials: Essentials,
        standbys: Standbys,
        now: Instant,
    ) -> (bool, Duration) {
        let Essentials { state, preparing, .. } = essentials;
        let was_loud = self.loud_until.is_some_and(|until| now < until);
        self.place(state, standbys, now);
        let leads = preparing || matches!(state, State::Active | State::Draining);
        if leads || self.in_line {
            self.loud_until = Some(now + FAREWELL);
        }
        let is_loud = self.loud_until.is_some_and(|until| now < until);
        let interval = match state {
            State::Active => ACTIVE,
            _ if is_loud && (leads || self.in_line || state == State::Withdrawn) => IN_LINE,
            _ => IN_CROWD,
        };
        if self.last != Some(essentials) {
            if was_loud || is_loud {
                (self.next, self.repeat) = (Some(now), 2);
            }
            self.last = Some(essentials);
        }
        let first = now + self.some_of(IN_CROWD);
        let next = *self.next.get_or_insert(first);
        if now < next {
            return (false, interval);
        }
        let full = self.crowd.len() == CROWD_BUDGET.0
            && self.crowd.front().is_some_and(|(_, oldest)| now < *oldest + CROWD_BUDGET.1);
        let speaks = self.repeat > 0 || is_in_line(interval) || was_loud || !full;
        let pause = match self.repeat {
            0 if speaks => interval.mul_f64(0.9) + self.some_of(interval / 5),
            0 => IN_CROWD / 2 + self.some_of(IN_CROWD),
            _ => REPEAT / 2 + self.some_of(REPEAT),
        };
        self.repeat = self.repeat.saturating_sub(1);
        self.next = Some(now + pause);
        (speaks, interval)
    }

    /// When to decide again if nothing is heard until then.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.next.into_iter().chain(self.joins_at).min()
    }

    /// Joins those in line, or leaves them.
    fn place(&mut self, state: State, standbys: Standbys, now: Instant) {
        if state != State::Standby {
            (self.in_line, self.joins_at) = (state == State::Active, None);
            return;
        }
        if self.in_line {
            self.in_line = standbys.before < LINE;
            return;
        }
        if standbys.in_line >= LINE && !standbys.is_clearly_better {
            self.joins_at = None;
            return;
        }
        let joins_at = match self.joins_at {
            Some(at) => at,
            None => now + self.some_of(JOIN),
        };
        self.joins_at = Some(joins_at);
        if now >= joins_at {
            (self.in_line, self.joins_at) = (true, None);
            self.next = Some(now);
        }
    }

    /// A random share of `whole`.
    fn some_of(&mut self, whole: Duration) -> Duration {
        self.draws += 1;
        share(whole, self.seed ^ mix(self.draws))
    }
}

/// Whether a candidate with this beacon interval is active or in line.
pub(super) fn is_in_line(interval: Duration) -> bool {
    interval <= IN_LINE
}
