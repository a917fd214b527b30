//! Which candidates are active, and in which order a client tries gateways. Pure: no I/O, no clock, no
//! random numbers; what was heard and the time go in, decisions come out. Every candidate and every client
//! runs it, and the simulation of ten thousand of them too.
//!
//! Nothing here needs consensus. Two active gateways for a moment are harmless, none is not, so a candidate
//! that is in doubt serves.

mod beacon;
mod candidacy;
mod choice;
mod order;
mod table;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use beacon::{Schedule, Standbys, is_in_line};
use candidacy::{Candidacy, LINE, Role};
use choice::Choice;
use order::{Order, Seen, actives, draw};
use table::{Table, is_link_local};

pub use candidacy::Options;
pub use table::{Gateway, Means, SILENCE, Source};

use laneway_wire::datagram::{Advert, MOST_PEERS, Peer, Policy, Reach, Standing, State};
use laneway_wire::id::NodeId;

/// So many of the best candidates answer every query that is put to all; the others only some.
const ANSWERING: usize = 8;

/// What a candidate knows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// It can serve: a server was reached, or there is none to reach.
    pub able: bool,
    /// What the probes say.
    pub reach: Reach,
    /// How bringing its uplink up went, for a candidate that must.
    pub prepared: Prepared,
    /// It is about to stop.
    pub draining: bool,
    /// Load in permille of its capacity.
    pub load: u16,
    /// Measured capacity in Mbit/s.
    pub capacity: u32,
    /// Open tunnels.
    pub tunnels: u32,
}

/// How far a candidate is that must bring its uplink up before it can serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prepared {
    /// Not yet, or not any more.
    #[default]
    No,
    /// The uplink is up.
    Yes,
    /// It could not be brought up; said as long as [`Decision::wanted`] stays.
    Failed,
}

/// What a candidate is to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to say to whoever asks.
    pub advert: Advert,
    /// Say it to everybody now.
    pub beacon: bool,
    /// This node is to serve as an active one: one that must prepare itself does so now.
    pub wanted: bool,
    /// Of the queries that are put to all, answer one in so many; a number of the query's own decides which.
    pub answers_one_in: u32,
    /// Decide again at this time, if nothing is heard until then.
    pub wake: Instant,
}

/// All that a node knows of the candidates, and what follows from it.
#[derive(Debug)]
pub struct Selection {
    id: NodeId,
    seed: u64,
    table: Table,
    choice: Choice,
    /// The claim and the id of the candidate that became active last.
    anchor: (u32, NodeId),
    candidate: Option<(Candidacy, Schedule)>,
}

impl Selection {
    /// What the node called `id` knows before it has heard anything. `seed` differs between nodes and
    /// between starts of one node: it keeps them from speaking at the same time.
    pub fn new(id: NodeId, seed: u64) -> Self {
        let (table, choice) = (Table::default(), Choice::default());
        Self { id, seed, table, choice, anchor: (0, NodeId([0; 16])), candidate: None }
    }

    /// Makes this node a candidate: from now on [`Selection::decide`] has something to say.
    pub fn stand(&mut self, options: Options) {
        let seed = self.seed ^ draw(0, &self.id);
        self.candidate = Some((Candidacy::new(options, seed), Schedule::new(seed)));
    }

    /// Changes how this candidate selects; what it is goes on.
    pub fn choose_by(&mut self, options: Options) {
        if let Some((candidacy, _)) = &mut self.candidate {
            candidacy.options = options;
        }
    }

    /// Notes what the gateway at `link` says of itself. False when it is older than what is known, or its own echo.
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
            schedule.heard(Duration::from_millis(advert.standing.interval.into()), now);
        }
        true
    }

    /// Notes that this node heard nobody for `length` because it was not running: the silence was its own, and
    /// whoever spoke shortly before is not taken for dead. What was said meanwhile is about to be read.
    pub fn was_deaf(&mut self, length: Duration, now: Instant) {
        self.table.was_deaf(length, now);
    }

    /// Adds an address that the user named, or that an earlier run used.
    pub fn name(&mut self, link: SocketAddr, source: Source) {
        self.table.name(link, source);
    }

    /// Notes that the gateway at `link` left a link of this node unanswered: it comes behind the others for a
    /// while, longer each time.
    pub fn suspect(&mut self, link: SocketAddr, now: Instant) {
        self.table.suspect(link, now);
    }

    /// Notes that the gateway at `link` answered on a link of this node: soon it is no suspect any more.
    pub fn proved(&mut self, link: SocketAddr, now: Instant) {
        self.table.proved(link, now);
    }

    /// What is known of the gateway at `link`.
    pub fn at(&self, link: SocketAddr) -> Option<&Gateway> {
        self.table.at(link)
    }

    /// All gateways, in the order in which a client tries them: active, standby, then those that have not
    /// spoken lately; suspects behind them, and those that want nobody last. Where several are active, clients
    /// spread over them.
    pub fn ranked(&mut self, now: Instant) -> Vec<Gateway> {
        let mut seen = self.table.seen(self.id, now);
        self.remember_anchor(&seen);
        let first = actives(seen.iter()).first().map(|active| active.standing);
        let policy = first.map_or_else(|| self.policy(), |standing| standing.policy);
        let order = self.order(policy, &seen);
        seen.sort_by_cached_key(|seen| order.place(seen));
        let mut gateways: Vec<_> = self.table.all().cloned().collect();
        self.choice.sort(&mut gateways, &seen, self.id, now);
        gateways
    }

    /// What this candidate is to do, given what it knows of itself now. `None` when it does not stand.
    pub fn decide(&mut self, own: &Own, now: Instant) -> Option<Decision> {
        let mut seen = self.table.seen(self.id, now);
        self.remember_anchor(&seen);
        let order = self.order(self.policy(), &seen);
        let (candidacy, schedule) = self.candidate.as_mut()?;
        let mut me = seen_of(self.id, candidacy, own, now);
        let before = (candidacy.state, candidacy.yields_to);
        let mut wake = candidacy.step(&me, &seen, order, own, now);
        if candidacy.role == Role::Active && before.0 != State::Active {
            self.anchor = (candidacy.claim, self.id);
        }
        me = seen_of(self.id, candidacy, own, now);
        let standbys = standbys(&me, &seen, order);
        let preparing = candidacy.role == Role::Preparing;
        let news = (candidacy.state, preparing, candidacy.yields_to);
        let (beacon, interval) = schedule.step(news, standbys, now);
        let silences = self.table.all().filter(|gateway| gateway.state(now) == Some(State::Active));
        wake = silences.filter_map(Gateway::silent_at).chain(wake).chain(schedule.wake()).min();

        me.standing.interval = u16::try_from(interval.as_millis()).unwrap_or(u16::MAX);
        let better = seen.iter().filter(|other| order.place(other) < order.place(&me)).count();
        let answers_one_in = match better {
            _ if me.state == State::Active => 1,
            0..ANSWERING => 1,
            _ => u32::try_from(better * better / ANSWERING).unwrap_or(u32::MAX),
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
        Some(Decision {
            advert: Advert { peers, ..advert },
            beacon,
            wanted: candidacy.role != Role::Idle,
            answers_one_in,
            wake: wake.unwrap_or(now + SILENCE).max(now),
        })
    }

    fn policy(&self) -> Policy {
        self.candidate.as_ref().map_or_else(Policy::default, |(candidacy, _)| candidacy.options.policy)
    }

    fn order(&self, policy: Policy, seen: &[Seen]) -> Order {
        let heard = seen.iter().map(|seen| seen.standing.round).max().unwrap_or_default();
        let own = self.candidate.as_ref().map_or(0, |(candidacy, _)| candidacy.round);
        Order { policy, round: heard.max(own), anchor: self.anchor.1 }
    }

    fn remember_anchor(&mut self, seen: &[Seen]) {
        if let Some(latest) = actives(seen.iter()).first()
            && latest.standing.claim >= self.anchor.0
        {
            self.anchor = (latest.standing.claim, latest.id);
        }
    }
}

/// This candidate as the others see it.
fn seen_of(id: NodeId, candidacy: &Candidacy, own: &Own, now: Instant) -> Seen {
    let options = &candidacy.options;
    Seen {
        id,
        link: SocketAddr::from(([0; 4], options.link_port)),
        state: candidacy.state,
        latent: candidacy.state != State::Active && options.prepares && !own.able,
        capacity: own.capacity,
        weight: options.weight,
        load: own.load,
        standing: Standing {
            policy: options.policy,
            active: options.active,
            preparing: candidacy.role == Role::Preparing,
            interval: 0,
            claim: candidacy.claim,
            round: candidacy.round,
            yields_to: candidacy.yields_to,
            replaces: candidacy.replaces,
        },
        heard: now,
        steady: now,
    }
}

fn standbys(me: &Seen, others: &[Seen], order: Order) -> Standbys {
    let mine = order.place(me);
    let speaks = |other: &&Seen| is_in_line(Duration::from_millis(other.standing.interval.into()));
    let mut line: Vec<_> =
        others.iter().filter(|other| other.state == State::Standby).filter(speaks).collect();
    line.sort_by_cached_key(|other| order.place(other));
    Standbys {
        in_line: line.len(),
        before: line.iter().filter(|other| order.place(other) < mine).count(),
        is_clearly_better: line.get(LINE - 1).is_some_and(|last| order.is_clearly_better(me, last)),
    }
}

fn rank_of(state: State) -> u8 {
    match state {
        State::Active => 0,
        State::Standby => 1,
        State::Draining => 2,
        State::Withdrawn => 3,
    }
}
