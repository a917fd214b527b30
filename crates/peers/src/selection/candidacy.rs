//! Whether this candidate has the role: taking it, keeping it, handing it over.
//!
//! Nobody hands the role over before the next one says that it has it, and nobody who has it gives it up
//! except to one that is heard to have it too. So two may be active for a moment, which is harmless, and
//! nobody argues about who goes: the claims are compared, and no two nodes see them differently.

use std::time::{Duration, Instant};

use super::order::{Order, Place, Seen, actives, draw, mix};
use super::{Own, Prepared};
use laneway_wire::datagram::{Policy, State};
use laneway_wire::id::NodeId;

/// A new candidate listens so long before it takes a role that nobody seems to have: at least, and at most so
/// much longer, so that not all of those that start together take it.
const LISTEN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(400));
/// When the role is vacant each standby lets the one before it go first for so long.
const STEP: Duration = Duration::from_millis(100);
/// How many standbys are in line; all others wait for as long as this line takes, and up to so much longer.
pub(super) const LINE: usize = 3;
const CROWD: Duration = Duration::from_millis(600);
/// Whoever must bring its uplink up first lets the others go first: at once, and for each one like it.
const LATENT_FIRST: Duration = Duration::from_secs(1);
const LATENT_STEP: Duration = Duration::from_secs(5);
/// A candidate whose uplink could not be brought up does not try again for so long.
const PENALTY: Duration = Duration::from_secs(30);
/// So long must one have had the role, and another have been able to take it, before it changes over only
/// because the other is better.
const DWELL: Duration = Duration::from_secs(20);
/// For so many beacons in a row a challenger must be clearly better.
const STREAK: u32 = 5;
/// A candidate that was called and does not take the role in this time is passed over, for a while.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same for one that is bringing its uplink up.
const PATIENCE_WITH_PREPARATION: Duration = Duration::from_secs(30);
const PASSED_OVER: Duration = Duration::from_secs(60);

/// How this node stands as a candidate. None of it changes while the node runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the active ones are chosen.
    pub policy: Policy,
    /// How many candidates are active at a time; at least one.
    pub active: u8,
    /// How long a turn of `round-robin` or a draw of `random` lasts.
    pub rotate: Duration,
    /// The TCP port of its link.
    pub link_port: u16,
    /// Declared weight in percent; with 0 it serves only if there is no other.
    pub weight: u16,
    /// It must prepare itself before it can serve: [`Own::prepared`] says how that went.
    pub prepares: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Idle,
    /// Chosen; the uplink is being brought up.
    Preparing,
    Active,
}

/// This node's part in the choice.
#[derive(Debug)]
pub(super) struct Candidacy {
    pub(super) options: Options,
    pub(super) role: Role,
    pub(super) state: State,
    pub(super) claim: u32,
    pub(super) round: u32,
    pub(super) yields_to: Option<NodeId>,
    pub(super) replaces: Option<NodeId>,
    seed: u64,
    highest_claim: u32,
    round_since: Option<Instant>,
    drawn: u32,
    able_since: Option<Instant>,
    active_since: Option<Instant>,
    vacant_since: Option<Instant>,
    called_at: Option<Instant>,
    refused_until: Option<Instant>,
    streak: u32,
    counted: Option<(NodeId, Instant)>,
    passed_over: Vec<(NodeId, Instant)>,
}

impl Candidacy {
    pub(super) fn new(options: Options, seed: u64) -> Self {
        Self {
            options,
            role: Role::Idle,
            state: State::Withdrawn,
            claim: 0,
            round: 0,
            yields_to: None,
            replaces: None,
            seed,
            highest_claim: 0,
            round_since: None,
            drawn: 0,
            able_since: None,
            active_since: None,
            vacant_since: None,
            called_at: None,
            refused_until: None,
            streak: 0,
            counted: None,
            passed_over: Vec::new(),
        }
    }

    /// Applies what is known at `now`; returns when to look again if nothing is heard until then. `me` is this
    /// node as the others see it.
    pub(super) fn step(
        &mut self,
        me: &Seen,
        others: &[Seen],
        mut order: Order,
        own: &Own,
        now: Instant,
    ) -> Option<Instant> {
        self.adopt(others, now);
        order.round = self.round;
        if self.role == Role::Preparing && own.prepared == Prepared::Failed {
            self.refused_until = Some(now + PENALTY);
        }
        let serves = own.able && (!self.options.prepares || own.prepared == Prepared::Yes);
        if self.role == Role::Active && !serves && self.options.prepares {
            self.refused_until = Some(now + PENALTY);
        }
        let refused = self.refused_until.is_some_and(|until| now < until);
        let eligible = !own.draining && if self.options.prepares { !refused } else { own.able };
        let mut wake = self.refused_until.filter(|until| now < *until);
        if !eligible || (self.role == Role::Active && !serves) {
            self.leave();
        }
        if eligible {
            self.able_since.get_or_insert(now);
            wake = match self.role {
                Role::Active => self.keep(me, others, order, now),
                Role::Idle | Role::Preparing => self.stand_by(me, others, order, serves, now),
            };
        } else {
            (self.able_since, self.vacant_since) = (None, None);
        }
        self.state = match self.role {
            _ if own.draining => State::Draining,
            Role::Active => State::Active,
            Role::Idle | Role::Preparing if eligible || own.able => State::Standby,
            Role::Idle | Role::Preparing => State::Withdrawn,
        };
        wake
    }

    /// Takes over the largest numbers that anybody says.
    fn adopt(&mut self, others: &[Seen], now: Instant) {
        self.round_since.get_or_insert(now);
        for other in others {
            self.highest_claim = self.highest_claim.max(other.standing.claim);
            if other.standing.round > self.round {
                self.round = other.standing.round;
                self.round_since = Some(now);
            }
        }
    }

    /// Without the role: takes it when called to or when it is vacant.
    fn stand_by(
        &mut self,
        me: &Seen,
        others: &[Seen],
        order: Order,
        serves: bool,
        now: Instant,
    ) -> Option<Instant> {
        let actives = actives(others.iter());
        if let Some(caller) = actives.iter().find(|active| active.standing.yields_to == Some(me.id)) {
            self.take(Some(caller.id), serves, now);
            return None;
        }
        // Whoever prepares may soon be active: no need to bring up a second uplink.
        let prepares = |seen: &&Seen| seen.standing.preparing && self.options.prepares;
        let coming = if self.role == Role::Idle { others.iter().filter(prepares).count() } else { 0 };
        if actives.len() + coming >= usize::from(self.options.active.max(1)) {
            self.vacant_since = None;
            self.role = Role::Idle;
            return None;
        }
        let vacant_since = *self.vacant_since.get_or_insert(now);
        let turn = (vacant_since + self.wait(me, others, order)).max(self.listened());
        if now < turn && self.role == Role::Idle {
            return Some(turn);
        }
        self.take(None, serves, now);
        None
    }

    /// How long others go first when the role is vacant.
    fn wait(&self, me: &Seen, others: &[Seen], order: Order) -> Duration {
        let place = order.place(me);
        let standbys = others.iter().filter(|other| other.state == State::Standby);
        let before = standbys.filter(|other| order.place(other) < place);
        let (latent, able): (Vec<_>, Vec<_>) = before.partition(|other| other.latent);
        let in_line = u32::try_from(able.len().min(LINE)).unwrap_or_default();
        let mut wait = STEP * in_line;
        if able.len() >= LINE {
            wait += share(CROWD, self.seed ^ u64::from(self.highest_claim));
        }
        if me.latent {
            let latent = u32::try_from(latent.len()).unwrap_or(u32::MAX);
            wait += LATENT_FIRST + LATENT_STEP.saturating_mul(latent.min(100));
        }
        wait
    }

    fn listened(&self) -> Instant {
        let since = self.able_since.expect("set as soon as this node is eligible");
        since + LISTEN.0 + share(LISTEN.1, self.seed)
    }

    fn take(&mut self, from: Option<NodeId>, serves: bool, now: Instant) {
        if !serves {
            self.role = Role::Preparing;
            return;
        }
        self.role = Role::Active;
        self.highest_claim = self.highest_claim.saturating_add(1);
        self.claim = self.highest_claim;
        self.replaces = from;
        self.yields_to = None;
        self.active_since = Some(now);
        self.vacant_since = None;
        self.drawn = self.round;
        self.streak = 0;
        self.passed_over.retain(|(_, until)| now < *until);
    }

    fn leave(&mut self) {
        self.role = Role::Idle;
        self.yields_to = None;
        self.active_since = None;
        self.streak = 0;
    }

    /// With the role: gives it up to those who have it by a better claim, or calls the next one.
    fn keep(&mut self, me: &Seen, others: &[Seen], mut order: Order, now: Instant) -> Option<Instant> {
        let actives = actives(others.iter().chain([me]));
        let most = usize::from(self.options.active.max(1));
        if !actives.iter().take(most).any(|active| active.id == me.id) {
            self.leave();
            return None;
        }
        if self.options.policy == Policy::Random
            && self.round_since.is_some_and(|since| now >= since + self.options.rotate)
        {
            self.round = self.round.saturating_add(1);
            self.round_since = Some(now);
            order.round = self.round;
        }
        if let Some(to) = self.yields_to {
            let called_at = self.called_at.unwrap_or(now);
            let next = others.iter().find(|other| other.id == to);
            match next {
                Some(next) if next.state == State::Standby => {
                    let prepares = next.standing.preparing;
                    let patience = if prepares { PATIENCE_WITH_PREPARATION } else { PATIENCE };
                    if now < called_at + patience {
                        return Some(called_at + patience);
                    }
                    self.passed_over.push((to, now + PASSED_OVER));
                    self.yields_to = None;
                }
                _ => self.yields_to = None,
            }
        }
        let someone_yields =
            others.iter().any(|o| o.state == State::Active && o.standing.yields_to.is_some());
        if !someone_yields && let Some(next) = self.next(me, others, &actives, order, now) {
            self.yields_to = Some(next);
            self.called_at = Some(now);
            self.streak = 0;
            return Some(now + PATIENCE);
        }
        None
    }

    /// The one that should have the role instead of this node.
    fn next(
        &mut self,
        me: &Seen,
        others: &[Seen],
        actives: &[&Seen],
        order: Order,
        now: Instant,
    ) -> Option<NodeId> {
        self.passed_over.retain(|(_, until)| now < *until);
        let since = self.active_since?;
        let rotates = matches!(self.options.policy, Policy::Random | Policy::RoundRobin);
        let dwell = if rotates { DWELL.min(self.options.rotate) } else { DWELL };
        let ready = |other: &&Seen| {
            other.state == State::Standby
                && !other.latent
                && other.weight > 0
                && now >= other.steady + dwell
                && !self.passed_over.iter().any(|(id, _)| *id == other.id)
        };
        let next = others.iter().filter(ready).min_by_key(|other| order.place(other))?;
        match self.options.policy {
            Policy::RoundRobin => (now >= since + self.options.rotate).then_some(next.id),
            Policy::Random => {
                let drawn = |seen: &Seen| (draw(u64::from(self.round), &seen.id), seen.id);
                let mine = drawn(me);
                let most = usize::from(self.options.active.max(1));
                let standbys = others.iter().filter(ready);
                let better = actives.iter().copied().chain(standbys).filter(|other| drawn(other) < mine);
                if self.drawn == self.round || better.count() < most {
                    self.drawn = self.round;
                    return None;
                }
                // One after the other: the worst of those who should go calls the best of those who should come.
                actives.iter().all(|active| drawn(active) <= mine).then_some(next.id)
            }
            Policy::Strongest | Policy::LeastBusy => {
                let place: Place = order.place(me);
                let worst = actives.iter().all(|active| order.place(active) <= place);
                if !worst || !order.is_clearly_better(next, me) {
                    self.streak = 0;
                    return None;
                }
                if self.counted != Some((next.id, next.heard)) {
                    self.counted = Some((next.id, next.heard));
                    self.streak += 1;
                }
                (self.streak >= STREAK && now >= since + DWELL).then_some(next.id)
            }
        }
    }
}

/// A share of `whole` that this node keeps to.
pub(super) fn share(whole: Duration, seed: u64) -> Duration {
    whole * u32::try_from(mix(seed) >> 48).unwrap_or_default() / (1 << 16)
}
