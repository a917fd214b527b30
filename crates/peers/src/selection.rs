//! Which candidates are active, and in which order a client tries gateways. Pure: no I/O, no clock and no random numbers;
//! datagrams and the time go in, decisions come out. Every candidate and every client runs it, and so does the simulation
//! of ten thousand of them.
//!
//! It needs no consensus. For a moment two active gateways do no harm, but none does, so a candidate that is in doubt serves.

mod beacon;
mod candidacy;
mod choice;
#[cfg(test)]
mod exploration;
#[cfg(test)]
mod liars;
mod order;
mod results;
mod self_state;
mod table;
#[cfg(test)]
mod tests;
mod turbulence;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use beacon::{Essentials, Schedule, Standbys, is_in_line};
use candidacy::{Candidacy, Phase};
use choice::Choice;
use order::{Anchor, LINE, Order, Seen, actives, draw};
use table::{Table, is_link_local};
use turbulence::Turbulence;

pub use candidacy::Options;
pub use results::{Failing, Results};
pub use self_state::{Prepared, SelfState};
pub use table::{Gateway, Means, SILENCE, Source};

use laneway_wire::datagram::{Advert, MOST_PEERS, Peer, Policy, Reach, Standing, State};
use laneway_wire::id::NodeId;

/// Number of best candidates that answer every broadcast query. The others answer only some.
const ALWAYS_ANSWERING: usize = 8;

/// What a candidate has to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The content of offers and beacons.
    pub advert: Advert,
    /// Whether to send a beacon now.
    pub beacon: bool,
    /// Whether this node should be active. One that must bring its uplink up does so now.
    pub wanted: bool,
    /// Answer one in this many broadcast queries. Each query's nonce decides.
    pub answers_one_in: u32,
    /// When to decide again if nothing is heard until then.
    pub wake: Instant,
}

/// What a node knows of the candidates, and what follows from it.
#[derive(Clone, Debug)]
pub struct Selection {
    id: NodeId,
    seed: u64,
    table: Table,
    choice: Choice,
    anchor: Anchor,
    turbulence: Turbulence,
    /// This node as others see it since its last decision, if it is active.
    active_self: Option<Seen>,
    candidate: Option<(Candidacy, Schedule)>,
}

impl Selection {
    /// The state of the node `id` before it has heard anything. `seed` differs between nodes and between starts of one
    /// node, so that they do not send at the same time.
    pub fn new(id: NodeId, seed: u64) -> Self {
        Self {
            id,
            seed,
            table: Table::new(id),
            choice: Choice::default(),
            anchor: Anchor { id: NodeId([0; 16]), claim: 0, round: 0 },
            turbulence: Turbulence::default(),
            active_self: None,
            candidate: None,
        }
    }

    /// Makes this node a candidate: from now on [`Selection::decide`] returns decisions.
    pub fn become_candidate(&mut self, options: Options) {
        let seed = self.seed ^ draw(0, &self.id);
        self.candidate = Some((Candidacy::new(options, seed), Schedule::new(seed)));
    }

    /// Changes this candidate's settings. Its state stays.
    pub fn set_options(&mut self, options: Options) {
        if let Some((candidacy, _)) = &mut self.candidate {
            candidacy.options = options;
        }
    }

    /// Notes an advert of the gateway at `link`. `false` when it is older than what is known, or this node's own.
    pub fn heard(
        &mut self,
        id: NodeId,
        link: SocketAddr,
        advert: &Advert,
        means: Means,
        now: Instant,
    ) -> bool {
        if id == self.id || !self.table.heard(id, link, advert, means, now) {
            return false;
        }
        if let (Some((_, schedule)), Means::Beacon(..)) = (&mut self.candidate, means) {
            schedule.heard(id, Duration::from_millis(advert.standing.interval.into()), now);
        }
        true
    }

    /// Notes that the runs of the gateway `id` are counted anew, from a smaller number.
    pub fn went_back(&mut self, id: NodeId) {
        self.table.went_back(id);
    }

    /// Notes that this node did not run for `length`, so that it does not count gateways as silent that it could not hear.
    /// Datagrams that came meanwhile are about to be read.
    pub fn was_suspended(&mut self, length: Duration, now: Instant) {
        self.table.was_suspended(length, now);
    }

    /// Forgets the gateways that are no longer members: another one may be at their addresses.
    pub fn forget(&mut self, is_removed: &dyn Fn(NodeId) -> bool) {
        self.table.forget(is_removed);
    }

    /// Adds an address that the user configured, or that an earlier run used.
    pub fn add_address(&mut self, link: SocketAddr, source: Source) {
        self.table.add_address(link, source);
    }

    /// Notes that the gateway at `link` did not answer on a link of this node. It is ranked behind the others for a while,
    /// longer each time.
    pub fn suspect(&mut self, link: SocketAddr, now: Instant) {
        self.table.suspect(link, now);
    }

    /// Notes that the gateway `id` answers on links, but fails connections that other gateways carry (`Results`). It is
    /// ranked behind the others for a while, longer each time, whatever it answers.
    pub fn blame(&mut self, id: NodeId, now: Instant) {
        self.table.blame(id, now);
    }

    /// Notes that the gateway at `link` answered on a link of this node, which shortens its suspicion.
    pub fn proved(&mut self, link: SocketAddr, now: Instant) {
        self.table.proved(link, now);
    }

    /// What is known of the gateway at `link`.
    pub fn at(&self, link: SocketAddr) -> Option<&Gateway> {
        self.table.at(link)
    }

    /// All gateways in the order in which a client tries them: active, standby, then those that were not heard recently;
    /// then suspects, and last those that are draining or withdrawn. If several are active, clients spread over them.
    pub fn ranked(&mut self, now: Instant) -> Vec<Gateway> {
        let mut seen = self.table.seen(self.id, now);
        self.remember_anchor(&seen, now);
        let first = actives(seen.iter()).first().map(|active| active.standing);
        let policy = first.map_or_else(|| self.policy(), |standing| standing.policy);
        let order = self.order(policy, now);
        seen.sort_by_cached_key(|seen| order.place(seen));
        let mut gateways: Vec<_> = self.table.all().cloned().collect();
        self.choice.sort(&mut gateways, &seen, self.id, now);
        gateways
    }

    /// What this candidate has to do, given its own state now. `None` when this node is not a candidate.
    pub fn decide(&mut self, own: &SelfState, now: Instant) -> Option<Decision> {
        let mut seen = self.table.seen(self.id, now);
        self.remember_anchor(&seen, now);
        let order = self.order(self.policy(), now);
        let (candidacy, schedule) = self.candidate.as_mut()?;
        let mut me = seen_of(self.id, candidacy, own, now);
        let mut wake = candidacy.step(&me, &seen, order, own, now);
        me = seen_of(self.id, candidacy, own, now);
        let was_active = self.active_self.is_some();
        self.active_self = Some(me.clone()).filter(|me| me.state == State::Active);
        let standbys = standbys(&me, &seen, order);
        let essentials = Essentials {
            state: candidacy.public.state,
            preparing: candidacy.phase == Phase::Preparing,
            yields_to: candidacy.public.yields_to,
        };
        let (beacon, interval) = schedule.step(essentials, standbys, now);
        let silences = self.table.all().filter(|gateway| gateway.state(now) == Some(State::Active));
        wake = silences.filter_map(Gateway::silent_at).chain(wake).chain(schedule.wake()).min();

        me.standing.interval = u16::try_from(interval.as_millis()).unwrap_or(u16::MAX);
        let better = seen.iter().filter(|other| order.place(other) < order.place(&me)).count();
        // About two of all candidates answer each query, whatever the others claim: those that claim to be better may
        // not serve.
        let answers_one_in = match better {
            _ if me.state == State::Active => 1,
            0..ALWAYS_ANSWERING => 1,
            _ => (better * better / ALWAYS_ANSWERING).min(seen.len().div_ceil(2)).max(1),
        };
        let (options, latent) = (&candidacy.options, me.latent);
        let advert = Advert {
            state: me.state,
            reach: if latent { Reach::Unreachable } else { own.reach },
            link_port: options.link_port,
            weight: options.weight,
            load: own.load,
            capacity: own.capacity,
            tunnels: own.tunnels,
            standing: me.standing,
            peers: Vec::new(),
        };
        seen.sort_by_cached_key(|seen| (rank_of(seen.state), order.place(seen)));
        let peers = seen.iter().filter(|seen| !is_link_local(seen.link)).take(MOST_PEERS);
        let peers = peers.map(|seen| Peer { id: seen.id, link: seen.link, state: seen.state }).collect();
        let wanted = candidacy.phase != Phase::Idle;
        if !was_active {
            self.remember_anchor(&seen, now);
        }
        Some(Decision {
            advert: Advert { peers, ..advert },
            beacon,
            wanted,
            answers_one_in: u32::try_from(answers_one_in).unwrap_or(u32::MAX),
            wake: wake.unwrap_or(now + SILENCE).max(now),
        })
    }

    fn policy(&self) -> Policy {
        self.candidate.as_ref().map_or_else(Policy::default, |(candidacy, _)| candidacy.options.policy)
    }

    fn order(&self, policy: Policy, now: Instant) -> Order {
        let round =
            self.candidate.as_ref().map_or(self.anchor.round, |(candidacy, _)| candidacy.public.round);
        Order { policy, round, anchor: self.anchor, is_turbulent: self.turbulence.is_now(now) }
    }

    /// Notes which candidate holds the role by the latest claim.
    fn remember_anchor(&mut self, seen: &[Seen], now: Instant) {
        let known = || seen.iter().chain(&self.active_self);
        let actives = actives(known());
        let Some(first) = actives.first() else { return };
        let Standing { claim, round, .. } = first.standing;
        let anchor = Anchor { id: first.id, claim, round };
        let called =
            || known().any(|seen| seen.id == self.anchor.id && seen.standing.yields_to == Some(first.id));
        let is_first = self.anchor.id == NodeId([0; 16]);
        if anchor.id != self.anchor.id && !is_first && !called() {
            self.turbulence.changed(now);
        }
        self.anchor = anchor;
    }
}

/// This candidate as the others see it.
fn seen_of(id: NodeId, candidacy: &Candidacy, own: &SelfState, now: Instant) -> Seen {
    let (options, public) = (&candidacy.options, &candidacy.public);
    Seen {
        id,
        link: SocketAddr::from(([0; 4], options.link_port)),
        state: public.state,
        latent: public.state != State::Active && options.prepares && !own.able,
        capacity: own.capacity,
        weight: options.weight,
        load: own.load,
        standing: Standing {
            policy: options.policy,
            active: options.active,
            preparing: candidacy.phase == Phase::Preparing,
            interval: 0,
            claim: public.claim,
            round: public.round,
            yields_to: public.yields_to,
            replaces: public.replaces,
        },
        heard: now,
        steady: now,
        active_since: None,
    }
}

/// Where this candidate stands among the standbys in line.
fn standbys(me: &Seen, others: &[Seen], order: Order) -> Standbys {
    let mine = order.place(me);
    let in_line = |other: &&Seen| is_in_line(Duration::from_millis(other.standing.interval.into()));
    let mut line: Vec<_> =
        others.iter().filter(|other| other.state == State::Standby).filter(in_line).collect();
    line.sort_by_cached_key(|other| order.place(other));
    Standbys {
        in_line: line.len(),
        before: line.iter().filter(|other| order.place(other) < mine).count(),
        is_clearly_better: line.get(LINE - 1).is_some_and(|last| order.is_clearly_better(me, last)),
    }
}

/// The order of states in the list of peers.
fn rank_of(state: State) -> u8 {
    match state {
        State::Active => 0,
        State::Standby => 1,
        State::Draining => 2,
        State::Withdrawn => 3,
    }
}
