//! Whether a gateway for any destination has a way out, judged by what the connections of its clients meet. Pure: results
//! and the time go in, a verdict comes out.
//!
//! No configured server tells it, so destinations that answered before are its witnesses. A failed destination alone
//! proves nothing: it may be down. Only when the witnesses fail too is the way out lost.
//!
//! An uplink may let connections be made and carry nothing else. Destinations that accept connections and then answer nothing put the
//! way out in doubt as well, and then only a real exchange of data with a witness removes it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::silence::Speech;
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
/// How often that time doubles for a way out that carries nothing but handshakes: connections, and other gateways' clients, do not show
/// that it still does not.
const MAX_DOUBLINGS: u32 = 4;
/// How long the silence of a destination counts.
const SILENCE_WINDOW: Duration = Duration::from_secs(20);
/// Minimum time between two exchanges of data because a destination is silent. Where all acknowledge what they are sent, it doubles with
/// each exchange that succeeds: some servers are slow on purpose, and wait for an event.
const SILENT_INTERVAL: Duration = Duration::from_secs(3);
/// How often it doubles: to 13 minutes.
const MAX_SLOW_DOUBLINGS: u32 = 8;
/// Maximum number of silent destinations, and of those that answered before, that data is exchanged with.
const MAX_SPEAKERS: usize = 2;

/// How one connection of a client ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The destination accepted the connection. A box in between may accept any.
    Connected(Target),
    /// A host beyond the networks of this machine sent something to a client, which speaks this with it.
    Answered(Target, Speech),
    /// A name server beyond them has answered. That says nothing about TCP.
    Named,
    /// The destination has accepted a connection, and has answered nothing since.
    Silent {
        /// Which one.
        target: Target,
        /// The protocol in which it is spoken to.
        speech: Speech,
        /// Its machine acknowledges what it is sent.
        is_acknowledged: bool,
    },
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
// fields: two kinds of loss, each with what it is judged by
#[derive(Debug)]
pub(super) struct WayOut {
    reach: Reach,
    /// Destinations that accepted a connection, the latest first. Before any has, those that failed.
    witnesses: VecDeque<Target>,
    /// Whether any destination has accepted a connection.
    has_worked: bool,
    /// Destinations that have answered in a protocol that is known, the latest first.
    answered: VecDeque<(Target, Speech)>,
    /// Destinations that have been silent since the last answer of anybody, the latest first.
    silent: VecDeque<Silent>,
    /// When the witnesses were last to be asked for data because of that.
    silent_at: Option<Instant>,
    /// How often in a row they gave some, so that servers were just slow.
    times_slow: u32,
    /// The way out was lost because nothing comes back on connections that are made.
    is_mute: bool,
    /// How often in a row.
    times_mute: u32,
    failures: u32,
    last_failure: Option<Instant>,
    /// When the witnesses were last to be asked because a destination was slow.
    slow_at: Option<Instant>,
    /// The last failure was for lack of a route.
    no_route: bool,
    lost_at: Option<Instant>,
}

/// A destination that answers nothing.
#[derive(Clone, Debug)]
struct Silent {
    target: Target,
    speech: Speech,
    is_acknowledged: bool,
    at: Instant,
}

impl WayOut {
    pub(super) fn new() -> Self {
        Self {
            reach: Reach::Unknown,
            witnesses: VecDeque::new(),
            has_worked: false,
            answered: VecDeque::new(),
            silent: VecDeque::new(),
            silent_at: None,
            times_slow: 0,
            is_mute: false,
            times_mute: 0,
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

    /// Whether the way out is lost because nothing comes back on connections that are made, so that one that is made proves nothing.
    pub(super) fn is_mute(&self) -> bool {
        self.is_mute
    }

    /// The destinations to exchange data with then, or when one is silent: the silent ones, and those that answered before.
    pub(super) fn speakers(&self) -> Vec<(Target, Speech)> {
        let silent = self.silent.iter().map(|silent| (&silent.target, silent.speech));
        let silent = silent.filter(|(_, speech)| *speech != Speech::Other).take(MAX_SPEAKERS);
        let answered = self.answered.iter().map(|(target, speech)| (target, *speech)).take(MAX_SPEAKERS);
        let mut speakers: Vec<(Target, Speech)> = Vec::new();
        for (target, speech) in silent.chain(answered) {
            if !speakers.iter().any(|(other, _)| other == target) {
                speakers.push((target.clone(), speech));
            }
        }
        speakers
    }

    /// The destinations whose machines acknowledge nothing of what they are sent.
    pub(super) fn unacknowledging(&self) -> Vec<Target> {
        let silent = self.silent.iter().filter(|silent| !silent.is_acknowledged);
        silent.map(|silent| silent.target.clone()).collect()
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
                if self.reach == Reach::Unreachable && !self.is_mute {
                    self.reach = Reach::Unknown;
                }
                false
            }
            Seen::Answered(target, speech) => {
                (self.failures, self.reach) = (0, Reach::Reachable);
                self.speaks_again();
                if speech != Speech::Other {
                    self.answered.retain(|(other, _)| *other != target);
                    self.answered.push_front((target, speech));
                    self.answered.truncate(MAX_WITNESSES);
                }
                false
            }
            Seen::Named => {
                if !self.is_mute {
                    (self.failures, self.reach) = (0, Reach::Reachable);
                }
                false
            }
            Seen::Nothing => false,
            Seen::Silent { target, speech, is_acknowledged } => {
                self.note_silence(Silent { target, speech, is_acknowledged, at: now })
            }
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

    /// Notes a silent destination. One that acknowledges what it is sent may just take its time: only several of those are a reason
    /// to doubt.
    fn note_silence(&mut self, silent: Silent) -> bool {
        let now = silent.at;
        self.silent.retain(|other| other.target != silent.target && now < other.at + SILENCE_WINDOW);
        self.silent.push_front(silent);
        self.silent.truncate(MAX_WITNESSES);
        let is_certain = self.silent.iter().any(|silent| !silent.is_acknowledged);
        let is_telling = is_certain || is_of_several(self.silent.iter().map(|silent| &silent.target));
        let doublings = if is_certain { 0 } else { self.times_slow.min(MAX_SLOW_DOUBLINGS) };
        let is_due = self.silent_at.is_none_or(|last| now >= last + SILENT_INTERVAL * (1 << doublings));
        let asks = is_telling && is_due && self.reach != Reach::Unreachable;
        self.silent_at = if asks { Some(now) } else { self.silent_at };
        asks
    }

    fn speaks_again(&mut self) {
        self.silent.clear();
        self.is_mute = false;
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
        let is_several = is_of_several(self.witnesses.iter());
        let is_convincing = self.no_route || is_several || self.has_worked && !is_alone;
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

    /// Notes whether any of the [`WayOut::speakers`] exchanged data when all were asked; these `failed`. Those that were asked, and those
    /// whose machines acknowledge nothing, must be several; or one is enough as in [`WayOut::asked`], if its machine acknowledges
    /// nothing.
    pub(super) fn exchanged(
        &mut self,
        any: bool,
        failed: &[Target],
        is_alone: bool,
        has_path: bool,
        now: Instant,
    ) {
        let unacknowledging = self.unacknowledging();
        let is_convincing = is_of_several(failed.iter().chain(&unacknowledging))
            || !unacknowledging.is_empty() && self.has_worked && !is_alone;
        match (any, self.reach) {
            (true, reach) => {
                self.times_slow = self.times_slow.saturating_add(1);
                self.speaks_again();
                self.times_mute = 0;
                if reach == Reach::Unreachable {
                    self.reach = Reach::Unknown;
                }
                self.failures = 0;
            }
            (false, Reach::Unreachable) => {
                let retry = RETRY * (1 << self.times_mute.saturating_sub(1).min(MAX_DOUBLINGS));
                if has_path && self.lost_for(now).is_some_and(|time| time >= retry) {
                    *self = Self { times_mute: self.times_mute, ..Self::new() };
                }
            }
            (false, _) if is_convincing => {
                (self.reach, self.lost_at, self.is_mute) = (Reach::Unreachable, Some(now), true);
                (self.times_mute, self.times_slow) = (self.times_mute.saturating_add(1), 0);
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

/// Whether these are of more than one host.
fn is_of_several<'a>(mut targets: impl Iterator<Item = &'a Target>) -> bool {
    let Some(Target { host: first, .. }) = targets.next() else { return false };
    targets.any(|target| target.host != *first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(port: u16) -> Target {
        format!("10.0.0.5:{port}").parse().unwrap()
    }

    fn answered(port: u16) -> Seen {
        Seen::Answered(target(port), Speech::Http)
    }

    fn silent(host: u8, speech: Speech, is_acknowledged: bool) -> Seen {
        Seen::Silent { target: format!("10.0.{host}.5:80").parse().unwrap(), speech, is_acknowledged }
    }

    fn failed(port: u16) -> Seen {
        Seen::Failed { target: target(port), no_route: false }
    }

    #[test]
    fn one_destination_that_is_down_costs_nothing_while_another_answers() {
        let (mut way, mut now) = (WayOut::new(), Instant::now());
        way.note(Seen::Connected(target(1)), now);
        way.note(answered(1), now);
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
        way.note(answered(1), now);
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

    #[test]
    fn one_slow_server_is_no_reason_to_doubt_and_several_are_one_to_ask() {
        let (mut way, mut now) = (WayOut::new(), Instant::now());
        way.note(answered(1), now);
        for _ in 0..10 {
            assert!(!way.note(silent(1, Speech::Http, true), now));
            now += SILENT_INTERVAL;
        }
        assert!(way.note(silent(2, Speech::Tls, true), now), "two hosts");
        assert_eq!(way.speakers().len(), 3, "and the one that answered before");
        assert!(!way.note(silent(1, Speech::Http, true), now), "they have just been asked");
        // The servers were slow, and nothing else.
        way.exchanged(true, &[], false, true, now);
        assert_eq!((way.reach(), way.is_mute()), (Reach::Reachable, false));
    }

    #[test]
    fn servers_that_are_slow_all_the_time_cost_less_and_less() {
        let (mut way, start) = (WayOut::new(), Instant::now());
        let mut asked = Vec::new();
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            if [1, 2].map(|host| way.note(silent(host, Speech::Http, true), now)).contains(&true) {
                asked.push(second);
                way.exchanged(true, &[], false, true, now);
            }
        }
        assert_eq!(asked, [0, 6, 18, 42, 90, 186, 378, 762, 1530, 2298, 3066]);
        assert!(
            way.note(silent(3, Speech::Http, false), start + Duration::from_secs(3600)),
            "that is no slow one"
        );
    }

    #[test]
    fn servers_that_nobody_can_ask_for_data_prove_nothing_by_waiting() {
        let (mut way, now) = (WayOut::new(), Instant::now());
        way.note(Seen::Connected(target(1)), now);
        way.note(silent(1, Speech::Other, true), now);
        assert!(way.note(silent(2, Speech::Other, true), now));
        assert_eq!(way.speakers(), []);
        way.exchanged(false, &[], false, true, now);
        assert_eq!(way.reach(), Reach::Unknown);
    }

    #[test]
    fn a_way_out_that_carries_nothing_but_handshakes_is_lost_and_only_data_brings_it_back() {
        let (mut way, now) = (WayOut::new(), Instant::now());
        way.note(Seen::Connected(target(1)), now);
        way.note(answered(1), now);
        assert!(way.note(silent(1, Speech::Other, false), now), "nothing is acknowledged");
        way.exchanged(false, &[target(1)], true, true, now);
        assert_eq!((way.reach(), way.is_mute()), (Reach::Unreachable, true));
        way.note(Seen::Connected(target(2)), now);
        way.note(Seen::Named, now);
        assert_eq!(way.reach(), Reach::Unreachable, "connections and name servers prove nothing");
        way.exchanged(false, &[], false, false, now + RETRY);
        assert_eq!(way.reach(), Reach::Unreachable, "nothing beyond the clients' network is connected");
        way.exchanged(true, &[], false, true, now);
        assert_eq!((way.reach(), way.is_mute()), (Reach::Unknown, false));
        way.note(Seen::Named, now);
        assert_eq!(way.reach(), Reach::Reachable);
    }

    #[test]
    fn a_mute_way_out_is_offered_again_later_each_time() {
        let (mut way, mut now) = (WayOut::new(), Instant::now());
        for doublings in [0, 1, 2, 3, 4, 4] {
            way.note(silent(1, Speech::Http, false), now);
            way.note(silent(2, Speech::Http, false), now);
            way.exchanged(false, &[], false, true, now);
            assert_eq!(way.reach(), Reach::Unreachable);
            now += RETRY * (1 << doublings);
            way.exchanged(false, &[], false, true, now - Duration::from_millis(1));
            assert_eq!(way.reach(), Reach::Unreachable, "{doublings}");
            way.exchanged(false, &[], false, true, now);
            assert_eq!(way.reach(), Reach::Unknown, "{doublings}");
        }
    }

    #[test]
    fn one_machine_that_acknowledges_nothing_is_enough_only_if_another_gateway_could_serve() {
        let (mut way, now) = (WayOut::new(), Instant::now());
        way.note(Seen::Connected(target(1)), now);
        assert!(way.note(silent(1, Speech::Http, false), now));
        let silent = way.unacknowledging();
        way.exchanged(false, &silent, true, true, now);
        assert_eq!(way.reach(), Reach::Unknown);
        way.exchanged(false, &silent, false, true, now);
        assert_eq!(way.reach(), Reach::Unreachable);
    }
}
