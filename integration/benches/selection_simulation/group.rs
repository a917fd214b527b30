//! A group of nodes, what each does and what reaches it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use laneway::peers::selection::{Gateway, Means, Options, Prepared, Selection, SelfState};
use laneway::wire::datagram::{Advert, Policy, Reach, State};
use laneway::wire::id::NodeId;

use crate::adversary::{self, Story};
use crate::schedule::{MILLI, Random, Schedule};

/// One datagram in this many is lost, for each receiver independently.
const LOSS: u64 = 20;
/// The latency of the network in microseconds, for each quarter of the nodes.
const LATENCY: [u64; 4] = [200, 500, 800, 1200];
/// How long a client waits for an answer on a link before it turns to the next gateway.
const SUSPECT: u64 = 250 * MILLI;
/// Interval at which clients check their gateway.
const POLL_INTERVAL: u64 = 50 * MILLI;
/// The number of clients whose gateways are checked; all others only receive.
const OBSERVED: usize = 100;
/// The longest interval between two decisions of a candidate, which is that of the real one.
const REFRESH: u64 = 500 * MILLI;

/// One simulated node.
// fields: the state of a node, and what is measured of it
pub(crate) struct Node {
    id: NodeId,
    link: SocketAddr,
    selection: Selection,
    is_candidate: bool,
    alive: bool,
    /// Whether it reaches the server.
    pub(crate) able: bool,
    state: State,
    capacity: u32,
    spoken: Spoken,
    clock: Clock,
    /// The time of its next decision, in microseconds. A decision that was postponed is skipped.
    wake: u64,
    client: Client,
    /// What it says when it lies, and until when.
    lies: Option<(Story, u64)>,
}

/// What a candidate announces in its beacons and offers.
struct Spoken {
    advert: Option<Advert>,
    boot: u64,
    counter: u64,
    answers_one_in: u64,
}

/// A node's own clock.
#[derive(Clone, Copy)]
struct Clock {
    start: Instant,
    /// In millionths of the real speed.
    speed: u64,
}

impl Clock {
    /// The time that it shows at a time of the simulation.
    fn at(self, time: u64) -> Instant {
        self.start + Duration::from_micros(time * self.speed / 1_000_000)
    }
}

/// A node's side as a client: the candidate that it uses.
#[derive(Clone, Copy, Default)]
struct Client {
    uses: Option<usize>,
    /// Since when that candidate has been unusable.
    lost: Option<u64>,
    tries_at: u64,
    asks: usize,
}

enum Event {
    Wake(usize),
    Beacon {
        from: usize,
        quarter: usize,
        advert: Box<Advert>,
        boot: u64,
        counter: u64,
    },
    Ask(usize),
    Poll,
    /// A liar sends each node the story meant for it.
    Lie(usize),
    /// The stranger sends something forged and something old.
    Stranger,
}

/// The number of the node whose link is at this address.
fn index(link: SocketAddr) -> usize {
    match link.ip() {
        std::net::IpAddr::V4(ip) => (u32::from_be_bytes(ip.octets()) & 0xff_ffff) as usize,
        std::net::IpAddr::V6(_) => usize::MAX,
    }
}

/// A gateway that a client can link to.
pub(crate) struct Reachable {
    pub(crate) id: NodeId,
    pub(crate) is_suspect: bool,
    pub(crate) refuses: bool,
}

/// A beacon that the stranger has recorded.
#[derive(Clone)]
struct Recorded {
    from: usize,
    advert: Box<Advert>,
    boot: u64,
    counter: u64,
}

/// How often something happened in the whole group.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) beacons: u64,
    pub(crate) queries: u64,
    pub(crate) offers: u64,
    pub(crate) promotions: u64,
    /// Datagrams of the stranger without the signature of the node that they name.
    pub(crate) forged: u64,
    /// Beacons that the stranger repeated, and how many of them counted.
    pub(crate) replayed: [u64; 2],
    /// Beacons and offers that nodes have accepted. Each costs the node that hears it one signature.
    pub(crate) signatures: u64,
}

/// The time without an active candidate, after the first one.
#[derive(Default)]
pub(crate) struct Vacancy {
    pub(crate) total: u64,
    since: Option<u64>,
    ever_active: bool,
}

/// All nodes, and the network between them.
// fields: the state of the network, and what is measured of it
pub(crate) struct Group {
    pub(crate) nodes: Vec<Node>,
    /// The first nodes are the candidates.
    candidates: usize,
    options: Options,
    base: Instant,
    schedule: Schedule<Event>,
    random: Random,
    /// Whether nodes with even numbers and those with odd ones are cut off from each other.
    pub(crate) partitioned: bool,
    /// Whether only candidates and observed clients receive, for long quiet stretches.
    pub(crate) only_observed: bool,
    pub(crate) counts: Counts,
    pub(crate) vacancy: Vacancy,
    /// The longest time that an observed client was without a usable gateway.
    pub(crate) worst_gap: u64,
    agreed: bool,
    /// What the stranger has recorded, while there is one.
    recorded: Option<VecDeque<Recorded>>,
}

impl Group {
    pub(crate) fn new(nodes: usize, candidates: usize, policy: Policy, active: u8, rotate: u64) -> Self {
        let rotate = Duration::from_secs(rotate);
        let (link_port, weight, prepares) = (7420, 100, false);
        let mut group = Self {
            nodes: Vec::with_capacity(nodes),
            candidates,
            options: Options { policy, active, rotate, link_port, weight, prepares },
            base: Instant::now(),
            schedule: Schedule::default(),
            random: Random::default(),
            partitioned: false,
            only_observed: false,
            counts: Counts::default(),
            vacancy: Vacancy::default(),
            worst_gap: 0,
            agreed: false,
            recorded: None,
        };
        for n in 0..nodes {
            let node = group.node(n);
            group.nodes.push(node);
            // All start within a tenth of a second, as after a power failure.
            let at = group.random.next() % (100 * MILLI);
            if n < candidates {
                group.nodes[n].wake = at;
                group.schedule.at(at, Event::Wake(n));
            } else {
                group.schedule.at(at, Event::Ask(n));
            }
        }
        group.schedule.at(0, Event::Poll);
        group
    }

    fn node(&mut self, n: usize) -> Node {
        let halves = [self.random.next(), self.random.next()];
        let mut id = [0; 16];
        id[..8].copy_from_slice(&halves[0].to_be_bytes());
        id[8..].copy_from_slice(&halves[1].to_be_bytes());
        let [_, high, middle, low] = (n as u32).to_be_bytes();
        // Machines differ by a factor of four.
        let capacity = 1_000 + (self.random.next() % 3_000) as u32;
        Node {
            id: NodeId(id),
            link: SocketAddr::from(([10, high, middle, low], 7420)),
            selection: self.selection(NodeId(id), n),
            is_candidate: n < self.candidates,
            alive: true,
            able: true,
            state: State::Withdrawn,
            capacity,
            spoken: Spoken { advert: None, boot: 1, counter: 0, answers_one_in: 1 },
            clock: Clock {
                start: self.base + Duration::from_secs(self.random.next() % 1_000_000),
                speed: 990_000 + self.random.next() % 20_000,
            },
            wake: u64::MAX,
            client: Client::default(),
            lies: None,
        }
    }

    fn selection(&mut self, id: NodeId, n: usize) -> Selection {
        let mut selection = Selection::new(id, self.random.next());
        if n < self.candidates {
            selection.become_candidate(self.options.clone());
        }
        selection
    }

    /// The time of the simulation, in microseconds.
    pub(crate) fn now(&self) -> u64 {
        self.schedule.now
    }

    /// Runs the simulation for this long.
    pub(crate) fn run(&mut self, micros: u64) {
        let end = self.now() + micros;
        while let Some(event) = self.schedule.next(end) {
            self.react(event);
        }
    }

    /// Runs until all observed clients use an active candidate for two polls in a row; returns the time that this took, or
    /// `u64::MAX` when it takes longer than `most`.
    pub(crate) fn until_agreed(&mut self, most: u64) -> u64 {
        let from = self.now();
        while self.now() < from + most {
            self.run(POLL_INTERVAL);
            if self.agreed && self.agrees() {
                return self.now() - from;
            }
            self.agreed = self.agrees();
        }
        u64::MAX
    }

    fn agrees(&mut self) -> bool {
        let active = self.active();
        if active.len() != usize::from(self.options.active) {
            return false;
        }
        for n in self.observed() {
            let now = self.local(n);
            let first = self.nodes[n].selection.ranked(now).first().and_then(|gateway| gateway.id);
            if !active.iter().any(|active| Some(self.nodes[*active].id) == first) {
                return false;
            }
        }
        true
    }

    fn react(&mut self, event: Event) {
        match event {
            Event::Wake(n) => {
                if self.nodes[n].wake <= self.now() && self.nodes[n].alive && self.nodes[n].lies.is_none() {
                    self.decide(n);
                }
            }
            Event::Beacon { from, quarter, advert, boot, counter } => {
                let hearing = if self.only_observed { self.observed().end } else { self.nodes.len() };
                for n in (quarter..hearing).step_by(LATENCY.len()) {
                    if n != from && !self.is_cut(from, n) && !self.is_lost() {
                        self.hear(n, from, &advert, Means::Beacon(boot, counter));
                    }
                }
            }
            Event::Ask(n) => self.ask(n),
            Event::Lie(n) => self.lie(n),
            Event::Stranger => self.interfere(),
            Event::Poll => {
                for n in self.observed() {
                    self.poll(n);
                }
                self.schedule.at(self.now() + POLL_INTERVAL, Event::Poll);
            }
        }
    }

    /// Lets a node hear a beacon, if it is running. `false` when it was not new.
    fn hear(&mut self, n: usize, from: usize, advert: &Advert, means: Means) -> bool {
        if !self.nodes[n].alive {
            return false;
        }
        let (id, link, now) = (self.nodes[from].id, self.nodes[from].link, self.local(n));
        let heard = self.nodes[n].selection.heard(id, link, advert, means, now);
        self.counts.signatures += u64::from(heard);
        if heard && self.nodes[n].is_candidate && self.nodes[n].lies.is_none() {
            self.decide(n);
        }
        heard
    }

    /// Begins the attack: the last third of the candidates lies, and a stranger is on the LAN.
    pub(crate) fn attack(&mut self) {
        for n in self.liars() {
            self.nodes[n].lies = Some((Story::any(&mut self.random), self.now()));
            self.nodes[n].state = State::Withdrawn;
            self.schedule.at(self.now() + self.random.next() % adversary::PERIOD, Event::Lie(n));
        }
        self.recorded = Some(VecDeque::new());
        self.schedule.at(self.now(), Event::Stranger);
    }

    /// Ends the attack: the liars stop.
    pub(crate) fn end_attack(&mut self) {
        for n in self.liars() {
            self.kill(n);
            self.nodes[n].lies = None;
        }
        self.recorded = None;
    }

    pub(crate) fn liars(&self) -> std::ops::Range<usize> {
        self.candidates - self.candidates / 3..self.candidates
    }

    fn lie(&mut self, n: usize) {
        let now = self.now();
        let Some((mut story, mut until)) = self.nodes[n].lies else { return };
        if until <= now {
            story = Story::any(&mut self.random);
            until = now + adversary::STORY + self.random.next() % adversary::STORY;
        }
        self.nodes[n].lies = Some((story, until));
        self.nodes[n].spoken.counter += 1;
        let Spoken { boot, counter, .. } = self.nodes[n].spoken;
        let honest: Vec<_> = self.nodes[..self.liars().start].iter().map(|node| node.id).collect();
        let said = self.nodes[..self.liars().start].iter().filter_map(|node| node.spoken.advert.as_ref());
        let claim = said.map(|advert| advert.standing.claim).max().unwrap_or_default();
        let Some(advert) = self.nodes[n].spoken.advert.clone() else { return };
        for to in (0..self.observed().end).filter(|to| *to != n) {
            let told = story.told(advert.clone(), to, claim, &honest, &mut self.random);
            if let Some(told) = told
                && !self.is_lost()
                && !self.is_cut(n, to)
            {
                self.hear(to, n, &told, Means::Beacon(boot, counter));
            }
        }
        self.schedule.at(now + adversary::PERIOD, Event::Lie(n));
    }

    /// The stranger knows no key: what it forges is dropped before the selection, as is what it changes.
    fn interfere(&mut self) {
        let Some(recorded) = &mut self.recorded else { return };
        self.counts.forged += 1;
        let lot = self.random.next() as usize;
        let old = recorded.get(lot % recorded.len().max(1)).cloned();
        if let Some(Recorded { from, advert, boot, counter }) = old {
            for n in (0..self.observed().end).filter(|n| *n != from) {
                let counted = self.hear(n, from, &advert, Means::Beacon(boot, counter));
                self.counts.replayed[0] += 1;
                self.counts.replayed[1] += u64::from(counted);
            }
        }
        self.schedule.at(self.now() + adversary::STRANGER, Event::Stranger);
    }

    fn decide(&mut self, n: usize) {
        let (time, now, noise) = (self.now(), self.local(n), self.random.next() % 41);
        let node = &mut self.nodes[n];
        let own = SelfState {
            able: node.able,
            reach: if node.able { Reach::Reachable } else { Reach::Unreachable },
            prepared: Prepared::No,
            draining: false,
            in_maintenance: false,
            load: if node.state == State::Active { 100 + noise as u16 } else { noise as u16 },
            capacity: node.capacity * (80 + noise as u32) / 100,
            tunnels: 0,
        };
        let decision = node.selection.decide(&own, now).unwrap();
        node.spoken.answers_one_in = decision.answers_one_in.into();
        let promoted = node.state != State::Active && decision.advert.state == State::Active;
        node.state = decision.advert.state;
        node.spoken.advert = Some(decision.advert.clone());
        let local = decision.wake.duration_since(node.clock.start).as_micros() as u64;
        let wake = (local * 1_000_000 / node.clock.speed + 1).clamp(time + 1, time + REFRESH);
        // Most decisions change nothing, and the wake-up that is scheduled already is early enough.
        let waits = node.wake > time && node.wake <= wake;
        if !waits {
            node.wake = wake;
        }
        let (boot, counter) = (node.spoken.boot, node.spoken.counter + u64::from(decision.beacon));
        node.spoken.counter = counter;
        if !waits {
            self.schedule.at(wake, Event::Wake(n));
        }
        self.counts.promotions += u64::from(promoted);
        self.count_vacancy();
        if decision.beacon {
            self.counts.beacons += 1;
            let mut delay = 0;
            if let Some(recorded) = &mut self.recorded {
                recorded.truncate(adversary::RECORDED - 1);
                let advert = Box::new(decision.advert.clone());
                recorded.push_front(Recorded { from: n, advert, boot, counter });
                // The stranger delays one beacon in ten, so that newer ones are before it.
                let lot = self.random.next();
                delay = if lot.is_multiple_of(10) { lot / 10 % adversary::MOST_DELAY } else { 0 };
            }
            for (quarter, latency) in LATENCY.iter().enumerate() {
                let advert = Box::new(decision.advert.clone());
                let at = self.now() + latency + delay;
                self.schedule.at(at, Event::Beacon { from: n, quarter, advert, boot, counter });
            }
        }
    }

    /// A client sends queries until it knows a gateway; candidates answer as their selection decides.
    fn ask(&mut self, n: usize) {
        let now = self.local(n);
        let known =
            self.nodes[n].selection.ranked(now).first().is_some_and(|gateway| gateway.heard.is_some());
        if known {
            return;
        }
        let pause =
            [100, 200, 400, 800, 1600, 3000].get(self.nodes[n].client.asks).map_or(5000, |pause| *pause);
        self.nodes[n].client.asks += 1;
        self.counts.queries += 1;
        self.schedule.at(self.now() + pause * MILLI, Event::Ask(n));
        for candidate in 0..self.candidates {
            let lot = self.random.next();
            let node = &self.nodes[candidate];
            let (id, link, advert) = (node.id, node.link, node.spoken.advert.clone());
            if lot.is_multiple_of(node.spoken.answers_one_in)
                && let Some(advert) = advert
                && !self.is_lost()
            {
                self.counts.offers += 1;
                if self.is_lost() {
                    continue;
                }
                let means = Means::Offer(Duration::from_millis(1));
                let heard = self.nodes[n].selection.heard(id, link, &advert, means, now);
                self.counts.signatures += u64::from(heard);
            }
        }
    }

    /// Lets a client check its gateway and, when that is unusable, turn to another.
    fn poll(&mut self, n: usize) {
        let (now, time) = (self.local(n), self.now());
        let mut client = self.nodes[n].client;
        if let Some(used) = client.uses {
            if !self.is_usable(n, used) {
                let lost = *client.lost.get_or_insert(time);
                self.worst_gap = self.worst_gap.max(time - lost);
                if time >= lost + SUSPECT {
                    let link = self.nodes[used].link;
                    self.nodes[n].selection.suspect(link, now);
                    client.uses = None;
                }
            } else {
                client.lost = None;
            }
        }
        // Ranking is most of what the simulation costs, so that it is done again only after something has changed.
        let mut ranked = self.nodes[n].selection.ranked(now);
        if client.uses.is_none() && time >= client.tries_at {
            match ranked.first().map(|gateway| gateway.link) {
                Some(link) if self.is_usable(n, index(link)) => {
                    client = Client { uses: Some(index(link)), lost: None, ..client };
                }
                Some(link) => {
                    self.nodes[n].selection.suspect(link, now);
                    client.tries_at = time + SUSPECT;
                    ranked = self.nodes[n].selection.ranked(now);
                }
                None => {}
            }
        }
        if let Some(lost) = client.lost {
            self.worst_gap = self.worst_gap.max(time - lost);
        }
        if self.prove(n, &ranked) {
            ranked = self.nodes[n].selection.ranked(now);
        }
        let first = ranked.first().map(|gateway| index(gateway.link));
        // While some lie, a client uses whatever its selection ranks first, until that does not answer.
        if self.recorded.is_some()
            && client.lost.is_none()
            && let Some(first) = first
            && client.uses.is_some_and(|used| used != first)
        {
            client.uses = Some(first);
        }
        // A client leaves a gateway that is no longer active once it reaches the active one.
        if let Some(used) = client.uses
            && self.nodes[used].state != State::Active
            && let Some(first) = first
            && self.nodes[first].state == State::Active
            && self.is_usable(n, first)
        {
            client = Client { uses: Some(first), lost: None, ..client };
        }
        self.nodes[n].client = client;
    }

    /// The first suspect that is dialled again and answers is proved. Returns whether one was.
    fn prove(&mut self, n: usize, ranked: &[Gateway]) -> bool {
        let now = self.local(n);
        let suspects = ranked.iter().filter(|gateway| gateway.suspect_until(now).is_some());
        let proved = suspects.map(|gateway| gateway.link).find(|link| self.is_usable(n, index(*link)));
        if let Some(link) = proved {
            self.nodes[n].selection.proved(link, now);
        }
        proved.is_some()
    }

    fn is_usable(&self, client: usize, gateway: usize) -> bool {
        let node = &self.nodes[gateway];
        node.alive && node.able && node.lies.is_none() && !self.is_cut(client, gateway)
    }

    fn is_cut(&self, one: usize, other: usize) -> bool {
        self.partitioned && one % 2 != other % 2
    }

    pub(crate) fn kill(&mut self, n: usize) {
        self.nodes[n].alive = false;
        self.count_vacancy();
    }

    pub(crate) fn revive(&mut self, n: usize) {
        let id = self.nodes[n].id;
        self.nodes[n].selection = self.selection(id, n);
        self.nodes[n].spoken.boot += 1;
        self.nodes[n].state = State::Withdrawn;
        self.nodes[n].alive = true;
        self.wake(n);
    }

    pub(crate) fn wake(&mut self, n: usize) {
        self.nodes[n].wake = self.now();
        self.schedule.at(self.now(), Event::Wake(n));
    }

    pub(crate) fn active(&self) -> Vec<usize> {
        let nodes = self.nodes[..self.candidates].iter().enumerate();
        nodes.filter(|(_, node)| node.alive && node.state == State::Active).map(|(n, _)| n).collect()
    }

    fn count_vacancy(&mut self) {
        let nodes = &self.nodes[..self.candidates.min(self.nodes.len())];
        let active = nodes.iter().any(|node| node.alive && node.state == State::Active);
        self.vacancy.ever_active |= active;
        if active {
            self.vacancy.total += self.vacancy.since.take().map_or(0, |since| self.now() - since);
        } else if self.vacancy.ever_active {
            self.vacancy.since.get_or_insert(self.now());
        }
    }

    /// The clients whose gateways are checked. There are none when every node is a candidate.
    pub(crate) fn observed(&self) -> std::ops::Range<usize> {
        self.candidates..self.nodes.len().min(self.candidates + OBSERVED)
    }

    pub(crate) fn local(&self, n: usize) -> Instant {
        self.nodes[n].clock.at(self.now())
    }

    /// Makes the last third of the candidates by far the strongest.
    pub(crate) fn strengthen_liars(&mut self) {
        self.liars().for_each(|n| self.nodes[n].capacity *= 1000);
    }

    /// The gateways that a client can link to, in the order of its ranking. The last third of the candidates refuses what
    /// connections ask for.
    pub(crate) fn reachable(&mut self, n: usize) -> Vec<Reachable> {
        let now = self.local(n);
        let ranked = self.nodes[n].selection.ranked(now);
        let liars = self.liars();
        let found = ranked.iter().filter_map(|gateway| {
            let at = self.nodes[..self.candidates].iter().position(|node| node.link == gateway.link)?;
            let is_suspect = gateway.suspect_until(now).is_some();
            self.is_usable(n, at).then(|| Reachable {
                id: self.nodes[at].id,
                is_suspect,
                refuses: liars.contains(&at),
            })
        });
        found.collect()
    }

    pub(crate) fn blame(&mut self, n: usize, gateway: NodeId) {
        let now = self.local(n);
        self.nodes[n].selection.blame(gateway, now);
    }

    fn is_lost(&mut self) -> bool {
        self.random.next().is_multiple_of(LOSS)
    }
}
