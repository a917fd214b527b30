//! Whether this candidate has the role of the active gateway: taking it, keeping it, handing it over.
//!
//! An active candidate gives up the role only to one that it has heard to be active too. So two may be active for a moment,
//! which is harmless. Which of them stays follows from comparing their claims, which all nodes see alike.

use std::time::{Duration, Instant};

use super::order::{LINE, Order, Place, Seen, actives, draw, is_later, share};
use super::self_state::{Prepared, SelfState};
use laneway_wire::datagram::{Policy, State};
use laneway_wire::id::NodeId;

/// How long a new candidate listens before it takes a role that seems vacant: the minimum, and the maximum that is added,
/// so that candidates that start together do not all take it.
const LISTEN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(400));
/// When the role is vacant, how much longer each standby waits than the one before it.
const STEP: Duration = Duration::from_millis(100);
/// The maximum that candidates behind the line wait in addition to the line.
const CROWD: Duration = Duration::from_millis(600);
/// How much longer a candidate waits that must bring its uplink up first.
const LATENT_FIRST: Duration = Duration::from_secs(1);
/// How much longer it waits for each such candidate before it.
const LATENT_STEP: Duration = Duration::from_secs(5);
/// Maximum number of such candidates that it waits for one after the other. Those behind them share as much time again.
const LATENT_LINE: usize = 5;
/// How long a candidate waits in all for others that announce that they are bringing their uplinks up, before it brings up
/// its own.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a candidate whose uplink could not be brought up does not try again.
const PENALTY: Duration = Duration::from_secs(30);
/// How long one candidate must have had the role, and another have been able to take it, before the role changes only
/// because the other is better.
const DWELL: Duration = Duration::from_secs(20);
/// Number of beacons in a row in which a challenger must be clearly better.
const STREAK: u32 = 5;
/// How long a candidate that was called may take to become active.
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How long it may take if it is bringing its uplink up.
const CALL_DEADLINE_WITH_PREPARATION: Duration = Duration::from_secs(30);
/// How long a candidate that missed that deadline is passed over.
const PASSED_OVER: Duration = Duration::from_secs(60);

/// The settings of this candidate.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the active candidates are chosen.
    pub policy: Policy,
    /// How many candidates are active at a time; at least one.
    pub active: u8,
    /// Interval between two changes of the role with `round-robin` and `random`.
    pub rotate: Duration,
    /// The TCP port of its link.
    pub link_port: u16,
    /// Declared weight, in percent; 0 for a candidate that serves only if there is no other.
    pub weight: u16,
    /// Whether it must bring its uplink up before it can serve; see [`SelfState::prepared`].
    pub prepares: bool,
}

/// Whether this candidate has the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Idle,
    /// It is to have the role, and its uplink is being brought up.
    Preparing,
    Active,
}

/// This node as a candidate.
#[derive(Clone, Debug)]
pub(super) struct Candidacy {
    pub(super) options: Options,
    pub(super) phase: Phase,
    pub(super) public: Public,
    seed: u64,
    times: Times,
    draw: DrawState,
    challenger: Challenger,
    /// Candidates that were called and did not take the role, and until when they are passed over.
    passed_over: Vec<(NodeId, Instant)>,
}

/// What other nodes see of this candidate.
#[derive(Clone, Debug)]
pub(super) struct Public {
    pub(super) state: State,
    /// The number of its latest active time; of two active ones, that with the later claim stays.
    pub(super) claim: u32,
    /// The number of the current random draw.
    pub(super) round: u32,
    /// The candidate that it calls to take the role.
    pub(super) yields_to: Option<NodeId>,
    /// The candidate that called it.
    pub(super) replaces: Option<NodeId>,
}

/// Since when, or until when, something holds.
#[derive(Clone, Debug, Default)]
struct Times {
    able_since: Option<Instant>,
    active_since: Option<Instant>,
    vacant_since: Option<Instant>,
    called_at: Option<Instant>,
    /// Since when the role has been vacant while another candidate was heard bringing its uplink up.
    patient_since: Option<Instant>,
    /// Since when another active candidate has been calling a successor while this one would call one too.
    deferred_since: Option<Instant>,
    refused_until: Option<Instant>,
}

/// The rounds of the policy `random`.
#[derive(Clone, Debug, Default)]
struct DrawState {
    round_since: Option<Instant>,
    /// The last round that this node has acted on.
    drawn: u32,
}

/// A candidate that is clearly better than this active one.
#[derive(Clone, Debug, Default)]
struct Challenger {
    /// Beacons in a row in which it was.
    streak: u32,
    /// The last beacon that was counted.
    counted: Option<(NodeId, Instant)>,
}

impl Candidacy {
    pub(super) fn new(options: Options, seed: u64) -> Self {
        let public = Public { state: State::Withdrawn, claim: 0, round: 0, yields_to: None, replaces: None };
        Self {
            options,
            phase: Phase::Idle,
            public,
            seed,
            times: Times::default(),
            draw: DrawState::default(),
            challenger: Challenger::default(),
            passed_over: Vec::new(),
        }
    }

    /// Applies what is known at `now`. Returns when to decide again if nothing is heard until then. `me` is this node as
    /// the others see it.
    pub(super) fn step(
        &mut self,
        me: &Seen,
        others: &[Seen],
        mut order: Order,
        own: &SelfState,
        now: Instant,
    ) -> Option<Instant> {
        self.adopt(order.anchor.round, now);
        order.round = self.public.round;
        if self.phase == Phase::Preparing && own.prepared == Prepared::Failed {
            self.times.refused_until = Some(now + PENALTY);
        }
        let serves = own.able && (!self.options.prepares || own.prepared == Prepared::Yes);
        if self.phase == Phase::Active && !serves && self.options.prepares {
            self.times.refused_until = Some(now + PENALTY);
        }
        let refused = self.times.refused_until.is_some_and(|until| now < until);
        let eligible =
            !own.draining && !own.in_maintenance && if self.options.prepares { !refused } else { own.able };
        let mut wake = self.times.refused_until.filter(|until| now < *until);
        if !eligible || (self.phase == Phase::Active && !serves) {
            self.leave();
        }
        if eligible {
            self.times.able_since.get_or_insert(now);
            wake = match self.phase {
                Phase::Active => self.keep(me, others, order, now),
                Phase::Idle | Phase::Preparing => self.stand_by(me, others, order, serves, now),
            };
        } else {
            (self.times.able_since, self.times.vacant_since) = (None, None);
        }
        // A node that never served withdraws silently: a draining announcement would make the others list it as a gateway.
        let serves_nobody = self.public.state == State::Withdrawn && own.tunnels == 0;
        self.public.state = match self.phase {
            _ if own.draining && serves_nobody => State::Withdrawn,
            _ if own.draining => State::Draining,
            _ if own.in_maintenance && own.tunnels > 0 => State::Draining,
            _ if own.in_maintenance => State::Withdrawn,
            Phase::Active => State::Active,
            Phase::Idle | Phase::Preparing if eligible || own.able => State::Standby,
            Phase::Idle | Phase::Preparing => State::Withdrawn,
        };
        wake
    }

    /// Adopts the round of the holder of the role. While active it follows at most twice as fast as rounds should pass.
    fn adopt(&mut self, round: u32, now: Instant) {
        let since = *self.draw.round_since.get_or_insert(now);
        let may = self.phase != Phase::Active || now >= since + self.options.rotate / 2;
        if round != self.public.round && may {
            self.public.round = round;
            self.draw.round_since = Some(now);
        }
    }

    /// Without the role: takes it when called, or when it is vacant.
    fn stand_by(
        &mut self,
        me: &Seen,
        others: &[Seen],
        order: Order,
        serves: bool,
        now: Instant,
    ) -> Option<Instant> {
        let actives = actives(others.iter());
        let most = self.most();
        let calls = |active: &&&Seen| active.standing.yields_to == Some(me.id) && self.may_call(active, now);
        if !order.is_turbulent
            && let Some(caller) = actives.iter().take(most).find(calls)
        {
            self.take(Some(caller), order, serves, now);
            return None;
        }
        if actives.len() >= most {
            (self.times.vacant_since, self.times.patient_since) = (None, None);
            self.phase = Phase::Idle;
            return None;
        }
        // One that is bringing its uplink up may soon be active, so a second uplink is not needed.
        let prepares = |seen: &&Seen| seen.standing.preparing && self.options.prepares;
        let coming = if self.phase == Phase::Idle { others.iter().filter(prepares).count() } else { 0 };
        if actives.len() + coming >= most {
            let until = *self.times.patient_since.get_or_insert(now) + PATIENCE;
            if now < until {
                self.times.vacant_since = None;
                return Some(until);
            }
        }
        let vacant_since = *self.times.vacant_since.get_or_insert(now);
        let turn = (vacant_since + self.wait(me, others, order)).max(self.listened());
        if now < turn && self.phase == Phase::Idle {
            return Some(turn);
        }
        self.take(None, order, serves, now);
        None
    }

    /// Whether an active candidate may hand the role over: not before half of the minimum time in the role, so that one
    /// which takes the role out of turn cannot pass it on at once.
    fn may_call(&self, active: &Seen, now: Instant) -> bool {
        active.active_since.is_some_and(|since| now >= since + self.dwell() / 2)
    }

    /// How long a candidate has the role at least before it is handed over.
    fn dwell(&self) -> Duration {
        match self.options.policy {
            Policy::Random | Policy::RoundRobin => DWELL.min(self.options.rotate),
            Policy::Strongest | Policy::LeastBusy => DWELL,
        }
    }

    fn most(&self) -> usize {
        usize::from(self.options.active.max(1))
    }

    /// How long this node leaves a vacant role to others.
    fn wait(&self, me: &Seen, others: &[Seen], order: Order) -> Duration {
        let place = order.place(me);
        let standbys = others.iter().filter(|other| other.state == State::Standby);
        let before = standbys.filter(|other| order.place(other) < place);
        let (latent, able): (Vec<_>, Vec<_>) = before.partition(|other| other.latent);
        let in_line = u32::try_from(able.len().min(LINE)).unwrap_or_default();
        let mut wait = STEP * in_line;
        if able.len() >= LINE {
            wait += share(CROWD, self.seed ^ u64::from(order.anchor.claim));
        }
        if me.latent {
            let in_line = u32::try_from(latent.len().min(LATENT_LINE)).unwrap_or_default();
            wait += LATENT_FIRST + LATENT_STEP * in_line;
            if latent.len() > LATENT_LINE {
                wait += share(LATENT_STEP * in_line, self.seed ^ u64::from(order.anchor.claim));
            }
        }
        wait
    }

    /// When this node has listened long enough to take a vacant role.
    fn listened(&self) -> Instant {
        let since = self.times.able_since.expect("set as soon as this node is eligible");
        since + LISTEN.0 + share(LISTEN.1, self.seed)
    }

    /// Takes the role, or first brings the uplink up. `from` is the candidate that called.
    fn take(&mut self, from: Option<&Seen>, order: Order, serves: bool, now: Instant) {
        if !serves {
            self.phase = Phase::Preparing;
            return;
        }
        self.phase = Phase::Active;
        self.public.claim = order.anchor.claim.wrapping_add(1);
        if let Some(caller) = from
            && !is_later(self.public.claim, caller.standing.claim)
        {
            self.public.claim = caller.standing.claim.wrapping_add(1);
        }
        self.public.replaces = from.map(|caller| caller.id);
        self.public.yields_to = None;
        self.times.active_since = Some(now);
        (self.times.vacant_since, self.times.patient_since) = (None, None);
        self.draw.drawn = self.public.round;
        self.challenger.streak = 0;
        self.passed_over.retain(|(_, until)| now < *until);
    }

    /// Gives up the role.
    fn leave(&mut self) {
        self.phase = Phase::Idle;
        self.public.yields_to = None;
        (self.times.active_since, self.times.deferred_since) = (None, None);
        self.challenger.streak = 0;
    }

    /// With the role: gives it up if enough others have it by a later claim, or calls a successor.
    fn keep(&mut self, me: &Seen, others: &[Seen], mut order: Order, now: Instant) -> Option<Instant> {
        let actives = actives(others.iter().chain([me]));
        if !actives.iter().take(self.most()).any(|active| active.id == me.id) {
            let is_called = |other: &Seen| Some(other.id) == self.public.yields_to;
            // While the role changes again and again without a call, its holders stay: two of them do no harm.
            if !order.is_turbulent || actives.iter().any(|active| is_called(active)) {
                self.leave();
            }
            self.public.yields_to = None;
            return None;
        }
        if self.options.policy == Policy::Random
            && self.draw.round_since.is_some_and(|since| now >= since + self.options.rotate)
        {
            self.public.round = self.public.round.wrapping_add(1);
            self.draw.round_since = Some(now);
            order.round = self.public.round;
        }
        if let Some(to) = self.public.yields_to {
            let called_at = self.times.called_at.unwrap_or(now);
            let next = others.iter().find(|other| other.id == to);
            match next {
                Some(next) if next.state == State::Standby => {
                    let prepares = next.standing.preparing;
                    let deadline =
                        called_at + if prepares { CALL_DEADLINE_WITH_PREPARATION } else { CALL_DEADLINE };
                    if now < deadline {
                        return Some(deadline);
                    }
                    self.passed_over.push((to, now + PASSED_OVER));
                    self.public.yields_to = None;
                }
                _ => self.public.yields_to = None,
            }
        }
        let Some(next) = self.next(me, others, &actives, order, now) else {
            self.times.deferred_since = None;
            return None;
        };
        // While the role changes too often nobody answers a call.
        if order.is_turbulent || self.defers(&actives, me, now) {
            return None;
        }
        self.public.yields_to = Some(next);
        (self.times.called_at, self.times.deferred_since) = (Some(now), None);
        self.challenger.streak = 0;
        Some(now + CALL_DEADLINE)
    }

    /// Whether this candidate lets another active one hand over its role first, at most for as long as that may take.
    fn defers(&mut self, actives: &[&Seen], me: &Seen, now: Instant) -> bool {
        let mut holders = actives.iter().take(self.most()).filter(|holder| holder.id != me.id);
        holders.any(|holder| holder.standing.yields_to.is_some())
            && now < *self.times.deferred_since.get_or_insert(now) + CALL_DEADLINE_WITH_PREPARATION
    }

    /// The candidate that should have the role instead of this node.
    fn next(
        &mut self,
        me: &Seen,
        others: &[Seen],
        actives: &[&Seen],
        order: Order,
        now: Instant,
    ) -> Option<NodeId> {
        self.passed_over.retain(|(_, until)| now < *until);
        let (since, dwell) = (self.times.active_since?, self.dwell());
        let has_dwelt = now >= since + dwell;
        let ready = |other: &&Seen| {
            other.state == State::Standby
                && !other.latent
                && other.weight > 0
                && now >= other.steady + dwell
                && !self.passed_over.iter().any(|(id, _)| *id == other.id)
        };
        let next = others.iter().filter(ready).min_by_key(|other| order.place(other))?;
        if me.weight == 0 {
            return has_dwelt.then_some(next.id);
        }
        match self.options.policy {
            Policy::RoundRobin => (now >= since + self.options.rotate).then_some(next.id),
            Policy::Random if !has_dwelt => None,
            Policy::Random => {
                let drawn = |seen: &Seen| (draw(u64::from(self.public.round), &seen.id), seen.id);
                let mine = drawn(me);
                let standbys = others.iter().filter(ready);
                let better = actives.iter().copied().chain(standbys).filter(|other| drawn(other) < mine);
                if self.draw.drawn == self.public.round || better.count() < self.most() {
                    self.draw.drawn = self.public.round;
                    return None;
                }
                // One change at a time: the worst active candidate calls the best standby.
                actives.iter().all(|active| drawn(active) <= mine).then_some(next.id)
            }
            Policy::Strongest | Policy::LeastBusy => {
                let place: Place = order.place(me);
                let worst = actives.iter().all(|active| order.place(active) <= place);
                if !worst || !order.is_clearly_better(next, me) {
                    self.challenger.streak = 0;
                    return None;
                }
                if self.challenger.counted != Some((next.id, next.heard)) {
                    self.challenger.counted = Some((next.id, next.heard));
                    self.challenger.streak += 1;
                }
                (self.challenger.streak >= STREAK && has_dwelt).then_some(next.id)
            }
        }
    }
}
