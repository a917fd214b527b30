//! Whether a gateway for any destination has a way out, judged by what the connections of its clients meet. Pure: results
//! and the time go in, a verdict comes out.
//!
//! No configured server tells it, so destinations that answered before are its witnesses. A failed destination alone
//! proves nothing: it may be down. Only when the witnesses fail too is the way out lost.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::wire::datagram::Reach;
use crate::wire::target::Target;

/// Maximum number of destinations that are kept as witnesses.
const MAX_WITNESSES: usize = 4;
/// Failures to connect within this time count as one: a hundred at once are one event.
const FAILURE_WINDOW: Duration = Duration::from_millis(300);
/// Number of failures in a row, without any success, that make the way out doubtful.
const FAILURES_TO_DOUBT: u32 = 2;
/// Minimum time between two questions to the witnesses because a destination is slow: some always are, and each question costs
/// bytes on the uplink.
const SLOW_INTERVAL: Duration = Duration::from_secs(5);
/// How long a way out counts as lost while this machine is connected to something beyond its clients' network. Then it is
/// offered again, with no witnesses: those that failed may have been down for good, or destinations that a client chose for
/// that.
pub(super) const RETRY: Duration = Duration::from_secs(15);

/// How one connection of a client ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The destination accepted the connection. A box in between may accept any.
    Connected(Target),
    /// A host beyond the networks of this machine sent something.
    Answered,
    /// Something that proves nothing.
    Nothing,
    /// The destination has had time to answer, and has not answered yet.
    Slow(Target),
    /// The destination was not reached.
    Failed {
        /// Which one.
        target: Target,
        /// This machine has no route, which is certain at once.
        no_route: bool,
    },
}

/// The state of the way out.
#[derive(Debug)]
pub(super) struct WayOut {
    reach: Reach,
    /// Destinations that accepted a connection, the latest first. Before any has, those that failed.
    witnesses: VecDeque<Target>,
    /// Whether any destination has accepted a connection.
    has_worked: bool,
    failures: u32,
    last_failure: Option<Instant>,
    /// When the witnesses were last to be asked because a destination was slow.
    slow_at: Option<Instant>,
    /// The last failure was for lack of a route.
    no_route: bool,
    lost_at: Option<Instant>,
}

impl WayOut {
    pub(super) fn new() -> Self {
        Self {
            reach: Reach::Unknown,
            witnesses: VecDeque::new(),
            has_worked: false,
            failures: 0,
            last_failure: None,
            slow_at: None,
            no_route: false,
            lost_at: None,
        }
    }

    /// The verdict: unknown until a host beyond this machine's networks has answered.
    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    /// The destinations to connect to when the way out is in doubt or lost.
    pub(super) fn witnesses(&self) -> Vec<Target> {
        self.witnesses.iter().cloned().collect()
    }

    /// How long the way out has been lost; `None` while it is not.
    pub(super) fn lost_for(&self, now: Instant) -> Option<Duration> {
        let lost_at = self.lost_at.filter(|_| self.reach == Reach::Unreachable);
        lost_at.map(|lost_at| now.saturating_duration_since(lost_at))
    }

    /// Notes a result. `true` when the way out is in doubt now, and its witnesses are to be asked.
    pub(super) fn note(&mut self, seen: Seen, now: Instant) -> bool {
        match seen {
            Seen::Connected(target) => {
                self.failures = 0;
                if !std::mem::replace(&mut self.has_worked, true) {
                    self.witnesses.clear();
                }
                self.add_witness(target);
                if self.reach == Reach::Unreachable {
                    self.reach = Reach::Unknown;
                }
                false
            }
            Seen::Answered => {
                (self.failures, self.reach) = (0, Reach::Reachable);
                false
            }
            Seen::Nothing => false,
            // Those that have answered before can tell at once.
            Seen::Slow(_) if self.has_worked => {
                let is_due = self.slow_at.is_none_or(|last| now >= last + SLOW_INTERVAL);
                let asks = is_due && self.reach != Reach::Unreachable;
                self.slow_at = if asks { Some(now) } else { self.slow_at };
                asks
            }
            Seen::Slow(target) => self.note_failure(target, false, now),
            Seen::Failed { target, no_route } => self.note_failure(target, no_route, now),
        }
    }

    fn note_failure(&mut self, target: Target, no_route: bool, now: Instant) -> bool {
        if !self.has_worked {
            self.add_witness(target);
        }
        if self.last_failure.is_none_or(|last| now >= last + FAILURE_WINDOW) {
            (self.failures, self.last_failure) = (self.failures + 1, Some(now));
        }
        self.no_route = no_route;
        no_route || self.failures >= FAILURES_TO_DOUBT
    }

    /// Notes whether any witness was reached when all were asked. A single one that does not answer may be down. It is enough only
    /// if it has answered before, and another gateway could serve instead, so that this one does not have to be: not if it
    /// `is_alone`. Without a `has_path` beyond the clients' network, a lost way out stays lost until a witness is reached: no
    /// client can have caused that.
    pub(super) fn asked(&mut self, any: bool, is_alone: bool, has_path: bool, now: Instant) {
        let is_single = self.witnesses.iter().all(|witness| witness.host == self.witnesses[0].host);
        let is_convincing = self.no_route || !is_single || self.has_worked && !is_alone;
        match (any, self.reach) {
            (true, Reach::Unreachable) => (self.failures, self.reach) = (0, Reach::Unknown),
            (true, _) => self.failures = 0,
            (false, Reach::Unreachable) => {
                if has_path && self.lost_for(now).is_some_and(|time| time >= RETRY) {
                    *self = Self::new();
                }
            }
            (false, Reach::Unknown | Reach::Reachable) if is_convincing => {
                (self.reach, self.lost_at) = (Reach::Unreachable, Some(now));
            }
            (false, _) => {}
        }
    }

    fn add_witness(&mut self, target: Target) {
        self.witnesses.retain(|witness| *witness != target);
        self.witnesses.push_front(target);
        self.witnesses.truncate(MAX_WITNESSES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(port: u16) -> Target {
        format!("10.0.0.5:{port}").parse().unwrap()
    }

    fn failed(port: u16) -> Seen {
        Seen::Failed { target: target(port), no_route: false }
    }

    #[test]
    fn one_destination_that_is_down_costs_nothing_while_another_answers() {
        let (mut way, mut now) = (WayOut::new(), Instant::now());
        way.note(Seen::Connected(target(1)), now);
        way.note(Seen::Answered, now);
        assert_eq!(way.reach(), Reach::Reachable);
        assert!(!way.note(failed(2), now), "one failure");
        assert!(!way.note(failed(2), now), "at the same moment");
        now += FAILURE_WINDOW;
        assert!(way.note(failed(2), now));
        assert_eq!(way.witnesses(), [target(1)], "a destination that failed is no witness");
        way.asked(true, false, true, now);
        assert_eq!(way.reach(), Reach::Reachable);
        assert!(!way.note(failed(2), now + FAILURE_WINDOW), "counting starts again");
    }

    #[test]
    fn when_the_witnesses_fail_too_the_way_out_is_lost_until_one_is_reached() {
        let (mut way, now) = (WayOut::new(), Instant::now());
        way.note(Seen::Connected(target(1)), now);
        way.note(Seen::Connected(target(2)), now);
        assert!(way.note(Seen::Failed { target: target(1), no_route: true }, now), "no route is certain");
        way.asked(false, true, true, now);
        assert_eq!(way.reach(), Reach::Unreachable);
        way.asked(true, true, true, now);
        assert_eq!(way.reach(), Reach::Unknown, "reached, but nothing has answered yet");
        way.note(Seen::Answered, now);
        assert_eq!(way.reach(), Reach::Reachable);
    }

    #[test]
    fn a_slow_destination_has_those_asked_that_answered_before_and_not_too_often() {
        let (mut way, mut now) = (WayOut::new(), Instant::now());
        let slow = || Seen::Slow(target(2));
        assert!(!way.note(slow(), now), "nothing has answered before that could tell");
        way.note(Seen::Connected(target(1)), now);
        assert!(way.note(slow(), now));
        assert_eq!(way.witnesses(), [target(1)]);
        way.asked(true, false, true, now);
        now += SLOW_INTERVAL / 2;
        assert!(!way.note(slow(), now));
        now += SLOW_INTERVAL / 2;
        assert!(way.note(slow(), now));
        way.asked(false, false, true, now);
        assert_eq!(way.reach(), Reach::Unreachable);
        assert!(!way.note(slow(), now + SLOW_INTERVAL), "they are asked all the time now");
    }

    #[test]
    fn a_single_witness_convinces_only_if_it_has_answered_and_another_gateway_could_serve() {
        let (mut way, now) = (WayOut::new(), Instant::now());
        way.note(Seen::Connected(target(1)), now);
        way.note(failed(1), now);
        assert!(way.note(failed(1), now + FAILURE_WINDOW));
        assert_eq!(way.witnesses(), [target(1)]);
        way.asked(false, true, true, now);
        assert_eq!(way.reach(), Reach::Unknown);
        way.asked(false, false, true, now);
        assert_eq!(way.reach(), Reach::Unreachable);
    }

    #[test]
    fn one_host_that_never_answered_says_nothing_about_a_gateway_that_has_carried_nothing_yet() {
        let (mut way, mut now) = (WayOut::new(), Instant::now());
        for port in 1..10 {
            way.note(failed(port), now);
            now += FAILURE_WINDOW;
            way.asked(false, false, true, now);
            assert_eq!(way.reach(), Reach::Unknown);
        }
        way.note(Seen::Failed { target: "10.0.1.5:80".parse().unwrap(), no_route: false }, now);
        way.asked(false, false, true, now);
        assert_eq!(way.reach(), Reach::Unreachable, "two hosts");
    }

    #[test]
    fn a_lost_way_out_is_offered_again_after_a_while() {
        let (mut way, now) = (WayOut::new(), Instant::now());
        way.note(Seen::Failed { target: target(1), no_route: true }, now);
        way.asked(false, true, true, now);
        assert_eq!(way.reach(), Reach::Unreachable);
        way.asked(false, true, true, now + RETRY / 2);
        assert_eq!(way.reach(), Reach::Unreachable);
        way.asked(false, true, true, now + RETRY);
        assert_eq!(way.reach(), Reach::Unknown);
    }

    #[test]
    fn a_lost_way_out_stays_lost_while_nothing_beyond_the_clients_network_is_connected() {
        let (mut way, now) = (WayOut::new(), Instant::now());
        way.note(Seen::Connected(target(1)), now);
        way.note(Seen::Failed { target: target(1), no_route: true }, now);
        way.asked(false, true, false, now);
        for rounds in 1..10 {
            way.asked(false, true, false, now + RETRY * rounds);
            assert_eq!(way.reach(), Reach::Unreachable);
            assert_eq!(way.witnesses(), [target(1)], "it goes on asking it");
        }
        assert_eq!(way.lost_for(now + RETRY), Some(RETRY));
        way.asked(true, true, false, now + RETRY * 10);
        assert_eq!((way.reach(), way.lost_for(now + RETRY * 10)), (Reach::Unknown, None));
    }
}
