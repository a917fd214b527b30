//! When this candidate speaks.
//!
//! If every candidate spoke each second, a thousand of them would flood the network. Only the active ones
//! and the next in line do. All others share a budget: each speaks now and then if it has not just heard
//! enough of them, and joins those in front when there is room or when it is clearly better.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::candidacy::{LINE, share};
use super::order::mix;
use laneway_wire::datagram::State;
use laneway_wire::id::NodeId;

/// Between two beacons of an active candidate: many may be lost before it seems silent.
const ACTIVE: Duration = Duration::from_millis(500);
/// Between two beacons of one that is next in line.
const IN_LINE: Duration = Duration::from_secs(1);
/// Between two beacons of any other.
const IN_CROWD: Duration = Duration::from_secs(16);
/// The others together speak so often: beacons in a time.
const CROWD_BUDGET: (usize, Duration) = (4, Duration::from_secs(4));
/// A candidate that is to join those in line waits up to so long whether another one does.
const JOIN: Duration = Duration::from_secs(1);
/// News of an active candidate is said again after so long, twice, in case it was lost.
const AGAIN: Duration = Duration::from_millis(60);
/// One that withdrew goes on saying so for so long as often as before.
const FAREWELL: Duration = Duration::from_secs(4);

/// What makes the others act at once when it changes.
pub(super) type News = (State, bool, Option<NodeId>);

/// How this candidate stands among those that it hears.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standbys {
    /// How many are in line, as far as heard, and how many of them come before this node.
    pub(super) in_line: usize,
    pub(super) before: usize,
    /// This one is clearly better than the last one in line.
    pub(super) is_clearly_better: bool,
}

/// The times of this candidate's beacons.
#[derive(Debug)]
pub(super) struct Schedule {
    seed: u64,
    draws: u64,
    in_line: bool,
    joins_at: Option<Instant>,
    next: Option<Instant>,
    repeat: u8,
    news: Option<News>,
    loud_until: Option<Instant>,
    crowd: VecDeque<Instant>,
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
            news: None,
            loud_until: None,
            crowd: VecDeque::new(),
        }
    }

    /// Notes a beacon of another candidate, which promises the next one after `interval`.
    pub(super) fn heard(&mut self, interval: Duration, now: Instant) {
        if !is_in_line(interval) {
            self.crowd.push_back(now);
            if self.crowd.len() > CROWD_BUDGET.0 {
                self.crowd.pop_front();
            }
        }
    }

    /// Says whether to beacon now and the interval that the beacon promises.
    pub(super) fn step(&mut self, news: News, standbys: Standbys, now: Instant) -> (bool, Duration) {
        let (state, preparing, _) = news;
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
        if self.news != Some(news) {
            if was_loud || is_loud {
                (self.next, self.repeat) = (Some(now), 2);
            }
            self.news = Some(news);
        }
        let first = now + self.some_of(IN_CROWD);
        let next = *self.next.get_or_insert(first);
        if now < next {
            return (false, interval);
        }
        let full = self.crowd.len() == CROWD_BUDGET.0
            && self.crowd.front().is_some_and(|oldest| now < *oldest + CROWD_BUDGET.1);
        let speaks = self.repeat > 0 || is_in_line(interval) || was_loud || !full;
        let pause = match self.repeat {
            0 if speaks => interval.mul_f64(0.9) + self.some_of(interval / 5),
            0 => IN_CROWD / 2 + self.some_of(IN_CROWD),
            _ => AGAIN / 2 + self.some_of(AGAIN),
        };
        self.repeat = self.repeat.saturating_sub(1);
        self.next = Some(now + pause);
        (speaks, interval)
    }

    /// When to look again if nothing is heard until then.
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

    fn some_of(&mut self, whole: Duration) -> Duration {
        self.draws += 1;
        share(whole, self.seed ^ mix(self.draws))
    }
}

/// Whether one that beacons so often is active or next in line.
pub(super) fn is_in_line(interval: Duration) -> bool {
    interval <= IN_LINE
}
